"""The vendors' own clients, each in front of every form of provider: text, tools with their results, and answers of a schema, streamed and not. What a
provider has not is refused in words. The fakes refuse what the real APIs do not take (tests/fakes/provider_rules.py)."""
import json
import sys

import anthropic
import ollama
import openai
import pytest
from pydantic import BaseModel

from servers import ROOT, Corral, http, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import provider_rules                                            # noqa: E402
import providers                                                 # noqa: E402

KEY = "canary-key-clients-1234"
FORMS = {"oa": ("openai", "/v1", ""), "an": ("anthropic", "/v1", ""), "ge": ("gemini", "/v1beta", ""), "go": ("gemini", "/v1beta/openai", ""),
         "or": ("openrouter", "/api/v1", ""), "co": ("compatible", "/compatible/v1", ""), "rp": ("runpod", "/v2/ep", ""), "rq": ("runpod", "/v2/queue", ", api: queue")}
SAID = "w0 w1 w2 "


class Trip(BaseModel):
    """As people write them: nothing in it says that there is no more to it, and not all of it is required."""
    city: str
    days: int = 1


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"], "additionalProperties": False}
TRIP, ABOUT = {"city": "Paris", "days": 3}, "The weather in a city"
FUNCTION = {"type": "function", "function": {"name": "weather", "description": ABOUT, "parameters": SCHEMA}}


def user(text):
    return {"role": "user", "content": text}


class OpenAI:
    def __init__(self, url):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)

    def ask(self, model, messages, stream=False, **more):
        messages = [{"role": "system", "content": "be brief"}, *messages]
        if not stream:
            return self.client.chat.completions.create(model=model, messages=messages, max_tokens=50, **more)
        with self.client.chat.completions.stream(model=model, messages=messages, max_tokens=50, stream_options={"include_usage": True}, **more) as events:
            list(events)
            return events.get_final_completion()

    def text(self, model, stream):
        got = self.ask(model, [user("do: answer 3")], stream)
        assert got.choices[0].finish_reason == "stop" and got.model in (model, "m")          # some say it as the provider does
        return got.choices[0].message.content, got.usage.prompt_tokens, got.usage.completion_tokens

    def tools(self, model, stream, n):
        said = [user(f"do: call {n}")]
        message = self.ask(model, said, stream, tools=[FUNCTION]).choices[0].message
        calls = message.tool_calls
        said += [message, *({"role": "tool", "tool_call_id": c.id, "content": "sunny"} for c in calls)]
        got = self.ask(model, said, stream, tools=[FUNCTION])
        return [(c.function.name, json.loads(c.function.arguments)) for c in calls], got.choices[0].message.content

    def forgets(self, message):
        return [{"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}} for c in message.tool_calls]

    def schema(self, model, stream):
        if stream:
            return self.ask(model, [user("do: answer")], True, response_format=Trip).choices[0].message.parsed.model_dump()
        return self.client.chat.completions.parse(model=model, messages=[user("do: answer")], response_format=Trip).choices[0].message.parsed.model_dump()


class Anthropic:
    def __init__(self, url):
        self.client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60)

    def ask(self, model, messages, stream=False, **more):
        given = {"model": model, "max_tokens": 50, "system": "be brief", "messages": messages, **more}
        if not stream:
            return self.client.messages.create(**given)
        with self.client.messages.stream(**given) as events:
            return events.get_final_message()

    def text(self, model, stream):
        got = self.ask(model, [user("do: answer 3")], stream)
        assert got.stop_reason == "end_turn" and got.model == model
        return got.content[0].text, got.usage.input_tokens, got.usage.output_tokens

    def tools(self, model, stream, n):
        tools, said = [{"name": "weather", "description": ABOUT, "input_schema": SCHEMA}], [user(f"do: call {n}")]
        got = self.ask(model, said, stream, tools=tools)
        assert got.stop_reason == "tool_use"
        calls = [b for b in got.content if b.type == "tool_use"]
        said += [{"role": "assistant", "content": got.content},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": c.id, "content": "sunny"} for c in calls]}]
        return [(c.name, c.input) for c in calls], self.ask(model, said, stream, tools=tools).content[0].text

    def schema(self, model, stream):
        if not stream:
            return self.client.messages.parse(model=model, max_tokens=50, messages=[user("do: answer")], output_format=Trip).parsed_output.model_dump()
        with self.client.messages.stream(model=model, max_tokens=50, messages=[user("do: answer")], output_format=Trip) as events:
            return events.get_final_message().parsed_output.model_dump()


class Ollama:
    def __init__(self, url):
        self.client = ollama.Client(host=url, timeout=60)

    def ask(self, model, messages, stream=False, **more):
        given = {"model": model, "messages": [{"role": "system", "content": "be brief"}, *messages], "options": {"num_predict": 50}, **more}
        if not stream:
            return self.client.chat(**given)
        pieces = list(self.client.chat(stream=True, **given))
        assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True]
        last, calls = pieces[-1], [c for p in pieces for c in p.message.tool_calls or []]
        last.message = ollama.Message(role="assistant", content="".join(p.message.content or "" for p in pieces), tool_calls=calls)
        return last

    def text(self, model, stream):
        got = self.ask(model, [user("do: answer 3")], stream)
        assert got.done_reason == "stop" and got.model == model
        return got.message.content, got.prompt_eval_count, got.eval_count

    def tools(self, model, stream, n):
        said = [user(f"do: call {n}")]
        message = self.ask(model, said, stream, tools=[FUNCTION]).message
        said += [message, *({"role": "tool", "tool_name": c.function.name, "content": "sunny"} for c in message.tool_calls)]
        return [(c.function.name, dict(c.function.arguments)) for c in message.tool_calls], self.ask(model, said, stream, tools=[FUNCTION]).message.content

    def schema(self, model, stream):
        return json.loads(self.ask(model, [user("do: answer")], stream, format=Trip.model_json_schema()).message.content)


PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}
CLIENTS = {"openai": OpenAI, "anthropic": Anthropic, "ollama": Ollama}


