#!/usr/bin/env python3
"""Slots by lease: two gateways of two workers before one llama.cpp of two slots, 50 clients of two tenants; nothing may queue inside llama.cpp.

    tests/proofs/slots.py [--seconds N] [--seed N]

With the load going on all the time: both gateways, with the tenants' clients spread over them in several uneven ways; one gateway is killed
(-9) and its slots have to come to the other within 2 s; it comes back; the registry is killed and nobody may notice; the registry comes
back. llama.cpp is asked for requests_deferred all the time, the gateways for the slots they use. It ends with 1 when anything was deferred,
a request failed that should not, a slot was lost, or one tenant got a tenth more answers or tokens than the other in any spread: all
answers of the measured time count, --seconds for each spread. Skipped where llama.cpp cannot be had.
"""
import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import os
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "fakes"), str(HERE.parents[1] / "e2e")]
from client import Client                                        # noqa: E402
from servers import free_port, script, start_llama               # noqa: E402

BIN = Path(os.environ.get("BUILD", "build")) / "bin"
SLOTS, TENANTS = 2, ("north", "south")
SPREADS = {                               # clients of each tenant at each gateway
    "40:10 at each, the other way round": ((40, 10), (10, 40)),
    "40:10 at each, the same way": ((40, 10), (40, 10)),
    "one tenant at both, the other's few at one": ((20, 5), (25, 0)),
    "each tenant at a gateway of its own, 45 and 5": ((45, 0), (0, 5)),
}
CLIENTS = 50
for spread in SPREADS.values():           # those of 100 are halved
    assert sum(map(sum, spread)) in (CLIENTS, 2 * CLIENTS)


class Process:
    """One program of the arrangement; it can be killed and started again with the same options."""

    def __init__(self, folder, name, program, *options):
        self.log = Path(folder) / f"{name}.log"
        self.argv = [str(BIN / program), "--state-dir", str(Path(folder) / name), "--log-format", "json", *options]
        self.handle = None

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}
        self.handle = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, env=env)

    def kill(self):
        self.handle.kill()
        self.handle.wait()

    def stop(self):
        self.handle.send_signal(signal.SIGTERM)
        try:
            return self.handle.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9


