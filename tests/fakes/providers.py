#!/usr/bin/env python3
"""Providers in the cloud, scripted: OpenAI, Anthropic, Gemini (its own form and its OpenAI form), OpenRouter and RunPod, on one port.

Which provider is meant says the path, whatever stands before it:

    …/v1/messages                                             anthropic
    …/models/MODEL:generateContent, :streamGenerateContent    gemini
    …/v1beta/openai/chat/completions                          gemini-openai: errors are arrays of one, calls have no index
    …/api/v1/chat/completions                                 openrouter: comments between events, usage always, with its cost
    …/v2/ENDPOINT/run, /runsync, /status/ID, /stream/ID, /cancel/ID, /health           runpod: a queue of jobs that is polled
    …/v2/ENDPOINT/openai/v1/chat/completions                  runpod-openai
    …/chat/completions                                        openai

What it does with a request is a behaviour of scripted.py (answer N, hang, close, status CODE, error200, event-error N, unterminated N,
stall N, badutf8 N, with wait= gap= cut= reset usage=no retry=S), or one of these:

    torn N                N tokens, then half an event and the end of the connection
    call N                the first tool that is offered is called, N times; with the results of tools at its end a request gets `answer 2`
    block                 the prompt is refused for its content, as each provider says that

with these words behind it besides:

    word=WORD             the provider's own word for the error: insufficient_quota, context_length_exceeded, API_KEY_INVALID, …
    think=N               N tokens of thoughts before the answer
    cached=N              so many of the prompt's tokens were cached
    finish=length         the answer was cut at its length
    state=TIMED_OUT       how a job of RunPod ends
    busy=N                the first N questions about a job of RunPod's get 429
    cancel=ignored        a job of RunPod's goes on to its end all the same; cancel=forgotten: nobody knows it afterwards

`status 429 retry=3` says it as the provider does: Retry-After, and RetryInfo in the body of Gemini. A burst is a script: ["status 500"] * 3 +
["answer 3"]. Where an answer has to be of a schema, `answer` makes one of it. The behaviour of a request is, the first that there is:
the line after "do: " at the start of its last user text; that of its model (`models={NAME: BEHAVIOUR}`, --model NAME=BEHAVIOUR); the
next one of the script, of which the last one stays.

What an API does not take is refused first, in its words (provider_rules.py).

A key (x-api-key, x-goog-api-key, Authorization) that is none of `keys` gets 401, if there are any. `cold` seconds pass before the first job
of a RunPod endpoint runs, and /health shows a worker that starts; chill() puts it to sleep again.

Everything is written down: a line of JSON in `book` for each attempt, on disk before the answer's last byte leaves or as soon as it is
cancelled: {"provider","model","request_id","status","tokens","prompt_tokens","reported","cancelled","job"}. "tokens" were sent, "reported" says
whether the counts were. `received` holds each request as it came, head and body, for those who look for what must not leave.

    with Fake(book=…, received=…, tls=(CERT, KEY)) as fake: …fake.url, fake.calls, fake.now(["stall 2"])
    python3 tests/fakes/providers.py --port 0 --book FILE --received FILE --tls CERT KEY --script "status 500; answer 3"
"""
import argparse
import asyncio
import json
import os
import re
import signal
import ssl
import sys
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import provider_rules                                             # noqa: E402
import scripted                                                   # noqa: E402
from scripted import PROMPT_TOKENS, Backend, Call, Conn, Cut, Gone, Out, chunk, plain, seconds      # noqa: E402

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Behaviour(scripted.Behaviour):
    WORDS = {**scripted.Behaviour.WORDS, "torn": "tokens", "call": "tokens", "block": None}

    def __init__(self, text):
        self.word = self.finish = self.state = self.cancel = None
        self.think = self.cached = self.busy = 0
        self.sentence = None
        super().__init__(text)
        if self.do == "call" and not re.search(r"call \d", text):
            self.tokens = 1

    def _option(self, word):
        key, _, value = word.partition("=")
        if key in ("word", "finish", "state", "cancel"):
            setattr(self, key, value)
        elif key in ("think", "cached", "busy"):
            setattr(self, key, int(value))
        else:
            super()._option(word)


