#!/usr/bin/env python3
"""bench.py - what a request costs in a proxy, beside nginx, on the same core in the same minutes.

  tests/bench/bench.py [--build build] [--programs build/bin] [--rounds 5] [--seconds 3] [--targets nginx,floor] [--cases post-1k] [--json FILE]

Load generator and backend are pinned to one core, the proxy under test to another. Every round runs each target once, in
rotating order; ratios are taken within a round and their median is reported, so that what else the machine does cancels out.
CPU is the run time of all threads of the proxy as the scheduler counts it, in nanoseconds.

To add a proxy, write a Target (how it is started, where it listens, whom it needs) and name it in TARGETS; to add a load,
write a Case and name it in CASES.
"""
import argparse, json, os, re, resource, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))


# --- processes ---------------------------------------------------------------------------------------------------------

def pinned(core, command):
    return ["taskset", "-c", str(core), *command]


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except FileNotFoundError:
        return []


def tree(pid):
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def cpu_ns(pid):
    """Run time of all threads of the process and its children, of those that have ended too: the kernel's clock of that process."""
    return sum(time.clock_gettime_ns((~p << 3) | 2) for p in tree(pid))      # clock_getcpuclockid(3), the scheduler's nanoseconds


def rss_kb(pid):
    total = 0
    for p in tree(pid):
        with open(f"/proc/{p}/status") as f:
            total += int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    return total


def wait_for(port, process, what):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"bench: {what} ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"bench: {what} does not listen on port {port}")


def must_be_free(port):
    """A server left over on the port would silently take the load."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"bench: port {port} is taken; choose --port")


# --- the world: the backend and the places everything is at ------------------------------------------------------------

class World:
    def __init__(self, args):
        self.build, self.programs, self.seconds = args.build, args.programs or os.path.join(args.build, "bin"), args.seconds
        self.load_core, self.proxy_core = args.cores
        self.dir = tempfile.mkdtemp(prefix="corral-bench-")
        self.next_port, self.started = args.port, []
        self.rss_idle_mb = None       # of corral, ready and unasked
        self.mock_port = self.port()
        self.mock_flags = ["--model", "mock", "--slots", "19000", "--chunks", str(args.chunks), "--gap-ms", str(args.gap_ms)]
        self.chunks = args.chunks
        self.corral_flags = args.corral_flags.split()

    def port(self):
        self.next_port += 1
        must_be_free(self.next_port - 1)
        return self.next_port - 1

    def program(self, name):
        path = os.path.join(self.build, "tests/bench", name)
        return path if os.path.exists(path) else sys.exit(f"bench: {path} is missing; run make fakes")

    def start(self, core, command, port, what, env=None):
        log = open(os.path.join(self.dir, what + ".log"), "w")
        process = subprocess.Popen(pinned(core, command), stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self.started.append(process)
        wait_for(port, process, what)
        return process

    def start_mock(self):
        at = f"127.0.0.1:{self.mock_port}"
        self.start(self.load_core, [self.program("mock_backend"), "--listen", at, *self.mock_flags], self.mock_port, "mock_backend")

    def stop(self):
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.dir)


# --- targets -----------------------------------------------------------------------------------------------------------

class Target:
    name = "?"
    path = "/v1/chat/completions"
    headers = {}
    model = "mock"
    settle = 0.0          # seconds after a run that its CPU still belongs to

    def start(self, world):
        """Starts it; sets self.port and self.pid."""
        raise NotImplementedError


class Direct(Target):
    """No proxy: what load and backend cost themselves."""
    name = "direct"

    def start(self, world):
        self.port, self.pid = world.mock_port, None


class Floor(Target):
    """Corral's HTTP server and client joined, nothing else."""
    name = "floor"

    def start(self, world):
        self.port = world.port()
        command = [world.program("proxy_floor"), "--listen", f"127.0.0.1:{self.port}", "--to", f"http://127.0.0.1:{world.mock_port}"]
        self.pid = world.start(world.proxy_core, command, self.port, self.name).pid


