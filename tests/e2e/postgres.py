"""A PostgreSQL server for a test, by scripts/with-postgres: started, stopped as if the power went, started again."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from servers import ROOT, script

BIN = os.path.dirname(os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral")))


def parent_of(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Postgres:
    def __init__(self):
        # not under pytest's folders: the path of a socket has room for 100 letters
        self.folder = tempfile.mkdtemp(prefix="corral-postgres.", dir="/tmp")
        self.url = None
        self.start()

    def start(self):
        self.url, reason = script("with-postgres", "start", self.folder, "--durable")        # what was committed is there after "the power went"
        if not self.url:
            shutil.rmtree(self.folder, ignore_errors=True)
            pytest.skip(f"no PostgreSQL: {reason}")

    def stop(self, mode="immediate"):
        subprocess.run([ROOT / "scripts/with-postgres", "stop", self.folder, mode], check=True, capture_output=True)

    def signal(self, signo):
        """To all its processes: one that stands still takes connections and answers nothing."""
        main = int(Path(self.folder, "server/data/postmaster.pid").read_text().split()[0])
        children = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and parent_of(p) == main]
        for pid in [main, *children]:
            os.kill(pid, signo)

    def sql(self, text):
        """What psql prints, without decoration."""
        return subprocess.run(["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", self.url, "-c", text], check=True, capture_output=True, text=True).stdout.strip()

    def migrate(self, program="corral"):
        return subprocess.run([f"{BIN}/{program}", "migrate"], env={**os.environ, "CORRAL_DB": self.url}, capture_output=True, text=True)

    def close(self):
        self.stop("fast")
        shutil.rmtree(self.folder, ignore_errors=True)