class Attempt(Call):
    """One request for inference as a provider saw it; of a job of RunPod: from /run to its end."""

    def __init__(self, backend, conn, method, path, headers, body, provider):
        super().__init__(backend, conn, method, path, headers, body)
        self.provider, self.status, self.cancelled, self.job = provider, 200, False, None
        self.written = False
        if provider == "runpod":
            given = self.json.get("input", {})
            self.json = given.get("openai_input", given)
            self.model = self.json.get("model", "")
        if provider == "gemini":
            self.model = re.search(r"models/(.*):", path)[1]
        self.stream = "stream" in path.rsplit(":", 1)[-1] if provider == "gemini" else bool(self.json.get("stream"))

    def prompt(self):
        if self.provider != "gemini":
            return super().prompt()
        said = [c for c in self.json.get("contents", []) if c.get("role", "user") == "user"]
        return "".join(p.get("text", "") for p in said[-1]["parts"]) if said else ""

    def has_result(self):
        """The last that was said is what a tool said."""
        if self.provider == "gemini":
            return any("functionResponse" in p for p in (self.json.get("contents") or [{}])[-1].get("parts", []))
        last = (self.json.get("messages") or [{}])[-1]
        return last.get("role") == "tool" or (isinstance(last.get("content"), list) and any(p.get("type") == "tool_result" for p in last["content"]))

    def schema(self):
        """What an answer must look like: a JSON schema, {} for any object, None for text."""
        if self.provider == "gemini":
            wish = self.json.get("generationConfig", {})
            json_wanted = wish.get("responseMimeType") == "application/json"
            return wish.get("responseJsonSchema", wish.get("responseSchema", {})) if json_wanted else None
        if self.provider == "anthropic":
            wish = self.json.get("output_config", {}).get("format")
            return wish and wish["schema"]
        wish = self.json.get("response_format", {})
        return wish["json_schema"]["schema"] if wish.get("type") == "json_schema" else {} if wish.get("type") == "json_object" else None

    def tool(self):
        """Name and schema of the first tool that is offered."""
        if self.provider == "gemini":
            first = self.json["tools"][0]["functionDeclarations"][0]
            return first["name"], first.get("parametersJsonSchema", first.get("parameters", {}))
        first = self.json["tools"][0]
        return (first["name"], first["input_schema"]) if self.provider == "anthropic" else (first["function"]["name"], first["function"].get("parameters", {}))


def example(schema):
    """A value of that schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: example(inner) for name, inner in schema.get("properties", {}).items()}
    return {"array": [example(schema["items"])] if "items" in schema else [], "integer": 3, "number": 1.5, "boolean": True, "null": None}.get(kind, "Paris")


def words(call, b):
    """The pieces of the answer's text."""
    if b.do == "call":
        return []
    schema = call.schema() if b.do == "answer" else None
    if schema is not None:
        text = json.dumps(example(schema))
        return [text[i:i + 5] for i in range(0, len(text), 5)]
    return scripted.words(b)


def packed(value):
    """As JSON; what stands for a byte that is not UTF-8 becomes one."""
    return json.dumps(value, separators=(",", ":")).encode().replace(b"\\udcff", b"\xff")


def data(value):
    return b"data: " + packed(value) + b"\n\n"


def event(value):
    return b"event: " + value["type"].encode() + b"\n" + data(value)


# --- each provider's words ---

