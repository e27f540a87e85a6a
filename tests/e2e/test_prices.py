"""Prices, what they make of the ledger, /usage as CSV, /savings; and the commands that show them."""
import csv
import io
import json
import os
import re
import sqlite3
import subprocess

import pytest

from servers import ROOT, http
from test_runs import until
from test_runs import model, place                               # noqa: F401

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


def put(corral, headers=None, **price):
    status, _, text = http(corral.url + "/prices", price, "PUT", headers=headers or {})
    return status, json.loads(text)


def ask(corral, n=1):
    before = corral.get("/usage")[2]["totals"]["attempts"]
    for _ in range(n):
        status, _, text = http(corral.url + "/v1/chat/completions", ASK)
        assert status == 200, text
    until(lambda: corral.get("/usage")[2]["totals"]["attempts"] == before + n)


def key(corral, tenant, role):
    assert http(f"{corral.url}/tenants/{tenant}", {}, "PUT")[0] in (200, 201)
    status, _, made = corral.post("/keys", {"name": f"{tenant}-{role}", "tenant": tenant, "role": role})
    assert status == 201, made
    headers = {"Authorization": f"Bearer {made['secret']}"}
    until(lambda: http(corral.url + "/api/version", headers=headers)[0] == 200)
    return headers


def totals(corral):
    return corral.get("/usage")[2]["totals"]


def test_a_price_counts_from_its_time_on(place, model):          # noqa: F811
    corral = place()
    assert corral.get("/budgets", body={"scope": "tenant:default", "period": "rolling:30d", "microusd": 10 ** 12}, method="PUT")[0] == 200
    ask(corral)
    assert totals(corral)["cost_microusd"] == 0
    assert put(corral, model="m", input_microusd=1_000_000_000, output_microusd=0)[0] == 201
    assert totals(corral)["cost_microusd"] == 0                  # what was booked is not touched
    ask(corral)
    first = totals(corral)
    tokens = first["prompt_tokens"] // 2
    assert first["cost_microusd"] == tokens * 1000               # 1,000 micro-dollars each
    assert put(corral, model="m", input_microusd=3_000_000_000, output_microusd=0)[0] == 201
    ask(corral)
    assert totals(corral)["cost_microusd"] == tokens * 4000
    corral.kill()
    corral = place()
    ask(corral)
    assert totals(corral)["cost_microusd"] == tokens * 7000      # a restart knows the price
    day = corral.get("/prices")[2]["prices"][0]["valid_from"]
    assert [(p["in_force"], p["input_microusd"]) for p in corral.get("/prices")[2]["prices"]] == [(False, 1_000_000_000), (True, 3_000_000_000)]
    # learned late: from the day's beginning on it was another price; booked by a reprice
    start = day[:10] + "T00:00:00Z"
    assert put(corral, model="m*", input_microusd=1, output_microusd=1, valid_from=start)[0] == 201
    assert put(corral, model="m", input_microusd=2_000_000_000, output_microusd=0, valid_from=start)[0] == 201
    status, _, said = corral.post("/prices/reprice", {"from": start, "to": day})
    assert (status, said["attempts"], said["changed"], said["before_microusd"], said["after_microusd"]) == (200, 1, 1, 0, tokens * 2000), said
    assert totals(corral)["cost_microusd"] == tokens * 9000
    assert corral.get("/budgets")[2]["rows"][0]["used_microusd"] == tokens * 9000        # what is spent of it follows, to the micro-dollar


def known(corral, n):
    """So many prices have reached the gateway."""
    until(lambda: re.search(rf"^corral_prices(\{{.*\}})? {n}$", corral.metrics(), re.M))


def booked(corral, request_id):
    def look():
        status, _, said = corral.get(f"/requests/{request_id}")
        return status == 200 and not said["attempts"][-1]["open"] and said
    until(look)
    return sum(a["cost_microusd"] for a in look()["attempts"])


