"""/run, /runsync, /status, /stream, /cancel: durable jobs in RunPod's shapes, between a scripted backend and kill -9."""
import asyncio
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from scripted import Backend                                     # noqa: E402

from servers import Corral, http, until                          # noqa: E402

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}


class Scripted:
    """A scripted backend on a loop of its own."""

    def __init__(self, backend=None, slots=4):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.backend = backend or Backend("a", "llamacpp", {"m": {"ctx": 1 << 20}}, slots=slots)
        self.url = self.backend.url
        self.do(self.backend.start())

    def do(self, what):
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(20)

    def now(self, *behaviours):
        self.do(self.backend.now(list(behaviours)))

    @property
    def calls(self):
        return self.backend.calls

    def close(self):
        self.do(self.backend.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def model():
    server = Scripted()
    yield server
    server.close()


@pytest.fixture
def place(model, tmp_path):
    """place(*options): a Corral on one state folder; again after a kill."""
    running = []

    def start(*options):
        running.append(Corral(tmp_path, {"a": ("llamacpp", model.url)}, "--log-format", "json", *options))
        return running[-1]

    yield start
    model.now("refuse")                                      # what still hangs ends
    for corral in running:
        wrong = corral.close()
        assert not wrong, wrong


def run(corral, said, route="/run", **more):
    status, headers, job = corral.post(route, {"input": said, **more})
    assert status in (200, 202), job
    return job


def state(corral, job):
    return corral.get(f"/status/{job['id']}")[2]


def ended(corral, job, seconds=30):
    return until(lambda: (s := state(corral, job))["status"] in FINAL and s, seconds)


def rows(corral, request_id):
    got = until(lambda: (answer := corral.get(f"/requests/{request_id}"))[0] == 200 and answer[2])
    return got["attempts"]


def test_a_job_is_done_and_told(place, model):
    corral = place()
    status, headers, job = corral.post("/run", {"input": {"prompt": "say it", "model": "m"}})
    assert status == 202 and job["status"] == "IN_QUEUE" and set(job) == {"id", "status"}
    done = ended(corral, job)
    assert done["status"] == "COMPLETED" and done["output"]["response"].strip() == "w0 w1 w2" and done["output"]["model"] == "m"
    assert done["delayTime"] >= 0 and done["executionTime"] >= 0 and "error" not in done
    book = rows(corral, done["request_id"])
    assert [(b["status"], b["dialect"], b["completion_tokens"]) for b in book] == [("ok", "native", 3)]
    assert len(model.calls) == 1 and model.calls[0].request_id == done["request_id"]


@pytest.mark.parametrize("said, dialect, find", [
    ({"messages": [{"role": "user", "content": "x"}], "model": "m"}, "openai", lambda o: o["choices"][0]["message"]["content"]),
    ({"messages": [{"role": "user", "content": "x"}], "model": "m", "max_tokens": 9, "system": "be brief"}, "anthropic", lambda o: o["content"][0]["text"]),
    ({"messages": [{"role": "user", "content": "x"}], "model": "m", "options": {"seed": 1}, "stream": False}, "ollama", lambda o: o["message"]["content"]),
    ({"prompt": "x"}, "native", lambda o: o["response"]),
    ({"prompt": "x", "model": "m", "sampling_params": {"max_tokens": 9, "temperature": 0}}, "openai", lambda o: o["choices"][0]["text"]),
    ({"messages": [{"role": "user", "content": "x"}], "sampling_params": {"max_tokens": 9}, "max_batch_size": 3}, "openai",
     lambda o: o["choices"][0]["message"]["content"]),
    ({"openai_route": "/v1/chat/completions", "openai_input": {"messages": [{"role": "user", "content": "x"}], "model": "m"}}, "openai",
     lambda o: o["choices"][0]["message"]["content"]),
    ({"route": "/api/generate", "request": {"prompt": "x", "model": "m", "stream": False}}, "ollama", lambda o: o["response"]),
])
def test_every_dialect_is_an_input(place, model, said, dialect, find):
    corral = place()
    done = run(corral, said, "/runsync")
    assert done["status"] == "COMPLETED" and find(done["output"]).strip() == "w0 w1 w2", done
    assert rows(corral, done["request_id"])[0]["dialect"] == dialect


def test_what_is_wrong_is_told_at_once(place):
    corral = place()
    for body, status, field in [
        ({}, 400, "input"), ({"input": {}}, 400, "input"), ({"input": []}, 400, "input"), ({"input": {"x": 1}}, 400, "input"),
        ({"input": {"prompt": "x"}, "webhook": "https://example.org"}, 400, "webhook"),
        ({"input": {"prompt": "x"}, "s3Config": {}}, 400, "s3Config"),
        ({"input": {"prompt": "x", "nonsense": 1}}, 400, "nonsense"),
        ({"input": {"prompt": "x", "sampling_params": {"n": 1, "echo": 7}}}, 400, "echo"),
        ({"input": {"prompt": "x"}, "policy": {"executionTimeout": 7}}, 422, "policy.executionTimeout"),
        ({"input": {"prompt": "x", "policy": "luxury"}}, 422, "policy"),
        ({"input": {"prompt": "x"}, "policy": {"wishes": 7}}, 400, "policy.wishes"),
        ({"input": {"route": "/keys", "request": {"name": "x"}}}, 422, "input"),
        ({"input": {"route": "/run", "request": {"input": {"prompt": "x"}}}}, 422, "input"),
        ({"input": {"route": "/v1/chat/completions", "request": {}, "more": 1}}, 400, "input.more"),
        ({"input": {"messages": "x"}}, 400, "messages"),
    ]:
        got, _, answer = corral.post("/run", body)
        assert (got, answer["field"]) == (status, field), (body, answer)
    for path in ("/status/no", "/status/0190b7f0-0000-7000-8000-000000000000", "/stream/0190b7f0-0000-7000-8000-000000000000"):
        assert corral.get(path)[0] == 404
    assert corral.post("/cancel/0190b7f0-0000-7000-8000-000000000000", {})[0] == 404
    assert corral.post("/runsync?wait=5", {"input": {"prompt": "x"}})[0] == 422
    assert run(corral, {"prompt": "x", "model": "nobody"}, "/runsync")["error_code"] == "MODEL_NOT_FOUND"


def test_a_stream_is_handed_out_once(place, model):
    corral = place()
    model.now("answer 30 gap=20ms")
    job = run(corral, {"messages": [{"role": "user", "content": "x"}], "model": "m", "stream": True})
    pieces, polls = [], 0
    while True:                                       # as RunPod's own client does it
        polls += 1
        answer = corral.get(f"/stream/{job['id']}")[2]
        pieces += [p["output"] for p in answer["stream"]]
        if answer["status"] in FINAL and not answer["stream"]:
            break
        time.sleep(0.05)
    text = lambda chunks: "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])    # noqa: E731
    whole = " ".join(f"w{i}" for i in range(30))
    assert polls > 3 and text(pieces).strip() == whole
    done = state(corral, job)
    assert done["status"] == "COMPLETED" and text(done["output"]).strip() == whole
    again = corral.get(f"/stream/{job['id']}?from=0")[2]
    assert [p["output"] for p in again["stream"]] == pieces == done["output"]
    single = run(corral, {"prompt": "x"}, "/runsync")
    assert corral.get(f"/stream/{single['id']}")[2]["stream"][0]["output"]["response"]
    assert corral.get(f"/stream/{single['id']}")[2]["stream"] == []


def test_runsync_falls_back_to_the_id(place, model):
    corral = place()
    model.now("answer 3 wait=2500ms")
    job = run(corral, {"prompt": "x"}, "/runsync?wait=1000")
    assert job["status"] == "IN_PROGRESS" and "output" not in job
    assert ended(corral, job)["output"]["response"].strip() == "w0 w1 w2"


def test_cancel_closes_the_backends_connection(place, model):
    corral = place("--runs-parallel", "1")
    model.now("stall 2")
    first, second = run(corral, {"prompt": "x", "stream": True}), run(corral, {"prompt": "y"})
    until(lambda: model.calls and model.calls[0].sent_tokens == 2)
    assert state(corral, first)["status"] == "IN_PROGRESS" and state(corral, second)["status"] == "IN_QUEUE"
    assert corral.post(f"/cancel/{second['id']}", {})[2] == {"id": second["id"], "status": "CANCELLED"}
    assert corral.post(f"/cancel/{first['id']}", {})[2]["status"] == "CANCELLED"
    until(lambda: model.calls[0].closed_at)
    model.now("answer 3")
    third = ended(corral, run(corral, {"prompt": "z"}))
    assert third["status"] == "COMPLETED" and len(model.calls) == 2          # the second never began
    assert state(corral, first)["status"] == "CANCELLED"
    assert [b["status"] for b in rows(corral, model.calls[0].request_id)] == ["cancelled"]
    assert corral.post(f"/cancel/{third['id']}", {})[2]["status"] == "COMPLETED"        # too late changes nothing


def test_times_that_run_out(place, model):
    corral = place("--runs-parallel", "1")
    model.now("hang")
    long = run(corral, {"prompt": "x"}, policy={"executionTimeout": 1500})
    waits = run(corral, {"prompt": "y"}, policy={"ttl": 1000})
    assert ended(corral, waits)["status"] == "TIMED_OUT"
    assert ended(corral, long)["status"] == "TIMED_OUT"
    until(lambda: model.calls[0].closed_at)
    assert len(model.calls) == 1


def test_a_failure_is_a_state(place, model):
    corral = place()
    model.now("status 400")
    failed = run(corral, {"prompt": "x"}, "/runsync")
    assert failed["status"] == "FAILED" and failed["error"] and failed["error_code"] == "BACKEND_REFUSED" and "output" not in failed
    model.now("unterminated 3")
    failed = run(corral, {"messages": [{"role": "user", "content": "x"}], "model": "m", "stream": True}, "/runsync")
    assert failed["status"] == "FAILED" and failed["error_code"] == "BACKEND_FAILED" and len(failed["output"]) >= 3


def test_what_is_too_busy_now_is_asked_later(place, model):
    corral = place("--queue-max", "0")
    model.now("answer 3 wait=1500ms")
    jobs = [run(corral, {"prompt": "x"}) for _ in range(9)]                  # four slots and no queue
    assert [ended(corral, job)["status"] for job in jobs] == ["COMPLETED"] * 9
    assert len(model.calls) == 9


def test_kill_and_again(place, model):
    corral = place("--runs-parallel", "4")
    model.now("hang")
    quiet = [run(corral, {"prompt": f"quiet {i}"}) for i in range(2)]
    until(lambda: len(model.calls) == 2)
    model.now("stall 5")
    begun = run(corral, {"messages": [{"role": "user", "content": "begun"}], "model": "m", "stream": True})
    until(lambda: len(corral.get(f"/stream/{begun['id']}?from=0")[2]["stream"]) >= 5)
    model.now("hang")
    rest = [run(corral, {"prompt": f"rest {i}"}) for i in range(20)]
    corral.kill()
    model.now("answer 3")
    corral = place("--runs-parallel", "4")
    for job in quiet + rest:
        assert ended(corral, job)["status"] == "COMPLETED"
    lost = ended(corral, begun)
    assert lost["status"] == "FAILED" and lost["error_code"] == "INTERRUPTED" and len(lost["output"]) >= 5
    assert len({state(corral, j)["request_id"] for j in quiet + rest}) == 22
    until(lambda: corral.get("/usage?group_by=status")[2]["totals"]["requests"] == len(model.calls))
    usage = {row["status"]: row["requests"] for row in corral.get("/usage?group_by=status")[2]["rows"]}
    assert usage["ok"] == 22 and usage["unknown"] == len(model.calls) - 22, usage


def test_killed_again_and_again_nothing_is_lost(place, model):
    model.now("answer 8 gap=10ms")
    corral, jobs = place("--runs-parallel", "3"), []
    for i in range(5):
        for k in range(6):
            jobs.append(run(corral, {"prompt": f"{i} {k}", "stream": k % 2 == 0}))
        time.sleep(0.02 * i + 0.01)
        corral.kill()
        corral = place("--runs-parallel", "3")
    for job in jobs:
        done = ended(corral, job)
        assert done["status"] == "COMPLETED" or done["error_code"] == "INTERRUPTED", done
    states = [state(corral, j)["status"] for j in jobs]
    assert states.count("COMPLETED") >= 15
    usage = until(lambda: (u := corral.get("/usage?group_by=status")[2])["totals"]["requests"] == len(model.calls) and u)
    ok = sum(r["requests"] for r in usage["rows"] if r["status"] == "ok")
    assert ok >= states.count("COMPLETED")


def test_results_have_an_end(place, model):
    corral = place("--runs-keep", "1s")
    job = run(corral, {"prompt": "x"}, "/runsync")
    until(lambda: corral.get(f"/status/{job['id']}")[0] == 404)
    metrics = http(corral.admin + "/metrics")[2]
    assert re.search(r'corral_runs_total\{.*state="COMPLETED".*\} 1\n', metrics)


def test_room_has_an_end(place, model):
    corral = place("--runs-max", "1m", "--runs-parallel", "4")
    first = run(corral, {"prompt": "x"}, "/runsync")
    model.now("hang")
    answers = [corral.post("/run", {"input": {"prompt": "x" * 250000}})[0] for _ in range(5)]
    assert answers == [202] * 4 + [429]
    assert corral.get(f"/status/{first['id']}")[0] == 404                    # went, to make room


def test_what_waits_does_not_drive_out_results(place, model):
    corral = place("--runs-max", "1m", "--runs-parallel", "1")
    first = run(corral, {"prompt": "x"}, "/runsync")
    model.now("hang")
    answers = [corral.post("/run", {"input": {"prompt": "x" * 150000}}) for _ in range(3)]      # one runs, one waits
    assert [a[0] for a in answers] == [202, 202, 429] and "a quarter" in str(answers[2][2])
    assert corral.get(f"/status/{first['id']}")[0] == 200


def test_a_backlog_is_not_refused_through(place, model):
    corral = place("--queue-max", "0", "--runs-parallel", "6")
    model.now("hang")                                                        # four slots are taken, and no queue
    jobs = [run(corral, {"prompt": f"{i}"}) for i in range(200)]
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 3)
    said = http(corral.admin + "/metrics")[2]
    refused = sum(float(n) for n in re.findall(r'corral_refused_total\{[^}]*\} (\S+)', said))
    assert 1 <= refused <= 40 + 4 * (time.monotonic() - began), refused       # and not each of them, each second
    until(lambda: len(model.calls) == 4)
    for job in jobs:
        corral.post(f"/cancel/{job['id']}", {})


