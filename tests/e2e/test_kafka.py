"""CORRAL_BUS=kafka: the facts of requests go through a real Apache Kafka, and the ledger is exact whoever is killed meanwhile."""
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import confluent_kafka
import confluent_kafka.admin
import confluent_kafka.admin
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
import canaries                                                  # noqa: E402
import providers                                                 # noqa: E402
from apart import Apart                                          # noqa: E402
from kafka import Kafka                                          # noqa: E402

from servers import ROOT, Corral, http, script, until            # noqa: E402
from test_runs import Scripted                                   # noqa: E402

WAIT = 90      # for facts that come after a broker that starts on a loaded machine


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    jars, reason = script("get-kafka")
    if not jars:
        pytest.skip(f"no Kafka: {reason}")
    tls = tmp_path_factory.mktemp("tls")
    subprocess.run([ROOT / "scripts/certs", tls, "gateway"], check=True, capture_output=True)
    kafka = Kafka(tmp_path_factory.mktemp("kafka") / "broker", jars, tls=tls)
    try:
        yield kafka.start()
    finally:
        kafka.kill()


@pytest.fixture(scope="module")
def backend():
    server = Scripted(slots=16)
    server.now("answer 5")
    yield server
    server.close()


@pytest.fixture
def prefix(request):
    """Topics of a test's own."""
    return re.sub("[^a-z0-9]+", "-", request.node.name).strip("-") + "."


@pytest.fixture
def place(broker, backend, prefix, tmp_path):
    """place(*options): a Corral over the broker, always on the same state folder."""
    running = []

    def start(*options):
        running.append(Corral(tmp_path, {"a": ("llamacpp", backend.url)}, "--log-format", "json", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix,
                              "--bus-partitions", "3", "--queue-max", "10000", "--decision-sample", "1", *options))
        return running[-1]

    yield start
    wrong = [w for w in (c.close() for c in running if c.program.handle.poll() is None) if w]
    assert not wrong, "\n".join(wrong)


def ask(corral, backend, n=1):
    """The ids of n requests that were answered."""
    ids = []
    for _ in range(n):
        status, headers, text = http(f"{corral.url}/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello"}]}, timeout=60)
        assert status == 200, text
        ids.append(headers["X-Request-Id"])
    return ids


def rows(folder):
    """{request id: [(attempt, status, completion tokens), ...]} of the ledger's own file."""
    out = {}
    with sqlite3.connect(f"file:{folder}/ledger.db?mode=ro", uri=True) as db:
        for request, attempt, status, tokens in db.execute("SELECT request_id, attempt, status, completion_tokens FROM usage"):
            out.setdefault(request, []).append((attempt, status, tokens))
    return out


def exact(folder, ids):
    """Each of them has one row that is finished, and nobody else has any."""
    got = rows(folder)
    wanted = {i.replace("-", "") for i in ids}
    if set(got) != wanted or any(r[1] == "open" for rs in got.values() for r in rs):
        return False
    assert all(len(r) == 1 and r[0][2] == 5 for r in got.values()), got
    return True


def ledger_of(corral):
    return corral.folder / "state/usage-tracker"


def metric(corral, name):
    """The sum of its series; NaN is none."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in corral.metrics().splitlines() if line.startswith((f"{name}{{", f"{name} ")))


class Load(threading.Thread):
    """Requests one after the other, some 50 a second, until stop()."""

    def __init__(self, corral, backend):
        super().__init__(daemon=True)
        self.corral, self.backend, self.ids, self.ending, self.wrong = corral, backend, [], False, None
        self.start()

    def run(self):
        try:
            while not self.ending:
                self.ids += ask(self.corral, self.backend)
                time.sleep(0.01)
        except Exception as e:                                   # pylint: disable=broad-except
            self.wrong = e

    def stop(self):
        self.ending = True
        self.join(60)
        assert self.wrong is None, self.wrong
        return self.ids


def corral_program(*words, **kw):
    binary = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
    return subprocess.run([binary, *words], capture_output=True, text=True, timeout=60, **kw)


def wakes(pid):
    """How often the library's threads of a process went to sleep so far."""
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)[1])
               for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().startswith("rdk:"))


