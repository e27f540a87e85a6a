#!/usr/bin/env python3
"""The kill proof: `kill -9` in the middle of mixed traffic, and the books are right afterwards.

    tests/proofs/kill.py [--rounds N] [--seed N] [--keep FOLDER]

Each round starts `corral serve` on the same state folder, lets clients loose on it (streams, whole answers, clients that
leave, backends that break so that another replica is tried, refusals, full queues; OpenAI and Ollama), and kills it at a
random moment; every fifth round is killed while it starts. The scripted backends write and sync one line for each attempt
that they receive: request id, backend, tokens sent so far, how it ended. After each kill the spool is read as it lies there.
At the end the program starts once more, ends in order, and its SQLite ledger is compared with the lines:

    each line has exactly one row                   no attempt is lost, none is booked twice
    a row without a line is not_sent or unknown     nothing is claimed that did not happen
    an answer that was complete has equal tokens    what was read is what is booked
    an attempt under way at the kill is unknown, with the tokens of its last checkpoint, which are not more than the line's
    no row is open, no request has two rows of one attempt, the sums of GET /usage are those of the rows
"""
import argparse
import asyncio
import collections
import json
import os
import random
import sqlite3
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from client import Client                                        # noqa: E402
from corral import Corral                                        # noqa: E402
from scripted import Backend                                     # noqa: E402

REC_BEGUN, REC_FINAL, REC_CHECKPOINT, SEAL = 5, 2, 4, 0xffffffff
LINE = 128


class Book:
    """The backends' own book: one line of fixed length for each attempt, written and synced when it begins and when it ends."""

    def __init__(self, path):
        self.file = open(path, "w+b", buffering=0)
        self.lines = 0

    def note(self, call, what):
        if not call.request_id:
            return                           # the registry tries a backend: nobody's request
        if what == "begin":
            call.line, self.lines = self.lines, self.lines + 1
        how = "under_way" if what != "end" else "whole" if self.whole(call) else "cut"
        text = f"{call.request_id} {call.backend.name} {call.sent_tokens} {how}"
        os.pwrite(self.file.fileno(), text.ljust(LINE - 1).encode() + b"\n", call.line * LINE)
        if what != "token":
            os.fdatasync(self.file.fileno())

    @staticmethod
    def whole(call):
        """All of it has left, but for the framing behind the end of a stream."""
        framing = 9 if call.json.get("stream") else 0        # two line ends, the last chunk
        return call.behaviour.do == "answer" and call.total_bytes and call.sent_bytes >= call.total_bytes - framing

    def read(self):
        self.file.seek(0)
        for line in self.file.read().decode().splitlines():
            request_id, backend, tokens, how = line.split()
            yield request_id.replace("-", ""), backend, int(tokens), how


# --- the spool, read from its files: an own reader, so that the proof does not lean on what it proves ---

def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    """The last value of each field of a protobuf message."""
    at, out = 0, {}
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            out[key >> 3], at = varint(data, at)
        elif key & 7 == 2:
            n, at = varint(data, at)
            out[key >> 3], at = data[at:at + n], at + n
        elif key & 7 == 1:
            out[key >> 3], at = data[at:at + 8], at + 8
        else:
            out[key >> 3], at = data[at:at + 4], at + 4
    return out


def spool_records(state):
    """(type, fields) of every record of every usage spool, in each spool's order."""
    for folder in sorted((state / "gateway" / "spool").glob("usage-*")):
        for segment in sorted(folder.glob("*.seg")):
            data, at = segment.read_bytes(), 0
            while at + 9 <= len(data):
                length, = struct.unpack_from("<I", data, at)
                if length in (0, SEAL):
                    break
                yield data[at + 8], fields(data[at + 9:at + 8 + length])
                at += (8 + length + 7) & ~7


def open_attempts(state):
    """{(request, attempt): tokens of the last checkpoint} of what has a START and no FINAL."""
    found = {}
    for kind, f in spool_records(state):
        key = (f.get(4, b"").hex(), f.get(5, 0))
        if kind == REC_BEGUN:
            found[key] = 0
        elif kind == REC_CHECKPOINT and key in found:
            found[key] = f.get(23, 0)
        elif kind == REC_FINAL:
            found.pop(key, None)
    return found


# --- traffic ---

