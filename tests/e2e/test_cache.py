"""Answers that are given again, on the real model and a real Redis."""
import json
import shutil
import subprocess
import threading
import time

import pytest
from servers import http, until

QUESTION = {"model": "corral-tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 40}
KEEP = {"Cache-Control": "max-age=600"}


def ask(corral, question=None, headers=None, path="/v1/chat/completions"):
    begun = time.monotonic()
    status, answer_headers, text = http(corral.url + path, question or QUESTION, "POST", headers=KEEP if headers is None else headers)
    assert status == 200, text
    answer_headers = {k.lower(): v for k, v in answer_headers.items()}
    return answer_headers["x-corral-cache"], text, (time.monotonic() - begun) * 1000, answer_headers


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "r.sock"
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(socket.exists)
    yield f"redis+unix://{socket}"
    server.kill()
    server.wait()


def test_a_repeated_question_is_answered_within_50_ms(corral):
    word, first, _, _ = ask(corral)
    assert word == "miss"
    for round in range(3):                    # for the quietest: other programs of this machine are not what is measured
        times = []
        for _ in range(20):
            word, text, ms, headers = ask(corral)
            assert (word, text) == ("hit", first) and headers["x-corral-cost-microusd"] == "0"
            times.append(ms)
        print(f"hit: median {sorted(times)[10]:.1f} ms, longest {max(times):.1f} ms")
        if sorted(times)[10] < 50:
            return
    raise AssertionError(f"the median of a hit is {sorted(times)[10]:.1f} ms")


def test_what_was_said_to_one_dialect_is_said_to_another(corral):
    _, first, _, _ = ask(corral)
    said = json.loads(first)["choices"][0]["message"]["content"]
    word, text, _, _ = ask(corral, {"model": "corral-tiny", "prompt": "hello", "temperature": 0, "max_tokens": 40}, path="/inference")
    native = json.loads(text)
    assert (word, native["response"], native["cached"], native["cost_microusd"]) == ("hit", said, True, 0)
    word, text, _, _ = ask(corral, {**QUESTION, "stream": True})
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert word == "hit" and text.endswith("data: [DONE]\n\n")
    assert "".join(c["delta"].get("content") or "" for e in events for c in e["choices"]) == said


def test_another_tenant_never_hits(corral_with, llama):
    shared = corral_with({"tiny": ("llamacpp", llama.url)}, "--cache-undigested=yes")
    for tenant in ("red", "blue"):
        status, _, text = http(f"{shared.url}/tenants/{tenant}", {}, "PUT")
        assert status in (200, 201), text
    secrets = {}
    for tenant in ("red", "blue"):
        status, _, text = http(f"{shared.url}/keys", {"tenant": tenant, "role": "developer", "name": tenant}, "POST")
        assert status in (200, 201), text
        secrets[tenant] = {"Authorization": "Bearer " + json.loads(text)["secret"]}
    for tenant in secrets:
        until(lambda t=tenant: http(f"{shared.url}/v1/models", headers=secrets[t])[0] == 200)
    assert [ask(shared, headers=secrets[t])[0] for t in ("red", "red", "blue", "blue")] == ["miss", "hit", "miss", "hit"]


def test_a_tenant_may_have_its_contexts_shortened(corral_with, llama):
    corral = corral_with({"tiny": ("llamacpp", llama.url)})
    status, _, text = http(f"{corral.url}/tenants/short", {"optimize_context": True}, "PUT")
    assert status in (200, 201) and json.loads(text)["optimize_context"] is True, text
    _, _, text = http(f"{corral.url}/keys", {"tenant": "short", "role": "developer", "name": "k"}, "POST")
    key = {"Authorization": "Bearer " + json.loads(text)["secret"]}
    until(lambda: http(f"{corral.url}/v1/models", headers=key)[0] == 200)
    block = "a paragraph that is said more than once and has more than sixty-four bytes"
    question = {"model": "corral-tiny", "prompt": "hello", "context": "\n\n".join([block] * 5)}
    _, text, _, headers = ask(corral, question, key, "/inference")
    assert json.loads(text)["tokens_saved"] > 60 and int(headers["x-corral-tokens-saved"]) > 60
    _, text, _, headers = ask(corral, {**question, "optimize_context": False}, key, "/inference")
    assert "tokens_saved" not in json.loads(text) and "x-corral-tokens-saved" not in headers


def test_gateways_that_share_redis_and_secret_share_answers(corral_with, llama, redis, tmp_path):
    secret, other = tmp_path / "one.key", tmp_path / "two.key"
    secret.write_bytes(b"s" * 40)
    other.write_bytes(b"o" * 40)
    options = ["--cache", redis, "--cache-lookup=1s", "--workers=2"]
    one, two, stranger = (corral_with({"tiny": ("llamacpp", llama.url)}, *options, f"--master-key-file={key}") for key in (secret, secret, other))
    for corral in (one, two, stranger):
        until(lambda c=corral: "corral_cache_ready_workers 2" in c.metrics())
    word, first, _, _ = ask(one)
    assert word == "miss"
    until(lambda: ask(two)[0] == "hit")
    assert ask(two)[1] == first
    assert ask(stranger)[0] == "miss"


def test_readyz_says_that_redis_is_away_and_nothing_waits_for_it(corral_with, llama, tmp_path):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    away = corral_with({"tiny": ("llamacpp", llama.url)}, f"--cache=redis+unix://{tmp_path}/r")

    def cache():
        status, _, text = http(f"{away.admin}/readyz")
        assert status == 200, text
        return next((n for n in json.loads(text)["needs"] if n["need"] == "cache"), {"ok": None})
    until(lambda: cache()["ok"] is False)
    assert "Redis does not answer" in cache()["text"] and not cache()["required"]
    assert [ask(away)[0] for _ in range(2)] == ["miss", "hit"]   # of the memory in front
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", f"{tmp_path}/r", "--save", "", "--appendonly", "no", "--dir", str(tmp_path)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: cache()["ok"])
    finally:
        server.kill()
        server.wait()


def test_the_same_question_at_once_is_sent_once(corral):
    question = {**QUESTION, "messages": [{"role": "user", "content": "count"}]}
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(ask(corral, question)[:2])) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(word for word, _ in seen) == ["hit"] * 11 + ["miss"] and len({text for _, text in seen}) == 1


def test_a_job_gets_the_same_answer(corral):
    _, first, _, _ = ask(corral)
    _, _, job = corral.post("/runsync", {"input": QUESTION}, headers=KEEP)
    assert job["status"] == "COMPLETED", job
    assert json.loads(first)["choices"][0]["message"]["content"] in json.dumps(job["output"])
