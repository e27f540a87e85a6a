"""Upgrade in place: what operators and supervisors see of it. tests/proofs/upgrade.py does it under load."""
import http.client as http_client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import ROOT, free_port, http, until
from test_runs import Scripted
from test_tls import make_identity

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


class House:
    """One state folder, a configuration file, a socket that a supervisor would listen on; every program that was started ends with the test."""

    def __init__(self, folder, backend):
        self.folder, self.state, self.config, self.log = folder, folder / "state", folder / "corral.yaml", folder / "log"
        self.port, self.admin = free_port(), free_port()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self.notify.settimeout(30)
        self.backend, self.pids = backend, set()
        self.write()

    def write(self, **options):
        values = {"listen": f"127.0.0.1:{self.port}", "admin_listen": f"127.0.0.1:{self.admin}", "state_dir": str(self.state), "workers": 2,
                  "backends": f"[l=llamacpp+{self.backend}]", "log_format": "json", **options}
        self.config.write_text("".join(f"{k}: {v}\n" for k, v in values.items()))

    def serve(self, *options):
        env = {**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify")}
        program = subprocess.Popen([BINARY, "serve", "--config", str(self.config), *options], stdin=subprocess.DEVNULL, stdout=self.log.open("ab"),
                                   stderr=subprocess.STDOUT, env=env)
        self.pids.add(program.pid)
        return program

    def told(self):
        """The pid that the supervisor is told of."""
        text = self.notify.recv(1024).decode()
        assert "READY=1" in text
        pid = int(re.search(r"MAINPID=(\d+)", text)[1])
        self.pids.add(pid)
        return pid

    def upgrade(self, status=0):
        done = subprocess.run([BINARY, "upgrade", "--config", str(self.config)], capture_output=True, text=True, timeout=150)
        assert done.returncode == status, done.stdout + done.stderr + self.log.read_text()[-3000:]
        return done.stdout + done.stderr

    def models(self, port=None):
        try:
            return [m["id"] for m in json.loads(http(f"http://127.0.0.1:{port or self.port}/v1/models")[2])["data"] if m["id"] != "auto"]
        except (OSError, KeyError):
            return None

    def close(self):
        self.notify.close()
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        until(lambda: not any(self.runs(pid) for pid in self.pids), 60)
        assert not re.search(r"Sanitizer|runtime error:", self.log.read_text())

    @staticmethod
    def runs(pid):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass
        try:
            return "\nState:\tZ" not in open(f"/proc/{pid}/status").read()
        except FileNotFoundError:
            return False


@pytest.fixture
def house(tmp_path, llama):
    h = House(tmp_path, llama.url)
    yield h
    h.close()


def test_the_supervisor_is_told_and_a_changed_configuration_is_in_force(house):
    first = house.serve()
    assert house.told() == first.pid
    until(lambda: house.models() == ["corral-tiny"])
    other = free_port()
    house.write(listen=f"127.0.0.1:{other}", workers=1)
    assert "has taken over" in house.upgrade()
    second = house.told()
    assert second != first.pid and first.wait(30) == 0
    until(lambda: house.models(other) == ["corral-tiny"])        # the new address, and the old one is nobody's
    assert house.models() is None
    house.write(workers=3)
    os.kill(second, signal.SIGUSR2)
    third = house.told()
    until(lambda: not house.runs(second))
    assert house.models() == ["corral-tiny"] and house.models(other) is None
    assert json.loads(http(f"http://127.0.0.1:{house.admin}/readyz")[2])["status"] == "ready"
    assert int((house.state / "gateway" / "lock").read_text()) == third


def test_a_mistake_changes_nothing_and_is_told(house):
    first = house.serve()
    house.told()
    until(lambda: house.models() == ["corral-tiny"])
    house.write(workers="many")
    assert "workers: 'many' is not a whole number" in house.upgrade(1)      # the command reads the file too
    house.write(db="sqlite:/nonexistent/ledger.db")              # found when the stores are opened: the others are stopped by then
    said = house.upgrade(1)
    assert "nothing was changed" in said and "/nonexistent/ledger.db" in said
    until(lambda: http(f"http://127.0.0.1:{house.port}/usage")[0] == 200)
    house.write()
    second = house.serve()
    assert second.wait(30) == 1 and first.poll() is None and house.models() == ["corral-tiny"]
    house.write(listen=f"127.0.0.1:{free_port()}", admin_listen=f"127.0.0.1:{free_port()}")
    third = house.serve()
    assert third.wait(30) == 1 and f"another program (pid {first.pid}) uses the directory" in house.log.read_text()
    house.write()
    assert "has taken over" in house.upgrade()
    house.told()
    assert first.wait(30) == 0


def test_slots_of_open_streams_are_counted_by_the_successor(tmp_path):
    """Two slots, two streams that end when their clients leave: the successor's requests wait for that, and not in the backend."""
    model = Scripted(slots=2)
    house = House(tmp_path, model.url)
    try:
        first = house.serve()
        house.told()
        until(lambda: house.models() == ["m"])
        streams = []
        for _ in range(2):
            streams.append(http_client.HTTPConnection("127.0.0.1", house.port, timeout=60))
            streams[-1].request("POST", "/v1/chat/completions", json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "do: stall 2"}]}),
                                {"Content-Type": "application/json"})
            assert b"data: " in streams[-1].getresponse().readline()
        house.upgrade()
        house.told()
        asks = [ThreadPoolExecutor(1).submit(http, f"http://127.0.0.1:{house.port}/v1/chat/completions",
                                             {"model": "m", "messages": [{"role": "user", "content": "do: answer 1"}]}, "POST", timeout=60) for _ in range(2)]
        until(lambda: re.search(r"^corral_queued_requests\{.*\} 2$", http(f"http://127.0.0.1:{house.admin}/metrics")[2], re.M))
        assert first.poll() is None and model.backend.running == model.backend.most_running == 2
        for stream in streams:
            stream.sock.shutdown(socket.SHUT_RDWR)
            stream.close()
        assert [a.result(60)[0] for a in asks] == [200, 200]
        assert first.wait(30) == 0
    finally:
        house.close()
        model.close()


def test_nobody_there(tmp_path):
    done = subprocess.run([BINARY, "upgrade", "--state-dir", str(tmp_path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "no corral runs on" in done.stderr
    done = subprocess.run([BINARY, "serve", "--upgrade", "--state-dir", str(tmp_path), "--admin-listen", ":0", "--listen", ":0"], capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 1 and "start it without --upgrade" in done.stderr


def test_https_and_what_is_open_go_over(house, tmp_path):
    make_identity(tmp_path, "one")
    tls = free_port()
    house.write(public_tls_listen=f"127.0.0.1:{tls}", public_tls_cert=tmp_path / "one.pem", public_tls_key=tmp_path / "one.key")
    first = house.serve()
    house.told()
    until(lambda: house.models() == ["corral-tiny"])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    def ask(kept):
        kept.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while b'"corral-tiny"' not in answer:
            answer += kept.recv(65536) or pytest.fail(f"it ended: {answer}")
        return answer

    with socket.create_connection(("127.0.0.1", tls), 30) as plain, context.wrap_socket(plain, server_hostname="localhost") as kept:
        assert b"Connection: close" not in ask(kept)
        house.upgrade()
        house.told()
        until(lambda: b"Connection: close" in ask(kept))         # of the one before, as soon as its workers have heard of it
    assert first.wait(30) == 0
    with socket.create_connection(("127.0.0.1", tls), 30) as plain, context.wrap_socket(plain, server_hostname="localhost") as kept:
        assert b"Connection: close" not in ask(kept)
