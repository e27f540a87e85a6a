"""The Anthropic dialect, asked with the anthropic package, in front of every engine."""
import base64
import json
import time

import anthropic
import pytest

from servers import http

MODEL = "corral-tiny"
TOOL = {"name": "get_time", "description": "The time in a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city", "n"]}}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["answer", "ok"],
          "additionalProperties": False}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
EVENTS = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"]


def user(content):
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module", params=["llamacpp", "openai", "ollama"])
def front(request, corral_with):
    server = request.getfixturevalue("ollama_server" if request.param == "ollama" else "llama")
    corral = corral_with({"tiny": (request.param, server.url)}, "--aliases", f"claude-sonnet-5={MODEL}")
    corral.kind = request.param
    return corral


@pytest.fixture
def claude(front):
    return anthropic.Anthropic(base_url=front.url, api_key="none", max_retries=0, timeout=30)


def ask(claude, content, **more):
    return claude.messages.create(**{"model": MODEL, "max_tokens": 200, "messages": user(content), **more})


def text(message):
    """Where a grammar leaves it no other choice, the small model thinks before it answers."""
    return "".join(b.text for b in message.content if b.type == "text")


def hear(claude, content, **more):
    """(final message, names of the events) of a stream."""
    with claude.messages.stream(**{"model": MODEL, "max_tokens": 200, "messages": user(content), **more}) as stream:
        names = [e.type for e in stream]
        return stream.get_final_message(), names


def test_an_answer(claude):
    m = ask(claude, "hello")
    assert (m.type, m.role, m.model.split(":")[0], m.stop_reason, m.stop_sequence) == ("message", "assistant", MODEL, "end_turn", None)
    assert [b.type for b in m.content] == ["text"] and m.content[0].text.startswith("Welcome to Corral!")
    assert m.id.startswith("msg_") and m.usage.input_tokens + m.usage.cache_read_input_tokens > 3 and m.usage.output_tokens > 10


def test_a_stream(claude):
    whole = ask(claude, "hello")
    m, names = hear(claude, "hello")
    assert m.content[0].text == whole.content[0].text and m.stop_reason == "end_turn"
    assert m.usage.output_tokens == whole.usage.output_tokens
    assert (m.usage.input_tokens + m.usage.cache_read_input_tokens
            == whole.usage.input_tokens + whole.usage.cache_read_input_tokens)
    assert [n for n in dict.fromkeys(names) if n in EVENTS] == EVENTS
    assert names.count("content_block_delta") > 10, "not token by token"


def test_the_events_on_the_wire(front):
    status, headers, body = http(front.url + "/v1/messages?beta=true", {"model": MODEL, "max_tokens": 3, "stream": True, "messages": user("hello")},
                                 "POST", {"anthropic-version": "2023-06-01", "anthropic-beta": "a-2026-01-01,b", "x-api-key": "none"})
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream") and headers["request-id"] == headers["X-Request-Id"]
    events = [block.split("\n") for block in body.strip().split("\n\n")]
    for name, data in events:
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]
    names = [e[0].removeprefix("event: ") for e in events]
    assert names[:3] == ["message_start", "content_block_start", "ping"] and names[-3:] == EVENTS[-3:]
    last = json.loads(events[-2][1].removeprefix("data: "))
    assert last["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None} and last["usage"]["output_tokens"] == 3
    assert last["usage"]["cost_microusd"] == 0


def test_system_and_blocks(claude):
    plain = ask(claude, "hello", system="be kind")
    blocks = ask(claude, [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}],
                 system=[{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}])
    assert plain.content == blocks.content
    assert plain.usage.input_tokens + plain.usage.cache_read_input_tokens == blocks.usage.input_tokens + blocks.usage.cache_read_input_tokens
    turns = ask(claude, "x", messages=[*user("bug"), {"role": "assistant", "content": "a bug it is"}, *user("now"), *user([{"type": "text", "text": "hello"}])])
    assert turns.content[0].text.startswith("Welcome to Corral!")


def test_thinking(claude, front):
    on = {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}} if front.kind != "openai" else {}
    m = ask(claude, "think", **on)
    assert [b.type for b in m.content] == ["thinking", "text"] and m.content[0].thinking and m.content[0].signature == ""
    streamed, names = hear(claude, "think", **on)
    assert streamed.content[0].thinking == m.content[0].thinking and streamed.content[1].text == m.content[1].text
    again = ask(claude, "x", messages=[*user("think"), {"role": "assistant", "content": m.to_dict()["content"]}, *user("hello")])
    assert again.content[0].text.startswith("Welcome to Corral!")


