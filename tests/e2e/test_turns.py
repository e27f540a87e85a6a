"""A load that a job asks for on an Ollama that holds one model, while requests for another do not end."""
import threading

import pytest

from servers import Corral, http, until
from test_runs import Backend, Scripted


@pytest.fixture
def ollama():
    backend = Backend("o", "ollama", {"a": {}, "b": {}}, slots=4, loaded=False)
    backend.memory_of_one = True
    server = Scripted(backend)
    yield server
    server.close()


@pytest.fixture
def corral(ollama, tmp_path):
    corral = Corral(tmp_path, {"o": ("ollama", ollama.url)}, "--slots=o=4", "--hand-over-after=300ms", "--residency-every=100ms", "--check-every=0s", "--preload-top=0")
    yield corral
    ollama.now("refuse")
    assert corral.close() is None


@pytest.fixture
def busy(corral):
    """Requests for a, of different lengths, so that they never end all at once; how many were answered."""
    over, answered = threading.Event(), []

    def ask(n):
        while not over.is_set():
            said = {"model": "a", "messages": [{"role": "user", "content": f"do: answer {n} gap=40ms"}]}
            answered.append(http(corral.url + "/api/chat", said, timeout=60)[0])
    threads = [threading.Thread(target=ask, args=(n,)) for n in (3, 4, 5, 6, 7, 8, 9)]
    for thread in threads:
        thread.start()
    yield answered
    over.set()
    for thread in threads:
        thread.join()
    assert set(answered) == {200}


def test_a_job_that_loads_gets_its_turn(corral, ollama, busy):
    until(lambda: len(busy) > 8)
    status, _, body = corral.post("/models/b/preload", None)
    assert status in (200, 202), body
    until(lambda: corral.get(f"/jobs/{body['job_id']}")[2]["state"] == "done")
    before = len(busy)
    until(lambda: len(busy) > before + 8)                # and those that were held back go on
    assert [c.path for c in ollama.calls if c.model == "b"] == ["/api/generate"]
