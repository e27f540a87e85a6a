"""The chart, as helm renders it, against the programs themselves: what it writes they read, what it asks for they have.

scripts/check-chart runs this with every helm that is there (HELMS).
"""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/corral"
BIN = Path(os.environ["CORRAL_BIN"]).parent
HELMS = os.environ["HELMS"].split()
SERVICES = ["gateway", "model-registry", "selector", "usage-tracker", "ab-testing", "access", "hardware-probe", "cloud-fallback"]
ONE_WRITER = ["model-registry", "selector", "usage-tracker", "ab-testing", "access"]
# What a value may be changed to; each is rendered and read by the programs.
VARIANTS = {
    "as it is": {},
    "TLS between services": {"tls": {"secretName": "corral-tls"}},
    "admin port on loopback": {"adminOnPod": False},
    "another name": {"fullnameOverride": "llm-door"},
    "without state": {"services": {name: {"storage": {"size": None}} for name in SERVICES}},
    "options": {"config": {"log_level": "warn"}, "services": {
        "gateway": {"replicas": 3, "drainSeconds": 60, "preStopSeconds": 0, "config": {"queue_max": 7, "allowed_hosts": ["llm.example"], "require_keys": True}},
        "model-registry": {"config": {"backends": ["gpu1=ollama+http://ollama:11434"], "aliases": ["small=tiny"], "sync_every": "1m"}}}},
    "options in Secrets": {"config": {"log_level": None}, "secretConfig": {"log_level": {"secretName": "for-all", "key": "level"}},
                           "secretFiles": {"databases": "corral-databases"}, "services": {
        "usage-tracker": {"secretConfig": {"db": {"secretName": "corral-db", "key": "url"}, "log_level": {"secretName": "of-one", "key": "level"}}},
        "gateway": {"secretConfig": {"queue_max": {"secretName": "corral-options", "key": "queue"}}, "secretFiles": {"public-tls": "corral-public"},
                    "config": {"public_tls_listen": "127.0.0.1:8443", **{f"public_tls_{o}": f"/etc/corral/secrets/public-tls/tls.{f}" for o, f in (("cert", "crt"), ("key", "key"))}}}}},
    "databases on a server": {"database": {"secretName": "corral-db"}},
    "databases on servers, each pod its own schema": {"database": {"secretName": "corral-db", "migrate": "init"}, "services": {
        "access": {"secretConfig": {"access_db": {"secretName": "of-access", "key": "url"}}}}},
    "standbys": {"database": {"secretName": "corral-db"}, "services": {name: {"replicas": 2} for name in ONE_WRITER}},
    "standbys without volumes": {"config": {"db": "postgresql://corral@db.example/corral"}, "services": {name: {"replicas": 3, "storage": {"size": None}} for name in ONE_WRITER}},
    "a cache that gateways share": {"cache": {"secretName": "corral-cache"}, "masterKey": {"secretName": "corral-master-key"}},
    "facts by Kafka": {"bus": {"bus": "kafka:kafka.example:9092", "bus_tls": True, "bus_user": "corral", "bus_sasl_mechanism": "scram-sha-512"},
                       "busPassword": {"secretName": "corral-kafka"}},
}
# What would be in those Secrets.
SECRETS = {("for-all", "level"): "warn", ("of-one", "level"): "error", ("corral-db", "url"): "postgresql://corral@db.example/corral",
           ("corral-kafka", "password"): "of-kafka", ("corral-cache", "url"): "redis://cache.example", ("of-access", "url"): "postgresql://keys@db.example/keys", ("corral-options", "queue"): "9"}


