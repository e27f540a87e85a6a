"""Corral on a PostgreSQL server: nothing before its schema is there, what is kept where, and what goes on while the server is away."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from postgres import BIN, Postgres
from servers import ROOT, Corral, free_port, http, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402
from apart import Apart                                          # noqa: E402
from test_runs import model                                      # noqa: F401,E402

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def server():
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def corral(server, model, tmp_path):                             # noqa: F811
    assert server.migrate().returncode == 0
    made = Corral(tmp_path, {"a": ("llamacpp", model.url)}, env={"CORRAL_DB": server.url})
    yield made
    wrong = made.close()
    assert not wrong, wrong


def ask(corral):
    status, _, text = http(corral.url + "/v1/chat/completions", ASK)
    assert status == 200, text


def attempts(corral):
    status, _, said = corral.get("/usage")
    return said["totals"]["attempts"] if status == 200 else None


def needs(corral):
    return json.loads(http(f"{corral.admin}/readyz")[2])["needs"]


def test_a_schema_that_is_not_there_is_refused_and_made(server, tmp_path):
    env = {**os.environ, "CORRAL_DB": server.url}
    serve = [f"{BIN}/corral", "serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", f"--state-dir={tmp_path}"]
    done = subprocess.run(serve, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "corral migrate" in done.stderr, done.stderr
    done = server.migrate("usage-tracker")
    assert done.returncode == 0 and "schema usage_tracker brought from version 0 to" in done.stdout, done.stdout + done.stderr
    done = server.migrate()
    assert done.returncode == 0 and "usage-tracker: schema usage_tracker is at version" in done.stdout and "access: schema access brought from" in done.stdout
    server.sql("INSERT INTO selector.schema_version VALUES (1000)")
    for said in (server.migrate(), subprocess.run(serve, env=env, capture_output=True, text=True, timeout=60)):
        assert said.returncode == 1 and "schema version 1000" in said.stderr, said.stderr


def test_a_password_is_in_no_log(tmp_path):
    env = {**os.environ, "CORRAL_DB": "postgresql://corral:se-cret@127.0.0.1:1/corral?sslpassword=se-cret"}
    log = tmp_path / "log"
    served = subprocess.Popen([f"{BIN}/corral", "serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", f"--state-dir={tmp_path}"], env=env,
                              stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        until(lambda: "cannot be reached" in log.read_text(), 60)
    finally:
        served.kill()
        served.wait()
    said = log.read_text()
    for words in (["migrate"], ["serve", "--check-config"], ["config", "show"]):
        done = subprocess.run([f"{BIN}/corral", *words, f"--state-dir={tmp_path}"], env=env, capture_output=True, text=True, timeout=60)
        said += done.stdout + done.stderr
    assert "se-cret" not in said


def test_what_is_kept_lies_in_a_schema_of_its_service(server, corral):
    ask(corral)
    until(lambda: attempts(corral) == 1)
    assert server.sql("SELECT count(*) FROM usage_tracker.attempts") == "1"
    assert server.sql("SELECT model || ' ' || status FROM usage_tracker.usage") == "m ok"
    status, _, made = corral.post("/keys", {"name": "ci", "role": "user"})
    assert status == 201, made
    assert server.sql("SELECT count(*) FROM access.keys") == "1"
    status, _, run = corral.post("/run", {"input": ASK})
    assert status == 202, run
    until(lambda: corral.get(f"/status/{run['id']}")[2]["status"] == "COMPLETED")
    assert server.sql("SELECT count(*) FROM gateway.runs") == "1"


def test_it_goes_on_while_the_server_is_away(server, corral):
    ask(corral)
    until(lambda: attempts(corral) == 1)
    for turn in range(2):
        server.stop()
        for _ in range(3):
            ask(corral)
        began = time.monotonic()
        status, _, said = until(lambda: (lambda a: a if a[0] == 503 else None)(corral.get("/usage")))       # noqa: B023
        assert "usage-tracker" in said["error"] and server.folder not in said["error"], said     # the reason is for the log and /readyz
        assert time.monotonic() - began < 30
        assert corral.post("/keys", {"name": f"a{turn}", "role": "user"})[0] == 503
        until(lambda: any(n["need"] == "ledger" and not n["ok"] for n in needs(corral)), 60)
        server.start()
        until(lambda: attempts(corral) == 4 + 3 * turn, 60)      # noqa: B023
        until(lambda: [n for n in needs(corral) if n["required"] and not n["ok"]] == [] or print(needs(corral)), 20)
        until(lambda: corral.post("/keys", {"name": f"b{turn}", "role": "user"})[0] == 201)                 # noqa: B023
    assert server.sql("SELECT count(*) FROM usage_tracker.attempts") == "7"
    log = corral.logs()
    assert log.count("the budgets can be used again") == log.count("the budgets cannot be read or written") <= 2      # once each time, if at all


def test_a_server_that_stands_still_is_named_at_once(server, corral):
    """Not away: it takes connections, and answers nothing. The service waits for it; what the admin port says does not."""
    ask(corral)
    until(lambda: attempts(corral) == 1)
    server.signal(signal.SIGSTOP)
    try:
        ask(corral)
        until(lambda: any(n["need"] == "database" and not n["ok"] and "no answer for" in n["text"] and "PostgreSQL" in n["text"] for n in needs(corral)), 30)
        assert http(f"{corral.admin}/readyz")[0] == 503 and "corral_build_info" in corral.metrics()
        ask(corral)
    finally:
        server.signal(signal.SIGCONT)
    until(lambda: [n for n in needs(corral) if n["required"] and not n["ok"]] == [], 60)
    until(lambda: attempts(corral) == 3, 60)
    assert server.sql("SELECT count(*) FROM usage_tracker.attempts") == "3"


def test_what_needs_a_lease_is_told_why_while_the_server_stands_still(server, corral):
    """That the usage-tracker is away, and not that the budget is spent or held; who needs none is served."""
    status, _, said = corral.get("/budgets", body={"scope": "user:carl", "period": "day", "tokens": 1000000}, method="PUT")
    assert status == 200, said
    until(lambda: re.search(r"^corral_budgets 1$", corral.metrics(), re.M))
    server.signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            status, headers, text = http(corral.url + "/v1/chat/completions", {**ASK, "max_tokens": 30000}, headers={"X-Corral-User": "carl"}, timeout=60)
            assert status == 503 and "the usage-tracker is away" in text and headers["Retry-After"], text
            ask(corral)
    finally:
        server.signal(signal.SIGCONT)
    until(lambda: http(corral.url + "/v1/chat/completions", {**ASK, "max_tokens": 30000}, headers={"X-Corral-User": "carl"})[0] == 200, 60)


@pytest.fixture
def abroad(server, model, tmp_path):                             # noqa: F811
    """A model of a cloud beside the one at home."""
    assert server.migrate().returncode == 0
    fake = providers.Fake(script=["answer 300 gap=50ms"], keys={"a-key-of-abroad"})
    (tmp_path / "corral.yaml").write_text(f'providers:\n  - {{name: oa, kind: openai, url: "{fake.url}/v1", models: m1, key_env: ABROAD_KEY, monthly_tokens: unlimited}}\n')
    made = Corral(tmp_path, {"a": ("llamacpp", model.url)}, "--config", str(tmp_path / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cache=off",
                  env={"CORRAL_DB": server.url, "ABROAD_KEY": "a-key-of-abroad"})
    until(lambda: any(m["id"] == "oa/m1" for m in made.get("/v1/models")[2]["data"]))
    yield made
    wrong = made.close()
    fake.close()
    assert not wrong, wrong


def test_streams_from_the_cloud_do_not_wait_for_a_server_that_stands_still(server, abroad):
    """cloud-fallback asks it every second what "auto" means, on a thread of its own: not even the first wait, of seconds, is seen in a stream."""
    body = {"model": "oa/m1", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    request = urllib.request.Request(abroad.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    times, still = [], False
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            for line in answer:
                if b"content" not in line:
                    continue
                times.append(time.monotonic())
                if len(times) == 10:
                    server.signal(signal.SIGSTOP)
                    still = True
    finally:
        if still:
            server.signal(signal.SIGCONT)
    assert len(times) >= 300
    longest = max(b - a for a, b in zip(times[9:], times[10:], strict=False))
    print(f"longest gap of a stream that ticks every 50 ms: {longest * 1000:.0f} ms")
    assert longest < 0.5, longest


def test_the_selector_decides_while_the_server_stands_still(server, model, tmp_path):    # noqa: F811
    """Each request asks it (decide=remote), and each is told of afterwards, which is written to the server: deciding waits for none of that."""
    assert server.migrate().returncode == 0
    place = Apart(tmp_path, "ipc", ["--backends", f"a=llamacpp+{model.url}", "--decide=remote", "--decide-timeout=1s", "--cache=off", f"--selector-db={server.url}"])
    body = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
    took, still = [], False

    def decide():
        began = time.monotonic()
        status, headers, text = http("http://%s:%d/v1/chat/completions" % place.addresses["gateway"], body, timeout=30)
        assert status == 200, text
        took.append(time.monotonic() - began)
        return headers["X-Request-Id"]

    def counted(name):
        found = re.findall(rf"^corral_{name}(?:{{.*}})? (\S+)$", http(place["gateway"].admin + "/metrics")[2], re.M)
        return sum(float(v) for v in found)

    def explained(request):
        status, _, text = http("http://%s:%d/explain/%s" % (*place.addresses["gateway"], request))
        return status == 200 and json.loads(text)["decided_by"] == "selector" and json.loads(text)["replayed"]
    try:
        place.start()
        until(lambda: decide() and counted("remote_decisions_total") > 0)
        before = counted("remote_decision_fallbacks_total")
        server.signal(signal.SIGSTOP)
        still = True
        took.clear()
        requests, end = [], time.monotonic() + 10
        while time.monotonic() < end:
            requests.append(decide())
            time.sleep(0.05)
        late = counted("remote_decision_fallbacks_total") - before
        print(f"{len(took)} requests while the server stood still: the longest took {max(took) * 1000:.0f} ms, {late:.0f} were not decided by the selector")
        assert late == 0
        server.signal(signal.SIGCONT)
        still = False
        for request in (requests[0], requests[-1]):              # and none is lost
            until(lambda: explained(request), 60)                # noqa: B023
    finally:
        if still:
            server.signal(signal.SIGCONT)
        wrong = place.stop()
    assert not wrong, "\n".join(wrong)


def test_the_registry_does_not_wait_to_forget_what_is_old(server, model, tmp_path):      # noqa: F811
    """It asks the server every five seconds to; what it lends and lists is not kept waiting for that."""
    assert server.migrate("model-registry").returncode == 0
    corral = Corral(tmp_path, {"a": ("llamacpp", model.url)}, f"--jobs-db={server.url}")
    took = []
    try:
        until(lambda: corral.get("/jobs")[0] == 200)
        server.signal(signal.SIGSTOP)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            began = time.monotonic()
            assert corral.get("/jobs")[0] == 200
            took.append(time.monotonic() - began)
            time.sleep(0.02)
    finally:
        server.signal(signal.SIGCONT)
        wrong = corral.close()
    print(f"{len(took)} lists of jobs while the server stood still: the longest took {max(took) * 1000:.0f} ms")
    assert max(took) < 0.7 and not wrong, wrong


def test_the_registry_waits_no_longer_for_a_server_that_stands_still(server, corral):
    """A mark has to be on the server before it is told; there are slots to lend meanwhile."""
    until(lambda: corral.post("/models/m/protect", {})[0] == 200)
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        status, _, said = corral.post("/models/m/unprotect", {})
        took = time.monotonic() - began
        assert status == 503 and took < 4, (status, said, took)
    finally:
        server.signal(signal.SIGCONT)
    until(lambda: corral.post("/models/m/unprotect", {})[0] == 200)


def test_a_gateway_starts_and_serves_without_the_server(server, model, tmp_path):        # noqa: F811
    """Apart from the others: only its jobs lie there."""
    from test_limits import Process
    assert server.migrate("gateway").returncode == 0
    registry, port = f"tcp://127.0.0.1:{free_port(pair=True)}", free_port()
    base = f"http://127.0.0.1:{port}"
    catalogue = Process(tmp_path, "registry", "model-registry", "--rpc-listen", registry, "--backends", f"a=llamacpp+{model.url}", "--jobs-db", f"sqlite:{tmp_path}/jobs.db")
    gateway = Process(tmp_path, "gateway", "gateway", f"--listen=127.0.0.1:{port}", f"--peer=model-registry={registry}", "--runs-db", server.url, "--drain=1s")

    def asked(path, body=None):
        try:
            status, _, text = http(base + path, body)
            return status, json.loads(text)
        except OSError:
            return 0, {}
    server.stop()
    try:
        catalogue.start()
        gateway.start()
        until(lambda: asked("/v1/chat/completions", ASK)[0] == 200, 60)
        for path, body in (("/run", {"input": ASK}), ("/status/01a20053-5012-724e-86af-04cf0d6ab37b", None)):
            status, said = asked(path, body)
            assert status == 503 and "database cannot be reached" in json.dumps(said) and server.folder not in json.dumps(said), said
        server.start()
        status, said = until(lambda: (lambda a: a if a[0] == 202 else None)(asked("/run", {"input": ASK})), 60)
        until(lambda: asked(f"/status/{said['id']}")[1].get("status") == "COMPLETED", 60)
    finally:
        gateway.stop()
        catalogue.stop()
