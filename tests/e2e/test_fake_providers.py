"""The scripted providers are what the vendors' own clients take them for, and write down what they did; a scripted backend lets go of all it had."""
import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import time

import anthropic
import httpx
import openai
import pytest

from servers import ROOT, until

sys.path.insert(0, str(ROOT / "tests" / "fakes"))
from providers import Fake                                       # noqa: E402
from scripted import Backend                                     # noqa: E402

os.environ["no_proxy"] = "127.0.0.1,localhost"
ASK = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


@pytest.fixture
def fake(tmp_path):
    with Fake(book=tmp_path / "book", received=tmp_path / "received", keys=["k1"]) as server:
        server.folder = tmp_path
        yield server


def openai_client(fake, path="/v1", key="k1"):
    return openai.OpenAI(base_url=fake.url + path, api_key=key, max_retries=0, http_client=httpx.Client(trust_env=False))


def anthropic_client(fake):
    return anthropic.Anthropic(base_url=fake.url, api_key="k1", max_retries=0)


def post(fake, path, body=None, **headers):
    return httpx.post(fake.url + path, json=body if body is not None else {}, headers={"x-goog-api-key": "k1", **headers}, trust_env=False, timeout=30)


@pytest.mark.parametrize("path", ["/v1", "/api/v1", "/v1beta/openai", "/v2/abc/openai/v1"])
def test_openai_client(fake, path):
    client = openai_client(fake, path)
    fake.now(["answer 2 think=1 cached=3", "answer 2", "call 2", "answer", "status 429 retry=3", "block", "torn 2"])
    whole = client.chat.completions.create(model="m", messages=ASK)
    assert whole.choices[0].message.content == "w0 w1 " and whole.usage.completion_tokens == 3 and whole.usage.prompt_tokens_details.cached_tokens == 3
    chunks = list(client.chat.completions.create(model="m", messages=ASK, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "w0 w1 " and chunks[-1].usage.completion_tokens == 2
    calls = client.chat.completions.create(model="m", messages=ASK, tools=[TOOL]).choices[0].message.tool_calls
    assert [json.loads(c.function.arguments) for c in calls] == [{"city": "Paris", "days": 3}] * 2
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert json.loads(client.chat.completions.create(model="m", messages=ASK, response_format=wanted).choices[0].message.content)["city"] == "Paris"
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="m", messages=ASK)
    assert caught.value.response.headers.get("retry-after") == (None if "beta" in path else "3")
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(model="m", messages=ASK)
    with pytest.raises((httpx.HTTPError, openai.APIError)):
        list(client.chat.completions.create(model="m", messages=ASK, stream=True))
    assert [line["tokens"] for line in fake.lines] == [2, 2, 2, 3, 0, 0, 2]
    assert [json.loads(line) for line in (fake.folder / "book").read_text().splitlines()] == fake.lines
    with pytest.raises(openai.AuthenticationError):
        openai_client(fake, path, "wrong").chat.completions.create(model="m", messages=ASK)
    assert (fake.folder / "received").read_text().count('"hello"') == 8


def test_anthropic_client(fake):
    client = anthropic_client(fake)
    fake.now(["answer 2 think=1", "call 1", "status 529", "event-error 1"])
    with client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        final = stream.get_final_message()
    assert [b.type for b in final.content] == ["thinking", "text"] and final.content[1].text == "w0 w1 " and final.usage.output_tokens == 3
    with client.messages.stream(model="m", max_tokens=9, messages=ASK, tools=[{"name": "weather", "input_schema": SCHEMA}]) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use" and final.content[0].input == {"city": "Paris", "days": 3}
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="m", max_tokens=9, messages=ASK)
    assert caught.value.status_code == 529 and caught.value.body["error"]["type"] == "overloaded_error"
    with pytest.raises(anthropic.APIStatusError), client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        stream.get_final_message()


