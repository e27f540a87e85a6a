"""Real programs for the end-to-end tests: start on a free port, wait until ready, stop, look at the log.

Everything binds 127.0.0.1, writes its log to a file, and is ended by its own handle.
"""
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from apart import SANITIZER, Apart, free_port     # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def until(what, seconds=30):
    """What it gave, once that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError(f"it did not come to be within {seconds} s: {what()}")


def http(url, body=None, method=None, headers=None, timeout=10):
    """(status, headers, text) of one request, whatever the status; body is sent as JSON."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read().decode()


def script(*words):
    """The last line that a script of this tree prints; (None, reason) when it cannot."""
    done = subprocess.run([ROOT / "scripts" / words[0], *words[1:]], capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return done.stdout.strip().splitlines()[-1], None


class Program:
    def __init__(self, name, argv, log, ready_url, env=None, wait_s=30):
        self.name, self.log = name, Path(log)
        self.handle = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log.open("w"), stderr=subprocess.STDOUT,
                                       env={**os.environ, **(env or {})})
        self._wait_until_ready(ready_url, wait_s)

    def _wait_until_ready(self, url, wait_s):
        until = time.monotonic() + wait_s
        while time.monotonic() < until and self.handle.poll() is None:
            try:
                if http(url, timeout=2)[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        self.handle.kill()
        self.handle.wait()
        raise RuntimeError(f"{self.name} did not become ready at {url}; its log ends with:\n{self.tail()}")

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, wait_s=20):
        """SIGTERM, then the exit status; SIGKILL (and -9) when it does not end."""
        if self.handle.poll() is None:
            self.handle.send_signal(signal.SIGTERM)
        try:
            return self.handle.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.handle.kill()
            return self.handle.wait()


def start_llama(folder, engine, model, alias="corral-tiny", slots=4, context=16384, options=()):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = Program("llama-server", [f"{engine}/bin/llama-server", "--model", model, "--alias", alias, "--host", "127.0.0.1",
                                       "--port", str(port), "--jinja", "--metrics", "--slots", "--parallel", str(slots),
                                       "--ctx-size", str(context), "--cache-ram", "64", *options],
                      Path(folder) / f"{alias}.log", f"{url}/health", {"LLAMA_ARG_THREADS": "1"}, 60)
    program.url = url
    return program


