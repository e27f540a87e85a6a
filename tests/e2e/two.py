"""Two gateways of two workers before one engine, the registry and access, each a process that can be killed and started again."""
import json
import os
import subprocess

from servers import ROOT, free_port, http as ask
from test_access import as_key, until

BIN = os.path.dirname(os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral")))


class Process:
    def __init__(self, folder, name, program, *options):
        self.log = folder / f"{name}.log"
        self.argv = [f"{BIN}/{program}", "--state-dir", str(folder / name), "--admin-listen", f"127.0.0.1:{free_port()}", *options]
        self.handle = None

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}
        self.handle = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.log.open("ab"), stderr=subprocess.STDOUT, env=env)

    def kill(self):
        self.handle.kill()
        self.handle.wait()

    def stop(self):
        if self.handle and self.handle.poll() is None:
            self.handle.terminate()
            self.handle.wait(60)


class Two:
    """Two gateways of two workers, the registry and access, each a process."""

    def __init__(self, folder, engine):
        registry, access = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.registry = Process(folder, "registry", "model-registry", "--rpc-listen", registry, "--backends", f"e=openai+{engine.url}", "--slots=e=64")
        self.access = Process(folder, "access", "access", "--rpc-listen", access)
        ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{p}" for p in ports]
        self.gateways = [Process(folder, f"gateway{i}", "gateway", "--workers=2", f"--listen=127.0.0.1:{p}", f"--peer=model-registry={registry}",
                                 f"--peer=access={access}", "--drain=5s") for i, p in enumerate(ports)]
        self.url = self.urls[0]
        for p in (self.registry, self.access, *self.gateways):
            p.start()
        for url in self.urls:
            self.wait(url)

    def wait(self, url):
        def lists():
            try:
                return len(json.loads(ask(url + "/v1/models")[2])["data"]) == 4
            except (OSError, KeyError, ValueError):
                return False
        until(lists, 60)

    def key(self, **what):
        def made():
            status, _, text = ask(self.url + "/keys", what)
            return json.loads(text)["secret"] if status == 201 else None
        secret = until(made)
        for url in self.urls:
            until(lambda: all(ask(url + "/v1/models", headers=as_key(secret))[0] == 200 for _ in range(6)))
        return secret

    def close(self):
        for p in (*self.gateways, self.access, self.registry):
            p.stop()
