"""corral runpod-worker: a queue of RunPod, served by a gateway; cancelled, refused, cut off, drained."""
import http.client as http_client
import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from runpod_queue import Queue                                   # noqa: E402

from servers import ROOT, Corral, Program, free_port, http, until          # noqa: E402
from test_runs import Scripted                                   # noqa: E402
from test_tls import make_identity                               # noqa: E402

KEY = "canary-runpod-key-77"
numbers = itertools.count()
WORDS = lambda n: " ".join(f"w{i}" for i in range(n))            # noqa: E731


class Worker(Program):
    def __init__(self, folder, queue, url, *options, ready="readyz", **env):
        folder.mkdir(exist_ok=True)
        self.admin = f"http://127.0.0.1:{free_port()}"
        binary = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
        super().__init__("runpod-worker", [binary, "runpod-worker", "--admin-listen", self.admin[7:], "--state-dir", str(folder / "state"), "--log-format", "json",
                                           *options], folder / "worker.log", f"{self.admin}/{ready}", {**queue.env(), "CORRAL_URL": url, **env})

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in http(f"{self.admin}/metrics")[2].splitlines() if line.startswith(f"corral_{name}"))

    def lines(self, msg):
        return [line for line in map(json.loads, self.log.read_text().splitlines()) if line["msg"] == msg]


@pytest.fixture(scope="module")
def model():
    server = Scripted()
    yield server
    server.close()


@pytest.fixture(scope="module")
def gateway(model, tmp_path_factory):
    running = Corral(tmp_path_factory.mktemp("corral"), {"a": ("llamacpp", model.url)})
    yield running
    model.now("refuse")
    assert running.close() is None


@pytest.fixture(scope="module")
def queue():
    with Queue(KEY) as queue:
        yield queue
    assert not queue.wrong


@pytest.fixture
def workers(tmp_path_factory):
    """workers(queue, url, *options): one that has to end well when the test is over, unless it has ended."""
    running = []

    def start(*args, **kw):
        running.append(Worker(tmp_path_factory.mktemp("worker"), *args, **kw))
        return running[-1]

    yield start
    for worker in running:
        assert worker.stop() == 0, worker.tail()
        assert "Sanitizer" not in worker.log.read_text() and KEY not in worker.log.read_text()


@pytest.fixture(scope="module")
def worker(queue, gateway, tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("worker"), queue, gateway.url)
    assert KEY not in Path(f"/proc/{worker.handle.pid}/cmdline").read_text()
    yield worker
    assert worker.stop() == 0, worker.tail()
    assert "Sanitizer" not in worker.log.read_text() and KEY not in worker.log.read_text()


@pytest.fixture(scope="module", autouse=True)
def moody(gateway, tmp_path_factory):
    """A queue of many moods, its worker, and a job there: how that went is looked at last."""
    with Queue(KEY, "worker-2", hold=1.0) as queue:
        queue.take_faults.extend([204, 429, b"{", 400, 500])
        queue.job = queue.add({"messages": [{"role": "user", "content": "do: answer 3"}], "model": "m"})       # whatever the others have the backend do
        worker = Worker(tmp_path_factory.mktemp("worker"), queue, gateway.url, "--jobs=1")
        yield queue, worker
        assert worker.stop() == 0 and not queue.wrong


@pytest.fixture(autouse=True)
def answers(model):
    model.now("answer 3")


def chat(**more):
    """Never the same twice, so that no answer is one that was kept."""
    return {"messages": [{"role": "user", "content": f"say {next(numbers)}"}], "model": "m", **more}


def call_of(model, said, tokens):
    """The one that the backend got for it, once it has said so many tokens of its answer."""
    return until(lambda: next((c for c in model.calls if c.prompt() == said["messages"][0]["content"] and c.sent_tokens >= tokens), None))


def said_by(chunks):
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices")).strip()