def helm(*words, values=None, helm=HELMS[0], check=True):
    done = subprocess.run([helm, *words, *(["--values", "-"] if values is not None else [])], input=json.dumps(values or {}), cwd=ROOT,
                          capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done


def text_of(values=None, with_helm=HELMS[0], release="corral"):
    return helm("template", release, "helm/corral", "--namespace", "models", "--kube-version", "1.36.3", values=values or {}, helm=with_helm).stdout


def render(*args, **kw):
    """{(kind, name): object}."""
    objects = [o for o in yaml.safe_load_all(text_of(*args, **kw)) if o]
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    assert len(found) == len(objects), "two objects of one name"
    return found


def secret_env(container):
    return {e["name"]: SECRETS[tuple(e["valueFrom"]["secretKeyRef"][k] for k in ("name", "key"))] for e in container["env"] if "valueFrom" in e}


class Service:
    """What belongs to one program among the rendered objects."""

    def __init__(self, objects, program):
        self.program = program
        mine = [o for o in objects.values() if o["metadata"]["labels"]["app.kubernetes.io/component"] == program]
        self.by_kind = {o["kind"]: o for o in mine}
        self.workload = self.by_kind.get("StatefulSet") or self.by_kind["Deployment"]
        self.pod = self.workload["spec"]["template"]
        (self.container,) = self.pod["spec"]["containers"]
        self.ports = {p["name"]: p["containerPort"] for p in self.container["ports"]}
        self.text = self.by_kind["ConfigMap"]["data"]["corral.yaml"]
        self.config = yaml.safe_load(self.text)
        self.env = secret_env(self.container)


def services(objects):
    return [Service(objects, name) for name in SERVICES]


@pytest.fixture(params=VARIANTS, scope="module")
def objects(request):
    return render(VARIANTS[request.param])


@pytest.mark.parametrize("with_helm", HELMS, ids=[Path(h).name for h in HELMS])
def test_rendering_is_the_same_each_time_and_with_each_helm(with_helm):
    assert text_of(VARIANTS["options"], with_helm) == text_of(VARIANTS["options"], with_helm)
    assert render(VARIANTS["options"], with_helm) == render(VARIANTS["options"])


def test_every_service_has_everything(objects):
    for service in services(objects):
        assert {"ServiceAccount", "ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget"} < set(service.by_kind)
    assert len(objects) == 6 * len(SERVICES) + sum(kind == "Job" for kind, _ in objects)


def check_config(program, text, folder, env={}):
    """(status, what it prints) of the program, asked whether it can run with this file and environment."""
    (folder / "corral.yaml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORRAL_")}
    done = subprocess.run([BIN / program, "--check-config"], env={**environment, **env, "CORRAL_CONFIG": str(folder / "corral.yaml")}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory):
    """What a Secret of certificates has in it; one certificate is enough to be read."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=corral", "-days", "2", "-keyout", folder / "tls.key",
                    "-out", folder / "tls.crt"], check=True, capture_output=True)
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())
    return folder


def test_programs_accept_their_files(objects, tmp_path, tls_folder):
    for service in services(objects):
        text = re.sub("/etc/corral/(tls|secrets/public-tls)", str(tls_folder), service.text)
        status, said = check_config(service.program, text, tmp_path, service.env)
        assert status == 0, f"{service.program}: {said}"
        assert "nothing reads" not in said
        for name, value in service.env.items():
            assert re.search(rf"^{name.removeprefix('CORRAL_').lower()}: .* # environment {name}$", said, re.M), f"{service.program}: {name}"


def test_a_program_refuses_what_it_does_not_know(tmp_path):
    """Else the test above would show nothing."""
    gateway = services(render())[0]
    status, said = check_config("gateway", gateway.text + "breaker_opn: 30s\n", tmp_path)
    assert status != 0 and "breaker_opn" in said


def test_what_the_values_say_is_in_the_file():
    found = services(render(VARIANTS["options"]))
    gateway, registry = found[0].config, found[1].config
    assert gateway["queue_max"] == 7 and gateway["require_keys"] is True and gateway["log_level"] == "warn"
    assert "llm.example" in gateway["allowed_hosts"] and "corral-gateway.models.svc" in gateway["allowed_hosts"]
    assert registry["backends"] == ["gpu1=ollama+http://ollama:11434"]


def test_ports_are_those_the_programs_listen_on(objects):
    for service in services(objects):
        config = service.config
        for port, address in {"http": config.get("listen"), "rpc": config.get("rpc_listen")}.items():
            assert (port in service.ports) == (address is not None)
            assert address is None or address.endswith(f"0.0.0.0:{service.ports[port]}")
        if "rpc" in service.ports:
            assert service.ports["news"] == service.ports["rpc"] + 100      # where snapshots go out, says --help
        if "admin" in service.ports:
            assert config["admin_listen"] == f"0.0.0.0:{service.ports['admin']}"
        else:
            assert config["admin_listen"].startswith("127.0.0.1:")
        targets = {p["targetPort"] for p in service.by_kind["Service"]["spec"]["ports"]}
        assert targets == set(service.ports) - {"admin"}


def test_peers_are_services_with_that_port(objects):
    for service in services(objects):
        peers = dict(peer.split("=", 1) for peer in service.config["peer"])
        assert set(peers) == set(SERVICES) - {service.program, "gateway"}
        for name, url in peers.items():
            scheme, host, port = re.fullmatch(r"(tcp|tls\+tcp)://([a-z0-9-]+):([0-9]+)", url).groups()
            there = objects["Service", host]
            assert there["spec"]["selector"]["app.kubernetes.io/component"] == name
            assert int(port) in [p["port"] for p in there["spec"]["ports"] if p["targetPort"] == "rpc"]
            assert (scheme == "tls+tcp") == ("tls_ca" in service.config)
            assert Service(objects, name).config["rpc_listen"].startswith(scheme + "://")


def test_selectors_find_the_pods_and_hold_no_version(objects):
    for service in services(objects):
        labels = service.pod["metadata"]["labels"]
        for selector in (service.workload["spec"]["selector"]["matchLabels"], service.by_kind["Service"]["spec"]["selector"],
                         service.by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
                         service.by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
            assert selector.items() <= labels.items()
            assert set(selector) == {f"app.kubernetes.io/{word}" for word in ("name", "instance", "component")}


def test_probes_and_hooks_are_what_the_programs_have(objects):
    for service in services(objects):
        help_text = subprocess.run([BIN / service.program, "--help"], capture_output=True, text=True).stdout
        assert service.container["command"] == [service.program]
        for kind, word in {"startupProbe": "startupz", "livenessProbe": "livez", "readinessProbe": "readyz"}.items():
            probe = service.container[kind]
            if "admin" in service.ports:
                assert probe["httpGet"] == {"path": f"/{word}", "port": "admin"}
            else:
                assert probe["exec"]["command"] == [service.program, f"--probe={word}"]
            assert word in re.search(r"--probe=(\S+)", help_text)[1].split("|")
        for hook in service.container.get("lifecycle", {}).values():
            program, option = hook["exec"]["command"]
            assert program == service.program and re.fullmatch(r"--wait=[0-9]+s", option) and "--wait=TIME" in help_text


def test_a_pod_has_the_time_to_end(objects):
    for service in services(objects):
        hook = service.container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "--wait=0s"])[1]
        drain = int(service.config["drain"].removesuffix("s"))
        assert service.pod["spec"]["terminationGracePeriodSeconds"] == drain + int(hook[7:-1]) + 15


def test_a_pod_of_the_old_version_is_not_made_again(objects):
    """Without a partition the controller may do that without end, where a version has fewer replicas than the one before."""
    for service in services(objects):
        if service.workload["kind"] == "StatefulSet":
            assert service.workload["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}


def test_pods_may_do_little(objects):
    for service in services(objects):
        pod = service.pod["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert service.container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["serviceAccountName"] == service.by_kind["ServiceAccount"]["metadata"]["name"]
        assert service.container["resources"]["limits"]["memory"] and service.container["resources"]["requests"]["cpu"]
        assert not service.container["image"].endswith(":latest")


def test_paths_in_the_files_are_mounted(objects):
    for service in services(objects):
        mounts = {m["mountPath"]: m["name"] for m in service.container["volumeMounts"]}
        claims = [c["metadata"]["name"] for c in service.workload["spec"].get("volumeClaimTemplates", [])]
        volumes = [v["name"] for v in service.pod["spec"]["volumes"]] + claims
        assert sorted(mounts.values()) == sorted(volumes)
        paths = [service.config[o] for o in ("state_dir", "bootstrap_key_file", "master_key_file", "tls_ca", "tls_cert", "tls_key", "public_tls_cert", "public_tls_key") if o in service.config]
        paths += [e["value"] for e in service.container["env"] if "value" in e]
        for path in paths:
            assert any(path == m or path.startswith(m + "/") for m in mounts), path


def test_a_changed_option_restarts_its_service_and_no_other():
    def sums(values):
        return {s.program: s.pod["metadata"]["annotations"]["checksum/config"] for s in services(render(values))}

    before, after = sums({}), sums({"services": {"selector": {"config": {"decision_keep": "1d"}}}})
    assert [name for name in SERVICES if before[name] != after[name]] == ["selector"]


def test_options_from_secrets_reach_those_that_have_them():
    found = {s.program: s for s in services(render(VARIANTS["options in Secrets"]))}
    assert found["usage-tracker"].env == {"CORRAL_DB": "postgresql://corral@db.example/corral", "CORRAL_LOG_LEVEL": "error"}
    assert found["gateway"].env == {"CORRAL_QUEUE_MAX": "9", "CORRAL_LOG_LEVEL": "warn"}
    assert found["access"].env == {"CORRAL_LOG_LEVEL": "warn"}
    folders = {name: {v["secret"]["secretName"] for v in s.pod["spec"]["volumes"] if v["name"].startswith("secret-")} for name, s in found.items()}
    assert folders["gateway"] == {"corral-databases", "corral-public"} and folders["access"] == {"corral-databases"}
    assert not any(service.env for service in services(render()))


def test_gateways_share_a_cache_and_the_secret_for_it():
    with_both = {s.program: s for s in services(render(VARIANTS["a cache that gateways share"]))}
    assert with_both["gateway"].env == {"CORRAL_CACHE": "redis://cache.example"} and not with_both["selector"].env
    assert with_both["gateway"].config["master_key_file"] == "/etc/corral/master-key/key" and "master_key_file" not in with_both["selector"].config
    several = helm("template", "corral", "helm/corral", "--kube-version", "1.36.3", values={"cache": {"secretName": "corral-cache"}}, check=False)
    assert several.returncode != 0 and "masterKey.secretName" in several.stderr
    assert render({"cache": {"secretName": "corral-cache"}, "services": {"gateway": {"replicas": 1}}})


def test_all_that_have_a_bus_have_the_same():
    for service in services(render(VARIANTS["facts by Kafka"])):
        page = subprocess.run([BIN / service.program, "--dump=config"], capture_output=True, text=True, check=True).stdout
        assert (service.config.get("bus") == "kafka:kafka.example:9092") == ("| `bus` |" in page), service.program
        assert service.env == ({"CORRAL_BUS_PASSWORD": "of-kafka"} if "| `bus` |" in page else {})


def migrate_job(objects):
    (job,) = [o for (kind, _), o in objects.items() if kind == "Job"]
    return job, job["spec"]["template"]["spec"]


def test_the_schema_is_brought_up_to_date_before_pods_change():
    job, pod = migrate_job(render({"database": {"secretName": "corral-db"}, "secretFiles": {"ca": "corral-ca"}}))
    (container,) = pod["containers"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "before-hook-creation" in job["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    gateway = Service(render(), "gateway")
    assert container["securityContext"] == gateway.container["securityContext"] and pod["securityContext"] == gateway.pod["spec"]["securityContext"]
    assert container["image"] == gateway.container["image"] and pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
    # A hook of the first install comes before everything else of the chart: it can need Secrets only.
    assert {next(k for k in v if k != "name") for v in pod["volumes"]} == {"emptyDir", "secret"} and "serviceAccountName" not in pod
    assert secret_env(container) == {"CORRAL_DB": SECRETS["corral-db", "url"]}
    assert not [kind for kind, _ in render() if kind == "Job"]
    assert not [kind for kind, _ in render({"database": {"secretName": "corral-db", "migrate": "none"}}) if kind == "Job"]


def test_the_programs_have_the_command(tmp_path):
    _, pod = migrate_job(render({"database": {"secretName": "corral-db"}}))
    (container,) = pod["containers"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CORRAL_")}
    written = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    done = subprocess.run([BIN / container["command"][0], *container["command"][1:]], env={**environment, **written, "CORRAL_STATE_DIR": str(tmp_path)},
                          capture_output=True, text=True)
    assert done.returncode == 0 and "ledger.db" in done.stdout and "nothing reads" not in done.stderr, done.stderr
    for service in services(render(VARIANTS["databases on servers, each pod its own schema"])):
        first = service.pod["spec"].get("initContainers", [])
        assert [c["command"] for c in first] == ([[service.program, "migrate"]] if service.program != "hardware-probe" else [])
        for c in first:
            assert c["env"] == service.container["env"] and c["volumeMounts"] == service.container["volumeMounts"]
            done = subprocess.run([BIN / service.program, "migrate", "--state-dir", tmp_path], env=environment, capture_output=True, text=True)
            assert done.returncode == 0 and "SQLite" in done.stdout, done.stderr


def test_who_gets_which_database():
    def databases(values):
        return {s.program: {k: v for k, v in s.env.items() if k.endswith("DB")} for s in services(render(values))}

    server, other = SECRETS["corral-db", "url"], SECRETS["of-access", "url"]
    keep = set(SERVICES) - {"hardware-probe"}
    assert databases({"database": {"secretName": "corral-db"}}) == {s: {"CORRAL_DB": server} if s in keep else {} for s in SERVICES}
    found = databases({"database": {"secretName": "corral-db"}, "services": {
        "access": {"secretConfig": {"access_db": {"secretName": "of-access", "key": "url"}}}, "selector": {"config": {"selector_db": "sqlite:/var/lib/corral/s.db"}}}})
    assert found["access"] == {"CORRAL_ACCESS_DB": other} and found["selector"] == {} and found["usage-tracker"] == {"CORRAL_DB": server}


@pytest.mark.parametrize("name", ONE_WRITER)
def test_standbys_are_ready_and_spread(name):
    """A rolling update waits for a standby to be ready; the program says what it makes of that."""
    for values, kind in ((VARIANTS["standbys"], "StatefulSet"), (VARIANTS["standbys without volumes"], "Deployment")):
        service = Service(render(values), name)
        spec = service.workload["spec"]
        assert service.workload["kind"] == kind and spec["replicas"] > 1 and service.config["standby_ready"] is True
        assert (spec.get("updateStrategy") or spec["strategy"])["type"] == "RollingUpdate"
        assert service.by_kind["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
        (spread,) = service.pod["spec"]["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname" and spread["whenUnsatisfiable"] == "ScheduleAnyway"
        assert spread["labelSelector"]["matchLabels"].items() <= service.pod["metadata"]["labels"].items()
        assert service.by_kind["Service"]["spec"]["publishNotReadyAddresses"] is True
    alone = Service(render({"database": {"secretName": "corral-db"}}), name)
    assert alone.workload["spec"]["replicas"] == 1 and "standby_ready" not in alone.config


def test_the_programs_with_one_writer_are_those():
    have = [name for name in SERVICES if "| `standby_ready` |" in subprocess.run([BIN / name, "--dump=config"], capture_output=True, text=True, check=True).stdout]
    assert have == ONE_WRITER


def test_one_job_cannot_know_two_servers_by_one_name():
    values = {"database": {"secretName": "corral-db"}, "services": {"access": {"secretConfig": {"db": {"secretName": "of-access", "key": "url"}}}}}
    done = helm("template", "corral", "helm/corral", "--kube-version", "1.36.3", values=values, check=False)
    assert done.returncode != 0 and "database.migrate" in done.stderr
    render({**values, "database": {"secretName": "corral-db", "migrate": "init"}})


@pytest.mark.parametrize("where", ["service", "every"])
def test_an_option_in_two_places_is_refused(where):
    secret = {"log_level": {"secretName": "a", "key": "b"}}
    values = {"secretConfig": secret} if where == "every" else {"services": {"selector": {"secretConfig": secret}}}
    for with_helm in HELMS:
        done = helm("template", "corral", "helm/corral", "--kube-version", "1.36.3", values=values, helm=with_helm, check=False)
        assert done.returncode != 0 and "log_level of " in done.stderr and "secretConfig" in done.stderr


def test_the_image():
    def images(values):
        return {s.container["image"] for s in services(render(values))}

    version = (ROOT / "VERSION").read_text().strip()
    digest = "sha256:" + "0" * 64
    assert images({}) == {f"corral:{version}"}
    assert images({"image": {"repository": "r.example/corral", "tag": "7"}}) == {"r.example/corral:7"}
    assert images({"image": {"repository": "r.example/corral", "digest": digest}}) == {f"r.example/corral@{digest}"}


def test_only_the_release_s_pods_reach_rpc():
    for service in services(render({"networkPolicy": {"adminFrom": [{"namespaceSelector": {}}]}})):
        rules = service.by_kind["NetworkPolicy"]["spec"]["ingress"]
        by_port = {p["port"]: rule.get("from") for rule in rules for p in rule["ports"]}
        assert set(by_port) == set(service.ports)
        assert by_port["admin"] == [{"namespaceSelector": {}}]
        if "rpc" in by_port:
            assert by_port["rpc"] == by_port["news"] == [{"podSelector": {"matchLabels": {
                "app.kubernetes.io/name": "corral", "app.kubernetes.io/instance": "corral"}}}]
        else:
            assert by_port["http"] is None
    assert not [kind for kind, _ in render({"networkPolicy": {"enabled": False}}) if kind == "NetworkPolicy"]


def test_pods_reach_what_they_may():
    model, database = ({"to": [{"ipBlock": {"cidr": f"10.0.0.{n}/32"}}], "ports": [{"port": port}]} for n, port in ((4, 11434), (5, 5432)))
    assert all(s.by_kind["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"] for s in services(render({"networkPolicy": {"egress": [model]}})))
    for service in services(render({"networkPolicy": {"restrictEgress": True, "egress": [model]}, "services": {"usage-tracker": {"egress": [database]}}})):
        policy = service.by_kind["NetworkPolicy"]["spec"]
        names, release, *more = policy["egress"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert names == {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
        assert release == {"to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "corral", "app.kubernetes.io/instance": "corral"}}}]}
        assert more == ([model, database] if service.program == "usage-tracker" else [model])


def test_a_service_can_be_left_out():
    left = {"services": {"hardware-probe": {"enabled": False}}}
    found = render(left)
    assert not [name for _, name in found if name.endswith("hardware-probe")]
    assert not [p for p in Service(found, "gateway").config["peer"] if p.startswith("hardware-probe")]


@pytest.mark.parametrize("values, named", [
    ({"imag": {}}, "imag"), ({"services": {"gatway": {}}}, "gatway"), ({"services": {"gateway": {"replica": 2}}}, "replica"),
    ({"services": {"gateway": {"config": {"breaker_opn": "3s"}}}}, "breaker_opn"), ({"services": {"gateway": {"config": {"queue_max": "many"}}}}, "queue_max"),
    ({"services": {"gateway": {"config": {"listen": "0.0.0.0:1"}}}}, "listen"), ({"services": {"gateway": {"config": {"backends": []}}}}, "backends"),
    ({"services": {"access": {"replicas": 6}}}, "replicas"), ({"services": {"cloud-fallback": {"replicas": 2}}}, "replicas"),
    ({"services": {"access": {"replicas": 2}}}, "services.access.replicas is 2"),
    ({"database": {"secretName": "s"}, "services": {"access": {"replicas": 2, "config": {"access_db": "sqlite:/var/lib/corral/a.db"}}}}, "database.secretName"),
    ({"database": {"secretName": "s"}, "services": {"access": {"config": {"standby_ready": True}}}}, "standby_ready"), ({"image": {"digest": "latest"}}, "digest"), ({"config": {"log_level": "loud"}}, "log_level"),
    ({"services": {"gateway": {"config": {"queue_timeout": "soon"}}}}, "queue_timeout"), ({"firstKey": {"secretName": ""}}, "secretName"),
    ({"services": {"gateway": {"secretConfig": {"breaker_opn": {"secretName": "a", "key": "b"}}}}}, "breaker_opn"),
    ({"services": {"gateway": {"secretConfig": {"queue_max": {"secretName": "a"}}}}}, "queue_max"),
    ({"services": {"gateway": {"secretConfig": {"queue_max": "9"}}}}, "queue_max"), ({"secretConfig": {"queue_max": {"secretName": "a", "key": "b"}}}, "queue_max"),
    ({"services": {"gateway": {"secretConfig": {"listen": {"secretName": "a", "key": "b"}}}}}, "listen"),
    ({"secretFiles": {"../tls": "a"}}, "../tls"), ({"database": {"migrate": "later"}}, "migrate"),
    ({"bus": {"topic": "x"}}, "topic"), ({"networkPolicy": {"egress": ["10.0.0.5"]}}, "egress")])
def test_values_that_mean_nothing_are_refused(values, named):
    for with_helm in HELMS:
        done = helm("template", "corral", "helm/corral", "--kube-version", "1.36.3", values=values, helm=with_helm, check=False)
        assert done.returncode != 0 and named in done.stderr


def test_the_schema_knows_every_option_of_each_program():
    schema = json.loads((CHART / "values.schema.json").read_text())
    for program in SERVICES:
        page = subprocess.run([BIN / program, "--dump=config"], capture_output=True, text=True, check=True).stdout
        options = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
        known = set(schema["properties"]["services"]["properties"][program]["properties"]["config"]["properties"])
        assert known <= options
        (secret,) = schema["properties"]["services"]["properties"][program]["properties"]["secretConfig"]["patternProperties"]
        assert {o for o in options if re.search(secret, o)} == known
        assert options - known <= {"config", "listen", "admin_listen", "rpc_listen", "state_dir", "drain", "peer", "tls_ca", "tls_cert", "tls_key",
                                   "bootstrap_key_file", "cloud_listen", "cloud_endpoint", "standby_ready"}


def test_every_program_of_the_tree_is_in_the_chart():
    assert {p.parent.name for p in ROOT.glob("services/*/main.c")} - {"corral"} == set(SERVICES)


def test_versions_agree():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == (ROOT / "VERSION").read_text().strip()
