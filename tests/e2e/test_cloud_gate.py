"""The gateway's side of the cloud: when it is asked, what does not leave, and the active model changed under open streams."""
import http.client as http_client
import json
import socket
import sys
import threading

import pytest

from servers import ROOT, Corral, http, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402
from test_runs import Scripted                                   # noqa: E402

KEY, CANARY = "canary-key-gate-1234", "BLUE-HERON-77"


@pytest.fixture(scope="module")
def fake():
    fake = providers.Fake(script=["answer 3"], keys={KEY})
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def corral(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    (folder / "rules").write_text(f"redact bird text {CANARY}\nredact email\nrefuse code pattern TOP-\\d{{4}}\n")
    (folder / "corral.yaml").write_text(f"""
providers:
  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1|m2, key_env: GATE_KEY, monthly_tokens: unlimited, slots: 64}}
""")
    corral = Corral(folder, None, "--backends=gone=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0",
                    "--cloud-redact", str(folder / "rules"), "--cache=off", env={"GATE_KEY": KEY})
    until(lambda: any(m["id"] == "oa/m1" for m in corral.get("/v1/models")[2]["data"]))
    until(lambda: chat(corral, "ready?")[0] == 200)
    yield corral
    assert corral.close() is None
    assert CANARY not in corral.logs()


def put(corral, name):
    status, headers, text = http(corral.url + "/settings/active-model", {"model": name}, "PUT")
    return status, headers, json.loads(text)


def chat(corral, content, model="auto", **more):
    return corral.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": content}], **more})


def test_without_a_local_model_the_cloud_answers_and_it_is_booked_there(corral, fake):
    status, headers, body = chat(corral, "hello")
    assert status == 200 and headers["X-Corral-Reason"] == "fallback" and headers["X-Corral-Backend"] == "oa", body
    assert fake.calls[-1].headers["x-request-id"] == headers["X-Request-Id"]
    until(lambda: any(r.get("provider") == "oa" for r in corral.get("/usage?group_by=provider")[2]["rows"]))
    explained = corral.get("/explain/" + headers["X-Request-Id"])
    until(lambda: corral.get("/explain/" + headers["X-Request-Id"])[0] == 200)
    explained = corral.get("/explain/" + headers["X-Request-Id"])[2]
    assert explained["replayed"] is True, explained


def test_what_is_to_stay_stays(corral, fake):
    calls = len(fake.calls)
    status, _, body = corral.post("/inference", {"prompt": "hello", "local_only": True})
    assert status == 503 and "to stay local" in body["error"], body
    status, _, body = corral.post("/inference", {"prompt": "hello", "model": "oa/m1", "local_only": True})
    assert status == 403, body
    assert len(fake.calls) == calls


def test_a_key_and_a_tenant_can_be_marked_local_only(corral, fake):
    def key(**of):
        status, _, body = corral.post("/keys", {"role": "developer", **of})
        assert status == 201, body
        return {"Authorization": "Bearer " + body["secret"]}

    def status(head, wanted):
        until(lambda: corral.post("/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "x"}]}, headers=head)[0] == wanted)
    free, kept = key(name="free"), key(name="kept", local_only=True)
    status(free, 200)
    status(kept, 503)
    assert http(corral.url + "/tenants/quiet", {"local_only": True}, "PUT")[0] in (200, 201)
    of_tenant = key(name="quiet", tenant="quiet")
    status(of_tenant, 503)
    assert http(corral.url + "/tenants/quiet", {}, "PUT")[0] == 200
    status(of_tenant, 200)


def test_canaries_do_not_leave(corral, fake):
    half = len(CANARY) // 2
    parts = [{"type": "text", "text": f"say {CANARY[:half]}"}, {"type": "text", "text": f"{CANARY[half:]} to ann@example.org"}]
    called = [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {
        "name": "f", "arguments": json.dumps({"q": CANARY}).replace("BLUE", "\\u0042LUE")}}]}, {"role": "tool", "tool_call_id": "c1", "content": "ok"}]
    status, _, body = corral.post("/v1/chat/completions", {"model": "oa/m1", "messages": [{"role": "user", "content": parts}, *called, {"role": "user", "content": "go on"}]})
    assert status == 200, body
    sent = json.dumps(fake.calls[-1].json)
    assert CANARY not in sent and CANARY[half:] not in sent and "LUE-HERON" not in sent and "ann@example.org" not in sent
    assert sent.count("[redacted:bird]") == 2 and "[redacted:email]" in sent
    calls = len(fake.calls)
    status, _, body = chat(corral, "this is TOP-1234", "oa/m1")
    assert status == 422 and "rule 'code'" in body["error"]["message"] and "1234" not in json.dumps(body), body
    assert len(fake.calls) == calls