class OpenAI:
    """Also for its imitations: a subclass says what is different."""
    indexed = True

    def error(self, code, b):
        words = {401: "invalid_api_key", 402: "insufficient_quota", 404: "model_not_found", 413: "request_too_large", 429: "rate_limit_exceeded"}
        word = b.word or words.get(code)
        kind = word if word in ("insufficient_quota",) else "server_error" if code >= 500 else "invalid_request_error"
        return {"error": {"message": b.sentence or f"the scripted provider says {code}", "type": kind, "param": None, "code": word}}

    def blocked(self, call, b):
        return 400, {"error": {"message": "the scripted provider does not like this", "type": "invalid_request_error", "param": "prompt", "code": "content_filter"}}

    def usage(self, b, tokens):
        return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens + b.think, "total_tokens": PROMPT_TOKENS + tokens + b.think,
                "prompt_tokens_details": {"cached_tokens": b.cached}, "completion_tokens_details": {"reasoning_tokens": b.think}}

    def wants_usage(self, call):
        return (call.json.get("stream_options") or {}).get("include_usage")

    def calls(self, call, b):
        name, schema = call.tool()
        return [{"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(example(schema))}} for i in range(b.tokens)]

    def finish(self, b):
        return b.finish or ("tool_calls" if b.do == "call" else "stop")

    def whole(self, call, b):
        said = {"role": "assistant", "content": "".join(words(call, b)) or None, "refusal": None}
        if b.think:
            said["reasoning"] = "hm " * b.think
        if b.do == "call":
            said["tool_calls"] = self.calls(call, b)
        answer = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1795227654, "model": call.model,
                  "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": None if b.do == "unterminated" else self.finish(b)}]}
        if b.usage:
            answer["usage"] = self.usage(b, b.tokens)
        return answer

    def events(self, call, b):
        """(events before the text, events of each token, events of the end)"""
        base = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1795227654, "model": call.model}

        def delta(value, finish=None):
            return data({**base, "choices": [{"index": 0, "delta": value, "logprobs": None, "finish_reason": finish}]})

        first = [delta({"role": "assistant", "content": ""})] + [delta({"reasoning": "hm "})] * b.think
        pieces = [delta({"content": w}) for w in words(call, b)]
        if b.do == "call":
            pieces = [delta({"tool_calls": [self.indexed_call(i, c)]}) for i, c in enumerate(self.calls(call, b))]
        last = [delta({}, self.finish(b))]
        if b.usage and self.wants_usage(call):
            last.append(data({**base, "choices": [], "usage": self.usage(b, b.tokens)}))
        return first, pieces, last + [b"data: [DONE]\n\n"]

    def indexed_call(self, i, call):
        return {"index": i, **call} if self.indexed else call

    def stream_error(self, b):
        return data(self.error(500, b))

    def retry_headers(self, b):
        return f"Retry-After: {b.retry}\r\nx-ratelimit-reset-requests: {b.retry}s\r\n"


