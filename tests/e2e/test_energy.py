"""Joules of requests: a machine whose processor counts its energy in a tree of its own, from there through hardware-probe,
registry and gateway to /usage, prices and savings.

The counter is written every 20 ms for the power that the test wants; it begins shortly before it goes round. Attempts are held
against the power over their own GPU time, and all together against the counter, which they may exceed only by the lag in which a
change of power arrives. Over some seconds both are within 15 %; nearer without others on the processors."""
import concurrent.futures
import csv
import io
import json
import os
import subprocess
import threading
import time

import pytest

from servers import ROOT, Corral, Program, free_port, http, until
from test_runs import Backend, Scripted

PROGRAM = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
RANGE = 262143328850
KWH = 123_456_789_000                                            # dear, so that a joule is worth micro-dollars: 34.3 a millijoule
TOLERANCE = 0.15                                                 # a writer that waits for its turn makes one look too little and the next too much
ASK = {"model": "m", "messages": [{"role": "user", "content": "do: answer 2 wait=50ms"}]}


class Processor:
    """/sys/class/powercap of a machine that draws 'watts'."""

    def __init__(self, root, watts):
        self.root, self.watts, self.joules = root, watts, 0.0
        self.zone = root / "sys/class/powercap/intel-rapl:0"
        self.zone.mkdir(parents=True)
        (self.zone / "name").write_text("package-0\n")
        (self.zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.count)
        self.thread.start()

    def count(self):
        last = time.monotonic()
        while True:
            now = time.monotonic()
            self.joules += self.watts * (now - last)
            last = now
            new = self.zone / "new"                              # whole, or not there
            new.write_text(f"{(RANGE - 300_000_000 + int(self.joules * 1e6)) % RANGE}\n")
            new.replace(self.zone / "energy_uj")
            if self.over.wait(0.02):
                return

    def close(self):
        self.over.set()
        self.thread.join()


@pytest.fixture
def house(tmp_path):
    """house(backends, *options): a Corral on a machine that draws 100 W."""
    made, processor = [], Processor(tmp_path / "machine", 100)

    def start(slots, *options):
        servers = {name: Scripted(Backend(name, "llamacpp", {"m": {}}, slots=n)) for name, n in slots.items()}
        made.extend(servers.values())
        corral = Corral(tmp_path / "corral", {name: ("llamacpp", s.url) for name, s in servers.items()}, "--log-format", "json", "--nvml-library=off",
                        f"--hardware-root={processor.root}", "--power-every=500ms", *options)
        made.append(corral)
        return corral, servers

    (tmp_path / "corral").mkdir()
    start.processor = processor
    yield start
    processor.close()
    for one in reversed(made):
        assert not one.close()


def ask(corral, wait):
    body = {**ASK, "messages": [{"role": "user", "content": f"do: answer 2 wait={wait}"}]}
    status, head, text = http(corral.url + "/v1/chat/completions", body, timeout=60)
    assert status == 200, text
    return head["X-Request-Id"], int(head["X-Corral-Cost-Microusd"])


def attempt(corral, request_id):
    def look():
        status, _, said = corral.get(f"/requests/{request_id}")
        return status == 200 and not said["attempts"][-1]["open"] and said["attempts"][-1]
    return until(look)


def answers(corral, n, wait):
    """So many at once: their ids, each with the cost that its client was told."""
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda _: ask(corral, wait), range(n)))


def attempts(corral, told):
    return [{**attempt(corral, i), "told": cost} for i, cost in told]


def asks(corral, n, wait):
    return attempts(corral, answers(corral, n, wait))


def asks_and_draws(house, corral, n, wait):
    """The attempts, and what the machine drew until the answers were there: not while the ledger is waited for."""
    before = house.processor.joules
    told = answers(corral, n, wait)
    drawn = house.processor.joules - before
    return attempts(corral, told), drawn


def knows_power(corral):
    """The model's slots have their part of it: some seconds after the start."""
    until(lambda: attempt(corral, ask(corral, "100ms")[0])["energy_mj"] > 0, 60)


def joules(attempts):
    return sum(a["energy_mj"] for a in attempts) / 1e3


def gpu_s(attempts):
    return sum(a["gpu_us"] for a in attempts) / 1e6


def close_to(got, wanted, part):
    assert abs(got - wanted) <= wanted * part, (got, wanted)