@pytest.mark.parametrize("behaviour, stream, source, answer", [("close", False, "in_doubt", 5), ("torn 2", True, "in_doubt", 5), ("error200", False, "in_doubt", 5),
                                                                ("status 500", False, "unknown", 0), ("status 429 retry=0", True, "unknown", 0), ("answer 3", True, "reported", 3)])
def test_what_may_have_cost_money_is_booked(corral, fake, behaviour, stream, source, answer):
    until(lambda: chat(corral, "do: answer 1", "oa/m1")[0] == 200)                        # no breaker of the cases before is open
    status, headers, _ = http(corral.url + "/v1/chat/completions", {"model": "oa/m1", "stream": stream, "max_tokens": 5, "messages": [
        {"role": "user", "content": f"do: {behaviour}"}]}, "POST", timeout=60)
    request = headers["X-Request-Id"]

    def rows():
        status, _, body = corral.get("/requests/" + request)
        return status == 200 and not any(a["open"] for a in body["attempts"]) and body["attempts"]
    last = until(rows)[-1]
    assert (last["tokens_source"], last["completion_tokens"]) == (source, answer), last
    assert (last["prompt_tokens"] == 0) == (source == "unknown"), last


def test_the_active_model_changes_under_open_streams(corral, fake):
    set_to = lambda name: put(corral, name)       # noqa: E731
    status, _, body = set_to("oa/m1")
    assert status == 200 and body["model"] == "oa/m1", body
    until(lambda: chat(corral, "x")[1]["X-Corral-Model"] == "oa/m1")
    fake.now(["answer 40 gap=50ms"])
    outcomes, lock = [], threading.Lock()

    def one(n):
        said = http(corral.url + "/v1/chat/completions", {"model": "auto", "stream": True, "messages": [{"role": "user", "content": f"turn {n}"}]}, "POST", timeout=60)[2]
        with lock:
            outcomes.append(said)
    before = len(fake.calls)
    threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
    for t in threads:
        t.start()
    until(lambda: len(fake.calls) == before + 50)
    assert set_to("oa/m2")[0] == 200
    for t in threads:
        t.join(60)
    assert len(outcomes) == 50 and all(o.rstrip().endswith("data: [DONE]") and "error" not in o for o in outcomes), outcomes[0]
    assert all(c.json["model"] == "m1" for c in fake.calls[before:])
    fake.now(["answer 1"])
    until(lambda: chat(corral, "x")[1]["X-Corral-Model"] == "oa/m2")
    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    assert corral.post("/v1/chat/completions", {"model": "auto", "messages": history})[0] == 200
    assert fake.calls[-1].json["model"] == "m2" and [m["content"] for m in fake.calls[-1].json["messages"]] == ["one", "two", "three"]
    assert set_to("no/such")[0] == 404
    assert set_to(None)[2]["model"] is None


