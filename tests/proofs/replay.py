#!/usr/bin/env python3
"""The replay: mixed requests of every kind, and the ledger's tokens are those of the backends.

    tests/proofs/replay.py [--requests N] [--seed N] [--bus local|kafka] [--clients N] [--record FILE]

Every endpoint of inference, streamed and whole, with every end: answered, cut at any byte, ended without the protocol's own end, an error in the middle,
a status, no counts from the backend; left by its client before the first token, in the middle, unstreamed; broken by one backend and tried at another; asked
again, so that the cache answers. The services run apart with the ledger on PostgreSQL. After every 5,000 requests each attempt that a
backend received is compared with its row, and forgotten. The truth of an attempt is what the backend knows of it:

    answered whole         the tokens that it reported, prompt and completion, and status ok
    a stream that broke    the tokens whose events left it whole; status error
    left by the client     the same, and status cancelled; the backend has said N tokens and is silent, and the client has read them all
    whole, and broken      nothing was read that could be counted: 0
    no counts (usage=no)   the tokens of a stream; prompts, and answers that are not streams, are estimates then, and not compared; nor are whole
                           answers that lack their protocol's end

A row for which no backend has an attempt has to be not_sent, unknown, or attempt 0; an answer of the cache has the tokens of the first one.
"""
import argparse
import asyncio
import collections
import csv
import io
import random
import signal
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
CHATS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/api/chat", "/api/generate", "/inference", "/code-generation")
EMBEDS = ("/v1/embeddings", "/api/embed", "/api/embeddings")
# (how often, name, what the backend does, whether the client leaves)
ENDS = ((30, "answered", "answer {n}", None), (8, "no counts", "answer {n} usage=no", None), (10, "cut", "answer {n} cut={cut}", None),
        (5, "unterminated", "unterminated {n}", None), (4, "error in the middle", "event-error {n}", None), (2, "status", "status 500", None),
        (1, "closed", "close", None), (5, "left before the first token", "hang", "begun"), (8, "left in the middle", "stall {n}", "read"),
        (12, "tried at another", None, None), (15, "asked again", "question", None))
Row = collections.namedtuple("Row", "request attempt backend status prompt completion cached")


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


class Engine(Backend):
    """Remembers where each token of an answer ends, and tells the proof of each attempt when it begins and ends."""

    def _pieces(self, call, b):
        pieces, at, tokens, call.pieces = super()._pieces(call, b), 0, 0, []
        for data, n in pieces:
            at, tokens = at + len(data), tokens + n
            call.pieces.append((at - 2, tokens))                 # what follows an event is the end of its chunk
        return pieces


class Script:
    """One request: what is asked, and when its client leaves."""

    def __init__(self, dice):
        self.name, do, self.leaves = dice.choices([e[1:] for e in ENDS], [e[0] for e in ENDS])[0]
        self.embeds = self.leaves != "read" and dice.random() < 0.12
        self.path = dice.choice(EMBEDS if self.embeds else CHATS)
        self.stream = not self.embeds and (self.leaves == "read" or dice.random() < 0.5)
        self.tokens = dice.randint(20, 60)
        self.cacheable = do == "question"
        if self.cacheable:
            prompt = f"question {dice.randrange(QUESTIONS)}"
        else:
            prompt = "do: " + do.format(n=self.tokens, cut=dice.randint(1, self._shortest())) if do else "hello"
        self.body = self._body(prompt)

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