def test_thinking_can_be_turned_off(claude, front):
    if front.kind == "openai":
        pytest.skip("an OpenAI-style server gets reasoning_effort none; this llama.cpp takes no notice of it")
    assert [b.type for b in ask(claude, "think", thinking={"type": "disabled"}).content] == ["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_and_back(claude, stream):
    asked = "please use the tool"
    m = hear(claude, asked, tools=[TOOL])[0] if stream else ask(claude, asked, tools=[TOOL])
    (use,) = [b for b in m.content if b.type == "tool_use"]
    assert (use.name, use.input, m.stop_reason) == ("get_time", {"city": "Paris", "n": 3}, "tool_use") and use.id
    back = ask(claude, "x", tools=[TOOL], messages=[*user(asked), {"role": "assistant", "content": m.to_dict()["content"]},
                                                    *user([{"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "noon"}]}])])
    assert "Your tool replied" in back.content[0].text


def test_tool_choice(claude, front):
    assert all(b.type == "text" for b in ask(claude, "please use the tool", tools=[TOOL], tool_choice={"type": "none"}).content)
    if front.kind == "ollama":
        with pytest.raises(anthropic.BadRequestError, match="tool_choice"):
            ask(claude, "hello", tools=[TOOL], tool_choice={"type": "any"})
        return
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_time"}):
        m = ask(claude, "please use the tool", tools=[TOOL], tool_choice=choice)
        assert [b.name for b in m.content if b.type == "tool_use"] == ["get_time"]


def test_schema_and_stop(claude):
    m = ask(claude, "hello", output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    assert set(json.loads(text(m))) == {"answer", "ok"}
    cut = ask(claude, "hello", stop_sequences=["Corral"])
    assert text(cut).strip() == "Welcome to"
    assert ask(claude, "hello", max_tokens=3).stop_reason == "max_tokens"


def test_images_are_the_request_s_fault_on_a_text_model(claude):
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    with pytest.raises(anthropic.APIStatusError) as e:
        ask(claude, [{"type": "text", "text": "hello"}, block])
    assert 400 <= e.value.status_code < 500
    with pytest.raises(anthropic.BadRequestError, match="addresses"):
        ask(claude, [{"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}])
    assert ask(claude, "hello").stop_reason == "end_turn"


def test_documents_of_text(claude):
    m = ask(claude, [{"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}])
    assert m.content[0].text.startswith("Welcome to Corral!")
    with pytest.raises(anthropic.BadRequestError, match="plain text"):
        ask(claude, [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF").decode()}}])


def test_errors_in_its_shape(claude, front):
    with pytest.raises(anthropic.NotFoundError) as e:
        ask(claude, "hello", model="no-such-model")
    body = e.value.body
    assert body["type"] == "error" and body["error"]["type"] == "not_found_error" and "no-such-model" in body["error"]["message"]
    assert body["request_id"] == e.value.response.headers["request-id"] == e.value.request_id
    for wrong, word in (({"messages": []}, "messages"), ({"max_tokens": 0}, "max_tokens"), ({"extra_body": {"temperature": "hot"}}, "temperature"),
                        ({"extra_body": {"temprature": 1}}, "temperature"), ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, r"tools\[0\]")):
        with pytest.raises(anthropic.BadRequestError, match=word):
            ask(claude, "hello", **wrong)
    status, headers, body = http(front.url + "/v1/messages", {"model": MODEL, "messages": user("hello")}, "POST")
    assert status == 400 and json.loads(body)["error"] == {"type": "invalid_request_error", "message": "max_tokens is required"}
    status, _, body = http(front.url + "/v1/messages/batches", {}, "POST")
    assert status == 404 and json.loads(body)["error"]["type"] == "not_found_error"
    status, _, body = http(front.url + "/v1/messages")
    assert status == 405 and json.loads(body)["type"] == "error"


def test_a_prompt_too_long_is_said_as_clients_look_for_it(claude):
    with pytest.raises(anthropic.APIStatusError) as e:
        ask(claude, "hello " * 9000)
    assert e.value.status_code in (400, 413) and e.value.body["error"]["message"].startswith("prompt is too long")


def test_counting(claude, front):
    asked = {"model": MODEL, "messages": user("hello"), "system": "be kind", "tools": [TOOL]}
    raw = claude.messages.with_raw_response.count_tokens(**asked)
    n = raw.parse().input_tokens
    usage = ask(claude, "hello", system="be kind", tools=[TOOL]).usage
    if front.kind == "ollama":
        assert raw.headers["x-corral-tokens-source"] == "estimated" and n > 10
    else:
        assert raw.headers["x-corral-tokens-source"] == "counted"
        if front.kind == "llamacpp":
            assert n == usage.input_tokens + usage.cache_read_input_tokens
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.count_tokens(model="no-such-model", messages=user("hello"))


def test_models_in_its_shape(claude, front):
    listed = list(claude.models.list())
    assert [m.id for m in listed][0] == "auto" and MODEL in [m.id.split(":")[0] for m in listed]
    assert all(m.type == "model" and m.display_name and m.created_at.year >= 2024 for m in listed)
    assert [m.id for m in claude.models.list(limit=1)] == [m.id for m in listed], "pages"
    assert claude.models.retrieve(MODEL).id.startswith(MODEL)
    with pytest.raises(anthropic.NotFoundError) as e:
        claude.models.retrieve("no-such-model")
    assert e.value.body["type"] == "error"
    assert json.loads(http(front.url + "/v1/models")[2])["object"] == "list"


def test_names_that_clients_have_built_in(claude):
    raw = claude.messages.with_raw_response.create(model="claude-sonnet-5", max_tokens=200, messages=user("hello"))
    assert raw.headers["x-corral-model"].startswith(MODEL) and raw.headers["x-corral-reason"] == "alias"


def test_other_base_urls(front):
    for path in ("/messages", "/anthropic/v1/messages", "/v1/messages"):
        status, _, body = http(front.url + path, {"model": "auto", "max_tokens": 3, "messages": user("hello")}, "POST")
        assert status == 200 and json.loads(body)["type"] == "message"


def test_what_has_no_effect_is_named(claude, front):
    raw = claude.messages.with_raw_response.create(model=MODEL, max_tokens=3, messages=user("hello"), metadata={"user_id": "ann"}, service_tier="auto")
    assert raw.headers["x-corral-ignored"] == "metadata, service_tier"


def test_the_ledger_says_anthropic(claude, front):
    raw = claude.messages.with_raw_response.create(model=MODEL, max_tokens=3, messages=user("hello"))
    until = time.monotonic() + 20
    rows = []
    while time.monotonic() < until and not (rows and not rows[0]["open"]):
        rows = front.get(f"/requests/{raw.headers['request-id']}")[2].get("attempts", [])
        time.sleep(0.05)
    (row,) = rows
    assert (row["dialect"], row["completion_tokens"], row["status"]) == ("anthropic", 3, "ok")
