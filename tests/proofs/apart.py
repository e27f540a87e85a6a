#!/usr/bin/env python3
"""The services apart: each control-plane process is killed, stopped and restarted under load, and no request fails for it.

    tests/proofs/apart.py [--rate N] [--wire ipc|tcp|tls] [--decide local|remote] [--rounds N] [--slice] [--seed N]

Six kinds of processes over the wire named, two scripted backends, and clients that come N times a second (200) whether the ones before are
answered or not; every second answer is a stream. Under it, for each of model-registry, selector, usage-tracker, access and hardware-probe:

    kill -9, started again a second later        SIGSTOP for 5 s        SIGTERM, started again

Every request has to be answered with 200 and to its end. At the end the ledger has one row for each, and no more.

Then (over tcp) a second gateway, whose lines to all others run through proxies, is cut off while a key is revoked, a key is made and a
model appears: it goes on serving, and all three are in force at most 2 s after the lines are whole again. The same after SIGSTOP. Where the lines
swallow what is sent and never close, new connections are made after a while: at most 20 s.
"""
import argparse
import asyncio
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from apart import Apart, Service, free_port                       # noqa: E402
from client import Client                                         # noqa: E402
from scripted import Backend                                      # noqa: E402

VICTIMS = ("model-registry", "selector", "usage-tracker", "access", "hardware-probe")
TROUBLES = ("kill", "stop", "restart")
STOP_S, IN_FORCE_S, DEAF_S = 5, 2, 20


class Load:
    """Requests at a rate, at one gateway; what failed, and how long each took."""

    def __init__(self, address, rate, dice):
        self.address, self.rate, self.dice = address, rate, dice
        self.sent, self.failed, self.times, self.under_way = 0, [], [], set()
        self.going, self.task, self.phase = True, None, "start"

    def start(self):
        self.task = asyncio.ensure_future(self._run())
        return self

    async def _run(self):
        next_at = time.monotonic()
        while self.going:
            self.sent += 1
            task = asyncio.ensure_future(self._one())
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)
            next_at += 1 / self.rate
            late = time.monotonic() - next_at
            if late > 1:                              # this machine cannot: not made up for in one go
                next_at += late
            await asyncio.sleep(max(0, -late))

    async def _one(self):
        phase, stream = self.phase, self.sent % 2 == 0
        body = {"model": "auto" if self.dice.random() < 0.3 else "m", "stream": stream,
                "messages": [{"role": "user", "content": f"do: answer {self.dice.randint(1, 8)} {'gap=10ms' if stream else 'wait=20ms'}"}]}
        began = time.monotonic()
        asked = Client(self.address, "POST", "/v1/chat/completions", body).start()
        try:
            await asyncio.wait_for(asked.done.wait(), 30)
        except asyncio.TimeoutError:
            asked.leave()
            await asked.done.wait()
        whole = asked.complete and asked.status == 200 and (not stream or b"data: [DONE]" in asked.data)
        if whole:
            self.times.append((phase, time.monotonic() - began))
        else:
            self.failed.append(f"{phase}: status {asked.status}, {asked.broken}, {asked.data[-300:]!r}")

    async def stop(self):
        self.going = False
        await self.task
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=40)


