#!/usr/bin/env python3
"""Upgrade in place under load: no request fails, no stream is cut, and the books are right afterwards.

    tests/proofs/upgrade.py [--rounds N] [--streams N] [--seed N] [--arrangement one|apart]

Two arrangements: `corral serve`, and the gateway as a program of its own beside the others. All the time clients ask, some with a
new connection for each request, some with one that is kept alive. In each round 100 streams are opened; in their middle the program
is replaced (by SIGUSR2, by `corral upgrade`, by starting a successor by hand), and every one of them has to come to its own end in
the program before, which then has to end with status 0. Between the rounds successors are started that cannot take over: one with a
wrong option, one whose address is taken, one that is killed (-9) while it starts; afterwards everything has to be as before, the
questions to the stores too. At the end the ledger has to have one row for each attempt that a backend received, none of them open or
unknown, with equal tokens.
"""
import argparse
import asyncio
import collections
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "fakes"), str(HERE.parent)]
from client import Client                                        # noqa: E402
from corral import Corral, binary, free_port                     # noqa: E402
from kill import Book, Proof as KillProof                        # noqa: E402
from scripted import Backend                                     # noqa: E402

PR_SET_CHILD_SUBREAPER = 36


class Adopted:
    """A program that a program of ours started: it became our child when that one ended, or will."""

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:        # its parent still runs
                if not Path(f"/proc/{self.pid}").exists():
                    self.returncode = -99
        return self.returncode

    def wait(self, timeout=30):
        end = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class One(Corral):
    """`corral serve`, and its successors."""
    program = "corral"

    def command(self):
        return [binary(), "serve", "--listen", "%s:%d" % self.address, "--admin-listen", "%s:%d" % self.admin, "--state-dir", str(self.state), "--log-format",
                "json", "--backends", ",".join(f"{b.name}={b.kind}+{b.url}" for b in self.backends)]

    def _argv(self):
        self.admin, self.address = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        self.argv = self.command() + [f"--{k.replace('_', '-')}={v}" for k, v in self.options.items()]
        return self.argv

    def pid(self):
        return int((self.state / "gateway" / "lock").read_text() or 0)

    def successor(self, *more):
        return subprocess.Popen([*self.argv, "--upgrade", *more], stdin=subprocess.DEVNULL, stdout=self.log_file.open("ab"), stderr=subprocess.STDOUT,
                                env=self._environment())


class Apart(One):
    """The gateway as a program of its own; the others beside it, which are not replaced."""
    program = "gateway"

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.others = []

    def command(self):
        at = {name: f"ipc://{self.folder}/{name}" for name in ("model-registry", "selector", "usage-tracker", "access", "hardware-probe")}
        peers = [word for name, url in at.items() for word in ("--peer", f"{name}={url}")]
        for name, url in at.items():
            argv = [str(Path(binary()).parent / name), "--rpc-listen", url, "--admin-listen", f"127.0.0.1:{free_port()}", "--state-dir", str(self.state),
                    "--log-format", "json", *peers]
            if name == "model-registry":
                argv += ["--backends", ",".join(f"{b.name}={b.kind}+{b.url}" for b in self.backends), "--slots", self.options["slots"]]
            self.others.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log_file.open("ab"), stderr=subprocess.STDOUT, env=self._environment()))
        self.options = {k: v for k, v in self.options.items() if k != "slots"}
        return [str(Path(binary()).parent / "gateway"), "--listen", "%s:%d" % self.address, "--admin-listen", "%s:%d" % self.admin, "--state-dir", str(self.state),
                "--log-format", "json", *peers]

    async def stop(self, timeout=30):
        status = await super().stop(timeout)
        for other in reversed(self.others):
            other.send_signal(signal.SIGTERM)
        for other in self.others:
            try:
                status = other.wait(timeout) or status
            except subprocess.TimeoutExpired:
                other.kill()
                status = status or -9
        return status


