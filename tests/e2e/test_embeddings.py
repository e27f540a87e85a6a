"""Embeddings in every dialect before every engine, asked with the vendors' packages."""
import json
import math
import subprocess
import time

import ollama as ollama_package
import openai
import pytest

from servers import ROOT, http, import_model, start_llama

MODEL = "corral-embed"
TEXTS = ["hello", "fix this bug", "hello"]


@pytest.fixture(scope="module")
def embed_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("embed") / f"{MODEL}.gguf"
    subprocess.run([ROOT / "tools/make-model", "-o", path, "--name", MODEL, "--embedding"], check=True)
    return path


@pytest.fixture(scope="module")
def embedder(engine, embed_file, tmp_path_factory):
    server = start_llama(tmp_path_factory.mktemp("embedder"), engine, embed_file, MODEL, slots=2, context=2048, options=["--embeddings"])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ollama_embedder(ollama_server, embed_file):
    """The Ollama of the session, with the model in it."""
    import_model(ollama_server.url, embed_file, MODEL)
    return ollama_server


@pytest.fixture(scope="module", params=["llamacpp", "openai", "ollama"])
def front(request, corral_with):
    if request.param == "ollama":
        backends = {"e": ("ollama", request.getfixturevalue("ollama_embedder").url)}
    else:
        backends = {"e": (request.param, request.getfixturevalue("embedder").url), "chat": ("llamacpp", request.getfixturevalue("llama").url)}
    corral = corral_with(backends)
    corral.kind = request.param
    return corral


@pytest.fixture
def by_openai(front):
    return openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture
def by_ollama(front):
    return ollama_package.Client(host=front.url, timeout=30)


def near(a, b):
    return len(a) == len(b) and all(abs(x - y) < 1e-5 for x, y in zip(a, b))


def test_the_same_vectors_in_every_dialect(by_openai, by_ollama):
    floats = by_openai.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    coded = by_openai.embeddings.create(model=MODEL, input=TEXTS)                   # the package asks for base64
    native = by_ollama.embed(MODEL, TEXTS)
    older = by_ollama.embeddings(MODEL, TEXTS[1]).embedding
    assert [d.index for d in floats.data] == [0, 1, 2]
    for a, b, c in zip(floats.data, coded.data, native.embeddings, strict=True):
        assert near(a.embedding, b.embedding) and near(a.embedding, c)
        assert math.isclose(sum(x * x for x in c), 1, abs_tol=1e-3)
    assert near(older, native.embeddings[1])
    assert near(native.embeddings[0], native.embeddings[2]) and not near(native.embeddings[0], native.embeddings[1])
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == native.prompt_eval_count > 0


def test_one_text(by_openai, by_ollama):
    one = by_openai.embeddings.create(model=MODEL, input="hello").data
    assert len(one) == 1 and near(one[0].embedding, by_ollama.embed(MODEL, "hello").embeddings[0])


def test_base64_on_the_wire(front):
    status, _, body = http(front.url + "/v1/embeddings", {"model": MODEL, "input": "hello", "encoding_format": "base64"})
    assert status == 200 and isinstance(json.loads(body)["data"][0]["embedding"], str)


def test_token_ids(front, by_openai):
    if front.kind == "ollama":
        with pytest.raises(openai.BadRequestError, match="token ids"):
            by_openai.embeddings.create(model=MODEL, input=[1, 2, 3])
    else:
        assert len(by_openai.embeddings.create(model=MODEL, input=[[1, 2, 3], [4]]).data) == 2


def test_dimensions(front, by_openai):
    if front.kind == "ollama":
        assert len(by_openai.embeddings.create(model=MODEL, input="hello", dimensions=8).data[0].embedding) == 8
    elif front.kind == "llamacpp":
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            by_openai.embeddings.create(model=MODEL, input="hello", dimensions=8)


def test_auto_takes_the_model_for_embeddings(front, by_openai):
    if front.kind == "openai":
        pytest.skip("an OpenAI-style server does not say what its models can do")
    raw = by_openai.embeddings.with_raw_response.create(model="auto", input="hello")
    assert raw.headers["x-corral-model"].split(":")[0] == MODEL


def test_a_chat_model_says_what_it_is(by_openai, by_ollama):
    with pytest.raises(openai.APIStatusError, match="cannot do what the request needs: embedding") as e:
        by_openai.embeddings.create(model="corral-tiny", input="hello")
    assert 400 <= e.value.status_code < 500
    with pytest.raises(ollama_package.ResponseError, match="embedding"):
        by_ollama.embed("corral-tiny", "hello")


def test_a_text_too_long_is_an_error_and_never_cut(front, by_openai, by_ollama):
    with pytest.raises(openai.BadRequestError) as e:
        by_openai.embeddings.create(model=MODEL, input="hello " * 9000)
    assert e.value.code == "context_length_exceeded"
    with pytest.raises(ollama_package.ResponseError):
        by_ollama.embed(MODEL, "hello " * 9000, truncate=None)


@pytest.mark.parametrize("body, field", [({}, "input"), ({"input": []}, "input"), ({"input": ""}, "input"), ({"input": ["a", ""]}, "input"),
                                         ({"input": "a", "encoding_format": "int8"}, "encoding_format")])
def test_what_is_wrong_is_named(front, body, field):
    status, _, text = http(front.url + "/v1/embeddings", {"model": MODEL, **body})
    assert status in (400, 422) and json.loads(text)["error"]["param"] == field


def test_no_input_loads_the_model(by_ollama):
    assert by_ollama._request_raw("POST", "/api/embed", json={"model": MODEL}).json()["embeddings"] == []


def test_the_ledger(front, by_openai):
    raw = by_openai.embeddings.with_raw_response.create(model=MODEL, input=TEXTS)
    until, rows = time.monotonic() + 20, []
    while time.monotonic() < until and not (rows and not rows[0]["open"]):
        rows = front.get(f"/requests/{raw.headers['x-request-id']}")[2].get("attempts", [])
        time.sleep(0.05)
    (row,) = rows
    assert (row["status"], row["completion_tokens"], row["tokens_source"]) == ("ok", 0, "reported")
    assert row["prompt_tokens"] == raw.parse().usage.prompt_tokens
