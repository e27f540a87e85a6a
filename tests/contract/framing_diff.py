#!/usr/bin/env python3
"""framing_diff.py - sends every case of framing_cases.txt to our codec, nginx and Node, and prints who refuses what.

    tests/contract/framing_diff.py [--probe build/tests/contract/framing_probe] [--port N] [--verbose]
    tests/contract/framing_diff.py --seeds         writes the passing cases as fuzz seeds

Ours must refuse all that must be refused and pass all that must pass; the exit status says so. The others are there to
compare with: what they let through is what a strict edge in front of or behind them has to stop. Where the RFC leaves the
choice the table says policy, and is counted apart. An nginx of its own, a server and a client in Node are started on free
ports of the loopback (or on four from --port on) and stopped at the end; what is not installed is left out, and said.

A request counts as passed when the peer answered as many of its messages as there are with a success, a response when the
peer handed it on whole. nginx stands between client and server; Node is asked on both sides."""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CASES = HERE / "framing_cases.txt"

NGINX = """
daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
  scgi_temp_path {dir}/s; client_header_timeout 1s; client_body_timeout 1s; proxy_read_timeout 3s;
  large_client_header_buffers 4 8k;
  server {{ listen 127.0.0.1:{front}; location / {{
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://127.0.0.1:{back}; }} }}
}}
"""

NODE = """
const http = require('http'), net = require('net');
const [front, ask, back] = process.argv.slice(2).map(Number);
const server = http.createServer((q, s) => {
  q.on('data', () => {}); q.on('end', () => { s.end('ok'); }); q.on('error', () => {});
});
server.on('clientError', (e, c) => { if (c.writable) c.end('HTTP/1.1 400 Bad Request\\r\\nConnection: close\\r\\n\\r\\n'); });
server.listen(front, '127.0.0.1');
// Asked "GET /N" or "HEAD /N" on the line, fetches that case from 'back' and says "pass" or "refuse".
net.createServer(c => c.once('data', d => {
  const [method, path] = d.toString().trim().split(' ');
  let said = false;
  const say = x => { if (!said) { said = true; c.end(x); } };
  const q = http.request({ host: '127.0.0.1', port: back, path, method, agent: false, timeout: 2000 }, s => {
    let n = 0;
    s.on('data', b => n += b.length); s.on('end', () => say('pass ' + n)); s.on('error', () => say('refuse')); s.on('aborted', () => say('refuse'));
  });
  q.on('error', () => say('refuse')); q.on('timeout', () => { q.destroy(); say('refuse'); }); q.end();
})).listen(ask, '127.0.0.1');
"""


def unescape(text):
    """The bytes of a case, as framing_unescape() of framing_cases.h gives them."""
    out = bytearray()
    named = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0"}
    for m in re.finditer(r"\{(\d+)\*(.)\}|\\x([0-9a-fA-F]{2})|\\(.)|(.)", text):
        count, filler, hexa, escaped, plain = m.groups()
        if count:
            out += filler.encode() * int(count)
        elif hexa:
            out.append(int(hexa, 16))
        elif escaped:
            out += named.get(escaped, escaped.encode())
        else:
            out += plain.encode()
    return bytes(out)


class Case:
    def __init__(self, line):
        self.kind, self.expect, number, self.name, text = line.split(None, 4)
        self.must = {"pass": "pass"}.get(self.expect, "refuse")
        self.messages, self.body = (int(x) for x in number.split("/")) if self.expect == "pass" else (1, 0)
        self.bytes = unescape(text)


def load():
    lines = CASES.read_text().split("\n")
    return [Case(line) for line in lines if line and not line.startswith("#")]


def write_seeds(cases):
    for case in cases:
        if case.expect != "pass" or len(case.bytes) > 1024:
            continue
        target = "http_request" if case.kind == "req" else "http_response"
        folder = ROOT / "tests/fuzz/corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / case.name).write_bytes(case.bytes)
        head, _, body = case.bytes.partition(b"\r\n\r\n")
        if b"chunked" in head.lower() and body and case.messages == 1:
            folder = ROOT / "tests/fuzz/corpus/http_chunked"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / case.name).write_bytes(body)


def read_answers(data):
    """(successes, refused) of the responses in 'data', our own servers' answers being simple."""
    statuses = [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d{3})", data)]
    return sum(200 <= s < 300 for s in statuses), any(s >= 400 for s in statuses)


