#!/usr/bin/env python3
"""The outage: PostgreSQL, Redis and Kafka are gone under load, no local inference fails, and every event arrives after their return.

    tests/proofs/outage.py [--minutes M] [--rate N] [--seed N] [--record FILE]

Services apart, ledger and all else on PostgreSQL, facts over Kafka, the gateway's cache in Redis; what is not installed is left out, and that is said. Clients
come N times a second whether the ones before are answered or not, half of them with streams, half with questions that the cache is asked for. After ten seconds
all three servers are killed (-9), M minutes later started again, and ten seconds after that the clients stop. Every request has to be answered with 200 to its
end. Beside them, every second, one asks for more than its budget has been lent: while the servers are away it is refused with 503 and the reason. At the end
each line of the backends' book has one row with its tokens, as in ledger.py, each answer that came has its row, and the reconciliation reads 0.
"""
import argparse
import asyncio
import collections
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from client import Client                                        # noqa: E402
from kill import Book                                            # noqa: E402
from ledger import KEPT_TOKENS, Check, Place                      # noqa: E402
from record import record                                        # noqa: E402
from scripted import Backend                                     # noqa: E402
import stores                                                    # noqa: E402

BUDGETED, MUCH = "limited", 4_000_000


class Load:
    """Requests at a rate; what became of them."""

    def __init__(self, place, rate, dice):
        self.place, self.rate, self.dice = place, rate, dice
        self.sent, self.failed, self.ids, self.times, self.going = 0, [], {}, [], True
        self.refused, self.phase, self.under_way = collections.Counter(), "before", set()

    def spawn(self, what):
        task = asyncio.ensure_future(what)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def run(self):
        next_at = time.monotonic()
        while self.going:
            self.sent += 1
            self.spawn(self.one(self.sent))
            if self.sent % self.rate == 0:
                self.spawn(self.one_that_needs_a_lease())
            next_at = max(next_at + 1 / self.rate, time.monotonic() - 1)       # what the machine cannot is not made up for in one go
            await asyncio.sleep(max(0, next_at - time.monotonic()))
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=60)

    async def one(self, n):
        kept = n % 2 == 0
        question = f"question {n if self.dice.random() < 0.7 else self.dice.randrange(50)}"
        body = {"model": "m", "stream": self.dice.random() < 0.5, "messages": [{"role": "user", "content": question}], **({"temperature": 0} if kept else {})}
        began, phase = time.monotonic(), self.phase
        asked = await self.ask(body, ())
        if asked.complete and asked.status == 200 and asked.finished():
            self.times.append((phase, time.monotonic() - began))
            self.ids[asked.answer_headers["x-request-id"].replace("-", "")] = asked.answer_headers.get("x-corral-cache", "")
        else:
            self.failed.append(f"{phase}: status {asked.status}, {asked.broken}, {asked.data[-200:]!r}")

    async def ask(self, body, headers):
        asked = Client(self.place.address, "POST", "/v1/chat/completions", body, headers).start()
        try:
            await asyncio.wait_for(asked.done.wait(), 60)
        except asyncio.TimeoutError:
            asked.leave()
            await asked.done.wait()
        return asked

    async def one_that_needs_a_lease(self):
        phase = self.phase
        asked = await self.ask({"model": "m", "max_tokens": MUCH, "messages": [{"role": "user", "content": "much"}]}, [f"X-Corral-User: {BUDGETED}"])
        self.refused[phase, asked.status] += 1
        if asked.status == 503 and b"usage-tracker is away" in asked.data and (phase, self.phase) != ("before", "before"):
            return
        if asked.status in (200, 402):               # lent before, or held for another of them
            return
        self.failed.append(f"{phase}: one that needs a lease: status {asked.status}, {asked.data[-300:]!r}")


