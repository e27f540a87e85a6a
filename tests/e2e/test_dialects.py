"""Every dialect before every engine: what a client understands must not depend on what the backend speaks."""
import json
import subprocess
import urllib.request

import ollama as ollama_package
import openai
import pytest

from servers import ROOT, http, start_llama

MODEL = "corral-tiny"
TOOL = {"type": "function", "function": {"name": "get_time", "description": "The time in a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city", "n"]}}}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["answer", "ok"]}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module", params=["llamacpp", "openai", "ollama"])
def front(request, corral_with):
    """Corral before one engine; a llama.cpp may be declared as any OpenAI-style server too."""
    server = request.getfixturevalue("ollama_server" if request.param == "ollama" else "llama")
    corral = corral_with({"tiny": (request.param, server.url)})
    corral.kind = request.param
    return corral


@pytest.fixture
def by_openai(front):
    return openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture
def by_ollama(front):
    return ollama_package.Client(host=front.url, timeout=30)


def post(front, path, body, headers=None):
    return http(front.url + path, body, "POST", headers, 30)


def test_the_same_answer_in_every_dialect(front, by_openai, by_ollama):
    said = {
        by_openai.chat.completions.create(model=MODEL, messages=user("hello")).choices[0].message.content,
        "".join(c.choices[0].delta.content or "" for c in by_openai.chat.completions.create(model=MODEL, messages=user("hello"), stream=True) if c.choices),
        by_ollama.chat(model=MODEL, messages=user("hello")).message.content,
        "".join(p.message.content or "" for p in by_ollama.chat(model=MODEL, messages=user("hello"), stream=True)),
        by_ollama.generate(model=MODEL, prompt="hello").response,
        "".join(p.response or "" for p in by_ollama.generate(model=MODEL, prompt="hello", stream=True)),
        json.loads(post(front, "/inference", {"model": MODEL, "prompt": "hello"})[2])["response"],
        "".join(json.loads(line)["response"] for line in post(front, "/inference", {"model": MODEL, "prompt": "hello", "stream": True})[2].splitlines()),
    }
    assert len(said) == 1 and said.pop().startswith("Welcome to Corral!")


def test_thinking(by_openai, by_ollama, front):
    mine = by_openai.chat.completions.create(model=MODEL, messages=user("think"))
    assert mine.choices[0].message.reasoning_content and mine.choices[0].message.content
    theirs = by_ollama.chat(model=MODEL, messages=user("think"), **({} if front.kind == "openai" else {"think": True}))
    assert theirs.message.thinking == mine.choices[0].message.reasoning_content
    assert theirs.message.content == mine.choices[0].message.content
    lines = [json.loads(line) for line in post(front, "/inference", {"model": MODEL, "prompt": "think", "stream": True})[2].splitlines()]
    assert "".join(o.get("thinking", "") for o in lines) == theirs.message.thinking


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_can_be_turned_off(by_ollama, front, stream):
    if front.kind == "openai":
        pytest.skip("an OpenAI-style server gets reasoning_effort none; this llama.cpp takes no notice of it")
    parts = by_ollama.chat(model=MODEL, messages=user("think"), think=False, stream=stream)
    parts = list(parts) if stream else [parts]
    assert not any(p.message.thinking for p in parts) and any(p.message.content for p in parts)


def openai_call(client, stream):
    answer = client.chat.completions.create(model=MODEL, messages=user("please use the tool"), tools=[TOOL], stream=stream)
    if not stream:
        (call,) = answer.choices[0].message.tool_calls
        return call.id, call.function.name, call.function.arguments, answer.choices[0].finish_reason
    ident = name = arguments = ""
    finish = None
    for chunk in answer:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                ident, name, arguments = ident + (call.id or ""), name + (call.function.name or ""), arguments + (call.function.arguments or "")
    return ident, name, arguments, finish


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(by_openai, by_ollama, stream):
    ident, name, arguments, finish = openai_call(by_openai, stream)
    assert ident and (name, json.loads(arguments), finish) == ("get_time", {"city": "Paris", "n": 3}, "tool_calls")
    parts = by_ollama.chat(model=MODEL, messages=user("please use the tool"), tools=[TOOL], stream=stream)
    parts = list(parts) if stream else [parts]
    (call,) = [c for p in parts for c in p.message.tool_calls or []]
    assert (call.function.name, dict(call.function.arguments)) == ("get_time", {"city": "Paris", "n": 3})
    assert parts[-1].done_reason == "stop"


