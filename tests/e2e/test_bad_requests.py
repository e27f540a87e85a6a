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
    assert [m["breaker"] for m in backends["backends"][0]["models"]] == ["closed"]
    status, _, text = http(front.url + "/v1/chat/completions", {"model": MODEL, "messages": HELLO}, "POST")
    assert status == 200 and "Welcome" in text