class Watch(threading.Thread):
    """Asks llama.cpp again and again; keeps the highest figures and how often both slots were busy."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.going = url + "/metrics", True
        self.asked = self.deferred = self.processing = self.full = 0

    def run(self):
        while self.going:
            with urllib.request.urlopen(self.url, timeout=30) as answer:
                text = answer.read().decode()
            value = {k: float(v) for k, v in re.findall(r"^llamacpp:(requests_\w+) (\S+)$", text, re.M)}
            self.asked += 1
            self.deferred = max(self.deferred, value["requests_deferred"])
            self.processing = max(self.processing, value["requests_processing"])
            self.full += value["requests_processing"] >= SLOTS
            time.sleep(0.002)


async def in_use(address):
    client = await Client(address, "GET", "/backends").start().wait(10)
    return sum(m["in_use"] for b in json.loads(client.data)["backends"] for m in b["models"])


class Load:
    """Clients that ask again as soon as they were answered; where each is and whose is said by spread()."""

    def __init__(self, addresses, seed, keys):
        self.addresses, self.random, self.keys = addresses, random.Random(seed), keys
        self.done, self.failed, self.dead = [0, 0], [], set()     # by gateway
        self.answers, self.tokens = [0, 0], [0, 0]                # by tenant
        self.going, self.tasks, self.places = True, [], []

    def spread(self, name):
        halve = sum(map(sum, SPREADS[name])) // CLIENTS
        self.places = [(g, t) for g, at in enumerate(SPREADS[name]) for t, n in enumerate(at) for _ in range(n // halve)]

    async def client(self, k):
        while self.going:
            i, tenant = self.places[k]
            if i in self.dead:
                await asyncio.sleep(0.02)
                continue
            body = {"model": "corral-tiny", "stream": self.random.random() < 0.5, "max_tokens": self.random.randint(2, 40),
                    "messages": [{"role": "user", "content": f"count to {self.random.randint(2, 50)}"}]}
            asked = Client(self.addresses[i], "POST", "/v1/chat/completions", body, [f"Authorization: Bearer {self.keys[tenant]}"]).start()
            await asked.done.wait()
            if asked.complete and asked.status == 200:
                self.done[i] += 1
                self.answers[tenant] += 1
                self.tokens[tenant] += body["max_tokens"]
            elif i not in self.dead:
                self.failed.append(f"gateway {i}: status {asked.status}, {asked.broken}, {asked.data[:200]!r}")
                await asyncio.sleep(0.05)

    def start(self):
        self.tasks = [asyncio.ensure_future(self.client(k)) for k in range(CLIENTS)]

    async def stop(self):
        self.going = False
        await asyncio.wait(self.tasks, timeout=60)


async def ready(address, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked = await Client(address, "GET", "/v1/models").start().wait(5)
        if asked.status == 200 and b"corral-tiny" in asked.data:
            return
        await asyncio.sleep(0.02)
    raise SystemExit("a gateway did not get ready")


async def call(address, method, path, body, headers=()):
    return await Client(address, method, path, body, headers).start().wait(10)


async def make_keys(addresses):
    """One for each tenant, known to both gateways."""
    keys = []
    for tenant in TENANTS:
        end = time.monotonic() + 20
        while (await call(addresses[0], "PUT", f"/tenants/{tenant}", {})).status not in (200, 201):
            assert time.monotonic() < end, "no tenant could be made"
            await asyncio.sleep(0.05)
        keys.append(json.loads((await call(addresses[0], "POST", "/keys", {"name": tenant, "tenant": tenant, "role": "user"})).data)["secret"])
        for address in addresses:
            while (await call(address, "GET", "/v1/models", None, [f"Authorization: Bearer {keys[-1]}"])).status != 200:
                assert time.monotonic() < end, "a gateway does not know a key"
                await asyncio.sleep(0.05)
    return keys


async def compare(load, name, seconds, judge):
    """What each tenant got in that time; the sentence that says what is wrong with it, or None."""
    load.spread(name)
    await asyncio.sleep(3)                    # until those who were asked before have been answered, and the slots lie where they are due
    answers, tokens = list(load.answers), list(load.tokens)
    await asyncio.sleep(seconds)
    answers, tokens = ([now - was for now, was in zip(*pair)] for pair in ((load.answers, answers), (load.tokens, tokens)))
    off = max(1 - min(got) / max(1, max(got)) for got in (answers, tokens))
    print(f"  {name}: {answers[0]} and {answers[1]} answers, {tokens[0]} and {tokens[1]} tokens in {seconds} s; {100 * off:.1f} % apart", flush=True)
    return f"{name}: the tenants are {100 * off:.1f} % apart" if judge and off > 0.1 else None


async def until_in_use(address, n, seconds):
    """Milliseconds until a gateway uses n slots; None when it does not within the time."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if await in_use(address) >= n:
            return (time.monotonic() - began) * 1000
        await asyncio.sleep(0.005)
    return None


def rpc_port():
    port = free_port()
    while port > 65000:
        port = free_port()
    return port


def arrange(folder, llama):
    rpc, keys = rpc_port(), rpc_port()
    registry = Process(folder, "registry", "model-registry", "--rpc-listen", f"tcp://127.0.0.1:{rpc}", "--admin-listen", f"127.0.0.1:{free_port()}",
                       "--backends", f"l=llamacpp+{llama.url}")
    access = Process(folder, "access", "access", "--rpc-listen", f"tcp://127.0.0.1:{keys}", "--admin-listen", f"127.0.0.1:{free_port()}")
    addresses = [("127.0.0.1", free_port()) for _ in range(2)]
    gateways = [Process(folder, f"gateway{i}", "gateway", "--workers", "2", "--listen", "%s:%d" % a, "--admin-listen", f"127.0.0.1:{free_port()}",
                        "--peer", f"model-registry=tcp://127.0.0.1:{rpc}", "--peer", f"access=tcp://127.0.0.1:{keys}", "--queue-timeout", "5m",
                        "--access-log", "errors")
                for i, a in enumerate(addresses)]
    return registry, access, gateways, addresses


