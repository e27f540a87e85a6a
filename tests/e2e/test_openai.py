"""The OpenAI dialect, asked with the openai package, in front of a real llama.cpp."""
import json
import threading
import time

import openai
import pytest

from servers import http

MODEL = "corral-tiny"
TIME_TOOL = {"type": "function", "function": {"name": "get_time", "description": "The time in a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city", "n"]}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": {
    "type": "object", "properties": {"answer": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["answer", "ok"],
    "additionalProperties": False}}}


def user(text):
    return [{"role": "user", "content": text}]


def read(stream):
    """(text, finish reason, usage, chunks) of a stream."""
    text, finish, usage, chunks = "", None, None, list(stream)
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish, usage, chunks


def read_call(stream):
    """(name, arguments, finish reason) of the one tool call that a stream brings in pieces."""
    name = arguments = ""
    finish = None
    for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                assert call.index == 0
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    return name, arguments, finish


def test_models_are_listed_with_auto(client):
    ids = [m.id for m in client.models.list()]
    assert MODEL in ids and "auto" in ids
    assert len(ids) == len(set(ids))


def test_one_model(client):
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("model", [MODEL, "auto"])
def test_an_answer(client, direct, model):
    mine = client.chat.completions.create(model=model, messages=user("hello"))
    theirs = direct.chat.completions.create(model=MODEL, messages=user("hello"))
    assert mine.choices[0].message.content.startswith("Welcome to Corral!")
    assert mine.choices[0].message.content == theirs.choices[0].message.content
    assert mine.choices[0].finish_reason == "stop"
    assert mine.usage.prompt_tokens == theirs.usage.prompt_tokens
    assert mine.usage.completion_tokens == theirs.usage.completion_tokens


def test_headers_say_who_answered(client):
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=user("hello"))
    assert raw.headers["x-corral-model"] == MODEL
    assert raw.headers["x-corral-backend"] == "tiny"
    assert raw.headers["x-corral-reason"] == "rules"
    assert len(raw.headers["x-request-id"]) == 36
    named = client.chat.completions.with_raw_response.create(model=MODEL, messages=user("hello"))
    assert named.headers["x-corral-reason"] == "asked"
    assert named.headers["x-request-id"] != raw.headers["x-request-id"]


def test_a_stream(client):
    whole = client.chat.completions.create(model=MODEL, messages=user("corral"))
    text, finish, usage, chunks = read(client.chat.completions.create(model=MODEL, messages=user("corral"), stream=True))
    assert text == whole.choices[0].message.content
    assert finish == "stop"
    assert usage is None, "a usage chunk that was not asked for"
    assert len(chunks) > 20, "not token by token"


def test_a_stream_with_usage(client):
    _, finish, usage, chunks = read(client.chat.completions.create(
        model=MODEL, messages=user("hello"), stream=True, stream_options={"include_usage": True}))
    whole = client.chat.completions.create(model=MODEL, messages=user("hello"))
    assert finish == "stop"
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert chunks[-1].usage and not chunks[-1].choices


def test_a_long_stream_is_whole(client):
    text, finish, usage, _ = read(client.chat.completions.create(
        model=MODEL, messages=user("count"), stream=True, stream_options={"include_usage": True}))
    assert text == " ".join(str(i) for i in range(1, 401))
    assert finish == "stop"
    assert usage.completion_tokens == 401


def test_a_stream_begins_before_it_ends(client):
    began = time.monotonic()
    stream = client.chat.completions.create(model=MODEL, messages=user("forever"), stream=True, max_tokens=1500)
    first = None
    for chunk in stream:
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.monotonic() - began
    assert first < (time.monotonic() - began) / 4


def test_thinking_is_carried(client):
    message = client.chat.completions.create(model=MODEL, messages=user("think")).choices[0].message
    assert "seven" in message.model_extra["reasoning_content"]
    assert message.content.strip() == "Seven it must be."


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_tool_call(client, choice):
    asked = dict(model=MODEL, messages=user("what time is it"), tools=[TIME_TOOL], tool_choice=choice)
    whole = client.chat.completions.create(**asked).choices[0]
    (call,) = whole.message.tool_calls
    assert call.function.name == "get_time"
    assert json.loads(call.function.arguments) == {"city": "Paris", "n": 3}
    name, arguments, finish = read_call(client.chat.completions.create(**asked, stream=True))
    assert (name, json.loads(arguments)) == ("get_time", {"city": "Paris", "n": 3})
    assert finish == whole.finish_reason


def test_a_tool_s_result_goes_back(client):
    first = client.chat.completions.create(model=MODEL, messages=user("what time is it"), tools=[TIME_TOOL])
    call = first.choices[0].message
    answer = client.chat.completions.create(model=MODEL, tools=[TIME_TOOL], messages=[
        *user("what time is it"), call.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "noon"}])
    assert answer.choices[0].message.content == "Your tool replied, thank you. Its result was read to its end."


def test_json_schema(client):
    answer = client.chat.completions.create(model=MODEL, messages=user("json"), response_format=SCHEMA)
    assert json.loads(answer.choices[0].message.content) == {"answer": 42, "ok": True}


