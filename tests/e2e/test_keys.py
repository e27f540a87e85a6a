"""The first key, and the audit log, on a machine where no gateway runs; then the services that hold the store."""
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request

import pytest

from servers import ROOT, Corral, free_port

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}


def listens(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def started(admin):
    """The admin port opens first; the store is held, and the public port open, when all services have started."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{admin}/startupz", timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture
def cli(tmp_path):
    """cli("keys", ...) in an installation of its own, where no gateway runs."""
    if listens(8100):
        pytest.skip("something listens at 127.0.0.1:8100, where these commands look for a gateway first")

    def call(*words, status=0, **env):
        done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=60,
                              env={**CLEAN, "CORRAL_STATE_DIR": str(tmp_path / "state"), **env})
        assert done.returncode == status, done.stdout + done.stderr
        return done
    call.store = tmp_path / "state/access/access.db"
    return call


def serve(folder, *options, **env):
    """corral serve without backends, on free ports; the process, and where its admin port is."""
    port, admin = free_port(), free_port()
    log = open(folder / "serve.log", "ab")
    server = subprocess.Popen([BINARY, "serve", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}", *options],
                              env={**CLEAN, "CORRAL_STATE_DIR": str(folder / "state"), **env}, stdout=log, stderr=log)
    log.close()
    deadline = time.monotonic() + 60
    while not started(admin):
        assert server.poll() is None and time.monotonic() < deadline, (folder / "serve.log").read_text()
        time.sleep(0.05)
    return server


def end(server, how=signal.SIGTERM):
    server.send_signal(how)
    server.wait(60)


def test_the_first_key_needs_no_gateway(cli):
    done = cli("keys", "create", "--role", "owner", "me")
    assert re.fullmatch(r"corral_sk_\w{16}_\w{49}\n", done.stdout)
    assert "no gateway runs at http://127.0.0.1:8100; the key was made in" in done.stderr and str(cli.store) in done.stderr
    made = json.loads(cli("keys", "create", "ci", "--models", "small-*", "--json").stdout)
    assert made["key"]["models"] == ["small-*"] and made["key"]["role"] == "user" and made["secret"].startswith("corral_sk_")
    assert "has the name 'me' already" in cli("keys", "create", "me", status=1).stderr
    with sqlite3.connect(cli.store) as db:
        assert db.execute("SELECT count(*) FROM keys").fetchone() == (2,)
        assert db.execute("SELECT outcome FROM audit ORDER BY seq").fetchall() == [("ok",), ("ok",), ("failed",)]
    assert made["secret"].encode()[27:] not in cli.store.read_bytes()


def test_a_wide_port_in_the_settings_does_not_stop_it(cli):
    cli("keys", "create", CORRAL_LISTEN="0.0.0.0:8100")


def test_a_gateway_that_is_named_is_the_one_to_ask(cli):
    assert "does not answer" in cli("keys", "create", "--url", f"http://127.0.0.1:{free_port()}", status=3).stderr
    assert not cli.store.exists()


def test_who_holds_the_store_is_named(cli, tmp_path):
    server = serve(tmp_path)
    try:
        assert f"in use by another process, pid {server.pid}" in cli("keys", "create", status=3).stderr
        assert cli("audit", "verify").stdout == "the log is whole: 0 entries\n"
    finally:
        end(server)
    cli("keys", "create")


def test_hands_in_the_log_are_found_offline(cli):
    for name in "abc":
        cli("keys", "create", name)
    assert cli("audit", "verify").stdout == "the log is whole: 3 entries\n"
    verdict = json.loads(cli("audit", "verify", "--file", str(cli.store), "--json").stdout)
    assert verdict["ok"] and verdict["entries"] == 3 and len(verdict["head"]) == 64
    with sqlite3.connect(cli.store) as db:
        db.execute("UPDATE audit SET detail = replace(detail, 'user', 'owner') WHERE seq = 2")
    assert "breaks at entry 2" in cli("audit", "verify", status=1).stdout
    with sqlite3.connect(cli.store) as db:
        db.execute("DELETE FROM audit WHERE seq > 1")
        db.execute("UPDATE audit_head SET seq = 1, hash = (SELECT hash FROM audit WHERE seq = 1)")
    assert cli("audit", "verify").returncode == 0
    assert "of a longer log" in cli("audit", "verify", "--head", f"3:{verdict['head']}", status=1).stdout


def test_a_bootstrap_key(cli, tmp_path):
    file = tmp_path / "key"
    file.write_text("not a key of ours, though long enough to be one\n")
    refused = cli("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", status=1, CORRAL_BOOTSTRAP_KEY_FILE=str(file))
    assert "holds is no key; make one with: corral keys generate" in refused.stderr
    file.write_text(cli("keys", "generate").stdout)
    for _ in range(2):
        end(serve(tmp_path, CORRAL_BOOTSTRAP_KEY_FILE=str(file)))
    with sqlite3.connect(cli.store) as db:
        assert db.execute("SELECT id, role, name FROM keys").fetchall() == [(file.read_text()[10:26], 1, "bootstrap")]
    checkpoint = re.findall(r'"audit checkpoint","seq":(\d+),"hash":"(\w{64})"', (tmp_path / "serve.log").read_text())
    assert checkpoint and "is whole" in cli("audit", "verify", "--head", ":".join(checkpoint[-1])).stdout


def test_keys_through_a_gateway(tmp_path):
    corral = Corral(tmp_path, {})

    def call(*words, status=0, key=""):
        done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=60, env={**CLEAN, "CORRAL_URL": corral.url, "CORRAL_API_KEY": key})
        assert done.returncode == status, done.stdout + done.stderr
        return done
    try:
        call("tenants", "create", "acme", "--concurrency", "4")
        call("tenants", "set", "acme", "--teams", "red")
        assert re.search(r"^acme +active +- +- +4 +all +red", call("tenants").stdout, re.M)
        admin = call("keys", "create", "admin", "--role", "admin", "--tenant", "acme").stdout.strip()
        ci = call("keys", "create", "ci", "--team", "red", "--expires", "90d", key=admin).stdout.strip()
        assert "may do more" in call("keys", "create", "--role", "owner", key=admin, status=1).stderr
        listed = json.loads(call("keys", "list", "--json", key=admin).stdout)["keys"]
        assert {(k["name"], k["tenant"]) for k in listed} == {("admin", "acme"), ("ci", "acme")}
        call("tenants", "limit", "acme", "--rpm", "500")
        assert re.search(r"^acme +active +500 +- +4 +all +red", call("tenants").stdout, re.M)
        assert "60 requests a minute, 3 requests at once" in call("keys", "limit", ci, "--rpm", "60", "--concurrency", "3", key=admin).stdout
        assert json.loads(call("keys", "limit", ci, "--rpm", "0", "--json").stdout)["limits"] == {"requests_per_minute": 0, "tokens_per_minute": 0, "concurrency": 3}
        assert call("keys", "limit", ci).stdout == f"{ci[10:26]}: 3 requests at once\n"
        after = call("keys", "rotate", ci, "--overlap", "1h", key=admin).stdout.strip()
        for key in ci, after:
            call("models", key=key)
        call("keys", "revoke", ci)
        deadline = time.monotonic() + 5
        while subprocess.run([BINARY, "models"], capture_output=True, timeout=60, env={**CLEAN, "CORRAL_URL": corral.url, "CORRAL_API_KEY": ci}).returncode == 0:
            assert time.monotonic() < deadline, "a revoked key is good after 5 s"
            time.sleep(0.05)
        call("models", key=after)
        entries = json.loads(call("audit", "--json", key=admin).stdout)["entries"]
        assert [(e["action"], e["outcome"]) for e in entries if e["action"].startswith("keys.")][:5] == [
            ("keys.create", "ok"), ("keys.create", "ok"), ("keys.create", "refused"), ("keys.limit", "ok"), ("keys.limit", "ok")]
        head = f"{entries[1]['seq']}:{entries[1]['hash']}"
        assert "is whole" in call("audit", "verify", "--head", head).stdout
        assert "was remembered" in call("audit", "verify", "--head", head.replace(":", "0:", 1), status=1).stdout
    finally:
        assert corral.close() is None
