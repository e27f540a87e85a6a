"""What an experiment did by itself has one line in the audit log, whoever was killed between the deed and the line."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from servers import Corral, until                                # noqa: E402
from test_experiments import USERS, Two, ask_all                 # noqa: E402


@pytest.fixture
def place(tmp_path):
    """place(): a Corral on one state folder, again after a kill. What it did it tells two seconds later."""
    server, running = Two(), []

    def start():
        running.append(Corral(tmp_path, {"a": ("openai", server.url)}, "--slots", "a=64", "--outcomes-every", "2s"))
        return running[-1]

    yield start
    wrong = [w for w in (c.close() for c in running) if w]
    server.close()
    assert not wrong, wrong


def deeds(corral, action):
    status, _, got = corral.get(f"/audit?action={action}")
    return [(line["actor"], line["object"], line["outcome"]) for line in got["entries"]] if status == 200 else []


@pytest.mark.parametrize("state, better", [("rolled_back", "a"), ("promoted", "b")])
def test_a_kill_between_a_deed_and_its_line(place, state, better):
    corral = place()
    said = {"name": "which one", "model_a": "first", "model_b": "second", "traffic_percent": 100, "guards": [{"metric": "success", "margin": 0.1}]}
    test = until(lambda: (made := corral.post("/tests", said))[0] == 201 and made[2])
    until(lambda: all(answer["experiment"] for _, answer in ask_all(corral, USERS[:10])))
    for headers, answer in ask_all(corral, USERS[:240]):
        good = answer["experiment"]["arm"] == better
        assert corral.post("/feedback", {"request_id": headers["X-Request-Id"], "success": good})[0] == 202
    until(lambda: corral.get(f"/tests/{test['id']}")[2]["state"] == state, 60)
    corral.kill()                                                # the deed is done, and is told with the next tick
    action = {"rolled_back": "tests.rollback", "promoted": "tests.promote"}[state]
    line = [("system", test["id"], "ok")]
    corral = place()
    until(lambda: deeds(corral, action) == line)
    corral.kill()                                                # the line is there, and perhaps nobody was told so
    corral = place()
    # a deed that comes after it, and is told in order, has its line: then nothing is on its way any more
    assert until(lambda: (got := corral.post("/tests", {**said, "name": "next", "namespace": "n", "duration_days": 1e-6}))[0] == 201 and got)
    until(lambda: deeds(corral, "tests.stop"))
    assert deeds(corral, action) == line and corral.get(f"/tests/{test['id']}")[2]["state"] == state
