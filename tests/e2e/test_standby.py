"""Several processes of one service on one PostgreSQL: one writes, the others stand by, and one of them takes over."""
import contextlib
import json
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from apart import free_port, get, programs
from servers import ROOT, http, until

TAKEOVER_S = 15


class Address:
    """One address for several ports, as a Service of Kubernetes has it: each connection goes to the next of them, and is broken where nobody listens."""

    def __init__(self, targets, port):
        self.targets, self.turn, self.open = targets, 0, True
        self.server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            self.turn += 1
            try:
                there = socket.create_connection(("127.0.0.1", self.targets[self.turn % len(self.targets)]))
            except OSError:
                client.close()
                continue
            for pair in ((client, there), (there, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.open = False
        self.server.close()


class Replica:
    def __init__(self, program, name, folder, url):
        self.rpc = free_port(pair=True)
        self.admin, self.log = free_port(), folder / f"{name}.log"
        self.argv = [programs() / program, f"--admin-listen=127.0.0.1:{self.admin}", f"--rpc-listen=tcp://127.0.0.1:{self.rpc}",
                     f"--state-dir={folder / name}", "--drain=1s"]
        self.env = {"CORRAL_DB": url, "PATH": "/usr/bin:/bin"}
        self.process = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        return self

    def asked(self, path):
        return get(f"http://127.0.0.1:{self.admin}{path}")

    def state(self):
        """ready, standby …; None when nobody answers."""
        status, text = self.asked("/readyz")
        return json.loads(text)["status"] if status else None

    def need(self):
        """That of /readyz for being the writer."""
        text = self.asked("/readyz")[1]
        return next((n for n in json.loads(text)["needs"] if n["need"] == "writer"), None) if text else None

    def writes(self):
        need = self.need()
        return need is not None and need["ok"]

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL of its own, in a folder that its user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="corral-standby-"))
    folder.chmod(0o755)
    started = subprocess.run([ROOT / "scripts/with-postgres", "start", folder], capture_output=True, text=True)
    if started.returncode == 4:
        pytest.skip("no PostgreSQL server is installed here")
    assert started.returncode == 0, started.stderr
    yield started.stdout.strip()
    subprocess.run([ROOT / "scripts/with-postgres", "stop", folder, "immediate"], check=False, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(request, tmp_path, server):
    """Two of one program, access unless it is named, on a new schema; neither runs yet."""
    program = getattr(request, "param", "access")
    url = f"{server}&schema=standby_{secrets.token_hex(6)}"
    subprocess.run([programs() / program, "migrate", f"--state-dir={tmp_path}/m"], env={"CORRAL_DB": url, "PATH": "/usr/bin:/bin"}, check=True,
                   capture_output=True)
    replicas = [Replica(program, name, tmp_path, url) for name in ("first", "second")]
    yield replicas
    for replica in replicas:
        replica.end()


def both(pair):
    """The first is the writer, the second stands by, is alive and started, and names the first."""
    first, second = pair
    first.start()
    until(lambda: first.writes(), 30)
    second.start()
    until(lambda: second.state() == "standby", 30)
    assert f"pid {first.process.pid}" in second.need()["text"]
    assert second.asked("/livez")[0] == 200 and second.asked("/startupz")[0] == 200 and second.asked("/readyz")[0] == 503
    return first, second


def test_a_writer_that_ends_hands_over_at_once(pair):
    first, second = both(pair)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(20) == 0
    began = time.monotonic()
    until(lambda: second.writes(), 10)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("pair", ["access", "model-registry", "selector", "usage-tracker"], indirect=True)
def test_a_writer_that_is_killed_is_followed(pair):
    first, second = both(pair)
    first.process.kill()
    began = time.monotonic()
    until(lambda: second.writes(), TAKEOVER_S)
    first.start()
    until(lambda: first.state() == "standby", 30)
    print(f"took over after {time.monotonic() - began:.1f} s")


def test_a_writer_that_stood_still_ends_when_it_goes_on(pair):
    first, second = both(pair)
    first.process.send_signal(signal.SIGSTOP)
    until(lambda: second.writes(), TAKEOVER_S)
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(20) == 1
    assert re.search("has become (the|its) writer", first.log.read_text())         # told by the lease or, sooner, by a refused write
    assert second.writes()


@pytest.mark.parametrize("pair", ["usage-tracker"], indirect=True)
def test_a_writer_that_is_killed_and_started_again_is_the_writer_at_once(pair):
    """Also where a standby waits for just that: the lease it left is its own, for it has the lock on the same directory."""
    first, second = both(pair)
    for _ in range(2):
        first.end()
        before = len(first.log.read_text())
        first.start()
        until(lambda: first.writes(), 30)
        said = first.log.read_text()[before:]
        assert "this process is the writer" in said and "waits for a need need=writer" not in said, said
    until(lambda: f"pid {first.process.pid}," in second.need()["text"], 30)


def test_a_standby_may_be_ready_and_peers_find_the_writer(pair, tmp_path):
    """As the chart runs them: both are ready, and both are behind the one address that the gateway has."""
    first, second = pair
    for replica in pair:
        replica.argv.append("--standby-ready")
    first.start()
    until(first.writes, 30)
    second.start()
    until(lambda: second.state() == "standby", 30)
    assert second.asked("/readyz")[0] == 200 and not second.writes()
    port, front, admin = free_port(pair=True), free_port(), free_port()
    behind = [Address([r.rpc + plus for r in pair], port + plus) for plus in (0, 100)]
    with (tmp_path / "gateway.log").open("wb") as log:
        gateway = subprocess.Popen([programs() / "gateway", f"--listen=127.0.0.1:{front}", f"--admin-listen=127.0.0.1:{admin}", f"--state-dir={tmp_path}/g",
                                    f"--peer.access=tcp://127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        def key(name):
            status, _, text = http(f"http://127.0.0.1:{front}/keys", {"name": name}, "POST")
            return status == 201 and json.loads(text)["secret"]

        def known(secret):
            return http(f"http://127.0.0.1:{front}/api/version", headers={"Authorization": f"Bearer {secret}"})[0] == 200

        until(lambda: get(f"http://127.0.0.1:{admin}/startupz")[0] == 200)
        made = until(lambda: key("before"))
        until(lambda: known(made))
        first.process.kill()
        until(second.writes, TAKEOVER_S)
        after = until(lambda: key("after"))
        until(lambda: known(after) and known(made))
    finally:
        gateway.kill()
        gateway.wait()
        for address in behind:
            address.close()


def test_a_standby_ends_when_it_is_told_to(pair):
    first, second = both(pair)
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(10) == 0
    assert first.writes()
