#!/usr/bin/env python3
"""Guard breach to rollback on real llama.cpp: one of two models is exchanged for a worse one in the middle of an experiment.

    tests/proofs/rollback.py [--before N] [--users N] [--slice] [--record FILE]

Two llama-servers, each with a script model that knows the answers to twenty questions; an experiment gives half of the users either. Clients ask, compare
the answer with the right one, and say whether it was right, half of them by POST /feedback and half by task-completed.v1 over Kafka; nothing else
tells Corral of quality. After --before answers another llama-server takes the place of the second (Corral's configuration is read again), with a model of
the same name that answers three questions in four wrong. The time runs from then to the moment at which the experiment is rolled back, and to the one
at which nobody gets that model any more for it.
It ends with 1 when that took more than 60 s, something was rolled back before, a request failed, or the audit log does not say why.
--slice is for scripts/test: no Kafka, and how long it took is shown and not judged. Skipped where llama.cpp cannot be had.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "fakes"), str(HERE.parents[1] / "e2e"), str(HERE.parent)]
import stores                                                     # noqa: E402
from record import record                                         # noqa: E402
from servers import ROOT, Corral, http, script, start_llama, until     # noqa: E402

os.environ.setdefault("CORRAL_BIN", str((Path(os.environ.get("BUILD", "build")) / "bin/corral").resolve()))
LIMIT_S = 60
WORDS = "red orange yellow green blue violet black white grey brown north south east west spring summer autumn winter moon sun".split()


def answer_of(word):
    return f"The code of {word} is {sum(map(ord, word))}."


def make_model(folder, name, right):
    """A script model that knows the codes of so many of the words, and says another one for the others."""
    lines = ["\tI know codes of words."]
    lines += [f"{w}\t{answer_of(w) if i % 4 < right else f'The code of {w} is unknown to me.'}" for i, w in enumerate(WORDS)]
    Path(folder, f"{name}.txt").write_text("\n".join(lines) + "\n")
    subprocess.run([ROOT / "tools/make-model", "-o", f"{folder}/{name}.gguf", "--name", name, "--script", f"{folder}/{name}.txt"], check=True)
    return f"{folder}/{name}.gguf"


class Kafka:
    """Says what became of tasks as another system would."""

    def __init__(self, bootstrap):
        import confluent_kafka
        self.producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 0})

    def say(self, request, task, good):
        self.producer.produce("corral.task-completed.v1", key="default", value=json.dumps({"task_id": task, "request_id": request, "success": good}).encode())
        self.producer.poll(0)


class Users:
    """Clients that ask one question after the other, each as another user, and say whether the answer was right."""

    def __init__(self, corral, kafka, n):
        self.corral, self.kafka = corral, kafka
        self.lock, self.asked, self.problems = threading.Lock(), 0, []
        self.arms = {"a": [0, 0], "b": [0, 0], None: [0, 0]}           # right, wrong
        self.said = {"feedback": 0, "task-completed": 0}
        self.first_wrong_at, self.going = None, True
        self.threads = [threading.Thread(target=self.ask_on, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def ask_on(self):
        while self.going:
            with self.lock:
                number, self.asked = self.asked, self.asked + 1
            try:
                self.ask(number)
            except Exception as e:                                # a thread's exception is nobody's else
                with self.lock:
                    self.problems.append(f"request {number}: {e!r}")
                time.sleep(0.2)

    def ask(self, number):
        word = WORDS[number % len(WORDS)]
        body = {"prompt": f"What is the code of {word}?", "user_id": f"user-{number}", "max_tokens": 48, "temperature": 0, "no_cache": True}
        status, headers, text = http(self.corral.url + "/inference", body, timeout=60)
        if status != 200:
            raise RuntimeError(f"status {status}: {text[:200]}")
        got = json.loads(text)
        good, arm = got["response"].strip() == answer_of(word), (got["experiment"] or {}).get("arm")
        with self.lock:
            self.arms[arm][0 if good else 1] += 1
            if not good and self.first_wrong_at is None:
                self.first_wrong_at = time.monotonic()
        self.say(headers["X-Request-Id"], number, good)

    def say(self, request, number, good):
        way = "task-completed" if self.kafka and number % 2 else "feedback"
        if way == "feedback":
            status, _, text = http(self.corral.url + "/feedback", {"request_id": request, "success": good}, timeout=60)
            if status != 202:
                raise RuntimeError(f"feedback was answered with {status}: {text[:200]}")
        else:
            self.kafka.say(request, f"task-{number}", good)
        with self.lock:
            self.said[way] += 1

    def stop(self):
        self.going = False
        for t in self.threads:
            t.join(90)


def begin(corral):
    until(lambda: {m["name"] for m in corral.get("/models")[2]["models"]} >= {"first", "second"}, 60)
    status, _, test = corral.post("/tests", {"name": "which one knows", "model_a": "first", "model_b": "second", "traffic_percent": 100})
    assert status == 201, test
    return test


def state(corral, test):
    return corral.get(f"/tests/{test['id']}")[2]


def configured(folder, first, second):
    """The file of Corral's configuration, with the two in it."""
    Path(folder, "corral.yaml").write_text("backends:\n" + "".join(f"  {n}: {{kind: llamacpp, url: '{s.url}'}}\n" for n, s in (("l1", first), ("l2", second))))
    return str(Path(folder, "corral.yaml"))


