"""What an experiment did by itself has one line in the audit log, whoever was killed between the deed and the line."""
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from servers import ARRANGEMENT, Corral, database_of, until                                # noqa: E402
from test_experiments import USERS, Two, ask_all                 # noqa: E402

TRIES = 4


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


def deeds(corral, action, test):
    status, _, got = corral.get(f"/audit?action={action}")
    return [(line["actor"], line["outcome"]) for line in got["entries"] if line["object"] == test["id"]] if status == 200 else []


def lines_on_disk(folder, test):
    """Of what it did by itself, with nothing running."""
    query = f"SELECT count(*) FROM {{}}audit WHERE actor = 'system' AND object = '{test['id']}'"
    if ARRANGEMENT == "postgres":
        return int(subprocess.run(["psql", "-X", "-tA", database_of(folder), "-c", query.format("access.")], capture_output=True, text=True, check=True).stdout)
    [db] = folder.glob("state*/**/access.db")
    copy = folder / "looked-at"
    copy.mkdir(exist_ok=True)
    for part in db.parent.glob("access.db*"):
        shutil.copy(part, copy)
    with sqlite3.connect(copy / "access.db") as c:
        return c.execute(query.format("")).fetchone()[0]


def decided(corral, state, better):
    """An experiment that has come to that by itself."""
    said = {"name": "which one", "model_a": "first", "model_b": "second", "traffic_percent": 100, "guards": [{"metric": "success", "margin": 0.1}]}
    test = until(lambda: (made := corral.post("/tests", said))[0] == 201 and made[2])
    until(lambda: all((answer.get("experiment") or {}).get("id") == test["id"] for _, answer in ask_all(corral, USERS[:10])))
    for headers, answer in ask_all(corral, USERS[:240]):
        good = answer["experiment"]["arm"] == better
        assert corral.post("/feedback", {"request_id": headers["X-Request-Id"], "success": good})[0] == 202
    until(lambda: corral.get(f"/tests/{test['id']}")[2]["state"] == state, 60)
    return test


@pytest.mark.parametrize("state, better", [("rolled_back", "a"), ("promoted", "b")])
def test_a_kill_between_a_deed_and_its_line(place, tmp_path, state, better):
    action, line = {"rolled_back": "tests.rollback", "promoted": "tests.promote"}[state], [("system", "ok")]
    for _ in range(TRIES):
        corral = place()
        test = decided(corral, state, better)
        corral.kill()                                            # the deed is done, and is told with the next tick
        if not lines_on_disk(tmp_path, test):
            break
    else:
        pytest.fail(f"each of {TRIES} kills came after the line was written: the machine stood still for two seconds each time, or deeds are told sooner than that")
    corral = place()
    until(lambda: deeds(corral, action, test) == line)
    corral.kill()                                                # the line is there, and perhaps nobody was told so
    assert lines_on_disk(tmp_path, test) == 1
    corral = place()
    # a deed that comes after it, and is told in order, has its line: then nothing is on its way any more
    said = {"name": "next", "model_a": "first", "model_b": "second", "namespace": "n", "duration_days": 1e-6}
    after = until(lambda: (got := corral.post("/tests", said))[0] == 201 and got)[2]
    until(lambda: deeds(corral, "tests.stop", after))
    assert deeds(corral, action, test) == line and corral.get(f"/tests/{test['id']}")[2]["state"] == state
