"""An engine that hangs between tokens, while its server goes on answering lists: noticed, reported, restarted, replaced."""
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from servers import free_port, http
from test_models import until


class Ollama:
    """Speaks as Ollama does. While 'hung' exists its engine stops after the first token, or before it, and the rest answers as ever."""

    def __init__(self, folder):
        fake = self
        self.hung, self.checks, self.chats, self.gone = folder / "hung", 0, 0, 0
        over = self.over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, body):
                body = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                model = {"name": "tiny:latest", "model": "tiny:latest", "digest": "d", "size": 10, "details": {"family": "llama"}}
                self.reply({"/api/version": {"version": "0.34.2"}, "/api/tags": {"models": [model]},
                            "/api/ps": {"models": [{**model, "expires_at": "2318-01-01T00:00:00Z"}]}}[self.path])

            def line(self, body):
                data = json.dumps(body).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def wait_hung(self):
                while fake.hung.exists() and not over.is_set():
                    self.connection.settimeout(0.05)
                    try:
                        if not self.connection.recv(1, socket.MSG_PEEK):
                            fake.gone += 1
                            self.close_connection = True
                            return False
                    except TimeoutError:
                        pass
                self.connection.settimeout(None)
                return True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/api/show":
                    return self.reply({"capabilities": ["completion"]})
                if self.path == "/api/generate":
                    fake.checks += 1
                    return self.wait_hung() and self.reply({"model": "tiny:latest", "response": "1", "done": True})
                fake.chats += 1
                if body.get("stream") is False:
                    return self.wait_hung() and self.reply({"model": "tiny", "message": {"role": "assistant", "content": "Hello"}, "done": True,
                                                            "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2})
                self.send_response(200)
                self.send_header("Content-Type", "application/x-ndjson")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.line({"model": "tiny", "message": {"role": "assistant", "content": "Hel"}, "done": False})
                if not self.wait_hung():
                    return None
                self.line({"model": "tiny", "message": {"role": "assistant", "content": "lo"}, "done": False})
                self.line({"model": "tiny", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
                           "prompt_eval_count": 3, "eval_count": 2})
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *a):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *a: None                # who is asked closes when he likes
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def fake(tmp_path):
    ollama = Ollama(tmp_path)
    yield ollama
    ollama.over.set()
    ollama.server.shutdown()


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
QUICK = ("--check-every=300ms", "--check-timeout=500ms", "--check-failures=2", "--restart-wait=1s", "--idle-timeout=700ms", "--residency-every=200ms", "--preload-top=0")


def state(front, name="o"):
    return next(b for b in front.get("/backends")[2]["backends"] if b["name"] == name)["state"]


def metric(front, line):
    return [float(m.rsplit(" ", 1)[1]) for m in front.metrics().splitlines() if m.startswith(line)]


def test_an_engine_that_hangs_between_tokens_is_restarted(corral_with, fake, tmp_path):
    restart = tmp_path / "restart"
    restart.write_text(f"#!/bin/sh\necho run >>{tmp_path}/runs\n[ $(wc -l <{tmp_path}/runs) -lt 2 ] || rm -f {fake.hung}\n")     # the second helps
    restart.chmod(0o700)
    front = corral_with({"o": ("ollama", fake.url)}, *QUICK, f"--restart=o={restart} one two")
    until(lambda: front.post("/api/chat", {**CHAT, "stream": False})[0] == 200)
    until(lambda: fake.checks)                                   # at the start, and after it was used …
    time.sleep(3)
    checks = fake.checks
    time.sleep(1.5)
    assert fake.checks == checks <= 3                            # … and no more while nobody uses it
    fake.hung.touch()
    status, _, text = http(f"{front.url}/api/chat", CHAT, "POST", timeout=30)
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["message"]["content"] == "Hel" and "error" in lines[-1] and not any(line.get("done") for line in lines)
    until(lambda: state(front) == "down")
    backend = next(b for b in front.get("/health")[2]["backends"] if b["name"] == "o")
    assert "one token of 'tiny:latest'" in backend["reason"]
    until(lambda: state(front) == "up")
    assert len((tmp_path / "runs").read_text().splitlines()) >= 2 and not fake.hung.exists()
    until(lambda: front.post("/api/chat", {**CHAT, "stream": False})[0] == 200)
    assert metric(front, 'corral_backend_checks_total{backend="o",outcome="failed"}')[0] >= 2
    assert metric(front, 'corral_backend_restarts_total{backend="o",outcome="ok"}')[0] >= 2
    log = front.logs()
    assert "a backend fails its generation check" in log and "a backend generates again" in log and "a command for a backend is run" in log


def test_llamacpp_takes_its_place_while_it_hangs(corral_with, fake, engine, model_file, tmp_path):
    """Two entries of backends: the Ollama, and the address at which its standby will listen."""
    port = free_port()
    fake.hung.touch()                                            # before anybody asks: what passed once is not asked again until it is used
    standby = f"{engine}/bin/llama-server --model {model_file} --alias tiny --host 127.0.0.1 --port {port} --ctx-size 2048 --parallel 1"
    front = corral_with({"o": ("ollama", fake.url), "spare": ("llamacpp", f"http://127.0.0.1:{port}")}, *QUICK, f"--standby=o={standby}",
                        env={"LLAMA_ARG_THREADS": "1"})
    until(lambda: state(front) == "down" and state(front, "spare") == "up")
    assert metric(front, 'corral_backend_standby{backend="o"}') == [1]
    until(lambda: front.post("/api/chat", {**CHAT, "stream": False})[0] == 200)
    status, headers, body = front.post("/api/chat", {**CHAT, "stream": False})
    assert headers["X-Corral-Backend"] == "spare" and body["message"]["content"].startswith("Welcome to Corral!")
    fake.hung.unlink()
    until(lambda: state(front) == "up" and state(front, "spare") == "down")
    until(lambda: metric(front, 'corral_backend_standby{backend="o"}') == [0])
    assert (front.folder / "state/model-registry/standby-o.log").stat().st_size


def test_while_its_answers_flow_it_is_not_asked(corral_with, fake):
    """A client that reads a long answer has the only slot: the check would wait behind it."""
    front = corral_with({"o": ("ollama", fake.url)}, *QUICK[1:], "--check-every=50ms", "--idle-timeout=60s")
    until(lambda: fake.checks)
    checks = fake.checks
    fake.hung.touch()
    reading = threading.Thread(target=http, args=(f"{front.url}/api/chat", CHAT, "POST"), kwargs={"timeout": 60})
    reading.start()
    until(lambda: fake.chats)
    time.sleep(2)
    assert fake.checks == checks and state(front) == "up"
    fake.hung.unlink()
    reading.join()
    until(lambda: fake.checks > checks)