def after_rollback(corral, users):
    """Until twelve new users in a row are in no experiment."""
    def nobody():
        return all(json.loads(http(corral.url + "/inference", {"prompt": "red", "user_id": f"later-{time.monotonic()}", "max_tokens": 4, "no_cache": True},
                                   timeout=60)[2])["experiment"] is None for _ in range(12))
    until(nobody, 30)


def run(folder, engine, kafka, options):
    """Figures and what is wrong with them."""
    for name in "123":
        Path(folder, name).mkdir()
    good, worse = make_model(folder, "knows", 4), make_model(folder, "guesses", 1)
    first, second, other = [start_llama(Path(folder, n), engine, model, alias=a, context=4096)
                            for n, model, a in (("1", good, "first"), ("2", good, "second"), ("3", worse, "second"))]
    bus = ["--bus", f"kafka:{kafka.bootstrap}"] if kafka else []
    corral = Corral(folder, None, "--config", configured(folder, first, second), "--log-format", "json", "--access-log", "errors", *bus)
    users = None
    try:
        test = begin(corral)
        users = Users(corral, Kafka(kafka.bootstrap) if kafka else None, options.users)
        began = time.monotonic()
        until(lambda: users.asked >= options.before or users.problems, 1200)
        before, arms = time.monotonic() - began, {a: list(n) for a, n in users.arms.items()}
        problems = [] if state(corral, test)["state"] == "running" else [f"ended before the exchange: {state(corral, test)['reason']}"]
        wrong_before = sum(n[1] for n in arms.values())
        configured(folder, first, other)
        stopped = time.monotonic()
        corral.reload()
        ended = until(lambda: (t := state(corral, test))["state"] != "running" and t, 400)
        rolled = time.monotonic()
        after_rollback(corral, users)
        gone = time.monotonic()
        users.stop()
        audit = until(lambda: corral.get("/audit?action=tests.rollback")[2]["entries"], 60)
    finally:
        if users:
            users.going = False
        closed = corral.close()
        for server in (first, second, other):
            server.stop()
    problems += users.problems[:5] + ([closed] if closed else [])
    if wrong_before:
        problems.append(f"{wrong_before} answers were wrong before the exchange")
    if ended["state"] != "rolled_back" or "guard success broke" not in ended["reason"]:
        problems.append(f"it is {ended['state']}: {ended['reason']}")
    if not any(e["object"] == test["id"] and "guard success broke" in json.dumps(e["detail"]) for e in audit):
        problems.append(f"the audit log does not say why: {audit}")
    if rolled - stopped > LIMIT_S and not options.slice:
        problems.append(f"from the exchange to the rollback it took more than {LIMIT_S} s")
    said = ", ".join(f"{n:,} by {way}" for way, n in users.said.items() if n)
    rows = [("right answers before the exchange, by arm a and b; in", f"{arms['a'][0]:,} and {arms['b'][0]:,}; {before:.0f} s"),
            ("outcomes said", said),
            ("the first wrong answer reached a client after the exchange by", f"{users.first_wrong_at - stopped:.1f} s"),
            ("**rolled back after the exchange by; after the first wrong answer by**", f"**{rolled - stopped:.1f} s; {rolled - users.first_wrong_at:.1f} s**"),
            ("nobody gets it any more, after the exchange by", f"{gone - stopped:.1f} s"),
            ("wrong answers of arm b until the end", f"{users.arms['b'][1]:,}"),
            ("the reason", ended["reason"]),
            ("things that are wrong", str(len(problems)))]
    return rows, problems


def prove(options):
    engine, reason = script("get-llama")
    if not engine:
        print(f"skipped: no llama.cpp: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="corral-rollback-") as folder:
        kafka = None if options.slice else stores.kafka_here(folder).start()
        try:
            rows, problems = run(folder, engine, kafka, options)
        finally:
            if kafka:
                kafka.kill()
    for what, figure in rows:
        print(f"  {what.replace('*', '')}: {figure.replace('*', '')}")
    for p in problems:
        print(f"  wrong: {p}")
    if options.record:
        record(options.record, "rollback", rows)
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=int, default=4000, help="answers before the exchange")
    parser.add_argument("--users", type=int, default=6, help="that ask at the same time")
    parser.add_argument("--slice", action="store_true", help="for scripts/test: without Kafka; how long it takes is not judged")
    parser.add_argument("--record", metavar="FILE", help="write the figures into this file, between the marks of rollback")
    options = parser.parse_args()
    print(f"an experiment on two llama.cpp; after {options.before:,} answers one model is exchanged for a worse one:", flush=True)
    return prove(options)


if __name__ == "__main__":
    sys.exit(main())
