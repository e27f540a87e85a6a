#!/usr/bin/env python3
"""The ledger proof: `kill -9` of gateway, usage-tracker, PostgreSQL and Kafka in turn, and each attempt has exactly one row.

    tests/proofs/ledger.py [--rounds N] [--minutes M] [--seed N] [--bus kafka|local] [--clients N] [--slice] [--record FILE] [--keep FOLDER]

Every service is a process of its own, all of them keep what they have on one PostgreSQL (fsync, synchronous_commit), and facts travel through one
Kafka (log.flush.interval.messages=1: each batch is on the disk before it is acknowledged). With --bus local there is no Kafka, and nobody kills it.
Clients never stop: streams, whole answers, clients that leave, streams that are cut, backends that break so that another is tried, questions asked
again that the cache answers. Each round kills the next of them at a random moment, starts it again up to half a second later, and goes on when every
service says that it misses nothing. The scripted backends write and sync one line for each attempt that they receive; see kill.py. At the end:

    each line has exactly one row, a row without a line is not_sent or unknown, and no row is open
    answers that were complete have equal tokens, prompt and completion; none has more tokens than were sent
    what was under way when the gateway was killed is unknown, with the tokens of its last checkpoint
    each answer that a client read to its end has a row; one from the cache a row with attempt 0 and the tokens of the first
    GET /usage has the sums of the rows, no fact is among the dead letters
    corral_ledger_unreconciled is 0 in all its kinds, and not 0 after one row was deleted by hand
    no service that was not killed has many more files open than at the beginning

--slice is for scripts/test: one round of each, with Kafka where it is there already.
"""
import argparse
import asyncio
import collections
import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from apart import Apart, get, programs                            # noqa: E402
from client import Client                                        # noqa: E402
from kill import Book, open_attempts                              # noqa: E402
from record import record                                        # noqa: E402
from scripted import PROMPT_TOKENS, Backend                       # noqa: E402
import stores                                                    # noqa: E402

QUESTIONS, KEPT_TOKENS, MORE_FILES = 12, 6, 100
Row = collections.namedtuple("Row", "request attempt backend status prompt completion cached")


# --- the place: Corral's processes and the servers beside them ---

