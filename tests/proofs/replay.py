#!/usr/bin/env python3
"""The replay: mixed requests of every kind, and the ledger's tokens are those of the backends.

    tests/proofs/replay.py [--requests N] [--seed N] [--bus local|kafka] [--clients N] [--record FILE]

Every endpoint of inference, streamed and whole, with every end: answered, cut at any byte, ended without the protocol's own end, an error in the middle,
a status, no counts from the backend; left by its client before the first token, in the middle, unstreamed; broken by one backend and tried at another; asked
again, so that the cache answers. The services run apart with the ledger on PostgreSQL. After every 5,000 requests each attempt that a
backend received is compared with its row, and forgotten, while the next are asked. The clients are one process, the backends another. Request N of a seed
is always the same. The truth of an attempt is what the backend knows of it:

    answered whole         the tokens that it reported, prompt and completion, and status ok
    a stream that broke    the tokens whose events left it whole; status error
    left by the client     the same, and status cancelled; the backend has said N tokens and is silent, and the client has read them all
    whole, and broken      nothing was read that could be counted: 0
    no counts (usage=no)   the tokens of a stream; prompts, and answers that are not streams, are estimates then, and not compared; nor are whole
                           answers that lack their protocol's end

A row for which no backend has an attempt has to be not_sent, unknown, or attempt 0; an answer of the cache has the tokens of the first one. At the end
the ledger has as many attempts as were compared.

At least a quarter of the streams leaves its backend event by event, the others in one to four pieces that are cut anywhere. Of the clients that leave before the first
token three quarters do so as soon as the backend has their request, the others at once or within milliseconds, wherever it is then.
"""
import argparse
import asyncio
import collections
import csv
import io
import itertools
import multiprocessing
import os
import random
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from client import Client                                        # noqa: E402
from ledger import Place                                         # noqa: E402
from record import record                                        # noqa: E402
from scripted import PROMPT_TOKENS, Backend, path_embeds          # noqa: E402
import stores                                                    # noqa: E402

BATCH, QUESTIONS, ANSWERED = 5000, 200, 6
BETWEEN = 0.02            # s, so that the ids of a batch are apart from those of the next, by their milliseconds
CHATS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat", "/api/generate", "/inference", "/code-generation")
EMBEDS = ("/v1/embeddings", "/api/embed", "/api/embeddings")
# (how often, name, what the backend does, whether the client leaves)
ENDS = ((30, "answered", "answer {n}", None), (8, "no counts", "answer {n} usage=no", None), (10, "cut", "answer {n} cut={cut}", None),
        (5, "unterminated", "unterminated {n}", None), (4, "error in the middle", "event-error {n}", None), (2, "status", "status 500", None),
        (1, "closed", "close", None), (5, "left before the first token", "hang", "begun"), (8, "left in the middle", "stall {n}", "read"),
        (12, "tried at another", None, None), (15, "asked again", "question", None))
OFTEN = list(itertools.accumulate(e[0] for e in ENDS))
Row = collections.namedtuple("Row", "request attempt backend status prompt completion cached")


def needs_truth(row):
    """A backend has to have had it."""
    return row.attempt > 0 and row.status not in ("not_sent", "unknown")


class Truth:
    """What a backend knows of an attempt."""
    __slots__ = ("path", "stream", "whole", "tokens", "counts", "ends", "said")

    def __init__(self, call):
        self.path, self.said = call.path, call.behaviour.text
        self.stream = bool(call.json.get("stream", call.backend.kind == "ollama")) and not path_embeds(call.path)
        framing = 9 if self.stream else 0                        # two line ends, the last chunk
        self.whole = call.behaviour.do == "answer" and call.total_bytes and call.sent_bytes >= call.total_bytes - framing
        self.counts, self.ends = call.behaviour.usage, call.behaviour.do != "unterminated"
        self.tokens = self._tokens(call)

    def _tokens(self, call):
        if not self.stream or not hasattr(call, "pieces"):
            return call.sent_tokens if self.whole else 0
        read = [tokens for end, tokens in call.pieces if end <= call.sent_bytes]
        return read[-1] if read else 0