def test_the_client_is_told_what_is_booked(place, model):        # noqa: F811
    corral = place()
    assert put(corral, model="m", input_microusd=1_000_000_000, output_microusd=3_000_000_000)[0] == 201
    assert put(corral, backend="a", gpu_hour_microusd=3_600_000_000_000, kwh_microusd=0)[0] == 201
    known(corral, 2)

    def say(**more):
        return http(corral.url + "/v1/chat/completions", {**ASK, **more})
    status, head, text = say()
    use = json.loads(text)["usage"]
    assert status == 200
    told = int(head["X-Corral-Cost-Microusd"])
    assert told == booked(corral, head["X-Request-Id"]) > use["prompt_tokens"] * 1000 + use["completion_tokens"] * 3000    # and the machine
    status, head, text = say(stream=True, stream_options={"include_usage": True})
    use = json.loads(text.split("data: ")[-2])["usage"]
    assert use["cost_microusd"] == booked(corral, head["X-Request-Id"]) > use["prompt_tokens"] * 1000
    for stream in (False, True):
        status, head, text = http(corral.url + "/inference", {"prompt": "x", "model": "m", "stream": stream})
        assert status == 200
        last = json.loads(text.strip().splitlines()[-1])
        assert last["cost_microusd"] == booked(corral, head["X-Request-Id"]) > last["prompt_eval_count"] * 1000
    status, head, text = http(corral.url + "/api/chat", ASK)
    last = json.loads(text.splitlines()[-1])
    assert last["cost_microusd"] == booked(corral, head["X-Request-Id"]) > last["prompt_eval_count"] * 1000
    status, head, text = http(corral.url + "/v1/messages", {**ASK, "max_tokens": 64, "stream": True})
    use = next(json.loads(line[6:])["usage"] for line in text.splitlines() if line.startswith('data: {"type":"message_delta"'))
    assert use["cost_microusd"] == booked(corral, head["X-Request-Id"]) > use["output_tokens"] * 3000
    corral.kill()
    corral = place()
    known(corral, 2)
    assert int(say()[1]["X-Corral-Cost-Microusd"]) > 0


@pytest.mark.parametrize("price, status, field", [
    ({"model": "m"}, 400, "input_microusd"), ({"model": "m", "input_microusd": 1}, 400, "output_microusd"),
    ({"model": "m", "input_microusd": -1, "output_microusd": 1}, 422, "input_microusd"), ({"input_microusd": 1, "output_microusd": 1.5}, 400, "output_microusd"),
    ({"input_microusd": 1, "output_microusd": 1, "kwh_microusd": 1}, 400, "gpu_hour_microusd"), ({"kwh_microusd": 1, "colour": "red"}, 400, "colour"),
    ({"kwh_microusd": 1, "valid_from": "yesterday"}, 422, "valid_from"), ({"kwh_microusd": 1, "currency": "EUR"}, 422, "currency"),
])
def test_what_is_no_price(corral, price, status, field):
    got, answer = put(corral, **price)
    assert (got, answer["field"]) == (status, field), answer


@pytest.mark.parametrize("path, status, field", [
    ("/usage?group_by=colour", 422, "group_by"), ("/usage?format=xml", 422, "format"), ("/usage?from=yesterday", 422, "from"),
    ("/usage?to=soon", 422, "to"), ("/savings", 400, "against"), ("/savings?against=nobody-has-this", 404, "against"),
    ("/savings?against=m&month=2026-13", 422, "month"), ("/savings?against=m&month=now", 422, "month"),
])
def test_what_cannot_be_asked(corral, path, status, field):
    got, _, answer = corral.get(path)
    assert (got, answer["field"]) == (status, field), answer


def test_the_same_scope_and_time_is_a_conflict(place, model):    # noqa: F811
    corral = place()
    price = dict(provider="acme", model="big", input_microusd=2_500_000, output_microusd=10_000_000, valid_from="2026-01-01")
    assert put(corral, **price)[0] == 201
    assert put(corral, **price)[0] == 200
    status, answer = put(corral, **{**price, "output_microusd": 9})
    assert (status, answer["error_code"]) == (409, "CONFLICT"), answer


def test_who_may(place, model):                                  # noqa: F811
    corral = place()
    assert put(corral, model="big", input_microusd=1_000_000_000, output_microusd=1_000_000_000, valid_from="2026-01-01")[0] == 201
    north, admin, auditor = key(corral, "north", "developer"), key(corral, "default", "admin"), key(corral, "default", "auditor")
    assert put(corral, headers=north, kwh_microusd=1)[0] == 403
    assert put(corral, headers=auditor, kwh_microusd=1)[0] == 403
    assert put(corral, headers=admin, kwh_microusd=1)[0] == 201
    ask(corral)                                                  # the default tenant's
    def would(headers, more=""):
        status, _, said = corral.get("/savings?against=big" + more, headers=headers)
        return said["would_cost_microusd"] if status == 200 else status
    assert would(north) == 0 and would(auditor) > 0 and would(auditor) == would(admin) == would(admin, "&tenant=default")
    assert would(north, "&tenant=default") == 404


