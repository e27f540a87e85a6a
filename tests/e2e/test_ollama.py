"""The Ollama dialect, asked with the ollama package, in front of a real llama.cpp and of a real Ollama."""
import json
import time

import ollama
import pytest

from servers import http
from test_openai import MODEL, TIME_TOOL, user


@pytest.fixture(params=["llamacpp", "ollama"])
def front(request, corral_with):
    """A Corral with one backend of each kind: asked the same, it answers the same."""
    if request.param == "llamacpp":
        return request.getfixturevalue("corral")
    return request.getfixturevalue("corral_before_ollama")


@pytest.fixture(scope="module")
def corral_before_ollama(corral_with, ollama_server):
    return corral_with({"tiny": ("ollama", ollama_server.url)})


@pytest.fixture
def client(front):
    return ollama.Client(host=front.url, timeout=60)


def is_model(name):
    return name in (MODEL, f"{MODEL}:latest")


def test_heartbeat_and_version(front):
    for method in ("HEAD", "GET"):
        status, _, text = http(f"{front.url}/", method=method)
        assert (status, text) == (200, "" if method == "HEAD" else "Ollama is running")
    _, _, body = front.get("/api/version")
    assert [int(part) for part in body["version"].split(".")] >= [0, 6, 4]


def test_list(front, client):
    models = client.list().models
    assert [m for m in models if is_model(m.model)] and "auto" in [m.model.removesuffix(":latest") for m in models]
    for entry in json.loads(http(f"{front.url}/api/tags")[2])["models"]:
        assert entry["name"] == entry["model"] and entry["modified_at"] and entry["digest"]
        assert isinstance(entry["size"], int)
        assert {"format", "family", "parameter_size", "quantization_level"} <= set(entry["details"])


@pytest.mark.parametrize("model", [MODEL, "auto"])
def test_show(client, model):
    shown = client.show(model)
    assert {"completion", "tools"} <= set(shown.capabilities)
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] == 4096


def test_show_of_an_unknown_model(client):
    with pytest.raises(ollama.ResponseError) as refused:
        client.show("no-such-model")
    assert refused.value.status_code == 404 and "no-such-model" in refused.value.error


def test_ps(client):
    client.generate(MODEL, "hello")
    until = time.monotonic() + 10                    # residency is read every few seconds
    while not [m for m in client.ps().models if is_model(m.model)]:
        assert time.monotonic() < until, client.ps()
        time.sleep(0.1)


@pytest.mark.parametrize("model", [MODEL, "auto"])
def test_chat(client, model):
    answer = client.chat(model, user("hello"))
    assert answer.message.content.startswith("Welcome to Corral!")
    assert answer.done and answer.done_reason == "stop"
    assert answer.prompt_eval_count == 9 and answer.eval_count == 34
    assert answer.total_duration > 0


def test_chat_in_a_stream(client):
    pieces = list(client.chat(MODEL, user("count"), stream=True))
    assert "".join(p.message.content for p in pieces) == " ".join(str(i) for i in range(1, 401))
    assert [p.done for p in pieces].count(True) == 1 and pieces[-1].done
    assert pieces[-1].eval_count == 401
    assert len(pieces) > 100


def test_generate(client):
    answer = client.generate(MODEL, "sql")
    assert answer.response == "SELECT model, SUM(tokens) FROM usage GROUP BY model;"
    assert answer.done and answer.done_reason == "stop" and answer.eval_count > 0


def test_generate_in_a_stream(client):
    pieces = list(client.generate(MODEL, "corral", stream=True))
    assert "".join(p.response for p in pieces).startswith("Corral is one front door")
    assert len(pieces) > 20 and pieces[-1].done


def test_streaming_is_the_default(front):
    status, headers, text = http(f"{front.url}/api/chat", {"model": MODEL, "messages": user("hello")})
    lines = [json.loads(line) for line in text.splitlines()]
    assert status == 200 and headers["content-type"].startswith("application/x-ndjson")
    assert len(lines) > 10 and lines[-1]["done"] is True
    assert lines[-1]["cost_microusd"] == 0 and not any("cost_microusd" in line for line in lines[:-1])


def test_an_empty_prompt_loads(client):
    answer = client.generate(MODEL, "")
    assert answer.done and answer.response == "" and answer.done_reason == "load"


def test_a_tool_call(client):
    (call,) = client.chat(MODEL, user("what time is it"), tools=[TIME_TOOL]).message.tool_calls
    assert call.function.name == "get_time" and call.function.arguments == {"city": "Paris", "n": 3}
    calls = [c for p in client.chat(MODEL, user("what time is it"), tools=[TIME_TOOL], stream=True) for c in p.message.tool_calls or []]
    assert [c.function.arguments for c in calls] == [{"city": "Paris", "n": 3}]


def test_thinking(client):
    message = client.chat(MODEL, user("think"), think=True).message
    assert "seven" in message.thinking and message.content.strip() == "Seven it must be."


def test_a_format(client):
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["answer", "ok"]}
    assert json.loads(client.chat(MODEL, user("json"), format=schema).message.content) == {"answer": 42, "ok": True}
    assert json.loads(client.chat(MODEL, user("json"), format="json").message.content) == {"answer": 42, "ok": True}


def test_options(client):
    cut = client.generate(MODEL, "count", options={"num_predict": 5})
    assert (cut.done_reason, cut.eval_count) == ("length", 5)
    stopped = client.generate(MODEL, "count", options={"stop": ["7"]})
    assert stopped.response == "1 2 3 4 5 6 "


def test_an_unknown_model(client):
    for ask in (lambda: client.chat("no-such-model", user("hello")), lambda: client.generate("no-such-model", "hello")):
        with pytest.raises(ollama.ResponseError) as refused:
            ask()
        assert refused.value.status_code == 404 and "no-such-model" in refused.value.error


def test_a_bad_body(front):
    status, _, text = http(f"{front.url}/api/chat", b'{"model": "corral-tiny",', "POST")
    assert status == 400 and json.loads(text)["error"]


def test_a_prompt_too_long_is_not_cut(client):
    with pytest.raises(ollama.ResponseError) as refused:
        client.generate(MODEL, "hello " * 6000)
    assert refused.value.status_code == 400


def test_the_openai_dialect_reaches_it_too(front):
    _, _, body = front.post("/v1/chat/completions", {"model": MODEL, "messages": user("hello")})
    assert body["choices"][0]["message"]["content"].startswith("Welcome to Corral!")
    assert body["usage"]["completion_tokens"] == 34


def test_a_prompt_that_a_client_has_cut_is_told(corral_before_ollama):
    """`truncate: true` is the client's own wish; what became of the prompt is said all the same."""
    asked = {"model": MODEL, "messages": user("hello " * 600) * 20, "truncate": True, "stream": False, "options": {"num_predict": 2}}
    status, headers, body = corral_before_ollama.post("/api/chat", asked, timeout=60)
    assert status == 200 and body["prompt_eval_count"] < 4096, body
    assert headers["X-Corral-Prompt-Cut"].startswith(f"{body['prompt_eval_count']} of about ")
    status, headers, body = corral_before_ollama.post("/api/chat", {**asked, "messages": user("hello")}, timeout=60)
    assert status == 200 and "X-Corral-Prompt-Cut" not in headers
    metrics = corral_before_ollama.metrics()
    assert 'corral_prompts_cut_total{model="corral-tiny:latest",backend="tiny"} 1' in metrics
