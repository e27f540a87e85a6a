#!/usr/bin/env python3
"""Budgets: 200 parallel requests at a limit, three gateways, PostgreSQL, Redis or the usage-tracker killed -9 in half of the rounds.

    tests/proofs/budgets.py [--rounds N] [--minutes M] [--requests N] [--seed N] [--victims postgres,redis,usage-tracker] [--money] [--record FILE]

Each round sets a budget of its own (user:uN) and sends 200 requests at once to three gateways. The backend keeps a book: what it really used for
whom, a random part of what it was allowed. In every other round one of the victims in turn is killed at a random moment and started again a little
later; those that need a lease while the ledger is away are refused with 503. A budget without a limit covers all of it, so that two scopes are settled
at once. Every service keeps what it has on PostgreSQL (synced), the gateways' cache is in Redis and is asked for each request; where one of them is
not installed, that is said, and it is done without.
With --money the limit is one in micro-dollars, at a price for what goes in and another for what comes out, and the book is kept in them.
It ends with 1 when by the backend's book more was used than a limit allows, when an answer is not 200, 402 or a 503 that says that the ledger is away,
when a budget was refused that had room for many more, or when afterwards the ledger's figure differs from the book or anything is still held or in doubt.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "fakes"), str(HERE.parents[1] / "e2e")]
import stores                                                     # noqa: E402
from apart import Apart, programs                                 # noqa: E402
from record import record                                         # noqa: E402
from servers import http as ask                                   # noqa: E402

ANSWER, SLOTS, ROOM = 60, 64, 13
TOKENS = {"unit": "tokens", "limit": 4000, "most": 300, "in": 1, "out": 1}        # most: one request cannot need more; see reserve.c
MONEY = {"unit": "microusd", "limit": 4000 * ROOM, "most": 300 * ROOM, "in": 7, "out": ROOM}
GATEWAYS = ("gateway", "second", "third")


class Engine:
    """An OpenAI-compatible server that uses a random part of what it may, and writes down how much for whom."""

    def __init__(self, seed, money):
        engine = self
        self.used, self.over, self.lock = Counter(), 0, threading.Lock()
        self.random = random.Random(seed)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, body):
                body = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.reply({"object": "list", "data": [{"id": "m", "object": "model"}]})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                who = asked["messages"][0]["content"].split()[0]
                with engine.lock:
                    completion, pause = engine.random.randint(1, asked["max_tokens"]), engine.random.uniform(0.005, 0.08)
                    prompt = engine.random.randint(1, len(who))
                time.sleep(pause)
                with engine.lock:
                    engine.used[who] += prompt * money["in"] + completion * money["out"]
                self.reply({"id": "x", "object": "chat.completion", "created": 1, "model": asked["model"],
                            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
                            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}})

            def log_message(self, *a):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 512

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def until(what, seconds, text):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if what():
                return
        except (OSError, ValueError, KeyError):
            pass
        time.sleep(0.02)
    raise SystemExit(f"FAIL {text} within {seconds} s")


class Proof:
    def __init__(self, folder, seed, victims, kind):
        self.folder, self.random, self.engine, self.victims, self.kind = folder, random.Random(seed), Engine(seed, kind), victims, kind
        self.limit, self.unit = kind["limit"], kind["unit"]
        self.servers = {"postgres": stores.Postgres()} if not stores.missing("postgres") else {}
        if not stores.missing("redis"):
            self.servers["redis"] = stores.Redis(folder)
        self.statuses, self.wrong, self.budgets, self.kills, self.apart, self.unprovoked, self.rounds = Counter(), [], 0, Counter(), None, 0, 0

    def place(self):
        env, options = {k: v for k, v in os.environ.items() if not k.startswith("CORRAL_") or k == "CORRAL_BIN"}, []
        if "postgres" in self.servers:
            env["CORRAL_DB"] = self.servers["postgres"].url
            subprocess.run([programs() / "corral", "migrate"], env=env, check=True, stdout=subprocess.DEVNULL)
        if "redis" in self.servers:
            (self.folder / "master").write_text("one secret for the three of them\n")
            options = [f"--cache={self.servers['redis'].url}", "--cache-undigested=yes", f"--master-key-file={self.folder / 'master'}"]
        return Apart(self.folder, "ipc", ["--backends", f"e=openai+{self.engine.url}", f"--slots=e={SLOTS}", "--workers=1", "--queue-max=1000",
                                          "--queue-timeout=60s", *options], env, gateways=GATEWAYS)

    def start(self):
        for server in self.servers.values():
            server.start()
        self.apart = self.place()
        self.urls = ["http://%s:%d" % self.apart.addresses[name] for name in GATEWAYS]
        for service in self.apart.services.values():
            service.start(self.apart.env)
        for url in self.urls:
            until(lambda: '"m"' in ask(url + "/v1/models")[2], 60, "a gateway did not get ready")

    def known(self):
        return all(f"corral_budgets {self.budgets}" in ask(self.apart[name].admin + "/metrics")[2].replace('{service="gateway"}', "") for name in GATEWAYS)

    def prices(self):
        """Of a million tokens. Those of the two kinds differ, so that one booked as the other would be seen."""
        price = {"model": "*", "input_microusd": self.kind["in"] * 1_000_000, "output_microusd": self.kind["out"] * 1_000_000}
        until(lambda: ask(self.urls[0] + "/prices", price, method="PUT")[0] == 201, 30, "a price could not be set")

    def put(self, scope, limit):
        def done():
            return ask(self.urls[0] + "/budgets", {"scope": scope, "period": "month", self.unit: limit}, method="PUT")[0] == 200
        until(done, 30, "a budget could not be set")
        self.budgets += 1
        until(self.known, 30, "a gateway did not hear of a budget")

    def one(self, i, user):
        try:
            status, _, text = ask(self.urls[i % len(self.urls)] + "/v1/chat/completions",
                               {"model": "m", "max_tokens": ANSWER, "temperature": 0, "messages": [{"role": "user", "content": f"{user} {i}"}]},
                               headers={"X-Corral-User": user}, timeout=90)
            return "503 for another reason" if status == 503 and "the usage-tracker is away" not in text else status
        except OSError as e:
            return repr(e)

    def kill_and_restart(self, name):
        server = self.servers.get(name) or self.apart[name]
        self.kills[name] += 1
        time.sleep(self.random.uniform(0, 0.6))
        server.kill()
        time.sleep(self.random.uniform(0, 0.5))
        server.start() if name in self.servers else server.start(self.apart.env)

    def round(self, n, requests):
        self.rounds = n + 1
        user, kills = f"u{n}", self.victims[n // 2 % len(self.victims)] if n % 2 else None
        self.put(f"user:{user}", self.limit)
        with ThreadPoolExecutor(requests) as pool:
            asked = [pool.submit(self.one, i, user) for i in range(requests)]
            if kills:
                self.kill_and_restart(kills)
            statuses = Counter(a.result() for a in asked)
        self.statuses += statuses
        if self.engine.used[user] > self.limit:
            self.wrong.append(f"round {n}: {self.engine.used[user]} of {self.limit} {self.unit} were used")
        harmless = kills in (None, "redis")        # the cache has no part in it
        self.unprovoked += statuses[503] if harmless else 0
        if set(statuses) - {200, 402, 503}:
            self.wrong.append(f"round {n}, killed {kills}: {dict(statuses)}")
        if harmless and statuses[200] < self.limit // self.kind["most"] - len(GATEWAYS):
            self.wrong.append(f"round {n}: only {statuses[200]} were answered")
        return statuses, kills

    def rows(self):
        end = time.monotonic() + 60
        while True:
            status, _, text = ask(self.urls[0] + "/budgets", timeout=30)
            if status == 200:
                return {r["scope"]: r for r in json.loads(text)["rows"]}
            if time.monotonic() > end:
                raise SystemExit(f"FAIL the budgets cannot be read: {text}")
            time.sleep(0.2)                            # the ledger has just come back

    def settled(self):
        rows = self.rows()
        return all(r[f"held_{self.unit}"] == r[f"in_doubt_{self.unit}"] == 0 and r[f"used_{self.unit}"] == self.expected(scope) for scope, r in rows.items())

    def expected(self, scope):
        return self.engine.used[scope[5:]] if scope.startswith("user:") else sum(self.engine.used.values())

    def finish(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and not self.settled():
            time.sleep(0.2)
        self.rows_at_end = self.rows()
        for scope, r in self.rows_at_end.items():
            used, held, in_doubt = (r[f"{what}_{self.unit}"] for what in ("used", "held", "in_doubt"))
            if used != self.expected(scope):
                self.wrong.append(f"{scope}: the ledger has {used} {self.unit}, the backend's book {self.expected(scope)}")
            if held or in_doubt:
                self.wrong.append(f"{scope}: {held} {self.unit} are held and {in_doubt} in doubt with nothing under way")
            if r["overdrawn"]:
                self.wrong.append(f"{scope}: overdrawn {r['overdrawn']} times")

    def figures(self, used):
        s, rows, unit = self.statuses, self.rows_at_end, self.unit
        yield "rounds", str(self.rounds)
        yield "killed", ", ".join(f"{name} {n} times" for name, n in self.kills.items()) or "none"
        yield "answered 200, refused 402, refused 503 (a lease was needed while the ledger was away)", ", ".join(f"{s[code]:,}" for code in (200, 402, 503))
        yield "of the 503, in rounds in which nothing was killed, or Redis: an ask of a gateway was not answered in time", str(self.unprovoked)
        yield f"used of each {self.limit:,} {unit}, by the backend's book", f"{min(used):,} to {max(used):,}, {sum(used) // len(used):,} on average"
        yield "budgets overspent", str(sum(u > self.limit for u in used))
        yield "budgets whose figure in the ledger differs from the book, afterwards", str(sum(r[f"used_{unit}"] != self.expected(scope) for scope, r in rows.items()))
        yield "budgets with anything held or in doubt, afterwards", str(sum(bool(r[f"held_{unit}"] or r[f"in_doubt_{unit}"]) for r in rows.values()))

    def stop(self):
        if self.apart:
            self.stop_services()
        for server in self.servers.values():
            server.stop()

    def stop_services(self):
        for name in (*GATEWAYS, *(n for n in self.apart.services if n not in GATEWAYS)):
            self.apart[name].stop()
            wrong = self.apart[name].wrong()
            if wrong:
                self.wrong.append(wrong)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--minutes", type=float, default=600, help="ends after the round in which they are over")
    arguments.add_argument("--requests", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    arguments.add_argument("--victims", default="postgres,redis,usage-tracker")
    arguments.add_argument("--money", action="store_true", help="a limit in micro-dollars instead of tokens")
    arguments.add_argument("--record", metavar="FILE", help="write the figures to FILE (docs/proofs.md)")
    o = arguments.parse_args()
    kind = MONEY if o.money else TOKENS
    victims = [v for v in o.victims.split(",") if not (v in ("postgres", "redis") and stores.missing(v))]
    for name in ("postgres", "redis"):
        if stores.missing(name):
            print(f"  without {name}: {stores.missing(name)}")
    print(f"budgets: {o.rounds} rounds of {o.requests} requests at a limit of {kind['limit']} {kind['unit']}, three gateways, seed {o.seed}")
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(Path(folder), o.seed, victims or ["usage-tracker"], kind)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            proof.start()
            if o.money:
                proof.prices()
            proof.put("organisation:all", None)
            end = time.monotonic() + 60 * o.minutes
            for n in range(o.rounds):
                if time.monotonic() > end:
                    break
                statuses, kills = proof.round(n, o.requests)
                if n < 6 or n % 10 == 9:
                    print(f"  round {n + 1}: {proof.engine.used[f'u{n}']} {kind['unit']} used, answers {dict(statuses)}{f', killed {kills}' if kills else ''}", flush=True)
            proof.finish()
            used = [proof.engine.used[f"u{n}"] for n in range(proof.rounds)]
        finally:
            proof.stop()
    for w in proof.wrong[:20]:
        print("FAIL", w)
    if o.record and not proof.wrong:
        record(o.record, "budgets money" if o.money else "budgets", proof.figures(used))
    print(f"{'ok  ' if not proof.wrong else 'FAIL'} budgets: {dict(proof.statuses)}; used of {kind['limit']}: {min(used)} to {max(used)}, mean {sum(used) // len(used)}; "
          f"overspent {sum(u > proof.limit for u in used)}, faults {len(proof.wrong)}")
    return 1 if proof.wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("BUILD", "build")
    sys.exit(main())