def test_jobs_are_done(queue, worker):
    plain, prompt, worker_form = queue.add(chat()), queue.add({"prompt": f"say {next(numbers)}"}), queue.add({"prompt": f"say {next(numbers)}", "sampling_params": {"max_tokens": 9}})
    assert queue.answer(plain)["output"]["choices"][0]["message"]["content"].strip() == WORDS(3)
    assert queue.answer(prompt)["output"]["response"].strip() == WORDS(3)
    assert queue.answer(worker_form)["output"]["choices"][0]["text"].strip() == WORDS(3)
    assert [len(queue.answers[j]) for j in (plain, prompt, worker_form)] == [1, 1, 1] and not queue.answers[plain][0]["stream"] and not queue.pieces[plain]
    assert max(int(query.get("batch_size", 1)) for _, _, query in queue.takes) == 4          # as many as the backend has slots
    line = until(lambda: [line for line in worker.lines("job") if line["job"] == plain])[0]
    assert (line["result"], line["model"], line["path"]) == ("completed", "m", "/v1/chat/completions") and line["request_id"]
    queue.wait(lambda: "" in queue.pings)


def test_openais_form_is_answered_as_the_vllm_worker_does(queue, worker):
    whole = queue.add({"openai_route": "/v1/chat/completions", "openai_input": chat()})
    models = queue.add({"openai_route": "/v1/models", "openai_input": {}})
    output = queue.answer(whole)["output"]
    assert [o["choices"][0]["message"]["content"].strip() for o in output] == [WORDS(3)] and queue.pieces[whole] == output and queue.answers[whole][0]["stream"]
    assert [m["id"] for m in queue.answer(models)["output"][0]["data"]] == ["auto", "m"]


def pieces_are_whole(queue, job):
    """Those of a stream are in its answer, in their order."""
    output = queue.answer(job)["output"]
    assert queue.pieces[job] == output and queue.answers[job][0]["stream"] and len(queue.answers[job]) == 1
    return output


def test_streams_come_piece_by_piece(model, queue, worker):
    model.now("answer 20 gap=10ms")
    openai, native = queue.add(chat(stream=True)), queue.add({"prompt": f"say {next(numbers)}", "stream": True})
    assert said_by(pieces_are_whole(queue, openai)) == WORDS(20)
    output = pieces_are_whole(queue, native)
    assert "".join(o["response"] for o in output).strip() == WORDS(20) and [o["done"] for o in output] == [False] * (len(output) - 1) + [True]


def test_openais_streams_are_text(model, queue, worker):
    model.now("answer 20 gap=10ms")
    queue.post_faults["stream"].extend([500])
    job = queue.add({"openai_route": "/v1/chat/completions", "openai_input": chat(stream=True)})
    text = "".join(pieces_are_whole(queue, job))
    events = [line[6:] for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]" and said_by(map(json.loads, events)) == WORDS(20)
    assert len([p for p in queue.posts if p[1] == job and p[0] == "stream"]) < 20        # what gathered went together


@pytest.mark.parametrize("how", ["answer 9 cut=900", "event-error 2", "unterminated 3"])
def test_a_broken_stream_has_no_made_up_end(model, queue, worker, how):
    model.now(how)
    job = queue.add(chat(stream=True))
    answer = queue.answer(job)
    assert set(answer) == {"error"} and answer["error"] and said_by(queue.pieces[job]) in [WORDS(n) for n in range(9)], answer
    until(lambda: [line for line in worker.lines("job") if line["job"] == job and line["result"] == "failed"])


def test_a_piece_that_is_refused_makes_the_job_an_error(model, queue, worker):
    model.now("answer 5")
    queue.post_faults["stream"].extend([200, 404])
    job = queue.add(chat(stream=True))
    assert "piece" in queue.answer(job)["error"] and len(queue.pieces[job]) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_cancelled_ends_at_the_backend(model, queue, worker, stream):
    model.now("stall 2" if stream else "hang")
    job = queue.add(said := chat(stream=stream))
    call = call_of(model, said, 2 if stream else 0)
    queue.wait(lambda: any(job in ids for ids in queue.pings))                     # it is told as one that is under way
    queue.wait(lambda: said_by(queue.pieces[job]) == (WORDS(2) if stream else ""))           # pieces come before there is an end
    queue.stop("somebody-elses", job)
    until(lambda: call.closed_at)
    until(lambda: [line for line in worker.lines("job") if line["job"] == job and line["result"] == "stopped"])
    model.now("answer 3")
    assert queue.answer(queue.add(chat()))["output"] and not queue.answers[job]


