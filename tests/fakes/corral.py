"""One `corral serve` under test: started on free ports with a state folder and a clock of its own, watched through its log.

CORRAL_BIN names the program; without it, $BUILD/bin/corral. Nothing of the caller's environment that means something
to Corral reaches it.
"""
import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
from pathlib import Path

from client import Client

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = re.compile(r"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error:")


def binary():
    return os.environ.get("CORRAL_BIN") or str(ROOT / os.environ.get("BUILD", "build") / "bin/corral")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Corral:
    def __init__(self, folder, backends, options=None, virtual_time=True, state=None):
        self.folder, self.backends, self.options = Path(folder), backends, dict(options or {})
        self.state = Path(state) if state else self.folder / "state"
        self.log_file = self.folder / "corral.log"
        self.clock_file = self.folder / "clock"
        self.clock_file.write_bytes(struct.pack("qq", 0, 0))
        self.virtual_time, self.shift_us = virtual_time, 0
        self.handle, self.address, self.admin = None, None, None

    # --- life ---

    def _argv(self):
        options = {"workers": "2", "residency_every": "1h", "sync_every": "24h", **self.options}
        self.admin = ("127.0.0.1", free_port())
        self.address = ("127.0.0.1", free_port())
        argv = [binary(), "serve", "--listen", "%s:%d" % self.address, "--admin-listen", "%s:%d" % self.admin, "--state-dir", str(self.state),
                "--log-format", "json", "--backends", ",".join(f"{b.name}={b.kind}+{b.url}" for b in self.backends)]
        return argv + [f"--{k.replace('_', '-')}={str(v).replace('{folder}', str(self.folder))}" for k, v in options.items()]

    def _environment(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}
        if self.virtual_time:
            env["CORRAL_TEST_CLOCK"] = str(self.clock_file)
        return env

    async def start(self, timeout=20, models=None):
        """Starts it and waits until every worker lists the models."""
        self.handle = subprocess.Popen(self._argv(), stdin=subprocess.DEVNULL, stdout=self.log_file.open("ab"), stderr=subprocess.STDOUT,
                                       env=self._environment())
        wanted = {name for b in self.backends for name in b.models} if models is None else set(models)
        end = asyncio.get_running_loop().time() + timeout
        hits = 0
        while hits < 8:
            if self.handle.poll() is not None or asyncio.get_running_loop().time() > end:
                raise AssertionError(f"corral did not become ready; its log ends with:\n{self.tail()}")
            hits = hits + 1 if await self._lists(wanted) else 0
            if not hits:
                await asyncio.sleep(0.02)

    async def _lists(self, wanted):
        try:
            answer = await self.request("GET", "/v1/models", timeout=5)
            return answer.complete and wanted <= {m["id"] for m in answer.json()["data"]}
        except (OSError, ValueError, KeyError, asyncio.TimeoutError):
            return False

    def signal(self, number):
        self.handle.send_signal(number)

    async def wait_exit(self, timeout=30):
        end = asyncio.get_running_loop().time() + timeout
        while self.handle.poll() is None:
            if asyncio.get_running_loop().time() > end:
                return None
            await asyncio.sleep(0.01)
        return self.handle.returncode

    async def stop(self, timeout=30):
        """SIGTERM; its exit status, or None when it had to be killed."""
        if self.handle is None:
            return 0
        if self.handle.poll() is None:
            self.signal(signal.SIGTERM)
        status = await self.wait_exit(timeout)
        if status is None:
            self.kill()
        return status

    def kill(self):
        if self.handle and self.handle.poll() is None:
            self.handle.kill()
        if self.handle:
            self.handle.wait()

    # --- time ---

    async def advance(self, seconds):
        self.shift_us += int(seconds * 1e6)
        with self.clock_file.open("r+b") as f:
            f.write(struct.pack("qq", self.shift_us, self.shift_us))
        await asyncio.sleep(0.06)            # its loops look every 20 ms

    # --- questions ---

    async def request(self, method, path, body=None, timeout=10, admin=False, headers=()):
        client = Client(self.admin if admin else self.address, method, path, body, headers).start()
        try:
            return await client.wait(timeout)
        except asyncio.TimeoutError:
            client.leave()
            raise

    async def json(self, path):
        answer = await self.request("GET", path)
        return answer.status, answer.json()

    async def rows(self, request_id):
        """The ledger's attempts of a request; [] while it has none."""
        status, body = await self.json(f"/requests/{request_id}")
        return body["attempts"] if status == 200 else []

    async def metrics(self):
        text = (await self.request("GET", "/metrics", admin=True)).text_body()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line and not line.startswith("#")}

    def memory_bytes(self):
        for line in Path(f"/proc/{self.handle.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    # --- the log ---

    def tail(self, lines=15):
        """The end of the log, without the runner's own questions and with what differs of each line."""
        said = [brief(line) for line in self.log_lines() if line.get("route") not in ("/v1/models", "/requests/", "/backends")]
        return "\n".join(said[-lines:])

    def log_lines(self):
        out = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                out.append({"level": "raw", "msg": line})
        return out

    def complaints(self, allowed=()):
        """What nobody expected in the log: sanitizers' reports, lines of level error, lines that are none."""
        text = self.log_file.read_text(errors="replace")
        if SANITIZER.search(text):
            return ["a sanitizer's report:\n" + self.tail(60)]
        return [json.dumps(line) for line in self.log_lines()
                if line.get("level") in ("error", "raw") and not any(a in json.dumps(line) for a in allowed)]


def brief(line):
    dull = {"ts", "service", "trace_id", "prompt_tokens", "completion_tokens", "queue_us", "client_request_id", "method"}
    return " ".join(str(v) if k in ("level", "msg") else f"{k}={v}" for k, v in line.items() if k not in dull and v not in ("", None))
