"""Fixtures of the end-to-end tests: real servers once a session, Corral in front of them, vendors' clients.

`corral` is one instance for all tests of a backend; `corral_with` starts further ones; both are one process or several, as
CORRAL_ARRANGEMENT says (servers.py). Each is stopped
by SIGTERM at the end and has to end with status 0 and without a sanitizer's report in its log.
"""
import os
import signal
from pathlib import Path

import ollama as ollama_package
import openai
import pytest

from servers import ARRANGEMENT, Corral, script, start_llama, start_ollama

# Who starts pytest in the background of a script has Ctrl-C ignored, and so would have what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# These run in every arrangement; a file that is added runs in one process until it is named here or below, and a run says so.
EVERYWHERE = {f"test_{name}.py" for name in (
    "access", "anthropic", "backend_tls", "bad_requests", "budgets", "cache", "canaries", "cli", "cloud", "cloud_clients", "cloud_faults", "cloud_gate",
    "cloud_queue", "config", "dialects", "embeddings", "energy", "experiment_events", "experiment_kill", "experiments", "feedback", "gateways", "hardware", "health",
    "keys", "limits", "models", "models_init", "native", "ollama", "openai", "prices", "probe", "quality", "reconcile", "reload", "runpod_worker", "runs",
    "shadow", "start", "tls", "trail", "turns")}

# And these on PostgreSQL: what is kept, and comes back after a kill.
ON_POSTGRES = {f"test_{name}.py" for name in ("access", "cli", "native", "runs")}

# Why the others do not: what an arrangement of processes cannot change, or what is about `corral serve` itself: run once, in one process.
ONE_PROCESS_ONLY = {
    "test_apart.py": "starts its own processes, over each wire",
    "test_cloud_slots.py": "starts its own processes, three gateways and two cloud-fallbacks",
    "test_kafka.py": "starts what it needs in both arrangements",
    "test_postgres.py": "starts its own server",
    "test_upgrade.py": "is about corral upgrade, which is for one process; tests/proofs/upgrade.py does it with a gateway apart, too",
    "test_up.py": "is about scripts/up and starts its own, in one process and apart",
    "test_scripts.py": "is about the scripts",
    "test_model.py": "asks the model server itself",
    "test_standby.py": "starts its own processes",
    "test_golden_clients.py": "is about recorded bytes",
    "test_fake_providers.py": "asks the scripted providers themselves",
}


SELECTED = ON_POSTGRES if ARRANGEMENT == "postgres" else EVERYWHERE


def pytest_ignore_collect(collection_path, config):
    left_out = collection_path.suffix == ".py" and collection_path.name.startswith("test_") and collection_path.name not in SELECTED
    return True if ARRANGEMENT != "one" and left_out else None


def pytest_terminal_summary(terminalreporter):
    if ARRANGEMENT not in ("one", "postgres"):
        terminalreporter.write_line(f"arrangement {ARRANGEMENT}; left out:")
        for path in sorted(Path(__file__).parent.glob("test_*.py")):
            if path.name not in SELECTED:
                terminalreporter.write_line(f"    {path.name} {ONE_PROCESS_ONLY.get(path.name, 'is new, and runs in one process until conftest.py names it')}")


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


@pytest.fixture(scope="module")
def corral_with(tmp_path_factory):
    """corral_with({"name": ("kind", url)}, *options, env=None): a Corral that runs until the file's tests are over."""
    running = []

    def start(backends, *options, env=None):
        running.append(Corral(tmp_path_factory.mktemp("corral"), backends, *options, env=env))
        return running[-1]

    yield start
    wrong = [w for w in (c.close() for c in running) if w]
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def corral(tmp_path_factory, llama):
    running = Corral(tmp_path_factory.mktemp("corral"), {"tiny": ("llamacpp", llama.url)})
    yield running
    wrong = running.close()
    assert not wrong, wrong


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
