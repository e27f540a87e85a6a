"""docker-compose.servers.yml: what is kept lies in PostgreSQL, and each server may go and come back."""
import time

import pytest

from conftest import http
from test_containers import MODEL, SERVICES, wait_until

SCHEMAS = {"ab_testing", "access", "cloud_fallback", "gateway", "model_registry", "selector", "usage_tracker"}


@pytest.fixture
def postgres(container):
    there = container("postgres")

    def sql(text):
        return there.podman("exec", "-e", "PGPASSWORD=of-the-test", "{}", "psql", "-h", "127.0.0.1", "-U", "corral", "-d", "corral", "-qAt", "-c", text).stdout.split()

    there.sql = sql
    return there


def ask(client, text="hello"):
    """Its request id."""
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": text}])
    assert raw.parse().choices[0].message.content.startswith("Welcome to Corral!")
    return raw.headers["x-request-id"]


def booked(corral, request):
    wait_until(f"the ledger has {request}", lambda: http(f"{corral.url}/requests/{request}")[0] == 200)


def test_the_schemas_were_made_before_the_services_started(container, postgres):
    wait_until("the migration has ended well", lambda: container("migrate").podman("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "{}").stdout.split() ==
               ["exited", "0"])
    assert SCHEMAS <= set(postgres.sql("SELECT schema_name FROM information_schema.schemata"))
    for schema in SCHEMAS:
        assert int(postgres.sql(f"SELECT max(number) FROM {schema}.schema_version")[0]) >= 1


@pytest.mark.parametrize("service", [s for s in SERVICES if s != "hardware-probe"])
def test_no_service_has_a_database_of_its_own(container, corral, client, service):
    booked(corral, ask(client))
    assert "state" not in container(service).run("find", "/var/lib/corral", "-name", "*.db").stdout.replace("/var/lib/corral", "state")


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_requests_go_on_without_a_server_and_are_booked_when_it_is_back(container, corral, client, server):
    there = container(server)
    booked(corral, ask(client))
    there.podman("kill", "--signal", "KILL", "{}")
    requests = [ask(client) for _ in range(3)]
    time.sleep(1)
    requests.append(ask(client))
    there.podman("start", "{}")
    wait_until(f"{server} is healthy again", lambda: there.podman("healthcheck", "run", "{}", check=False).returncode == 0)
    requests.append(ask(client))
    for request in requests:
        booked(corral, request)