async def parts(registry, access, gateways, addresses, seconds, seed, problems, slice, restarts):
    for p in (registry, access, *gateways):
        p.start()
    for a in addresses:
        await ready(a)
    load = Load(addresses, seed, await make_keys(addresses))
    load.spread(next(iter(SPREADS)))
    load.start()
    for name in list(SPREADS)[2:3] if slice else SPREADS:
        problems += filter(None, [await compare(load, name, seconds, not slice)])
    load.spread(next(iter(SPREADS)))

    load.dead.add(0)
    gateways[0].kill()
    took = await until_in_use(addresses[1], SLOTS, 10)
    print(f"  after kill -9 of one: the other has all {SLOTS} slots after {took and round(took)} ms")
    if took is None or (took > 2000 and not slice):
        problems.append("the slots of a killed gateway did not come back within 2 s")
    gateways[0].start()
    await ready(addresses[0])
    load.dead.clear()
    took = await until_in_use(addresses[0], 1, 20)
    print(f"  started again: it has a slot after {took and round(took)} ms")
    if took is None:
        problems.append("a gateway that came back got no slot")

    for n in range(restarts):
        before = sum(load.done)
        registry.kill()
        await asyncio.sleep(max(4, seconds / 2) if n == 0 else 2.5)
        print(f"  registry killed: {sum(load.done) - before} answers without it")
        if sum(load.done) == before:
            problems.append("nothing was answered while the registry was away")
        before = list(load.done)
        registry.start()
        await asyncio.sleep(max(4, seconds / 2) if n == 0 else 2.5)
        print(f"  registry back: {load.done[0] - before[0]} and {load.done[1] - before[1]} answers")
        if not all(now > was for now, was in zip(load.done, before)):
            problems.append("a gateway answered nothing after the registry came back")

    await load.stop()
    for i, address in enumerate(addresses):
        if await in_use(address):
            problems.append(f"gateway {i} counts slots in use though nothing runs")
    load.addresses = addresses
    print(f"  {sum(load.done)} answers in all, {len(load.failed)} failed")
    problems += load.failed[:5]


async def prove(options):
    engine, reason = script("get-llama")
    if not engine:
        print(f"skipped: no llama.cpp: {reason}")
        return 0
    model, reason = script("get-model")
    if not model:
        print(f"no model: {reason}")
        return 1
    problems = []
    with tempfile.TemporaryDirectory(prefix="corral-slots-") as folder:
        llama = start_llama(folder, engine, model, slots=SLOTS, context=4096)
        watch = Watch(llama.url)
        registry, access, gateways, addresses = arrange(folder, llama)
        all_of_them = (*gateways, registry, access)
        try:
            watch.start()
            await parts(registry, access, gateways, addresses, options.seconds, options.seed, problems, options.slice, options.restarts)
        finally:
            watch.going = False
            for p in all_of_them:
                if p.handle and p.handle.poll() is None and p.stop() != 0:
                    problems.append(f"{p.log.name}: it did not end well")
            llama.stop()
        print(f"  llama.cpp, asked {watch.asked} times: at most {watch.deferred:.0f} deferred, {watch.processing:.0f} processing; "
              f"all slots busy {100 * watch.full / max(1, watch.asked):.0f} % of the time")
        if watch.deferred > 0 or watch.asked < 100:
            problems.append("requests were deferred inside llama.cpp, or it was not asked often enough")
        for p in all_of_them:
            if re.search(r"Sanitizer|runtime error:", p.log.read_text(errors="replace")):
                problems.append(f"{p.log.name}: a sanitizer's report")
        if problems:
            for p in all_of_them:
                print(f"--- {p.log.name}\n" + "\n".join(p.log.read_text(errors="replace").splitlines()[-15:]))
    for p in problems:
        print(f"  wrong: {p}")
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for each spread of the clients")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--restarts", type=int, default=1, help="of the registry")
    parser.add_argument("--slice", action="store_true", help="for scripts/test: what depends on how busy the machine is is shown and not judged")
    print(f"two gateways, two workers each, {CLIENTS} clients of two tenants, one llama.cpp of {SLOTS} slots:", flush=True)
    return asyncio.run(prove(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
