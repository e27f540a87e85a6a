"""Every service as its own process: on one machine, over ipc, tcp or TLS, each to be started, stopped and killed by itself.

`Apart(folder, "tcp", options)` knows the processes; nothing runs before start(). Options are those of `corral serve`; each program is
given those that it has.
"""
import functools
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = re.compile(r"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error:")
SERVICES = ("access", "usage-tracker", "ab-testing", "hardware-probe", "model-registry", "selector", "cloud-fallback", "gateway")
WIRES = ("ipc", "tcp", "tls")


given = set()             # ports, so that none is given twice


def programs():
    """The folder of the programs: that of CORRAL_BIN, or $BUILD/bin."""
    given = os.environ.get("CORRAL_BIN")
    return Path(given).parent if given else ROOT / os.environ.get("BUILD", "build") / "bin"


def port_is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def own_ports():
    """Below those that the kernel gives to connections, so that nobody takes one before the service; each of several runs at a time has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4
    return 11500 + 5000 * worker, 11500 + 5000 * (worker + 1) - 100


def free_port(pair=False):
    """One of our own that nothing listens at. pair: the port 100 above is free too."""
    while True:
        port = random.SystemRandom().randrange(*own_ports())
        if port not in given and port_is_free(port) and (not pair or (port + 100 not in given and port_is_free(port + 100))):
            given.update({port, port + 100} if pair else {port})
            return port


@functools.cache
def options_of(name):
    text = subprocess.run([programs() / name, "--dump=config"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", text, re.M))


def as_flags(options):
    """["--a", "b", "--c=d", "--no-e"] as [("a", "--a=b"), ...]."""
    out, rest = [], [str(o) for o in options]
    while rest:
        word = rest.pop(0)
        if "=" not in word and rest and not rest[0].startswith("--"):
            word += "=" + rest.pop(0)
        out.append((word[2:].split("=")[0].replace("-", "_"), word))
    return out


def get(url, timeout=2):
    """(status, text); status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError:
        return 0, ""


class Service:
    def __init__(self, name, folder, argv, admin):
        self.name, self.argv, self.admin = name, argv, f"http://127.0.0.1:{admin}"
        self.log = Path(folder) / f"{name}.log"
        self.handle = None

    def start(self, env):
        with self.log.open("ab") as log:
            self.handle = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)

    def runs(self):
        return self.handle is not None and self.handle.poll() is None

    def ready(self):
        return get(self.admin + "/readyz")[0] == 200

    def needs(self):
        """{name: ok} of /readyz; None when nobody answers."""
        status, text = get(self.admin + "/readyz")
        return {n["need"]: n["ok"] for n in json.loads(text)["needs"]} if status else None

    def settled(self):
        """Ready, and misses nothing."""
        status, text = get(self.admin + "/readyz")
        return status == 200 and all(need["ok"] for need in json.loads(text)["needs"])

    def signal(self, number):
        self.handle.send_signal(number)

    def open_files(self):
        return len(os.listdir(f"/proc/{self.handle.pid}/fd"))

    def kill(self):
        """kill -9; what it ended with counts no more."""
        if self.handle is not None:
            self.handle.kill()
            self.handle.wait()
        self.handle = None

    def stop(self, wait_s=20):
        """SIGTERM, then the exit status; -9 when it had to be killed."""
        if self.handle is None:
            return 0
        if self.handle.poll() is None:
            self.handle.send_signal(signal.SIGTERM)
        try:
            return self.handle.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def tail(self, lines=20):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def wrong(self):
        """A sanitizer's report in its log, as a sentence, or None."""
        found = self.log.exists() and SANITIZER.search(self.log.read_text(errors="replace"))
        return f"the log of {self.name} holds a sanitizer's report:\n{self.tail(80)}" if found else None


