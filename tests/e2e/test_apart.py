"""Every service as a process of its own: started in any order, killed, stopped, restarted; what is served meanwhile and what is said of it."""
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apart import SERVICES, Apart, get, programs
from servers import ROOT, http, script

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is Corral?"}], "max_tokens": 16}


def ask(place, body=QUESTION, **kw):
    status, headers, text = http("http://%s:%d/v1/chat/completions" % place.addresses["gateway"], body, "POST", timeout=30, **kw)
    return status, headers, json.loads(text)


def fetch(place, path, **kw):
    status, _, text = http("http://%s:%d%s" % (*place.addresses["gateway"], path), **kw)
    return status, json.loads(text)


def eventually(condition, seconds=20):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    return condition()


@pytest.fixture
def apart(tmp_path, llama):
    """apart(*options, wire=): the processes of one Corral, not started yet."""
    made = []

    def make(*options, wire="ipc", **kw):
        made.append(Apart(tmp_path, wire, ["--backends", f"tiny=llamacpp+{llama.url}", "--log-format=json", *options], **kw))
        return made[-1]

    yield make
    wrong = [w for place in made for w in place.stop()]
    assert not wrong, "\n".join(wrong)


def test_any_order_and_nobody_waits(apart):
    place = apart()
    gateway = place["gateway"]
    gateway.start(place.env)
    missed = {"model snapshot", *(f"peer {name}" for name in ("model-registry", "selector", "usage-tracker", "access"))}
    assert eventually(lambda: {n for n, ok in (gateway.needs() or {}).items() if not ok} >= missed), gateway.needs()
    assert eventually(lambda: get(gateway.admin + "/startupz")[0] == 200) and not gateway.ready()
    status, _, body = ask(place)
    assert status == 503 and body["error"]["message"], body
    others = [name for name in SERVICES if name != "gateway"]
    random.shuffle(others)
    place.start(others)
    assert ask(place)[0] == 200, others


def test_the_first_client_after_a_restart_is_served_from_disk(apart):
    place = apart()
    place.start()
    assert ask(place)[0] == 200
    for name in SERVICES:
        place[name].kill()

    def first():
        with contextlib.suppress(OSError):           # it does not listen yet
            return ask(place)
    for _ in range(3):
        place["gateway"].start(place.env)
        status, _, body = eventually(first)
        assert status == 200, body
        place["gateway"].kill()


@pytest.mark.parametrize("gone", [name for name in SERVICES if name not in ("gateway", "hardware-probe", "cloud-fallback")])
def test_what_is_missing_is_named_and_found_again(apart, gone):
    place = apart()
    place.start()
    place[gone].kill()
    said = eventually(lambda: not (place["gateway"].needs() or {}).get(f"peer {gone}", True))
    assert said and place["gateway"].ready(), "the gateway does not name it, or is not ready without it"
    assert ask(place)[0] == 200
    place[gone].start(place.env)
    place.wait(lambda: all(s.settled() for s in place.services.values()))
    assert ask(place)[0] == 200


def test_a_stopped_one_is_named(apart):
    place = apart()
    place.start()
    place["selector"].signal(signal.SIGSTOP)
    try:
        assert eventually(lambda: not (place["gateway"].needs() or {}).get("peer selector", True), 10)
        assert ask(place)[0] == 200
    finally:
        place["selector"].signal(signal.SIGCONT)
    assert eventually(lambda: (place["gateway"].needs() or {}).get("peer selector"), 10)


def test_feedback_while_the_ledger_is_away(apart, tmp_path):
    """202 all the same, and kept when it is back: once, the last word of each author, across a kill -9 of the gateway."""
    place = apart()
    place.start()
    status, headers, _ = ask(place)
    assert status == 200
    request = headers["X-Request-Id"]
    assert eventually(lambda: fetch(place, f"/requests/{request}")[0] == 200)
    place["usage-tracker"].kill()
    for rating in (1, 4):
        status, said = fetch(place, "/feedback", body={"request_id": request, "rating": rating}, method="POST")
        assert (status, said) == (202, {"success": True}), said
    place["gateway"].kill()
    place["gateway"].start(place.env)
    assert eventually(place["gateway"].ready), place["gateway"].tail()
    assert fetch(place, "/feedback", body={"request_id": request, "tests_passed": 2, "tests_total": 3, "rating": 5}, method="POST")[0] == 202
    place["usage-tracker"].start(place.env)
    book = next(p for p in Path(tmp_path).rglob("ledger.db"))

    def kept():
        with contextlib.closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute("SELECT rating, tests_passed, tests_total FROM feedback").fetchall()
    assert eventually(lambda: kept() == [(5, 2, 3)], 30), kept()