def publish(broker, topic, *messages):
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap})
    for key, value in messages:
        producer.produce(topic, value=value, key=key)
    assert producer.flush(30) == 0


def everything_in(broker, prefix, enough):
    """All messages of all topics of that prefix, keys, values and headers, once 'enough' says that they are there."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap, "group.id": f"{prefix}all", "auto.offset.reset": "earliest"})
    def there():
        return [t for t in consumer.list_topics(timeout=WAIT).topics if t.startswith(prefix)]
    until(lambda: {f"{prefix}usage.v1", f"{prefix}decision.v1"} <= set(there()), WAIT)
    consumer.subscribe(there())
    said, end = b"", time.monotonic() + WAIT
    while not enough(said) and time.monotonic() < end:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            said += b"\n".join([message.topic().encode(), message.key() or b"", message.value() or b"", repr(message.headers()).encode()])
    consumer.close()
    return said


def told(broker, prefix, topic):
    """What 'corral events tail' has of a topic."""
    done = corral_program("events", "tail", topic, "--from-beginning", "--idle", "2", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix)
    return [json.loads(line) for line in done.stdout.splitlines()]


def once(events):
    """Of those with one id the first, which all others are equal to; the header says the id too."""
    out = {}
    for e in events:
        assert e["headers"]["event-id"] == e["event"]["event_id"]
        assert out.setdefault(e["event"]["event_id"], e)["event"] == e["event"]
    return list(out.values())


def traced(event):
    trace = event["event"]["trace"]
    assert re.fullmatch("[0-9a-f]{48}", trace) and event["headers"]["traceparent"] == f"00-{trace[:32]}-{trace[32:]}-01", event
    return trace


# --- tests ---

def test_facts_go_through_kafka(place, backend, broker, prefix):
    corral = place()
    ids = ask(corral, backend, 20)
    until(lambda: exact(ledger_of(corral), ids), WAIT)
    until(lambda: metric(corral, "corral_bus_produced_total") >= 40, WAIT)
    until(lambda: metric(corral, "corral_bus_read_total") >= 40, WAIT)          # a fact or two of each, and each decision
    assert metric(corral, "corral_bus_dead_total") == 0 and metric(corral, "corral_bus_redelivered_total") == 0
    until(lambda: "bus_lag_records" in corral.metrics() and metric(corral, "corral_bus_lag_records") == 0, WAIT)
    status, _, text = http(f"{corral.admin}/readyz")
    assert status == 200 and '"bus"' in text, text
    # what the selector read explains a decision
    until(lambda: http(f"{corral.url}/explain/{ids[0]}")[0] == 200, WAIT)
    # people read it too
    done = corral_program("events", "tail", "usage.v1", "--from-beginning", "--idle", "3", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {e["event"]["request_id"] for e in events} == set(ids)
    assert len(events) >= 20 and all(e["headers"]["schema"] == "corral.UsageEvent" and e["headers"]["event-id"] == e["event"]["event_id"] for e in events)
    # the request's trace and the gateway's span, as OpenTelemetry passes them on; a decision is of the same span as the usage
    traces = {e["event"]["request_id"]: traced(e) for e in events}
    done = corral_program("events", "tail", "decision.v1", "--from-beginning", "--idle", "3", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix)
    assert done.returncode == 0, done.stderr
    decisions = [json.loads(line) for line in done.stdout.splitlines()]
    assert {e["event"]["request_id"]: traced(e) for e in decisions} == traces


def test_what_becomes_of_experiments_goes_there_too(place, backend, broker, prefix):
    corral = place("--outcomes-every", "100ms")
    arms = [{"name": "plain", "model": "m"}, {"name": "warm", "model": "m", "parameters": {"temperature": 0.7}}]
    test = until(lambda: (made := corral.post("/tests", {"name": "how warm", "arms": arms, "tenant_filter": "default"}))[0] == 201 and made[2], WAIT)
    assert corral.post(f"/tests/{test['id']}/stop", {"reason": "seen enough"})[0] == 200
    events = until(lambda: len(got := told(broker, prefix, "experiments.v1")) >= 2 and got, WAIT)
    assert [(e["event"]["kind"], e["event"]["experiment_id"], e["key"]) for e in events] == [(kind, test["id"], "default") for kind in ("started", "stopped")]
    assert "seen enough" in events[1]["event"]["reason"]
    assert all(e["headers"]["schema"] == "corral.ExperimentEvent" and e["headers"]["event-id"] == e["event"]["event_id"] for e in events)


def test_every_entry_of_the_audit_log_goes_there(place, broker, prefix):
    corral = place()
    secrets = [until(lambda: (made := corral.post("/keys", {"name": name, "role": "developer"}))[0] == 201 and made[2]["secret"], WAIT)
               for name in ("one", "two")]
    corral.kill()                                                # at whatever point their telling was
    corral = place()
    secrets.append(until(lambda: (made := corral.post("/keys", {"name": "three", "role": "user"}))[0] == 201 and made[2]["secret"], WAIT))
    entries = corral.get("/audit?limit=1000")[2]["entries"]
    assert len(entries) >= 3
    events = until(lambda: len(got := once(told(broker, prefix, "audit.v1"))) >= len(entries) and got, WAIT)
    by_seq = {e["event"]["seq"]: e for e in events}
    assert len(by_seq) == len(events)
    for entry in entries:
        event = by_seq[entry["seq"]]
        assert event["headers"]["schema"] == "corral.AuditEvent" and event.get("key", "") == (entry["tenant"] or "")
        for field in ("actor", "role", "tenant", "address", "action", "object", "outcome", "detail", "request_id", "hash"):
            assert event["event"].get(field, "") == (entry[field] or ""), (field, event, entry)
    assert not [s for s in secrets if s in json.dumps(events)]
    assert metric(corral, "corral_bus_produced_total") >= 1 and "corral_bus_spool_bytes" in corral.metrics()


def said_of(corral, ids, rating):
    for request in ids:
        assert corral.post("/feedback", {"request_id": request, "rating": rating, "comment": "fine"})[0] == 202


def ratings(corral):
    with sqlite3.connect(f"file:{ledger_of(corral)}/ledger.db?mode=ro", uri=True) as db:
        return sorted(db.execute("SELECT lower(hex(request_id)), rating FROM feedback"))


def test_feedback_is_told_there_and_counted_once(place, backend, broker, prefix):
    corral = place()
    ids = ask(corral, backend, 4)
    said_of(corral, ids[:2], 4)
    corral.kill()                                                # at whatever point of its two ways
    corral = place()
    said_of(corral, ids[2:], 2)
    events = until(lambda: len(got := once(told(broker, prefix, "feedback.v1"))) >= 4 and got, WAIT)
    assert sorted((e["event"]["request_id"], e["event"]["rating"]) for e in events) == sorted(zip(ids, (4, 4, 2, 2)))
    assert all(e["headers"]["schema"] == "corral.FeedbackEvent" and e["key"] == e["event"]["tenant"] == "default" and e["event"]["comment"] == "fine" for e in events)
    wanted = sorted(zip([i.replace("-", "") for i in ids], (4, 4, 2, 2)))
    until(lambda: ratings(corral) == wanted, WAIT)
    assert 'corral_feedback_total{kind="replaced"}' not in corral.metrics() or metric(corral, 'corral_feedback_total{kind="replaced"') == 0


def test_events_wait_for_a_broker(place, backend, broker, prefix, tmp_path):
    corral = Corral(tmp_path, {"a": ("llamacpp", backend.url)}, "--bus", "kafka:127.0.0.1:1", "--bus-prefix", prefix)
    assert corral.post("/keys", {"name": "waits", "role": "user"})[0] == 201
    key = corral.get("/audit?action=keys.create")[2]["entries"][0]["object"]
    ids = ask(corral, backend, 1)
    said_of(corral, ids, 5)
    until(lambda: ratings(corral) == [(ids[0].replace("-", ""), 5)], WAIT)       # the ledger needs no broker for it
    corral.kill()
    corral = place()
    assert until(lambda: [e["event"]["rating"] for e in once(told(broker, prefix, "feedback.v1"))], WAIT) == [5]
    until(lambda: key in [e["event"].get("object") for e in told(broker, prefix, "audit.v1")], WAIT)
    assert ratings(corral) == [(ids[0].replace("-", ""), 5)]


def test_a_topic_that_is_missing_stops_no_other(place, backend, broker, prefix):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": broker.bootstrap})
    for made in admin.create_topics([confluent_kafka.admin.NewTopic(f"{prefix}{t}", 3, 1) for t in ("usage.v1", "decision.v1")]).values():
        made.result(WAIT)
    corral = place("--no-bus-create-topics")
    ids = ask(corral, backend, 2)
    said_of(corral, ids, 3)
    assert until(lambda: {e["event"]["request_id"] for e in told(broker, prefix, "usage.v1")} == set(ids), WAIT)
    for last in (False, False, True):                            # the machine may stand still in one
        until(lambda: f"{prefix}feedback.v1" in http(f"{corral.admin}/readyz")[2], WAIT)
        began = time.monotonic()
        assert corral.close() is None
        if time.monotonic() - began < 1.8:                       # the gateway waits 2 s for what can still go somewhere
            break
        assert not last
        corral = place("--no-bus-create-topics")
    place()
    assert len(until(lambda: len(got := once(told(broker, prefix, "feedback.v1"))) == 2 and got, WAIT)) == 2


def test_what_changes_in_the_catalogue_is_told(broker, prefix, tmp_path):
    server = Scripted(slots=4)
    options = ["--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix, "--bus-partitions", "2", "--residency-every", "200ms"]
    corral = Corral(tmp_path, {"a": ("llamacpp", server.url)}, *options)

    def kinds():
        events = once(told(broker, prefix, "catalogue.v1"))
        assert all(e["headers"]["schema"] == "corral.CatalogueEvent" and e["event"]["version"] and e["event"]["epoch"] for e in events)
        assert all(e["key"] == e["event"].get("model", e["event"].get("backend")) for e in events)
        return {(e["event"]["kind"], e["event"].get("model"), e["event"].get("backend")) for e in events}

    first = {("backend_up", None, "a"), ("model_appeared", "m", None), ("replica_loaded", "m", "a")}
    assert until(lambda: (seen := kinds()) >= first and seen, WAIT) == first
    corral.kill()
    server.close()
    corral = Corral(tmp_path, {"a": ("llamacpp", server.url)}, *options)
    assert until(lambda: (seen := kinds()) > first and seen, WAIT) == first | {("backend_down", None, "a")}      # and nothing that was told before
    assert "corral_bus_spool_bytes" in corral.metrics() and corral.close() is None


def test_a_broker_that_is_killed_loses_nothing(place, backend, broker):
    corral = place()
    load = Load(corral, backend)
    until(lambda: len(load.ids) > 20, WAIT)
    broker.kill()
    so_far = len(load.ids)
    until(lambda: len(load.ids) > so_far + 50, WAIT)             # nobody waits for it
    status, _, text = until(lambda: (r := http(f"{corral.admin}/readyz")) and "no broker" in r[2] and r, WAIT)
    assert status == 200
    before = wakes(corral.program.handle.pid)
    time.sleep(3)
    assert wakes(corral.program.handle.pid) - before < 6000      # they try again with a back-off; it was a hundred thousand
    broker.start()
    so_far = len(load.ids)
    until(lambda: len(load.ids) > so_far + 20, WAIT)
    ids = load.stop()
    until(lambda: exact(ledger_of(corral), ids), WAIT)


def test_a_corral_that_is_killed_loses_nothing(place, backend):
    corral, ids = place(), []
    for _ in range(2):
        ids += ask(corral, backend, 15)
        corral.kill()
        corral = place()
        ids += ask(corral, backend, 5)
    until(lambda: exact(ledger_of(corral), ids), WAIT)


def test_a_usage_tracker_that_is_killed_counts_each_once(broker, backend, prefix, tmp_path):
    apart = Apart(tmp_path, "ipc", ["--backends", f"a=llamacpp+{backend.url}", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix,
                                    "--bus-partitions", "3"])
    apart.start()
    try:
        corral = type("Front", (), {"url": "http://%s:%d" % apart.addresses["gateway"]})
        load = Load(corral, backend)
        for _ in range(3):
            so_far = len(load.ids)
            until(lambda: len(load.ids) > so_far + 40, WAIT)
            apart["usage-tracker"].kill()
            apart.start(["usage-tracker"])
        ids = load.stop()
        folder = next(tmp_path.rglob("ledger.db")).parent
        until(lambda: exact(folder, ids), WAIT)
    finally:
        wrong = apart.stop()
    assert not wrong, wrong


def test_what_cannot_be_understood_is_kept(place, backend, broker, prefix):
    corral = place()
    ids = ask(corral, backend, 3)
    until(lambda: exact(ledger_of(corral), ids), WAIT)
    publish(broker, f"{prefix}usage.v1", ("t", b"\xff\xffno event"), ("t", b""))
    publish(broker, f"{prefix}decision.v1", ("t", b"\xff\xffno decision"))
    ids += ask(corral, backend, 3)
    until(lambda: exact(ledger_of(corral), ids), WAIT)
    until(lambda: metric(corral, "corral_bus_dead_total") == 3, WAIT)
    with sqlite3.connect(f"file:{ledger_of(corral)}/ledger.db?mode=ro", uri=True) as db:
        found = db.execute("SELECT topic, reason, bytes, message_key FROM kafka_dead ORDER BY bytes").fetchall()
    assert [(t, b, k) for t, _, b, k in found] == [("usage.v1", b"", b"t"), ("usage.v1", b"\xff\xffno event", b"t")]
    assert all(reason for _, reason, _, _ in found)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": broker.bootstrap, "group.id": f"{prefix}look", "auto.offset.reset": "earliest"})
    consumer.subscribe([f"{prefix}usage.v1.dead", f"{prefix}decision.v1.dead"])
    dead, end = [], time.monotonic() + WAIT
    while len(dead) < 3 and time.monotonic() < end:
        message = consumer.poll(0.2)
        if message is not None and not message.error():        # one without a value is false
            dead.append((message.topic().removeprefix(prefix), message.value() or b"", bool(dict(message.headers())["reason"])))
    consumer.close()
    assert sorted(dead) == [("decision.v1.dead", b"\xff\xffno decision", True), ("usage.v1.dead", b"", True), ("usage.v1.dead", b"\xff\xffno event", True)]


def test_outcomes_of_tasks_are_feedback(place, backend, broker, prefix):
    corral = place()
    ids = ask(corral, backend, 2)
    until(lambda: exact(ledger_of(corral), ids), WAIT)
    said = {"task_id": "t-1", "request_id": ids[0], "success": False, "tests_passed": 3, "tests_total": 7, "duration_ms": 12, "rating": 2}
    publish(broker, f"{prefix}task-completed.v1", ("default", json.dumps(said).encode()), ("default", b'{"task_id":"t-2","request_id":"nonsense"}'))

    def feedback():
        with sqlite3.connect(f"file:{ledger_of(corral)}/ledger.db?mode=ro", uri=True) as db:
            return db.execute("SELECT lower(hex(request_id)), author, tenant, success, tests_passed, tests_total, rating FROM feedback").fetchall()

    assert until(feedback, WAIT) == [(ids[0].replace("-", ""), "task:t-1", "default", 0, 3, 7, 2)]
    until(lambda: metric(corral, "corral_bus_dead_total") == 1, WAIT)
    pretty = {"task_id": "t-3", "request_id": ids[1], "success": True}
    publish(broker, f"{prefix}task-completed.v1", ("default", b"\n " + json.dumps(pretty, indent=2).encode() + b"\n"))
    until(lambda: (ids[1].replace("-", ""), "task:t-3", "default", 1, None, None, None) in feedback(), WAIT)
    tail = corral_program("events", "tail", "task-completed.v1", "--from-beginning", "--idle", "3", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix)
    shown = [json.loads(line)["json"] for line in tail.stdout.splitlines()]      # one object a line, however it was written
    assert said in shown and pretty in shown and len(shown) == 3


def test_topics_that_may_not_be_made_are_named(place, backend, prefix):
    corral = place("--no-bus-create-topics")
    ids = ask(corral, backend, 3)
    def needs():
        return " ".join(n["text"] for n in json.loads(http(f"{corral.admin}/readyz")[2])["needs"] if n["need"] == "bus")
    missing = [f"{prefix}{t}" for t in ("usage.v1", "decision.v1", "task-completed.v1", "experiments.v1", "audit.v1", "feedback.v1", "catalogue.v1")]
    text = until(lambda: all(t in needs() for t in missing) and needs(), WAIT)
    together = [set(names.split(", ")) for names in re.findall(r"these topics are not there: ([^;]*); make", text)]
    assert {missing[0], missing[1], missing[5]} in together and "make it, or allow it with bus_create_topics" in text, text
    told = until(lambda: (t := corral.logs()) and f"{missing[0]}.dead, {missing[2]}.dead; make them" in t and t, WAIT)
    lines = [line for line in told.splitlines() if "Kafka cannot be used" in line]
    assert all(any(t in line for line in lines) for t in missing) and len(lines) < 20, lines
    assert corral.close() is None
    corral = place()                                             # now it may
    until(lambda: exact(ledger_of(corral), ids), WAIT)


@pytest.mark.parametrize("mechanism", ["scram-sha-256", "plain"])
def test_brokers_are_known_and_know_us(place, backend, broker, tmp_path, mechanism):
    (tmp_path / "password").write_text("secret\n")
    secure = ["--bus", f"kafka:{broker.secure}", "--bus-tls", f"--bus-tls-ca={broker.tls}/ca.pem", f"--bus-sasl-mechanism={mechanism}", "--bus-user=corral",
              f"--bus-password-file={tmp_path}/password"]
    corral = place(*secure)
    if "cannot speak SCRAM" in corral.logs():
        pytest.skip("this librdkafka is too old for SCRAM with Kafka 4, and said so")
    ids = ask(corral, backend, 3)
    until(lambda: exact(ledger_of(corral), ids), WAIT)
    assert corral.close() is None
    # who is not known comes not in, and is told so; nothing is lost by it
    (tmp_path / "password").write_text("guessed\n")
    corral = place(*secure)
    ids += ask(corral, backend, 2)
    until(lambda: "the brokers refuse us" in http(f"{corral.admin}/readyz")[2], WAIT)
    until(lambda: "Kafka cannot be used" in corral.logs() and "the brokers refuse us" in corral.logs(), WAIT)
    assert corral.close() is None
    told = corral_program("events", "tail", "usage.v1", "--idle", "1", env={**os.environ, **{
        "CORRAL_" + o[2:].partition("=")[0].upper().replace("-", "_"): o.partition("=")[2] or "yes" for o in secure if "=" in o or o == "--bus-tls"},
        "CORRAL_BUS": f"kafka:{broker.secure}"})
    assert told.returncode == 1 and "the brokers refuse us" in told.stderr, told
    told = corral_program("events", "tail", "usage.v1", "--idle", "1", "--bus", "kafka:127.0.0.1:1")
    assert told.returncode == 1 and "no broker of 127.0.0.1:1 answers" in told.stderr, told
    # nor is a broker believed that another authority vouches for
    (tmp_path / "password").write_text("secret\n")
    subprocess.run([ROOT / "scripts/certs", tmp_path / "other", "gateway"], check=True, capture_output=True)
    corral = place(*[o.replace(str(broker.tls), str(tmp_path / "other")) for o in secure])
    until(lambda: "the brokers refuse us" in http(f"{corral.admin}/readyz")[2], WAIT)
    assert corral.close() is None
    corral = place(*secure)
    until(lambda: exact(ledger_of(corral), ids), WAIT)


def of_the_spool(folder, topic):
    done = corral_program("events", "tail", topic, "--from-beginning", "--idle", "1", "--state-dir", str(folder / "state"))
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["event"] for line in done.stdout.splitlines()]


def test_events_of_the_local_bus(backend, tmp_path):
    corral = Corral(tmp_path, {"a": ("llamacpp", backend.url)})
    ids = ask(corral, backend, 5)
    events = of_the_spool(tmp_path, "usage.v1")
    assert {e["request_id"] for e in events} == set(ids) and any(e.get("completion_tokens") == 5 for e in events)
    said_of(corral, ids[:1], 4)
    assert [(e["request_id"], e["rating"]) for e in of_the_spool(tmp_path, "feedback.v1")] == [(ids[0], 4)]
    # what is in memory at a server that has just come up may be known a look later, and a server that is slow to answer is told of too
    until(lambda: {e["kind"] for e in of_the_spool(tmp_path, "catalogue.v1")} >= {"backend_up", "model_appeared", "replica_loaded"})
    assert {e.get("backend", "a") for e in of_the_spool(tmp_path, "catalogue.v1")} == {"a"}
    assert corral.post("/keys", {"name": "one", "role": "user"})[0] == 201
    entries = corral.get("/audit")[2]["entries"]
    until(lambda: [(e["seq"], e["action"]) for e in of_the_spool(tmp_path, "audit.v1")] == [(e["seq"], e["action"]) for e in entries])
    refused = corral_program("events", "tail", "task-completed.v1", "--idle", "1", "--state-dir", str(tmp_path / "state"))
    assert refused.returncode == 1 and "needs a bus=kafka:" in refused.stderr
    assert corral.close() is None


def test_the_broker_of_the_compose_file(broker, tmp_path):
    """Its settings, which the image makes properties of, on a broker without a container: other ports and another folder."""
    said = (ROOT / "docker-compose.servers.yml").read_text().partition("\n  kafka:\n")[2]
    settings = dict(re.findall(r"^      KAFKA_(\w+): (.*?)(?: +#.*)?$", said, re.M))
    assert settings.pop("HEAP_OPTS") and len(settings) > 10, settings
    places = {"kafka:9092": "127.0.0.1:{port}", "://:9092": "://127.0.0.1:{port}", "9093": "{controller}", "/var/lib/kafka": "{folder}"}
    text = "".join(f"{name.lower().replace('_', '.')}={value}\n" for name, value in settings.items())
    for there, here in places.items():
        assert there in text, there
        text = text.replace(there, here)
    made, failed = Kafka(tmp_path / "broker", broker.jars, settings=text), []
    try:
        made.start()
        producer = confluent_kafka.Producer({"bootstrap.servers": made.bootstrap, "acks": "all", "enable.idempotence": True})
        producer.produce("corral.usage.v1", b"x", on_delivery=lambda error, _: failed.append(error))
        assert producer.flush(WAIT) == 0 and failed == [None], (failed, made.tail())
    finally:
        made.kill()


def test_no_canary_is_in_a_topic(broker, prefix, tmp_path):
    """The facts of requests that ended in every way: names and figures, no key and nothing that anybody said."""
    with providers.Fake(script=["answer 3"], keys={canaries.PROVIDER_KEY}) as fake:
        options = canaries.options(canaries.write_config(tmp_path, fake))
        corral = Corral(tmp_path, None, *options, "--cache=off", "--bus", f"kafka:{broker.bootstrap}", "--bus-prefix", prefix, "--bus-partitions", "1")
        try:
            until(lambda: all(p["state"] == "ready" for p in corral.get("/providers")[2]["providers"]))
            secret = corral.post("/keys", {"name": "bird", "role": "developer"})[2]["secret"]
            body, head = {"messages": [{"role": "user", "content": "do: answer 1"}], "max_tokens": 9}, {"Authorization": f"Bearer {secret}"}
            for name in canaries.KINDS:
                until(lambda: http(corral.url + "/v1/chat/completions", {"model": f"{name}/m", **body}, "POST", headers=head)[0] == 200)
            for name in canaries.KINDS:
                canaries.asks(http, corral.url, name, secret)
            n = len(canaries.KINDS) * len(canaries.FAULTS)
            topics = everything_in(broker, prefix, lambda said: min(said.count(b"usage.v1"), said.count(b"decision.v1")) >= n)
        finally:
            corral.close()
    assert b"usage.v1" in topics and b"decision.v1" in topics and canaries.found({"topics": topics}, [canaries.PLANTED])
    assert canaries.found({"topics": topics}, (canaries.PROVIDER_KEY, secret, canaries.PROMPT, canaries.SYSTEM)) == []
