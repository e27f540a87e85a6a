"""Budgets: set, spent, refused, shrunk, watched, and what happens to them while the ledger is away or a gateway dies."""
import json
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import Corral, Program, http as ask, until
from test_access import BINARY, Engine, as_key, make_key

BODY = {"model": "alpha-1", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.server.shutdown()


@pytest.fixture
def corral(engine, tmp_path):
    """One for each test, gone with it: budgets of all of them would be a pile of processes."""
    corral = Corral(tmp_path, {"e": ("openai", engine.url)}, "--slots=e=64", "--workers=2")
    yield corral
    assert corral.close() is None


def chat(corral, headers=None, path="/v1/chat/completions", **more):
    status, head, text = ask(corral.url + path, {**BODY, **more}, headers=headers or {}, timeout=30)
    return status, head, json.loads(text)


def metric(corral, name, labels=""):
    found = re.findall(rf"^corral_{name}(?:\{{([^}}]*)\}})? (\S+)$", corral.metrics(), re.M)
    return sum(float(value) for names, value in found if labels in names)


def put(corral, scope, period="month", known=1, **more):
    """Set, and known to the gateway."""
    status, _, body = corral.get("/budgets", body={"scope": scope, "period": period, **more}, method="PUT")
    assert status == 200, body
    until(lambda: metric(corral, "budgets") == known)
    return body


def row(corral, scope, period="month"):
    return next(r for r in corral.get("/budgets")[2]["rows"] if (r["scope"], r["period"]) == (scope, period))


def test_spent_is_402_with_the_time_of_its_reset(corral):
    made = put(corral, "tenant:default", tokens=300, microusd=None)
    assert made["limit_tokens"] == 300 and made["limit_microusd"] is None and made["mode"] == "enforce" and made["tenant"] == "default"
    assert chat(corral, max_tokens=50)[0] == 200
    until(lambda: row(corral, "tenant:default")["used_tokens"] == 10)
    status, head, body = chat(corral, max_tokens=500)
    assert status == 402 and body["error"]["code"] == "insufficient_quota"
    left = r"the budget of tenant:default \(a month\) has 290 tokens left, and this request may need \d+; "
    found = re.search(left.replace(r"\d+", r"(\d+)") + r"it never has more than 300, and begins anew at 20\d\d-\d\d-01T00:00:00Z: ask for a shorter answer",
                      body["error"]["message"])                 # waiting would not help: it is more than the whole limit
    prompt = int(found[1]) - 500
    status, head, body = chat(corral, max_tokens=295 - prompt)
    assert status == 402 and re.search(left + r"there is more from 20\d\d-\d\d-01T00:00:00Z on", body["error"]["message"])
    assert int(head["Retry-After"]) > 1
    status, _, body = chat(corral, path="/v1/messages", max_tokens=500)
    assert status == 402 and body["type"] == "error" and "tenant:default" in body["error"]["message"]
    status, _, body = chat(corral, path="/api/chat", options={"num_predict": 500})
    assert status == 402 and "tenant:default" in body["error"]
    status, _, body = chat(corral, path="/inference", prompt="hello", max_tokens=500, messages=None)
    assert status in (402, 400)
    assert chat(corral, max_tokens=50)[0] == 200
    assert metric(corral, "budget_refused_total", 'reason="spent"') >= 3


def test_nothing_is_nothing_and_null_is_no_limit(corral):
    put(corral, "tenant:default", tokens=None)
    assert chat(corral, max_tokens=50)[0] == 200
    put(corral, "provider:openai", tokens=0, known=2)
    until(lambda: chat(corral, max_tokens=1)[0] == 402)
    assert "the budget of provider:openai (a month) allows nothing: its limit is 0 tokens" in chat(corral, max_tokens=1)[2]["error"]["message"]
    assert corral.get("/budgets?scope=provider:openai&period=month", method="DELETE")[2]["deleted"]
    until(lambda: chat(corral, max_tokens=1)[0] == 200)
    assert corral.get("/budgets?scope=provider:openai&period=month", method="DELETE")[0] == 404


def test_an_answer_is_bounded_to_what_is_left_if_the_client_allows(corral, engine):
    put(corral, "organisation:us", period="day", tokens=400)
    status, head, _ = chat(corral, max_tokens=5000)
    assert status == 402
    status, head, _ = chat(corral, headers={"X-Corral-Budget": "shrink"}, max_tokens=5000)
    assert status == 200 and 200 < int(head["X-Corral-Max-Tokens"]) < 400
    assert engine.asked["max_tokens"] == int(head["X-Corral-Max-Tokens"])
    assert metric(corral, "budget_shrunk_total") == 1
    until(lambda: row(corral, "organisation:us", "day")["used_tokens"] == 10)
    put(corral, "organisation:us", period="day", tokens=100000)
    until(lambda: chat(corral)[0] == 200)
    assert engine.asked["max_tokens"] == 4096           # it said none: so much was reserved, and it was told


def test_shadow_refuses_nothing_and_says_so(corral):
    put(corral, "tenant:default", tokens=100, mode="shadow")
    assert [chat(corral, max_tokens=500)[0] for _ in range(3)] == [200] * 3
    until(lambda: row(corral, "tenant:default")["used_tokens"] == 30)
    until(lambda: chat(corral, max_tokens=500)[0] == 200 and metric(corral, "budget_shadow_refused_total", 'of="tenant"') >= 1)
    assert "a budget in mode shadow would have refused this" in corral.logs()
    assert metric(corral, "budget_refused_total") == 0


def test_together_never_above_the_limit_and_nothing_leaks(corral, engine):
    put(corral, "tenant:default", tokens=2000)
    put(corral, "organisation:us", tokens=3000, known=2)
    engine.hold.clear()
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(chat, corral, max_tokens=100) for _ in range(100)]
        until(lambda: sum(a.done() for a in asked) >= 80)
        r = row(corral, "tenant:default")
        assert r["used_tokens"] + r["held_tokens"] + r["in_doubt_tokens"] <= 2000
        engine.hold.set()
        statuses = [a.result()[0] for a in asked]
    assert statuses.count(402) >= 80 and set(statuses) <= {200, 402}
    used = 10 * statuses.count(200)
    for scope in ("tenant:default", "organisation:us"):
        until(lambda: (row(corral, scope)["used_tokens"], row(corral, scope)["held_tokens"]) == (used, 0), 60)