@pytest.fixture(scope="module")
def fake():
    with providers.Fake(script=["answer 2"], keys={KEY}) as fake:
        yield fake


@pytest.fixture(scope="module")
def corral(fake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    entry = '  - {{name: {}, kind: {}, url: "{}{}", models: m, key_env: CLIENTS_KEY, monthly_tokens: unlimited{}}}\n'
    (folder / "corral.yaml").write_text("providers:\n" + "".join(entry.format(name, kind, fake.url, base, more) for name, (kind, base, more) in FORMS.items()))
    corral = Corral(folder, None, "--backends=gone=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cache=off",
                    "--breaker-failures=100", env={"CLIENTS_KEY": KEY})
    until(lambda: all(p["state"] == "ready" for p in corral.get("/providers")[2]["providers"]))
    until(lambda: {f"{name}/m" for name in FORMS} <= {m["id"] for m in corral.get("/v1/models")[2]["data"]})
    for name in FORMS:
        until(lambda: http(corral.url + PATHS["openai"], {"model": f"{name}/m", "messages": [user("x")], "max_tokens": 9}, "POST")[0] == 200)     # its budget is known
    yield corral
    assert corral.close() is None


@pytest.fixture(scope="module", params=CLIENTS)
def client(request, corral):
    return CLIENTS[request.param](corral.url)


each_form = pytest.mark.parametrize("form", FORMS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@each_form
@streamed_or_not
def test_text(client, form, stream):
    assert client.text(f"{form}/m", stream) == (SAID, providers.PROMPT_TOKENS, 3)


@each_form
@streamed_or_not
def test_tools_and_what_they_said(client, fake, form, stream):
    n = 2 if stream else 1
    calls, answer = client.tools(f"{form}/m", stream, n)
    assert calls == [("weather", TRIP)] * n and answer == "w0 w1 "
    assert "sunny" in fake.calls[-1].raw.decode()


@each_form
@streamed_or_not
def test_an_answer_of_a_schema(client, form, stream):
    assert client.schema(f"{form}/m", stream) == TRIP


@pytest.mark.parametrize("form", ["ge", "go"])
def test_a_signature_comes_back_or_its_place_is_taken(corral, fake, form):
    """Gemini signs its calls. Who keeps what came gives it back; who forgets it is understood all the same, at the price of a second attempt."""
    client, before = OpenAI(corral.url), len(fake.calls)
    client.tools(f"{form}/m", False, 2)
    assert len(fake.calls) == before + 2 and provider_rules.SIGNATURE in fake.calls[-1].raw.decode()
    message = client.ask(f"{form}/m", [user("do: call 2")], tools=[FUNCTION]).choices[0].message
    calls = client.forgets(message)
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "sunny"} for c in calls]
    for signature in (None, "b3RoZXI="):                          # forgotten, and another's
        if signature:
            calls[0]["extra_content"] = {"google": {"thought_signature": signature}}
        before = len(fake.calls)
        got = client.ask(f"{form}/m", [user("do: call 2"), {"role": "assistant", "content": None, "tool_calls": calls}, *results], tools=[FUNCTION])
        assert got.choices[0].message.content == "w0 w1 "
        assert len(fake.calls) == before + 2 and fake.calls[-1].raw.decode().count(provider_rules.SKIP) == 1


REFUSED = [
    ("openai", "an", {"response_format": {"type": "json_object"}}, "schema"),
    ("openai", "an", {"logprobs": True}, "logprobs"),
    ("openai", "an", {"n": 2}, "n"),
    ("openai", "an", {"temperature": 1.5}, "temperature"),
    ("openai", "ge", {"logit_bias": {"1": 1}}, "logit_bias"),
    ("openai", "ge", {"parallel_tool_calls": False}, "parallel_tool_calls"),
    ("openai", "ge", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]}, "vision"),
    ("anthropic", "oa", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    ("anthropic", "oa", {"top_k": 5}, "top_k"),
    ("anthropic", "ge", {"mcp_servers": [{"type": "url", "url": "https://example.org", "name": "x"}]}, "mcp_servers"),
    ("ollama", "an", {"format": "json"}, "schema"),
    ("ollama", "oa", {"options": {"mirostat": 1}}, "mirostat"),
    ("ollama", "ge", {"options": {"repeat_penalty": 1.1}}, "repeat_penalty"),
]


@pytest.mark.parametrize("dialect, form, more, named", REFUSED, ids=[f"{d}-{f}-{'-'.join(m)}" for d, f, m, _ in REFUSED])
def test_what_a_provider_has_not_is_refused_in_words(corral, fake, dialect, form, more, named):
    before = len(fake.calls)
    body = {"model": f"{form}/m", "messages": [user("x")], "stream": False, **({} if dialect == "ollama" else {"max_tokens": 9}), **more}
    status, _, text = http(corral.url + PATHS[dialect], body, "POST")
    said = json.loads(text)["error"]
    assert status == 400 and named in (said if dialect == "ollama" else said["message"]), text
    assert len(fake.calls) == before


@each_form
def test_what_no_provider_here_has_at_all(corral, fake, form):
    before = len(fake.calls)
    with pytest.raises(openai.APIStatusError) as caught:
        OpenAI(corral.url).client.embeddings.create(model=f"{form}/m", input="x")
    assert 400 <= caught.value.status_code <= 501 and len(fake.calls) == before and len(caught.value.body["message"]) > 10