def test_stop_and_length(client):
    stopped = client.chat.completions.create(model=MODEL, messages=user("count"), stop=["7"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("1 2 3 4 5 6 ", "stop")
    cut = client.chat.completions.create(model=MODEL, messages=user("count"), max_tokens=5)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)


def test_seed_and_temperature_reach_the_model(client):
    asked = dict(model=MODEL, messages=user("hello"), temperature=20.0, max_tokens=20, extra_body={"top_k": 0, "min_p": 0, "top_p": 1})
    said = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_logprobs(client):
    choice = client.chat.completions.create(model=MODEL, messages=user("hello"), logprobs=True, top_logprobs=2).choices[0]
    assert "".join(t.token for t in choice.logprobs.content) == choice.message.content
    assert all(len(t.top_logprobs) == 2 for t in choice.logprobs.content)


def test_a_text_completion(client, direct):
    asked = dict(model=MODEL, prompt="count", max_tokens=6, temperature=0)
    mine, theirs = client.completions.create(**asked), direct.completions.create(**asked)
    assert mine.choices[0].text == theirs.choices[0].text and mine.object == "text_completion"
    assert mine.usage.completion_tokens == theirs.usage.completion_tokens == 6
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == mine.choices[0].text and chunks[-1].choices[0].finish_reason == "length"
    with_usage = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert with_usage[-1].usage.completion_tokens == 6


def test_a_text_completion_s_variety(client):
    asked = dict(model=MODEL, max_tokens=3, temperature=0)
    assert [c.index for c in client.completions.create(**asked, prompt="count", n=2).choices] == [0, 1]
    assert client.completions.create(**asked, prompt="count", logprobs=2).choices[0].logprobs
    several = client.completions.create(**asked, prompt=["hello", "count"]).choices
    assert [c.index for c in several] == [0, 1] and several[1].text == client.completions.create(**asked, prompt="count").choices[0].text
    assert client.completions.create(**asked, prompt=[1, 2, 3]).choices[0].text
    assert client.completions.create(**asked, prompt="count", echo=False, best_of=1).choices[0].text


@pytest.mark.parametrize("asked, tokens", [
    ({"prompt": "count", "n": 2}, 6), ({"prompt": ["count", "count"]}, 6), ({"prompt": "count", "n": 2, "stream": True}, 6), ({"prompt": "count"}, 3),
    ({"messages": [{"role": "user", "content": "count"}], "n": 2}, 6), ({"messages": [{"role": "user", "content": "count"}], "n": 2, "stream": True}, 6),
    ({"messages": [{"role": "user", "content": "count"}], "n": 2, "stream": True, "stream_options": {"include_usage": True}}, 6),
])
def test_several_answers_are_booked(corral, asked, tokens):
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    status, headers, text = http(corral.url + path, {"model": MODEL, "max_tokens": 3, "temperature": 0, **asked})
    assert status == 200, text
    end = time.monotonic() + 20
    while (got := corral.get(f"/requests/{headers['X-Request-Id']}"))[0] != 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert [a["completion_tokens"] for a in got[2]["attempts"]] == [tokens]


@pytest.mark.parametrize("more, field", [
    ({"echo": True}, "echo"), ({"best_of": 3}, "best_of"), ({"prompt": ["a", "b"], "stream": True}, "prompt"), ({"prompt": None}, "prompt"),
    ({"max_tokens": "many"}, "max_tokens"),
])
def test_a_text_completion_that_cannot_be(client, more, field):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**{"model": MODEL, "prompt": "hello", **more})
    assert refused.value.param == field


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="no-such-model", messages=user("hello"))
    assert refused.value.code == "model_not_found"
    assert "no-such-model" in refused.value.message


@pytest.mark.parametrize("body", [
    b'{"model": "corral-tiny", "messages": [', b'{"model": "corral-tiny", "model": "auto", "messages": []}',
    b'{"model": "corral-tiny", "MODEL": "auto", "messages": []}', b'{"messages": "hello", "model": 7}', b"", b"[]", b"{} {}"])
def test_a_bad_body_is_refused(corral, body):
    status, headers, text = http(f"{corral.url}/v1/chat/completions", body, "POST")
    assert status == 400
    error = json.loads(text)["error"]
    assert error["message"] and error["type"] == "invalid_request_error"


def test_what_the_backend_refuses_stays_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("hello " * 6000))
    assert "context" in refused.value.message


@pytest.mark.parametrize("path", ["/models", "/v1/models/", "//v1//models", "/openai/v1/models"])
def test_near_misses_of_the_path(corral, path):
    status, _, body = corral.get(path)
    assert status == 200
    assert MODEL in [m["id"] for m in body["data"]]


def test_an_unknown_path_answers_json(corral):
    status, headers, body = corral.get("/v1/no-such-thing")
    assert status == 404 and "json" in headers["content-type"] and body["error"]


def busy(llama):
    return sum(slot["is_processing"] for slot in json.loads(http(f"{llama.url}/slots")[2]))


def test_a_client_that_leaves_frees_the_model(client, llama):
    stream = client.chat.completions.create(model=MODEL, messages=user("forever"), stream=True, max_tokens=100000)
    for _ in zip(range(5), stream):
        pass
    assert busy(llama) == 1
    stream.close()
    until = time.monotonic() + 1
    while busy(llama) and time.monotonic() < until:
        time.sleep(0.02)
    assert busy(llama) == 0


def test_many_at_once(client):
    said = []

    def ask(word):
        said.append(client.chat.completions.create(model=MODEL, messages=user(word)).choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(w,)) for w in ["hello", "corral", "sql"] * 8]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(said) == 24 and len(set(said)) == 3
