"""Experiments: who gets which arm, what comes of it, and that a broken guard rolls back by itself."""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from servers import ROOT, Corral, http, until                    # noqa: E402
from scripted import Backend                                     # noqa: E402
from test_runs import Scripted                                   # noqa: E402

PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
USERS = [f"user {i}" for i in range(400)]


class Two(Scripted):
    """A backend with two models."""

    def __init__(self):
        super().__init__()
        self.do(self.backend.stop())
        self.backend = Backend("a", "openai", {"first": {"ctx": 1 << 16}, "second": {"ctx": 1 << 16}}, slots=64)
        self.url = self.backend.url
        self.do(self.backend.start())


@pytest.fixture
def place(tmp_path):
    """place(): a Corral on one state folder and one backend; again after a kill."""
    server, running = Two(), []

    def start(*options):
        running.append(Corral(tmp_path, {"a": ("openai", server.url)}, "--log-format", "json", "--slots", "a=64", "--outcomes-every", "100ms", *options))
        running[-1].backend = server
        return running[-1]

    yield start
    wrong = [w for w in (c.close() for c in running) if w]
    server.close()
    assert not wrong, wrong


def ask(corral, user, **more):
    body = {"prompt": "what is it?", "user_id": user, "max_tokens": 8, "no_cache": True, **more}
    status, headers, text = http(corral.url + "/inference", body, timeout=60)
    assert status == 200, text
    return headers, json.loads(text)


def ask_all(corral, users, **more):
    with ThreadPoolExecutor(8) as many:
        return list(many.map(lambda user: ask(corral, user, **more), users))


def begin(corral, **said):
    body = {"name": "which one", "model_a": "first", "model_b": "second", "traffic_percent": 100, **said}
    status, _, made = corral.post("/tests", body)
    assert status == 201, made
    until(lambda: any(arms(ask_all(corral, USERS[:20]))))        # the gateway has heard of it
    return made


def arms(answers):
    return [answer["experiment"]["arm"] if answer["experiment"] else None for _, answer in answers]


def analysis(corral, test):
    status, _, got = corral.get(f"/tests/{test['id']}/analysis")
    assert status == 200, got
    return got


def test_the_same_arm_after_a_restart_and_the_share(place):
    corral = place()
    half = begin(corral, traffic_percent=50)
    before = ask_all(corral, USERS)
    share = sum(arm is not None for arm in arms(before)) / len(USERS)
    assert .37 < share < .63, share                              # five standard deviations
    taking = [(h, a) for h, a in before if a["experiment"]]
    assert {a["experiment"]["id"] for _, a in taking} == {half["id"]}
    assert all(h["X-Corral-Reason"] == "experiment" and a["model"] == {"a": "first", "b": "second"}[a["experiment"]["arm"]] for h, a in taking)
    of_a = arms(taking).count("a") / len(taking)
    assert .32 < of_a < .68, of_a
    corral.kill()
    corral = place()
    until(lambda: any(arms(ask_all(corral, USERS[:20]))))
    assert arms(ask_all(corral, USERS)) == arms(before)
    # explained, and computed again
    request = until(lambda: next((h for h, a in ask_all(corral, USERS[:20]) if a["experiment"]), None))["X-Request-Id"]
    said = until(lambda: (got := corral.get(f"/explain/{request}"))[0] == 200 and got[2])
    assert said["replayed"] is True and said["experiment"]["id"] == half["id"] and said["reason"] == "experiment", said
    status, _, paused = corral.post(f"/tests/{half['id']}/pause", {})
    assert (status, paused["state"]) == (200, "paused")
    until(lambda: not any(arms(ask_all(corral, USERS[:20]))))
    assert corral.post(f"/tests/{half['id']}/pause", {})[0] == 409
    assert corral.post(f"/tests/{half['id']}/resume", {})[2]["state"] == "running"
    until(lambda: any(arms(ask_all(corral, USERS[:20]))))
    assert arms(ask_all(corral, USERS[:100])) == arms(before)[:100]


def test_feedback_moves_it_and_a_broken_guard_rolls_back(place):
    corral = place()
    test = begin(corral, guards=[{"metric": "success", "margin": 0.1}], metric="success")
    answers = ask_all(corral, USERS[:160])
    until(lambda: analysis(corral, test)["metrics_b"]["total_requests"] + analysis(corral, test)["metrics_a"]["total_requests"] >= 160)
    got = analysis(corral, test)
    assert got["metrics_a"]["success_rate"] == got["metrics_b"]["success_rate"] == 1 and got["winner"] is None and got["sample_ratio_p"] > 0.001, got
    # late outcomes: what people say afterwards counts in the place of "it was answered"
    for headers, answer in answers:
        good = answer["experiment"]["arm"] == "a"
        assert corral.post("/feedback", {"request_id": headers["X-Request-Id"], "success": good, "rating": 5 if good else 1})[0] == 202
    ended = until(lambda: (t := corral.get(f"/tests/{test['id']}")[2])["state"] == "rolled_back" and t, 60)
    assert "guard success broke" in ended["reason"] and ended["ended_at"] and ended["winner"] is None, ended
    lines = until(lambda: corral.get("/audit?action=tests.rollback")[2]["entries"])
    assert [(line["actor"], line["object"], line["outcome"]) for line in lines] == [("system", test["id"], "ok")], lines
    assert ended["reason"] in json.dumps(lines[0]["detail"]), lines
    shown = subprocess.run([PROGRAM, "audit", "list", "--actor", "system"], env={**os.environ, "CORRAL_URL": corral.url, "CORRAL_API_KEY": ""}, capture_output=True, text=True)
    assert shown.returncode == 0 and "tests.rollback" in shown.stdout and "guard success broke" in shown.stdout, shown
    until(lambda: analysis(corral, test)["metrics_b"]["success_rate"] < .3)      # the first requests, of which nobody said anything, counted as good
    until(lambda: (m := analysis(corral, test))["metrics_a"]["ratings"] + m["metrics_b"]["ratings"] >= 160)
    assert analysis(corral, test)["metrics_b"]["avg_rating"] == 1
    until(lambda: not any(arms(ask_all(corral, USERS[:20]))))    # nobody gets it any more
    assert corral.post(f"/tests/{test['id']}/resume", {})[0] == 409