def number_of(call):
    """The number of the request, behind the first line of what it asks; None = it has none."""
    _, _, number = call.prompt().partition("\n#")
    return int(number) if number.isdigit() else None


class Engine(Backend):
    """Remembers where each token of an answer ends; makes an answer once for all that ask for the same."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.made = {}

    def _pieces(self, call, b):
        same = (call.path, call.model, call.json.get("stream"), str(call.json.get("stream_options")), b.do, b.tokens, b.code, b.usage)
        if same not in self.made:
            self.made[same] = self._made(super()._pieces(call, b))
        pieces, call.pieces, whole = self.made[same]
        number = number_of(call)
        return pieces if number is None or number % 4 == 0 or len(pieces) < 2 else self._cut_anywhere(whole, call.pieces[-1][1], number)

    @staticmethod
    def _made(pieces):
        """(the pieces, where the tokens in them end, all as one)"""
        at, tokens, ends = 0, 0, []
        for data, n in pieces:
            at, tokens = at + len(data), tokens + n
            ends.append((at - 2, tokens))                        # what follows an event is the end of its chunk
        return pieces, ends, b"".join(data for data, _ in pieces)

    def _cut_anywhere(self, data, tokens, number):
        dice = random.Random(number)
        at = [0, *sorted(dice.randrange(1, len(data)) for _ in range(dice.randint(0, 3))), len(data)]
        return [(data[a:b], tokens if b == len(data) else 0) for a, b in zip(at, at[1:]) if a < b]


class Engines:
    """The backends, in a process of their own. They tell the clients' process which requests hang here, and the proof what they know of each attempt."""

    def __init__(self, backends, begun):
        self.backends, self.begun = backends, begun
        self.open, self.truth = set(), {}
        for backend in backends:
            backend.note = self.note

    def note(self, call, what):
        if what == "token" or not call.request_id:
            return                                 # none: the registry tries a backend, it is nobody's request
        if what == "begin":
            self.open.add(call)
            if call.behaviour.do == "hang":
                os.write(self.begun, struct.pack("<Q", number_of(call)))
        else:
            self.open.discard(call)
            key = (call.request_id.replace("-", ""), call.backend.name)
            self.truth.setdefault(key, []).append(Truth(call))         # twice where it ended a kept connection with the request on it

    async def run(self, pipe):
        for backend in self.backends:
            await backend.start()
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), self.answer, pipe, ended)
        await ended.wait()

    def answer(self, pipe, ended):
        """What is known of the requests with ids below one, once; and whether one of them is still here."""
        try:
            until = pipe.recv()
        except EOFError:
            ended.set()
            return
        told = {key: self.truth.pop(key) for key in [k for k in self.truth if k[0] < until]}
        pipe.send((told, any(call.request_id.replace("-", "") < until for call in self.open)))
        for backend in self.backends:
            backend.calls.clear()


class Script:
    """One request: what is asked, and when its client leaves. Request N of a seed is always the same."""

    def __init__(self, seed, number):
        self.number, self.dice = number, random.Random(seed << 40 | number)
        dice = self.dice
        _, self.name, do, self.leaves = dice.choices(ENDS, cum_weights=OFTEN)[0]
        self.embeds = self.leaves != "read" and dice.random() < 0.12
        self.path = dice.choice(EMBEDS if self.embeds else CHATS)
        self.stream = not self.embeds and (self.leaves == "read" or dice.random() < 0.5)
        self.tokens = dice.randint(20, 60)
        self.cacheable = do == "question"
        if self.cacheable:
            prompt = f"question {dice.randrange(QUESTIONS)}"
        else:
            prompt = ("do: " + do.format(n=self.tokens, cut=dice.randint(1, self._shortest())) if do else "hello") + f"\n#{number}"
        self.body = self._body(prompt)
        self.trace = f"00-{dice.getrandbits(128):032x}-{dice.getrandbits(64):016x}-01"
        self.reset, self.anywhere = dice.random() < 0.3, max(0, 0.006 * dice.random() ** 3 - 0.0001) if dice.random() < 0.25 else None

    def _shortest(self):
        """No answer has fewer bytes: one that is cut ends before its end. A server that ends a connection behind an answer may have read the next request."""
        return 80 * self.tokens if self.stream else 150 if self.embeds else 300

    def _body(self, prompt):
        body = {"model": "e" if self.embeds else "m"}
        if self.embeds:
            body["prompt" if self.path == "/api/embeddings" else "input"] = prompt
            return body
        body["stream"] = self.stream
        if self.cacheable:
            body.update({"options": {"temperature": 0}} if self.path.startswith("/api/") else {"temperature": 0})
        if self.path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if self.path == "/v1/messages":
            body["max_tokens"] = 500
        return body

    def what(self):
        return f"{self.path}{' streamed' if self.stream else ''}, {self.name}"


