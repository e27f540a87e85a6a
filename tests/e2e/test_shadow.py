"""Shadow runs: another model is asked the same, and nobody but its experiment notices."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from scripted import Backend                                     # noqa: E402
from servers import Corral, http, until                          # noqa: E402
from test_runs import Scripted                                   # noqa: E402

PROGRAM = os.environ.get("CORRAL_BIN", str(Path(__file__).resolve().parents[2] / "build/bin/corral"))


class One(Scripted):
    """A backend with one model of that name."""

    def __init__(self, name, model, slots):
        super().__init__()
        self.do(self.backend.stop())
        self.backend = Backend(name, "openai", {model: {"ctx": 1 << 16}}, slots=slots)
        self.url = self.backend.url
        self.do(self.backend.start())


@pytest.fixture
def house(tmp_path):
    """(corral, what answers clients, what is the shadow with one slot)"""
    answers, shadow = One("a", "first", 8), One("b", "second", 8)
    corral = Corral(tmp_path, {"a": ("openai", answers.url), "b": ("openai", shadow.url)}, "--slots", "a=8,b=1", "--outcomes-every", "100ms", "--workers", "2")
    yield corral, answers, shadow
    wrong = corral.close()                                       # with a shadow that hangs too: it does not hold up the end
    for server in (answers, shadow):
        server.close()
    assert not wrong, wrong


BODY = {"model": "auto", "max_tokens": 8, "stream": True, "messages": [{"role": "user", "content": "what is it?"}]}


def ask(corral, model="auto", user="ann"):
    status, headers, text = http(corral.url + "/v1/chat/completions", {**BODY, "model": model}, headers={"X-Corral-User": user}, timeout=60)
    assert status == 200, text
    return headers, text


def begin(corral, shadow, **said):
    status, _, made = corral.post("/tests", {"name": "beside", "model_a": "first", "model_b": "second", "traffic_percent": 100, "shadow": True, "guards": [], **said})
    assert status == 201 and made["shadow"] is True and made["auto_promote"] is False, made
    until(lambda: ask(corral)[0]["X-Corral-Reason"] == "experiment")
    until(lambda: shadow.calls)
    return made


def count(corral, result):
    found = re.findall(rf'^corral_shadow_requests_total\{{result="{result}"\}} (\S+)$', corral.metrics(), re.M)
    return sum(map(float, found))


def plain(text):
    """The stream without what differs between any two answers."""
    pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return [{k: v for k, v in piece.items() if k not in ("id", "created")} for piece in pieces], text.rstrip().endswith("data: [DONE]")


def test_the_client_has_its_answer_and_the_shadow_its_own_book(house):
    corral, answers, shadow = house
    shadow.now("answer 7")
    before = ask(corral, "first")[1]
    test = begin(corral, shadow)
    headers, text = until(lambda: (asked := ask(corral)) and (row := book(corral, asked[0])) and len(row.get("shadows", [])) == 1 and asked)
    assert plain(text) == plain(before) and headers["X-Corral-Model"] == "first"
    row = book(corral, headers)
    assert [(a["model"], a["status"], a["completion_tokens"]) for a in row["attempts"]] == [("first", "ok", 3)]
    assert [(s["model"], s["status"], s["completion_tokens"], s["reason"], s["arm"]) for s in row["shadows"]] == [("second", "ok", 7, "shadow", "b")]
    assert shadow.calls[-1].json["messages"] == BODY["messages"]
    got = until(lambda: (a := corral.get(f"/tests/{test['id']}/analysis")[2])["metrics_b"]["total_requests"] and a)
    assert got["metrics_b"]["avg_tokens"] == 7 + 7 and got["metrics_b"]["success_rate"] == 1 and got["metrics_b"]["avg_latency_ms"] > 0, got
    assert got["metrics_a"]["avg_tokens"] == 7 + 3 and not got["sample_ratio_alarm"], got
    assert got["shadow"] is True
    shown, listed = (" ".join(command("tests", *words, "--url", corral.url).split()) for words in (("show", test["id"]), ("list",)))
    assert "A shadow: clients are answered by 'a' alone. Of their" in shown and "no time in a queue" in shown and "running shadow first second" in listed, (shown, listed)
    used = corral.get("/usage?group_by=model")[2]["rows"]        # the client's own, and nothing else
    assert [r["model"] for r in used] == ["first"] and used[0]["requests"] == len(answers.calls), used


def command(*words):
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def book(corral, headers):
    status, _, got = corral.get(f"/requests/{headers['X-Request-Id']}")
    return got if status == 200 else {}


def test_a_shadow_that_hangs_holds_up_nobody_and_makes_way(house):
    corral, answers, shadow = house
    shadow.now("hang")
    begin(corral, shadow)
    until(lambda: shadow.calls)
    for _ in range(3):                                           # its one slot is taken: no more of them, and clients do not wait
        assert plain(ask(corral)[1])[1]
    assert len(shadow.calls) == 1
    until(lambda: count(corral, "no_slot") >= 3)
    shadow.now("answer 5")
    headers, text = ask(corral, "second", "bob")                 # who wants that slot has it
    assert headers["X-Corral-Model"] == "second" and plain(text)[1]
    until(lambda: shadow.calls[0].closed_at)
    until(lambda: count(corral, "made_way") == 1)
    shadow.now("hang")
    until(lambda: ask(corral) and len(shadow.calls) >= 3)        # one is under way when the end comes


def test_a_shadow_that_fails_is_its_experiments_matter(house):
    corral, answers, shadow = house
    shadow.now("status 500")
    test = begin(corral, shadow)
    until(lambda: ask(corral) and count(corral, "error") >= 8)
    got = until(lambda: (a := corral.get(f"/tests/{test['id']}/analysis")[2])["metrics_b"]["total_requests"] >= 8 and a)
    assert got["metrics_a"]["success_rate"] == 1 and got["metrics_b"]["success_rate"] == 0, got
    shadow.now("answer 5")
    assert ask(corral, "second", "bob")[0]["X-Corral-Attempts"] == "1"       # no breaker has opened for it


def test_what_is_no_shadow(house):
    corral = house[0]
    said = {"name": "n", "model_a": "first", "model_b": "second", "shadow": True}
    for more, field in (({"auto_promote": True}, "auto_promote"), ({"metric": "rating"}, "metric"), ({"guards": ["rating"]}, "guards")):
        status, _, answer = corral.post("/tests", {**said, **more})
        assert (status, answer["field"]) == (422, field), answer