def start_ollama(folder, built, model, name="corral-tiny"):
    """Ollama with one model in it, imported from the file MODEL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = Program("ollama", [f"{built}/bin/ollama", "serve"], Path(folder) / "ollama.log", f"{url}/api/version", {
        "HOME": str(folder), "OLLAMA_MODELS": f"{folder}/models", "OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_CONTEXT_LENGTH": "4096", "LLAMA_ARG_THREADS": "1"}, 60)
    program.url = url
    import_model(url, model, name)
    return program


def import_model(url, model, name):
    data = Path(model).read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    status, _, text = http(f"{url}/api/blobs/{digest}", data, "POST", timeout=60)
    assert status == 201, text
    status, _, text = http(f"{url}/api/create", {"model": name, "files": {"model.gguf": digest}, "stream": False}, timeout=120)
    assert status == 200 and "success" in text, text


# one process; processes over a wire; decide=remote over ipc; one process that keeps everything on the server of CORRAL_TEST_POSTGRES
ARRANGEMENTS = ("one", "ipc", "tcp", "tls", "remote", "postgres")
ARRANGEMENT = os.environ.get("CORRAL_ARRANGEMENT", "one")
assert ARRANGEMENT in ARRANGEMENTS, f"CORRAL_ARRANGEMENT is {ARRANGEMENT}; it can be {', '.join(ARRANGEMENTS)}"


def database_of(folder):
    """The URL of a database for what runs on this folder, made and migrated when it is first asked for."""
    server = os.environ["CORRAL_TEST_POSTGRES"]
    name = "c" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    url = server.replace("/postgres?", f"/{name}?")
    made = subprocess.run(["psql", "-X", "-q", server, "-c", f"CREATE DATABASE {name}"], capture_output=True, text=True)
    assert made.returncode == 0 or "already exists" in made.stderr, made.stderr
    binary = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
    done = subprocess.run([binary, "migrate"], env={**os.environ, "CORRAL_DB": url}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return url


class Corral:
    """A Corral with a state folder of its own, arranged as CORRAL_ARRANGEMENT says. url: its front door, admin: the gateway's admin port."""

    def __init__(self, folder, backends, *options, env=None):
        self.folder = Path(folder)
        self.port, self.program, self.apart = free_port(), None, None
        self.url, self.killed = f"http://127.0.0.1:{self.port}", False
        if backends is not None:                  # None: the configuration file names them
            options = ["--backends", ",".join(f"{n}={k}+{u}" for n, (k, u) in backends.items()), *options]
        if ARRANGEMENT == "postgres":
            env = {"CORRAL_DB": database_of(self.folder), **(env or {})}
        if ARRANGEMENT in ("one", "postgres"):
            self._one(options, env)
        else:
            self._apart(options, env)

    def _one(self, options, env):
        self.admin = f"http://127.0.0.1:{free_port()}"
        binary = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
        self.program = Program("corral", [binary, "serve", "--listen", f"127.0.0.1:{self.port}", "--admin-listen", self.admin[7:],
                                          "--state-dir", str(self.folder / "state"), *options],
                               self.folder / "corral.log", f"{self.admin}/readyz", env)

    def _apart(self, options, env):
        if ARRANGEMENT == "remote":
            options = [*options, "--decide=remote"]
        self.apart = Apart(self.folder, "ipc" if ARRANGEMENT == "remote" else ARRANGEMENT, options, {**os.environ, **(env or {})}, self.port)
        self.admin = self.apart["gateway"].admin
        self.apart.start()

    def get(self, path, **kw):
        status, headers, text = http(self.url + path, **kw)
        return status, headers, json.loads(text)

    def post(self, path, body, **kw):
        status, headers, text = http(self.url + path, body, "POST", **kw)
        return status, headers, json.loads(text)

    def programs(self):
        return list(self.apart.services.values()) if self.apart else [self.program]

    def metrics(self):
        """Of all its processes, without the label that says which service's a metric is where one process runs several."""
        admins = [p.admin for p in self.programs()] if self.apart else [self.admin]
        text = "\n".join(http(f"{admin}/metrics")[2] for admin in admins)
        return re.sub(r'\{service="[^"]*"\}|(?<=\{)service="[^"]*",', "", text)

    def logs(self):
        return "\n".join(p.log.read_text(errors="replace") for p in self.programs())

    def pids(self):
        return [p.handle.pid for p in self.programs()]

    def admin_of(self, service):
        """The admin port at which that service answers."""
        return self.apart[service].admin if self.apart else self.admin

    def signal(self, number):
        for p in self.programs():
            p.handle.send_signal(number)

    def reload(self):
        """SIGHUP, after --config was written anew. Apart: each program has a file of its own, with those of its lines that it knows."""
        if self.apart:
            self.apart.write_configs()
        self.signal(signal.SIGHUP)

    def kill(self):
        """kill -9, all of it; there is nothing to close afterwards."""
        self.signal(signal.SIGKILL)
        for p in self.programs():
            p.handle.wait()
        self.killed = True

    def close(self):
        """Stop it; what was wrong with its end, as a sentence, or None."""
        if self.killed:
            return None
        if self.apart:
            return "\n".join(self.apart.stop()) or None
        status = self.program.stop()
        found = SANITIZER.search(self.program.log.read_text(errors="replace"))
        if found:
            return f"the log of corral holds a sanitizer's report:\n{self.program.tail(80)}"
        return f"corral ended with status {status}:\n{self.program.tail()}" if status else None
