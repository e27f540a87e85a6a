"""The two commands of the README as a person runs them: scripts/up and scripts/down."""
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from servers import ROOT, free_port, http


def free_pair():
    """A port such that it and its admin port, ten above, are free."""
    while True:
        port = free_port()
        with socket.socket() as s:
            if port + 10 < 65536 and s.connect_ex(("127.0.0.1", port + 10)):
                return port


@pytest.fixture
def place(tmp_path, llama):
    """An environment in which scripts/up finds our llama-server where an Ollama user would point it."""
    port = free_pair()
    env = {**os.environ, "CORRAL_STATE_DIR": str(tmp_path / "state"), "OLLAMA_HOST": llama.url}
    env.pop("CORRAL_BACKENDS", None)
    yield port, env
    subprocess.run([ROOT / "scripts/down", "--now"], env=env, capture_output=True)


def up(port, env, *more):
    return subprocess.run([ROOT / "scripts/up", "--port", str(port), *more], env=env, capture_output=True, text=True, timeout=300)


def shell(command, env):
    return subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)


def test_the_printed_lines_work(place):
    port, env = place
    done = up(port, env, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    curl = re.search(r"^  (curl .*?\\\n.*)$", done.stdout, re.M).group(1)
    answer = shell(curl, env)
    assert answer.returncode == 0 and answer.stdout.rstrip().endswith("data: [DONE]"), answer.stdout + answer.stderr
    python = re.search(r"^  python3 (-c .*)$", done.stdout, re.M).group(1)
    said = shell(f"{sys.executable} {python}", env)
    assert said.stdout.startswith("Corral is one front door"), said.stderr


def test_again_is_fast_and_says_so(place):
    port, env = place
    assert up(port, env, "--detach").returncode == 0
    began = time.monotonic()
    again = up(port, env, "--detach")
    assert again.returncode == 0 and "already running" in again.stdout and f":{port}/" in again.stdout
    assert time.monotonic() - began < 1
    down = subprocess.run([ROOT / "scripts/down"], env=env, capture_output=True, text=True)
    assert "stopped corral" in down.stdout
    began = time.monotonic()
    assert up(port, env, "--detach").returncode == 0
    assert http(f"http://127.0.0.1:{port}/v1/chat/completions", {
        "model": "auto", "messages": [{"role": "user", "content": "hello"}]}, "POST")[0] == 200
    assert time.monotonic() - began < 3, "second scripts/up to a served request"


def test_ctrl_c_drains_and_stops_everything(place):
    port, env = place
    shown = subprocess.Popen([ROOT / "scripts/up", "--port", str(port)], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while "Ctrl-C stops it" not in (line := shown.stdout.readline()):
        assert line, "scripts/up ended early"
    stream = subprocess.Popen(["curl", "-sN", f"http://127.0.0.1:{port}/v1/chat/completions", "-d",
                               '{"model":"auto","stream":true,"messages":[{"role":"user","content":"count"}]}'], stdout=subprocess.PIPE, text=True)
    stream.stdout.readline()
    os.killpg(shown.pid, signal.SIGINT)
    assert stream.communicate(timeout=30)[0].rstrip().endswith("data: [DONE]"), "the stream under way was cut"
    assert shown.wait(30) == 0
    with pytest.raises(OSError):
        http(f"http://127.0.0.1:{port}/v1/models")
    assert not (ROOT / env["CORRAL_STATE_DIR"] / "run/corral.pid").exists()


def test_with_no_model_server_it_brings_its_own(place, engine, model_file):
    port, env = place
    env["OLLAMA_HOST"] = "127.0.0.1:1"
    done = up(port, env, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found" in done.stdout or "starting llama.cpp" in done.stdout
    assert "nothing that serves models answers at 127.0.0.1:1" in done.stdout


def test_a_taken_port_is_named(place, llama):
    _, env = place
    taken = int(llama.url.rsplit(":", 1)[1])
    done = up(taken, env, "--detach")
    assert done.returncode == 1
    assert f"port {taken} is taken" in done.stderr and "--port" in done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["--port", "0"], "not a port"), (["--prot", "1"], "unknown option"), (["--port"], "needs a value"),
    (["--state-dir", "/proc/nowhere"], "cannot write to /proc/nowhere")])
def test_mistakes_get_a_sentence(arguments, words):
    done = subprocess.run([ROOT / "scripts/up", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and words in done.stderr


def test_down_with_nothing_running(tmp_path):
    done = subprocess.run([ROOT / "scripts/down", "--state-dir", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0 and "nothing was running" in done.stdout