def test_tool_results_go_back(by_openai, by_ollama):
    first = by_openai.chat.completions.create(model=MODEL, messages=user("please use the tool"), tools=[TOOL]).choices[0].message
    mine = by_openai.chat.completions.create(model=MODEL, tools=[TOOL], messages=user("please use the tool") + [
        first.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "noon"}])
    theirs = by_ollama.chat(model=MODEL, tools=[TOOL], messages=user("please use the tool") + [
        {"role": "assistant", "tool_calls": [{"function": {"name": "get_time", "arguments": {"city": "Paris", "n": 3}}}]},
        {"role": "tool", "tool_name": "get_time", "content": "noon"}])
    assert mine.choices[0].message.content == theirs.message.content
    assert "tool" in theirs.message.content


def said(ask):
    """What was answered; a grammar sometimes leaves the small model no other choice than to think first, and then to say nothing."""
    return next((text for text in (ask() for _ in range(8)) if text), "")


def test_schemas(by_openai, by_ollama, front):
    asked = {"type": "json_schema", "json_schema": {"name": "v", "strict": True, "schema": SCHEMA}}
    for text in (said(lambda: by_openai.chat.completions.create(model=MODEL, messages=user("hello"), response_format=asked).choices[0].message.content),
                 said(lambda: by_ollama.chat(model=MODEL, messages=user("hello"), format=SCHEMA).message.content),
                 said(lambda: json.loads(post(front, "/inference", {"model": MODEL, "prompt": "hello", "format": SCHEMA})[2])["response"])):
        assert set(json.loads(text)) == {"answer", "ok"}
    json.loads(said(lambda: by_ollama.chat(model=MODEL, messages=user("json"), format="json").message.content))