def test_a_gateway_alone_serves_from_its_disk(apart):
    """Everything else is dead; models, policy and keys are those of its last snapshots, and the facts reach the ledger later."""
    place = apart()
    place.start()
    status, made = fetch(place, "/keys", body={"name": "k"}, method="POST")
    assert status in (200, 201), made
    key = {"Authorization": f"Bearer {made.get('secret') or made.get('key')}"}
    assert eventually(lambda: ask(place, headers=key)[0] == 200)
    assert ask(place)[0] == 200
    for name in SERVICES:
        place[name].kill()
    gateway = place["gateway"]
    gateway.start(place.env)
    assert eventually(gateway.ready), gateway.tail()
    status, headers, body = ask(place, headers=key)
    assert status == 200 and body["choices"][0]["message"]["content"], body
    nobodys = {"Authorization": "Bearer corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS"}
    assert ask(place, headers=nobodys)[0] == 401, "a key that is none was let in"
    assert [m["id"] for m in fetch(place, "/v1/models")[1]["data"]] == ["auto", "corral-tiny"]
    place.start([name for name in SERVICES if name != "gateway"])
    rows = eventually(lambda: [a for a in fetch(place, f"/requests/{headers['X-Request-Id']}")[1].get("attempts", []) if a["status"] == "ok"])
    assert len(rows) == 1, "the request that was served alone is not in the ledger once"


def test_the_selector_decides_for_each_request(apart):
    place = apart("--decide=remote", "--decide-timeout=5s")
    place.start()
    status, headers, _ = ask(place)
    assert status == 200

    def explained():
        code, body = fetch(place, f"/explain/{headers['X-Request-Id']}")
        return body if code == 200 else None

    said = eventually(explained)
    assert said["decided_by"] == "selector" and said["not_asked"] is None and said["replayed"] is True, said
    assert fetch(place, "/explain", body={"prompt": "hello"}, method="POST")[1]["decided_by"] == "selector"


def counted(place, name):
    _, _, text = http(place["gateway"].admin + "/metrics")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("corral_" + name))


def test_without_the_selector_the_gateway_decides_and_says_so(apart):
    place = apart("--decide=remote", "--decide-timeout=300ms")
    place.start()
    assert ask(place)[0] == 200
    place["selector"].signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        status, headers, _ = ask(place)
        assert status == 200 and time.monotonic() - began < 10
        assert fetch(place, "/explain", body={"prompt": "hello"}, method="POST")[1]["not_asked"] == "the selector did not answer in time"
        reasons = [counted(place, f'remote_decision_fallbacks_total{{service="gateway",reason="{why}"}}') for why in ("late", "away")]
        assert reasons[0] >= 1 and sum(reasons) >= 2, reasons     # what was noticed between the two to be away is not asked
    finally:
        place["selector"].signal(signal.SIGCONT)
    said = eventually(lambda: fetch(place, f"/explain/{headers['X-Request-Id']}")[1] if fetch(place, f"/explain/{headers['X-Request-Id']}")[0] == 200 else None)
    assert said["decided_by"] == "gateway" and said["not_asked"] == "the selector did not answer in time" and said["replayed"] is True, said
    place["selector"].kill()
    assert eventually(lambda: fetch(place, "/explain", body={"prompt": "hello"}, method="POST")[1]["not_asked"] == "the selector is away")
    assert ask(place)[0] == 200
    place["selector"].start(place.env)
    assert eventually(lambda: fetch(place, "/explain", body={"prompt": "hello"}, method="POST")[1]["decided_by"] == "selector")


def test_certificates_that_cannot_be(tmp_path):
    subprocess.run([ROOT / "scripts/certs", tmp_path, "selector", "gateway"], check=True)

    def start(**files):
        options = [f"--{k.replace('_', '-')}={tmp_path / v}" for k, v in files.items()]
        done = subprocess.run([programs() / "selector", "--state-dir", tmp_path / "state", "--admin-listen=127.0.0.1:0", *options], capture_output=True,
                              text=True, timeout=20)
        assert done.returncode == 1
        return done.stderr

    assert "the key is not that of the certificate" in start(tls_ca="ca.pem", tls_cert="selector.pem", tls_key="gateway.key")
    assert "tls_key is not given" in start(tls_ca="ca.pem", tls_cert="selector.pem")
    assert "cannot be read: No such file" in start(tls_ca="none.pem", tls_cert="selector.pem", tls_key="selector.key")