class Nginx(Target):
    name = "nginx"
    CONFIG = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err; worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 128k; client_max_body_size 64m; tcp_nodelay on;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream mock {{ server 127.0.0.1:{mock}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""

    def start(self, world):
        self.port = world.port()
        config = os.path.join(world.dir, "nginx.conf")
        with open(config, "w") as f:
            f.write(self.CONFIG.format(dir=world.dir, mock=world.mock_port, port=self.port))
        self.pid = world.start(world.proxy_core, ["nginx", "-c", config, "-p", world.dir], self.port, self.name).pid


class Haproxy(Target):
    name = "haproxy"
    CONFIG = """
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  option http-no-delay
  http-reuse always
  retries 0
frontend f
  bind 127.0.0.1:{port} backlog 4096
  default_backend b
backend b
  server mock 127.0.0.1:{mock} pool-max-conn -1
"""

    def start(self, world):
        self.port = world.port()
        config = os.path.join(world.dir, "haproxy.cfg")
        with open(config, "w") as f:
            f.write(self.CONFIG.format(mock=world.mock_port, port=self.port))
        self.pid = world.start(world.proxy_core, ["haproxy", "-db", "-f", config], self.port, self.name).pid


class Corral(Target):
    """The whole gateway: validation, decision, accounting to the spool and the ledger, metrics. Access logs are off, as nginx's are.
    CPU is that of the whole process, and is read after the ledger has had time to take what the run left in the spool."""
    name = "corral"
    model = "mock"
    settle = 1.0
    running = None        # one process serves the named and the auto target: they run one after the other

    def start(self, world):
        if Corral.running is None:
            self.port, admin = world.port(), world.port()
            command = [os.path.join(world.programs, "corral"), "serve", "--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{admin}",
                       "--state-dir", os.path.join(world.dir, "state"), "--backends", f"mock=llamacpp+http://127.0.0.1:{world.mock_port}",
                       "--workers", "1", "--access-log", "off", "--max-connections", "19000", "--queue-max", "19000", *world.corral_flags]
            pid = world.start(world.proxy_core, command, self.port, self.name).pid
            wait_ready(admin)
            time.sleep(1)
            world.rss_idle_mb = rss_kb(pid) / 1024
            Corral.running = (self.port, pid)
        self.port, self.pid = Corral.running


class CorralAuto(Corral):
    """The same with model "auto": features, rules and the decision log as well."""
    name, model = "auto", "auto"


class CorralHit(Corral):
    """The same question over and over, kept: nothing of it reaches the backend."""
    name, headers = "hit", {"Cache-Control": "max-age=86400"}


def wait_ready(admin):
    import urllib.request
    for _ in range(100):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=1).read()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("bench: corral is not ready")


TARGETS = {t.name: t for t in (Direct, Nginx, Haproxy, Floor, Corral, CorralAuto, CorralHit)}


# --- cases: each gives a dict of numbers for one run -------------------------------------------------------------------

class Post:
    """Requests as fast as they go, by wrk."""
    unit = "request"

    def __init__(self, bytes, connections):
        self.bytes, self.connections = bytes, connections

    def script(self, world, target):
        path = os.path.join(world.dir, f"{target.name}-{self.bytes}.lua")
        text = "x" * (self.bytes - 62)
        headers = {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "bench/1.0", "Authorization": "Bearer sk-none", **target.headers}
        with open(path, "w") as f:
            f.write('wrk.method = "POST"\nwrk.path = "%s"\n' % target.path)
            for name, value in headers.items():
                f.write('wrk.headers["%s"] = "%s"\n' % (name, value))
            f.write("wrk.body = [[%s]]\n" % json.dumps({"model": target.model, "messages": [{"role": "user", "content": text}]}, separators=(",", ":")))
        return path

    def run(self, world, target, seconds):
        out = subprocess.run(pinned(world.load_core, ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--latency", "-s",
                             self.script(world, target), f"http://127.0.0.1:{target.port}"]), capture_output=True, text=True).stdout
        if "Non-2xx" in out or "Socket errors" in out:
            sys.exit(f"bench: {target.name} failed requests:\n{out}")
        count = int(re.search(r"(\d+) requests in", out).group(1))
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        return {"count": count, "rate": rate, "p50_us": latency(out, "50"), "p99_us": latency(out, "99")}