def test_machines_cost_by_the_share_of_their_slots(place, model):    # noqa: F811
    corral = place()
    assert put(corral, backend="a", gpu_hour_microusd=3_600_000_000_000, kwh_microusd=0)[0] == 201      # 1,000 micro-dollars a microsecond
    ask(corral, 3)
    said = totals(corral)
    assert said["gpu_s"] > 0
    assert said["cost_microusd"] == round(said["gpu_s"] * 1e6) * 1000


def test_csv_is_safe_for_spreadsheets(place, model):             # noqa: F811
    corral = place()
    for name in ('=1+1', '+a', '@b', '-c', 'say "hi", now'):
        assert http(corral.url + "/v1/chat/completions", {**ASK, "model": name})[0] == 404
        assert http(corral.url + "/api/ollama/inference", {"prompt": "x", "model": "m", "task_type": name})[0] == 200
    until(lambda: corral.get("/usage")[2]["totals"]["requests"] >= 5)
    status, headers, text = http(corral.url + "/usage?group_by=task_type,day&format=csv")
    assert status == 200 and headers["Content-Type"] == "text/csv; charset=utf-8" and "\r\n" in text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows and set(rows[0]) >= {"task_type", "day", "requests", "cost_microusd", "success_rate"}
    assert not any(r["task_type"][:1] in "=+-@" and r["task_type"] for r in rows), rows
    assert sum(int(r["requests"]) for r in rows) == totals(corral)["requests"]


def test_usage_says_all_digits_and_each_name_once(place, model):     # noqa: F811
    corral = place()
    ask(corral)
    if not (ledger := corral.folder / "state/usage-tracker/ledger.db").exists():
        pytest.skip("this ledger is not a file")
    with sqlite3.connect(ledger, timeout=20) as db:
        db.execute("UPDATE sums SET gpu_us = 1234567891234, energy_mj = 9876543210")
    db.close()
    row = next(csv.DictReader(io.StringIO(http(corral.url + "/usage?group_by=model&format=csv")[2], newline="")))
    assert (row["gpu_s"], row["energy_j"]) == ("1234567.891234", "9876543.210")
    assert http(corral.url + "/usage?group_by=model,day,model&format=csv")[2].startswith("model,day,requests,")
    assert http(corral.url + "/usage?group_by=model,%20model")[2].count('"model"') == 1


def test_a_request_is_shown_with_all_that_its_cost_is_made_of(place, model):        # noqa: F811
    corral = place("--hardware=a=none")                          # its energy: test_energy.py
    assert put(corral, backend="a", gpu_hour_microusd=3_600_000_000_000)[0] == 201
    until(lambda: "corral_prices 1" in corral.metrics())
    status, headers, text = http(corral.url + "/v1/chat/completions", ASK)
    assert status == 200, text
    one = until(lambda: corral.get(f"/requests/{headers['X-Request-Id']}")[2].get("attempts"))[0]
    assert one["gpu_us"] > 0 and one["cost_microusd"] == one["gpu_us"] * 1000 and one["cost_source"] == "priced"
    assert (one["energy_mj"], one["cached_prompt_tokens"]) == (0, 0)
    assert float(re.search(r'^corral_cost_microusd_total\{model="m",backend="a"\} (\S+)$', corral.metrics(), re.M)[1]) == one["cost_microusd"]


def test_the_commands(place, model):                             # noqa: F811
    corral = place()

    def cli(*words, status=0):
        done = subprocess.run([PROGRAM, *words, "--url", corral.url], capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout
    assert "no prices" in cli("prices")
    assert "reprice" in cli("prices", "set", "--model", "big", "--provider", "acme", "--input", "2.50", "--output", "10", "--from", "2026-01-01")
    assert cli("prices", "set", "--backend", "a", "--gpu-hour", "1.80", "--kwh", "0.28").startswith("Set, from ")
    shown = cli("prices")
    assert "2.50" in shown and "10.00" in shown and "0.28" in shown and "in force" in shown
    cli("prices", "set", "--input", "2,50", "--output", "1", status=2)
    ask(corral, 2)
    assert "2 requests" in cli("savings", "--against", "big")
    assert json.loads(cli("savings", "--against", "big", "--json"))["local_requests"] == 2
    assert "no price" in subprocess.run([PROGRAM, "savings", "--against", "huge", "--url", corral.url], capture_output=True, text=True, timeout=60).stderr
    assert json.loads(cli("prices", "reprice", "--from", "2026-11-01", "--json"))["changed"] == 0
    assert cli("usage", "--group-by", "day,model", "--csv").startswith("day,model,requests")
    assert json.loads(cli("usage", "--group-by", "model", "--json"))["totals"]["requests"] == 2
