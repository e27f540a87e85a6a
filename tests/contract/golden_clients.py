#!/usr/bin/env python3
"""The golden answers of common/llm, read by the vendors' own clients.

    "$(scripts/venv)/bin/python" tests/contract/golden_clients.py

Every tests/golden/llm/NAME.client.EXT goes through the openai, the ollama or the anthropic package, by a transport that
plays the bytes, in several sizes of pieces. What the package understood must be what the backend said in its
own dialect, which is read here with json alone. Requests we wrote for a backend are checked against the
request models of the ollama package. Ends with "N passed, N failed, 0 skipped".
"""
import json
import sys
from pathlib import Path

import anthropic
import httpx
import httpx2
import ollama
import openai

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "llm"

# name: recorded, as in common/llm/convert_test.c
RECORDED = {
    "openai-ollama-chat": "ollama.chat-stream.ndjson",
    "openai-ollama-chat-whole": "ollama.chat-nonstream.json",
    "openai-ollama-tools": "ollama.tools-native-stream.ndjson",
    "openai-ollama-tool-result": "ollama.tool-result.json",
    "openai-ollama-think": "ollama.think-native-stream.ndjson",
    "openai-ollama-everything": "ollama.logprobs.json",
    "openai-ollama-completion": "ollama.generate-stream.ndjson",
    "openai-ollama-completion-whole": "made.generate-logprobs.json",
    "ollama-llamacpp-chat": "llamacpp.chat-stream-usage.sse",
    "ollama-llamacpp-tools": "llamacpp.tools-stream.sse",
    "ollama-llamacpp-tools-whole": "llamacpp.tools.json",
    "ollama-llamacpp-think-whole": "llamacpp.think.json",
    "ollama-openai-think": "ollama.think-v1-stream.sse",
    "ollama-llamacpp-generate": "llamacpp.chat-stream-nousage.sse",
    "ollama-openai-raw": "ollama.v1-completions-stream.sse",
    "ollama-openai-two-tools": "made.two-tools.sse",
    "anthropic-llamacpp-chat": "llamacpp.chat-stream-usage.sse",
    "anthropic-llamacpp-tools": "llamacpp.tools-stream.sse",
    "anthropic-llamacpp-tools-whole": "llamacpp.tools.json",
    "anthropic-llamacpp-think-whole": "llamacpp.think.json",
    "anthropic-openai-think": "ollama.think-v1-stream.sse",
    "anthropic-openai-two-tools": "made.two-tools.sse",
    "anthropic-ollama-chat": "ollama.chat-stream.ndjson",
    "anthropic-ollama-chat-whole": "ollama.chat-nonstream.json",
    "anthropic-ollama-tools": "ollama.tools-native-stream.ndjson",
    "anthropic-ollama-tool-result": "ollama.tool-result.json",
    "anthropic-ollama-think": "ollama.think-native-stream.ndjson",
    "openai-llamacpp-infill": "llamacpp.completion-stream.sse",
    "ollama-llamacpp-infill": "llamacpp.completion.json",
}
VECTORS = {
    "openai-ollama-embed": "made.embed.json",
    "openai-ollama-embed-base64": "made.embed.json",
    "ollama-llamacpp-embed": "made.embeddings.json",
    "ollama-openai-embed": "made.embeddings.json",
    "ollama-ollama-embeddings": "made.embed-one.json",
}
PIECES = (1, 7, 100, 1 << 20)


class Said:
    """What an answer says, whoever said it."""

    def __init__(self):
        self.text = self.thinking = ""
        self.calls = []           # [name, arguments as an object]
        self.finish = None
        self.tokens = None        # (prompt, completion)

    def __eq__(self, other):
        return vars(self) == vars(other)

    def __repr__(self):
        return str(vars(self))


def read_ollama_backend(text):
    said = Said()
    for line in text.splitlines():
        o = json.loads(line)
        m = o.get("message") or {"content": o.get("response", "")}
        said.text += m.get("content") or ""
        said.thinking += m.get("thinking") or ""
        said.calls += [[c["function"]["name"], c["function"]["arguments"]] for c in m.get("tool_calls") or []]
        if o["done"]:
            said.finish = o["done_reason"]
            said.tokens = (o["prompt_eval_count"], o["eval_count"])
    return said