class OpenRouter(OpenAI):
    def error(self, code, b):
        kinds = {401: "authentication", 402: "payment_required", 429: "rate_limit_exceeded", 529: "provider_overloaded"}
        return {"error": {"code": code, "message": b.sentence or f"the scripted provider says {code}", "metadata": {
            "error_type": b.word or kinds.get(code, "server" if code >= 500 else "invalid_request"), "provider_name": "Scripted"}}, "user_id": "user_1"}

    def blocked(self, call, b):
        return 403, {"error": {"code": 403, "message": "flagged", "metadata": {"error_type": "content_policy_violation", "reasons": ["violence"], "flagged_input": "…"}}}

    def usage(self, b, tokens):
        return {**super().usage(b, tokens), "cost": 0.000123, "is_byok": False}

    def wants_usage(self, call):
        return True

    def events(self, call, b):
        first, pieces, last = super().events(call, b)
        return [b": OPENROUTER PROCESSING\n\n"] + first, pieces, last

    def stream_error(self, b):
        return data({"id": "gen-1", "object": "chat.completion.chunk", "error": {"code": 502, "message": "the scripted engine broke", "metadata": {
            "error_type": b.word or "provider_unavailable"}}, "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]})

    def retry_headers(self, b):
        return f"Retry-After: {b.retry}\r\nX-RateLimit-Limit: 20\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: {int((time.time() + b.retry) * 1000)}\r\n"


class Gemini:
    STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "FAILED_PRECONDITION", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
              500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}

    def error(self, code, b):
        details = []
        if b.word:
            details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": b.word, "domain": "googleapis.com"})
        if code == 429:
            quota = "GenerateRequestsPerDayPerProjectPerModel-FreeTier" if b.word == "daily" else "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
            details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "requests", "quotaId": quota, "quotaValue": "5"}]})
        if b.retry is not None:
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{b.retry}s"})
        return {"error": {"code": code, "message": b.sentence or f"the scripted provider says {code}", "status": self.STATUS.get(code, "UNKNOWN"), "details": details}}

    def blocked(self, call, b):
        return 200, {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": PROMPT_TOKENS, "totalTokenCount": PROMPT_TOKENS}}

    def usage(self, b, tokens):
        return {"promptTokenCount": PROMPT_TOKENS, "candidatesTokenCount": tokens, "totalTokenCount": PROMPT_TOKENS + tokens + b.think,
                **({"thoughtsTokenCount": b.think} if b.think else {}), **({"cachedContentTokenCount": b.cached} if b.cached else {})}

    def calls(self, call, b):
        name, schema = call.tool()
        return [{"functionCall": {"name": name, "args": example(schema)}, **({} if i else {"thoughtSignature": provider_rules.SIGNATURE})} for i in range(b.tokens)]

    def answer(self, call, b, parts, tokens, end):
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        if end and b.do != "unterminated":
            candidate["finishReason"] = {"length": "MAX_TOKENS", "content_filter": "SAFETY"}.get(b.finish, "STOP")
        answer = {"candidates": [candidate], "modelVersion": call.model, "responseId": "scripted"}
        if b.usage:
            answer["usageMetadata"] = self.usage(b, tokens)
        return answer

    def whole(self, call, b):
        thoughts = [{"text": "hm " * b.think, "thought": True}] if b.think else []
        said = self.calls(call, b) if b.do == "call" else [{"text": "".join(words(call, b))}]
        return self.answer(call, b, thoughts + said, b.tokens, True)

    def events(self, call, b):
        first = [data(self.answer(call, b, [{"text": "hm ", "thought": True}], 0, False))] * b.think
        said = self.calls(call, b) if b.do == "call" else [{"text": w} for w in words(call, b)]
        pieces = [data(self.answer(call, b, [part], i + 1, False)) for i, part in enumerate(said)]
        return first, pieces, [data(self.answer(call, b, [{"text": ""}], b.tokens, True))]

    def stream_error(self, b):
        return data(self.error(503, b))

    def retry_headers(self, b):
        return ""


class GeminiOpenAI(OpenAI):
    indexed = False

    def error(self, code, b):
        return [Gemini().error(code, b)]

    def calls(self, call, b):
        calls = super().calls(call, b)
        calls[0]["extra_content"] = {"google": {"thought_signature": provider_rules.SIGNATURE}}
        return calls

    def finish(self, b):
        return b.finish or "stop"

    def stream_error(self, b):
        return data(Gemini().error(503, b))

    def retry_headers(self, b):
        return ""


class Anthropic:
    TYPE = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
            413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error", 529: "overloaded_error"}

    def error(self, code, b):
        error = {"type": self.TYPE.get(code, "api_error"), "message": b.sentence or f"the scripted provider says {code}"}
        if b.word:
            error["details"] = {"error_code": b.word}
        return {"type": "error", "error": error, "request_id": "req_scripted"}

    def blocked(self, call, b):
        return 200, {**self.message(call, [], b, 0), "stop_reason": "refusal"}

    def usage(self, b, tokens):
        return {"input_tokens": PROMPT_TOKENS - b.cached, "cache_read_input_tokens": b.cached, "cache_creation_input_tokens": 0, "output_tokens": tokens + b.think}

    def message(self, call, content, b, tokens):
        return {"id": "msg_scripted", "type": "message", "role": "assistant", "model": call.model, "content": content, "stop_reason": None,
                "stop_sequence": None, **({"usage": self.usage(b, tokens)} if b.usage else {})}

    def calls(self, call, b):
        name, schema = call.tool()
        return [{"type": "tool_use", "id": f"toolu_{i}", "name": name, "input": example(schema)} for i in range(b.tokens)]

    def finish(self, b):
        return {"length": "max_tokens", "content_filter": "refusal"}.get(b.finish, "tool_use" if b.do == "call" else "end_turn")

    def whole(self, call, b):
        content = [{"type": "thinking", "thinking": "hm " * b.think, "signature": "c2ln"}] if b.think else []
        content += self.calls(call, b) if b.do == "call" else [{"type": "text", "text": "".join(words(call, b))}]
        return {**self.message(call, content, b, b.tokens), "stop_reason": None if b.do == "unterminated" else self.finish(b)}

    def events(self, call, b):
        first = [event({"type": "message_start", "message": self.message(call, [], b, 1)}), event({"type": "ping"})]
        at = 0
        if b.think:
            first += self.block(0, {"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": "hm "}] * b.think +
                                [{"type": "signature_delta", "signature": "c2ln"}])
            at = 1
        if b.do == "call":
            pieces = [b"".join(self.block(at + i, {**c, "input": {}}, [{"type": "input_json_delta", "partial_json": p} for p in halves(json.dumps(c["input"]))]))
                      for i, c in enumerate(self.calls(call, b))]
        else:
            block = self.block(at, {"type": "text", "text": ""}, [{"type": "text_delta", "text": w} for w in words(call, b)])
            first, pieces = first + block[:1], block[1:-1]
        last = [] if b.do == "call" else [event({"type": "content_block_stop", "index": at})]
        last.append(event({"type": "message_delta", "delta": {"stop_reason": self.finish(b), "stop_sequence": None},
                           **({"usage": {"output_tokens": b.tokens + b.think}} if b.usage else {})}))
        return first, pieces, last + [event({"type": "message_stop"})]

    def block(self, index, start, deltas):
        return [event({"type": "content_block_start", "index": index, "content_block": start})] + \
               [event({"type": "content_block_delta", "index": index, "delta": d}) for d in deltas] + [event({"type": "content_block_stop", "index": index})]

    def stream_error(self, b):
        return event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})

    def retry_headers(self, b):
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + b.retry))
        return f"retry-after: {b.retry}\r\nanthropic-ratelimit-requests-remaining: 0\r\nanthropic-ratelimit-requests-reset: {at}\r\n"