def test_what_is_wrong_is_answered_with_a_sentence(queue, worker):
    for said, sentence in [({}, "input is missing"), ([], "input is missing"), ({"x": 1}, "neither prompt nor messages"), (chat(model="nobody"), "nobody"),
                           ({"route": "/keys", "request": {"name": "x"}}, "no route that asks a model"),
                           ({"openai_route": "/v1/models/../keys", "openai_input": {}}, "no route that asks a model")]:
        job = queue.add(said)
        assert sentence in queue.answer(job)["error"], said
    with queue.lock:
        queue.jobs.append({"input": {"prompt": "of nobody"}})
        queue.jobs.append({"id": "without-input"})
        queue.lock.notify_all()
    assert "input is missing" in queue.answer("without-input")["error"]
    until(lambda: worker.lines("the queue gave a job without an id; nobody can be answered"))
    assert queue.answer(queue.add(chat()))["output"]


def test_an_answer_is_handed_in_again_until_it_is_taken(queue, worker):
    queue.post_faults["output"].extend([500, 429])
    job = queue.add(chat())
    assert queue.answer(job)["output"]
    posts = [p for p in queue.posts if p[1] == job]
    assert [p[4] for p in posts] == [500, 429, 200] and len(queue.answers[job]) == 1 and all(p[3] == posts[0][3] for p in posts)
    queue.post_faults["output"].extend([413])
    job = queue.add(chat())
    assert "413" in queue.answer(job)["error"] and len(queue.answers[job]) == 1


def test_sigterm_lets_jobs_end(model, gateway, workers):
    with Queue(KEY, "worker-3") as queue:
        worker = workers(queue, gateway.url, "--jobs=1")
        model.now("answer 30 gap=20ms")
        job = queue.add(said := chat(stream=True))
        call_of(model, said, 3)
        worker.handle.send_signal(signal.SIGTERM)
        until(lambda: worker.lines("no job is taken any more"))
        later = queue.add(chat())
        assert said_by(queue.answer(job)["output"]) == WORDS(30) and queue.pieces[job] == queue.answer(job)["output"]
        assert worker.handle.wait(20) == 0 and later not in queue.taken and len(queue.answers[job]) == 1 and not queue.wrong


def test_a_second_signal_hurries(model, gateway, workers):
    with Queue(KEY, "worker-4") as queue:
        worker = workers(queue, gateway.url)
        model.now("hang")
        job = queue.add(said := chat())
        call = call_of(model, said, 0)
        for _ in range(2):
            worker.handle.send_signal(signal.SIGTERM)
            until(lambda: worker.lines("no job is taken any more"))
        assert "shut down" in queue.answer(job)["error"] and worker.handle.wait(20) == 0
        until(lambda: call.closed_at)


def answers_at(admin):
    try:
        return http(f"{admin}/livez")[0] == 200
    except OSError:
        return False


def test_a_successor_takes_jobs_while_the_one_before_ends_its_own(model, gateway, workers):
    with Queue(KEY, "worker-8") as queue:
        worker = workers(queue, gateway.url)
        model.now("answer 30 gap=30ms")
        job = queue.add(chat(stream=True))
        queue.wait(lambda: queue.pieces[job])
        worker.handle.send_signal(signal.SIGUSR2)
        until(lambda: worker.lines("took over"))
        model.now("answer 3")
        later = queue.add(chat())
        assert queue.answer(later)["output"] and said_by(pieces_are_whole(queue, job)) == WORDS(30)
        assert worker.handle.wait(20) == 0 and not queue.wrong
        successor = int((worker.log.parent / "state/runpod-worker/lock").read_text())
        assert successor != worker.handle.pid
        os.kill(successor, signal.SIGTERM)
        until(lambda: not answers_at(worker.admin))


