#!/usr/bin/env python3
"""scale.py - discovery of many backends, and what is known of them afterwards.

  tests/bench/scale.py [--build build] [--backends 100] [--models 1000] [--each 100] [--after-ms 20] [--port 8380]

Starts fake_ollamas, and corral with an empty state folder; says how long it took until the gateway lists every replica (every model of every backend
is asked for its traits then), how long cycles take that find nothing new (POST /models/sync), and how large the snapshot is.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build")
    p.add_argument("--backends", type=int, default=100)
    p.add_argument("--models", type=int, default=1000, help="different ones")
    p.add_argument("--each", type=int, default=100, help="models of a backend")
    p.add_argument("--after-ms", type=int, default=20, help="from a question to its answer")
    p.add_argument("--port", type=int, default=8380, help="the first of backends + 4 free ports")
    p.add_argument("--rounds", type=int, default=5, help="of cycles that find nothing new")
    p.add_argument("--cores", default="", help="pin fake backends and corral, as 0,1")
    return p.parse_args()


def ask(url, method="GET"):
    request = urllib.request.Request(url, method=method, data=b"" if method == "POST" else None)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait(what, test, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if (got := test()) is not None:
                return got
        except OSError:
            pass
        time.sleep(0.005)
    sys.exit(f"scale: {what} did not come")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def metric(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                return float(line.rsplit(" ", 1)[1])
    return None


def say(what, value, limit, unit):
    print(f"{'met   ' if value < limit else 'MISSED'} {what}: {value:.3f} {unit}, promised below {limit:g}")


def main():
    args = arguments()
    first, gateway, admin = args.port + 4, args.port, args.port + 1
    folder, started = tempfile.mkdtemp(prefix="corral-scale-"), []
    pin = [["taskset", "-c", c] for c in args.cores.split(",")] if args.cores else [[], []]

    def start(pinned, *command):
        log = open(os.path.join(folder, os.path.basename(command[0]) + ".log"), "w")
        process = subprocess.Popen([*pinned, *command], stdout=log, stderr=log)
        started.append(process)
        return process

    try:
        start(pin[0], os.path.join(args.build, "tests/bench/fake_ollamas"), "--first-port", str(first), "--backends", str(args.backends), "--models",
              str(args.models), "--each", str(args.each), "--after-ms", str(args.after_ms))
        wait("fake_ollamas", lambda: ask(f"http://127.0.0.1:{first + args.backends - 1}/api/version"))
        backends = ",".join(f"b{i:03}=ollama+http://127.0.0.1:{first + i}" for i in range(args.backends))
        began = time.monotonic()
        corral = start(pin[1], os.path.join(args.build, "bin/corral"), "serve", "--listen", f"127.0.0.1:{gateway}", "--admin-listen", f"127.0.0.1:{admin}",
                       "--state-dir", os.path.join(folder, "state"), "--backends", backends, "--workers", "1", "--sync-every", "1h", "--residency-every", "1h")
        wait("corral", lambda: ask(f"http://127.0.0.1:{gateway}/models"))
        up = time.monotonic()

        def whole():
            listed = [m for m in ask(f"http://127.0.0.1:{gateway}/models")["models"] if "backends" in m]
            replicas = sum(len(m["backends"]) for m in listed)
            return (len(listed), replicas) if replicas >= args.backends * args.each else None

        models, replicas = wait("the whole list", whole)
        print(f"{args.backends} backends, {models} models, {replicas} replicas, answers after {args.after_ms} ms")
        first_cycle = time.monotonic() - began
        print(f"the first cycle, from the program's start: {first_cycle:.2f} s ({up - began:.2f} s until it answered at all), {cpu_s(corral.pid):.2f} s of CPU")
        n, total = metric(admin, "corral_sync_seconds_count"), metric(admin, "corral_sync_seconds_sum")
        if n:
            print(f"a listing of a backend took {total / n:.3f} s in the mean ({n:.0f} of them)")
        cycles = []
        for _ in range(args.rounds):
            before, cpu = time.monotonic(), cpu_s(corral.pid)
            ask(f"http://127.0.0.1:{gateway}/models/sync", "POST")
            cycles.append(time.monotonic() - before)
            print(f"a cycle that finds nothing new: {cycles[-1]:.3f} s, {cpu_s(corral.pid) - cpu:.2f} s of CPU")
        size = os.path.getsize(os.path.join(folder, "state/model-registry/models.snapshot"))
        say("the first cycle", first_cycle, 2, "s")
        say("the slowest of those that find nothing new", max(cycles), 2, "s")
        say("the snapshot", size / 1e6, 2, "MB")
        with open(f"/proc/{corral.pid}/status") as f:
            print("corral", [line.strip() for line in f if line.startswith("VmRSS")][0])
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
