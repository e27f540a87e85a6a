#!/usr/bin/env python3
"""Runs the scenarios of tests/scenarios/*.flow: the real `corral serve` between scripted backends and scripted clients.

    tests/scenarios/run.py [-k WORDS] [-j N] [-v] [FILE...]

Each scenario has its own process, ports, state folder and clock. After its last line the books are checked, whatever the
scenario was about: every request that a backend received has one row in the ledger and no row claims a sending that no
backend saw, tokens are equal where the answer was complete, no slot is in use, the program ends with status 0 on
SIGTERM, and its log holds no line of level error that the scenario did not allow, and no sanitizer's report.

The language, a line each (words in quotes may hold blanks; # begins a comment):

    scenario "NAME"
    needs root|PROGRAM                                skipped elsewhere
    backend NAME KIND [models=a,b] [slots=N] [loaded=no] [memory=one] [ctx=N] [caps=x,y] [params=7B] : BEHAVIOUR | BEHAVIOUR ...
    config NAME=VALUE ...                             options of corral; the next line of another kind starts it
    post PATH [model=M] [stream|whole] [prompt=P] [max_tokens=N] [json={...}] [header="A: b"] [times=N] [as NAME]
                                                      sent, and waited for
    open PATH ... [reading=no] [rate=N]               sent only
    put PATH json={...} [as NAME]
    get PATH [as NAME]      options PATH [header="A: b | C: d"] [as NAME]
    wait NAME [N bytes]                               to its end, or until that much of its body has come
    leave NAME [reset]      read NAME                 closes the connection; reads on
    now BACKEND : BEHAVIOUR | ...                     tests/fakes/scripted.py has the behaviours
    listing BACKEND hang|hang-once|answer             of its questions other than inference
    forget BACKEND MODEL ...  learn BACKEND MODEL ... it has them no more; it has them, like its first one
    advance 30s             pause 100ms               of virtual time; of real time
    signal TERM   kill   restart   stop
    redis start|stop|continue|kill                    a redis-server at {folder}/redis.sock, password geheim
    redis asked                                       waits until every worker asks it
    load N PATH [model=M] [as NAME]                   N different deterministic questions, ten at a time
    lock-ledger   unlock-ledger                       somebody else holds the ledger's database
    disk SIZE   fill-disk   empty-disk                the state folder on a disk of its own (root)
    sweep cut|split PATH BACKEND [stream|whole]       one request for each byte of the answer
    measure N PATH                                    requests one after another; their times
    allow "TEXT"                                      an error in the log that may be
    expect ...                                        looked at until it holds, 5 s at most; see class Expect
"""
import argparse
import asyncio
import concurrent.futures
import contextlib
import json
import operator
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from client import Client                                                    # noqa: E402
from corral import Corral, binary                                            # noqa: E402
from scripted import Backend, seconds, size                                  # noqa: E402

EVENTUALLY_S = 5
COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def number(word):
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        return word


def option_words(words):
    """(['stream'], {'model': 'm'}) of ['stream', 'model=m']."""
    plain = [w for w in words if not re.match(r"\w+=", w)]
    return plain, dict(w.split("=", 1) for w in words if re.match(r"\w+=", w))


