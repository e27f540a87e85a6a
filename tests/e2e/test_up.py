"""The two commands of the README as a person runs them: scripts/up and scripts/down."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from apart import port_is_free
from servers import ROOT, free_port, http, until


APART = ["gateway", "cloud-fallback", "selector", "model-registry", "hardware-probe", "ab-testing", "usage-tracker", "access"]      # as they are stopped


def free_pair():
    """A port such that it and its admin ports, from ten above, are free; below those that connections get, for eight in a row are wanted."""
    while True:
        port = free_port()
        if all(port_is_free(port + 10 + i) for i in range(8)):
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
    other = up(port + 1, env, "--detach")
    assert other.returncode == 1 and "already running here" in other.stderr and f":{port};" in other.stderr, other.stderr
    down = subprocess.run([ROOT / "scripts/down"], env=env, capture_output=True, text=True)
    assert "stopped corral" in down.stdout
    began = time.monotonic()
    assert up(port, env, "--detach").returncode == 0
    assert http(f"http://127.0.0.1:{port}/v1/chat/completions", {
        "model": "auto", "messages": [{"role": "user", "content": "hello"}]}, "POST")[0] == 200
    assert time.monotonic() - began < 3, "second scripts/up to a served request"


def chats(port):
    return http(f"http://127.0.0.1:{port}/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}, "POST")[0] == 200


@pytest.mark.parametrize("wire", ["ipc", "tcp", "tls"])
def test_services_apart(place, wire):
    port, env = place
    done = up(port, env, "--apart", "--wire", wire, "--detach", "--", "--queue-max=100", "--decision-keep", "7d")
    assert done.returncode == 0, done.stdout + done.stderr
    assert chats(port)
    run = f"{env['CORRAL_STATE_DIR']}/run"
    pids = {name: int(open(f"{run}/{name}.pid").read()) for name in APART}
    for name, pid in pids.items():
        until(lambda: os.readlink(f"/proc/{pid}/exe").endswith(f"/{name}"))
    os.kill(pids["selector"], signal.SIGKILL)
    time.sleep(0.1)
    again = up(port, env, "--apart", "--wire", wire, "--detach")
    assert again.returncode == 0 and "selector has ended" in again.stderr and "already running" in again.stdout, again.stdout + again.stderr
    new = int(open(f"{run}/selector.pid").read())                                  # for a moment it is still what starts it
    until(lambda: os.readlink(f"/proc/{new}/exe").endswith("/selector"))
    assert chats(port)
    down = subprocess.run([ROOT / "scripts/down"], env=env, capture_output=True, text=True)
    assert [line.split()[1] for line in down.stdout.splitlines()] == APART, down.stdout
    assert not [name for name in APART if os.path.exists(f"{run}/{name}.pid")]


@pytest.fixture
def postgres():
    """(its URL, a function that stops it); the path of a socket has to be short."""
    folder = tempfile.mkdtemp(prefix="corral-up-", dir="/tmp")
    started = subprocess.run([ROOT / "scripts/with-postgres", "start", folder], capture_output=True, text=True)
    if started.returncode == 4:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr

    def stop():
        subprocess.run([ROOT / "scripts/with-postgres", "stop", folder, "immediate"], check=True)

    yield started.stdout.strip(), stop
    stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", [[], ["--apart"]])
def test_on_a_database_server(place, postgres, how):
    port, env = place
    url, stop = postgres
    done = up(port, env, *how, "--detach", "--db", url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "corral migrate" in done.stdout and "usage_tracker" in done.stdout
    assert chats(port)
    state = Path(env["CORRAL_STATE_DIR"])
    assert not list(state.rglob("*.db"))
    assert (state / "run/servers").stat().st_mode & 0o077 == 0
    if how:
        os.kill(int((state / "run/usage-tracker.pid").read_text()), signal.SIGKILL)
        time.sleep(0.1)
        again = up(port, env, "--apart", "--detach")            # which was not told of the server
        assert "usage-tracker has ended" in again.stderr, again.stdout + again.stderr
        assert not list(state.rglob("*.db"))
    subprocess.run([ROOT / "scripts/down"], env=env, capture_output=True)
    stop()
    done = up(port, env, "--detach", "--db", url)
    assert done.returncode == 1 and "corral migrate failed" in done.stderr and "--db" in done.stderr, done.stderr


def test_servers_that_do_not_answer_are_named(place):
    port, env = place
    done = up(port, env, "--detach", "--cache", "redis://u:hidden@127.0.0.1:1/0", "--bus", "kafka:127.0.0.1:1,127.0.0.1:2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing answers at redis://u:***@127.0.0.1:1/0" in done.stderr and "nothing answers at kafka:127.0.0.1:1,127.0.0.1:2" in done.stderr
    assert chats(port)


def test_an_option_that_no_service_has(place):
    port, env = place
    done = up(port, env, "--apart", "--detach", "--", "--no-such-thing=1")
    assert done.returncode == 1 and "no service has the option '--no-such-thing=1'" in done.stderr, done.stderr


@pytest.mark.parametrize("how", [[], ["--apart"]])
def test_ctrl_c_drains_and_stops_everything(place, how):
    port, env = place
    shown = subprocess.Popen([ROOT / "scripts/up", "--port", str(port), *how], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
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
    if "starting llama.cpp" in done.stdout:
        with open(f"{env['CORRAL_STATE_DIR']}/run/llama.pid", encoding="ascii") as f:
            pid = int(f.read())
        os.kill(pid, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{pid}/exe"))
        again = up(port, env, "--detach")
        assert again.returncode == 0 and "has ended; starting anew" in again.stdout, again.stdout + again.stderr
        assert chats(port)


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