def test_length_stop_and_usage(by_openai, by_ollama):
    cut = by_openai.chat.completions.create(model=MODEL, messages=user("hello"), max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    theirs = by_ollama.chat(model=MODEL, messages=user("hello"), options={"num_predict": 3})
    assert theirs.done_reason == "length" and theirs.eval_count == 3
    assert theirs.prompt_eval_count == cut.usage.prompt_tokens and theirs.message.content == cut.choices[0].message.content
    assert theirs.total_duration > 0 and theirs.eval_duration > 0
    assert "!" not in by_ollama.chat(model=MODEL, messages=user("hello"), options={"stop": ["!"]}).message.content
    *_, last = by_openai.chat.completions.create(model=MODEL, messages=user("hello"), max_tokens=3, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens == 3
    assert all(not c.usage for c in by_openai.chat.completions.create(model=MODEL, messages=user("hello"), max_tokens=3, stream=True))


def test_logprobs(by_openai, by_ollama):
    mine = by_openai.chat.completions.create(model=MODEL, messages=user("hello"), max_tokens=2, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    theirs = by_ollama.chat(model=MODEL, messages=user("hello"), options={"num_predict": 2}, logprobs=True, top_logprobs=2).logprobs
    assert [t.token for t in mine] == [t.token for t in theirs] and len(mine) == 2
    assert all(len(t.top_logprobs) == 2 for t in mine)


def test_completions(by_openai, front):
    whole = by_openai.completions.create(model=MODEL, prompt="hello", max_tokens=4)
    parts = list(by_openai.completions.create(model=MODEL, prompt="hello", max_tokens=4, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for p in parts for c in p.choices) == whole.choices[0].text
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 4
    assert whole.choices[0].finish_reason == "length"


def test_raw_prompts(by_ollama):
    assert by_ollama.generate(model=MODEL, prompt="hello", raw=True, options={"num_predict": 3}).eval_count == 3


def test_native_events(front):
    _, headers, text = post(front, "/inference", {"model": MODEL, "prompt": "hello", "stream": True}, {"Accept": "text/event-stream"})
    assert headers["Content-Type"].startswith("text/event-stream")
    events = [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block]
    assert "".join(e["response"] for e in events).startswith("Welcome to Corral!")
    assert [e["done"] for e in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_used"] == events[-1]["prompt_eval_count"] + events[-1]["eval_count"] > 0
    assert events[-1]["backend"] == "tiny" and events[-1]["latency_ms"] > 0


def test_what_has_no_effect_is_named(front):
    status, headers, text = post(front, "/v1/chat/completions", {"model": MODEL, "messages": user("hello"), "user": "ann", "metadata": {"a": "b"}})
    assert status == 200, text
    assert headers["X-Corral-Ignored"] == ("user, metadata" if front.kind != "openai" else None)
    status, headers, text = post(front, "/api/chat", {"model": MODEL, "messages": user("hello"), "stream": False, "keep_alive": "5m", "options": {"num_thread": 1}})
    assert status == 200, text
    assert headers["X-Corral-Ignored"] == (None if front.kind == "ollama" else "keep_alive, options.num_thread")


def test_what_cannot_be_carried_is_refused_by_name(front):
    if front.kind == "ollama":
        status, _, text = post(front, "/v1/chat/completions", {"model": MODEL, "messages": user("hello"), "logit_bias": {"5": 1}})
        assert status == 400 and json.loads(text)["error"]["param"] == "logit_bias"
        assert json.loads(text)["error"]["code"] == "unsupported_parameter"
    else:
        status, _, text = post(front, "/api/generate", {"model": MODEL, "prompt": "hello", "template": "{{ .Prompt }}"})
        assert status == 400 and "'template'" in json.loads(text)["error"]
    status, _, text = post(front, "/inference", {"model": MODEL, "prompt": "hello", "temprature": 1})
    assert status == 400 and json.loads(text)["field"] == "temprature" and "'temperature'" in json.loads(text)["error"]


def test_an_image_on_a_text_model_is_the_request_s_fault(front, by_openai):
    asked = [{"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]}]
    with pytest.raises(openai.APIStatusError) as e:
        by_openai.chat.completions.create(model=MODEL, messages=asked)
    assert 400 <= e.value.status_code < 500
    assert post(front, "/v1/chat/completions", {"model": MODEL, "messages": user("hello")})[0] == 200


@pytest.fixture
def endless(engine, tmp_path, corral_with):
    """Corral before a llama.cpp that hums until it is killed."""
    (tmp_path / "script").write_text("# about bees\n\tI know bees only.\nhum\t<forever>\n")
    model = tmp_path / "bees.gguf"
    subprocess.run([ROOT / "tools/make-model", "-o", model, "--name", "bees", "--script", tmp_path / "script", "--ctx", "65536"], check=True)
    server = start_llama(tmp_path, engine, model, "bees", slots=1, context=65536)
    try:
        yield corral_with({"bees": ("llamacpp", server.url)}), server
    finally:
        server.stop()


def hear_some(parts, server):
    """Kills the engine after ten pieces and hears the rest."""
    for n, part in enumerate(parts):
        if n == 10:
            server.handle.kill()
        yield part


@pytest.mark.parametrize("dialect", ["openai", "ollama", "native"])
def test_an_engine_that_dies_is_no_end(endless, dialect):
    corral, server = endless
    if dialect == "openai":
        client = openai.OpenAI(base_url=f"{corral.url}/v1", api_key="none", max_retries=0, timeout=30)
        with pytest.raises(openai.APIError, match="backend"):
            for chunk in hear_some(client.chat.completions.create(model="bees", messages=user("hum"), stream=True), server):
                assert not chunk.choices[0].finish_reason
    elif dialect == "ollama":
        client = ollama_package.Client(host=corral.url, timeout=30)
        with pytest.raises(ollama_package.ResponseError, match="backend"):
            for part in hear_some(client.chat(model="bees", messages=user("hum"), stream=True), server):
                assert not part.done
    else:
        with urllib.request.urlopen(urllib.request.Request(f"{corral.url}/inference", json.dumps(
                {"model": "bees", "prompt": "hum", "stream": True}).encode(), {"Content-Type": "application/json"}), timeout=30) as answer:
            *lines, last = [json.loads(line) for line in hear_some(answer, server)]
        assert len(lines) >= 10 and not any(o["done"] for o in lines)
        assert last["success"] is False and last["error_code"] == "BACKEND_FAILED" and "backend" in last["error"]