def test_gemini_in_its_own_form(fake):
    fake.now(["answer 2 think=4 cached=2", "answer 2", "call 1", "block", "status 429 retry=7"])
    body = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
    whole = post(fake, "/v1beta/models/g-1:generateContent", body).json()
    assert whole["candidates"][0]["finishReason"] == "STOP" and whole["usageMetadata"]["thoughtsTokenCount"] == 4
    events = [json.loads(line[6:]) for line in post(fake, "/v1beta/models/g-1:streamGenerateContent?alt=sse", body).text.split("\n\n") if line]
    assert [e["candidates"][0].get("finishReason") for e in events] == [None, None, "STOP"]
    tools = [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": SCHEMA}]}]
    called = post(fake, "/v1beta/models/g-1:generateContent", {**body, "tools": tools}).json()["candidates"][0]["content"]["parts"][0]
    assert called["functionCall"]["args"]["days"] == 3 and called["thoughtSignature"]
    assert post(fake, "/v1beta/models/g-1:generateContent", body).json()["promptFeedback"]["blockReason"] == "SAFETY"
    limited = post(fake, "/v1beta/models/g-1:generateContent", body)
    assert limited.status_code == 429 and limited.json()["error"]["details"][-1]["retryDelay"] == "7s"


def test_runpod_jobs(fake):
    ask = {"input": {"openai_route": "/v1/chat/completions", "openai_input": {"model": "m", "messages": ASK, "stream": True}}}
    fake.now(["answer 3", "answer 1", "hang", "error200", "answer 2"])
    job = post(fake, "/v2/abc/run", ask).json()
    assert job["status"] == "IN_QUEUE"
    got = httpx.get(f"{fake.url}/v2/abc/stream/{job['id']}", trust_env=False).json()
    assert got["status"] == "COMPLETED" and "data: [DONE]" in "".join(piece["output"] for piece in got["stream"])
    assert httpx.get(f"{fake.url}/v2/abc/stream/{job['id']}", trust_env=False).json() == {"status": "COMPLETED", "stream": []}
    ask["input"]["openai_input"]["stream"] = False
    assert post(fake, "/v2/abc/runsync", ask).json()["output"][0]["choices"][0]["message"]["content"] == "w0 "
    job = post(fake, "/v2/abc/run", ask).json()
    assert httpx.get(f"{fake.url}/v2/abc/status/{job['id']}", trust_env=False).json()["status"] == "IN_QUEUE"
    assert post(fake, f"/v2/abc/cancel/{job['id']}").json()["status"] == "CANCELLED"
    assert fake.lines[-1]["cancelled"] and fake.lines[-1]["job"] == job["id"]
    assert post(fake, "/v2/abc/runsync", ask).json()["error"] == "the worker broke"
    native = post(fake, "/v2/abc/runsync", {"input": {"messages": ASK, "sampling_params": {"max_tokens": 5}}}).json()
    assert [c["choices"][0]["tokens"] for c in native["output"]] == [["w0 "], ["w1 "]]
    assert httpx.get(fake.url + "/v2/abc/health", trust_env=False).json()["workers"]["idle"] == 1


def test_runpod_starts_cold(tmp_path):
    with Fake(cold=0.3) as fake:
        assert httpx.get(fake.url + "/v2/abc/health", trust_env=False).json()["workers"]["idle"] == 0
        begun = time.monotonic()
        assert post(fake, "/v2/abc/runsync", {"input": {"messages": ASK}}).json()["status"] == "COMPLETED"
        assert time.monotonic() - begun >= 0.3
        assert httpx.get(fake.url + "/v2/abc/health", trust_env=False).json()["workers"]["idle"] == 1


def test_who_leaves_is_noted_over_tls_too(tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=fake", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)
    with Fake(tls=(tmp_path / "cert.pem", tmp_path / "key.pem"), script=["stall 2", "answer 2"]) as fake:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
            with client.stream("POST", fake.url + "/v1/chat/completions", json={"model": "m", "messages": ASK, "stream": True}) as answer:
                assert any("w1 " in line for line in answer.iter_lines())        # reads no further
            until(lambda: fake.lines)
            assert fake.lines[0]["cancelled"] and fake.lines[0]["tokens"] == 2
            assert client.post(fake.url + "/v1/chat/completions", json={"model": "m", "messages": ASK}).json()["choices"][0]["message"]["content"] == "w0 w1 "


async def refused_after(turns):
    """How a connection ends that came so many turns of the loop before the port was closed."""
    loop, backend, client = asyncio.get_running_loop(), Backend("a", "llamacpp", {"m": {"ctx": 4096}}), socket.socket()
    await backend.start()
    await asyncio.sleep(0.01)                # it waits for clients
    client.connect(("127.0.0.1", backend.port))
    client.setblocking(False)
    for _ in range(turns):
        await asyncio.sleep(0)
    await backend.now(["refuse"])
    try:
        return await asyncio.wait_for(loop.sock_recv(client, 1), 10)
    except ConnectionResetError:
        return b""
    finally:
        client.close()
        await backend.stop()


def test_a_backend_that_refuses_holds_nobody():
    assert [asyncio.run(refused_after(turns)) for turns in range(6)] == [b""] * 6
