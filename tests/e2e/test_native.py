"""Corral's own interface: inference, explanation, accounts, models, backends."""
import json
import shutil
import subprocess
import time

import pytest

from servers import http
from test_openai import MODEL, user


def soon(corral, path, ready=lambda body: True):
    """The body of PATH once it answers 200 and is ready; the control plane has 2 seconds for it."""
    until = time.monotonic() + 2
    while True:
        status, _, body = corral.get(path)
        if status == 200 and ready(body):
            return body
        assert time.monotonic() < until, (status, body)
        time.sleep(0.05)


def account(corral, request_id):
    """The ledger's finished records of a request, one for each attempt."""
    return soon(corral, f"/requests/{request_id}", lambda b: b["attempts"] and not any(a["open"] for a in b["attempts"]))["attempts"]


@pytest.mark.parametrize("path", ["/api/ollama/inference", "/inference", "/code-generation"])
def test_inference(corral, path):
    status, headers, body = corral.post(path, {"prompt": "hello"})
    assert status == 200, body
    assert body["response"].startswith("Welcome to Corral!") and body["done"] and body["done_reason"] == "stop"
    assert (body["model"], body["backend"], body["request_id"]) == (MODEL, "tiny", headers["X-Request-Id"])
    assert body["eval_count"] == 34 and body["total_duration"] > 0 and body["tokens_used"] == 43
    assert body["experiment"] is None and body["cached"] is False


def test_inference_in_a_stream(corral):
    status, headers, text = http(f"{corral.url}/inference", {"prompt": "corral", "stream": True})
    lines = [json.loads(line) for line in text.splitlines()]
    assert status == 200 and headers["content-type"].startswith("application/x-ndjson")
    assert "".join(line["response"] for line in lines).startswith("Corral is one front door")
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_missing_prompt_is_named(corral):
    status, _, body = corral.post("/inference", {"model": "auto"})
    assert status in (400, 422) and body["success"] is False and "prompt" in body["error"]
    assert body["error_code"].isupper() and body["request_id"] and body["timestamp"]


def test_explain_a_request_that_was_made(corral):
    _, headers, _ = corral.post("/v1/chat/completions", {"model": "auto", "messages": user("hello")})
    body = soon(corral, f"/explain/{headers['X-Request-Id']}")
    assert body["chosen"]["model"] == MODEL and body["replayed"] is True and body["features"]


def test_explain_without_sending(corral, llama):
    before = http(f"{llama.url}/metrics")[2]
    status, _, body = corral.post("/explain", {"prompt": "write code"})
    assert status == 200 and body["chosen"]["model"] == MODEL, body
    tokens = [line for line in http(f"{llama.url}/metrics")[2].splitlines() if line.startswith("llamacpp:tokens_predicted_total")]
    assert tokens[0] in before


@pytest.mark.parametrize("stream", [False, True])
def test_each_request_has_one_record(corral, stream):
    status, headers, _ = http(f"{corral.url}/v1/chat/completions", {"model": MODEL, "stream": stream, "messages": user("hello")})
    (attempt,) = account(corral, headers["X-Request-Id"])
    assert status == 200
    assert (attempt["model"], attempt["backend"]) == (MODEL, "tiny")
    assert (attempt["prompt_tokens"], attempt["completion_tokens"]) == (9, 34)


def test_usage_adds_up(corral):
    def totals():
        return corral.get("/usage?group_by=model")[2]["totals"]
    before = totals()
    ids = [corral.post("/v1/chat/completions", {"model": MODEL, "messages": user("hello")})[1]["X-Request-Id"] for _ in range(5)]
    for request_id in ids:
        account(corral, request_id)
    after = totals()
    assert after["requests"] - before["requests"] == 5
    assert after["completion_tokens"] - before["completion_tokens"] == 5 * 34
    assert after["prompt_tokens"] - before["prompt_tokens"] == 5 * 9


def test_models_and_backends(corral):
    _, _, body = corral.get(f"/models/{MODEL}")
    assert body["name"] == MODEL and body["is_available"] and body["context_length"] == 4096 and "tiny" in str(body["backends"])
    _, _, listing = corral.get("/models")
    assert MODEL in [m["id"] for m in listing["data"]] and listing["models"]
    _, _, backends = corral.get("/backends")
    assert "tiny" in str(backends)
    _, _, health = corral.get("/health")
    assert health["version"] and [b["name"] for b in health["backends"]] == ["tiny"]


def test_metrics_are_accepted_by_promtool(corral):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    status, _, text = http(f"{corral.admin}/metrics")
    assert status == 200 and "corral_" in text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