class Load:
    """Clients that ask all the time; every failure is kept."""

    def __init__(self, corral, dice):
        self.corral, self.dice, self.going = corral, dice, True
        self.done, self.failed, self.tasks = collections.Counter(), [], []

    def start(self, fresh, kept):
        self.tasks = [asyncio.ensure_future(self.fresh()) for _ in range(fresh)] + [asyncio.ensure_future(self.kept()) for _ in range(kept)]

    async def stop(self):
        self.going = False
        await asyncio.wait_for(asyncio.gather(*self.tasks), 60)

    def body(self, stream):
        return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": f"do: answer {self.dice.randint(1, 8)} gap={self.dice.randint(0, 4)}ms"}]}

    async def fresh(self):
        while self.going:
            asked = Client(self.corral.address, "POST", "/v1/chat/completions", self.body(self.dice.random() < 0.5)).start()
            await asked.done.wait()
            if asked.complete and asked.status == 200 and not asked.error():
                self.done["with a new connection each"] += 1
            else:
                self.failed.append(f"new connection: status {asked.status}, {asked.broken}, {asked.data[:200]!r}")
            await asyncio.sleep(0.03)

    async def kept(self):
        reader = writer = None
        while self.going:
            try:
                if not writer:
                    reader, writer = await asyncio.open_connection(*self.corral.address)
                    self.done["connections kept alive"] += 1
                body = json.dumps(self.body(False)).encode()
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                data = await asyncio.wait_for(reader.readexactly(int(fields["content-length"])), 30)
                if " 200 " not in head.split("\r\n")[0]:
                    raise ValueError(head.split("\r\n")[0] + repr(data[:200]))
                self.done["on a connection kept alive"] += 1
                if fields.get("connection") == "close":
                    writer.close()
                    writer = None
            except (OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError) as e:
                self.failed.append(f"kept connection: {type(e).__name__} {e}")
                writer = None
            await asyncio.sleep(0.03)


