"""Fixtures for what tests/containers/run has brought up: the same names as the end-to-end tests', so that those run here unchanged.

Every request carries the key, because the gateway in a container listens to more than loopback.
"""
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
pytest.register_assert_rewrite("test_openai")
import servers  # noqa: E402

KEY = Path(os.environ["CORRAL_KEY_AT"]).read_text().strip()
plain_http = servers.http


def http(url, body=None, method=None, headers=None, timeout=10):
    return plain_http(url, body, method, {"Authorization": f"Bearer {KEY}", **(headers or {})}, timeout)


servers.http = http


class Container:
    """One of the composed services."""

    def __init__(self, service):
        self.name = f"{os.environ['CONTAINER_PREFIX']}{service}_1"

    def podman(self, *words, check=True):
        """podman WORD... with the container's name in place of {}."""
        done = subprocess.run(["podman", *(self.name if w == "{}" else w for w in words)], capture_output=True, text=True, timeout=300)
        assert not check or done.returncode == 0, done.stderr
        return done

    def run(self, *command, check=True):
        return self.podman("exec", "{}", *command, check=check)

    def is_ready(self, program):
        return self.run(program, "--probe=readyz", check=False).returncode == 0


class Front(servers.Corral):
    """The published port; nothing to start or stop."""

    def __init__(self, url):
        self.url = url


@pytest.fixture(scope="session")
def corral():
    """Healthy is also who still waits for the model server: the registry looks every five seconds."""
    front = Front(os.environ["CORRAL_AT"])
    until = time.monotonic() + 180
    while front.get("/models/corral-tiny")[0] != 200:
        assert time.monotonic() < until, "the model did not appear within 180 s"
        time.sleep(0.1)
    return front


@pytest.fixture(scope="session")
def llama():
    return SimpleNamespace(url=os.environ["LLAMA_AT"])


@pytest.fixture
def client(corral):
    return openai.OpenAI(base_url=f"{corral.url}/v1", api_key=KEY, max_retries=0, timeout=180)


@pytest.fixture
def direct(llama):
    return openai.OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0, timeout=180)


@pytest.fixture
def container():
    return Container
