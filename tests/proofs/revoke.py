#!/usr/bin/env python3
"""Revocation: two gateways of two workers, 100,000 keys; how long a revoked key is good anywhere.

    tests/proofs/revoke.py [--keys N] [--rounds N]

Each round revokes one key through one gateway while twelve connections to each gateway, over all of its workers, ask with it again and again.
The time runs from the sending of the DELETE until every connection was refused, the last of them at the slowest worker. Then the same for a
gateway that was killed, missed revocations and was started again, with its keys on disk. It ends with 1 when anything took 5 s or more.
"""
import argparse
import hashlib
import http.client
import re
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "e2e")]
from servers import http as ask                                   # noqa: E402
from test_access import Engine, as_key, until                     # noqa: E402
from test_limits import Two                                       # noqa: E402

CONNECTIONS = 12
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def field(number, value):
    """A string or a whole number of a protobuf message."""
    def varint(n):
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value if isinstance(value, bytes) else value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def fill(path, n):
    """n keys straight into the store of an access service that does not run; nobody has their secrets."""
    now = int(time.time() * 1e6)
    with sqlite3.connect(path) as db:
        for i in range(n):
            digits = int.from_bytes(hashlib.sha256(b"id %d" % i).digest(), "big")
            id = "".join(ALPHABET[digits // 62 ** k % 62] for k in range(16))
            hash, name = hashlib.sha256(b"secret %d" % i).digest(), f"key-{i}"
            body = field(1, id) + field(2, hash) + field(3, "default") + field(6, 6) + field(7, name) + field(8, now)
            db.execute("INSERT INTO keys (id, hash, tenant, name, role, created_us, expires_us, ended_us, replaces, body) VALUES (?,?,?,?,6,?,0,0,'',?)",
                       (id, hash, "default", name, now, body))


class Asker(threading.Thread):
    """One connection that asks with a key until it is refused."""

    def __init__(self, url, secret):
        super().__init__(daemon=True)
        self.c, self.secret, self.refused_at, self.wrong = http.client.HTTPConnection(*url[7:].split(":"), timeout=30), secret, None, None

    def run(self):
        while not self.refused_at and not self.wrong:
            self.c.request("GET", "/api/version", headers=as_key(self.secret))
            answer = self.c.getresponse()
            answer.read()
            if answer.status == 401:
                self.refused_at = time.monotonic()
            elif answer.status != 200:
                self.wrong = answer.status
            time.sleep(0.002)


def one_round(two, secret):
    """Seconds until no connection is let in any more."""
    askers = [Asker(url, secret) for url in two.urls for _ in range(CONNECTIONS)]
    for a in askers:
        a.start()
    time.sleep(0.05)
    began = time.monotonic()
    status, _, text = ask(f"{two.url}/keys/{secret[10:26]}", method="DELETE")
    assert status == 200, text
    for a in askers:
        a.join(60)
    assert all(a.refused_at and not a.wrong for a in askers), [a.wrong for a in askers]
    return max(a.refused_at for a in askers) - began


def keys_known(two):
    """Of each gateway, by what its /readyz says of its needs."""
    found = []
    for g in two.gateways:
        admin = next(o for o in g.argv if o.startswith("127.0.0.1:"))
        said = re.search(r"(\d+) keys", ask(f"http://{admin}/readyz")[2])
        found.append(int(said[1]) if said else 0)
    return found


def prove(options):
    engine, problems = Engine(), []
    with tempfile.TemporaryDirectory(prefix="corral-revoke-") as folder:
        two = Two(Path(folder), engine)
        try:
            secrets = [two.key(name=f"real-{i}", role="user") for i in range(options.rounds + 5)]
            two.access.stop()
            fill(next(Path(folder, "access").rglob("access.db")), options.keys)
            two.access.start()
            until(lambda: min(keys_known(two)) >= options.keys, 120)
            times = sorted(one_round(two, s) for s in secrets[:options.rounds])
            print(f"  {min(keys_known(two))} keys; revoked {len(times)} times: half within {times[len(times) // 2] * 1000:.0f} ms, the longest {times[-1] * 1000:.0f} ms, everywhere")
            two.gateways[1].kill()
            for s in secrets[options.rounds:]:
                assert ask(f"{two.url}/keys/{s[10:26]}", method="DELETE")[0] == 200
            began = time.monotonic()
            two.gateways[1].start()
            two.wait(two.urls[1])
            for s in secrets[options.rounds:]:
                until(lambda: all(ask(two.urls[1] + "/api/version", headers=as_key(s))[0] == 401 for _ in range(6)))
            back = time.monotonic() - began
            print(f"  a gateway that was away meanwhile: {back * 1000:.0f} ms after its start it serves and knows")
            if max(times[-1], back) >= 5:
                problems.append("a revoked key was good for 5 s")
        finally:
            two.close()
            engine.server.shutdown()
    for p in problems:
        print(f"  wrong: {p}")
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=100000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"two gateways, two workers each, {options.keys} keys:", flush=True)
    return prove(options)


if __name__ == "__main__":
    sys.exit(main())
