#!/usr/bin/env python3
"""How long a backend goes on working for a client that left: measured at four moments of a request's life.

    tests/proofs/leave.py [--runs N]

prefill, mid-stream, unstreamed: from the client's close() to the end of the backend's connection, both seen by one clock.
queued: from the client's close() to its place in the queue being free, asked of GET /backends again and again, and never
a call at the backend. Every p99 has to be below 100 ms.
"""
import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from client import Client                                        # noqa: E402
from corral import Corral                                        # noqa: E402
from scripted import Backend                                     # noqa: E402

MOST_MS = 100


def ask(corral, model, behaviour, stream):
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": f"do: {behaviour}"}]}
    return Client(corral.address, "POST", "/v1/chat/completions", body).start()


async def until(condition, timeout=5):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it did not happen within 5 s")
        await asyncio.sleep(0.0005)


async def closed(corral, backend, behaviour, stream, ready):
    before = len(backend.calls)
    client = ask(corral, "m", behaviour, stream)
    await until(lambda: len(backend.calls) > before and ready(client))
    client.leave()
    call = backend.calls[-1]
    await until(lambda: call.closed_at)
    return call.closed_at - client.left_at


async def place_free(corral, backend):
    before = len(backend.calls)
    client = ask(corral, "one", "answer 1", True)
    await until_queued(corral, 1)
    client.leave()
    at = await until_queued(corral, 0)
    if len(backend.calls) != before:
        raise SystemExit("a request whose client left the queue was sent to the backend")
    return at - client.left_at


async def until_queued(corral, n):
    while True:
        _, body = await corral.json("/backends")
        if sum(m["queued"] for b in body["backends"] for m in b["models"] if m["name"] == "one") == n:
            return time.monotonic()


async def measure(runs):
    backend = Backend("a", "openai", {"m": {}, "one": {}}, slots=1)
    await backend.start()
    with tempfile.TemporaryDirectory(prefix="corral-leave-") as folder:
        corral = Corral(folder, [backend], {"slots": "a/m=8,a/one=1", "queue_timeout": "10m", "request_timeout": "20m"}, virtual_time=False)
        await corral.start()
        holder = ask(corral, "one", "hang", True)
        await until(lambda: backend.calls)
        moments = {
            "prefill": lambda: closed(corral, backend, "hang", True, lambda c: True),
            "mid-stream": lambda: closed(corral, backend, "answer 10000 gap=5ms", True, lambda c: len(c.data) > 500),
            "unstreamed": lambda: closed(corral, backend, "answer 5 wait=60s", False, lambda c: True),
            "queued": lambda: place_free(corral, backend),
        }
        bad = False
        for name, moment in moments.items():
            times = sorted([await moment() * 1000 for _ in range(runs)])
            print(f"  {name:11} {runs} runs: p50 {times[runs // 2]:.2f} ms, p99 {times[runs * 99 // 100]:.2f} ms, longest {times[-1]:.2f} ms", flush=True)
            bad |= times[runs * 99 // 100] >= MOST_MS
        holder.leave()
        status = await corral.stop()
        await backend.stop()
    return 1 if bad or status != 0 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    print("from a client's leaving to the backend's being free of it:")
    return asyncio.run(measure(options.runs))


if __name__ == "__main__":
    sys.exit(main())
