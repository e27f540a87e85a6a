#!/usr/bin/env python3
"""The services apart: each control-plane process is killed, stopped and restarted under load, and no request fails for it.

    tests/proofs/apart.py [--rate N] [--wire ipc|tcp|tls] [--decide local|remote] [--rounds N] [--slice] [--seed N]

Eight kinds of processes over the wire named, two scripted backends, a scripted provider in the cloud, an experiment that runs, and clients that come N
times a second (200) whether the ones before are answered or not; every second answer is a stream. Of ten requests five name a model, one leaves
the choice, two belong to the experiment, one leaves the choice and wants the best (which is in the cloud), and one names the model in the cloud. Under
it, for each of model-registry, selector, usage-tracker, access, hardware-probe, ab-testing and cloud-fallback:

    kill -9, started again a second later        SIGSTOP for 5 s        SIGTERM, started again

Every request has to be answered with 200 and to its end. Excepted are two while cloud-fallback itself is in trouble: those that name the cloud's model, and streams
that it had begun; they have to end with an error in words. At the end the ledger has one good row for each answer and none for others, each user has had one arm of
the experiment, and its analysis counts each of its answers once.

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
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from apart import Apart, Service, free_port                       # noqa: E402
from client import Client                                         # noqa: E402
from providers import Provider                                    # noqa: E402
from scripted import Backend                                      # noqa: E402

VICTIMS = ("model-registry", "selector", "usage-tracker", "access", "hardware-probe", "ab-testing", "cloud-fallback")
TROUBLES = ("kill", "stop", "restart")
STOP_S, IN_FORCE_S, DEAF_S = 5, 2, 20


# kind -> model, headers
KINDS = {"named": ("m", ()), "auto": ("auto", ()), "arm": ("auto", ("X-Corral-Task-Type: BUG_FIX",)),
         "best": ("auto", ("X-Corral-Policy: quality",)), "cloud": ("oa/m1", ())}
MIX = ("named",) * 5 + ("auto", "arm", "arm", "best", "cloud")
USERS = 40


def refused_in_words(asked):
    """An error that says what is wrong: instead of an answer, or at the end of a stream that broke."""
    if not asked.complete or asked.status not in (200, 502, 503, 504):
        return False
    last = asked.data if asked.status != 200 else asked.data.strip().rsplit(b"data: ", 1)[-1]
    try:
        return bool(json.loads(last)["error"]["message"]) and b"data: [DONE]" not in asked.data
    except (ValueError, KeyError, TypeError):
        return False


class Load:
    """Requests at a rate, at one gateway; what failed, and how long each took."""

    def __init__(self, address, rate, dice, mix=MIX):
        self.address, self.rate, self.dice, self.mix = address, rate, dice, mix
        self.sent, self.failed, self.times, self.under_way = 0, [], [], set()
        self.going, self.task, self.phase = True, None, "start"
        self.answered, self.refused = collections.defaultdict(list), []     # kind: [(request id, model, reason, user)]; (phase, kind, status, seconds)
        self.cloud_away = []                          # [from, to], in the time of the loop; to is None while it lasts

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
        phase, stream, kind, user = self.phase, self.sent % 2 == 0, self.dice.choice(self.mix), f"user {self.dice.randrange(USERS)}"
        model, headers = KINDS[kind]
        body = {"model": model, "stream": stream,
                "messages": [{"role": "user", "content": f"do: answer {self.dice.randint(1, 8)} {'gap=10ms' if stream else 'wait=20ms'}"}]}
        began = time.monotonic()
        asked = Client(self.address, "POST", "/v1/chat/completions", body, [*headers, f"X-Corral-User: {user}"]).start()
        try:
            await asyncio.wait_for(asked.done.wait(), 30)
        except asyncio.TimeoutError:
            asked.leave()
            await asked.done.wait()
        said = asked.answer_headers
        whole = asked.complete and asked.status == 200 and (not stream or b"data: [DONE]" in asked.data)
        took = time.monotonic() - began
        if whole:
            self.times.append((phase, took))
            self.answered[kind].append((said["x-request-id"], said["x-corral-model"], said["x-corral-reason"], user))
        elif self.excepted(kind, asked, began) and refused_in_words(asked):
            self.refused.append((phase, kind, asked.status, took))
        else:
            self.failed.append(f"{phase}: {kind}, status {asked.status}, {asked.broken}, {dict(said)}, {asked.data[-300:]!r}")

    def excepted(self, kind, asked, began):
        """It needed cloud-fallback, while that was in trouble."""
        begun_there = kind == "best" and asked.status == 200 and asked.answer_headers.get("x-corral-model", "").startswith("oa/")
        return (kind == "cloud" or begun_there) and any(to is None or to >= began for _, to in self.cloud_away)

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
        provider = f"oa=compatible;url={self.provider.url}/v1;models=m1;key_env=APART_KEY;monthly_tokens=unlimited;slots=64"
        return Apart(self.folder, self.o.wire, ["--backends", backends, "--slots", "a=64,b=64", "--workers=2", "--access-log=errors", "--log-format=json",
                                                f"--decide={self.o.decide}", "--queue-timeout=10s", f"--providers={provider}", "--cloud-listen=127.0.0.1:0"],
                     {**env, "APART_KEY": "the-key-of-this-proof"})

    async def run(self):
        self.backends = [Backend(n, "openai", {"m": {}, "n": {}}, slots=64, behaviours=["answer 3"]) for n in "ab"]
        self.provider = Provider()
        for backend in (*self.backends, self.provider):
            await backend.start()
        self.corral = self.place()
        try:
            await asyncio.to_thread(self.corral.start)
            await asyncio.sleep(2)                # a registry without a past lends no slots for a lease time: other gateways might have some
            test = await self.begin_experiment()
            load = Load(self.corral.addresses["gateway"], self.o.rate, self.dice).start()
            began = time.monotonic()
            for name, trouble in self.troubles():
                await self.make(load, name, trouble)
            seconds = time.monotonic() - began
            await load.stop()
            self.report(load, seconds)
            await self.compare_ledger(load)
            await self.compare_experiment(load, test)
            if self.o.wire == "tcp":
                await self.cut_off()
        finally:
            for line in self.lines:
                line.server.close()
            self.wrong += await asyncio.to_thread(self.corral.stop)
            for backend in (*self.backends, self.provider):
                await backend.stop()

    async def ask(self, model, headers=()):
        body = {"model": model, "messages": [{"role": "user", "content": "do: answer 1"}]}
        asked = await Client(self.corral.addresses["gateway"], "POST", "/v1/chat/completions", body, [*headers, "X-Corral-User: nobody"]).start().wait()
        self.count["asked by hand"] += asked.status == 200
        self.count["arms by hand"] += asked.answer_headers.get("x-corral-reason") == "experiment"
        return asked

    async def begin_experiment(self):
        """It runs, and the gateway has heard of it and of the cloud's model."""
        said = {"name": "which one", "model_a": "m", "model_b": "n", "traffic_percent": 100, "task_type_filter": "BUG_FIX"}
        status, test = await self.json(self.corral.addresses["gateway"], "POST", "/tests", said)
        assert status == 201, test
        wanted, end = {"arm": "experiment", "best": None, "cloud": None}, time.monotonic() + 30
        for kind, reason in wanted.items():
            model, headers = KINDS[kind]
            while True:
                asked = await self.ask(model, headers)
                said = asked.answer_headers
                if asked.status == 200 and (said["x-corral-reason"] == reason or not reason and said["x-corral-model"] == "oa/m1"):
                    break
                assert time.monotonic() < end, (kind, asked.status, asked.answer_headers, asked.data)
                await asyncio.sleep(0.05)
        return test

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
        before, failed, refused, began = load.sent, len(load.failed), len(load.refused), time.monotonic()
        if name == "cloud-fallback":
            load.cloud_away.append([began, None])
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
        if name == "cloud-fallback":
            await self.cloud_is_back()
            load.cloud_away[-1][1] = time.monotonic()
        await asyncio.sleep(0.5)
        self.count["troubles"] += 1
        gone = collections.Counter(f"{kind} {status}" for _, kind, status, _ in load.refused[refused:])
        print(f"  {load.phase:24} {time.monotonic() - began:5.1f} s, {load.sent - before:5} requests, {len(load.failed) - failed} failed"
              + (f"; of the cloud, refused in words: {dict(gone)}" if gone else ""), flush=True)

    async def cloud_is_back(self):
        """The gateway has heard so."""
        end = time.monotonic() + 30
        while (asked := await self.ask("oa/m1")).status != 200:
            if time.monotonic() > end:
                self.wrong.append(f"the cloud does not come back: {asked.status} {asked.data!r}")
                return
            await asyncio.sleep(0.05)

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

    async def compare_ledger(self, load):
        """What was answered has one good row, and nothing else has one."""
        answered, end = {row[0].replace("-", "") for kind in load.answered.values() for row in kind}, time.monotonic() + 30
        while True:
            book = sqlite3.connect(f"file:{self.corral.state}/usage-tracker/ledger.db?mode=ro", uri=True, timeout=20)
            rows = book.execute("SELECT request_id, status FROM usage").fetchall()
            book.close()
            good = collections.Counter(request for request, status in rows if status == "ok")
            if (answered <= good.keys() and not any(status == "open" for _, status in rows)) or time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        statuses = collections.Counter(status for _, status in rows)
        print(f"  ledger: {len(rows)} attempts of {len({request for request, _ in rows})} requests, {dict(statuses)}; of {len(answered)} answers {len(answered & good.keys())} are in it")
        missing, twice = answered - good.keys(), [request for request, n in good.items() if n > 1]
        if missing or twice or statuses["open"]:
            self.wrong.append(f"{len(missing)} answers are not in the ledger, {len(twice)} are there twice, {statuses['open']} attempts are open")
        asked_before = self.count["asked by hand"]
        if len(good) > len(answered) + asked_before:
            self.wrong.append(f"{len(good)} requests are good in the ledger, and {len(answered)} were answered, besides {asked_before} of this proof itself")

    async def compare_experiment(self, load, test):
        """A user has one arm; each answer in it is counted, once."""
        had = collections.defaultdict(set)
        for _, model, _, user in load.answered["arm"]:
            had[user].add(model)
        self.wrong += [f"{user} had {models}" for user, models in had.items() if len(models) > 1]
        self.wrong += [f"a request of the experiment was decided by {reason}" for _, _, reason, _ in load.answered["arm"] if reason != "experiment"][:3]
        wanted, seen, end = len(load.answered["arm"]) + self.count["arms by hand"], 0, time.monotonic() + 30
        while seen != wanted and time.monotonic() < end:
            await asyncio.sleep(0.2)
            _, got = await self.json(self.corral.addresses["gateway"], "GET", f"/tests/{test['id']}/analysis")
            seen = got["metrics_a"]["total_requests"] + got["metrics_b"]["total_requests"]
        print(f"  experiment: {len(had)} users, each with one arm; {seen} answers counted of {wanted}")
        if seen != wanted:
            self.wrong.append(f"the experiment counts {seen} answers, and there were {wanted}")

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
        load, began = Load(self.corral.addresses["second"], self.o.rate / 4, self.dice, ("named",) * 7 + ("auto",) * 3).start(), time.monotonic()
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