class RunPod(OpenAI):
    """The platform's own errors; answers are those of the worker, vLLM's."""

    def error(self, code, b):
        return {"error": f"the scripted platform says {code}", **({"code": b.word} if b.word else {})}

    def retry_headers(self, b):
        return f"Retry-After: {b.retry}\r\n"


def halves(text):
    return [text[:len(text) // 2], text[len(text) // 2:]]


SPEECH = {"openai": OpenAI(), "openrouter": OpenRouter(), "gemini": Gemini(), "gemini-openai": GeminiOpenAI(), "anthropic": Anthropic(), "runpod": RunPod(),
          "runpod-openai": RunPod()}
PATHS = [(r"/v1/messages$", "anthropic"), (r"/models/.+:(stream)?[gG]enerateContent$", "gemini"), (r"/v1beta/openai/chat/completions$", "gemini-openai"),
         (r"/api/v1/chat/completions$", "openrouter"), (r"/openai/v1/chat/completions$", "runpod-openai"), (r"/run(sync)?$", "runpod"),
         (r"/chat/completions$", "openai")]


def provider_of(path):
    return next((provider for pattern, provider in PATHS if re.search(pattern, path)), None)


class Job:
    """A job of RunPod. How far it is follows from the time."""

    def __init__(self, call, behaviour, cold):
        self.id, self.call, self.b = f"{uuid.uuid4()}-u1", call, behaviour
        self.begins = time.monotonic() + cold + behaviour.wait
        self.cancelled, self.ran, self.given = False, False, 0
        call.job = self.id
        if "openai_input" not in json.loads(call.raw).get("input", {}):
            self.pieces = [{"choices": [{"tokens": [w]}], "usage": {"input": PROMPT_TOKENS, "output": i + 1}} for i, w in enumerate(scripted.words(behaviour))]
        elif call.stream:
            first, pieces, last = SPEECH["runpod"].events(call, behaviour)
            self.pieces = [e.decode(errors="replace") for e in [b"".join(first + pieces[:1])] + pieces[1:] + [b"".join(last)]]
        else:
            self.pieces = [SPEECH["runpod"].whole(call, behaviour)]

    def ready(self):
        """So many pieces there are now."""
        elapsed = time.monotonic() - self.begins
        if elapsed < 0 or self.b.do == "hang":
            return 0
        there = len(self.pieces) if not self.b.gap else min(len(self.pieces), 1 + int(elapsed / self.b.gap))
        return min(there, self.b.tokens) if self.b.do in ("stall", "event-error", "torn") else there

    def state(self):
        if self.cancelled:
            return "CANCELLED"
        if time.monotonic() < self.begins or self.b.do == "hang":
            return "IN_QUEUE"
        if self.b.state:
            return self.b.state
        if self.b.do in ("error200", "torn", "unterminated"):
            return "FAILED"
        whole = self.ready() == len(self.pieces) or (self.b.do == "event-error" and self.ready() == self.b.tokens)
        return "COMPLETED" if whole and self.b.do != "stall" else "IN_PROGRESS"

    def over(self):
        return self.state() in FINAL

    def tokens(self):
        return 0 if self.state() in ("FAILED", "IN_QUEUE") else min(self.ready(), self.b.tokens) if self.call.stream or self.b.gap else self.b.tokens

    def report(self):
        state = self.state()
        report = {"id": self.id, "status": state}
        if state != "IN_QUEUE" and (state != "CANCELLED" or self.ran):
            report["workerId"] = "w1"
        if state == "COMPLETED":
            report.update(delayTime=12, executionTime=345)
            report["output"] = [{"error": "the worker broke"}] if self.b.do == "event-error" else self.pieces
        elif state in ("FAILED", "TIMED_OUT"):
            report["error"] = "the worker broke"
        elif state == "CANCELLED":
            report.update(delayTime=12, **({"executionTime": 45} if self.ran else {}))
        return report

    def fresh(self):
        """What /stream gives: each piece once."""
        ready, state = (0 if self.state() in ("FAILED", "TIMED_OUT") else self.ready()), self.state()
        out = [{"output": p, "metrics": {}} for p in self.pieces[self.given:ready]]
        if self.b.do == "event-error" and state == "COMPLETED" and self.given <= ready:
            out.append({"output": {"error": "the worker broke"}})
            ready = len(self.pieces) + 1
        self.given = max(self.given, ready)
        report = {"status": state, "stream": out}
        if state in ("FAILED", "TIMED_OUT"):
            report["error"] = "the worker broke"
        return report


class Provider(Backend):
    """All providers on one port; an asyncio server as scripted.Backend is one."""

    def __init__(self, script=("answer 3",), models=None, keys=(), book=None, received=None, cold=0.0):
        super().__init__("cloud", "openai", {})
        self.by_model = {name: Behaviour(b) for name, b in (models or {}).items()}
        self.keys, self.cold = set(keys), cold
        self.book, self.received = (open(path, "ab", buffering=0) if path else None for path in (book, received))
        self.lines, self.jobs, self.health_asked = [], {}, 0
        self.warm_at = None
        self._script(script)

    def _script(self, behaviours):
        self.behaviours = [Behaviour(b) for b in behaviours]
        self.served = 0

    def chill(self):
        """RunPod's workers go to sleep."""
        self.warm_at = None

    async def stop(self):
        for job in self.jobs.values():
            self._write(job.call, job.tokens())
        await super().stop()

    async def _serve(self, conn):
        reset = False
        self.conns.add(conn)
        try:
            while True:
                method, path, headers, body = await conn.request()
                self._note(method, path, headers, body)
                await self._answer(conn, method, path, headers, body)
        except Cut as cut:
            reset = cut.args[0]
        except Gone:
            pass
        finally:
            self.conns.discard(conn)
            await conn.close(reset)

    def _note(self, method, path, headers, body):
        if self.received:
            head = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
            self.received.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body + b"\n")
            os.fsync(self.received.fileno())

    def _write(self, call, tokens=None):
        """The attempt's line, once."""
        if call.written:
            return
        call.written = True
        sent = call.sent_tokens if tokens is None else tokens
        line = {"provider": call.provider, "model": call.model, "request_id": call.request_id, "status": call.status, "tokens": sent, "prompt_tokens": PROMPT_TOKENS,
                "reported": bool(call.status == 200 and call.behaviour and call.behaviour.usage), "cancelled": call.cancelled, "job": call.job}
        self.lines.append(line)
        if self.book:
            self.book.write(packed(line) + b"\n")
            os.fsync(self.book.fileno())

    async def _answer(self, conn, method, path, headers, body):
        path = path.split("?")[0] + ("?" + path.split("?")[1] if "runsync?" in path else "")
        bare = path.split("?")[0]
        provider = provider_of(bare) if method == "POST" else None
        if provider:
            await self._infer(conn, Attempt(self, conn, method, bare, headers, body, provider), path)
        elif re.search(r"/(status|stream|cancel)/[^/]+$", bare) and "/v2/" in bare:
            await self._poll(conn, bare.rsplit("/", 2)[1], bare.rsplit("/", 1)[1])
        elif bare.endswith("/health"):
            await conn.send(plain(200, json.dumps(self._health())))
        elif bare.endswith("/models"):
            await conn.send(plain(200, json.dumps({"object": "list", "data": [{"id": m, "object": "model", "created": 1, "owned_by": "scripted"} for m in self.by_model]})))
        else:
            await conn.send(plain(404, '{"error":{"message":"no such path","code":404}}'))

    def _choose(self, call):
        prompt = call.prompt()
        no = provider_rules.refused(call)
        if no:
            b = Behaviour(f"status {no[0]}")
            b.sentence = no[1]
            return b
        if prompt.startswith("do: "):
            b = Behaviour(prompt[4:].split("\n")[0])
            return Behaviour("answer 2") if b.do == "call" and call.has_result() else b
        if call.model in self.by_model:
            return self.by_model[call.model]
        self.served += 1
        return self.behaviours[min(self.served, len(self.behaviours)) - 1]

    def _refused_key(self, call):
        given = {call.headers.get("x-api-key"), call.headers.get("x-goog-api-key"), call.headers.get("authorization", "").removeprefix("Bearer ")}
        return self.keys and not given & self.keys

    async def _infer(self, conn, call, path):
        self.calls.append(call)
        call.behaviour = Behaviour("status 401") if self._refused_key(call) else self._choose(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.note(call, "begin")
        try:
            if call.provider == "runpod" and call.behaviour.do not in ("status", "close"):
                await self._submit(conn, call, path)
            else:
                await self._behave(conn, call, call.behaviour)
            call.answered_at = time.monotonic()
        except Gone:
            call.closed_at = conn.closed_at
            call.cancelled = call.provider != "runpod"
            raise
        finally:
            self.running -= 1
            if call.provider != "runpod" or call.behaviour.do in ("status", "close"):
                self._write(call)
            self.note(call, "end")

    async def _behave(self, conn, call, b):
        if b.do == "hang":
            await conn.sleep(3600)
        if b.do in ("close", "refuse"):
            raise Cut(b.reset)
        if b.wait:
            await conn.sleep(b.wait)
        out, pieces = Out(conn, call, b), self._pieces(call, b)
        call.total_bytes = sum(len(piece) for piece, _ in pieces)
        for i, (piece, tokens) in enumerate(pieces):
            if b.gap and tokens and call.sent_tokens:
                await conn.sleep(b.gap)
            call.sent_tokens += tokens
            if tokens:
                self.note(call, "token")
            if i == len(pieces) - 1 and b.do not in ("stall", "torn") and b.cut is None:
                self._write(call)            # before the answer's last byte: who has read it all finds the line
            await out.send(piece)
        if b.do == "stall":
            await conn.sleep(3600)
        if b.do == "torn" or b.cut is not None:
            raise Cut(b.reset)

    def _pieces(self, call, b):
        speech = SPEECH[call.provider]
        if b.do == "status":
            call.status = b.code
            return [(plain(b.code, packed(speech.error(b.code, b)), speech.retry_headers(b) if b.retry is not None else ""), 0)]
        if b.do == "block":
            call.status, body = speech.blocked(call, b)
            return self._as_event(call, body) if call.status == 200 and call.stream else [(plain(call.status, packed(body)), 0)]
        if b.do == "html":
            return [(plain(200, "<html>It works!</html>", kind="text/html"), 0)]
        if b.do == "error200" or (b.do == "event-error" and not call.stream):
            return [(plain(200, packed(speech.error(500, b))), 0)]
        if not call.stream:
            body = packed(speech.whole(call, b))
            return [(plain(200, body)[:-len(body) // 2], b.tokens)] if b.do == "torn" else [(plain(200, body), b.tokens)]
        return self._stream(call, b, speech)

    def _as_event(self, call, body):
        """A blocked prompt, streamed."""
        if call.provider == "gemini":
            return [(EVENT_STREAM, 0), (chunk(data(body)), 0), (b"0\r\n\r\n", 0)]
        refusal = [event({"type": "message_start", "message": {**body, "stop_reason": None}}),
                   event({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_sequence": None}, "usage": {"output_tokens": 0}}), event({"type": "message_stop"})]
        return [(EVENT_STREAM, 0)] + [(chunk(e), 0) for e in refusal] + [(b"0\r\n\r\n", 0)]

    def _stream(self, call, b, speech):
        first, pieces, last = speech.events(call, b)
        out = [(EVENT_STREAM, 0)] + [(chunk(e), 0) for e in first] + [(chunk(e), 1) for e in pieces]
        if b.do == "stall":
            return out
        if b.do == "torn":
            half = (pieces or last)[-1]
            return out + [(chunk(half[:len(half) // 2]), 0)]
        if b.do == "event-error":
            out.append((chunk(speech.stream_error(b)), 0))
        elif b.do != "unterminated":
            out += [(chunk(e), 0) for e in last]
        return out + [(b"0\r\n\r\n", 0)]

    # --- RunPod's queue ---

    def _cold_left(self):
        if self.warm_at is None:
            self.warm_at = time.monotonic() + self.cold
        return max(0.0, self.warm_at - time.monotonic())

    def _health(self):
        self.health_asked += 1
        states = [job.state() for job in self.jobs.values()]
        asleep, starting = self.warm_at is None and self.cold, self.warm_at is not None and time.monotonic() < self.warm_at
        busy = states.count("IN_PROGRESS")
        return {"jobs": {"completed": states.count("COMPLETED"), "failed": states.count("FAILED"), "inProgress": busy, "inQueue": states.count("IN_QUEUE"), "retried": 0},
                "workers": {"idle": 0 if asleep or starting or busy else 1, "initializing": int(bool(starting)), "ready": 0 if asleep or starting else 1,
                            "running": 1 if busy else 0, "throttled": 0, "unhealthy": 0}}

    async def _submit(self, conn, call, path):
        job = Job(call, call.behaviour, self._cold_left())
        self.jobs[job.id] = job
        if "/runsync" in call.path:
            found = re.search(r"wait=(\d+)", path)
            end = time.monotonic() + (int(found[1]) / 1000 if found else 90)
            while not job.over() and time.monotonic() < end:
                await conn.sleep(0.01)
            self._settle(job)
            await conn.send(plain(200, packed(job.report())))
        else:
            await conn.send(plain(200, json.dumps({"id": job.id, "status": "IN_QUEUE"})))

    def _settle(self, job):
        job.call.sent_tokens = job.tokens()
        if job.over():
            self._write(job.call, job.tokens())

    async def _poll(self, conn, what, name):
        job = self.jobs.get(name)
        if not job:
            await conn.send(plain(404, '{"error":"job not found"}'))
            return
        if what == "cancel":
            if job.b.cancel != "ignored":
                job.call.cancelled, job.ran, tokens = not job.over(), job.state() != "IN_QUEUE", job.tokens()
                job.cancelled = job.call.cancelled
                self._write(job.call, tokens)
            if job.b.cancel == "forgotten":
                del self.jobs[job.id]
            await conn.send(plain(200, json.dumps({"id": job.id, "status": job.state()})))
            return
        if job.b.busy:
            job.b.busy -= 1
            await conn.send(plain(429, '{"error":"too many requests"}'))
            return
        self._settle(job)
        await conn.send(plain(200, packed(job.fresh() if what == "stream" else job.report())))


class Fake:
    """A Provider in a thread of its own, over TLS when there is a certificate (paths of PEM files)."""

    def __init__(self, port=0, tls=None, **options):
        self.loop = asyncio.new_event_loop()
        self.tls, self.asked_port = tls, port
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.provider = self._do(self._start(options))
        self.calls, self.lines = self.provider.calls, self.provider.lines

    def _do(self, what):
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(30)

    async def _start(self, options):
        provider = Provider(**options)
        if self.asked_port and not self.tls:
            provider.socket.close()
            provider._bind(self.asked_port)
        await provider.start()
        self.front, self.pipes, self.port = None, set(), provider.port
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, self.tls))
            self.front = await asyncio.start_server(lambda r, w: self._pipe(r, w, provider.port), "127.0.0.1", self.asked_port, ssl=context)
            self.port = self.front.sockets[0].getsockname()[1]
        return provider

    async def _pipe(self, reader, writer, port):
        """What comes by TLS goes on in the clear; when one side ends the other does."""
        self.pipes.add(asyncio.current_task())
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source, sink):
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()

        ways = {asyncio.ensure_future(copy(reader, inner_writer)), asyncio.ensure_future(copy(inner_reader, writer))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            inner_writer.close()
            writer.transport.abort() if reader.at_eof() else writer.close()
            self.pipes.discard(asyncio.current_task())

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def now(self, script):
        """From here on it behaves so."""
        self._do(self._now(script))

    async def _now(self, script):
        self.provider._script(script)

    def chill(self):
        self.provider.chill()

    def close(self):
        self._do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _stop(self):
        if self.front:
            self.front.close()
            for task in list(self.pipes):
                task.cancel()
        await self.provider.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 = a free one; it is printed")
    parser.add_argument("--book")
    parser.add_argument("--received")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--script", default="answer 3", help="behaviours with ; between them")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=BEHAVIOUR")
    parser.add_argument("--key", action="append", default=[])
    parser.add_argument("--cold", default="0s")
    args = parser.parse_args()
    fake = Fake(args.port, args.tls, script=[s.strip() for s in args.script.split(";")], models=dict(m.split("=", 1) for m in args.model), keys=args.key,
                book=args.book, received=args.received, cold=seconds(args.cold))
    print(fake.url, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        while line := sys.stdin.readline():              # each line is a new script
            fake.now([s.strip() for s in line.split(";")])
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        fake.close()


if __name__ == "__main__":
    main()
