#!/usr/bin/env python3
"""cloud.py - what a request to a provider in the cloud takes longer by Corral than straight, once the circuit at home is open.

  tests/bench/cloud.py [--build build] [--requests 600] [--at-once 8] [--takes-ms 100] [--wire one|ipc|tcp|tls|remote]

A model at home answers, and is stopped (SIGSTOP: its port is open and nobody speaks) until its circuit is open. Then each client asks the provider, a mock
with a time of its own, once straight and once as "auto" through gateway and cloud-fallback, turn by turn over kept connections: whole answers to their end,
streams to their first token. Added is what an answer through Corral took, less the median of those asked straight beside it. The mock is asked without TLS.
"""
import argparse, http.client, json, os, random, shutil, signal, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMISED_MS = 50
ASK = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build")
    p.add_argument("--requests", type=int, default=600, help="of each form and way")
    p.add_argument("--at-once", type=int, default=8)
    p.add_argument("--takes-ms", type=int, default=100, help="the provider's own time to its first byte")
    p.add_argument("--wire", default="one", help="one process, or one for each service over ipc, tcp, tls; remote: the selector decides")
    return p.parse_args()


def ask(connection, model, stream):
    """Seconds to the end, or of a stream to the first token; and who answered."""
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": model, "stream": stream, **ASK}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"cloud: {answer.status} {answer.read().decode()}")
    first = None
    while stream and not first:
        line = answer.readline()
        if not line:
            sys.exit("cloud: a stream without a token")
        if b'"content":"' in line and b'"content":""' not in line:
            first = time.monotonic()
    answer.read()
    return (first or time.monotonic()) - began, answer.headers.get("X-Corral-Backend")


class Client(threading.Thread):
    def __init__(self, ports, stream, n):
        super().__init__()
        self.ports, self.stream, self.n, self.took = ports, stream, n, {"straight": [], "corral": []}
        self.failed = None

    def run(self):
        to = {way: http.client.HTTPConnection("127.0.0.1", port, timeout=60) for way, port in self.ports.items()}
        try:
            for i in range(self.n + 3):
                for way in random.sample(sorted(to), 2):
                    took, who = ask(to[way], "auto" if way == "corral" else "m", self.stream)
                    assert way == "straight" or who == "cloud", who
                    if i >= 3:                                   # connections are made, budgets lent
                        self.took[way].append(took * 1000)
        except BaseException as e:
            self.failed = e


def measure(ports, stream, args):
    clients = [Client(ports, stream, args.requests // args.at_once) for _ in range(args.at_once)]
    for c in clients:
        c.start()
    for c in clients:
        c.join()
    failed = [c.failed for c in clients if c.failed]
    if failed:
        sys.exit(f"cloud: {failed[0]!r}")
    return {way: sorted(t for c in clients for t in c.took[way]) for way in ports}


def percent(sorted_list, p):
    return sorted_list[min(len(sorted_list) - 1, int(len(sorted_list) * p / 100))]


def report(what, took):
    straight = statistics.median(took["straight"])
    added = [t - straight for t in took["corral"]]
    worst, beside = percent(took["straight"], 99) - straight, percent(took["corral"], 99) - percent(took["straight"], 99)
    print(f"{'met   ' if percent(added, 99) < PROMISED_MS else 'MISSED'} {what}: added {statistics.median(added):.2f} ms in the median, {percent(added, 99):.2f} ms at p99, promised below "
          f"{PROMISED_MS}; straight {straight:.2f} ms, its own p99 {worst:.2f} ms more; p99 against p99 {beside:+.2f} ms; {len(added)} each")


def wait(what, test, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if got := test():
            return got
        time.sleep(0.02)
    sys.exit(f"cloud: {what} did not come")


def main():
    args = arguments()
    os.environ["CORRAL_ARRANGEMENT"] = args.wire
    os.environ.setdefault("CORRAL_BIN", str((Path(args.build) / "bin/corral").resolve()))
    sys.path.insert(0, str(ROOT / "tests/e2e"))
    from servers import Corral, free_port
    folder, mocks = Path(tempfile.mkdtemp(prefix="corral-cloud-")), []

    def mock(*flags):
        port = free_port()
        mocks.append(subprocess.Popen([os.path.join(args.build, "tests/bench/mock_backend"), "--listen", f"127.0.0.1:{port}", "--gap-ms", "1", "--chunks", "20", *flags]))
        return port
    corral = None
    try:
        provider, home = mock("--model", "m", "--first-ms", str(args.takes_ms)), mock("--model", "h")
        (folder / "corral.yaml").write_text(f'providers:\n  - {{name: cloud, kind: compatible, url: "http://127.0.0.1:{provider}/v1", models: m, key_env: BENCH_KEY, '
                                            f'monthly_tokens: unlimited, slots: {4 * args.at_once}}}\n')
        corral = Corral(folder, {"home": ("llamacpp", f"http://127.0.0.1:{home}")}, "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0", "--cache=off",
                        "--cloud-prefer=none", "--first-byte-timeout=1s", "--breaker-failures=2", "--breaker-open=10m", "--access-log=off", env={"BENCH_KEY": "a-key-of-the-bench"})

        def auto():
            status, headers, _ = corral.post("/v1/chat/completions", {"model": "auto", **ASK}, timeout=60)
            return (headers["X-Corral-Backend"], headers["X-Corral-Attempts"]) if status == 200 else None
        wait("the provider", lambda: all(p["state"] == "ready" for p in corral.get("/providers")[2]["providers"]) and
             corral.post("/v1/chat/completions", {"model": "cloud/m", **ASK})[0] == 200)
        wait("the model at home", lambda: auto() == ("home", "1"))
        mocks[1].send_signal(signal.SIGSTOP)
        wait("the open circuit", lambda: auto() == ("cloud", "1"))
        ports = {"straight": provider, "corral": corral.port}
        print(f"{args.at_once} at once, the provider takes {args.takes_ms} ms, arrangement {args.wire}, load {os.getloadavg()[0]:.1f} over a minute")
        report("whole answers", measure(ports, False, args))
        report("streams, to the first token", measure(ports, True, args))
    finally:
        if corral:
            corral.close()
        for m in mocks:
            m.kill()
            m.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