def corral_at(folder, port, model):
    return Corral(folder, {"a": ("llamacpp", model.url)}, f"--listen=127.0.0.1:{port}")


def test_a_gateway_that_comes_and_goes(model, tmp_path, workers):
    with Queue(KEY, "worker-5") as queue:
        port = free_port()
        worker = workers(queue, f"localhost:{port}/v1", ready="livez")
        first = queue.add(chat())
        until(lambda: worker.lines("the gateway is not ready; no job is taken"))
        assert http(f"{worker.admin}/readyz")[0] == 503 and not queue.takes
        before = corral_at(tmp_path, port, model)
        assert queue.answer(first)["output"] and http(f"{worker.admin}/readyz")[0] == 200

        model.now("stall 2")
        said = queue.add(chat(stream=True))
        queue.wait(lambda: said_by(queue.pieces[said]) == WORDS(2))
        model.now("hang")
        silent = queue.add(asked := chat())
        call_of(model, asked, 0)
        model.now("answer 3")
        before.kill()
        assert "gateway" in queue.answer(said)["error"] and said_by(queue.pieces[said]) == WORDS(2)
        until(lambda: [line for line in worker.lines("a job is tried again") if line["job"] == silent])
        after = corral_at(tmp_path, port, model)
        assert queue.answer(silent, 60)["output"] and len(queue.answers[silent]) == 1
        assert worker.metric("runpod_job_retries_total") >= 1 and not queue.wrong
        worker.stop()
        assert after.close() is None


def test_a_gateway_that_stays_away_is_an_error(model, gateway, workers, tmp_path):
    with Queue(KEY, "worker-6") as queue:
        running = corral_at(tmp_path, port := free_port(), model)
        worker = workers(queue, f"http://127.0.0.1:{port}", "--job-retry=1s")
        model.now("hang")
        job = queue.add(said := chat())
        call_of(model, said, 0)
        running.kill()
        assert "the gateway cannot be reached" in queue.answer(job)["error"]
        assert worker.handle.poll() is None


def test_the_queue_is_to_be_trusted_and_the_worker_too(gateway, workers, tmp_path):
    make_identity(tmp_path, "queue")
    trust = f"--runpod-ca-file={tmp_path}/ca.pem"
    with Queue(KEY, "worker-9", tls=(tmp_path / "queue.pem", tmp_path / "queue.key")) as queue:
        misled, stranger = workers(queue, gateway.url), workers(queue, gateway.url, trust, RUNPOD_AI_API_KEY="another")
        refused = "the queue does not answer as it should; it is asked again"
        said = until(lambda: [line for line in misled.lines(refused) if line["what"] == "taking jobs"])[0]
        assert said["status"] == 0 and "certificate" in said["error"], said
        said = until(lambda: [line for line in stranger.lines(refused) if line["what"] == "taking jobs"])[0]
        assert said["status"] == 401 and "RUNPOD_AI_API_KEY" in said["hint"] and not queue.takes, said
        workers(queue, gateway.url, trust)
        assert queue.answer(queue.add(chat()))["output"] and not queue.wrong


@pytest.fixture(scope="module")
def both_ways(gateway, tmp_path_factory):
    """A Corral whose only provider is a queue that is served by a worker with another Corral."""
    with Queue(KEY, "worker-10") as queue:
        folder = tmp_path_factory.mktemp("both")
        (folder / "corral.yaml").write_text(f'providers:\n  - {{name: rp, kind: runpod, api: queue, url: "{queue.url}/v2/ep", models: m, key_env: QUEUE_KEY, '
                                            "monthly_tokens: unlimited}\n")
        worker = Worker(tmp_path_factory.mktemp("worker"), queue, gateway.url)
        corral = Corral(folder, None, "--backends=none=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), f"--cloud-listen=127.0.0.1:{free_port()}",
                        env={"QUEUE_KEY": KEY})
        corral.queue = queue
        until(lambda: corral.post("/v1/chat/completions", {**chat(), "model": "rp/m"})[0] == 200)       # the provider is ready once its budget was heard of
        yield corral
        assert corral.close() is None and worker.stop() == 0 and not queue.wrong