class Traffic:
    def __init__(self, corral, dice):
        self.corral, self.dice, self.sent, self.left, self.complete = corral, dice, 0, 0, 0
        self.over = False

    def _request(self):
        dice = self.dice
        tokens = dice.randint(1, 60)
        ollama = dice.random() < 0.3
        path = dice.choice(["/api/chat", "/api/generate"]) if ollama else "/v1/chat/completions"
        behaviour = dice.choices([f"answer {tokens} gap={dice.randint(0, 12)}ms", f"answer {tokens} wait={dice.randint(1, 80)}ms",
                                  f"answer {tokens} cut={dice.randint(1, 900)}", f"unterminated {tokens}", f"event-error {tokens}",
                                  "status 500", "hang", None], [8, 4, 2, 1, 1, 1, 1, 4])[0]
        prompt = f"do: {behaviour}" if behaviour else "hello"             # None: as the backend itself likes it
        body = {"model": dice.choice(["m", "m", "m", "nobody"] if dice.random() < 0.1 else ["m"]), "stream": dice.random() < 0.65}
        body.update({"prompt": prompt} if path == "/api/generate" else {"messages": [{"role": "user", "content": prompt}]})
        leave = dice.uniform(0, 0.2) if behaviour == "hang" or dice.random() < 0.2 else None
        return path, body, leave

    async def client(self):
        while not self.over:
            path, body, leave = self._request()
            self.sent += 1
            c = Client(self.corral.address, "POST", path, body).start()
            try:
                await asyncio.wait_for(c.done.wait(), leave or 10)
            except asyncio.TimeoutError:
                c.leave(self.dice.random() < 0.3)
                self.left += 1
            finally:
                c.leave()
            self.complete += c.complete
            if c.status in (404, 429, 503):
                await asyncio.sleep(0.02)


