"""What is different in containers: the key, what the processes may do, and how they end."""
import threading
import time

import openai
import pytest

import conftest
from conftest import http, plain_http
from servers import ROOT

MODEL = "corral-tiny"
SERVICES = ["gateway", "model-registry", "selector", "usage-tracker", "ab-testing", "access", "hardware-probe", "cloud-fallback"]


def wait_until(what, condition, seconds=180):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def test_nobody_comes_in_without_a_key(corral):
    assert plain_http(f"{corral.url}/v1/models")[0] == 401
    assert http(f"{corral.url}/v1/models")[0] == 200


def test_what_runs_apart_is_one_platform(corral):
    status, _, body = corral.get("/hardware")
    assert status == 200 and body["cpu_cores"] >= 1
    status, _, body = corral.get("/keys")
    assert status == 200 and len(body["keys"]) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_process_may_do_little(container, service):
    there = container(service)
    status = dict(line.split(":\t", 1) for line in there.run("cat", "/proc/1/status").stdout.splitlines() if ":\t" in line)
    assert status["Name"] == service[:15]
    assert status["Uid"].split() == ["65532"] * 4 and status["Gid"].split() == ["65532"] * 4
    assert int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert there.run("touch", "/usr/local/bin/x", check=False).returncode != 0


def test_the_command_line_is_in_the_image(container):
    done = container("gateway").podman("exec", "-e", f"CORRAL_API_KEY={conftest.KEY}", "{}", "corral", "models")
    assert MODEL in done.stdout


def test_a_record_for_each_request(corral, client):
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=[{"role": "user", "content": "hello"}])
    request = raw.headers["x-request-id"]
    wait_until("the ledger has the request", lambda: http(f"{corral.url}/requests/{request}")[0] == 200)


@pytest.mark.parametrize("service", [s for s in SERVICES if s != "gateway"])
def test_a_service_is_killed_and_started_again(container, client, corral, service):
    there = container(service)
    there.podman("kill", "--signal", "KILL", "{}")
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content.startswith("Welcome to Corral!")
    there.podman("start", "{}")
    wait_until(f"{service} is ready again", lambda: there.is_ready(service))
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content.startswith("Welcome to Corral!")


def refused(corral):
    try:
        plain_http(f"{corral.url}/v1/models", timeout=2)
    except OSError:
        return True
    return False


def test_sigterm_drains_open_streams(container, corral, client):
    """The streams' tokens are too many for all buffers on the way, and nobody reads them until the gateway is draining."""
    there = container("gateway")
    asked = dict(model=MODEL, messages=[{"role": "user", "content": "forever"}], stream=True, max_tokens=3000, logprobs=True, top_logprobs=20,
                 stream_options={"include_usage": True})
    opened = [client.chat.completions.with_raw_response.create(**asked) for _ in range(3)]
    requests = [raw.headers["x-request-id"] for raw in opened]
    streams = [raw.parse() for raw in opened]
    for stream in streams:
        next(stream)
    stopping = threading.Thread(target=there.podman, args=("stop", "-t", "100", "{}"))
    stopping.start()
    wait_until("the gateway takes no new connection", lambda: refused(corral))
    assert there.podman("inspect", "-f", "{{.State.Status}}", "{}").stdout.strip() in ("running", "stopping")
    for stream in streams:
        finish = usage = None
        for chunk in stream:
            usage = chunk.usage or usage
            finish = chunk.choices[0].finish_reason or finish if chunk.choices else finish
        assert finish == "length" and usage.completion_tokens == 3000
    stopping.join()
    assert there.podman("inspect", "-f", "{{.State.ExitCode}}", "{}").stdout.strip() == "0"
    there.podman("start", "{}")
    wait_until("the gateway is ready again", lambda: there.is_ready("gateway"))
    for request in requests:
        wait_until("the ledger has the stream", lambda: http(f"{corral.url}/requests/{request}")[0] == 200)


def test_a_gateway_alone_serves_from_its_disk(container, corral, client):
    """Everything but the gateway is dead, the gateway is started again: it has models, policy and keys on its volume."""
    others = [container(s) for s in SERVICES if s != "gateway"]
    for other in others:
        other.podman("kill", "--signal", "KILL", "{}")
    there = container("gateway")
    there.podman("restart", "-t", "20", "{}")
    wait_until("the gateway is ready", lambda: there.is_ready("gateway"))
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content.startswith("Welcome to Corral!")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="corral_sk_nobody").models.list()
    for other in others:
        other.podman("start", "{}")


def test_the_version_is_the_tree_s(container):
    assert (ROOT / "VERSION").read_text().strip() in container("gateway").run("gateway", "--version").stdout