def test_money_together_never_above_the_limit(corral, engine):
    """An answer costs 5 x 10 and 5 x 20 micro-dollars; 200 at once ask for more than the limit has, by what they may cost and by what they cost."""
    status, _, price = corral.get("/prices", body={"model": "*", "input_microusd": 10_000_000, "output_microusd": 20_000_000}, method="PUT")
    assert status == 201, price
    until(lambda: metric(corral, "prices") == 1)
    put(corral, "tenant:default", microusd=5_000)
    status, head, body = chat(corral, max_tokens=2000)
    assert status == 402 and re.search(r"has 5000 micro-dollars left, and this request may need 41\d\d\d;", body["error"]["message"]), body
    engine.hold.clear()
    with ThreadPoolExecutor(200) as pool:
        asked = [pool.submit(chat, corral, max_tokens=50) for _ in range(200)]
        until(lambda: sum(a.done() for a in asked) >= 185)
        r = row(corral, "tenant:default")
        assert 0 < r["used_microusd"] + r["held_microusd"] + r["in_doubt_microusd"] <= 5_000
        engine.hold.set()
        answers = [a.result() for a in asked]
    good = [head for status, head, _ in answers if status == 200]
    assert {status for status, _, _ in answers} == {200, 402} and {head["X-Corral-Cost-Microusd"] for head in good} == {"150"}
    until(lambda: (row(corral, "tenant:default")["used_microusd"], row(corral, "tenant:default")["held_microusd"]) == (150 * len(good), 0), 60)
    while chat(corral, max_tokens=50)[0] == 200:                 # one after the other, down to what one may cost
        pass
    r = row(corral, "tenant:default")
    assert r["used_microusd"] <= 5_000 and r["overdrawn"] == 0
    status, head, _ = chat(corral, headers={"X-Corral-Budget": "shrink"}, max_tokens=2000)
    assert status in (200, 402) and (status == 402 or int(head["X-Corral-Max-Tokens"]) < 50)


