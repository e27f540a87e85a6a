"""What one client does wrong is that client's: it gets a 4xx in the words of its protocol, and others go on."""
import json

import pytest

from servers import http

MODEL = "corral-tiny"
HELLO = [{"role": "user", "content": "hello"}]
BROKEN_CALL = HELLO + [
    {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{broken"}}]},
    {"role": "tool", "tool_call_id": "a", "content": "x"}]
# engines answer 500 or 501 to each of these
THEIR_FAULT = [
    ("/v1/chat/completions", {"messages": BROKEN_CALL}),
    ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "function", "function": {}}]}),
    ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "no such type"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}]}]}),
    ("/api/chat", {"messages": HELLO, "format": "xml"}),
    ("/api/chat", {"messages": HELLO, "options": {"temperature": "hot"}}),
    ("/api/generate", {"prompt": "x", "suffix": "y"}),
]


@pytest.fixture(scope="module", params=["llamacpp", "ollama"])
def front(request, corral_with):
    server = request.getfixturevalue("ollama_server" if request.param == "ollama" else "llama")
    return corral_with({"tiny": (request.param, server.url)})


def test_bad_requests_of_one_do_not_take_the_model_from_all(front):
    for path, body in THEIR_FAULT:
        for _ in range(6):     # one more than opens a breaker
            status, _, text = http(front.url + path, {"model": MODEL, "stream": False, **body}, "POST")
            assert 400 <= status < 500, (path, body, status, text)
    _, _, backends = front.get("/backends")
    assert {m["breaker"] for m in backends["backends"][0]["models"]} == {"closed"}
    status, _, text = http(front.url + "/v1/chat/completions", {"model": MODEL, "messages": HELLO}, "POST")
    assert status == 200 and "Welcome" in text


@pytest.mark.parametrize("method, path, status", [
    ("POST", "/v1/moderations", 404), ("POST", "/v1/responses", 404), ("POST", "/v1//v1/chat/completions/", 404), ("GET", "/v1/chat/completions", 405)])
def test_refusals_in_openais_shape(front, method, path, status):
    got, headers, text = http(front.url + path, {} if method == "POST" else None, method)
    error = json.loads(text)["error"]
    assert got == status and path.replace("//", "/").rstrip("/") in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert headers["X-Request-Id"] and (status != 405 or headers["Allow"].startswith("POST"))


@pytest.mark.parametrize("path", ["/api/nothing", "/api/chat/completions"])
def test_refusals_in_ollamas_shape(front, path):
    status, _, text = http(front.url + path, {}, "POST")
    assert status == 404 and list(json.loads(text)) == ["error"] and path in text


@pytest.mark.parametrize("path, keys", [("/v1/chat/completions", {"message", "type", "param", "code"}), ("/api/chat", None)])
def test_refusals_before_the_body_is_read(front, path, keys):
    for status, headers, body in ((413, {}, b"{" + b" " * (9 << 20)), (403, {"Host": "evil.example"}, b"{}"), (415, {"Content-Encoding": "gzip"}, b"x")):
        try:
            got, answered, text = http(front.url + path, body, "POST", headers)
        except OSError:         # the connection closed while the body was still on its way
            assert status == 413
            continue
        error = json.loads(text)["error"]
        assert got == status and answered["X-Request-Id"] and (set(error) == keys if keys else isinstance(error, str)), text


def test_think_of_no_known_strength(front):
    status, _, text = http(front.url + "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False, "think": "bogus"}, "POST")
    assert status == 400 and "think" in json.loads(text)["error"]