def read_openai_backend(text):
    said = Said()
    pieces = {}
    if not text.startswith("{"):
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    else:
        events = [json.loads(text)]
    for o in events:
        for c in o["choices"]:
            d = c.get("delta") or c.get("message") or {"content": c.get("text")}
            said.text += d.get("content") or ""
            said.thinking += d.get("reasoning_content") or d.get("reasoning") or ""
            for i, call in enumerate(d.get("tool_calls") or []):
                p = pieces.setdefault(call.get("index", i), ["", ""])
                p[0] += call["function"].get("name") or ""
                p[1] += call["function"].get("arguments") or ""
            said.finish = c.get("finish_reason") or said.finish
        t, u = o.get("timings"), o.get("usage")
        if t:
            said.tokens = (t["cache_n"] + t["prompt_n"], t["predicted_n"])
        if u and u["total_tokens"]:
            said.tokens = (u["prompt_tokens"], u["completion_tokens"])
    said.calls = [[name, json.loads(arguments)] for name, arguments in pieces.values()]
    return said


def read_llamacpp_backend(text):
    """llama.cpp's own shape, of /completion and /infill."""
    said = Said()
    for o in [json.loads(text)] if text.startswith("{") else [json.loads(line[6:]) for line in text.splitlines() if line]:
        said.text += o["content"]
        if o["stop"]:
            said.finish = "length" if o["stop_type"] == "limit" else "stop"
            said.tokens = (o["timings"]["cache_n"] + o["timings"]["prompt_n"], o["timings"]["predicted_n"])
    return said


class Pieces(httpx.SyncByteStream, httpx2.SyncByteStream):
    def __init__(self, body, n):
        self.body, self.n = body, n

    def __iter__(self):
        for at in range(0, len(self.body), self.n):
            yield self.body[at:at + self.n]


def transport(path, piece, lib=httpx):
    types = {".sse": "text/event-stream", ".ndjson": "application/x-ndjson", ".json": "application/json"}

    def answer(request):
        return lib.Response(200, headers={"Content-Type": types[path.suffix]}, stream=Pieces(path.read_bytes(), piece))

    return lib.MockTransport(answer)


def openai_add(said, choice):
    d = getattr(choice, "delta", None) or getattr(choice, "message", None)
    if d is None:
        said.text += choice.text or ""
    else:
        said.text += d.content or ""
        said.thinking += getattr(d, "reasoning_content", None) or ""
        for call in d.tool_calls or []:
            assert call.id and call.type == "function"
            assert getattr(call, "index", len(said.calls)) == len(said.calls)
            said.calls.append([call.function.name, json.loads(call.function.arguments)])
    said.finish = choice.finish_reason or said.finish


def hear_openai(path, request, piece):
    client = openai.OpenAI(api_key="k", base_url="http://corral/v1", max_retries=0,
                           http_client=httpx.Client(transport=transport(path, piece)))
    said = Said()
    create = client.completions.create if "prompt" in request else client.chat.completions.create
    answer = create(**{k: v for k, v in request.items() if k in ("model", "messages", "prompt", "stream", "stream_options")})
    for chunk in answer if request.get("stream") else [answer]:
        assert chunk.id and chunk.created and chunk.model == "shown"
        for choice in chunk.choices:
            openai_add(said, choice)
        if chunk.usage:
            said.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
    return said


def hear_ollama(path, request, piece):
    client = ollama.Client(host="http://corral", transport=transport(path, piece))
    said = Said()
    stream = request.get("stream", True)
    if "messages" in request:
        answer = client.chat(model="m", messages=[{"role": "user", "content": "x"}], stream=stream)
    else:
        answer = client.generate(model="m", prompt="x", stream=stream)
    for part in answer if stream else [answer]:
        assert part.model == "shown" and part.created_at
        if "messages" in request:
            said.text += part.message.content or ""
            said.thinking += part.message.thinking or ""
            said.calls += [[c.function.name, dict(c.function.arguments)] for c in part.message.tool_calls or []]
        else:
            said.text += part.response or ""
            said.thinking += part.thinking or ""
        if part.done:
            said.finish = part.done_reason
            said.tokens = (part.prompt_eval_count, part.eval_count)
            assert part.total_duration > 0 and part.eval_duration > 0
    assert part.done
    return said


def hear_anthropic(path, request, piece):
    client = anthropic.Anthropic(api_key="k", base_url="http://corral", max_retries=0,
                                 http_client=httpx2.Client(transport=transport(path, piece, httpx2)))
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    if request.get("stream"):
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    assert message.id.startswith("msg_") and message.model == "shown" and message.role == "assistant"
    said = Said()
    order = [b.type for b in message.content]
    assert order == sorted(order, key=["thinking", "text", "tool_use"].index)
    for b in message.content:
        said.text += b.text if b.type == "text" else ""
        said.thinking += b.thinking if b.type == "thinking" else ""
        if b.type == "tool_use":
            assert b.id
            said.calls.append([b.name, b.input])
    said.finish = message.stop_reason
    u = message.usage
    said.tokens = (u.input_tokens + u.cache_read_input_tokens, u.output_tokens)
    return said


STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def expected(name, request):
    """What the backend said, in the words of the client's dialect."""
    recorded = (GOLDEN / RECORDED[name]).read_text()
    to_openai = name.startswith("openai")
    said = (read_llamacpp_backend if "infill" in name else
            read_ollama_backend if to_openai or name.startswith("anthropic-ollama") else read_openai_backend)(recorded)
    if name.startswith("anthropic"):
        said.finish = "tool_use" if said.calls else STOP_REASONS[said.finish]
    elif to_openai:
        said.finish = "tool_calls" if said.calls else said.finish
        if request.get("stream") and not (request.get("stream_options") or {}).get("include_usage"):
            said.tokens = None
    elif said.finish == "tool_calls":
        said.finish = "stop"
    return said


def check_answer(name):
    path = next(GOLDEN.glob(f"{name}.client.*"))
    request = json.loads((GOLDEN / f"{name}.request.json").read_text())
    want = expected(name, request)
    for piece in PIECES:
        got = {"openai": hear_openai, "ollama": hear_ollama, "anthropic": hear_anthropic}[name.split("-")[0]](path, request, piece)
        if want.tokens is None:           # the backend counted nothing: ours are estimates
            got.tokens = None
        assert got == want, f"in pieces of {piece}:\n  got  {got}\n  want {want}"


def check_request(name):
    """Ollama's own models of requests take what we wrote; every member is one they know."""
    body = json.loads((GOLDEN / f"{name}.upstream.txt").read_text().splitlines()[1])
    kind = (ollama._types.ChatRequest if "messages" in body else ollama._types.EmbedRequest if "input" in body else
            ollama._types.GenerateRequest)
    made = kind.model_validate({k: v for k, v in body.items() if k != "truncate"})
    assert body["truncate"] is False
    unknown = set(body) - set(kind.model_fields) - {"truncate"}
    assert not unknown, f"unknown to the package: {unknown}"
    assert made.model == "remote:1b"


def check_vectors(name):
    """Embeddings that we wrote, as the package reads them, against the numbers that the backend sent."""
    path = GOLDEN / f"{name}.client.json"
    recorded = json.loads((GOLDEN / VECTORS[name]).read_text())
    want = recorded.get("embeddings") or [d["embedding"] for d in sorted(recorded["data"], key=lambda d: d["index"])]
    if name.startswith("openai"):
        client = openai.OpenAI(api_key="k", base_url="http://corral/v1", max_retries=0, http_client=httpx.Client(transport=transport(path, 7)))
        asked = {} if "base64" in name else {"encoding_format": "float"}
        answer = client.embeddings.create(model="m", input=["a", "b"], **asked)
        got = [d.embedding for d in answer.data]
        assert [d.index for d in answer.data] == [0, 1] and answer.usage.prompt_tokens == answer.usage.total_tokens == 8
        assert answer.model == "shown"
    else:
        client = ollama.Client(host="http://corral", transport=transport(path, 7))
        got = [client.embeddings("m", "a").embedding] if name.endswith("embeddings") else client.embed("m", ["a", "b"]).embeddings
    for g, w in zip(got, want, strict=True):
        assert all(abs(x - y) <= 1e-6 * abs(y) + 1e-44 for x, y in zip(g, w, strict=True)), f"{g} is not {w}"


def check_broken(name):
    """A stream that breaks raises in the client, with the sentence in it, after what had come."""
    path = next(GOLDEN.glob(f"{name}.client.*"))
    request = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    for piece in PIECES:
        try:
            {"openai": hear_openai, "ollama": hear_ollama, "anthropic": hear_anthropic}[name.split("-")[1]](path, request, piece)
        except (openai.APIError, ollama.ResponseError, anthropic.APIError) as e:
            assert "the backend broke off its answer" in str(e), e
        else:
            raise AssertionError("the client took the broken stream for a whole one")


def checks():
    """(function, name of a golden file) of every check."""
    all_ = [(check_answer, n) for n in RECORDED]
    all_ += [(check_request, p.name.split(".")[0]) for p in sorted(GOLDEN.glob("*-ollama*.upstream.txt")) if not p.name.startswith("ollama-")]
    all_ += [(check_vectors, n) for n in VECTORS]
    return all_ + [(check_broken, n) for n in ("broken-openai", "broken-ollama", "broken-anthropic")]


def main():
    failed = 0
    for check, name in checks():
        try:
            check(name)
        except Exception as e:
            failed += 1
            print(f"FAIL {check.__name__} {name}: {type(e).__name__}: {e}")
    print(f"{len(checks()) - failed} passed, {failed} failed, 0 skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