def dig(value, path):
    for part in path.split("."):
        if isinstance(value, list) and "~" in part:               # name~a: the entry whose name is a
            key, _, wanted = part.partition("~")
            value = next((v for v in value if str(v.get(key)) == wanted), None)
        elif isinstance(value, list) and part == "count":
            value = len(value)
        elif isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def percentile(ordered, p):
    return ordered[len(ordered) * p // 100]


def same(value, wanted):
    if isinstance(value, bool):
        return str(value).lower() == wanted
    if value is None:
        return wanted == "null"
    if isinstance(value, (int, float)) and not isinstance(number(wanted), str):
        return value == number(wanted)
    return str(value) == wanted


def masked(body):
    """An answer but for ids and times."""
    body = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", body)
    body = re.sub(r'"(created|\w+_duration|latency_ms|ttft_ms)":[\d.]+', r'"\1":0', body)
    return re.sub(',"cost_microusd":[0-9]+', '', re.sub(r'"created_at":"[^"]*"', '"created_at":""', body))          # a hit costs nothing, and says so


def check(held, sentence):
    if not held:
        raise Failed(sentence)


class Scenario:
    """What a scenario has at run time, and its verbs: verb_x does the line `x …`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.backends, self.clients, self.groups, self.options = {}, {}, {}, {}
        self.corral, self.allowed, self.figures = None, [], []
        self.left_at, self.ledger_lock, self.disk, self.status, self.redis = None, None, None, None, None
        self.all_clients = []

    async def run(self, lines):
        try:
            for where, text in lines:
                try:
                    await self.line(text)
                except (Failed, AssertionError, ValueError, KeyError, asyncio.TimeoutError) as e:
                    raise Failed(f"{where}: {text}\n      {type(e).__name__ + ': ' if not isinstance(e, Failed) else ''}{e}") from e
            await self.books()
        finally:
            await self.clean()

    async def line(self, text):
        head, colon, tail = text.partition(" : ")
        words = shlex.split(head if head.split()[0] in ("backend", "now") else text)
        verb, words = words[0].replace("-", "_"), words[1:]
        if verb not in ("backend", "config", "needs", "disk", "allow") and words[:1] != ["start"] and self.corral is None:
            await self.start()
        behaviours = [b.strip() for b in tail.split("|")] if colon and verb in ("backend", "now") else None
        method = getattr(self, "verb_" + verb, None)
        check(method, f"there is no verb '{verb}'")
        await (method(words, behaviours) if verb in ("backend", "now") else method(words))

    async def start(self):
        self.corral = Corral(self.folder, list(self.backends.values()), self.options, state=self.disk and self.disk / "state")
        await self.corral.start()

    async def clean(self):
        for client in self.all_clients:
            client.leave()
        if self.corral:
            self.corral.kill()
        for backend in self.backends.values():
            await backend.stop()
        if self.ledger_lock:
            self.ledger_lock.close()
        if self.redis:
            self.redis.kill()
            self.redis.wait()
        if self.disk:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)

    # --- before the start ---

    async def verb_needs(self, words):
        if words == ["root"] and os.getuid() != 0:
            raise Skipped("needs root")
        if words != ["root"] and not shutil.which(words[0]):
            raise Skipped(f"needs {words[0]}")

    async def verb_backend(self, words, behaviours):
        name, kind, (plain, options) = words[0], words[1], option_words(words[2:])
        check(not plain, f"'{plain and plain[0]}' says nothing to a backend")
        traits = {}
        if "ctx" in options:
            traits["ctx"] = int(options["ctx"])
        if "caps" in options:
            traits["caps"] = options["caps"].split(",")
        if "params" in options:
            traits["params"] = int(float(options["params"].rstrip("B")) * 1e9)
        if "family" in options:
            traits["family"] = options["family"]
        models = {m: traits for m in options.get("models", "m").split(",")}
        match = re.fullmatch(r"(\w+)\[(\d+)\]", options.get("models", ""))      # m[64]: m0 … m63
        if match:
            models = {f"{match[1]}{i}": traits for i in range(int(match[2]))}
        slots = int(options.get("slots", 4))
        if kind != "llamacpp" and "slots" in options:
            self.options["slots"] = ",".join(filter(None, [self.options.get("slots"), f"{name}={slots}"]))
        backend = Backend(name, kind, models, slots, options.get("loaded") != "no", behaviours or ["answer 3"])
        backend.memory_of_one = options.get("memory") == "one"
        self.backends[name] = backend
        await backend.start()

    async def verb_config(self, words):
        self.options.update(w.split("=", 1) for w in words)

    async def verb_disk(self, words):
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size(words[0])}", "corral-test", str(self.disk)], capture_output=True, text=True)
        if done.returncode:
            self.disk = None
            raise Skipped(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    async def verb_allow(self, words):
        self.allowed.append(words[0])

    # --- clients ---

    def _body(self, path, plain, options):
        prompt, body = options.get("prompt", "hello"), {}
        if "model" in options:
            body["model"] = options["model"]
        if path.endswith("/completions") and "chat" not in path or path in ("/api/generate", "/generate", "/inference", "/api/ollama/inference", "/explain"):
            body["prompt"] = prompt
        elif path.endswith("/embeddings") or path == "/api/embed":
            body["prompt" if path == "/api/embeddings" else "input"] = prompt
        else:
            body["messages"] = [{"role": "user", "content": prompt}]
        if path.endswith("/messages"):
            body["max_tokens"] = 1000
        if "input" not in body and ("stream" in plain or "whole" in plain):
            body["stream"] = "stream" in plain
        if "max_tokens" in options:
            body["max_tokens"] = int(options["max_tokens"])
        body.update(json.loads(options.get("json", "{}")))
        return body

    def _open(self, words, method="POST"):
        name = None
        if "as" in words:
            name = words[words.index("as") + 1]
            words = words[:words.index("as")]
        path, (plain, options) = words[0], option_words(words[1:])
        unknown = set(plain) - {"stream", "whole"} | set(options) - {"model", "prompt", "max_tokens", "json", "header", "times", "reading", "rate", "repeat"}
        check(not unknown, f"{sorted(unknown)} says nothing to a request")
        if "repeat" in options:
            options["prompt"] = options.get("prompt", "word ") * int(options["repeat"])
        body = self._body(path, plain, options) if method == "POST" else json.loads(options["json"]) if method == "PUT" else None
        opened = []
        for _ in range(int(options.get("times", 1))):
            client = Client(self.corral.address, method, path, body, options["header"].split(" | ") if "header" in options else [],
                            reading=options.get("reading") != "no", rate=int(options["rate"]) if "rate" in options else None,
                            receive_buffer=4096 if options.get("reading") == "no" or "rate" in options else None).start()
            opened.append(client)
        name = name or f"r{len(self.groups) + 1}"
        self.groups[name] = opened
        self.all_clients += opened
        return opened

    def group(self, name):
        check(name in self.groups, f"no request is called '{name}'; there are {', '.join(self.groups)}")
        return self.groups[name]

    async def verb_post(self, words):
        for client in self._open(words):
            await client.wait()

    async def verb_open(self, words):
        self._open(words)
        await asyncio.sleep(0.02)

    async def verb_put(self, words):
        for client in self._open(words, "PUT"):
            await client.wait()

    async def verb_get(self, words):
        for client in self._open(words, "GET"):
            await client.wait()

    async def verb_options(self, words):
        for client in self._open(words, "OPTIONS"):
            await asyncio.wait_for(client.done.wait(), 30)

    async def verb_wait(self, words):
        for client in self.group(words[0]):
            if len(words) == 3 and words[2] == "bytes":
                check(await client.until(lambda c=client: len(c.data) >= int(words[1])), f"only {len(client.data)} bytes came")
            else:
                await client.wait()

    async def verb_leave(self, words):
        self.left_at = time.monotonic()
        for client in self.group(words[0]):
            client.leave("reset" in words)

    async def verb_read(self, words):
        for client in self.group(words[0]):
            client.reading.set()

    # --- backends, time, life ---

    async def verb_now(self, words, behaviours):
        await self.backends[words[0]].now(behaviours)

    async def verb_listing(self, words):
        self.backends[words[0]].listing = words[1]

    async def verb_forget(self, words):
        """The backend has these models no more."""
        for model in words[1:]:
            del self.backends[words[0]].models[model]

    async def verb_learn(self, words):
        models = self.backends[words[0]].models
        for model in words[1:]:
            models[model] = dict(next(iter(models.values())))

    async def verb_advance(self, words):
        await self.corral.advance(seconds(words[0]))

    async def verb_pause(self, words):
        await asyncio.sleep(seconds(words[0]))

    async def verb_signal(self, words):
        self.corral.signal(getattr(signal, "SIG" + words[0]))
        await asyncio.sleep(0.05)

    async def verb_stop(self, words):
        self.status = await self.corral.stop()
        check(self.status == 0, f"it ended with status {self.status}:\n{self.corral.tail()}")

    async def verb_kill(self, words):
        self.corral.kill()

    async def verb_restart(self, words):
        if self.corral.handle.poll() is None:
            await self.verb_stop(words)
        self.status = None
        await self.corral.start()

    # --- stores ---

    def ledger_file(self):
        found = sorted((self.corral.state / "usage-tracker").glob("*.db"))
        check(found, f"there is no ledger in {self.corral.state}/usage-tracker")
        return found[0]

    async def verb_lock_ledger(self, words):
        self.ledger_lock = sqlite3.connect(self.ledger_file(), isolation_level=None, timeout=10)
        self.ledger_lock.execute("BEGIN IMMEDIATE")

    async def verb_unlock_ledger(self, words):
        self.ledger_lock.execute("ROLLBACK")
        self.ledger_lock.close()
        self.ledger_lock = None

    async def verb_fill_disk(self, words):
        with (self.disk / "ballast").open("wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 65536)
        with (self.disk / "ballast").open("ab", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(b"x" * 512)

    async def verb_empty_disk(self, words):
        (self.disk / "ballast").unlink()

    async def verb_redis(self, words):
        if words == ["asked"]:
            return await self._redis_asked()
        if words != ["start"]:
            self.redis.send_signal({"stop": signal.SIGSTOP, "continue": signal.SIGCONT, "kill": signal.SIGKILL}[words[0]])
            return None
        socket = self.folder / "redis.sock"
        if self.redis:
            self.redis.wait()
            socket.unlink(missing_ok=True)
        self.redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(self.folder),
                                       "--requirepass", "geheim"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not socket.exists():
            check(time.monotonic() < end and self.redis.poll() is None, "redis-server does not start")
            await asyncio.sleep(0.02)
        return None

    async def _redis_asked(self):
        end = time.monotonic() + 20
        while True:
            ready = (await self.corral.metrics()).get('corral_cache_ready_workers{service="gateway"}', 0)
            if ready == 2:
                return
            check(time.monotonic() < end, f"{ready} workers ask Redis")
            await asyncio.sleep(0.05)

    # --- many at once ---

    async def verb_load(self, words):
        n, name, opened = int(words[0]), words[words.index("as") + 1], []
        for first in range(0, n, 10):
            some = [self._open([*words[1:words.index("as")], "whole", f"prompt={name} {i}", 'json={"options":{"temperature":0}}'])[0]
                    for i in range(first, min(first + 10, n))]
            for client in some:
                await client.wait()
            opened += some
        self.groups[name] = opened

    async def verb_sweep(self, words):
        what, path, backend, (plain, _) = words[0], words[1], self.backends[words[2]], option_words(words[3:])
        await Sweep(self, what, path, backend, plain).run()

    async def verb_measure(self, words):
        """Three rounds at most, for the quietest: other programs of this machine are not what is measured."""
        n, path, rounds = int(words[0]), words[1], []
        while not rounds or (len(rounds) < 3 and percentile(rounds[-1], 99) > 2):
            rounds.append(sorted([await self._timed(path) for _ in range(n)]))
        self.times_ms = min(rounds, key=lambda times: percentile(times, 99))
        self.figures.append(f"{path}: {n} requests, p50 {percentile(self.times_ms, 50):.2f} ms, p99 {percentile(self.times_ms, 99):.2f} ms, "
                            f"longest {self.times_ms[-1]:.2f} ms (quietest of {len(rounds)} rounds)")

    async def _timed(self, path):
        client = await Client(self.corral.address, "GET", path).start().wait()
        check(client.complete and client.status == 200, f"status {client.status} {client.broken}")
        return (client.ended_at - client.sent_at) * 1000

    # --- expectations and the books ---

    async def verb_expect(self, words):
        look = Expect(self).find(words)
        end = time.monotonic() + EVENTUALLY_S
        while True:
            try:
                held = look()
                if asyncio.iscoroutine(held):
                    await held
                return
            except (Failed, OSError, ValueError) as e:
                if time.monotonic() > end:
                    raise Failed(str(e)) from e
            await asyncio.sleep(0.02)

    async def books(self):
        if self.corral is None:
            return
        if self.status is None and self.corral.handle.poll() is None:
            await self._ledger_holds()
            await self._nothing_held()
            self.status = await self.corral.stop()
        check(self.status == 0, f"corral ended with status {self.status}:\n{self.corral.tail()}")
        complaints = self.corral.complaints(self.allowed)
        check(not complaints, "the log holds what nobody expected:\n      " + "\n      ".join(complaints[:5]))

    async def _ledger_holds(self):
        end = time.monotonic() + EVENTUALLY_S
        calls = [c for b in self.backends.values() for c in b.calls]
        for request_id in {c.request_id for c in calls}:
            of = [c for c in calls if c.request_id == request_id]
            while True:
                rows = await self.corral.rows(request_id)
                wrong = books_differ(of, rows)
                if not wrong:
                    break
                check(time.monotonic() < end, f"the books of request {request_id}: {wrong}; rows {rows}")
                await asyncio.sleep(0.03)

    async def _nothing_held(self):
        end = time.monotonic() + EVENTUALLY_S
        while True:
            _, body = await self.corral.json("/backends")
            held = [m for b in body["backends"] for m in b["models"] if m["in_use"] or m["queued"]]
            if not held:
                return
            check(time.monotonic() < end, f"slots or places are held at the end: {held}")
            await asyncio.sleep(0.03)


def books_differ(calls, rows):
    """Why the ledger's rows of one request do not fit what the backends saw of it; "" = they fit."""
    sent = [r for r in rows if r["status"] != "not_sent"]
    # A connection that was kept alive and broke before a byte came is replaced by a fresh one within the same attempt.
    replaced = sum(1 for c in calls if c.reused and not c.sent_bytes and c.behaviour.do in ("close", "answer") and c.answered_at is None and not c.closed_at)
    if not len(calls) - replaced <= len(sent) <= len(calls):
        return f"{len(calls)} calls at backends, {len(sent)} rows that were sent"
    if any(r["open"] for r in rows):
        return "a row is open"
    if len({r["attempt"] for r in rows}) != len(rows):
        return "an attempt has two rows"
    for c in calls:
        mine = [r for r in sent if r["backend"] == c.backend.name]
        if not mine:
            return f"backend {c.backend.name} was called, and no row says so"
        answered = c.answered_at and c.behaviour.do == "answer" and c.behaviour.usage and c.behaviour.cut is None
        if answered and any(r["status"] == "ok" and r["completion_tokens"] != c.sent_tokens for r in mine):
            return f"{c.sent_tokens} tokens were sent, {mine[0]['completion_tokens']} are booked"
        if any(r["completion_tokens"] > c.sent_tokens for r in mine if r["tokens_source"] == "counted") and len(mine) == 1:
            return f"{c.sent_tokens} tokens were sent, {mine[0]['completion_tokens']} are booked"
    return ""


class Expect:
    """The forms of `expect …`; each is a method whose docstring is the form, with its words as arguments.

    NAME is a request or a group of them, BACKEND a backend."""

    def __init__(self, scenario):
        self.s = scenario

    def find(self, words):
        for form in vars(Expect).values():
            pattern = (getattr(form, "__doc__", None) or "").split()
            if not pattern or not pattern[0].isupper() and pattern[0] != words[0]:
                continue
            many = pattern[-1].endswith("...")
            if len(words) < len(pattern) or (len(words) > len(pattern) and not many):
                continue
            if all(p.strip(".").isupper() or p == w for p, w in zip(pattern, words)):
                n = len(pattern) - 1 if many else len(pattern)
                taken = [w for p, w in zip(pattern[:n], words[:n]) if p.isupper()]
                if pattern[0] == "BACKEND" and words[0] not in self.s.backends or pattern[0] == "NAME" and words[0] not in self.s.groups:
                    continue
                return lambda: form(self, *taken, *([words[n:]] if many else []))
        raise Failed(f"expect: nothing fits '{' '.join(words)}'")

    def each(self, name, test):
        for client in self.s.group(name):
            check(test(client), f"status {client.status}, headers {client.answer_headers}, {'complete' if client.complete else client.broken}, "
                                f"body {client.text_body()[-700:]}")

    def status(self, name, code):
        """NAME status CODE"""
        self.each(name, lambda c: str(c.status) in code.split("|"))

    def count(self, name, code, n):
        """NAME count CODE N"""
        found = sum(str(c.status) == code for c in self.s.group(name))
        check(found == int(n), f"{found} have status {code}; all: {[c.status for c in self.s.group(name)]}")

    def header(self, name, header, value):
        """NAME header HEADER VALUE"""
        self.each(name, lambda c: (header.lower() not in c.answer_headers) if value == "absent" else
                  re.fullmatch(value, c.answer_headers.get(header.lower(), "")) is not None)

    def has(self, name, text):
        """NAME has TEXT"""
        self.each(name, lambda c: text in c.text_body())

    def lacks(self, name, text):
        """NAME lacks TEXT"""
        self.each(name, lambda c: text not in c.text_body())

    def error(self, name, text):
        """NAME error TEXT"""
        self.each(name, lambda c: text.lower() in c.error().lower() and c.error())

    def no_error(self, name):
        """NAME no-error"""
        self.each(name, lambda c: c.done.is_set() and not c.error())

    def text(self, name, text):
        """NAME text TEXT"""
        self.each(name, lambda c: c.done.is_set() and c.answer_text() == text)

    def same_as(self, name, other):
        """NAME same-as OTHER"""
        golden = masked(self.s.group(other)[0].text_body())
        self.each(name, lambda c: c.done.is_set() and masked(c.text_body()) == golden)

    def finished(self, name):
        """NAME finished"""
        self.each(name, lambda c: c.complete and c.finished())

    def broken_off(self, name):
        """NAME broken-off"""
        self.each(name, lambda c: c.done.is_set() and c.complete and c.error() and not c.finished())

    def complete(self, name):
        """NAME complete"""
        self.each(name, lambda c: c.complete)

    def within(self, name, duration):
        """NAME within DURATION"""
        self.each(name, lambda c: c.done.is_set() and c.ended_at - c.sent_at <= seconds(duration))

    def waits(self, name):
        """NAME waits"""
        self.each(name, lambda c: not c.done.is_set() and c.status is None)

    def member(self, name, path, compare, value):
        """NAME json PATH COMPARE VALUE"""
        for client in self.s.group(name):
            found = dig(client.json(), path)
            held = same(found, value) if compare == "=" else not same(found, value) if compare == "!=" else \
                value in str(found) if compare == "has" else COMPARE[compare](found, number(value))
            check(held, f"{path} is {found}")

    async def explained(self, name, path, compare, value):
        """explain NAME PATH COMPARE VALUE"""
        for client in self.s.group(name):
            status, body = await self.s.corral.json("/explain/" + client.answer_headers["x-request-id"])
            check(status == 200, f"status {status}: {body}")
            found = dig(body, path)
            check(value in str(found) if compare == "has" else same(found, value), f"{path} is {found}; {json.dumps(body)[:1500]}")

    async def models(self, names):
        """models NAMES..."""
        _, body = await self.s.corral.json("/v1/models")
        found = sorted(m["id"] for m in body["data"] if m["id"] != "auto")
        check(found == sorted(names), f"listed: {found}")

    def calls(self, backend, n):
        """BACKEND calls N"""
        found = len(self.s.backends[backend].calls)
        check(found == int(n), f"{found} calls")

    def most(self, backend, n):
        """BACKEND most N"""
        found = self.s.backends[backend].most_running
        check(found == int(n), f"{found} at once")

    def idle(self, backend):
        """BACKEND idle"""
        check(not self.s.backends[backend].running, f"{self.s.backends[backend].running} calls are under way")

    def closed(self, backend, duration):
        """BACKEND closed-within DURATION"""
        calls = [c for c in self.s.backends[backend].calls if c.closed_at]
        check(calls, "no connection was closed by the gateway before its answer was complete")
        after = max(c.closed_at for c in calls) - self.s.left_at
        check(after <= seconds(duration), f"closed {after * 1000:.0f} ms after the client left")

    def load(self, backend, how):
        """BACKEND load HOW"""
        loads = [c.load_finished for c in self.s.backends[backend].calls]
        check((how == "finished") in loads and (how != "finished") not in loads, f"loads: {loads}")

    def said(self, backend, text):
        """BACKEND received TEXT"""
        check(any(text in c.raw.decode(errors="replace") or any(text in f"{k}: {v}" for k, v in c.headers.items())
                  for c in self.s.backends[backend].calls), f"calls: {[c.raw[:300] for c in self.s.backends[backend].calls]}")

    async def rows(self, name, n):
        """rows NAME N"""
        for client in self.s.group(name):
            rows = await self.s.corral.rows(client.answer_headers.get("x-request-id") or self.id_of(client))
            check(len(rows) == int(n), f"rows: {rows}")

    def id_of(self, client):
        """A client that left before the head came does not know its id: the backend that was asked last does."""
        calls = [c for b in self.s.backends.values() for c in b.calls]
        check(calls, "no backend was asked, so no id is known")
        return max(calls, key=lambda c: c.at).request_id

    async def row(self, name, attempt, pairs):
        """row NAME ATTEMPT PAIRS..."""
        for client in self.s.group(name):
            rows = await self.s.corral.rows(client.answer_headers.get("x-request-id") or self.id_of(client))
            row = next((r for r in rows if r["attempt"] == int(attempt)), None)
            check(row, f"no such attempt; rows: {rows}")
            for pair in pairs:
                key, value = pair.split("=", 1)
                check(key in row and any(same(row[key], v) for v in value.split("|")), f"{key} is {row.get(key)}; row: {row}")

    async def usage(self, pairs):
        """usage PAIRS..."""
        _, body = await self.s.corral.json("/usage")
        for pair in pairs:
            key, value = pair.split("=", 1)
            check(same(body["totals"][key], value), f"{key} is {body['totals'][key]}")

    async def breaker(self, backend, model, state):
        """breaker BACKEND MODEL STATE"""
        _, body = await self.s.corral.json("/backends")
        found = dig(body, f"backends.name~{backend}.models.name~{model}.breaker")
        check(found == state, f"it is {found}")

    async def state(self, backend, state):
        """state BACKEND STATE"""
        _, body = await self.s.corral.json("/backends")
        found = dig(body, f"backends.name~{backend}.state")
        check(found == state, f"it is {found}")

    async def queued(self, backend, n):
        """queued BACKEND N"""
        _, body = await self.s.corral.json("/backends")
        found = sum(m["queued"] for m in dig(body, f"backends.name~{backend}.models"))
        check(found == int(n), f"{found} wait")

    async def in_use(self, backend, n):
        """in-use BACKEND N"""
        _, body = await self.s.corral.json("/backends")
        found = sum(m["in_use"] for m in dig(body, f"backends.name~{backend}.models"))
        check(found == int(n), f"{found} slots are in use")

    def log(self, text):
        """log TEXT"""
        check(any(text in json.dumps(line) for line in self.s.corral.log_lines()), f"the log ends with:\n{self.s.corral.tail()}")

    def no_log(self, text):
        """no-log TEXT"""
        check(not any(text in json.dumps(line) for line in self.s.corral.log_lines()), "the log has it")

    async def metric(self, name, compare, value):
        """metric SERIES COMPARE VALUE"""
        found = (await self.s.corral.metrics()).get(name, 0)
        check(COMPARE[compare](found, number(value)), f"it is {found}")

    def memory(self, most):
        """memory-below BYTES"""
        found = self.s.corral.memory_bytes()
        check(found < size(most), f"{found >> 20} MiB")

    def p99(self, most):
        """p99 MOST"""
        check(percentile(self.s.times_ms, 99) <= seconds(most) * 1000, self.s.figures[-1])

    async def exit(self, status):
        """exit STATUS"""
        self.s.status = await self.s.corral.wait_exit(0.01)
        check(self.s.status == int(status), f"status {self.s.status}")

    async def running(self):
        """running"""
        check(self.s.corral.handle.poll() is None, f"it ended with status {self.s.corral.handle.returncode}")


class Sweep:
    """One request for each byte of the wire answer: `cut` ends the connection there, `split` sends two pieces.

    Cut before the last byte of the protocol's own end the client must be told of a failure and never be given an end;
    split anywhere it must see the very answer of an undivided one. The requests go round the backend's models, so that
    no breaker opens for failures that are meant."""

    AT_ONCE = 8

    def __init__(self, scenario, what, path, backend, plain):
        self.s, self.what, self.path, self.backend, self.plain = scenario, what, path, backend, plain
        self.models = list(backend.models)

    async def one(self, i, behaviour):
        options = {"model": self.models[i % len(self.models)], "prompt": f"do: {behaviour}"}
        client = Client(self.s.corral.address, "POST", self.path, self.s._body(self.path, self.plain, options)).start()
        self.s.all_clients.append(client)
        return await client.wait()

    async def run(self):
        whole = await self.one(0, "answer 3")
        check(whole.complete and whole.finished() and not whole.error(), f"the undivided answer: {whole.status} {whole.text_body()}")
        self.text = whole.answer_text()
        n = self.backend.calls[-1].sent_bytes
        gate = asyncio.Semaphore(self.AT_ONCE)
        ends = await asyncio.gather(*(self._at(gate, k, n) for k in range(1 if self.what == "split" else 0, n)))
        failed = sum(ends)
        self.s.figures.append(f"{self.what} at each of {n} bytes of {self.path}: {len(ends) - failed} answers, {failed} failures told")

    async def _at(self, gate, k, n):
        async with gate:
            client = await self.one(k, f"answer 3 {self.what}={k}")
        where = f"{self.what} at byte {k} of {n}: status {client.status} {client.broken or ''} {client.text_body()[-600:]}"
        check(client.complete, where)
        if client.finished():
            check(not client.error() and client.status == 200 and client.answer_text() == self.text, where)
            check(self.what == "split" or k >= n - 30, "an end was made up: " + where)
            return False
        check(self.what == "cut" and client.error(), where)
        check(self.text.startswith(client.answer_text()), where)
        return True


# --- files, processes, the tally ---

def read_scenarios(path):
    """[(name, [(where, line)])] of one file; a line that ends with a backslash goes on in the next."""
    found, pending = [], ""
    for n, raw in enumerate(path.read_text().splitlines(), 1):
        line = pending + raw.strip()
        pending = ""
        if line.endswith("\\"):
            pending = line[:-1]
            continue
        if not line or line.startswith("#"):
            continue
        if line.startswith("scenario "):
            found.append((shlex.split(line)[1], []))
        elif not found:
            raise SystemExit(f"{path}:{n}: a file begins with a line `scenario \"NAME\"`")
        else:
            found[-1][1].append((f"{path.name}:{n}", line))
    return found


def run_one(name, lines):
    """(verdict, sentence, figures), in a process of its own."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corral-scenario-") as folder:
        scenario = Scenario(folder)
        try:
            asyncio.run(asyncio.wait_for(scenario.run(lines), 240))
            verdict, sentence = "ok", ""
        except Skipped as e:
            verdict, sentence = "skip", str(e)
        except Failed as e:
            verdict, sentence = "FAIL", str(e)
        except asyncio.TimeoutError:
            verdict, sentence = "FAIL", "it took longer than 240 s"
        except BaseException:
            verdict, sentence = "FAIL", traceback.format_exc()
        if verdict == "FAIL" and scenario.corral:
            sentence += "\n      log:\n" + scenario.corral.tail(12)
    return verdict, sentence, scenario.figures, time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("-k", default="", help="only scenarios whose name holds these words")
    parser.add_argument("-j", type=int, default=max(2, (os.cpu_count() or 2)), help="at a time")
    parser.add_argument("--again", type=int, default=2, help="so many that failed run once more, alone; what passes then is named as flaky")
    parser.add_argument("-v", action="store_true", help="times and figures too")
    options = parser.parse_args()
    files = options.files or sorted(Path(__file__).parent.glob("*.flow"))
    todo = [(path, name, lines) for path in files for name, lines in read_scenarios(path) if options.k in name]
    if not os.access(binary(), os.X_OK):
        raise SystemExit(f"{binary()} is not built; CORRAL_BIN may name another")
    tally, failed = {"ok": 0, "FAIL": 0, "skip": 0}, []

    def tell(path, name, verdict, sentence, figures, took):
        print(f"{verdict:4} {path.stem}: {name}{f' ({took:.1f} s)' if options.v else ''}{': ' + sentence if verdict == 'skip' else ''}", flush=True)
        for line in figures + ([sentence] if verdict == "FAIL" else []):
            print(f"     {line}", flush=True)

    with concurrent.futures.ProcessPoolExecutor(options.j) as pool:
        running = {pool.submit(run_one, name, lines): (path, name, lines) for path, name, lines in todo}
        for done in concurrent.futures.as_completed(running):
            path, name, lines = running[done]
            tell(path, name, *done.result())
            tally[done.result()[0]] += 1
            if done.result()[0] == "FAIL":
                failed.append((path, name, lines))
    if len(failed) <= options.again:                               # several ran at a time: once more, alone
        for path, name, lines in failed:
            result = run_one(name, lines)
            tell(path, name, *result)
            if result[0] == "ok":
                print(f"flaky: {path.stem}: {name}: failed, and passed when it ran once more", flush=True)
                tally["FAIL"] -= 1
                tally["ok"] += 1
    print(f"{tally['ok']} passed, {tally['FAIL']} failed, {tally['skip']} skipped")
    return 1 if tally["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())