@pytest.mark.parametrize("stream", [False, True])
def test_a_corral_asks_another_by_a_queue(model, both_ways, stream):
    asked = {**chat(), "model": "rp/m", "stream": stream}
    status, _, text = http(f"{both_ways.url}/v1/chat/completions", asked, "POST", timeout=60)
    assert status == 200, text
    if stream:
        assert said_by(json.loads(e[6:]) for e in text.split("\n\n") if e.startswith("data: {")) == WORDS(3) and text.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(text)["choices"][0]["message"]["content"].strip() == WORDS(3)
    assert call_of(model, asked, 3)


def test_who_leaves_there_frees_the_backend_here(model, both_ways):
    model.now("stall 2")
    asked = {**chat(), "model": "rp/m", "stream": True}
    client = http_client.HTTPConnection(both_ways.url[7:], timeout=60)
    client.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
    call = call_of(model, asked, 2)
    client.close()
    until(lambda: call.closed_at)
    both_ways.queue.wait(lambda: both_ways.queue.cancelled)


def test_llamas_words_reach_the_queue(corral, workers):
    with Queue(KEY, "worker-7") as queue:
        workers(queue, corral.url)
        asked = {"model": "corral-tiny", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8, "temperature": 0, "seed": 1}
        whole, streamed = queue.add(asked), queue.add({"openai_route": "/v1/chat/completions", "openai_input": {**asked, "stream": True}})
        text = "".join(queue.answer(streamed, 60)["output"])
        chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert text.endswith("data: [DONE]\n\n") and "".join(queue.pieces[streamed]) == text
        message = queue.answer(whole, 60)["output"]["choices"][0]["message"]["content"]
        assert message and message.strip() == said_by(chunks) and not queue.wrong


@pytest.mark.parametrize("name, value, sentence", [("RUNPOD_WEBHOOK_GET_JOB", "", "RUNPOD_WEBHOOK_GET_JOB is not set"),
                                                   ("RUNPOD_WEBHOOK_POST_OUTPUT", "nowhere", "RUNPOD_WEBHOOK_POST_OUTPUT is no address"),
                                                   ("RUNPOD_WEBHOOK_POST_STREAM", "https://me:secret@host/", "RUNPOD_WEBHOOK_POST_STREAM is no address"),
                                                   ("RUNPOD_PING_INTERVAL", "soon", "RUNPOD_PING_INTERVAL"),
                                                   ("CORRAL_URL", "https://host", "plain http")])
def test_a_wrong_environment_is_named(queue, tmp_path, name, value, sentence):
    with pytest.raises(RuntimeError) as wrong:
        Worker(tmp_path / "w", queue, **{"url": "http://127.0.0.1:1", name: value} if name != "CORRAL_URL" else {"url": value})
    assert sentence in str(wrong.value) and "secret@" not in str(wrong.value)


def test_moods_of_a_queue(moody):
    queue, worker = moody
    assert queue.answer(queue.job, 60)["output"] and not queue.take_faults
    at = [t for t, _, _ in queue.takes]
    assert at[2] - at[1] > 4.5                                               # 429: it keeps quiet for 5 s
    assert min(b - a for a, b in zip(at, at[1:5])) > 0.4                     # nothing makes it ask without a pause
    assert not [path for _, path, _ in queue.takes if "batch" in path]       # one at a time
    for result in ("limited", "malformed", "failed", "job"):
        assert worker.metric(f'runpod_takes_total{{service="runpod-worker",result="{result}"}}') == 1, result
    assert http(f"{worker.admin}/readyz")[0] == 200