class Clients:
    """Those who ask, in a process of their own; a batch at a time."""

    def __init__(self, address, seed, clients, begun):
        self.address, self.seed, self.clients, self.begun, self.hanging = address, seed, clients, begun, {}

    async def run(self, pipe):
        loop = asyncio.get_running_loop()
        loop.add_reader(self.begun, self.has_begun)
        while job := await loop.run_in_executor(None, self.next_of, pipe):
            self.count, self.kinds, self.hits, self.wrong = collections.Counter(), collections.Counter(), set(), []
            numbers = iter(range(*job))
            await asyncio.gather(*(self.client(numbers) for _ in range(self.clients)))
            pipe.send((self.count, self.kinds, self.hits, self.wrong))

    @staticmethod
    def next_of(pipe):
        try:
            return pipe.recv()
        except EOFError:
            return None

    def has_begun(self):
        data = os.read(self.begun, 8 << 10)        # a pipe gives whole what was written whole, as long as it is asked for multiples of it
        for (number,) in struct.iter_unpack("<Q", data):
            if (hanging := self.hanging.get(number)) and not hanging.done():
                hanging.set_result(None)

    async def client(self, numbers):
        for number in numbers:
            await self.one(Script(self.seed, number))

    async def one(self, script):
        self.count["requests"] += 1
        self.kinds[script.what()] += 1
        c = Client(self.address, "POST", script.path, script.body, [f"traceparent: {script.trace}"])
        if script.leaves == "read":
            last = f"w{script.tokens - 1} ".encode()
            await c.start().until(lambda: last in c.data, 30)
        elif script.leaves == "begun":
            await self.until_begun(c, script)
        else:
            await self.answered(c.start(), script)
        c.leave(script.reset)
        if c.answer_headers.get("x-corral-cache") == "hit":
            self.hits.add(c.answer_headers["x-request-id"].replace("-", ""))
            self.count["answered from the cache"] += 1

    async def answered(self, c, script):
        await asyncio.wait((c.task,), timeout=60)
        if not c.done.is_set():
            self.wrong.append(f"not answered within 60 s: {script.what()} {script.body}: {c.status} {c.answer_headers} {c.data[-200:]}")

    async def until_begun(self, c, script):
        if script.anywhere is not None:
            c.start()
            await asyncio.sleep(script.anywhere)
            return
        begun = self.hanging[script.number] = asyncio.get_running_loop().create_future()
        await asyncio.wait((begun, c.start().task), timeout=5, return_when=asyncio.FIRST_COMPLETED)
        del self.hanging[script.number]


class Side:
    """A process of the proof, and the pipe to it; it ends with the proof."""

    def __init__(self, make, *others):
        self.pipe, its = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(make, its, (self.pipe, *others)), daemon=True)
        self.process.start()
        its.close()

    @staticmethod
    def _run(make, pipe, others):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for other in others:
            other.close()
        asyncio.run(make().run(pipe))

    def stop(self):
        self.process.kill()
        self.process.join()