def send(port, data, wanted, patience=2.0):
    """Sends 'data', reads until the peer closes, 'wanted' successes came, or nothing comes any more."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as s:
        try:
            s.sendall(data)
            end = time.monotonic() + patience
            while time.monotonic() < end:
                part = s.recv(65536)
                if not part:
                    break
                got += part
                good, refused = read_answers(got)
                if refused or good >= wanted:
                    break
        except OSError:
            pass
    return got


def ask_request(port, case):
    good, refused = read_answers(send(port, case.bytes, case.messages))
    return "pass" if good >= case.messages and not refused else "refuse"


class Backend(threading.Thread):
    """Answers /N with the bytes of response case N and closes; anything else with 'ok', its body read by its framing."""

    def __init__(self, port, cases):
        super().__init__(daemon=True)
        self.cases = cases
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def run(self):
        while True:
            conn, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        with conn:
            conn.settimeout(3)
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    part = conn.recv(65536)
                    if not part:
                        return
                    data += part
                m = re.match(rb"(?:GET|HEAD) /case/(\d+) ", data)
                if m:
                    conn.sendall(self.cases[int(m.group(1))].bytes)
                else:
                    conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                conn.shutdown(socket.SHUT_WR)
                while conn.recv(65536):
                    pass
            except OSError:
                pass


def nginx_response(port, index, case):
    method = b"HEAD" if case.kind == "reshead" else b"GET"
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=4) as s:
        s.sendall(method + b" /case/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % index)
        try:
            while part := s.recv(65536):
                got += part
        except OSError:
            return "refuse"
    if b"HTTP/1.1 502" in got[:16] or b"HTTP/1.1 504" in got[:16] or not got.startswith(b"HTTP/1.1 "):
        return "refuse"
    if b"transfer-encoding: chunked" in got.lower() and case.kind != "reshead" and not got.endswith(b"0\r\n\r\n"):
        return "refuse"                           # cut: nginx had sent the head before it saw the fault
    m = re.search(rb"content-length: (\d+)\r\n", got.lower())
    body = got.partition(b"\r\n\r\n")[2]
    if m and case.kind != "reshead" and b" 304 " not in got[:16] and int(m.group(1)) > len(body):
        return "refuse"
    return "pass"


def node_response(port, index, case):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.sendall((b"HEAD" if case.kind == "reshead" else b"GET") + b" /case/%d\n" % index)
        said = b""
        try:
            while part := s.recv(100):
                said += part
        except OSError:
            pass
    return "pass" if said.startswith(b"pass") else "refuse"


def ours(probe, cases):
    out = subprocess.run([probe, str(CASES)], check=True, capture_output=True, text=True).stdout
    verdicts = dict(line.split("\t")[:2] for line in out.splitlines())
    return [verdicts[c.name] for c in cases]


def ports(first):
    """Four ports: from 'first' on, or free ones."""
    if first:
        return range(first, first + 4)
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    numbers = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return numbers


def wait_for(port, process):
    for _ in range(100):
        if process.poll() is not None:
            sys.exit(f"a peer on port {port} ended at once")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def run_all(cases, request_port, response):
    """Verdicts in order; the cases are independent, and some peers answer a fault only by their time limit."""
    def one(item):
        index, case = item
        return ask_request(request_port, case) if case.kind == "req" else response(index, case)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, enumerate(cases)))


def start_nginx(folder, front, back):
    conf = pathlib.Path(folder, "nginx.conf")
    conf.write_text(NGINX.format(dir=folder, front=front, back=back))
    return subprocess.Popen(["nginx", "-c", str(conf), "-e", f"{folder}/start.log"], stderr=subprocess.DEVNULL)


def find_nginx():
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/sbin")


def report(cases, table, verbose):
    for who, verdicts in table.items():
        told = []
        for expect, text in (("refuse", "refuses {}/{} faults"), ("policy", "refuses {}/{} that are our policy"), ("pass", "passes {}/{} that are fine")):
            of = [v == c.must for c, v in zip(cases, verdicts) if c.expect == expect]
            told.append(text.format(sum(of), len(of)))
        print(f"{who:6} " + ", ".join(told))
        for c, v in zip(cases, verdicts):
            if v != c.must and (verbose or who == "ours"):
                print(f"         {'turns away' if v == 'refuse' else 'lets through':12}  {c.expect} {c.kind} {c.name}")
    bad = sum(v != c.must for c, v in zip(cases, table["ours"]))
    print(f"{len(cases) - bad} passed, {bad} failed, 0 skipped")
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--probe", default=str(ROOT / "build/tests/contract/framing_probe"))
    p.add_argument("--port", type=int, default=0, help="the first of four ports; 0 = any free ones")
    p.add_argument("--verbose", action="store_true", help="name every case the others judge otherwise")
    p.add_argument("--seeds", action="store_true")
    args = p.parse_args()
    cases = load()
    if args.seeds:
        return write_seeds(cases)
    table = {"ours": ours(args.probe, cases)}
    port = ports(args.port)
    Backend(port[1], cases).start()
    started = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            if find_nginx():
                os.environ["PATH"] += ":/usr/sbin:/sbin"
                started.append(start_nginx(folder, port[0], port[1]))
                wait_for(port[0], started[-1])
                table["nginx"] = run_all(cases, port[0], lambda i, c: nginx_response(port[0], i, c))
            else:
                print("nginx is not installed: left out")
            if shutil.which("node"):
                script = pathlib.Path(folder, "peer.js")
                script.write_text(NODE)
                started.append(subprocess.Popen(["node", str(script), *map(str, (port[2], port[3], port[1]))]))
                wait_for(port[3], started[-1])
                table["node"] = run_all(cases, port[2], lambda i, c: node_response(port[3], i, c))
            else:
                print("node is not installed: left out")
        finally:
            for process in started:
                process.terminate()
                process.wait()
    return report(cases, table, args.verbose)


if __name__ == "__main__":
    sys.exit(main())
