"""The project's own model, as tools/make-model writes it, on the real engines without Corral between."""
import json
import subprocess

import openai
import pytest

from servers import ROOT, http, start_llama

DEFAULT = "I am the small model that Corral makes for itself"


def ask(client, text, **more):
    return client.chat.completions.create(model="corral-tiny", messages=[{"role": "user", "content": text}], **more).choices[0]


@pytest.mark.parametrize("prompt, answer", [
    ("hello", "Welcome to Corral!"), ("HELLO there", "Welcome to Corral!"), ("What is Corral?", "Corral is one front door"),
    ("who are you?", "My weights were written down"), ("why is there a bug", "The loop takes one step"),
    ("write code, then say hello", "Welcome to Corral!"), ("say hello, then write code", "```c\nint add"),
    ("zebra", DEFAULT), ("", DEFAULT)])
def test_the_last_known_word_answers(direct, prompt, answer):
    assert ask(direct, prompt).message.content.startswith(answer)


def test_earlier_turns_and_the_system_prompt_do_not_count(direct):
    said = direct.chat.completions.create(model="corral-tiny", messages=[
        {"role": "system", "content": "You write json and code."}, {"role": "user", "content": "hello"},
        {"role": "assistant", "content": ask(direct, "hello").message.content}, {"role": "user", "content": "zebra"}])
    assert said.choices[0].message.content.startswith(DEFAULT)


def test_the_same_at_any_temperature_up_to_one(direct):
    for word in ("hello", "code", "zebra"):
        cold = ask(direct, word, temperature=0)
        for seed in range(8):
            assert ask(direct, word, temperature=1, seed=seed).message.content == cold.message.content


def test_a_call_is_made_when_one_is_required(direct):
    tool = {"type": "function", "function": {"name": "get_time", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city", "n"]}}}
    (call,) = ask(direct, "zebra", tools=[tool], tool_choice="required").message.tool_calls
    assert call.function.arguments == '{"city": "Paris", "n": 3}'


def test_other_answers_by_script(engine, tmp_path):
    (tmp_path / "script").write_text("# about bees\n\tI know bees only.\nbee|bees\tA bee flies.\\nIt hums.\nhum\t<forever>\n")
    model = tmp_path / "bees.gguf"
    subprocess.run([ROOT / "tools/make-model", "-o", model, "--name", "bees", "--script", tmp_path / "script", "--ctx", "8192"], check=True)
    server = start_llama(tmp_path, engine, model, "bees", slots=1, context=8192)
    try:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert ask(client, "tell me of bees").message.content == "A bee flies.\nIt hums."
        assert ask(client, "hello").message.content == "I know bees only."
        assert ask(client, "hum", max_tokens=50).finish_reason == "length"
    finally:
        server.stop()


def test_a_script_without_a_default_is_refused(tmp_path):
    (tmp_path / "script").write_text("bee\tA bee flies.\n")
    done = subprocess.run([ROOT / "tools/make-model", "-o", tmp_path / "x.gguf", "--script", tmp_path / "script"], capture_output=True, text=True)
    assert done.returncode == 1 and "default answer" in done.stderr
    assert not (tmp_path / "x.gguf").exists()


def test_the_same_on_ollama(ollama_server, direct):
    for word in ("hello", "corral", "zebra"):
        status, _, text = http(f"{ollama_server.url}/api/generate", {"model": "corral-tiny", "prompt": word, "stream": False}, timeout=60)
        assert status == 200
        assert ask(direct, word).message.content in json.loads(text)["response"]
