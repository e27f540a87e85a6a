"""What containers ask of a program that holds no shell: --probe, against the running one; and that down backends do not make it unready."""
import json
import os
import pathlib
import subprocess

from servers import Corral

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


def probe(what, admin):
    return subprocess.run([BINARY, "serve", f"--probe={what}", f"--admin-listen={admin}"], capture_output=True, text=True, timeout=20)


def test_probes_of_a_running_program(corral):
    admin = corral.admin.split("//")[1]
    for what in ("livez", "readyz", "startupz"):
        done = probe(what, admin)
        assert done.returncode == 0, done
        json.loads(done.stdout)


def test_a_backend_that_is_down_is_told_of_and_no_reason_to_be_unready(tmp_path):
    corral = Corral(tmp_path, {"gone": ("ollama", "http://127.0.0.1:1")})
    try:
        done = probe("readyz", corral.admin_of("model-registry").split("//")[1])
        assert done.returncode == 0 and "0 of 1 backends are up" in done.stdout
        _, _, health = corral.get("/health")
        assert health["backends"][0]["state"] != "up"
    finally:
        assert corral.close() is None


def test_nothing_runs(tmp_path):
    done = probe("livez", "127.0.0.1:1")
    assert done.returncode == 1 and "nothing answers at 127.0.0.1:1" in done.stderr