def test_a_full_queue_in_the_cloud_sends_auto_home(fake, tmp_path):
    """The provider has one slot, and nobody may wait for it: who named its model is refused, who left it open is answered at home, and the log says why."""
    home = Scripted()
    home.now("answer 2")
    (tmp_path / "corral.yaml").write_text(f'providers:\n  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1, key_env: GATE_KEY, monthly_tokens: unlimited, slots: 1}}\n')
    corral = Corral(tmp_path, None, f"--backends=a=llamacpp+{home.url}", "--config", str(tmp_path / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cache=off",
                    "--queue-max=0", env={"GATE_KEY": KEY})
    stays = http_client.HTTPConnection(corral.url[7:], timeout=60)
    try:
        hard = {"complexity": "COMPLEX"}
        until(lambda: chat(corral, "x", "m")[0] == 200)          # the slots at home are lent
        until(lambda: (got := corral.post("/inference", {"prompt": "do: answer 1", **hard}))[0] == 200 and got[1]["X-Corral-Backend"] == "oa")
        before = len(fake.calls)
        stays.request("POST", "/v1/chat/completions", json.dumps({"model": "oa/m1", "messages": [{"role": "user", "content": "do: hang"}]}), {"Content-Type": "application/json"})
        until(lambda: len(fake.calls) > before)
        status, headers, body = chat(corral, "x", "oa/m1")
        assert status == 429 and headers["Retry-After"], body
        status, headers, body = corral.post("/inference", {"prompt": "do: answer 1", **hard})
        assert status == 200 and (headers["X-Corral-Backend"], headers["X-Corral-Reason"]) == ("a", "fallback"), body
        explained = until(lambda: (got := corral.get("/explain/" + headers["X-Request-Id"]))[0] == 200 and got[2])
        assert explained["replayed"] is True and explained["chosen"]["backend"] == "a", explained
        assert [(r["model"], r["rule"]) for r in explained["rejected"]] == [("oa/m1", "queue_full")], explained
        assert 'corral_queue_passed_total{model="oa/m1"} 1' in corral.metrics()
    finally:
        stays.close()
        wrong = corral.close()
        home.close()
    assert wrong is None


def test_what_nobody_asked_at_home_yet_is_no_reason_to_spend(fake, tmp_path):
    """A backend that is added takes connections, says nothing and was never heard of: auto is refused with the reason, who names the cloud gets it. Before
    that, and once it is known to be gone, the cloud stands in for the house."""
    def configure(*backends):
        (tmp_path / "corral.yaml").write_text(f"backends: [{', '.join(backends)}]\nlist_timeout: 2m\nresidency_every: 500ms\nproviders:\n"
                                              f'  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1, key_env: GATE_KEY, monthly_tokens: unlimited}}\n')

    def in_the_cloud():
        answered = until(lambda: (got := chat(corral, "do: answer 1"))[0] == 200 and got)
        assert (answered[1]["X-Corral-Backend"], answered[1]["X-Corral-Reason"]) == ("oa", "fallback")
    gone = "gone=openai+http://127.0.0.1:1"
    configure(gone)
    corral = Corral(tmp_path, None, "--config", str(tmp_path / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cache=off", env={"GATE_KEY": KEY})
    in_the_cloud()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configure(gone, f"a=openai+http://127.0.0.1:{silent.getsockname()[1]}")
        corral.reload()
        status, headers, body = until(lambda: (got := chat(corral, "do: answer 1"))[0] == 503 and got)
        assert headers["Retry-After"] and "what backend 'a' has is not known yet" in body["error"]["message"], body
        explained = until(lambda: (got := corral.get("/explain/" + headers["X-Request-Id"]))[0] == 200 and got[2])
        assert explained["replayed"] is True and [(r["model"], r["rule"]) for r in explained["rejected"]] == [("oa/m1", "home_unknown")], explained
        before = len(fake.calls)
        assert chat(corral, "do: answer 1")[0] == 503 and len(fake.calls) == before
        assert chat(corral, "do: answer 1", "oa/m1")[0] == 200
    in_the_cloud()
    assert corral.close() is None


@pytest.fixture(scope="module")
def paid(fake, tmp_path_factory):
    """A Corral whose provider's key is in a file, with a price."""
    folder = tmp_path_factory.mktemp("paid")
    (folder / "keys").write_text(KEY + "\n")
    (folder / "prices.tsv").write_text("oa\tm1\t-\t-\t-\t2000000\t-\t6000000\t2026-11-20\ta price list\n")
    (folder / "corral.yaml").write_text(f"""
providers:
  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1|m2, key_file: "{folder}/keys", monthly_microusd: 5000000}}
""")
    corral = Corral(folder, None, "--backends=gone=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0",
                    "--cloud-catalogue", str(folder / "prices.tsv"), "--cache=off")
    corral.keys = folder / "keys"
    until(lambda: chat(corral, "ready?", "oa/m1", max_tokens=50)[0] == 200)
    yield corral
    assert corral.close() is None


def test_what_it_may_cost_is_told_before_what_it_did_cost(paid, fake):
    status, headers, body = chat(paid, "do: answer 3", "oa/m1", max_tokens=50)
    assert status == 200 and int(headers["X-Corral-Cost-Microusd"]) == 2 * 7 + 6 * 3, headers
    expected = int(headers["X-Corral-Estimated-Cost-Microusd"])
    assert 6 * 50 < expected < 6 * 50 + 2 * 100, headers
    request = {"model": "oa/m1", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "do: answer 3"}]}
    status, headers, text = http(paid.url + "/v1/chat/completions", request, "POST")
    assert status == 200 and int(headers["X-Corral-Estimated-Cost-Microusd"]) == expected and "X-Corral-Cost-Microusd" not in headers, headers


def test_a_key_that_is_changed_counts_at_once(paid, fake):
    """Its provider had refused the one before, and told to come back in ten minutes."""
    paid.keys.write_text("another-key-that-is-refused\n")
    until(lambda: chat(paid, "x", "oa/m1", max_tokens=5)[0] == 503)
    until(lambda: paid.get("/providers")[2]["providers"][0]["reason"] == "oa refuses its key")
    paid.keys.write_text(KEY + "\n")
    until(lambda: chat(paid, "x", "oa/m1", max_tokens=5)[0] == 200)


def test_a_shadow_in_the_cloud_is_refused(paid):
    status, _, said = paid.post("/tests", {"name": "unseen", "model_a": "oa/m1", "model_b": "oa/m2", "shadow": True})
    assert status == 422 or status == 400, said
    assert "a shadow is never asked of a provider in the cloud, where 'oa/m2' of arm 'b' is" in json.dumps(said), said
