"""`corral models init` and pulls, through a real Ollama from a registry of our own."""
import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from servers import ROOT, http, start_ollama      # first: it makes the fakes known
from model_registry import ModelRegistry
from test_models import model, names, ollama_built, until        # noqa: F401 (a fixture)

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


@pytest.fixture(scope="module")
def registry(model_file):
    registry = ModelRegistry()
    data = Path(model_file).read_bytes()
    for name in ("small", "coder", "other", "slow"):
        registry.add(name, data + name.encode())            # bytes behind the end of the file make it another
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def front(corral_with, ollama_built, model_file, registry, tmp_path_factory):       # noqa: F811
    folder = tmp_path_factory.mktemp("init")
    catalogue = folder / "catalogue.tsv"
    size = len(Path(model_file).read_bytes())
    catalogue.write_text("tier\tcpu\t0\tany machine\n" + "".join(
        f"model\t{registry.name(name)}\t{roles}\t0.002\t0.002\t{size}\t1\t2\t64\t4096\t{rank}\n"
        for name, roles, rank in (("small", "chat", 50), ("coder", "code", 60), ("other", "chat", 10))))
    server = start_ollama(folder, ollama_built, model_file, "first")
    yield corral_with({"o": ("ollama", server.url)}, f"--models-catalogue={catalogue}", f"--pull-from=http://{registry.host}", "--delete-grace=0")
    server.stop()


@pytest.fixture
def command(front):
    def call(*words, status=0):
        done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env={**os.environ, "CORRAL_URL": front.url})
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr
    return call


def at_a_terminal(front, words, answer):
    """What a person sees who types that answer."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(BINARY, [BINARY, *words], {**os.environ, "CORRAL_URL": front.url, "TERM": "xterm"})
    seen, answered, end = "", False, time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([fd], [], [], 1)[0]:
            try:
                seen += os.read(fd, 4096).decode(errors="replace")
            except OSError:
                break
        if not answered and "[y/N]" in seen:
            os.write(fd, answer)
            answered = True
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def test_the_plan_and_a_no(front, registry, command):
    plan = json.loads(command("models", "init", "--json"))
    assert [m["name"] for m in plan["models"]] == [registry.name("small"), registry.name("coder")]        # the first of each role
    assert all(m["why"].startswith("needs ") and m["download_bytes"] and m["job_id"] is None and not m["is_here"] for m in plan["models"])
    assert "say --yes" in command("models", "init", status=2)
    status, seen = at_a_terminal(front, ["models", "init"], b"n\n")
    assert status == 0 and re.search(r"Pull 2 models, \d+ MB\? \[y/N\]", seen) and "Nothing was pulled" in seen and "needs " in seen, seen
    assert not front.get("/jobs")[2]["jobs"]


def test_a_yes_pulls_them_and_they_answer(front, registry, command):
    status, seen = at_a_terminal(front, ["models", "init"], b"y\n")
    assert status == 0 and f"pull of {registry.name('small')} is done" in seen and f"pull of {registry.name('coder')} is done" in seen, seen
    assert {registry.name("small") + ":latest", registry.name("coder") + ":latest"} <= until(lambda: len(names(front)) >= 4 and names(front))
    answer = front.post("/api/chat", {"model": registry.name("small"), "messages": [{"role": "user", "content": "hello"}], "stream": False}, timeout=60)
    assert answer[0] == 200 and answer[2]["message"]["content"].startswith("Welcome to Corral!")
    assert "All of them are here" in command("models", "init", "--yes") and "is here" in command("models", "init")


def test_others_by_name_for_scripts(front, registry, command):
    out = command("models", "init", registry.name("other"), registry.name("small"), "--yes")
    assert f"pull of {registry.name('other')} is done" in out
    assert until(lambda: model(front, registry.name("other")))
    assert "does not exist" in command("models", "init", registry.name("nowhere"), "--yes", status=1)
    assert "pull_from" in command("models", "init", "registry.example/a/b", "--yes", status=1)


def test_a_pull_of_ollamas_own_client_is_told_as_it_goes(front, registry):
    """Two of them join one job; one that leaves ends nothing."""
    registry.rate = 3_000_000
    try:
        first = subprocess.Popen(["curl", "-sN", f"{front.url}/api/pull", "-d", json.dumps({"model": registry.name("slow"), "username": "", "password": ""})],
                                 stdout=subprocess.PIPE, text=True)
        line = until(lambda: first.stdout.readline())
        assert "status" in json.loads(line)
        job = until(lambda: [j for j in front.get("/jobs?active=true")[2]["jobs"] if j["kind"] == "pull"])[0]
        first.kill()
        first.wait()
        status, headers, text = http(f"{front.url}/api/pull", {"model": registry.name("slow")}, "POST", timeout=120)
    finally:
        registry.rate = None
    lines = [json.loads(each) for each in text.splitlines()]
    assert status == 200 and headers["Content-Type"] == "application/x-ndjson" and lines[-1] == {"status": "success"}, text
    assert [m for m in lines if m.get("total") and m["status"].startswith("pulling ") and m.get("completed", 0) <= m["total"]]
    assert front.get(f"/jobs/{job['id']}")[2]["asked"] == 2
    assert registry.name("slow") + ":latest" in names(front)
    status, _, text = http(f"{front.url}/api/pull", {"model": registry.name("nowhere"), "stream": False}, "POST", timeout=60)
    assert status == 502 and "does not exist" in json.loads(text)["error"]
    status, _, text = http(f"{front.url}/api/pull", {"model": registry.name("nowhere")}, "POST", timeout=60)
    assert status == 200 and "does not exist" in json.loads(text.splitlines()[-1])["error"]
