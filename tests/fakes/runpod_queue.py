"""A queue of RunPod as its workers see it: jobs are taken by GET, answers and pieces of streams are handed in by POST.

    with Queue(key) as queue:
        job = queue.add({"prompt": "x"})            its id; queue.env() is what RunPod sets for a worker
        queue.answer(job)                           waits for it: {"output": …} or {"error": …}

A question for jobs, or for what was cancelled, is held open for `hold` seconds. What a worker does against the protocol is noted in `wrong`.
take_faults: what the next questions for jobs get, statuses or bytes in place of a job; post_faults["output"|"stream"]: what the next posts get, a
status, or "drop": it is taken, and the connection ends without an answer. Nothing that was refused counts as handed in.

Those who fill the queue speak to it too, at {url}/v2/ep with the key as bearer token: /run, /runsync, /status/ID, /stream/ID, /cancel/ID, /health.
"""
import json
import re
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Queue:
    def __init__(self, key, worker="worker-1", hold=2.0, tls=None):          # tls: the files of a certificate and its key
        self.key, self.worker, self.hold = key, worker, hold
        self.lock = threading.Condition()
        self.jobs, self.stops, self.take_faults = deque(), deque(), deque()
        self.post_faults = {"output": deque(), "stream": deque()}
        self.takes, self.pings, self.posts, self.wrong = [], [], [], []      # takes: (time, path, query); posts: (what, job, query, body, status)
        self.answers, self.pieces, self.taken = defaultdict(list), defaultdict(list), set()
        self.told, self.cancelled = defaultdict(int), set()                  # of clients: pieces that were handed out; jobs that they cancelled
        self.count = 0
        handler = type("Handler", (Handler,), {"queue": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def env(self):
        base = f"{self.url}/v2/ep"
        return {"RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=H100", "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=H100",
                "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=H100", "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
                "RUNPOD_PING_INTERVAL": "300", "RUNPOD_AI_API_KEY": self.key, "RUNPOD_POD_ID": self.worker}

    def add(self, said, **more):
        with self.lock:
            self.count += 1
            job = f"job-{self.count}-u1"
            self.jobs.append({"id": job, "input": said, **more})
            self.lock.notify_all()
            return job

    def state(self, job):
        """What a client is told, with the lock held."""
        said = self.answers[job][0]["body"] if self.answers[job] else {}
        state = "CANCELLED" if job in self.cancelled else "COMPLETED" if "output" in said else "FAILED" if said else "IN_PROGRESS" if job in self.taken else "IN_QUEUE"
        return {"id": job, "status": state, **said}

    def new_pieces(self, job):
        new = self.pieces[job][self.told[job]:]
        self.told[job] += len(new)
        return {**self.state(job), "stream": [{"output": piece} for piece in new]}

    def stop(self, *jobs):
        with self.lock:
            self.stops.extend(jobs)
            self.lock.notify_all()

    def wait(self, what, seconds=30):
        """What it gave, once that is true."""
        with self.lock:
            assert self.lock.wait_for(what, seconds), f"it did not come to be within {seconds} s; posts: {self.posts[-5:]}"
            return what()

    def answer(self, job, seconds=30):
        return self.wait(lambda: self.answers[job], seconds)[0]["body"]

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    queue = None

    def log_message(self, *_):
        pass

    def reply(self, status, body=b""):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def left(self):
        """The worker has closed the connection."""
        readable = select.select([self.connection], [], [], 0)[0]
        return bool(readable) and (isinstance(self.connection, ssl.SSLSocket) or self.connection.recv(1, socket.MSG_PEEK) == b"")

    def parts(self):
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

    def expect(self, right, what):
        if not right:
            self.queue.wrong.append(f"{self.command} {self.path}: {what}")

    def client(self, path, body=b""):
        """A request of those who fill the queue; False: it is none."""
        q, words = self.queue, path.removeprefix("/v2/ep/").split("/")
        if self.headers.get("Authorization") != f"Bearer {q.key}":
            return False
        if words[0] in ("run", "runsync"):
            words.append(q.add(json.loads(body)["input"]))
        with q.lock:
            if words[0] == "runsync":
                q.lock.wait_for(lambda: q.answers[words[1]] or words[1] in q.cancelled, 60)
            if words[0] == "cancel":
                q.cancelled.add(words[1])
                q.stops.append(words[1])
                q.lock.notify_all()
            workers = {"jobs": {"inQueue": len(q.jobs)}, "workers": {"idle": 1, "running": 0, "ready": 1}}
            answer = workers if words[0] == "health" else q.new_pieces(words[1]) if words[0] == "stream" else q.state(words[1])
        self.reply(200, json.dumps(answer).encode())
        return True

    def knows_key(self):
        if self.headers.get("Authorization") == self.queue.key:
            return True
        self.reply(401, b'{"error":"unauthorized"}')
        return False

    def do_GET(self):
        path, query = self.parts()
        if self.client(path) or not self.knows_key():
            return
        try:
            if path.startswith(("/v2/ep/job-take/", "/v2/ep/job-take-batch/")):
                self.take(path, query)
            elif path.startswith("/v2/ep/job-stop/"):
                self.expect("job_in_progress" not in query and query.get("gpu") == "H100", "the query of job-stop is that of job-take")
                self.tell_stops()
            elif path.startswith("/v2/ep/ping/"):
                self.ping(path, query)
            else:
                self.expect(False, "no such address")
                self.reply(404)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def held(self, what):
        """Until there is something, the time is over, or the worker has left; with the lock held."""
        end = time.monotonic() + self.queue.hold
        while not what() and time.monotonic() < end:
            self.queue.lock.wait(0.05)
            if self.left():
                raise ConnectionResetError
        return what()

    def take(self, path, query):
        q = self.queue
        batch = "/job-take-batch/" in path
        self.expect(path.endswith("/" + q.worker), "the worker's id is missing")
        self.expect(query.get("gpu") == "H100" and query.get("job_in_progress") in ("0", "1"), "job_in_progress or the query are missing")
        self.expect(batch == ("batch_size" in query) and int(query.get("batch_size", 2)) > 1, "batch_size is for batches")
        with q.lock:
            q.takes.append((time.monotonic(), path, query))
            q.lock.notify_all()
            if q.take_faults:
                fault = q.take_faults.popleft()
                self.reply(*((fault, b"") if isinstance(fault, int) else (200, fault)))
                return
            if not self.held(lambda: q.jobs):
                self.reply(204)
                return
            jobs = [q.jobs.popleft() for _ in range(min(len(q.jobs), int(query.get("batch_size", 1))))]
            q.taken.update(j.get("id") for j in jobs)
            q.lock.notify_all()
        self.reply(200, json.dumps(jobs if batch else jobs[0]).encode())

    def tell_stops(self):
        q = self.queue
        with q.lock:
            if not self.held(lambda: q.stops):
                self.reply(204)
                return
            jobs = list(q.stops)
            q.stops.clear()
        self.reply(200, json.dumps({"jobsToStop": jobs}).encode())

    def ping(self, path, query):
        self.expect(path.endswith("/" + self.queue.worker) and query.get("runpod_version"), "a ping has the worker's id and a version")
        with self.queue.lock:
            self.queue.pings.append(query.get("job_id", ""))
            self.queue.lock.notify_all()
        self.reply(200)

    def do_POST(self):
        q = self.queue
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, query = self.parts()
        if self.client(path, body) or not self.knows_key():
            return
        found = re.fullmatch(rf"/v2/ep/job-(done|stream)/{q.worker}/([^/]+)", path)
        if not found:
            self.expect(False, "no such address")
            self.reply(404)
            return
        what, job = {"done": "output", "stream": "stream"}[found[1]], found[2]
        self.expect(self.headers["Content-Type"] == "application/x-www-form-urlencoded", "the content type")
        self.expect(self.headers["X-Request-ID"] == job, "X-Request-ID is the job's id")
        self.expect(query.get("isStream") in ("true", "false") and query.get("gpu") == "H100", "isStream is missing")
        said = json.loads(body)
        self.expect(set(said) in ({"output"}, {"error"}), "the body has output or error")
        with q.lock:
            fault = q.post_faults[what].popleft() if q.post_faults[what] else 200
            q.posts.append((what, job, query, said, fault))
            if fault in (200, "drop"):
                if what == "output":
                    q.answers[job].append({"body": said, "stream": query["isStream"] == "true"})
                else:
                    self.expect("output" in said and not q.answers[job], "a piece comes before the answer")
                    q.pieces[job].append(said["output"])
            q.lock.notify_all()
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.reply(fault, b"")