def latency(out, percent):
    value, unit = re.search(percent + r"%\s+([\d.]+)(us|ms|s)\b", out).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


class Streams:
    """Event streams side by side; the unit is a chunk that arrived."""
    unit = "chunk"

    def __init__(self, streams):
        self.streams = streams

    def run(self, world, target, seconds):
        command = [world.program("sse_client"), "--url", f"http://127.0.0.1:{target.port}", "--path", target.path, "--streams", str(self.streams), "--model", target.model,
                   "--seconds", str(seconds), "--chunks", str(world.chunks)]
        if "Authorization" in target.headers:
            command += ["--key", target.headers["Authorization"].removeprefix("Bearer ")]
        seen = json.loads(subprocess.run(pinned(world.load_core, command), capture_output=True, text=True).stdout)
        if seen["broken"] or seen["not_200"] or seen["missing"]:
            sys.exit(f"bench: {target.name} lost chunks: {seen}")
        return {"count": seen["chunks"], "rate": seen["chunks"] / seconds, "p50_us": seen["p50_us"], "p99_us": seen["p99_us"], "stalls": seen["stalls"]}


CASES = {
    "post-1k": Post(1024, 64), "post-1k-1": Post(1024, 1), "post-1k-8": Post(1024, 8), "post-32k": Post(32768, 32),
    "sse-100": Streams(100), "sse-1000": Streams(1000), "sse-5000": Streams(5000),
}


# --- rounds ------------------------------------------------------------------------------------------------------------

def measure(world, case, target, seconds):
    before = cpu_ns(target.pid) if target.pid else 0
    got = case.run(world, target, seconds)
    time.sleep(target.settle)
    if target.pid:
        got["cpu_us"] = (cpu_ns(target.pid) - before) / 1000 / got["count"]
        got["rss_mb"] = rss_kb(target.pid) / 1024
    return got


def run_case(world, name, targets, rounds):
    case, runs = CASES[name], {t.name: [] for t in targets}
    for target in targets:
        case.run(world, target, 1)            # warm, uncounted
    for r in range(rounds):
        at = r % len(targets)
        for target in targets[at:] + targets[:at]:
            runs[target.name].append(measure(world, case, target, world.seconds))
    return runs


def median(runs, key):
    values = [r[key] for r in runs if key in r]
    return statistics.median(values) if values else None


def ratios(runs, base, key):
    return [r[key] / b[key] for r, b in zip(runs, base) if key in r and key in b]


def summary(runs, base_name):
    rows = {}
    for name, rs in runs.items():
        rows[name] = {key: median(rs, key) for key in ("cpu_us", "rate", "p50_us", "p99_us", "rss_mb")}
        for key in ("cpu_us", "rate", "p50_us", "p99_us"):
            if base_name in runs and (found := ratios(rs, runs[base_name], key)):
                rows[name][key + "_ratio"] = {"median": statistics.median(found), "min": min(found), "max": max(found)}
    return rows