class Proof:
    def __init__(self, folder, rounds, seed):
        self.folder, self.rounds, self.dice = Path(folder), rounds, random.Random(seed)
        self.book = Book(self.folder / "attempts.txt")
        self.at_kill, self.checkpointed = {}, 0
        self.count = collections.Counter()

    def backends(self):
        a = Backend("a", "openai", {"m": {}}, slots=4, behaviours=["answer 4 cut=25"])       # dies inside its head: always tried elsewhere
        b = Backend("b", "openai", {"m": {}}, slots=4, behaviours=["answer 6 gap=3ms"])
        c = Backend("c", "ollama", {"m": {}}, slots=4, behaviours=["answer 6 gap=3ms"])
        for backend in (a, b, c):
            backend.note = self.book.note
        return [a, b, c]

    async def run(self):
        backends = self.backends()
        for backend in backends:
            await backend.start()
        corral = Corral(self.folder, backends, {"slots": "a=4,b=4,c=4", "checkpoint": "25ms", "queue_max": "4", "queue_timeout": "300ms",
                                                "breaker_failures": "1000", "spool_segment": "64k"}, virtual_time=False)
        for n in range(self.rounds):
            await self.round(corral, n)
            if (n + 1) % 10 == 0:
                print(f"  {n + 1} rounds, {self.count['requests']} requests, {self.book.lines} attempts at backends", flush=True)
        corral.options["workers"] = "2"
        await corral.start(60)
        await self.settle(corral)
        totals = (await corral.json("/usage"))[1]["totals"]
        status = await corral.stop()
        for backend in backends:
            await backend.stop()
        return self.check(corral, status, totals)

    async def round(self, corral, n):
        corral.options["workers"] = str(self.dice.randint(1, 3))
        if n % 5 == 4:
            await self.killed_at_start(corral)
        else:
            await self.killed_in_traffic(corral)
        self.at_kill.update(open_attempts(corral.state))
        self.count["kills"] += 1

    async def killed_at_start(self, corral):
        starting = asyncio.create_task(corral.start())
        await asyncio.sleep(self.dice.uniform(0, 0.12))
        corral.kill()
        await asyncio.gather(starting, return_exceptions=True)
        self.count["kills while starting"] += 1

    async def killed_in_traffic(self, corral):
        await corral.start(60)
        traffic = Traffic(corral, self.dice)
        clients = [asyncio.create_task(traffic.client()) for _ in range(10)]
        await asyncio.sleep(self.dice.uniform(0.1, 0.8))
        corral.kill()
        traffic.over = True
        await asyncio.wait_for(asyncio.gather(*clients), 15)         # their connections ended with it
        self.count["requests"] += traffic.sent
        self.count["clients that left"] += traffic.left
        self.count["complete answers"] += traffic.complete

    async def settle(self, corral):
        """Until the ledger has closed and counted everything; what it never closes the check will name."""
        end, before = time.monotonic() + 30, None
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            now = self.rows(corral)
            if now == before and not any(status == "open" for _, _, _, status, _ in now):
                return
            before = now

    @staticmethod
    def rows(corral):
        db = sqlite3.connect(f"file:{corral.state}/usage-tracker/ledger.db?mode=ro", uri=True)
        try:
            return db.execute("SELECT request_id, attempt, backend, status, completion_tokens FROM usage ORDER BY 1, 2").fetchall()
        finally:
            db.close()

    def check(self, corral, status, totals):
        wrong, count = [], self.count
        rows = self.rows(corral)
        by_place = collections.defaultdict(list)
        for request, attempt, backend, how, tokens in rows:
            count[f"rows {how}"] += 1
            if attempt:
                by_place[request, backend].append((attempt, how, tokens))
        lines = collections.defaultdict(list)
        for request, backend, tokens, how in self.book.read():
            lines[request, backend].append((tokens, how))
        for place, said in lines.items():
            wrong += self.check_line(place, said, by_place.get(place, []))
        for place, had in by_place.items():
            if place not in lines and any(how not in ("not_sent", "unknown") for _, how, _ in had):
                wrong.append(f"{place}: booked as {had}, and no backend saw it")
        for (request, attempt), checkpoint in self.at_kill.items():
            wrong += self.check_unknown(request, attempt, checkpoint, rows_of(rows, request, attempt), lines)
        if len({(r[0], r[1]) for r in rows}) != len(rows):
            wrong.append("an attempt has two rows")
        if status != 0:
            wrong.append(f"corral ended with status {status}")
        wrong += corral.complaints()
        tokens = sum(r[4] for r in rows)
        attempts = sum(r[1] > 0 for r in rows)           # attempt 0: refused before any backend was asked
        if totals["completion_tokens"] != tokens or totals["attempts"] != attempts:
            wrong.append(f"GET /usage says {totals['attempts']} attempts and {totals['completion_tokens']} tokens, the rows {attempts} and {tokens}")
        count["rows"], count["lines"] = len(rows), self.book.lines
        return wrong

    def check_line(self, place, said, had):
        """A backend has a request twice where it ended a kept connection with the request on it: two attempts, in order."""
        sent = sorted(h for h in had if h[1] != "not_sent")
        if len(said) != len(sent):
            return [f"{place}: {len(said)} lines {said}, {len(sent)} rows {had}"]
        return [sentence for line, row in zip(said, sent) for sentence in self.check_pair(place, line, row)]

    def check_pair(self, place, line, row):
        (tokens, how), (_, status, booked) = line, row
        if status == "open":
            return [f"{place}: its row is open"]
        if status == "ok":
            self.count["equal tokens"] += how == "whole" and tokens == booked
            return [] if how == "whole" and tokens == booked else [f"{place}: {tokens} tokens sent ({how}), {booked} booked as ok"]
        return [] if booked <= tokens else [f"{place}: {tokens} tokens sent, {booked} booked as {status}"]

    def check_unknown(self, request, attempt, checkpoint, row, lines):
        if row is None or row[3] != "unknown":
            return [f"{request} attempt {attempt}: under way at the kill, and its row is {row}"]
        self.count["under way at a kill"] += 1
        self.count["of them with a checkpoint"] += checkpoint > 0
        if row[4] != checkpoint:
            return [f"{request} attempt {attempt}: the last checkpoint has {checkpoint} tokens, the row {row[4]}"]
        for tokens, _ in lines.get((request, row[2]), [])[-1:]:
            self.count["tokens after the last checkpoint"] += tokens - checkpoint
            if checkpoint > tokens:
                return [f"{request} attempt {attempt}: {checkpoint} tokens in the checkpoint, {tokens} sent"]
        return []


def rows_of(rows, request, attempt):
    return next((r for r in rows if r[0] == request and r[1] == attempt), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time; it is printed")
    parser.add_argument("--keep", help="an empty folder that stays, to look into")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    print(f"kill proof: {options.rounds} rounds, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="corral-kill-") as folder:
        proof = Proof(options.keep or folder, options.rounds, seed)
        wrong = asyncio.run(proof.run())
    for name, n in sorted(proof.count.items()):
        print(f"  {n:8} {name}")
    for sentence in wrong[:20]:
        print(f"  WRONG {sentence}")
    print(f"kill proof: {'every line has its one row' if not wrong else f'{len(wrong)} things are wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
