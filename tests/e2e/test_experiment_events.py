"""experiments.v1: what becomes of experiments is told, each once and in order, also by one that was killed in between."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from servers import ROOT, Corral, until                          # noqa: E402
from test_experiments import Two                                 # noqa: E402

PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


@pytest.fixture(scope="module")
def backend():
    server = Two()
    yield server
    server.close()


def tail(folder):
    done = subprocess.run([PROGRAM, "events", "tail", "experiments.v1", "--from-beginning", "--idle", "1", "--state-dir", str(folder / "state")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["event"] for line in done.stdout.splitlines()]


def test_each_is_told_once_and_in_order(backend, tmp_path):
    corral = Corral(tmp_path, {"a": ("openai", backend.url)}, "--outcomes-every", "100ms")
    said = {"name": "which one", "model_a": "first", "model_b": "second"}
    test = until(lambda: (made := corral.post("/tests", said))[0] == 201 and made[2])
    for act, said in (("pause", {}), ("resume", {}), ("promote", {"arm": "b", "reason": "it reads better"})):
        assert corral.post(f"/tests/{test['id']}/{act}", said)[0] == 200
    corral.kill()                                                # at whatever point their telling was
    corral = Corral(tmp_path, {"a": ("openai", backend.url)}, "--outcomes-every", "100ms")
    assert until(lambda: (got := corral.post(f"/tests/{test['id']}/rollback", {}))[0] == 200 and got)
    wanted = ["started", "paused", "resumed", "promoted", "rolled_back"]
    events = until(lambda: (seen := tail(tmp_path)) and seen[-1]["kind"] == wanted[-1] and seen)
    once = list({e["event_id"]: e for e in events}.values())
    assert [e["kind"] for e in once] == wanted, events
    assert {e["experiment_id"] for e in once} == {test["id"]} and {e["name"] for e in once} == {"which one"}
    assert (once[3]["arm"], once[3]["model"]) == ("b", "second") and "it reads better" in once[3]["reason"]
    assert all(e["by"] for e in once)
    assert corral.close() is None


def looks(corral):
    found = re.search(r"^corral_experiment_looks_total (\d+)", corral.metrics(), re.M)
    return int(found[1]) if found else 0


def test_a_new_model_is_tried_when_that_is_switched_on(tmp_path):
    server = Two()
    del server.backend.models["second"]
    corral = Corral(tmp_path, {"a": ("openai", server.url)}, "--outcomes-every", "100ms", "--challengers", "answer", "--challenger-every", "1s",
                    "--challenger-traffic", "100", "--challenger-against", "first")
    until(lambda: any(model["id"] == "first" for model in corral.get("/v1/models")[2]["data"]))
    before = looks(corral)
    until(lambda: looks(corral) >= before + 2)                   # one that began after that, and so has noted it
    assert corral.get("/tests")[2]["tests"] == []
    server.backend.models["second"] = {"ctx": 1 << 16}
    assert corral.post("/models/sync", {})[0] == 200
    test = until(lambda: (tests := corral.get("/tests")[2]["tests"]) and tests[0])
    assert (test["name"], test["model_a"], test["model_b"], test["namespace"]) == ("challenger: second (new)", "first", "second", "challengers")
    assert test["created_by"] == "system" and test["auto_promote"] is False and {g["metric"] for g in test["guards"]} == {"success", "error"}
    line = until(lambda: corral.get("/audit?action=tests.create")[2]["entries"])[0]
    assert (line["actor"], line["object"]) == ("system", test["id"]) and "tried against first" in json.dumps(line["detail"])
    assert len(corral.get("/tests")[2]["tests"]) == 1
    assert corral.close() is None
    server.close()