class Replay:
    def __init__(self, folder, options):
        self.folder, self.o = Path(folder), options
        self.truth, self.hits = {}, set()
        self.kinds, self.count, self.wrong = collections.Counter(), collections.Counter(), []
        self.error, self.after = 0, "00"

    def backends(self):
        models = {"m": {}, "e": {"caps": ("embedding",)}}
        return [Engine("a", "openai", {"m": {}}, slots=64, behaviours=["answer 4 cut=25"]), Engine("b", "openai", {"m": {}}, slots=64, behaviours=[f"answer {ANSWERED}"]),
                Engine("c", "ollama", models, slots=64, behaviours=[f"answer {ANSWERED}"]), Engine("d", "llamacpp", {"m": {}}, slots=64, behaviours=[f"answer {ANSWERED}"])]

    def run(self):
        backends, (begun, begins) = self.backends(), os.pipe()
        self.place = Place(self.folder, backends, self.o.bus, ["--slots=a=64,b=64,c=64,d=64", "--workers=2", "--breaker-failures=1000", "--breaker-open=20ms",
                                                               "--cache-size=1m", "--decision-sample=0"])
        self.engines, self.clients = Side(lambda: Engines(backends, begins)), None
        try:
            self.place.start()
            self.clients = Side(lambda: Clients(self.place.address, self.o.seed, self.o.clients, begun), self.engines.pipe)
            time.sleep(2.5)                        # a registry without a past lends no slots at first
            self.batches()
            self.all_of_it()
        finally:
            if self.clients:
                self.clients.stop()
            self.wrong += self.place.stop()
            self.engines.stop()

    def batches(self):
        asked, said, began = 0, 0, time.monotonic()
        asked = self.ask(asked)
        while self.count["requests"] < asked:
            until = self.asked()
            if said < 50 and time.monotonic() - began < 60 * self.o.minutes:
                asked = self.ask(asked)
            self.compare(until)
            rate = self.count["requests"] / (time.monotonic() - began)
            print(f"  {self.count['requests']} requests ({rate:.0f}/s), {self.count['lines']} attempts, token error {self.error}, wrong {len(self.wrong)}", flush=True)
            for sentence in self.wrong[said:]:
                print(f"  WRONG {sentence}", flush=True)
            said = len(self.wrong)

    def ask(self, first):
        """Begins the next batch, where there is one."""
        last = min(first + BATCH, self.o.requests)
        if last > first:
            self.clients.pipe.send((first, last))
        return last

    def asked(self):
        """Waits for the end of a batch; the id below which its requests are, and above which the next ones."""
        count, kinds, self.hits, wrong = self.clients.pipe.recv()
        until = f"{time.time_ns() // 1_000_000 + 1:012x}"
        time.sleep(BETWEEN)
        self.count += count
        self.kinds += kinds
        self.wrong += wrong
        return until

    # --- the check ---

    def rows(self, until):
        text = self.place.postgres.sql("COPY (SELECT encode(request_id, 'hex'), attempt, backend, status, prompt_tokens, completion_tokens, cached FROM usage_tracker.v_attempts "
                                       f"WHERE request_id > decode('{self.after}', 'hex') AND request_id < decode('{until}', 'hex')) TO STDOUT WITH CSV")
        return [Row(r, int(a), b, s, int(p), int(c), x != "0") for r, a, b, s, p, c, x in csv.reader(io.StringIO(text))]

    def know(self, until):
        """Fetches what the backends know; True when they are done with all of it."""
        self.engines.pipe.send(until)
        told, open_yet = self.engines.pipe.recv()
        for key, truths in told.items():
            self.truth.setdefault(key, []).extend(truths)
            self.count["lines"] += len(truths)
        return not open_yet

    def finished(self, until):
        """The rows, as soon as each attempt has its own, and each row its attempt."""
        end, rows = time.monotonic() + 120, []
        while time.monotonic() < end:
            time.sleep(0.5)
            if not self.know(until):
                continue
            rows = self.rows(until)
            have = collections.Counter((r.request, r.backend) for r in rows if r.status not in ("open", "not_sent"))
            if all(have[key] >= len(truths) for key, truths in self.truth.items()) and self.hits <= {r.request for r in rows} and \
               all((r.request, r.backend) in self.truth for r in rows if needs_truth(r)):
                break
        return rows

    def compare(self, until):
        rows, had = self.finished(until), collections.defaultdict(list)
        for r in rows:
            self.count[f"rows {r.status}{' (cached)' if r.cached else ''}"] += 1
            self.count["compared"] += needs_truth(r)
            had[r.request, r.backend].append(r)
        for key, truths in self.truth.items():
            self.attempts(key, truths, sorted((r for r in had.pop(key, []) if r.status != "not_sent"), key=lambda r: r.attempt))
        for key, more in had.items():
            for r in more:
                self.without(key, r)
        self.wrong += [f"{request} was answered from the cache, and has no row that says so" for request in self.hits]
        self.after, self.truth = until, {}

    def all_of_it(self):
        """No row of an attempt came after its batch had been compared."""
        there = int(self.place.postgres.sql("SELECT count(*) FROM usage_tracker.v_attempts WHERE attempt > 0 AND status NOT IN ('not_sent', 'unknown')"))
        if there != self.count["compared"]:
            self.wrong.append(f"the ledger has {there} attempts, and {self.count['compared']} were compared")

    def attempts(self, key, truths, had):
        if len(had) != len(truths):
            self.wrong.append(f"{key}, {[t.said for t in truths]}: {len(had)} rows {had}")
            return
        for truth, row in zip(truths, had):
            self.attempt(truth, row)

    def attempt(self, truth, row):
        wanted = ("ok",) if truth.whole else ("error", "cancelled")
        compared = truth.stream or (truth.counts and truth.ends) or (not truth.whole and truth.ends)
        off = abs(row.completion - truth.tokens) if compared else 0
        off += abs(row.prompt - PROMPT_TOKENS) if truth.whole and truth.counts else 0
        self.error += off
        self.count["tokens"] += truth.tokens
        self.count["attempts with compared completions"] += compared
        self.count["attempts with compared prompts"] += bool(truth.whole and truth.counts)
        if off or row.status not in wanted:
            self.wrong.append(f"{truth.path}{' streamed' if truth.stream else ''}, {truth.said}: {truth.tokens} tokens{' whole' if truth.whole else ''}, and its row is {row}")

    def without(self, key, row):
        if row.cached and row.attempt == 0 and key[0] in self.hits:
            self.hits.discard(key[0])
            if (row.status, row.prompt) != ("ok", PROMPT_TOKENS) or row.completion not in (0, ANSWERED):
                self.wrong.append(f"an answer of the cache: {row}")
        elif needs_truth(row):
            self.wrong.append(f"no backend had it: {row}")

    def figures(self):
        c = self.count
        yield "requests, kinds of them (endpoint × stream × end)", f"{c['requests']:,}, {len(self.kinds)}"
        yield "attempts that backends received, each with one row", f"{c['lines']:,}"
        yield "attempts whose completion tokens were compared, whose prompt tokens", f"{c['attempts with compared completions']:,}, {c['attempts with compared prompts']:,}"
        yield "tokens sent, error of the ledger", f"{c['tokens']:,}, {self.error}"
        yield "rows", ", ".join(f"{name[5:]} {n:,}" for name, n in sorted(c.items()) if name.startswith("rows "))
        yield "answered from the cache", f"{c['answered from the cache']:,}"
        yield "things that are wrong", str(len(self.wrong))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=600, help="ends after the batch in which they are over")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; it is printed")
    parser.add_argument("--bus", choices=("kafka", "local"), default="local")
    parser.add_argument("--keep", help="an empty folder that stays, to look into")
    parser.add_argument("--record", metavar="FILE", help="write the figures to FILE (docs/proofs.md)")
    options = parser.parse_args()
    if reason := stores.missing("postgres"):
        print(f"replay: skipped, {reason}")
        return 0
    options.seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"replay: {options.requests} requests, bus {options.bus}, seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="corral-replay-") as folder:
        replay = Replay(options.keep or folder, options)
        replay.run()
    for what, figure in replay.figures():
        print(f"  {what}: {figure}")
    if options.record and not replay.wrong:
        record(options.record, "replay", replay.figures())
    print(f"replay: {'the ledger has the tokens of the backends' if not replay.wrong else f'{len(replay.wrong)} things are wrong'}")
    return 1 if replay.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
