"""cloud-fallback and RunPod's own queue: jobs submitted, asked for, streamed, and cancelled when nobody waits for them any more."""
import http.client
import json
import re
import sys

import pytest

from servers import ARRANGEMENT, ROOT, Corral, free_port, http as fetch, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402

TOKEN, KEY = "a-token-that-gateways-show", "canary-key-queue-1234"


@pytest.fixture(scope="module")
def fake():
    with providers.Fake(script=["answer 3"], keys={KEY}) as fake:
        yield fake


@pytest.fixture(scope="module")
def sleepy():
    with providers.Fake(script=["answer 2"], keys={KEY}, cold=1.5) as fake:
        yield fake


@pytest.fixture(scope="module")
def cloud(fake, sleepy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("queue")
    entry = '  - {{name: {}, kind: runpod, api: queue, url: "{}/v2/ep", models: m1, key_env: QUEUE_KEY, monthly_tokens: unlimited}}\n'
    (folder / "corral.yaml").write_text("cloud_cold_start: 9s\nproviders:\n" + entry.format("rp", fake.url) + entry.format("cold", sleepy.url))
    listen = f"127.0.0.1:{free_port()}"
    corral = Corral(folder, None, "--backends=none=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen", listen, "--cloud-idle=3s",
                    "--breaker-failures=100", "--cloud-recheck=1s", env={"QUEUE_KEY": KEY, "CORRAL_CLOUD_TOKEN": TOKEN})
    corral.cloud = listen
    until(lambda: [state(corral, name)["state"] for name in ("rp", "cold")] == ["ready", "ready"])
    yield corral
    assert corral.close() is None
    assert KEY not in corral.logs()


def state(corral, name):
    return next(p for p in corral.get("/providers")[2]["providers"] if p["name"] == name)


def body(stream=False, text="x", model="rp/m1"):
    return {"model": model, "messages": [{"role": "user", "content": text}], **({"stream": True, "stream_options": {"include_usage": True}} if stream else {})}


def ask(corral, stream=False, headers=None, **more):
    return fetch(f"http://{corral.cloud}/v1/chat/completions", body(stream, **more), "POST", headers={"Authorization": f"Bearer {TOKEN}", **(headers or {})}, timeout=60)


def begin(corral, stream, text):
    """A request that is under way."""
    c = http.client.HTTPConnection(corral.cloud, timeout=30)
    c.request("POST", "/v1/chat/completions", json.dumps(body(stream, text)), {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
    return c


def cancelled(fake, call):
    """Its line, once the job was told to end."""
    return until(lambda: [line for line in fake.lines if line["job"] == call.job and line["cancelled"]])


@pytest.mark.parametrize("stream, path", [(True, "/v2/ep/run"), (False, "/v2/ep/runsync")])
@pytest.mark.parametrize("how", ["answer 3", "answer 3 gap=150ms", "answer 3 busy=1"])
def test_a_job_is_an_answer(cloud, fake, stream, path, how):
    status, _, text = ask(cloud, stream, text=f"do: {how}")
    call = fake.calls[-1]
    assert status == 200 and call.path.startswith(path), text
    sent = json.loads(call.raw)
    assert sent["input"]["openai_input"]["model"] == "m1" and sent["policy"]["ttl"] >= 10000
    if stream:
        assert text.endswith("data: [DONE]\n\n") and '"completion_tokens":3' in text and "w0" in text and "w2" in text, text
    else:
        assert json.loads(text)["usage"]["completion_tokens"] == 3, text
    until(lambda: [line for line in fake.lines if line["job"] == call.job])
    assert not [line for line in fake.lines if line["job"] == call.job and line["cancelled"]]


def test_a_client_that_leaves_cancels_its_job(cloud, fake):
    c = begin(cloud, True, "do: answer 400 gap=100ms")
    assert b"data:" in c.getresponse().readline()
    call = fake.calls[-1]
    c.close()
    assert cancelled(fake, call)[0]["tokens"] < 400
    until(lambda: 'corral_provider_job_cancels_total{provider="rp",outcome="ok"}' in cloud.metrics())


def test_who_leaves_before_the_job_has_a_name_cancels_it_all_the_same(cloud, fake):
    before = len(fake.calls)
    c = begin(cloud, False, "do: hang")
    until(lambda: len(fake.calls) > before)
    c.close()
    cancelled(fake, fake.calls[-1])


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_that_lasts_longer_than_the_request_is_cancelled(cloud, fake, stream):
    status, _, text = ask(cloud, stream, {"X-Corral-Deadline-Ms": "600"}, text="do: hang")
    assert status == 504 and "ran out" in text, text
    cancelled(fake, fake.calls[-1])


def test_a_stream_that_stalls_breaks_and_its_job_ends(cloud, fake):
    status, _, text = ask(cloud, True, text="do: stall 2")
    assert status == 200 and "w1" in text and "data: [DONE]" not in text and "said nothing more" in json.loads(text.strip().split("data: ")[-1])["error"]["message"], text
    cancelled(fake, fake.calls[-1])


@pytest.mark.parametrize("how, code", [("error200", 502), ("answer 2 state=TIMED_OUT", 502), ("status 500", 502), ("status 401", 503), ("status 429 retry=1", 429)])
def test_a_job_that_fails_says_so(cloud, fake, how, code):
    until(lambda: state(cloud, "rp")["state"] == "ready")
    fake.now([how, "answer 1"])
    before = len(fake.calls)
    status, _, text = ask(cloud, True)
    assert status == code and "rp" in json.loads(text)["error"]["message"], text
    assert len(fake.calls) == before + 1


def test_what_is_configured_anew_counts_without_a_restart(cloud):
    path = cloud.folder / "corral.yaml"
    text = path.read_text()
    until(lambda: state(cloud, "cold").get("cold_start_ms") == 9000)
    changed = text.replace("9s", "8s").replace("name: rp,", "name: rp, slots: 3, enabled: no,")
    path.write_text(changed)
    cloud.reload()
    until(lambda: state(cloud, "cold").get("cold_start_ms") == 8000)
    assert state(cloud, "rp")["slots"] == 3 and state(cloud, "rp")["reason"] == "rp is switched off"
    path.write_text(changed.replace("models: m1", "models: m2"))
    cloud.reload()
    until(lambda: "changed in more than its slots, its keys and being switched off" in cloud.logs())
    path.write_text(text.replace("9s", "8s"))
    cloud.reload()
    until(lambda: state(cloud, "rp")["state"] == "ready" and ask(cloud)[0] == 200)


def test_a_cold_start_is_learned_and_what_cannot_wait_for_one_is_not_sent(cloud, sleepy):
    until(lambda: state(cloud, "cold").get("cold_start_ms"))
    status, _, text = ask(cloud, headers={"X-Corral-Deadline-Ms": "700"}, model="cold/m1")
    assert status == 503 and "as cloud_cold_start says until it is learned, longer than the request may wait (0.7 s)" in text and not sleepy.calls, text
    assert ask(cloud, True, model="cold/m1")[0] == 200
    sleepy.chill()
    learned = until(lambda: 0 < (state(cloud, "cold").get("cold_start_ms") or 0) < 8000 and state(cloud, "cold")["cold_start_ms"])
    assert learned > 700
    before = len(sleepy.calls)
    status, _, text = ask(cloud, headers={"X-Corral-Deadline-Ms": "700"}, model="cold/m1")
    assert status == 503 and "as was learned" in text and len(sleepy.calls) == before, text


def row_of(corral, request):
    status, _, body = corral.get(f"/requests/{request}")
    return status == 200 and all(not a["open"] for a in body["attempts"]) and body["attempts"][-1]


def leave(cloud, fake, how):
    """A client asks for a whole answer and leaves while its job is in the queue; the call, and how many doubts had ended before."""
    until(lambda: cloud.post("/v1/chat/completions", {**body(text="do: answer 1"), "max_tokens": 50})[0] == 200)
    c, before, ended = http.client.HTTPConnection(cloud.url[7:], timeout=30), len(fake.calls), doubts(cloud)
    c.request("POST", "/v1/chat/completions", json.dumps({**body(text=f"do: {how}"), "max_tokens": 50}), {"Content-Type": "application/json"})
    until(lambda: len(fake.calls) > before)
    c.close()
    return fake.calls[-1], ended


def doubts(cloud):
    found = re.findall(r'^corral_provider_doubts_total\{provider="rp",outcome="(\w+)"\} (\d+)', cloud.metrics(), re.M)
    return {outcome: int(n) for outcome, n in found}


def test_a_job_that_is_cancelled_in_the_queue_costs_nothing(cloud, fake):
    """The most that it may have cost is booked until the platform says that it never ran."""
    call, ended = leave(cloud, fake, "hang")
    cancelled(fake, call)
    until(lambda: doubts(cloud).get("nothing", 0) == ended.get("nothing", 0) + 1)
    row = until(lambda: row_of(cloud, call.request_id))
    assert (row["tokens_source"], row["prompt_tokens"], row["completion_tokens"], row["cost_microusd"]) == ("reported", 0, 0, 0), row


def test_a_job_that_ran_to_its_end_all_the_same_costs_what_it_says(cloud, fake):
    call, ended = leave(cloud, fake, "answer 7 wait=1500ms cancel=ignored")
    until(lambda: doubts(cloud).get("counted", 0) == ended.get("counted", 0) + 1)
    row = until(lambda: row_of(cloud, call.request_id))
    assert (row["tokens_source"], row["prompt_tokens"], row["completion_tokens"]) == ("reported", 7, 7), row


def test_a_job_that_ended_before_it_could_be_cancelled_costs_what_it_says(cloud, fake):
    call, _ = leave(cloud, fake, "answer 6 wait=700ms")
    row = until(lambda: (r := row_of(cloud, call.request_id)) and r["tokens_source"] == "reported" and r)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 6), row


def test_a_job_of_which_nobody_knows_any_more_stays_in_doubt(cloud, fake):
    call, ended = leave(cloud, fake, "hang cancel=forgotten")
    until(lambda: doubts(cloud).get("stays", 0) == ended.get("stays", 0) + 1)
    row = until(lambda: row_of(cloud, call.request_id))
    assert (row["tokens_source"], row["completion_tokens"]) == ("in_doubt", 50) and row["prompt_tokens"] > 0, row


def test_a_job_that_ran_when_it_was_cancelled_stays_in_doubt(cloud, fake):
    """What it used nobody says; that it used nothing is not made up."""
    call, ended = leave(cloud, fake, "stall 2")
    cancelled(fake, call)
    until(lambda: doubts(cloud).get("stays", 0) == ended.get("stays", 0) + 1)
    row = until(lambda: row_of(cloud, call.request_id))
    assert (row["tokens_source"], row["completion_tokens"]) == ("in_doubt", 50), row


@pytest.mark.skipif(ARRANGEMENT != "one", reason="kills one process and starts it again")
def test_a_gateway_that_is_killed_books_what_it_had_noted(fake, tmp_path):
    """Of a stream from a provider: its last checkpoint, as unknown, and not more than the provider sent. That is less than may be charged, as docs/cloud.md says."""
    (tmp_path / "corral.yaml").write_text(f'providers:\n  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1, key_env: QUEUE_KEY, monthly_tokens: unlimited}}\n')

    def start():
        corral = Corral(tmp_path, None, "--backends=none=openai+http://127.0.0.1:1", "--config", str(tmp_path / "corral.yaml"), "--cloud-listen=127.0.0.1:0",
                        "--cache=off", "--checkpoint=50ms", env={"QUEUE_KEY": KEY, "CORRAL_CLOUD_TOKEN": TOKEN})
        until(lambda: state(corral, "oa")["state"] == "ready")
        return corral
    corral = start()
    until(lambda: corral.post("/v1/chat/completions", {**body(text="do: answer 1", model="oa/m1"), "max_tokens": 5})[0] == 200)
    c = http.client.HTTPConnection(corral.url[7:], timeout=30)
    c.request("POST", "/v1/chat/completions", json.dumps({**body(True, "do: answer 4000 gap=10ms", "oa/m1"), "max_tokens": 5000}), {"Content-Type": "application/json"})
    answer = c.getresponse()
    request = answer.headers["X-Request-Id"]
    for _ in range(200):
        answer.readline()
    corral.kill()
    c.close()
    sent = until(lambda: [line for line in fake.lines if line["request_id"] == request])[0]["tokens"]
    corral = start()
    try:
        row = until(lambda: row_of(corral, request))
        assert row["provider"] == "oa" and row["tokens_source"] != "reported" and 0 < row["completion_tokens"] <= sent, (row, sent)
    finally:
        assert corral.close() is None
