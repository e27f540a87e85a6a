"""Two gateways before one registry and one ledger: each has its spools, and all of both is booked."""
import json
import os
import subprocess
from pathlib import Path

import pytest

from servers import ROOT, free_port, http, until

BIN = Path(os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))).parent


@pytest.fixture
def programs():
    running = []

    def start(folder, name, *options):
        log = (folder / f"{name}-{len(running)}.log").open("w")
        running.append(subprocess.Popen([str(BIN / name), "--admin-listen", f"127.0.0.1:{free_port()}", *options], stdin=subprocess.DEVNULL, stdout=log,
                                        stderr=subprocess.STDOUT))
    yield start
    for p in reversed(running):
        p.terminate()
    assert [p.wait(30) for p in running] == [0] * len(running)


def asked(url, path, body=None):
    try:
        status, _, text = http(url + path, body, timeout=30)
        return status, json.loads(text)
    except OSError:
        return 0, {}


def test_two_gateways_and_one_ledger(programs, llama, tmp_path):
    peers = []
    for name in ("model-registry", "usage-tracker"):
        url = f"ipc://{tmp_path}/{name}"
        more = ["--backends", f"l=llamacpp+{llama.url}"] if name == "model-registry" else []
        programs(tmp_path, name, "--rpc-listen", url, "--state-dir", str(tmp_path / "control"), *more)
        peers += ["--peer", f"{name}={url}"]
    gateways = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    for n, url in enumerate(gateways):
        programs(tmp_path, "gateway", "--listen", url.removeprefix("http://"), "--workers", "1", "--state-dir", str(tmp_path / f"gateway{n}"), *peers)
    for url in gateways:
        until(lambda: any(m["id"] == "corral-tiny" for m in asked(url, "/v1/models")[1].get("data", [])))
    for turn in range(4):
        for url in gateways:
            assert asked(url, "/v1/chat/completions", {"model": "corral-tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]})[0] == 200
        until(lambda: asked(gateways[0], "/usage")[1].get("totals", {}).get("attempts") == 2 * (turn + 1))