class Apart:
    def __init__(self, folder, wire="ipc", options=(), env=None, port=None, state=None, gateways=("gateway",)):
        """gateways: names of gateway processes; the first one has 'port' and the state folder that corral serve would use."""
        self.folder, self.wire = Path(folder), wire
        self.state = Path(state) if state else self.folder / "state"
        self.env = {**(os.environ if env is None else env)}
        self.flags = as_flags(options)
        self.config = next((Path(flag.split("=", 1)[1]) for name, flag in self.flags if name == "config"), None)
        self.flags = [(name, flag) for name, flag in self.flags if name != "config"]
        self.write_configs()
        self.places = self._places()
        self.services = {name: self._service(name, name, free_port()) for name in SERVICES if name != "gateway"}
        self.addresses = {}
        for name in gateways:
            own = [] if name == gateways[0] else [f"--state-dir={self.folder / name}"]
            self.addresses[name] = ("127.0.0.1", port if port and not own else free_port())
            self.services[name] = self._service(name, "gateway", free_port(), "--listen=%s:%d" % self.addresses[name], *own)
        known = set().union(*(options_of(p) for p in SERVICES))
        unknown = [flag for name, flag in self.flags if name.removeprefix("no_") not in known and name not in known]
        assert not unknown, f"no program has {unknown}"

    def __getitem__(self, name):
        return self.services[name]

    def _places(self):
        """name -> (where it listens, where others find it)"""
        names = [name for name in SERVICES if name != "gateway"]
        if self.wire == "ipc":
            run = self.folder / "ipc"
            run.mkdir(parents=True, exist_ok=True)
            return {name: (f"ipc://{run}/{name}", f"ipc://{run}/{name}") for name in names}
        if self.wire == "tls":
            subprocess.run([ROOT / "scripts/certs", self.folder / "tls", *SERVICES], check=True)
        scheme = "tls+tcp" if self.wire == "tls" else "tcp"
        ports = {name: free_port(pair=True) for name in names}
        return {name: (f"{scheme}://127.0.0.1:{p}", f"{scheme}://localhost:{p}") for name, p in ports.items()}

    def write_configs(self):
        """Of the file that corral serve would read, each program gets the lines that are for it, in their places; what nobody knows is the gateway's."""
        if not self.config:
            return
        known = {p: options_of(p) for p in SERVICES}
        for program in SERVICES:
            kept, mine = [], True
            for line in self.config.read_text().splitlines():
                key = re.match(r"([\w-]+):", line)
                if key:
                    option = key[1].replace("-", "_")
                    mine = option in known[program] or (program == "gateway" and not any(option in k for k in known.values()))
                kept.append(line if mine else "#")
            (self.folder / f"{program}.yaml").write_text("".join(f"{line}\n" for line in kept))

    def _service(self, name, program, admin, *more):
        argv = [str(programs() / program), f"--admin-listen=127.0.0.1:{admin}", f"--state-dir={self.state}", *more]
        if program in self.places:
            argv.append(f"--rpc-listen={self.places[program][0]}")
        argv += [f"--peer.{other}={at}" for other, (_, at) in self.places.items() if other != program]
        if self.wire == "tls":
            tls = self.folder / "tls"
            argv += [f"--tls-ca={tls}/ca.pem", f"--tls-cert={tls}/{program}.pem", f"--tls-key={tls}/{program}.key"]
        if self.config:
            argv.append(f"--config={self.folder / program}.yaml")
        had = options_of(program)
        argv += [flag for option, flag in self.flags if option in had or option.removeprefix("no_") in had]
        return Service(name, self.folder, argv, admin)

    def start(self, names=None, wait_s=60):
        """Starts them, in the order given, and waits until all are ready and miss nothing."""
        for name in names or self.services:
            self.services[name].start(self.env)
        self.wait(lambda: all(s.settled() for s in self.services.values() if s.runs() or s.name in (names or self.services)), wait_s)
        until = time.monotonic() + 5              # a list with the first models in it may still be on its way to the gateways
        while self.models_are_awaited() and time.monotonic() < until:
            time.sleep(0.02)

    def models_are_awaited(self):
        def text(service, need):
            return next((n["text"] for n in json.loads(get(service.admin + "/readyz")[1] or '{"needs":[]}')["needs"] if n["need"] == need), "")

        if text(self.services["model-registry"], "backends").startswith("0 "):
            return False
        return any(text(self.services[name], "model snapshot") for name in self.addresses)

    def wait(self, condition, wait_s=30):
        until = time.monotonic() + wait_s
        while not condition():
            gone = [s for s in self.services.values() if s.handle is not None and s.handle.poll() is not None]
            if gone or time.monotonic() > until:
                said = "\n".join(f"--- {s.name}: needs {s.needs()}\n{s.tail()}" for s in gone or self.services.values())
                self.kill()
                raise RuntimeError(f"the services did not become ready:\n{said}")
            time.sleep(0.03)

    def kill(self):
        for service in self.services.values():
            service.kill()

    def stop(self):
        """The gateways first, the ledger last; what was wrong with their ends, as sentences."""
        wrong = []
        for service in reversed(self.services.values()):
            status = service.stop()
            if status:
                wrong.append(f"{service.name} ended with status {status}:\n{service.tail()}")
            wrong += [w for w in [service.wrong()] if w]
        return wrong
