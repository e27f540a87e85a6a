"""GET /quality: what people say and do, from the request to the row."""
import json
import os
import subprocess

from servers import ROOT, http
from test_runs import until
from test_runs import model, place                               # noqa: F401

PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


def ask(corral, prompt, user="ada"):
    before = corral.get("/usage")[2]["totals"]["attempts"]
    status, headers, text = http(corral.url + "/inference", {"prompt": prompt, "model": "m", "user_id": user, "task_type": "BUG_FIX", "language": "c", "no_cache": True})
    assert status == 200, text
    until(lambda: corral.get("/usage")[2]["totals"]["attempts"] == before + 1)
    return headers["X-Request-Id"]


def test_what_is_said_and_done(place, model):                    # noqa: F811
    corral = place()
    words = "my program crashes when the list is empty and I read its first element without a check"
    first = ask(corral, words)
    ask(corral, words)                                           # regenerated: against the first
    ask(corral, words.upper() + "!!")                            # alike: against the second
    ask(corral, words, user="bob")                               # somebody else
    assert corral.post("/feedback", {"request_id": first, "rating": 4, "tests_passed": 1, "tests_total": 2})[0] == 202
    until(lambda: corral.get("/quality")[2]["rows"][0]["feedback"] == 1)
    (row,) = corral.get("/quality")[2]["rows"]
    assert (row["model"], row["task_type"], row["language"]) == ("m", "BUG_FIX", "c")
    assert {k: row[k] for k in ("answers", "success_rate", "aborted", "regenerated", "asked_again", "rating", "tests_passed", "tests_total")} == {
        "answers": 4, "success_rate": 1, "aborted": 0, "regenerated": 1, "asked_again": 1, "rating": 4, "tests_passed": 1, "tests_total": 2}
    assert 0 < row["quality"] < 1 and row["latency_ms"] > 0
    assert corral.get("/quality?from=2020-01-01&to=2020-02-01")[2]["rows"] == []
    assert corral.get("/quality?from=2020-02-01&to=2020-01-01")[0] == 422
    shown = subprocess.run([PROGRAM, "quality", "--url", corral.url], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and "BUG_FIX" in shown.stdout, shown
    assert json.loads(subprocess.run([PROGRAM, "quality", "--json", "--url", corral.url], capture_output=True, text=True, timeout=60).stdout)["rows"]