def test_rights(corral):
    keys = {role: make_key(corral, name=role, role=role, tenant=tenant)[1] for role, tenant in
            [("owner", "default"), ("admin", "default"), ("auditor", "default"), ("developer", "default")]}

    def set_as(role, scope, **more):
        return corral.get("/budgets", body={"scope": scope, "period": "day", "tokens": 1000000, **more}, method="PUT", headers=as_key(keys[role]))[0]
    assert set_as("admin", "tenant:default") == 200
    assert set_as("admin", "tenant:other") == 404
    assert set_as("admin", "organisation:us") == 403
    assert set_as("admin", "team:core", tenant="other") == 404
    assert set_as("owner", "organisation:us") == 200 and set_as("owner", "tenant:other") == 200
    assert set_as("auditor", "tenant:default") == 403 and set_as("developer", "tenant:default") == 403
    assert corral.get("/budgets", headers=as_key(keys["developer"]))[0] == 403
    assert len(corral.get("/budgets", headers=as_key(keys["auditor"]))[2]["rows"]) == 3
    for bad in ({"scope": "tenant:default"}, {"scope": "x", "tokens": 1}, {"scope": "tenant:default", "tokens": -1}, {"scope": "tenant:default", "tokens": "1"},
                {"scope": "tenant:default", "tokens": 1, "period": "week"}, {"scope": "tenant:default", "tokens": 1, "mode": "maybe"}, {"tokens": 1},
                {"scope": "tenant:default", "token": 1}, {"scope": "provider:acme", "unlimited": 1}, {"scope": "provider:acme", "unlimited": False},
                {"scope": "provider:acme", "unlimited": True, "microusd": 5}, {"scope": "organisation:us", "tokens": 5, "tenant": "default"},
                {"scope": "tenant:default", "tokens": 5, "tenant": "other"}):
        status, _, body = corral.get("/budgets", body=bad, method="PUT")
        assert status in (400, 422), (bad, body)
    assert corral.get("/budgets?scope=organisation:us&period=day&tenant=default", method="DELETE")[0] == 422
    until(lambda: any(e["action"] == "budgets.write" and "tenant:default day enforce tokens=1000000" in e["object"] and e["outcome"] == "ok"
                      for e in corral.get("/audit?action=budgets.write")[2]["entries"]))


def test_the_command(corral):
    def corral_cli(*words):
        return subprocess.run([BINARY, *words, "--url", corral.url], capture_output=True, text=True)
    done = corral_cli("budgets", "set", "tenant:default", "--tokens", "1000", "--period", "day")
    assert done.returncode == 0 and "tenant:default" in done.stdout, done
    done = corral_cli("budgets")
    assert done.returncode == 0 and re.search(r"tenant:default +default +day +enforce", done.stdout), done.stdout
    assert json.loads(corral_cli("budgets", "--json").stdout)["rows"][0]["limit_tokens"] == 1000
    assert corral_cli("budgets", "set", "provider:acme", "--unlimited").returncode == 0
    assert re.search(r"provider:acme +- +month +enforce +unlimited", corral_cli("budgets").stdout)
    assert corral_cli("budgets", "set", "user:ann", "--tokens", "5", "--tenant", "red").returncode == 0
    assert re.search(r"user:ann +red +month", corral_cli("budgets").stdout), "whose user it is"
    assert row(corral, "provider:acme")["unlimited"] and not row(corral, "tenant:default", "day")["unlimited"]
    assert corral_cli("budgets", "rm", "tenant:default", "--period", "day").returncode == 0
    assert corral_cli("budgets", "rm", "tenant:default", "--period", "day").returncode == 1
    assert corral_cli("budgets", "set", "tenant:default").returncode == 2


def test_a_killed_gateway_leaves_doubt_until_it_is_back(corral, engine, tmp_path):
    put(corral, "tenant:default", tokens=5000)
    engine.hold.clear()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda: _try(corral)) for _ in range(4)]
        until(lambda: row(corral, "tenant:default")["held_tokens"] > 400)
        dead = corral.apart["gateway"].kill() if corral.apart else kill(corral.program)
        engine.hold.set()
        [a.result() for a in asked]
    if corral.apart:
        corral.apart.start(["gateway"])
    else:
        corral.program = Program("corral", dead, tmp_path / "again.log", f"{corral.admin}/readyz")
    until(lambda: row(corral, "tenant:default")["limit_tokens"] == 5000, 60)
    assert row(corral, "tenant:default")["held_tokens"] + row(corral, "tenant:default")["in_doubt_tokens"] > 400
    until(lambda: row(corral, "tenant:default")["held_tokens"] + row(corral, "tenant:default")["in_doubt_tokens"] == 0, 60)


def kill(program):
    """kill -9; the words that start it again."""
    program.handle.kill()
    program.handle.wait()
    return program.handle.args


def _try(corral):
    try:
        return chat(corral, max_tokens=100)[0]
    except Exception:
        return None
