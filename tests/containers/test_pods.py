"""k8s/ as podman plays it: each service starts under its security context with its file of options, and they find each other."""
import os

import pytest

import conftest
from conftest import Container
from test_containers import SERVICES, wait_until


class InPod(Container):
    def __init__(self, service):
        self.name = f"corral-{service}-{service}"


@pytest.fixture(scope="module")
def pods():
    podman = Container("none").podman
    file, network = os.environ["PODS_FILE"], os.environ["CONTAINER_PREFIX"] + "pods"
    podman("network", "create", network)
    try:
        podman("kube", "play", "--network", network, file)
        yield {s: InPod(s) for s in SERVICES}
    finally:
        podman("kube", "down", file, check=False)
        podman("volume", "rm", "-f", *(f"corral-{s}{what}" for s in SERVICES for what in ("", "-state")), check=False)
        podman("network", "rm", "-f", network, check=False)


def test_every_pod_becomes_ready(pods):
    for service, there in pods.items():
        wait_until(f"{service} is ready: {there.podman('logs', '--tail', '5', '{}', check=False)}", lambda: there.is_ready(service))


@pytest.mark.parametrize("service", SERVICES)
def test_under_its_security_context(pods, service):
    there = pods[service]
    status = dict(line.split(":\t", 1) for line in there.run("cat", "/proc/1/status").stdout.splitlines() if ":\t" in line)
    assert status["Uid"].split() == ["65532"] * 4
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert there.run("touch", "/etc/corral/x", check=False).returncode != 0


def test_the_gateway_takes_the_first_key_and_no_other(pods):
    gateway = pods["gateway"]
    asked = gateway.podman("exec", "-e", f"CORRAL_API_KEY={conftest.KEY}", "{}", "corral", "keys", "list", "--json")
    assert asked.stdout.count('"role"') == 1
    refused = gateway.podman("exec", "-e", "CORRAL_API_KEY=corral_sk_nobody", "{}", "corral", "keys", "list", check=False)
    assert refused.returncode == 1
