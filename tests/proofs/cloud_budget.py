#!/usr/bin/env python3
"""Money for the cloud: 200 parallel requests at a cap, three gateways, two cloud-fallback replicas, one of the parts killed -9 in half of the rounds.

    tests/proofs/cloud_budget.py [--rounds N] [--requests N] [--seed N] [--victims postgres,redis,usage-tracker,cloud] [--record FILE]

Each round caps one scope anew, in turn a provider (by its configuration), a tenant and an organisation, in tokens or in micro-dollars, and sends 200
requests at once to three gateways, streams and whole answers mixed. The gateways reach both cloud-fallbacks by one address, behind which a TCP balancer
takes either, as a Service of Kubernetes does. The provider is tests/fakes/providers.py in a process of its own: a line for each attempt with its tokens,
synced before the answer's last byte leaves, is what was spent, whether an answer came through or not.
In every other round PostgreSQL, Redis, the usage-tracker or one of the two cloud-fallbacks is killed at a random moment and started again.
It ends with 1 when by the provider's book more was spent than a cap allows, when an answer is of a kind that nothing explains, when a cap had room for
many more than were answered, when a line of the book has no row of its own in the ledger, or a row with other tokens than the provider reported, or when
afterwards anything is still held or in doubt, or the ledger has less than the book.
"""
import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "fakes"), str(HERE.parents[1] / "e2e")]
import stores                                                     # noqa: E402
from apart import Apart, Service, free_port, programs             # noqa: E402
from budgets import GATEWAYS, until                               # noqa: E402
from record import record                                         # noqa: E402
from servers import http as ask                                   # noqa: E402

ANSWER, INPUT, OUTPUT = 60, 2, 5              # tokens at most; micro-dollars a token
LIMITS = {"tokens": 4000, "microusd": 20000}
MOST = {"tokens": 400, "microusd": 1100}      # one request cannot need more
SCOPES = [(scope, unit) for unit in LIMITS for scope in ("provider", "tenant", "organisation")]
AWAY = "503, the usage-tracker was away"      # an ask of a gateway was not answered in time, which a busy machine makes happen, too
EXPLAINED = {200, 402, AWAY}
BY_CLOUD = {502, 503, "cut"}                   # where a cloud-fallback was killed with the request in its hands


class Balancer:
    """A TCP port of whose connections each goes to one of several others, by chance; to another one where that does not listen."""

    def __init__(self, ports, seed):
        self.ports, self.random, self.loop = ports, random.Random(seed), asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self.listen(), self.loop).result(30)

    async def listen(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0, backlog=512)
        return self.server.sockets[0].getsockname()[1]

    async def carry(self, reader, writer):
        for port in self.random.sample(self.ports, len(self.ports)):
            try:
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                pass
        else:
            writer.transport.abort()
            return
        ways = {asyncio.ensure_future(self.copy(reader, other_writer)), asyncio.ensure_future(self.copy(other_reader, writer))}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, other_writer):
            end.close()

    @staticmethod
    async def copy(source, sink):
        try:
            while piece := await source.read(1 << 16):
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass


class Proof:
    def __init__(self, folder, o, victims):
        self.folder, self.random, self.victims, self.o = folder, random.Random(o.seed), victims, o
        self.servers = {"postgres": stores.Postgres()} if not stores.missing("postgres") else {}
        if not stores.missing("redis"):
            self.servers["redis"] = stores.Redis(folder)
        self.apart = self.fake = None
        self.statuses, self.kills, self.wrong, self.spent, self.read = Counter(), Counter(), [], [], 0
        self.kind_of = [SCOPES[(n + n // len(SCOPES)) % len(SCOPES)] for n in range(o.rounds)]
        self.lines, self.sent = [], {}                            # of the book; request id of the provider's header -> round
        self.unanswered_lines, self.n_doubted, self.cloud_rounds = 0, 0, set()    # rounds in which a cloud-fallback was killed

    # --- the place ---

    def start_fake(self):
        self.book = self.folder / "book"
        self.fake = subprocess.Popen([sys.executable, HERE.parents[1] / "fakes/providers.py", "--book", self.book, "--key", "the-key-of-the-proof-1"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self.fake.stdout.readline().strip()

    def config(self, fake_url):
        """Of each round that caps a provider one with that cap; 'all' for the others."""
        def provider(name, cap):
            return f"  - {{name: {name}, kind: openai, url: \"{fake_url}/v1\", models: m, key_env: PROOF_KEY, {cap}, slots: 400}}\n"

        text = "providers:\n" + provider("all", "monthly_tokens: unlimited")
        for n, (scope, unit) in enumerate(self.kind_of):
            if scope == "provider":
                text += provider(f"p{n}", f"monthly_{unit}: {LIMITS[unit]}")
        (self.folder / "corral.yaml").write_text(text)

    def place(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("CORRAL_") or k == "CORRAL_BIN"}
        env.update(PROOF_KEY="the-key-of-the-proof-1", CORRAL_CLOUD_TOKEN="the-token-of-the-two-replicas")
        self.config(self.start_fake())
        options = ["--config", str(self.folder / "corral.yaml"), "--workers=1", "--queue-max=1000", "--queue-timeout=60s", "--cache=off", "--breaker-failures=1000"]
        if "postgres" in self.servers:
            env["CORRAL_DB"] = self.servers["postgres"].url
            subprocess.run([programs() / "corral", "migrate"], env=env, check=True, stdout=subprocess.DEVNULL)
        if "redis" in self.servers:
            (self.folder / "master").write_text("one secret for the three of them\n")
            options[5:6] = [f"--cache={self.servers['redis'].url}", "--cache-undigested=yes", f"--master-key-file={self.folder / 'master'}"]
        ports = [free_port(), free_port()]
        self.balancer = Balancer(ports, self.o.seed)
        options += [f"--cloud-listen=127.0.0.1:{ports[0]}", f"--cloud-endpoint=http://127.0.0.1:{self.balancer.port}"]
        self.apart = Apart(self.folder, "ipc", options, env, gateways=GATEWAYS)
        self.second_replica(ports)

    def second_replica(self, ports):
        first, name = self.apart["cloud-fallback"], "cloud-second"
        at = self.apart.places["cloud-fallback"][0]
        argv = [w.replace(f"--rpc-listen={at}", f"--rpc-listen={at}-2").replace(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}") for w in first.argv]
        admin = free_port()
        argv = [re.sub(r"^--admin-listen=.*", f"--admin-listen=127.0.0.1:{admin}", w) for w in argv]
        argv = [re.sub(r"^--state-dir=.*", f"--state-dir={self.folder / name}", w) for w in argv]
        others = {service: self.apart.services.pop(service) for service in GATEWAYS}
        self.apart.services[name] = Service(name, self.folder, argv, admin)
        self.apart.services.update(others)
        for gateway in others.values():
            gateway.argv = [f"{w},{at}-2" if w.startswith("--peer.cloud-fallback=") else w for w in gateway.argv]

    def start(self):
        for server in self.servers.values():
            server.start()
        self.place()
        self.urls = ["http://%s:%d" % self.apart.addresses[name] for name in GATEWAYS]
        for service in self.apart.services.values():
            service.start(self.apart.env)
        self.providers = ["all"] + [f"p{n}" for n, (scope, _) in enumerate(self.kind_of) if scope == "provider"]
        for url in self.urls:
            until(lambda: {f"{p}/m" for p in self.providers} <= {m["id"] for m in json.loads(ask(url + "/v1/models")[2])["data"]}, 60, "a gateway did not hear of the providers")
        price = {"model": "*", "input_microusd": INPUT * 10 ** 6, "output_microusd": OUTPUT * 10 ** 6, "valid_from": "2026-01-01"}
        for p in self.providers:
            until(lambda: ask(self.urls[0] + "/prices", {**price, "model": f"{p}/m"}, "PUT")[0] in (200, 201), 30, "a price could not be set")
        prices = len(json.loads(ask(self.urls[0] + "/prices")[2])["prices"])
        until(lambda: all(self.metric(name, "corral_prices") == prices for name in GATEWAYS), 30, "a gateway did not hear the prices")
        for url in self.urls:
            until(lambda: all(p["state"] == "ready" for p in json.loads(ask(url + "/providers")[2])["providers"]), 60, "a provider did not get ready")
        until(self.known, 30, "a gateway did not hear of the budgets")

    def metric(self, name, metric):
        found = re.search(rf"^{metric}(?:\{{[^}}]*\}})? (\d+)$", ask(self.apart[name].admin + "/metrics")[2], re.M)
        return int(found[1]) if found else -1

    def known(self):
        n = len(self.rows())
        return all(self.metric(name, "corral_budgets") == n for name in GATEWAYS)

    def rows(self):
        def got():
            status, _, text = ask(self.urls[0] + "/budgets", timeout=30)
            self.got = json.loads(text)["rows"] if status == 200 else None
            return self.got is not None
        until(got, 60, "the budgets cannot be read")
        return {r["scope"]: r for r in self.got}

    # --- a round ---

    def cap(self, n):
        """Sets the cap of the round; the scope, the model to ask for and the headers to ask with."""
        scope, unit = self.kind_of[n]
        if scope == "provider":
            return f"provider:p{n}", f"p{n}/m", {}
        headers = {}
        if scope == "tenant":
            made = []
            until(lambda: ask(f"{self.urls[0]}/tenants/t{n}", {}, "PUT")[0] in (200, 201), 30, "no tenant was made")
            until(lambda: made.append(ask(self.urls[0] + "/keys", {"name": f"k{n}", "role": "developer", "tenant": f"t{n}"}, "POST")) or made[-1][0] == 201, 30, "no key was made")
            headers = {"Authorization": "Bearer " + json.loads(made[-1][2])["secret"]}
            for url in self.urls:
                until(lambda: ask(url + "/v1/models", headers=headers)[0] == 200, 30, "a gateway did not hear of a key")
        name = f"{scope}:{scope[0]}{n}"
        until(lambda: ask(self.urls[0] + "/budgets", {"scope": name, "period": "month", unit: LIMITS[unit]}, "PUT")[0] == 200, 30, "a budget could not be set")
        until(self.known, 30, "a gateway did not hear of a budget")
        return name, "all/m", headers

    def one(self, i, n, model, headers, behaviour, stream):
        """The status; "cut" for a stream that ended without its end."""
        body = {"model": model, "max_tokens": ANSWER, "temperature": 0, "stream": stream, "messages": [{"role": "user", "content": f"do: {behaviour}\nround {n}, {i}"}]}
        try:
            status, head, text = ask(self.urls[i % len(self.urls)] + "/v1/chat/completions", body, headers=headers, timeout=90)
        except OSError as e:
            return repr(e)
        if head.get("X-Request-Id"):
            self.sent[head["X-Request-Id"]] = n
        if status == 503 and "the usage-tracker is away" in text:
            return AWAY
        return "cut" if status == 200 and stream and "data: [DONE]" not in text else status

    def behaviour(self):
        """Of a stream the tokens come one at a time."""
        stream, tokens = self.random.random() < 0.4, self.random.randint(1, ANSWER)
        gap = f" gap={self.random.randint(1, 4)}ms" if stream else ""
        return f"answer {tokens} wait={self.random.randint(5, 120)}ms{gap}", stream

    def kill_and_restart(self, what):
        name = self.random.choice(["cloud-fallback", "cloud-second"]) if what == "cloud" else what
        self.kills[name] += 1
        server = self.servers.get(name) or self.apart[name]
        time.sleep(self.random.uniform(0, 0.6))
        server.kill()
        time.sleep(self.random.uniform(0, 0.5))
        server.start() if name in self.servers else server.start(self.apart.env)

    def new_lines(self):
        with self.book.open() as f:
            f.seek(self.read)
            text = f.read()
        self.read += len(text.encode())
        return [json.loads(line) for line in text.splitlines()]

    def round(self, n):
        scope, model, headers = self.cap(n)
        kills = self.victims[n // 2 % len(self.victims)] if n % 2 else None
        asked = [(i, n, model, headers, *self.behaviour()) for i in range(self.o.requests)]
        with ThreadPoolExecutor(self.o.requests) as pool:
            got = [pool.submit(self.one, *words) for words in asked]
            if kills == "cloud":
                self.cloud_rounds.add(n)
            if kills:
                self.kill_and_restart(kills)
            statuses = Counter(g.result() for g in got)
        self.statuses += statuses
        self.judge(n, scope, kills, statuses)
        return statuses, kills

    def judge(self, n, scope, kills, statuses):
        unit = self.kind_of[n][1]
        row = self.settled(scope, unit)
        lines = self.new_lines()                                  # nothing is held any more, so nothing is under way
        self.lines += lines
        spent = sum(cost_of(line)[unit] for line in lines)
        self.spent.append((unit, spent, row[f"used_{unit}"]))
        place = f"round {n}, {scope}, {LIMITS[unit]} {unit}, killed {kills}"
        if spent > LIMITS[unit]:
            self.wrong.append(f"{place}: {spent} were spent")
        if row[f"used_{unit}"] < spent:
            self.wrong.append(f"{place}: the ledger has {row[f'used_{unit}']}, the provider's book {spent}")
        if row[f"used_{unit}"] > LIMITS[unit] or row["overdrawn"]:
            self.wrong.append(f"{place}: the budget is overdrawn: {row}")
        if kills != "cloud" and row[f"used_{unit}"] != spent:
            self.wrong.append(f"{place}: the ledger has {row[f'used_{unit}']}, the provider's book {spent}, and no answer was lost")
        if any(row[f"held_{u}"] or row["in_doubt_tokens"] for u in LIMITS):
            self.wrong.append(f"{place}: something is held or in doubt with nothing under way: {row}")
        if set(statuses) - EXPLAINED - (BY_CLOUD if kills == "cloud" else set()):
            self.wrong.append(f"{place}: {dict(statuses)}")
        if kills in (None, "redis") and not statuses[AWAY] and statuses[200] < LIMITS[unit] // MOST[unit] - len(GATEWAYS):
            self.wrong.append(f"{place}: only {statuses[200]} were answered")
        if scope.startswith("organisation:"):                     # it would cover the rounds to come
            until(lambda: ask(f"{self.urls[0]}/budgets?scope={scope}&period=month", method="DELETE")[0] in (200, 204), 30, "a budget could not be removed")
            until(self.known, 30, "a gateway did not hear of a budget's end")

    def settled(self, scope, unit):
        """The budget's row, as soon as nothing of it is held and it stands still."""
        end, last = time.monotonic() + 60, None
        while True:
            row = self.rows()[scope]
            quiet = not (row["held_tokens"] or row["in_doubt_tokens"] or row["held_microusd"])
            if (quiet and last == row[f"used_{unit}"]) or time.monotonic() > end:
                return row
            last = row[f"used_{unit}"] if quiet else None
            time.sleep(0.3)

    # --- the end ---

    def ledger(self):
        """{request: [(status, tokens)]} of all attempts at providers."""
        words = "SELECT request_id, status, prompt_tokens, completion_tokens FROM {}usage WHERE attempt > 0"
        if "postgres" in self.servers:
            rows = [line.split("|") for line in self.servers["postgres"].sql(words.format("usage_tracker.")).splitlines()]
        else:
            import sqlite3
            rows = sqlite3.connect(f"file:{self.apart.state}/usage-tracker/ledger.db?mode=ro", uri=True).execute(words.format("")).fetchall()
        found = defaultdict(list)
        for request, status, prompt, completion in rows:
            found[request.replace("-", "")].append((status, int(prompt), int(completion)))
        return found

    def books(self):
        """Each line of the book has a row of its own, with the tokens that it reported to whoever heard them. A row more there is where a cloud-fallback
        died with a request that it had not sent yet, and another attempt was made: nobody knows that, so it is booked."""
        end = time.monotonic() + 60
        while any(status == "open" for rows in self.ledger().values() for status, *_ in rows) and time.monotonic() < end:
            time.sleep(0.2)
        ledger, of = self.ledger(), defaultdict(list)
        for line in self.lines + self.new_lines():
            of[line["request_id"].replace("-", "")].append(line)
        self.n_rows = sum(len(ledger[r]) for r in of)
        killed = {request.replace("-", "") for request, n in self.sent.items() if n in self.cloud_rounds}
        for request, lines in of.items():
            rows = ledger[request]
            booked = [r for r in rows if r[0] != "not_sent" and sum(r[1:])]
            doubted = [r for r in booked if r[0] == "error"][:max(0, len(booked) - len(lines))] if request in killed else []
            self.n_doubted += len(doubted)
            if len(rows) < len(lines) or (len(lines) == 1 and len(booked) - len(doubted) > 1):
                self.wrong.append(f"request {request} has {len(lines)} lines in the provider's book and {len(rows)} rows in the ledger: {lines} {rows}")
            told = [(r[1], r[2]) for r in rows if r[0] == "ok"]
            if not Counter(told) <= Counter((line["prompt_tokens"], line["tokens"]) for line in lines):
                self.wrong.append(f"request {request}: the ledger has {rows}, the provider reported {lines}")
            self.unanswered_lines += len(lines) - len(told)
        for request, rows in ledger.items():
            if request not in of and any(status == "ok" for status, *_ in rows):
                self.wrong.append(f"request {request} is ok in the ledger, and the provider has no line of it")

    def figures(self):
        s = self.statuses
        yield "killed", ", ".join(f"{name} {n} times" for name, n in self.kills.items()) or "none"
        yield "answered 200, refused 402, refused 503 (a lease was needed while the ledger was away)", ", ".join(f"{s[code]:,}" for code in (200, 402, AWAY))
        yield "where a cloud-fallback was killed: 502, 503, streams cut short", ", ".join(f"{s[code]:,}" for code in (502, 503, "cut"))
        for unit, limit in LIMITS.items():
            spent = [x for u, x, _ in self.spent if u == unit]
            if spent:
                yield f"spent of each {limit:,} {unit}, by the provider's book", f"{min(spent):,} to {max(spent):,}, {sum(spent) // len(spent):,} on average, {len(spent)} caps"
        yield "caps overspent", str(sum(x > LIMITS[unit] for unit, x, _ in self.spent))
        yield "lines in the provider's book, rows of those requests in the ledger, lines whose answer was lost", f"{len(self.lines):,}, {self.n_rows:,}, {self.unanswered_lines:,}"
        yield "attempts booked that a killed cloud-fallback had not sent yet, and another answered", str(self.n_doubted)
        yield "lines without a row of their own, caps with anything held or in doubt afterwards", "0, 0"

    def stop(self):
        if self.apart:
            for service in reversed(self.apart.services.values()):
                status = service.stop()
                wrong = service.wrong() or (f"{service.name} ended with status {status}: {service.tail()}" if status else None)
                self.wrong += [wrong] if wrong else []
        for server in self.servers.values():
            server.stop()
        if self.fake:
            self.fake.terminate()
            self.fake.wait()


def cost_of(line):
    """What the provider wants for a line: it had the prompt, whatever became of the answer."""
    paid = line["status"] == 200
    return {"tokens": paid * (line["prompt_tokens"] + line["tokens"]), "microusd": paid * (INPUT * line["prompt_tokens"] + OUTPUT * line["tokens"])}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=48)
    arguments.add_argument("--requests", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=random.randrange(10 ** 6))
    arguments.add_argument("--victims", default="postgres,redis,usage-tracker,cloud")
    arguments.add_argument("--record", metavar="FILE", help="write the figures to FILE (docs/proofs.md)")
    o = arguments.parse_args()
    victims = [v for v in o.victims.split(",") if not (v in ("postgres", "redis") and stores.missing(v))]
    for name in ("postgres", "redis"):
        if stores.missing(name):
            print(f"  without {name}: {stores.missing(name)}")
    print(f"cloud budgets: {o.rounds} rounds of {o.requests} requests at a cap, three gateways, two cloud-fallbacks, seed {o.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(Path(folder), o, victims)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            proof.start()
            for n in range(o.rounds):
                statuses, kills = proof.round(n)
                unit, spent, used = proof.spent[-1]
                if n < 8 or n % 8 == 7 or proof.wrong:
                    print(f"  round {n + 1}, {proof.kind_of[n][0]}: {spent} {unit} spent, {used} in the ledger, answers {dict(statuses)}{f', killed {kills}' if kills else ''}", flush=True)
            proof.books()
        finally:
            proof.stop()
    for w in proof.wrong[:20]:
        print("FAIL", w)
    if o.record and not proof.wrong:
        record(o.record, "cloud budget", proof.figures())
    print(f"{'ok  ' if not proof.wrong else 'FAIL'} cloud budgets: {dict(proof.statuses)}; {len(proof.lines)} lines in the provider's book, "
          f"{sum(x > LIMITS[u] for u, x, _ in proof.spent)} caps overspent, faults {len(proof.wrong)}")
    return 1 if proof.wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("BUILD", "build")
    sys.exit(main())
