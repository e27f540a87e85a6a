#!/usr/bin/env python3
"""The chart on a real Kubernetes API server: installed, upgraded, rolled back and removed by helm 3 and helm 4.

    tests/proofs/helm.py [--helm helm3,helm4] [--standbys] [--build] [--keep]

etcd, kube-apiserver, kube-controller-manager and kube-scheduler run on loopback; kwok stands in for kubelets and makes pods
Ready, so no container runs here (tests/containers does that). scripts/get-kube builds all of it, for --build; without that,
what is not built yet is a skip that says so. --keep leaves the cluster running and prints how to reach it.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SERVICES = ["gateway", "model-registry", "selector", "usage-tracker", "ab-testing", "access", "hardware-probe", "cloud-fallback"]
UNABLE = 4
VALUES = {"services": {name: {"storage": {"storageClass": "by-hand"}} for name in SERVICES if name != "hardware-probe"}}
VARIANTS = [{}, {"tls": {"secretName": "corral-tls"}}, {"adminOnPod": False},
            {"services": {"gateway": {"service": {"type": "LoadBalancer", "annotations": {"c": "d"}}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
                                      "nodeSelector": {"kubernetes.io/os": "linux"}, "priorityClassName": "high", "runtimeClassName": "nvidia",
                                      "podAnnotations": {"a": "b"}}}},
            {"networkPolicy": {"enabled": True, "adminFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]}},
            {"secretFiles": {"ca": "corral-ca"}, "services": {"usage-tracker": {"secretConfig": {"db": {"secretName": "corral-db", "key": "url"}},
                                                                                "egress": [{"ports": [{"port": 5432}], "to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}]}]}},
             "networkPolicy": {"restrictEgress": True, "egress": [{"ports": [{"port": 11434}]}]}},
            {"database": {"secretName": "corral-db"}}, {"database": {"secretName": "corral-db", "migrate": "init"}, "services": {"selector": {"replicas": 2}}}]


class Failed(Exception):
    pass


def need(condition, sentence):
    if not condition:
        raise Failed(sentence)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=180):
    """Until the condition holds: neither false nor raised."""
    until = time.monotonic() + seconds
    why = ""
    while True:
        try:
            if condition():
                return
        except (OSError, Failed) as e:
            why = f": {e}"
        need(time.monotonic() < until, f"not within {seconds} s: {what}{why}")
        time.sleep(0.1)


class Cluster:
    """A control plane of its own in one folder."""

    def __init__(self, folder, programs):
        self.folder, self.bin, self.running = folder, programs, []
        self.kubeconfig = folder / "kubeconfig"
        self.rss = {}

    def start(self, name, *argv):
        log = (self.folder / f"{name}.log").open("w")
        self.running.append((name, subprocess.Popen([self.bin / name, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                                    start_new_session=True)))

    def alive(self):
        for name, process in self.running:
            if process.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-5:]
                raise Failed(f"{name} ended with status {process.returncode}:\n" + "\n".join(tail))
        return True

    def up(self):
        began = time.monotonic()
        etcd, peer, api = free_port(), free_port(), free_port()
        url = f"http://127.0.0.1:{etcd}"
        self.start("etcd", "--data-dir", f"{self.folder}/etcd", "--listen-client-urls", url, "--advertise-client-urls", url,
                   "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                   "--initial-cluster", f"default=http://127.0.0.1:{peer}", "--unsafe-no-fsync")
        wait_for("etcd answers", lambda: self.alive() and urllib.request.urlopen(f"{url}/health", timeout=2).status == 200)
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text("of-this-test,admin,admin,system:masters\n")
        self.start("kube-apiserver", f"--etcd-servers={url}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
                   "--endpoint-reconciler-type=none", f"--secure-port={api}", f"--cert-dir={self.folder}/certs",
                   f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC", f"--service-account-key-file={key}",
                   f"--service-account-signing-key-file={key}", "--service-account-issuer=https://kubernetes.default.svc",
                   "--service-cluster-ip-range=10.0.0.0/16")
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": f"https://127.0.0.1:{api}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "it", "user": {"token": "of-this-test"}}], "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}))
        wait_for("the API server is ready", lambda: self.alive() and self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok", 300)
        self.start("kube-controller-manager", f"--kubeconfig={self.kubeconfig}", f"--service-account-private-key-file={key}", "--leader-elect=false",
                   "--bind-address=127.0.0.1", f"--secure-port={free_port()}", f"--cert-dir={self.folder}/certs-controllers")
        self.start("kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1",
                   f"--secure-port={free_port()}", f"--cert-dir={self.folder}/certs-scheduler")
        self.start("kwok", "--kubeconfig", self.kubeconfig, "--manage-all-nodes", "--node-ip", "127.0.0.1", "--cidr", "10.1.0.0/16",
                   "--server-address", f"127.0.0.1:{free_port()}", "--config", HERE / "kwok-stages.yaml")
        room = {"cpu": "16", "memory": "64Gi", "pods": "110"}
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node", "labels": {"kubernetes.io/hostname": "node", "kubernetes.io/os": "linux"}},
                    "status": {"allocatable": room, "capacity": room}})
        self.kubectl("wait", "--for=condition=Ready", "node/node", "--timeout=180s")
        self.alive()
        return time.monotonic() - began

    def kubectl(self, *words, stdin=None, check=True):
        done = subprocess.run([self.bin / "kubectl", "--kubeconfig", self.kubeconfig, *words], input=stdin, capture_output=True, text=True, cwd=ROOT)
        need(not check or done.returncode == 0, f"kubectl {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done

    def apply(self, *objects):
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(o) for o in objects))

    def get(self, namespace, kinds):
        return json.loads(self.kubectl("-n", namespace, "get", kinds, "-o", "json").stdout)["items"]

    def memory_mib(self):
        pages = 0
        for _, process in self.running:
            pages += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def down(self):
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for _, process in reversed(self.running):
                if process.poll() is None:
                    process.send_signal(sign)
            until = time.monotonic() + 10
            while any(p.poll() is None for _, p in self.running) and time.monotonic() < until:
                time.sleep(0.05)


class Release:
    """One release of the chart, by one helm, in a namespace that admits restricted pods only."""

    def __init__(self, cluster, helm, namespace):
        self.cluster, self.helm, self.namespace, self.took = cluster, helm, namespace, {}
        self.values = VALUES
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted"}}})
        # A volume for each claim: nobody provisions any here. Eight are needed, with one more for a third gateway.
        cluster.apply(*({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-{i}"}, "spec": {
            "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand",
            "hostPath": {"path": f"/nowhere/{namespace}-{i}"}}} for i in range(2 * len(SERVICES))))

    def run(self, what, *words, values=None, fails=None):
        """helm WORD...; the time it took is kept as WHAT. fails: it has to, with that word in what it says."""
        argv = [self.cluster.bin / self.helm, "--kubeconfig", self.cluster.kubeconfig, "--namespace", self.namespace, *words]
        began = time.monotonic()
        done = subprocess.run(argv + (["--values", "-"] if values is not None else []), input=json.dumps(values), capture_output=True, text=True, cwd=ROOT)
        self.took[what] = time.monotonic() - began
        if fails is None:
            need(done.returncode == 0, f"{self.helm} {what}: {done.stderr.strip()[-800:]}")
        else:
            need(done.returncode != 0 and fails in done.stderr, f"{self.helm} {what} did not fail as it should: {done.stderr.strip()[-400:]}")
        return done.stdout

    def upgrade(self, what, values, *more, **kw):
        return self.run(what, "upgrade", "c", "helm/corral", "--wait", "--timeout", "300s", *more, values=values, **kw)

    def pods(self):
        """{name: (uid, labels, spec)} of those that stay."""
        return {p["metadata"]["name"]: p for p in self.cluster.get(self.namespace, "pods") if "deletionTimestamp" not in p["metadata"]}

    def ready(self):
        for w in self.cluster.get(self.namespace, "statefulsets,deployments"):
            name, status = w["metadata"]["name"], w["status"]
            need(status.get("readyReplicas", 0) == w["spec"]["replicas"] == status.get("updatedReplicas", 0), f"{name} is not all ready: {status}")
        return True

    def templates(self):
        return {w["metadata"]["name"]: (w["spec"]["template"], w["spec"]["replicas"]) for w in self.cluster.get(self.namespace, "statefulsets,deployments")}

    def config(self, service):
        return self.cluster.get(self.namespace, "configmaps") and json.loads(self.cluster.kubectl(
            "-n", self.namespace, "get", "configmap", f"c-corral-{service}", "-o", "json").stdout)["data"]["corral.yaml"]

    def migrations(self):
        """How each Job ended that has; their events outlive them."""
        return [e["reason"] for e in self.cluster.get(self.namespace, "events") if e["involvedObject"]["kind"] == "Job" and e["reason"] in ("Completed", "Failed")]

    def revision_status(self):
        return [(r["revision"], r["status"]) for r in json.loads(self.run("history", "history", "c", "-o", "json"))]


def merged(base, over):
    return {**base, **{k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()}}


def uids(pods, component=None, other_than=None):
    def of(p):
        return p["metadata"]["labels"]["app.kubernetes.io/component"]
    return {p["metadata"]["uid"] for p in pods.values() if (component is None or of(p) == component) and of(p) != other_than}


def cycle(r, two=False):
    """two: of access and usage-tracker while they are on PostgreSQL."""
    r.run("a mistyped value is refused", "install", "c", "helm/corral", values=merged(VALUES, {"services": {"gateway": {"replica": 3}}}), fails="replica")
    r.run("install", "install", "c", "helm/corral", "--wait", "--timeout", "300s", values=VALUES)
    r.ready()
    first, before = r.templates(), r.pods()
    need(len(before) == len(SERVICES) + 1, f"{len(before)} pods after the install, not one of each service and two of the gateway")
    claims = {c["metadata"]["uid"] for c in r.cluster.get(r.namespace, "persistentvolumeclaims")}
    need(len(claims) == len(SERVICES), f"{len(claims)} claims after the install, not one for each pod but the hardware-probe's")

    changed = merged(VALUES, {"services": {"gateway": {"replicas": 3, "config": {"queue_max": 7}}}})
    r.upgrade("upgrade: an option of the gateway, three of it", changed)
    r.ready()
    after = r.pods()
    need(len(uids(after, "gateway")) == 3 and not uids(after, "gateway") & uids(before), "the gateways were not replaced")
    need(uids(after, other_than="gateway") == uids(before, other_than="gateway"), "a service whose options did not change was restarted")
    need("queue_max: 7" in r.config("gateway"), "the new option is not in the gateway's file")
    kept = {c["metadata"]["uid"] for c in r.cluster.get(r.namespace, "persistentvolumeclaims")}
    need(claims < kept and len(kept) == len(SERVICES) + 1, "volumes were not kept")

    r.upgrade("upgrade: a new image", merged(changed, {"image": {"tag": "next"}}))
    r.ready()
    need({c["image"] for p in r.pods().values() for c in p["spec"]["containers"]} == {"corral:next"}, "not all pods have the new image")

    standbys = {name: {"replicas": 2} for name in ("access", "usage-tracker")}
    r.run("a second writer of a file is refused", "upgrade", "c", "helm/corral", values=merged(changed, {"services": standbys}), fails="replicas is 2")
    on_server = merged(changed, {"database": {"secretName": "corral-db"}, "services": standbys if two else {}})
    need(not r.migrations(), "a migration ran where there is no database on a server")
    r.upgrade("upgrade: databases on PostgreSQL", on_server)
    r.ready()
    need(all(len(uids(r.pods(), name)) == (2 if two else 1) for name in standbys), "not as many of access and usage-tracker as were asked for")
    need(not two or "standby_ready: true" in r.config("access"), "a standby of access would not be ready")
    need(r.migrations() == ["Completed"], f"not one migration that was completed: {r.migrations()}")
    need(not r.cluster.get(r.namespace, "jobs"), "the Job of the migration was left")
    good = r.templates()
    r.upgrade("upgrade whose migration fails", merged(on_server, {"image": {"tag": "broken"}}), "--timeout", "15s", fails="")
    need(r.templates() == good, "pods were changed although the migration had failed")
    r.ready()
    r.upgrade("upgrade: the migration works again", on_server)
    need(r.migrations() == ["Completed"] * 2, f"not two migrations that were completed: {r.migrations()}")

    r.run("rollback to the first", "rollback", "c", "1", "--wait", "--timeout", "300s")
    r.ready()
    need(r.templates() == first, "the rollback did not bring back what was installed first")
    need("queue_max" not in r.config("gateway"), "the rollback left the new option")

    undo = "--atomic" if r.helm == "helm3" else "--rollback-on-failure"
    r.run("upgrade that cannot be scheduled, undone by itself", "upgrade", "c", "helm/corral", "--wait", "--timeout", "20s", undo,
          values=merged(VALUES, {"services": {"gateway": {"resources": {"requests": {"cpu": "100"}}}}}), fails="")
    began = time.monotonic()
    wait_for("the release is as it was", lambda: r.templates() == first)
    wait_for("all ready", r.ready)
    r.took["all ready after it"] = time.monotonic() - began
    need(r.revision_status()[-1][1] == "deployed", f"after the undoing: {r.revision_status()}")

    r.run("uninstall", "uninstall", "c", "--wait", "--timeout", "120s")
    wait_for("no pods after the uninstall", lambda: not r.cluster.get(r.namespace, "pods"))
    need({c["metadata"]["uid"] for c in r.cluster.get(r.namespace, "persistentvolumeclaims")} >= kept, "the uninstall took the state with it")


def manifests(cluster, helms):
    """k8s/ and every variant of the chart, judged strictly by the API server without being stored; then k8s/ for good."""
    for values in VARIANTS:
        text = subprocess.run([cluster.bin / helms[0], "template", "c", "helm/corral", "--namespace", "default", "--kube-version", "1.36.3", "--values", "-"],
                              input=json.dumps(values), capture_output=True, text=True, check=True, cwd=ROOT).stdout
        cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    broken = text.replace("readinessProbe", "readynessProbe", 1)
    need(cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=broken, check=False).returncode, "a misspelt field was accepted")
    cluster.kubectl("apply", "--validate=strict", "-k", "k8s")
    need(len(cluster.get("corral", "statefulsets,deployments")) == len(SERVICES), "k8s/ did not make all workloads")
    wait_for("hardware-probe of k8s/ runs: the one without a volume", lambda: any(p["status"].get("phase") == "Running" for p in cluster.get("corral", "pods")))
    cluster.kubectl("delete", "-k", "k8s", "--wait=false")


def states(release):
    """What each workload and pod is doing, for whoever has to find out why a cycle failed."""
    for w in release.cluster.get(release.namespace, "statefulsets,deployments"):
        print(f"    {w['metadata']['name']}: {w['spec']['replicas']} wanted; {json.dumps(w['status'])}")
    for p in release.cluster.get(release.namespace, "pods"):
        print(f"    {p['metadata']['name']}: {p['status'].get('phase')}, deleted {p['metadata'].get('deletionTimestamp', 'not')}, "
              f"{json.dumps(p['status'].get('conditions'))}")
    for e in release.cluster.get(release.namespace, "events")[-20:]:
        print(f"    {e.get('lastTimestamp')} {e['involvedObject']['name']}: {e['reason']}: {e.get('message')}")


def cycle_of(cluster, helm, two):
    """One cycle; a failed one is told in full and made once more in a namespace of its own: what fails twice is not chance."""
    release = Release(cluster, helm, helm)
    try:
        cycle(release, two)
        return release
    except Failed as failed:
        print(f"flaky: tests/proofs/helm.py: {failed}")
        states(release)
    cluster.kubectl("delete", "namespace", helm, "--wait=false")
    release = Release(cluster, helm, f"{helm}-again")
    cycle(release, two)
    return release


def programs_for(helms, build):
    done = subprocess.run([ROOT / "scripts/get-kube", *([] if build else ["--cached"]), "cluster", *helms], stdout=subprocess.PIPE, stderr=None if build else subprocess.PIPE,
                          text=True)
    if done.returncode == UNABLE and not build:
        print(f"skipped: the chart on a Kubernetes API server: {done.stderr.strip().splitlines()[-1]}\n0 passed, 0 failed, 1 skipped")
        sys.exit(0)
    if done.returncode:
        sys.exit(done.returncode)
    return Path(done.stdout.strip().splitlines()[-1]) / "bin"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--helm", default="helm3,helm4")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--standbys", action="store_true", help="two of access and usage-tracker while they are on PostgreSQL")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    helms = options.helm.split(",")
    folder = Path(tempfile.mkdtemp(prefix="corral-kube-"))
    cluster = Cluster(folder, programs_for(helms, options.build))
    passed = 0
    try:
        print(f"    control plane up in {cluster.up():.1f} s")
        manifests(cluster, helms)
        print(f"ok   k8s/ and {len(VARIANTS)} variants of the chart pass strict validation")
        passed += 1
        for helm in helms:
            release = cycle_of(cluster, helm, options.standbys)
            passed += 1
            print(f"ok   {helm}: " + "; ".join(f"{what} {took:.1f} s" for what, took in release.took.items() if what != "history"))
        cluster.alive()
        print(f"    memory of the control plane: {cluster.memory_mib():.0f} MiB")
        print(f"{passed} passed, 0 failed, 0 skipped")
    except Failed as failed:
        print(f"FAIL {failed}\n{passed} passed, 1 failed, 0 skipped")
        sys.exit(1)
    finally:
        if options.keep:
            print(f"still up: KUBECONFIG={cluster.kubeconfig}, logs beside it; processes {' '.join(str(p.pid) for _, p in cluster.running)}")
        else:
            cluster.down()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
