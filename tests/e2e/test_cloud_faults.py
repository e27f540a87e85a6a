"""Every way in which a provider fails, from the client to the ledger: the right error in the client's words, one attempt, one row, the right breaker."""
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import ROOT, Corral, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402

KEY = "canary-key-faults-1234"
KINDS = {"oa": ("openai", "/v1"), "an": ("anthropic", "/v1"), "ge": ("gemini", "/v1beta"), "go": ("gemini", "/v1beta/openai"), "or": ("openrouter", "/api/v1"),
         "rp": ("runpod", "/v2/ep")}
OK = "ready"

# name: (behaviour, is it asked for as a stream, status, label of the fault, state of the provider afterwards)
FAULTS = {
    "auth": ("status 401", False, 503, "auth", "not configured"),
    "credit": ("status 402", False, 503, "no_credit", "no budget"),
    "wait": ("status 429 retry=300", False, 429, "rate_limited", "cooling"),
    "many": ("status 429", True, 429, "rate_limited", "cooling"),
    "busy": ("status 529", False, 503, "overloaded", OK),
    "later": ("status 503 retry=200", True, 503, "overloaded", "cooling"),
    "refused": ("status 400", True, 400, "bad_request", OK),
    "inside": ("error200", False, 502, "broken", OK),
    "stall": ("stall 2", True, 200, "broken", OK),
    "torn": ("torn 2", True, 200, "broken", OK),
    "open": ("unterminated 2", True, 200, "broken", OK),
    "event": ("event-error 2", True, 200, None, OK),
    "closed": ("close", False, 502, "broken", OK),
    "uncounted": ("answer 3 usage=no", True, 200, "", OK),
    "bytes": ("badutf8 3", True, 200, "", OK),
    "cold": ("answer 3 wait=600ms", False, 200, "", OK),
}
NO_TIME_SAID = {"ge", "go"}      # says by no header how long; the quota of a minute, and RetryInfo
DIALECTS = ("openai", "anthropic", "ollama")
CASES = [(kind, fault, DIALECTS[(i + j) % 3]) for i, kind in enumerate(KINDS) for j, fault in enumerate(FAULTS)]
BROKEN = {"stall", "torn", "open", "event"}


def ask(corral, kind, fault, dialect, text="x"):
    model, stream = f"{kind}-{fault}/{fault}", FAULTS[fault][1]
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **({"options": {"num_predict": 9}} if dialect == "ollama" else {"max_tokens": 9})}
    path = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}[dialect]
    c = http.client.HTTPConnection(corral.url[7:], timeout=60)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = c.getresponse()
    return answer.status, answer.headers, answer.read().decode(errors="replace"), next(p["state"] for p in corral.get("/providers")[2]["providers"] if p["name"] == model.split("/")[0])


@pytest.fixture(scope="module")
def fake():
    with providers.Fake(script=["answer 3"], models={name: f[0] for name, f in FAULTS.items()} | {"burst": "status 500"}, keys={KEY}) as fake:
        yield fake


@pytest.fixture(scope="module")
def corral(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    entry = '  - {{name: {}, kind: {}, url: "{}", models: {}, key_env: FAULTS_KEY, monthly_tokens: unlimited}}\n'
    entries = [entry.format(f"{kind}-{fault}", KINDS[kind][0], fake.url + KINDS[kind][1], fault) for kind, fault, _ in CASES]
    entries.append(entry.format("oa-burst", "openai", fake.url + "/v1", "burst"))
    (folder / "corral.yaml").write_text("providers:\n" + "".join(entries))
    corral = Corral(folder, None, "--backends=gone=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cloud-idle=2s",
                    "--cache=off", env={"FAULTS_KEY": KEY})
    until(lambda: all(p["state"] == OK for p in corral.get("/providers")[2]["providers"]))
    until(lambda: len({m["id"] for m in corral.get("/v1/models")[2]["data"]}) > len(CASES))
    yield corral
    assert corral.close() is None
    assert KEY not in corral.logs()


@pytest.fixture(scope="module")
def answers(corral, fake):
    """All at once: most of the time is waiting."""
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda case: until(lambda: ask(corral, *case, text="do: answer 1")[0] == 200), CASES))      # its budget is known
        fake.lines.clear()
        return dict(zip(CASES, pool.map(lambda case: ask(corral, *case), CASES)))