def test_joules_are_power_and_time(house):
    corral, _ = house({"a": 4})
    watts = lambda: corral.get("/hardware")[2]["power_watts"]
    until(lambda: watts() and abs(watts() - 100) < 20)
    machine = corral.get("/hardware")[2]
    assert machine["power_source"] == "rapl" and machine["power_limit_watts"] is None
    shown = subprocess.run([PROGRAM, "hardware"], env={**os.environ, "CORRAL_URL": corral.url}, capture_output=True, text=True, timeout=30).stdout
    assert "W (rapl)" in shown
    assert 'corral_machine_power_watts{source="rapl"}' in corral.metrics()
    knows_power(corral)
    # all four slots: everything that it draws; one of four: a quarter
    four, drawn = asks_and_draws(house, corral, 4, "3s")
    close_to(joules(four), 100 * gpu_s(four), TOLERANCE)
    assert 0.85 * 300 <= joules(four) <= (1 + TOLERANCE) * drawn, (joules(four), drawn)
    one = asks(corral, 1, "3s")
    close_to(joules(one), 100 * gpu_s(one), TOLERANCE)
    close_to(joules(one), 75, 0.2)
    # the power changes under way; what is attributed lags: by a turn of the probe, one of the registry, and that of the lease
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(asks_and_draws, house, corral, 4, "5s")
        time.sleep(2.5)
        house.processor.watts = 300
        changing, drawn = running.result()
    assert (1 - TOLERANCE) * drawn - 200 * 1.25 <= joules(changing) <= (1 + TOLERANCE) * drawn, (joules(changing), drawn)


def test_a_price_of_energy_ends_in_cost(house):
    corral, _ = house({"a": 2})
    for price in ({"backend": "a", "gpu_hour_microusd": 0, "kwh_microusd": KWH}, {"model": "large", "input_microusd": 10 ** 12, "output_microusd": 0}):
        status, _, text = http(corral.url + "/prices", price, "PUT")
        assert status == 201, text
    until(lambda: "corral_prices 2" in corral.metrics())
    knows_power(corral)
    for a in asks(corral, 2, "1s"):
        assert a["energy_mj"] > 25_000                           # of 50,000: one look may be late
        assert a["cost_microusd"] == a["told"] == (a["energy_mj"] * KWH * 2 + 3_600_000_000) // 7_200_000_000     # half up, to the micro-dollar
    usage = corral.get("/usage?group_by=backend")[2]["totals"]
    assert usage["energy_j"] > 50 and usage["cost_microusd"] > 2 * 25_000 * 34
    row = next(csv.DictReader(io.StringIO(http(corral.url + "/usage?group_by=backend&format=csv")[2])))
    assert abs(float(row["energy_j"]) - usage["energy_j"]) < 0.0015
    saved = corral.get("/savings?against=large")[2]
    assert abs(saved["energy_j"] - usage["energy_j"]) < 0.0015 and saved["infrastructure_microusd"] == usage["cost_microusd"]
    counted = [line for line in corral.metrics().splitlines() if line.startswith("corral_energy_joules_total{")]
    assert abs(sum(float(line.split()[-1]) for line in counted) - usage["energy_j"]) < 0.01


def test_backends_of_a_machine_never_use_more_than_it_draws(house):
    corral, servers = house({"a": 1, "b": 1})
    knows_power(corral)
    time.sleep(0.5)
    both, drawn = asks_and_draws(house, corral, 2, "3s")
    assert {a["backend"] for a in both} == {"a", "b"}
    assert 0.8 * drawn <= joules(both) <= (1 + TOLERANCE) * drawn, (joules(both), drawn)
    for a in both:
        close_to(a["energy_mj"] / 1e3, a["gpu_us"] / 1e6 * 100 / 2, TOLERANCE)


def test_the_probe_of_another_machine(house, tmp_path):
    """Backend a is looked at by a probe that the option names, and whose machine draws 400 W; of b it is said that nobody does."""
    far = Processor(tmp_path / "far", 400)
    admin = f"127.0.0.1:{free_port()}"
    look = lambda: Program("hardware-probe", [str(ROOT / os.environ.get("BUILD", "build") / "bin/hardware-probe"), f"--rpc-listen=ipc://{tmp_path}/probe", f"--admin-listen={admin}",
                                              f"--hardware-root={far.root}", "--nvml-library=off", "--power-every=500ms", f"--state-dir={tmp_path}/far-state"],
                           tmp_path / "probe.log", f"http://{admin}/readyz")
    probe = look()
    try:
        corral, servers = house({"a": 1, "b": 1}, f"--hardware=a=ipc://{tmp_path}/probe,b=none")
        servers["b"].now("status 500")
        until(lambda: (a := attempt(corral, ask(corral, "100ms")[0]))["backend"] == "a" and a["energy_mj"] > 0, 60)
        one = asks(corral, 1, "4s")
        close_to(joules(one), 400 * gpu_s(one), TOLERANCE)
        assert probe.stop() == 0                                 # what is not heard of any more is not known, after some seconds
        until(lambda: joules(asks(corral, 1, "100ms")) == 0)
        until(lambda: "a hardware-probe does not answer" in corral.logs())
        time.sleep(2)
        assert corral.logs().count("a hardware-probe does not answer") == 1
        probe = look()                                           # found again, and told of once
        until(lambda: "a hardware-probe answers again" in corral.logs(), 60)
        until(lambda: joules(asks(corral, 1, "100ms")) > 0, 60)
    finally:
        assert probe.stop() == 0
        far.close()


def test_nobody_tells_it(house, tmp_path):
    corral, _ = house({"a": 1}, "--hardware=a=none")
    until(lambda: corral.get("/hardware")[2]["power_watts"])
    time.sleep(4)
    assert joules(asks(corral, 1, "300ms")) == 0
    assert corral.get("/usage")[2]["totals"]["energy_j"] == 0
