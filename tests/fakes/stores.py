"""The real servers beside Corral, for proofs: PostgreSQL and Redis that are killed and started again, each waiting for its disk.

    p = Postgres().start(); p.url; p.kill(); p.start(); p.stop()          Redis and kafka.Kafka have the same words

kill() is `kill -9` of all processes of the server. Durable is: PostgreSQL with fsync, synchronous_commit and full_page_writes, Redis with an
append-only file that is synced at each write. missing() says why one cannot be had here, kafka_here() brings Kafka that flushes each batch.
"""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from kafka import Kafka

ROOT = Path(__file__).resolve().parents[2]


def script(*words):
    """(the last line that a script of this tree prints, None), or (None, why it cannot)."""
    done = subprocess.run([ROOT / "scripts" / words[0], *map(str, words[1:])], capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return (done.stdout.strip().splitlines() or [""])[-1], None


def missing(name):
    """Why the server cannot be had; None when it can."""
    if name == "kafka":
        return script("get-kafka", "--cached")[1]
    if name == "postgres":
        return None if shutil.which("psql") and list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) else "no PostgreSQL server is installed"
    return None if shutil.which("redis-server") else "no redis-server is installed"


def kafka_here(folder):
    jars, reason = script("get-kafka")
    if not jars:
        raise SystemExit(f"no Kafka: {reason}")
    return Kafka(Path(folder) / "kafka", jars, durable=True)


def state_of(pid):
    """(state, parent) of a process; ("", 0) when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "", 0
    return words[0], int(words[1])


def gone(pid):
    return state_of(pid)[0] in ("", "Z", "X")


class Postgres:
    def __init__(self):
        # not below TMPDIR: the path of a socket has room for 100 letters
        self.folder, self.url = Path(tempfile.mkdtemp(prefix="corral-postgres.", dir="/tmp")), None

    @property
    def pid_file(self):
        return self.folder / "server/data/postmaster.pid"

    def start(self):
        self.url, reason = script("with-postgres", "start", self.folder, "--durable")
        if not self.url:
            raise RuntimeError(f"PostgreSQL does not start: {reason}")
        return self

    def kill(self):
        first = int(self.pid_file.read_text().split()[0])
        pids = [first] + [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and state_of(p.name)[1] == first]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        while not all(gone(pid) for pid in pids):
            time.sleep(0.01)
        if state_of(first)[0] == "Z":            # nobody has buried it: its lock files would be taken for those of a server that runs
            for file in (self.pid_file, *(self.folder / "server").glob(".s.PGSQL.*.lock")):
                file.unlink(missing_ok=True)

    def sql(self, text):
        """What psql prints, without decoration."""
        done = subprocess.run(["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", self.url, "-c", text], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def stop(self):
        script("with-postgres", "stop", self.folder, "immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis:
    def __init__(self, folder):
        self.folder, self.handle = Path(folder) / "redis", None
        self.folder.mkdir(parents=True)
        self.socket = self.folder / "r"
        self.url = f"redis+unix://{self.socket}"

    def start(self):
        self.socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.handle = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "yes", "--appendfsync",
                                            "always", "--dir", str(self.folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not self._answers():
            if self.handle.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Redis does not start: {(self.folder / 'log').read_text()[-500:]}")
            time.sleep(0.01)
        return self

    def _answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1)
            try:
                s.connect(str(self.socket))
                s.sendall(b"PING\r\n")
                return s.recv(64).startswith(b"+PONG")
            except OSError:
                return False

    def kill(self):
        if self.handle:
            self.handle.kill()
            self.handle.wait()

    stop = kill