class Replay:
    def __init__(self, folder, options):
        self.folder, self.o, self.dice = Path(folder), options, random.Random(options.seed)
        self.truth, self.begun, self.hits = {}, set(), set()
        self.kinds, self.count, self.wrong = collections.Counter(), collections.Counter(), []
        self.error, self.after = 0, "00"

    def note(self, call, what):
        key = (call.request_id.replace("-", ""), call.backend.name)
        if not key[0]:
            return                                 # the registry tries a backend: nobody's request
        if what == "begin":
            self.begun.add(key[0])
        elif what == "end":
            self.count["lines"] += 1
            self.truth.setdefault(key, []).append(Truth(call))         # twice where it ended a kept connection with the request on it

    def backends(self):
        models = {"m": {}, "e": {"caps": ("embedding",)}}
        made = [Engine("a", "openai", {"m": {}}, slots=64, behaviours=["answer 4 cut=25"]), Engine("b", "openai", {"m": {}}, slots=64, behaviours=[f"answer {ANSWERED}"]),
                Engine("c", "ollama", models, slots=64, behaviours=[f"answer {ANSWERED}"]), Engine("d", "llamacpp", {"m": {}}, slots=64, behaviours=[f"answer {ANSWERED}"])]
        for backend in made:
            backend.note = self.note
        return made

    async def run(self):
        backends = self.backends()
        for backend in backends:
            await backend.start()
        self.place = Place(self.folder, backends, self.o.bus, ["--slots=a=64,b=64,c=64,d=64", "--workers=2", "--breaker-failures=1000", "--breaker-open=20ms",
                                                               "--cache-size=1m", "--decision-sample=0"])
        try:
            await asyncio.to_thread(self.place.start)
            await asyncio.sleep(2.5)               # a registry without a past lends no slots at first
            await self.batches()
        finally:
            self.wrong += await asyncio.to_thread(self.place.stop)
            for backend in backends:
                await backend.stop()

    async def batches(self):
        left, said, began = self.o.requests, 0, time.monotonic()
        while left > 0 and said < 50 and time.monotonic() - began < 60 * self.o.minutes:
            n = min(left, BATCH)
            left -= n
            todo = iter(range(n))
            await asyncio.gather(*(self.client(todo) for _ in range(self.o.clients)))
            await self.compare()
            rate = self.count["requests"] / (time.monotonic() - began)
            print(f"  {self.count['requests']} requests ({rate:.0f}/s), {self.count['lines']} attempts, token error {self.error}, wrong {len(self.wrong)}", flush=True)
            for sentence in self.wrong[said:]:
                print(f"  WRONG {sentence}", flush=True)
            said = len(self.wrong)
            for backend in self.place.backends:
                backend.calls.clear()

    async def client(self, todo):
        for _ in todo:
            await self.one(Script(self.dice))

    async def one(self, script):
        self.count["requests"] += 1
        self.kinds[script.what()] += 1
        c = Client(self.place.address, "POST", script.path, script.body, [f"traceparent: {self.trace()}"]).start()
        if script.leaves == "read":
            await c.until(lambda: f"w{script.tokens - 1} ".encode() in c.data, 30)
        elif script.leaves == "begun":
            await self.until_begun(c)
        else:
            await self.answered(c, script)
        c.leave(self.dice.random() < 0.3)
        if c.answer_headers.get("x-corral-cache") == "hit":
            self.hits.add(c.answer_headers["x-request-id"].replace("-", ""))
            self.count["answered from the cache"] += 1

    async def answered(self, c, script):
        try:
            await c.wait(60)
        except asyncio.TimeoutError:
            self.wrong.append(f"not answered within 60 s: {script.what()} {script.body}: {c.status} {c.answer_headers} {c.data[-200:]}")

    def trace(self):
        return f"00-{self.dice.getrandbits(128):032x}-{self.dice.getrandbits(64):016x}-01"

    async def until_begun(self, c):
        """Its id is not told before the answer: some backend has more requests than before, which is soon enough to leave at."""
        end, before = time.monotonic() + 5, len(self.begun)
        while len(self.begun) < before + 3 and time.monotonic() < end and not c.done.is_set():
            await asyncio.sleep(0.003)

    # --- the check ---

    def rows(self):
        text = self.place.postgres.sql("COPY (SELECT encode(request_id, 'hex'), attempt, backend, status, prompt_tokens, completion_tokens, cached FROM usage_tracker.v_attempts "
                                       f"WHERE request_id > decode('{self.after}', 'hex')) TO STDOUT WITH CSV")
        return [Row(r, int(a), b, s, int(p), int(c), x != "0") for r, a, b, s, p, c, x in csv.reader(io.StringIO(text))]

    async def finished(self):
        end, rows = time.monotonic() + 120, []
        while time.monotonic() < end:
            rows = await asyncio.to_thread(self.rows)
            have = collections.Counter((r.request, r.backend) for r in rows if r.status not in ("open", "not_sent"))
            if all(have[key] >= len(truths) for key, truths in self.truth.items()) and self.hits <= {r.request for r in rows}:
                break
            await asyncio.sleep(0.5)
        return rows

    async def compare(self):
        rows, had = await self.finished(), collections.defaultdict(list)
        for r in rows:
            self.count[f"rows {r.status}{' (cached)' if r.cached else ''}"] += 1
            had[r.request, r.backend].append(r)
        for key, truths in self.truth.items():
            self.attempts(key, truths, sorted((r for r in had.pop(key, []) if r.status != "not_sent"), key=lambda r: r.attempt))
        for key, more in had.items():
            for r in more:
                self.without(key, r)
        self.after = max((r.request for r in rows), default=self.after)
        self.truth, self.begun, self.hits = {}, set(), set()

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
        elif row.attempt and row.status not in ("not_sent", "unknown"):
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
        asyncio.run(replay.run())
    for what, figure in replay.figures():
        print(f"  {what}: {figure}")
    if options.record and not replay.wrong:
        record(options.record, "replay", replay.figures())
    print(f"replay: {'the ledger has the tokens of the backends' if not replay.wrong else f'{len(replay.wrong)} things are wrong'}")
    return 1 if replay.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