class Place:
    """Services apart on one PostgreSQL, with or without Kafka and Redis. Blocking: to be called from threads."""

    def __init__(self, folder, backends, bus, options=(), redis=False):
        self.folder, self.backends, self.options = Path(folder), backends, list(options)
        self.postgres = stores.Postgres()
        self.redis = stores.Redis(folder) if redis else None
        self.kafka = stores.kafka_here(folder) if bus == "kafka" else None
        self.apart = None

    def start(self):
        for server in self.servers().values():
            server.start()
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}
        env["CORRAL_DB"] = self.postgres.url
        done = subprocess.run([programs() / "corral", "migrate"], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        more = [f"--bus=kafka:{self.kafka.bootstrap}", "--bus-partitions=3"] if self.kafka else []
        more += [f"--cache={self.redis.url}"] if self.redis else []
        self.apart = Apart(self.folder, "ipc", ["--backends", ",".join(f"{b.name}={b.kind}+{b.url}" for b in self.backends), "--log-format=json",
                                                "--access-log=errors", "--cache-undigested=yes", *more, *self.options], env)
        self.apart.start(wait_s=120)

    def servers(self):
        named = {"postgres": self.postgres, "redis": self.redis, "kafka": self.kafka}
        return {name: server for name, server in named.items() if server}

    @property
    def address(self):
        return self.apart.addresses["gateway"]

    def kill(self, name):
        (self.servers().get(name) or self.apart[name]).kill()

    def revive(self, name):
        server = self.servers().get(name)
        server.start() if server else self.apart[name].start(self.apart.env)

    def settled(self, wait_s=180):
        self.apart.wait(lambda: all(s.settled() for s in self.apart.services.values()), wait_s)

    def rows(self):
        text = self.postgres.sql("COPY (SELECT request_id, attempt, backend, status, prompt_tokens, completion_tokens, cached FROM usage_tracker.usage ORDER BY 1, 2) "
                                 "TO STDOUT WITH CSV")
        return [Row(r, int(a), b, s, int(p), int(c), c0 not in ("0", "f")) for r, a, b, s, p, c, c0 in csv.reader(io.StringIO(text))]

    def metrics(self, name):
        """{labels: value} of a metric of the usage-tracker."""
        text = get(self.apart["usage-tracker"].admin + "/metrics", 10)[1]
        return {labels: float(value) for labels, value in re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", text, re.M)}

    def unreconciled(self):
        """After a look through the whole ledger that began after now: what does not agree, by kind."""
        for _ in range(2):
            before = self.metrics("corral_ledger_reconciled_timestamp_seconds")
            end = time.monotonic() + 120
            while self.metrics("corral_ledger_reconciled_timestamp_seconds") == before:
                assert time.monotonic() < end, "the usage-tracker does not look through the ledger"
                time.sleep(0.05)
        return {labels.split('kind="')[1].split('"')[0]: int(value) for labels, value in self.metrics("corral_ledger_unreconciled").items() if value}

    def usage(self):
        return json.loads(get("http://%s:%d/usage" % self.address, 60)[1])["totals"]

    def stop(self):
        wrong = self.apart.stop() if self.apart else []
        for server in self.servers().values():
            server.stop()
        return wrong

    async def finished(self, enough=lambda rows: True, wait_s=120):
        """The rows, once none is open, they are enough, and no more come."""
        end, before = time.monotonic() + wait_s, None
        while time.monotonic() < end:
            now = await asyncio.to_thread(self.rows)
            if now == before and enough(now) and not any(r.status == "open" for r in now):
                break
            before = now
            await asyncio.sleep(0.7)
        return now


# --- traffic ---

class Traffic:
    """Clients that ask until told to stop. ids: {request id: how the answer was got} of those that were read to their end."""

    def __init__(self, place, dice):
        self.place, self.dice = place, dice
        self.count, self.ids, self.over = collections.Counter(), {}, False

    def _request(self):
        dice = self.dice
        path = dice.choice(["/v1/chat/completions"] * 5 + ["/api/chat", "/api/generate"])
        body = {"model": "m", "stream": dice.random() < 0.6}
        if dice.random() < 0.25:                   # a question that was asked before, and may be answered from memory
            prompt, leave = f"question {dice.randrange(QUESTIONS)}", None
            body.update({"options": {"temperature": 0}} if path.startswith("/api") else {"temperature": 0})
        else:
            tokens = dice.randint(1, 60)
            behaviour = dice.choices([f"answer {tokens} gap={dice.randint(0, 12)}ms", f"answer {tokens} wait={dice.randint(1, 80)}ms",
                                      f"answer {20 + tokens} cut={dice.randint(1, 300)}", f"unterminated {tokens}", f"event-error {tokens}", "status 500", "hang", None],
                                     [8, 4, 2, 1, 1, 1, 1, 4])[0]
            prompt = f"do: {behaviour}" if behaviour else "hello"          # None: as the backend itself likes it
            leave = dice.uniform(0, 0.2) if behaviour == "hang" or dice.random() < 0.2 else None
        body.update({"prompt": prompt} if path == "/api/generate" else {"messages": [{"role": "user", "content": prompt}]})
        return path, body, leave

    async def client(self):
        while not self.over:
            path, body, leave = self._request()
            self.count["requests"] += 1
            c = Client(self.place.address, "POST", path, body).start()
            try:
                await asyncio.wait_for(c.done.wait(), leave or 20)
            except asyncio.TimeoutError:
                c.leave(self.dice.random() < 0.3)
                self.count["clients that left"] += 1
            finally:
                c.leave()
            self.note(c)
            if c.status != 200:
                await asyncio.sleep(0.02)          # refused, or nobody there: not as fast as a loop can

    def note(self, c):
        if c.status is None:
            self.count["met no gateway"] += 1
        elif c.complete and c.status == 200 and c.finished():
            how = c.answer_headers.get("x-corral-cache", "")
            self.ids[c.answer_headers["x-request-id"].replace("-", "")] = how
            self.count["answered from the cache" if how == "hit" else "complete answers"] += 1


def three_backends(note):
    a = Backend("a", "openai", {"m": {}}, slots=4, behaviours=["answer 4 cut=25"])           # dies inside its head: always tried elsewhere
    b = Backend("b", "openai", {"m": {}}, slots=4, behaviours=[f"answer {KEPT_TOKENS} gap=3ms"])
    c = Backend("c", "ollama", {"m": {}}, slots=4, behaviours=[f"answer {KEPT_TOKENS} gap=3ms"])
    for backend in (a, b, c):
        backend.note = note
    return [a, b, c]


# --- the check ---

class Check:
    """Rows against the backends' lines, what clients read, and what the spools held when a gateway was killed."""

    def __init__(self, rows, lines, ids, at_kill, count):
        self.rows, self.ids, self.at_kill, self.count, self.wrong = rows, ids, at_kill, count, []
        self.by_place, self.by_request = collections.defaultdict(list), collections.defaultdict(list)
        self.lines = collections.defaultdict(list)
        for r in rows:
            count[f"rows {r.status}{' (cached)' if r.cached else ''}"] += 1
            self.by_request[r.request].append(r)
            if r.attempt:
                self.by_place[r.request, r.backend].append(r)
        for request, backend, tokens, how in lines:
            self.lines[request, backend].append((tokens, how))
        count["rows"], count["lines"] = len(rows), sum(len(said) for said in self.lines.values())

    def run(self):
        if len({(r.request, r.attempt) for r in self.rows}) != len(self.rows):
            self.wrong.append("an attempt has two rows")
        for place, said in self.lines.items():
            self.line(place, said, [r for r in self.by_place.get(place, []) if r.status != "not_sent"])
        for place, had in self.by_place.items():
            if place not in self.lines and any(r.status not in ("not_sent", "unknown") for r in had):
                self.wrong.append(f"{place}: booked as {had}, and no backend saw it")
        for request, how in self.ids.items():
            self.answer(request, how, self.by_request.get(request, []))
        for (request, attempt), checkpoint in self.at_kill.items():
            self.killed(request, attempt, checkpoint)
        self.wrong += [f"an open row: {r}" for r in self.rows if r.status == "open"]
        return self.wrong

    def line(self, place, said, had):
        self.count["lines without a row (lost)"] += not had
        self.count["lines with two rows (doubled)"] += len(had) > len(said)
        if len(said) != len(had):
            self.wrong.append(f"{place}: {len(said)} lines {said}, {len(had)} rows {had}")
            return
        for (tokens, how), row in zip(said, sorted(had, key=lambda r: r.attempt)):      # twice where a kept connection ended with the request on it
            self.pair(place, tokens, how, row)

    def pair(self, place, tokens, how, row):
        if row.status == "ok" and (how, row.prompt, row.completion) == ("whole", PROMPT_TOKENS, tokens):
            self.count["complete answers with equal tokens"] += 1
        elif row.status == "ok" or row.completion > tokens:
            self.count["rows with wrong tokens"] += 1
            self.wrong.append(f"{place}: {tokens} tokens sent ({how}), and its row is {row}")

    def answer(self, request, how, had):
        if how != "hit":
            if not had:
                self.wrong.append(f"{request} was answered and has no row")
        elif [(r.attempt, r.status, r.cached, r.prompt, r.completion) for r in had] != [(0, "ok", True, PROMPT_TOKENS, KEPT_TOKENS)]:
            self.wrong.append(f"{request} was answered from the cache, and its rows are {had}")

    def killed(self, request, attempt, checkpoint):
        row = next((r for r in self.by_request.get(request, []) if r.attempt == attempt), None)
        if row is None or row.status != "unknown" or row.completion != checkpoint:
            self.wrong.append(f"{request} attempt {attempt}: under way at the kill with {checkpoint} tokens in its checkpoint, and its row is {row}")
            return
        self.count["under way at a kill of the gateway, booked as unknown"] += 1
        for tokens, _ in self.lines.get((request, row.backend), [])[-1:]:
            if checkpoint > tokens:
                self.wrong.append(f"{request} attempt {attempt}: {checkpoint} tokens in the checkpoint, {tokens} sent")


# --- the proof ---

class Proof:
    def __init__(self, folder, options):
        self.folder, self.o, self.dice = Path(folder), options, random.Random(options.seed)
        self.victims = ["gateway", "usage-tracker", "postgres"] + (["kafka"] if options.bus == "kafka" else [])
        self.book, self.at_kill, self.away = Book(self.folder / "attempts.txt"), {}, collections.defaultdict(list)
        self.count, self.wrong, self.found, self.files = collections.Counter(), [], {}, ({}, {})

    async def run(self):
        backends = three_backends(self.book.note)
        for backend in backends:
            await backend.start()
        self.place = Place(self.folder, backends, self.o.bus, ["--slots=a=4,b=4,c=4", "--checkpoint=25ms", "--queue-max=4", "--queue-timeout=300ms", "--workers=2",
                                                               "--breaker-failures=1000", "--breaker-open=20ms", "--spool-segment=64k", "--reconcile-every=500ms"])
        try:
            await asyncio.to_thread(self.place.start)
            traffic = await self.rounds()
            self.count.update(traffic.count)
            await self.compare(traffic)
        finally:
            self.wrong += await asyncio.to_thread(self.place.stop)
            for backend in backends:
                await backend.stop()

    async def rounds(self):
        traffic = Traffic(self.place, self.dice)
        clients = [asyncio.create_task(traffic.client()) for _ in range(self.o.clients)]
        await self.flowing()
        self.look_at_files(0)
        end = time.monotonic() + 60 * self.o.minutes
        for n in range(self.o.rounds):
            if time.monotonic() > end:
                break
            await self.round(self.victims[n % len(self.victims)])
            if (n + 1) % 20 == 0:
                print(f"  {n + 1} kills, {traffic.count['requests']} requests, {self.book.lines} attempts at backends", flush=True)
            for backend in self.place.backends:
                backend.calls.clear()
        await asyncio.sleep(0.3)
        traffic.over = True
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        return traffic

    async def flowing(self, lines=10):
        """Until the backends got that many more requests: a kill is to meet traffic."""
        end, enough = time.monotonic() + 60, self.book.lines + lines
        while self.book.lines < enough:
            if time.monotonic() > end:
                raise RuntimeError("no requests come to the backends")
            await asyncio.sleep(0.02)

    async def round(self, victim):
        await self.flowing()
        await asyncio.sleep(self.dice.uniform(0, 0.4))
        began = time.monotonic()
        await asyncio.to_thread(self.place.kill, victim)
        self.count[f"kills of {victim}"] += 1
        if victim == "gateway":
            self.at_kill.update(open_attempts(self.place.apart.state))
        await asyncio.sleep(self.dice.uniform(0, 0.5))
        await asyncio.to_thread(self.place.revive, victim)
        await asyncio.to_thread(self.place.settled)
        self.away[victim].append(time.monotonic() - began)

    def arrived(self, rows):
        """What is still in spools after the last kill is on its way, at the pace of who tries again ever later."""
        had = {(r.request, r.backend) for r in rows}
        return all((request, backend) in had for request, backend, _, _ in self.book.read())

    def look_at_files(self, which):
        for name, service in self.place.apart.services.items():
            if name not in self.victims:
                self.files[which][name] = service.open_files()
        self.wrong += [f"{name} had {before} files open and has {self.files[1][name]} now" for name, before in self.files[0].items()
                       if which and self.files[1][name] > before + MORE_FILES]

    async def compare(self, traffic):
        self.look_at_files(1)
        rows = await self.place.finished(self.arrived)
        for server in ("dead_letters", "kafka_dead"):
            n = int(self.place.postgres.sql(f"SELECT count(*) FROM usage_tracker.{server}"))
            if n:
                self.wrong.append(f"{n} facts are in the table {server}")
        self.wrong += Check(rows, self.book.read(), traffic.ids, self.at_kill, self.count).run()
        totals, had = self.place.usage(), (sum(r.attempt > 0 for r in rows), sum(r.completion for r in rows))
        if (totals["attempts"], totals["completion_tokens"]) != had:
            self.wrong.append(f"GET /usage says {totals}, the rows {had}")
        await asyncio.to_thread(self.by_hand)

    def by_hand(self):
        """The metric in balance, and after somebody took a row out."""
        self.found["before"] = self.place.unreconciled()
        self.place.postgres.sql("DELETE FROM usage_tracker.attempts WHERE (request_id, attempt) = "
                                "(SELECT request_id, attempt FROM usage_tracker.attempts WHERE attempt = 1 AND completion_tokens > 0 ORDER BY 1 LIMIT 1)")
        self.found["after"] = self.place.unreconciled()
        if self.found["before"]:
            self.wrong.append(f"the reconciliation does not read 0: {self.found['before']}")
        if not self.found["after"].get("row_attempts"):
            self.wrong.append(f"a row was deleted, and the reconciliation reads {self.found['after']}")

    def figures(self):
        c = self.count
        yield f"kills ({', '.join(self.victims)}, in turn)", ", ".join(f"{c[f'kills of {v}']:,}" for v in self.victims)
        yield "from the kill until every service misses nothing, longest", ", ".join(f"{v} {max(t):.1f} s" for v, t in self.away.items())
        yield "requests, of which clients left, that met no gateway", f"{c['requests']:,}, {c['clients that left']:,}, {c['met no gateway']:,}"
        yield "attempts that backends received (lines)", f"{c['lines']:,}"
        yield "lines without a row (lost), lines with two rows (doubled), rows with wrong tokens", \
            f"{c['lines without a row (lost)']}, {c['lines with two rows (doubled)']}, {c['rows with wrong tokens']}"
        yield "complete answers, all with equal tokens", f"{c['complete answers with equal tokens']:,}"
        yield "answered from the cache, each one row with attempt 0", f"{c['answered from the cache']:,}"
        yield "under way at a kill of the gateway: all `unknown`, with their last checkpoint", f"{c['under way at a kill of the gateway, booked as unknown']:,}"
        yield "`ledger_unreconciled` at the end; after one row was deleted by hand", f"{sum(self.found['before'].values())}; {', '.join(f'{kind} {n}' for kind, n in self.found['after'].items())}"
        yield "files open in a service that was not killed, the most: at the beginning, at the end", ", ".join(f"{max(of.values())}" for of in self.files)
        yield "things that are wrong", f"{len(self.wrong)}"


def choose_bus(options):
    """The slice takes Kafka where it is already; the whole proof gets it."""
    reason = stores.missing("kafka") if options.slice and not options.bus else None
    if reason:
        print(f"  without Kafka: {reason}")
    options.bus = options.bus or ("local" if reason else "kafka")
    if options.slice:
        options.rounds = 3 if options.bus == "local" else 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=600, help="ends after the round in which they are over")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; it is printed")
    parser.add_argument("--bus", choices=("kafka", "local"), help="default: kafka; for --slice where it is there already")
    parser.add_argument("--slice", action="store_true", help="one round of each, with Kafka where scripts/get-kafka has got it")
    parser.add_argument("--record", metavar="FILE", help="write the figures to FILE (docs/proofs.md)")
    parser.add_argument("--keep", help="an empty folder that stays, to look into")
    options = parser.parse_args()
    if reason := stores.missing("postgres"):
        print(f"ledger proof: skipped, {reason}")
        return 0
    choose_bus(options)
    options.seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"ledger proof: {options.rounds} kills, bus {options.bus}, seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="corral-ledger-") as folder:
        proof = Proof(options.keep or folder, options)
        asyncio.run(proof.run())
    for sentence in proof.wrong[:20]:
        print(f"  WRONG {sentence}")
    for what, figure in proof.figures():
        print(f"  {what}: {figure}")
    if options.record and not proof.wrong:
        record(options.record, f"ledger {options.bus}", proof.figures())
    print(f"ledger proof: {'every line has its one row' if not proof.wrong else f'{len(proof.wrong)} things are wrong'}")
    return 1 if proof.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