class Outage:
    def __init__(self, folder, options):
        self.folder, self.o, self.dice = Path(folder), options, random.Random(options.seed)
        self.book, self.count, self.wrong = Book(self.folder / "attempts.txt"), collections.Counter(), []
        self.arrived_s = None

    async def run(self):
        backends = [Backend(n, "openai", {"m": {}}, slots=64, behaviours=[f"answer {KEPT_TOKENS}"]) for n in "ab"]
        for backend in backends:
            backend.note = self.book.note
            await backend.start()
        self.place = Place(self.folder, backends, "local" if stores.missing("kafka") else "kafka",
                           ["--slots=a=64,b=64", "--workers=2", "--reconcile-every=500ms", "--queue-timeout=20s"], redis=not stores.missing("redis"))
        try:
            await asyncio.to_thread(self.place.start)
            await self.budget()
            await asyncio.sleep(2.5)               # a registry without a past lends no slots at first
            await self.outage()
        finally:
            self.wrong += await asyncio.to_thread(self.place.stop)
            for backend in backends:
                await backend.stop()

    async def budget(self):
        asked = await Client(self.place.address, "PUT", "/budgets", {"scope": f"user:{BUDGETED}", "period": "month", "tokens": 10 * MUCH}).start().wait(30)
        assert asked.status == 200, asked.data

    async def outage(self):
        self.load = load = Load(self.place, self.o.rate, self.dice)
        running = asyncio.ensure_future(load.run())
        names = list(self.place.servers())
        await asyncio.sleep(10)
        load.phase = "away"
        began = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(self.place.kill, name) for name in names))
        print(f"  {', '.join(names)} are gone; {load.sent} requests so far, {len(load.failed)} failed", flush=True)
        while time.monotonic() - began < 60 * self.o.minutes:
            await asyncio.sleep(1)
            for backend in self.place.backends:
                backend.calls.clear()
        load.phase = "back"
        print(f"  they come back; {load.sent} requests so far, {len(load.failed)} failed", flush=True)
        await asyncio.gather(*(asyncio.to_thread(self.place.revive, name) for name in names))
        back = time.monotonic()
        await asyncio.sleep(10)
        load.going = False
        await running
        rows = await self.place.finished(lambda rows: len({r.request for r in rows}) >= load.sent, 300)
        self.arrived_s = time.monotonic() - back
        self.wrong += Check(rows, self.book.read(), load.ids, {}, self.count).run()
        unreconciled = await asyncio.to_thread(self.place.unreconciled)
        if unreconciled:
            self.wrong.append(f"the reconciliation reads {unreconciled}")
        self.wrong += load.failed[:10]

    def figures(self):
        load, times = self.load, sorted(t for phase, t in self.load.times if phase == "away")
        yield "gone at once, killed -9", f"{', '.join(self.place.servers())}, for {self.o.minutes:g} minutes"
        yield "requests, failed", f"{load.sent:,}, {len(load.failed)}"
        yield "of them while the servers were away; half answered within, 99 % within", \
            f"{len(times):,}; {1000 * times[len(times) // 2]:.0f} ms, {1000 * times[int(len(times) * 0.99)]:.0f} ms"
        yield "that needed a lease: answered, refused with the reason", \
            f"{sum(n for (_, status), n in load.refused.items() if status == 200)}, {sum(n for (_, status), n in load.refused.items() if status in (402, 503))}"
        yield "lines of the backends without a row, with two rows, rows with wrong tokens", \
            f"{self.count['lines without a row (lost)']}, {self.count['lines with two rows (doubled)']}, {self.count['rows with wrong tokens']} of {self.count['lines']:,}"
        yield "answered from the cache", f"{sum(how == 'hit' for how in load.ids.values()):,}"
        yield "all events in the ledger, and compared, after the return (ten seconds of load included)", f"{self.arrived_s:.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; it is printed")
    parser.add_argument("--record", metavar="FILE", help="write the figures to FILE (docs/proofs.md)")
    options = parser.parse_args()
    if reason := stores.missing("postgres"):
        print(f"outage: skipped, {reason}")
        return 0
    for name in ("redis", "kafka"):
        if stores.missing(name):
            print(f"  without {name}: {stores.missing(name)}")
    options.seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"outage: {options.minutes:g} minutes at {options.rate} requests/s, seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="corral-outage-") as folder:
        outage = Outage(folder, options)
        asyncio.run(outage.run())
    for sentence in outage.wrong[:20]:
        print(f"  WRONG {sentence}")
    for what, figure in outage.figures():
        print(f"  {what}: {figure}")
    if options.record and not outage.wrong:
        record(options.record, "outage", outage.figures())
    print(f"outage: {'nothing failed, and every event arrived' if not outage.wrong else f'{len(outage.wrong)} things are wrong'}")
    return 1 if outage.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