def test_a_champion_and_back_again(place):
    corral = place()
    test = begin(corral)
    model = ask(corral, "nobody special")[1]["model"]
    other, arm = ("second", "b") if model == "first" else ("first", "a")
    done = corral.post(f"/tests/{test['id']}/promote", {"arm": arm, "reason": "it reads better"})[2]
    assert done["state"] == "promoted" and done["winner"] == arm and "it reads better" in done["reason"]
    headers, answer = until(lambda: (got := ask(corral, "nobody special"))[0]["X-Corral-Reason"] == "champion" and got)
    assert answer["model"] == other and answer["experiment"] is None
    assert [c["arm"]["model"] for c in corral.get("/tests")[2]["champions"]] == [other]
    assert corral.post(f"/tests/{test['id']}/rollback", {})[2]["state"] == "rolled_back"
    until(lambda: ask(corral, "nobody special")[0]["X-Corral-Reason"] == "rules")
    assert corral.get("/tests")[2]["champions"] == []


def test_parameters_and_prompts_of_one_model(place):
    corral = place()
    test = corral.post("/tests", {
        "name": "how to ask", "traffic_percent": 100, "arms": [
            {"name": "plain", "model": "first"},
            {"name": "warm", "model": "first", "parameters": {"temperature": 0.75}, "prompt_template": "Think first. {{prompt}} Be brief."}]})[2]
    assert test["state"] == "running", test
    until(lambda: ask(corral, "x", model="first")[1]["experiment"])
    seen = {}
    for user in USERS[:40]:
        body = {"model": "first", "max_tokens": 8, "messages": [{"role": "user", "content": "what is \"it\"?"}]}
        status, headers, _ = http(corral.url + "/v1/chat/completions", body, headers={"X-Corral-User": user})
        assert status == 200 and headers["X-Corral-Reason"] == "asked"
        call = corral.backend.calls[-1].json
        seen[call.get("temperature")] = call["messages"][-1]["content"]
        if len(seen) == 2:
            break
    assert seen == {None: 'what is "it"?', 0.75: 'Think first. what is "it"? Be brief.'}
    own = {"model": "first", "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "x"}]}
    for user in USERS[:40]:
        assert http(corral.url + "/v1/chat/completions", own, headers={"X-Corral-User": user})[0] == 200
        assert corral.backend.calls[-1].json["temperature"] == 0     # what a request says itself stays


@pytest.mark.parametrize("said, status, field", [
    ({"name": ""}, 422, "name"), ({"model_b": "third"}, 422, "model_b"), ({"model_b": "first"}, 422, "arms"), ({"traffic_percent": 0}, 422, "traffic_percent"),
    ({"traffic_percent": "10"}, 400, "traffic_percent"), ({"metric": "fame"}, 422, "metric"), ({"unit": "planet"}, 422, "unit"),
    ({"guards": ["fame"]}, 422, "guards"), ({"duration_days": -1}, 422, "duration_days"), ({"task_type_filter": "DANCE"}, 422, "task_type_filter"),
    ({"colour": "red"}, 400, "colour"), ({"arms": []}, 400, "arms"),
])
def test_what_is_no_experiment(corral_of_two, said, status, field):
    got, _, answer = corral_of_two.post("/tests", {"name": "n", "model_a": "first", "model_b": "second", **said})
    assert (got, answer["field"]) == (status, field), answer


@pytest.fixture(scope="module")
def corral_of_two(tmp_path_factory):
    server = Two()
    corral = Corral(tmp_path_factory.mktemp("two"), {"a": ("openai", server.url)})
    yield corral
    wrong = corral.close()
    server.close()
    assert not wrong, wrong


def test_the_command_line_shows_a_picture(place):
    corral = place()

    def run(*words):
        done = subprocess.run([PROGRAM, "tests", *words], env={**os.environ, "CORRAL_URL": corral.url, "CORRAL_API_KEY": ""}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    test = run("create", "which one", "--model-a", "first", "--model-b", "second", "--traffic", "100", "--guards", "success:0.1").split()[0]
    assert f"{test}  which one  running" in run()
    until(lambda: all(arms(ask_all(corral, USERS[:20]))))
    ask_all(corral, USERS[:160])
    shown = until(lambda: (text := run("show", test)) and " outcomes\n" in text and "*" in text and text, 60)
    assert shown.startswith("running: no difference is sure yet") and "points of 100" in shown and "100.0 %" in shown, shown
    assert run("stop", test, "--reason", "seen enough").startswith(f"{test} stopped: seen enough")