class Line:
    """A TCP proxy to one port, that can be cut."""

    def __init__(self, port, to):
        self.port, self.to, self.whole, self.writers, self.deaf, self.server = port, to, True, set(), set(), None

    async def start(self):
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _accept(self, reader, writer):
        if not self.whole:
            writer.transport.abort()
            return
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, there}
        await asyncio.gather(self._pump(reader, there), self._pump(back, writer))
        self.writers -= {writer, there}

    async def _pump(self, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                if writer in self.deaf:
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.transport.abort()

    def swallow(self):
        """What is connected now stays so, and nothing passes on it any more; new connections pass when the line is whole again."""
        self.whole = False
        self.deaf |= self.writers

    def cut(self):
        self.whole = False
        for writer in self.writers:
            writer.transport.abort()


class Proof:
    def __init__(self, folder, options):
        self.folder, self.o, self.dice = Path(folder), options, random.Random(options.seed)
        self.count, self.wrong = collections.Counter(), []
        self.lines = []

    def place(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}
        backends = ",".join(f"{b.name}={b.kind}+{b.url}" for b in self.backends)
        return Apart(self.folder, self.o.wire, ["--backends", backends, "--slots", "a=64,b=64", "--workers=2", "--access-log=errors", "--log-format=json",
                                                f"--decide={self.o.decide}", "--queue-timeout=10s"], env)

    async def run(self):
        self.backends = [Backend(n, "openai", {"m": {}}, slots=64, behaviours=["answer 3"]) for n in "ab"]
        for backend in self.backends:
            await backend.start()
        self.corral = self.place()
        try:
            await asyncio.to_thread(self.corral.start)
            await asyncio.sleep(2)                # a registry without a past lends no slots for a lease time: other gateways might have some
            load = Load(self.corral.addresses["gateway"], self.o.rate, self.dice).start()
            began = time.monotonic()
            for name, trouble in self.troubles():
                await self.make(load, name, trouble)
            seconds = time.monotonic() - began
            await load.stop()
            self.report(load, seconds)
            await self.compare_ledger(load.sent)
            if self.o.wire == "tcp":
                await self.cut_off()
        finally:
            for line in self.lines:
                line.server.close()
            self.wrong += await asyncio.to_thread(self.corral.stop)
            for backend in self.backends:
                await backend.stop()

    def troubles(self):
        if self.o.only:
            return [tuple(self.o.only.split(":"))]
        every = [(name, trouble) for _ in range(self.o.rounds) for name in VICTIMS for trouble in TROUBLES]
        if not self.o.slice:
            return every
        names = list(VICTIMS)
        self.dice.shuffle(names)                  # each service once, each kind of trouble at least once
        return [(name, TROUBLES[i % 3]) for i, name in enumerate(names)]

    async def make(self, load, name, trouble):
        service = self.corral[name]
        load.phase = f"{trouble} {name}"
        before, failed, began = load.sent, len(load.failed), time.monotonic()
        if trouble == "kill":
            service.kill()
            await asyncio.sleep(1)
            service.start(self.corral.env)
        elif trouble == "stop":
            service.signal(signal.SIGSTOP)
            await asyncio.sleep(STOP_S)
            service.signal(signal.SIGCONT)
        else:
            status = await asyncio.to_thread(service.stop)
            if status:
                self.wrong.append(f"{name} ended with status {status} at SIGTERM")
            service.start(self.corral.env)
        await asyncio.to_thread(self.corral.wait, lambda: all(s.settled() for s in self.corral.services.values()))
        await asyncio.sleep(0.5)
        self.count["troubles"] += 1
        print(f"  {load.phase:24} {time.monotonic() - began:5.1f} s, {load.sent - before:5} requests, {len(load.failed) - failed} failed", flush=True)

    def report(self, load, seconds):
        times = sorted(t for _, t in load.times)
        worst = max(load.times, key=lambda x: x[1], default=("", 0))
        print(f"  {load.sent} requests in {seconds:.0f} s ({load.sent / seconds:.0f}/s), {len(load.failed)} failed; took p50 {1000 * times[len(times) // 2]:.0f}, "
              f"p99 {1000 * times[int(len(times) * 0.99)]:.0f}, at most {1000 * worst[1]:.0f} ms ({worst[0]})")
        self.wrong += load.failed[:10]
        if load.sent / seconds < 0.8 * self.o.rate and not self.o.slice:
            self.wrong.append(f"only {load.sent / seconds:.0f} requests a second were made: the machine is too busy for {self.o.rate}")

    async def json(self, address, method, path, body=None, headers=()):
        asked = await Client(address, method, path, body, headers).start().wait(10)
        return asked.status, json.loads(asked.data) if asked.data else None

    async def compare_ledger(self, sent):
        end, totals = time.monotonic() + 30, {}
        while time.monotonic() < end and (totals.get("requests"), totals.get("attempts")) != (sent, sent):
            await asyncio.sleep(0.2)
            totals = (await self.json(self.corral.addresses["gateway"], "GET", "/usage"))[1]["totals"]
        print(f"  ledger: {totals.get('requests')} requests, {totals.get('attempts')} attempts")
        if (totals.get("requests"), totals.get("attempts")) != (sent, sent):
            self.wrong.append(f"{sent} requests were answered, the ledger has {totals}")

    # --- a gateway that is cut off ---

    async def second_gateway(self):
        """Another gateway whose every connection to the others runs through a Line."""
        port, first = free_port(), self.corral["gateway"]
        argv = [a for a in first.argv if not a.startswith(("--listen", "--admin-listen", "--state-dir"))]
        for i, flag in enumerate(argv):
            if flag.startswith("--peer."):
                real, proxy = int(flag.rsplit(":", 1)[1]), free_port(pair=True)
                argv[i] = flag.replace(f"localhost:{real}", f"127.0.0.1:{proxy}")
                for plus in (0, 100):
                    self.lines.append(Line(proxy + plus, real + plus))
                    await self.lines[-1].start()
        admin = free_port()
        argv += [f"--listen=127.0.0.1:{port}", f"--admin-listen=127.0.0.1:{admin}", f"--state-dir={self.folder}/second"]
        second = self.corral.services["second"] = Service("second", self.folder, argv, admin)
        self.corral.addresses["second"] = ("127.0.0.1", port)
        second.start(self.corral.env)
        await asyncio.to_thread(self.corral.wait, second.settled)
        return second

    async def key(self, name):
        self.count["keys"] += 1
        status, made = await self.json(self.corral.addresses["gateway"], "POST", "/keys", {"name": f"{name} {self.count.total()}"})
        assert status in (200, 201), made
        return made["key"]["id"], f"Authorization: Bearer {made['secret']}"

    async def status_with(self, header):
        return (await Client(self.corral.addresses["second"], "GET", "/v1/models", None, [header]).start().wait(10)).status

    async def lists(self, model):
        _, body = await self.json(self.corral.addresses["second"], "GET", "/v1/models")
        return any(m["id"] == model for m in body["data"])

    async def served(self):
        """Load at the second gateway, once the first of it was answered: one that has no slot yet waits for the registry."""
        load, began = Load(self.corral.addresses["second"], self.o.rate / 4, self.dice).start(), time.monotonic()
        while not load.times:
            assert time.monotonic() < began + 20, "the second gateway serves nothing"
            await asyncio.sleep(0.01)
        return load

    async def cut_off(self):
        second = await self.second_gateway()
        load = await self.served()
        for n in range(1 if self.o.slice else 5):
            for how in ("cut", "stop", "swallow") if n == 0 else ("cut", "stop"):
                if how == "stop":
                    await load.stop()                 # one that stands still answers nobody
                await self.change_while(second, load, how, f"{how}{n}")
                if how == "stop":
                    self.wrong += load.failed[:10]
                    load = await self.served()        # one trouble at a time: it stood still, and is to get its slots back first
        await load.stop()
        self.wrong += load.failed[:10]

    async def change_while(self, second, load, how, name):
        first = self.corral.addresses["gateway"]
        old_id, old = await self.key("old")
        while await self.status_with(old) != 200:
            await asyncio.sleep(0.02)
        if how != "stop":
            for line in self.lines:
                getattr(line, how)()
        else:
            second.signal(signal.SIGSTOP)
        await asyncio.sleep(self.dice.uniform(0.5, 4))
        status, said = await self.json(first, "DELETE", f"/keys/{old_id}")
        assert status in (200, 204), said
        _, new = await self.key("new")
        self.backends[0].models[name] = {}
        status, said = await self.json(first, "POST", "/models/sync", {})
        assert status == 200, said
        await asyncio.sleep(1)
        if how != "stop" and (await self.status_with(old) != 200 or await self.lists(name)):
            self.wrong.append("the gateway that was cut off knows what it cannot")
        served, began = len(load.times), time.monotonic()
        if how != "stop":
            for line in self.lines:
                line.whole = True
        else:
            second.signal(signal.SIGCONT)
        took = await self.until_in_force(began, old, new, name)
        print(f"  {how:7} the gateway: the changes are in force {took and round(1000 * took)} ms after its return", flush=True)
        most = DEAF_S if how == "swallow" else IN_FORCE_S
        if took is None or (took > most and not self.o.slice):
            self.wrong.append(f"{how}: the changes were not in force within {most} s")
        if how != "stop" and served == 0:
            self.wrong.append("nothing was served while the gateway was cut off")

    async def until_in_force(self, began, old, new, model):
        while time.monotonic() < began + 60:
            if await self.status_with(old) == 401 and await self.status_with(new) == 200 and await self.lists(model):
                return time.monotonic() - began
            await asyncio.sleep(0.01)
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--wire", choices=("ipc", "tcp", "tls"), default="tcp")
    parser.add_argument("--decide", choices=("local", "remote"), default="local")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slice", action="store_true", help="each service once, for scripts/test: what depends on how busy the machine is is shown and not judged")
    parser.add_argument("--only", metavar="SERVICE:TROUBLE", help="one of them, to look into")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; it is printed")
    options = parser.parse_args()
    options.seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"apart proof: {options.rate} requests/s over {options.wire}, decide={options.decide}, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="corral-apart-") as folder:
        proof = Proof(folder, options)
        asyncio.run(proof.run())
    for sentence in proof.wrong[:20]:
        print(f"  WRONG {sentence}")
    print(f"apart proof: {'no request failed' if not proof.wrong else f'{len(proof.wrong)} things are wrong'}")
    return 1 if proof.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
