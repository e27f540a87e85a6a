"""Fixtures of the end-to-end tests: real servers once a session, Corral in front of them, vendors' clients.

`corral` is one instance for all tests of a backend; `corral_with` starts further ones. Each is stopped
by SIGTERM at the end and has to end with status 0 and without a sanitizer's report in its log.
"""
import os

import ollama as ollama_package
import openai
import pytest

from servers import Corral, script, start_llama, start_ollama


@pytest.fixture(scope="session")
def engine():
    folder, reason = script("get-llama")
    if not folder:
        pytest.skip(f"no llama.cpp: {reason}")
    return folder


@pytest.fixture(scope="session")
def model_file():
    path, reason = script("get-model")
    assert path, reason
    return path


@pytest.fixture(scope="session")
def llama(engine, model_file, tmp_path_factory):
    server = start_llama(tmp_path_factory.mktemp("llama"), engine, model_file)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ollama_server(model_file, tmp_path_factory):
    built, reason = script("get-ollama", *(["--cached"] if os.environ.get("CORRAL_TEST_OLLAMA") == "cached" else []))
    if not built:
        pytest.skip(f"no Ollama: {reason}")
    server = start_ollama(tmp_path_factory.mktemp("ollama"), built, model_file)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def corral_with(tmp_path_factory):
    """corral_with({"name": ("kind", url)}, *options, env=None): a running Corral."""
    running = []

    def start(backends, *options, env=None):
        running.append(Corral(tmp_path_factory.mktemp("corral"), backends, *options, env=env))
        return running[-1]

    yield start
    wrong = [w for w in (c.close() for c in running) if w]
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def corral(corral_with, llama):
    return corral_with({"tiny": ("llamacpp", llama.url)})


@pytest.fixture
def client(corral):
    """The openai package, pointed at Corral; it must not hide a failure by asking again."""
    return openai.OpenAI(base_url=f"{corral.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture
def direct(llama):
    """The same package, pointed at the model server itself: what Corral's answers are compared with."""
    return openai.OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0, timeout=30)


@pytest.fixture
def ollama_client(corral):
    return ollama_package.Client(host=corral.url, timeout=30)