class Proof:
    def __init__(self, arrangement, rounds, streams, seed):
        self.arrangement, self.rounds, self.streams = arrangement, rounds, streams
        self.dice, self.wrong, self.count, self.took = random.Random(seed), [], collections.Counter(), []

    async def run(self, folder):
        self.book = Book(Path(folder) / "attempts.txt")
        backends = [Backend(name, "openai", {"m": {}}, slots=100) for name in "ab"]
        for b in backends:
            b.note = self.book.note
            await b.start()
        corral = self.arrangement(folder, backends, {"workers": "2", "slots": "a=100,b=100", "queue_timeout": "30s", "checkpoint": "50ms",
                                                     "access_log": "errors"}, virtual_time=False)
        try:
            await corral.start(60)
            load = Load(corral, self.dice)
            load.start(6, 6)
            for n in range(self.rounds):
                await self.round(corral, n)
                await self.failing(corral, n)
            await load.stop()
            await self.settle(corral)
            totals = (await corral.json("/usage"))[1]["totals"]
        finally:
            status = await corral.stop()
            for b in backends:
                await b.stop()
        self.count.update(load.done)
        self.wrong += load.failed[:10]
        self.check(corral, status, totals)
        return self.wrong

    # --- one upgrade ---

    async def round(self, corral, n):
        before = corral.handle
        streams = [Client(corral.address, "POST", "/v1/chat/completions", {"model": "m", "stream": True, "messages": [
            {"role": "user", "content": f"do: answer 50 gap={self.dice.randint(40, 60)}ms"}]}).start() for _ in range(self.streams)]
        while not all(len(s.data) > 200 or s.done.is_set() for s in streams):
            await asyncio.sleep(0.005)
        began = time.monotonic()
        how = ("signal", "command", "hand")[n % 3]
        by_hand = await self.start_successor(corral, how)
        while corral.pid() in (0, before.pid):
            if time.monotonic() > began + 60:
                raise SystemExit(f"no successor took over:\n{corral.tail(30)}")
            await asyncio.sleep(0.002)
        self.took.append(f"{how} {(time.monotonic() - began) * 1000:.0f} ms")
        open_then = sum(not s.done.is_set() for s in streams)
        if open_then < self.streams * 0.9:
            self.wrong.append(f"only {open_then} of {self.streams} streams were open at the handover: the proof shows nothing")
        corral.handle = by_hand or Adopted(corral.pid())
        for s in streams:
            await asyncio.wait_for(s.done.wait(), 60)
        bad = [s for s in streams if s.status != 200 or not s.complete or not s.finished() or s.error()]
        self.wrong += [f"a stream over the upgrade: status {s.status}, {s.broken}, {s.data[-200:]!r}" for s in bad[:3]]
        ended = await asyncio.to_thread(before.wait, 60)
        if ended != 0:
            self.wrong.append(f"the program before ended with status {ended}")
        self.count["upgrades"] += 1
        self.count["streams open at an upgrade"] += open_then
        self.count["of them whole"] += len(streams) - len(bad)

    async def start_successor(self, corral, how):
        if how == "hand":
            return corral.successor()
        if how == "signal":
            corral.signal(signal.SIGUSR2)
            return None
        done = await asyncio.to_thread(subprocess.run, [binary(), "upgrade", "--state-dir", str(corral.state), "--program", corral.program],
                                       capture_output=True, text=True, timeout=90, env=corral._environment())
        if done.returncode != 0 or "has taken over" not in done.stdout:
            self.wrong.append(f"corral upgrade: {done.returncode} {done.stdout} {done.stderr}")
        return None

    # --- those that cannot ---

    async def failing(self, corral, n):
        pid = corral.pid()
        status = await asyncio.to_thread(corral.successor("--workers=many").wait, 60)
        self.expect(status == 1, f"a successor with a wrong option ended with status {status}")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            status = await asyncio.to_thread(corral.successor("--listen", "127.0.0.1:%d" % taken.getsockname()[1]).wait, 60)
        self.expect(status == 1, f"a successor whose address is taken ended with status {status}")
        await self.stores_answer(corral)
        killed = corral.successor()
        await asyncio.sleep(self.dice.uniform(0.003, 0.03))
        killed.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.01)
        if corral.pid() == killed.pid:               # it was quicker: let it be the one
            killed.send_signal(signal.SIGCONT)
            before, corral.handle = corral.handle, killed
            self.expect(await asyncio.to_thread(before.wait, 60) == 0, "the program before did not end well")
            self.count["upgrades"] += 1
            return
        killed.kill()
        killed.wait()
        self.count["successors that failed"] += 3
        await self.stores_answer(corral)
        self.expect(corral.pid() == pid and corral.handle.poll() is None, "the program that ran did not go on")

    def expect(self, condition, sentence):
        if not condition:
            self.wrong.append(sentence)

    async def stores_answer(self, corral):
        end, status = time.monotonic() + 20, None
        while time.monotonic() < end:
            status = (await corral.json("/usage"))[0]
            if status == 200:
                return
            await asyncio.sleep(0.02)
        self.wrong.append(f"GET /usage answers {status} after a successor failed")

    # --- the books ---

    async def settle(self, corral):
        end, before = time.monotonic() + 40, None
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            now = KillProof.rows(corral)
            if now == before and len(now) >= self.book.lines and not any(status == "open" for _, _, _, status, _ in now):
                return
            before = now

    def check(self, corral, status, totals):
        rows, lines = KillProof.rows(corral), collections.defaultdict(list)
        by_place = collections.defaultdict(list)
        for request, attempt, backend, how, tokens in rows:
            self.count[f"rows {how}"] += 1
            by_place[request, backend].append((how, tokens))
        for request, backend, tokens, how in self.book.read():
            lines[request, backend].append((tokens, how))
        for place, said in lines.items():
            had = by_place.get(place, [])
            if len(said) != 1 or len(had) != 1 or said[0][1] != "whole" or had[0] != ("ok", said[0][0]):
                self.wrong.append(f"{place}: the backend says {said}, the ledger {had}")
        self.wrong += [f"{place}: booked as {had}, and no backend saw it" for place, had in by_place.items() if place not in lines]
        if totals["attempts"] != len(rows) or totals["completion_tokens"] != sum(r[4] for r in rows):
            self.wrong.append(f"GET /usage says {totals}, there are {len(rows)} rows")
        self.count["attempts at backends"], self.count["rows"] = self.book.lines, len(rows)
        if status != 0:
            self.wrong.append(f"the last one ended with status {status}")
        self.wrong += corral.complaints(["did not take over", "is not an integer", "many", "cannot listen", "before it handed over", "--workers"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--arrangement", choices=["one", "apart"], action="append")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    bad = False
    for name in options.arrangement or ["one", "apart"]:
        with tempfile.TemporaryDirectory(prefix="corral-upgrade-") as folder:
            proof = Proof({"one": One, "apart": Apart}[name], options.rounds, options.streams, seed)
            wrong = asyncio.run(proof.run(folder))
        print(f"upgrade proof, {name}, seed {seed}; successors took over after: {', '.join(proof.took)}")
        for what, n in sorted(proof.count.items()):
            print(f"  {n:8} {what}")
        for sentence in wrong[:20]:
            print(f"  WRONG {sentence}")
        print(f"upgrade proof, {name}: {'no request failed, every attempt has its one row' if not wrong else f'{len(wrong)} things are wrong'}", flush=True)
        bad |= bool(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