def show(name, rows, base_name):
    unit = CASES[name].unit
    print(f"\n{name}: medians; ratios are to {base_name} within a round (min..max)")
    print(f"{'':10} {'CPU us/' + unit:>15} {'ratio':>20} {unit + 's/s':>12} {'ratio':>7} {'p50 us':>9} {'p99 us':>9} {'RSS MB':>8}")
    for target, row in rows.items():
        ratio, rate = row.get("cpu_us_ratio"), row.get("rate_ratio")
        print(f"{target:10} {row['cpu_us'] or 0:15.2f} "
              f"{'%.3f (%.2f..%.2f)' % tuple(ratio.values()) if ratio else '-':>20} {row['rate']:12.0f} "
              f"{'%.2f' % rate['median'] if rate else '-':>7} {row['p50_us']:9.0f} {row['p99_us']:9.0f} {row['rss_mb'] or 0:8.1f}")


# --- what is promised: CPU beside nginx's, one worker each, median of the rounds --------------------------------------------

PROMISES = (("post-1k", "corral", 1.0), ("post-32k", "corral", 1.0), ("post-1k", "auto", 1.25), ("sse-1000", "corral", 1.0))
RSS_IDLE_MB = 40
HIT_RATE = 2.0        # of a kept answer, beside what nginx proxies


def say(what, value, limit, spread=""):
    print(f"{'met   ' if value <= limit else 'MISSED'} {what}: {value:.2f}{spread}, promised at most {limit:g}")


def verdicts(summaries, rss_idle_mb):
    print()
    for case, target, limit in PROMISES:
        if ratio := summaries.get(case, {}).get(target, {}).get("cpu_us_ratio"):
            say(f"{case}, {target}: CPU per {CASES[case].unit} / nginx's", ratio["median"], limit, f" ({ratio['min']:.2f}..{ratio['max']:.2f})")
    if ratio := summaries.get("post-1k", {}).get("hit", {}).get("rate_ratio"):
        print(f"{'met   ' if ratio['median'] >= HIT_RATE else 'MISSED'} post-1k, hit: requests/s / nginx's: {ratio['median']:.2f} "
              f"({ratio['min']:.2f}..{ratio['max']:.2f}), promised at least {HIT_RATE:g}")
    if rss_idle_mb is not None:
        say("corral serve at rest: RSS in MB", rss_idle_mb, RSS_IDLE_MB)


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--build", default="build")
    p.add_argument("--programs", help="where corral is; of the build when not said")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=int, default=3, help="of each run")
    p.add_argument("--targets", default="nginx,haproxy,floor,corral,auto", help="of " + ",".join(TARGETS))
    p.add_argument("--cases", default="post-1k,post-32k,sse-1000", help="of " + ",".join(CASES))
    p.add_argument("--base", default="nginx", help="the target that ratios are taken to")
    p.add_argument("--port", type=int, default=8280, help="the first of a few free ports")
    p.add_argument("--cores", default="0,1", type=lambda s: tuple(int(c) for c in s.split(",")), help="load and backend, proxy")
    p.add_argument("--chunks", type=int, default=20, help="of a stream")
    p.add_argument("--gap-ms", type=int, default=50, help="between chunks")
    p.add_argument("--corral-flags", default="", help="more options of corral serve")
    p.add_argument("--json", help="write every run there")
    return p.parse_args()


def main():
    args = arguments()
    for name, table in ((args.targets, TARGETS), (args.cases, CASES)):
        unknown = [n for n in name.split(",") if n not in table]
        if unknown:
            sys.exit(f"bench: unknown: {', '.join(unknown)}; there are {', '.join(table)}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    world, all_runs = World(args), {}
    try:
        world.start_mock()
        targets = [TARGETS[name]() for name in args.targets.split(",")]
        for target in targets:
            target.start(world)
        for name in args.cases.split(","):
            all_runs[name] = run_case(world, name, targets, args.rounds)
            show(name, summary(all_runs[name], args.base), args.base)
    finally:
        world.stop()
    if args.base == "nginx":
        verdicts({n: summary(r, args.base) for n, r in all_runs.items()}, world.rss_idle_mb)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"runs": all_runs, "summary": {n: summary(r, args.base) for n, r in all_runs.items()}}, f, indent=1)


if __name__ == "__main__":
    main()