@pytest.fixture(scope="module")
def counted(corral, answers):
    """Lines of the metric, by provider."""
    lines = [line for line in corral.metrics().splitlines() if line.startswith("corral_provider_faults_total{")]
    return {name: [line for line in lines if f'provider="{name}"' in line] for name in (f"{kind}-{fault}" for kind, fault, _ in CASES)}


def error_of(dialect, stream, text):
    """The sentence of an error of that dialect, the last there is of a stream."""
    if stream:
        assert "data: [DONE]" not in text and "event: message_stop" not in text and '"done":true' not in text, text
        if dialect == "anthropic":
            assert text.split("\n\n")[-2].startswith("event: error"), text
        text = text.strip().split("\n")[-1].removeprefix("data: ")
    error = json.loads(text)["error"]
    if dialect == "ollama":
        return error
    assert error["type"] and (dialect == "openai" or json.loads(text)["type"] == "error"), text
    return error["message"]


@pytest.mark.parametrize("kind, fault, dialect", CASES, ids=lambda v: v)
def test_a_fault(corral, fake, answers, counted, kind, fault, dialect):
    status, headers, text, now = answers[kind, fault, dialect]
    behaviour, stream, want, label, state = FAULTS[fault]
    name, request = f"{kind}-{fault}", headers["X-Request-Id"]
    assert status == want, text
    if want != 200 or fault in BROKEN:
        assert name in error_of(dialect, stream and want == 200, text), text
    if fault in BROKEN:
        assert "w0" in text
    if fault in ("wait", "later") and kind not in NO_TIME_SAID:
        assert 100 < int(headers["Retry-After"]) <= 300
    row, lines = until(lambda: settled(corral, fake, request))
    assert row["provider"] == name
    if fault in BROKEN or fault in ("inside", "closed"):                                  # it may have cost money, and nobody says how much
        assert (row["completion_tokens"], row["tokens_source"]) == (9, "in_doubt"), row
    else:
        assert row["completion_tokens"] <= lines[0]["tokens"] and (want == 200 or row["prompt_tokens"] == 0), row
    if want == 200 and fault not in BROKEN:
        assert row["status"] == "ok" and row["completion_tokens"] > 0
        assert row["tokens_source"] == ("reported" if lines[0]["reported"] else "counted")
    else:
        assert row["status"] == "error" and row["error_code"], row
    assert now == state
    labels = counted[name]
    assert (not labels) if label == "" else len(labels) == 1 and labels[0].endswith(" 1") and (label is None or f'fault="{label}"' in labels[0]), labels


def fake_state(corral, name):
    return next(p["state"] for p in corral.get("/providers")[2]["providers"] if p["name"] == name)


def settled(corral, fake, request):
    """The one row of a request, and what the provider wrote down of it: one line. None while they are not there."""
    status, _, body = corral.get(f"/requests/{request}")
    lines = [line for line in fake.lines if line["request_id"] == request]
    if status != 200 or not lines or not all(a["status"] for a in body["attempts"]):
        return None
    assert len(lines) == 1 and len(body["attempts"]) == 1, (lines, body)
    return body["attempts"][0], lines


def test_a_burst_opens_the_breaker_and_nothing_more_is_sent(corral, fake, answers):
    def burst():
        return corral.post("/v1/chat/completions", {"model": "oa-burst/burst", "messages": [{"role": "user", "content": "x"}]})
    sent = [burst()[0] for _ in range(5)]
    assert sent == [502] * 5
    until(lambda: fake_state(corral, "oa-burst") == "cooling")
    calls = len(fake.calls)
    status, headers, body = burst()
    assert status == 503 and int(headers["Retry-After"]) > 0 and len(fake.calls) == calls, body
    why = next(p["reason"] for p in corral.get("/providers")[2]["providers"] if p["name"] == "oa-burst")
    assert "failed 5 times in a row" in why