def test_a_drain_gives_back_what_has_not_begun(place, model):
    corral = place("--drain", "1s", "--runs-parallel", "1")
    model.now("hang")
    jobs = [run(corral, {"prompt": "x"}) for _ in range(2)]
    until(lambda: model.calls)
    assert corral.close() is None
    model.now("answer 3")
    corral = place()
    for job in jobs:
        assert ended(corral, job)["status"] == "COMPLETED"


def test_a_drain_does_not_begin_what_waits_for_a_slot(place, model):
    corral = place("--runs-parallel", "6")
    model.now(*["answer 3 wait=3s"] * 4, "hang")                             # four slots are taken; whoever got one then would hang
    jobs = [run(corral, {"prompt": f"{i}"}) for i in range(6)]
    until(lambda: re.search(r"^corral_queued_requests\{.*\} 2$", http(corral.admin + "/metrics")[2], re.M) and len(model.calls) == 4)
    assert corral.close() is None
    assert len(model.calls) == 4
    model.now("answer 3")
    corral = place()
    assert [ended(corral, job)["status"] for job in jobs] == ["COMPLETED"] * 6 and len(model.calls) == 6


def test_only_the_owners_tenant(place, model):
    corral = place("--runs-parallel", "1")
    key = {}
    for tenant in ("north", "south"):
        assert http(f"{corral.url}/tenants/{tenant}", {}, "PUT")[0] in (200, 201)
        status, _, made = corral.post("/keys", {"name": tenant, "tenant": tenant, "role": "user"})
        assert status == 201, made
        key[tenant] = {"Authorization": f"Bearer {made['secret']}"}, made["key"]["id"]
    status, _, job = corral.post("/run", {"input": {"prompt": "x"}}, headers=key["north"][0])
    assert status == 202
    done = until(lambda: (s := corral.get(f"/status/{job['id']}", headers=key["north"][0])[2])["status"] == "COMPLETED" and s)
    assert rows(corral, done["request_id"])[0]["tenant"] == "north"
    for method, path in (("GET", "status"), ("GET", "stream"), ("POST", "cancel")):
        assert http(f"{corral.url}/{path}/{job['id']}", method=method, headers=key["south"][0])[0] == 404
    assert state(corral, job)["status"] == "COMPLETED"                       # the owner of the installation sees it

    model.now("answer 3 wait=1500ms")            # a key that was revoked meanwhile asks no model any more
    jobs = [corral.post("/run", {"input": {"prompt": "x"}}, headers=key["south"][0])[2] for _ in range(2)]
    assert http(f"{corral.url}/keys/{key['south'][1]}", method="DELETE")[0] == 200
    assert ended(corral, jobs[0])["status"] == "COMPLETED"
    revoked = ended(corral, jobs[1])
    assert (revoked["status"], revoked["error_code"]) == ("FAILED", "UNAUTHENTICATED") and len(model.calls) == 2
