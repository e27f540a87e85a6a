"""Keys, roles, tenants and limits at the door of a running Corral: with real keys, on every route that it lists."""
import json
import os
import re
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from servers import ROOT, free_port, http, until

ROLES = ["owner", "admin", "operator", "auditor", "developer", "user", "service"]
BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))


class Engine:
    """An OpenAI-compatible server with three models; 'hold' keeps answers back, 'pause' is how long each takes, 'tokens' is what it says it made."""

    def __init__(self, pause=0):
        engine = self
        self.hold, self.tokens, self.served, self.asked = threading.Event(), 10, 0, None
        self.hold.set()

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
                self.reply({"object": "list", "data": [{"id": m, "object": "model"} for m in ("alpha-1", "alpha-2", "beta-1")]})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine.asked = asked
                engine.hold.wait(60)
                time.sleep(pause)
                engine.served += 1
                self.reply({"id": "x", "object": "chat.completion", "created": 1, "model": asked["model"],
                            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
                            "usage": {"prompt_tokens": 5, "completion_tokens": engine.tokens - 5, "total_tokens": engine.tokens}})

            def log_message(self, *a):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 256

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def engine_fake():
    engine = Engine()
    yield engine
    engine.server.shutdown()


@pytest.fixture(scope="module")
def locked(corral_with, engine_fake):
    """One Corral on loopback; who has no key is the owner there, and keys are held to what they may."""
    corral = corral_with({"e": ("openai", engine_fake.url)}, "--slots=e=64")
    until(lambda: len(corral.get("/v1/models")[2]["data"]) == 4)
    return corral


def as_key(secret):
    return {"Authorization": f"Bearer {secret}"}


def make_key(corral, **what):
    status, _, body = corral.post("/keys", what)
    assert status == 201, body
    until(lambda: http(corral.url + "/api/version", headers=as_key(body["secret"]))[0] != 401)
    return body["key"]["id"], body["secret"]


def put_tenant(corral, name, **what):
    status, _, body = corral.get(f"/tenants/{name}", body=what, method="PUT")
    assert status == 200, body


def chat(corral, secret, model="alpha-1", **more):
    return corral.post("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "hi"}], **more},
                       headers=as_key(secret) if secret else {})


def routes():
    """(method, path, action) of every public route, from the program itself."""
    text = subprocess.run([BINARY, "serve", "--dump=routes"], capture_output=True, text=True, check=True).stdout
    public = text.split("## admin port")[0]
    return re.findall(r"^\| (\w+) \| `([^`]+)` \| ([\w.]+) \|", public, re.M)


def rights():
    """{action: {role: "own" | "all" | ""}}"""
    text = subprocess.run([BINARY, "serve", "--dump=roles"], capture_output=True, text=True, check=True).stdout
    table = {}
    for line in re.findall(r"^\| `([\w.]+)` \|(.*)\|$", text, re.M):
        cells = [c.strip() for c in line[1].split("|")]
        table[line[0]] = {role: cells[i].replace("–", "") for i, role in enumerate(ROLES)}
    return table


def test_every_route_for_every_role(locked):
    """A role that has a route's action gets anything but 401 and 403 there; one that has not gets 403; a key that nobody made 401."""
    table, keys = rights(), {role: make_key(locked, name=f"every-{role}", role=role)[1] for role in ROLES}
    wrong = []
    for method, path, action in routes():
        url = locked.url + (path + "nothing-of-that-name" if path.endswith("/") and path != "/" else path)
        for role, secret in keys.items():
            if table[action][role] and (method, path) in (("POST", "/models/sync"),):
                continue        # it would list every backend each time; that it may is seen in the unit test
            status = http(url, b"" if method in ("POST", "PUT") else None, method, as_key(secret))[0]
            if (status in (401, 403)) == bool(table[action][role]) or status == 500:
                wrong.append((method, path, role, status))
        if http(url, None, method, as_key("corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS"))[0] != 401:
            wrong.append((method, path, "unknown key"))
    assert not wrong
    assert len(routes()) > 40


def test_keys_come_in_three_headers_and_never_in_the_url(locked):
    _, secret = make_key(locked, name="headers", role="user")
    for name, value in [("Authorization", f"Bearer {secret}"), ("x-api-key", secret), ("api-key", secret)]:
        assert http(locked.url + "/usage", headers={name: value})[0] == 403      # known, and a user may not
    status, _, text = http(f"{locked.url}/v1/models?api_key={secret}")
    assert status == 400 and "Bearer" in json.loads(text)["error"]["message"]


@pytest.mark.parametrize("path,shape", [("/v1/chat/completions", lambda b: b["error"]["code"]), ("/api/chat", lambda b: b["error"]),
                                        ("/v1/messages", lambda b: b["error"]["type"]), ("/inference", lambda b: b["error_code"])])
def test_refusals_speak_the_clients_dialect(locked, path, shape):
    status, headers, text = http(locked.url + path, {}, "POST", as_key("corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS"))
    assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer") and headers["X-Request-Id"]
    assert shape(json.loads(text))


def test_revoked_at_once_and_rotated_with_overlap(locked):
    key, secret = make_key(locked, name="short-lived", role="user")
    assert chat(locked, secret)[0] == 200
    status, _, body = locked.post(f"/keys/{key}/rotate", {"overlap_s": 60})
    assert status == 201
    until(lambda: chat(locked, body["secret"])[0] == 200)
    assert chat(locked, secret)[0] == 200
    assert locked.get(f"/keys/{key}", method="DELETE")[2] == {"id": key, "revoked": True}
    until(lambda: chat(locked, secret)[0] == 401, 5)
    assert chat(locked, body["secret"])[0] == 200


def test_a_head_is_refused_before_its_body(locked):
    host, port = locked.url[7:].split(":")
    with socket.create_connection((host, int(port)), timeout=20) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
                  b"x-api-key: corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_models_are_there_only_for_who_may_see_them(locked):
    put_tenant(locked, "narrow", models=["alpha-*"])
    _, secret = make_key(locked, name="narrower", role="developer", tenant="narrow", models=["*-1"])
    def get(path): return locked.get(path, headers=as_key(secret))
    assert [m["id"] for m in get("/v1/models")[2]["data"]] == ["auto", "alpha-1"]
    assert [m["name"] for m in get("/api/tags")[2]["models"]] == ["auto", "alpha-1"]
    assert [m["name"] for m in get("/models")[2]["models"]] == ["auto", "alpha-1"]
    assert get("/v1/models/alpha-2")[0] == 404 and get("/models/beta-1")[0] == 404
    assert "beta" not in json.dumps(get("/backends")[2])
    assert chat(locked, secret)[0] == 200
    status, _, hidden = chat(locked, secret, "beta-1")
    never = chat(locked, secret, "gamma-1")[2]
    assert status == 404 and json.dumps(hidden).replace("beta", "gamma") == json.dumps(never)
    for _ in range(5):
        assert chat(locked, secret, "auto")[1]["X-Corral-Model"] == "alpha-1"
    status, _, why = locked.post("/explain", {"prompt": "hi"}, headers=as_key(secret))
    assert status == 200 and "beta" not in json.dumps(why) and "alpha-2" not in json.dumps(why)


def test_requests_of_another_tenant_do_not_exist(locked):
    put_tenant(locked, "north"), put_tenant(locked, "south")
    secrets = {(t, r): make_key(locked, name=f"{t}-{r}", role=r, tenant=t)[1] for t in ("north", "south") for r in ROLES}
    status, headers, _ = chat(locked, secrets["north", "developer"], "auto")
    request = headers["X-Request-Id"]
    assert status == 200
    until(lambda: locked.get(f"/requests/{request}")[0] == 200 and locked.get(f"/explain/{request}")[0] == 200)
    table = rights()
    for (tenant, role), secret in secrets.items():
        for path, action in ((f"/requests/{request}", "requests.read"), (f"/explain/{request}", "explain")):
            right = table[action][role]
            want = 403 if not right else 200 if tenant == "north" or right == "all" else 404
            assert (path, tenant, role, http(locked.url + path, headers=as_key(secret))[0]) == (path, tenant, role, want)
        usage = locked.get("/usage?group_by=tenant,key", headers=as_key(secret))
        if table["usage.read"][role]:
            seen = {row["tenant"] for row in usage[2]["rows"]}
            assert seen <= {tenant} or table["usage.read"][role] == "all"
            other = "south" if tenant == "north" else "north"
            assert locked.get(f"/usage?tenant={other}", headers=as_key(secret))[0] == (200 if table["usage.read"][role] == "all" else 404)
    row = locked.get(f"/requests/{request}")[2]["attempts"][0]
    assert row["tenant"] == "north" and row["key_id"] == secrets["north", "developer"][10:26]


# What a route's object belongs to: (path, body) of a request about something of that tenant. Of all other routes the objects are everybody's.
OBJECTS = {
    ("GET", "/usage"): lambda c, t, seen: (f"/usage?tenant={t}", None),
    ("GET", "/savings"): lambda c, t, seen: (f"/savings?against={priced(c)}&tenant={t}", None),
    ("GET", "/quality"): lambda c, t, seen: (f"/quality?tenant={t}", None),
    ("GET", "/requests/"): lambda c, t, seen: (f"/requests/{seen[t]}", None),
    ("GET", "/explain/"): lambda c, t, seen: (f"/explain/{seen[t]}", None),
    ("GET", "/keys"): lambda c, t, seen: (f"/keys?tenant={t}", None),
    ("POST", "/keys"): lambda c, t, seen: ("/keys", {"name": fresh_name(), "role": "user", "tenant": t}),
    ("POST", "/keys/"): lambda c, t, seen: (f"/keys/{victim(c, t)}/rotate", {"overlap_s": 60}),
    ("PUT", "/keys/"): lambda c, t, seen: (f"/keys/{victim(c, t)}", {"limits": {"concurrency": 3}}),
    ("DELETE", "/keys/"): lambda c, t, seen: (f"/keys/{victim(c, t)}", None),
    ("GET", "/budgets"): lambda c, t, seen: (f"/budgets?tenant={t}", None),
    ("PUT", "/budgets"): lambda c, t, seen: ("/budgets", {"scope": f"tenant:{t}", "period": "day", "tokens": 1000000000}),
    ("DELETE", "/budgets"): lambda c, t, seen: (f"/budgets?scope=tenant:{t}&period={a_budget(c, t)}", None),
    ("PUT", "/tenants/"): lambda c, t, seen: (f"/tenants/{t}", {"display_name": "changed"}),
    ("DELETE", "/tenants/"): lambda c, t, seen: (f"/tenants/{t}", None),
}
EVERYBODYS = {"health", "inference", "feedback", "models.read", "models.write", "models.manage", "backends.read", "hardware.read", "jobs.read", "jobs.write",
              "providers.read", "settings.write", "tests.read", "tests.write", "prices.read", "prices.write", "tenants.read", "audit.read"}
NAMES = iter(range(1, 10 ** 6))


def fresh_name():
    return f"made-{next(NAMES)}"


def priced(corral):
    """A model with a price."""
    price = {"model": "big", "input_microusd": 1, "output_microusd": 1, "valid_from": "2026-01-01"}
    status = corral.get("/prices", body=price, method="PUT")[0]
    assert status in (200, 201)
    return "big"


def victim(corral, tenant):
    """A key of the tenant that nobody needs."""
    status, _, body = corral.post("/keys", {"name": fresh_name(), "role": "user", "tenant": tenant})
    assert status == 201, body
    return body["key"]["id"]


def a_budget(corral, tenant):
    assert corral.get("/budgets", body={"scope": f"tenant:{tenant}", "period": "month", "tokens": 1000000000}, method="PUT")[0] == 200
    return "month"


def test_every_route_with_objects_of_ones_own_tenant_and_of_another(locked):
    """What is another tenant's does not exist, except for roles that reach it; a route that is new has to be put on one of the lists."""
    actions = {(method, path): action for method, path, action in routes()}
    assert set(OBJECTS) <= set(actions)
    assert [r for r, action in actions.items() if r not in OBJECTS and action not in EVERYBODYS] == []
    tenants, seen, wrong = ("east", "west"), {}, []
    keys = {}
    for t in tenants:
        put_tenant(locked, t)
        for role in ROLES:
            keys[t, role] = make_key(locked, name=f"{t}-{role}", role=role, tenant=t)[1]
        seen[t] = chat(locked, keys[t, "developer"], "auto")[1]["X-Request-Id"]
        until(lambda: locked.get(f"/requests/{seen[t]}")[0] == 200 and locked.get(f"/explain/{seen[t]}")[0] == 200)
    table = rights()
    for (method, path), about in OBJECTS.items():
        for role in ROLES:
            right = table[actions[method, path]][role]
            for object_tenant in tenants:
                where, body = about(locked, object_tenant, seen)
                status = http(locked.url + where, body, method, as_key(keys["east", role]))[0]
                want = {403} if not right else {404} if object_tenant == "west" and right != "all" else {200, 201, 409}
                if status not in want:
                    wrong.append((method, path, role, object_tenant, status, want))
    assert not wrong


def test_suspended_tenants_are_kept_out(locked):
    put_tenant(locked, "late")
    _, secret = make_key(locked, name="late", role="user", tenant="late")
    assert chat(locked, secret)[0] == 200
    put_tenant(locked, "late", suspended=True)
    until(lambda: chat(locked, secret)[0] == 403, 5)
    put_tenant(locked, "late")
    until(lambda: chat(locked, secret)[0] == 200, 5)


def start(folder, *options, env=None):
    """A Corral that may refuse to start: (handle, log)."""
    log = folder / "log"
    handle = subprocess.Popen([BINARY, "serve", "--state-dir", str(folder / "state"), "--admin-listen", "127.0.0.1:0", "--drain=2s", *options], stdin=subprocess.DEVNULL,
                              stdout=log.open("w"), stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
    return handle, log


def stop(handle):
    handle.terminate()
    return handle.wait(30)


def test_wide_without_a_key_is_refused_with_the_command(tmp_path):
    handle, log = start(tmp_path, f"--listen=0.0.0.0:{free_port()}")
    assert handle.wait(30) == 1
    assert "corral keys create first --role owner" in log.read_text()


def test_wide_with_a_bootstrap_key_serves_those_who_have_it_and_nobody_else(tmp_path):
    port = free_port()
    secret = "corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS"
    (tmp_path / "key").write_text(secret + "\n")
    (tmp_path / "key").chmod(0o600)
    handle, log = start(tmp_path, f"--listen=0.0.0.0:{port}", env={"CORRAL_BOOTSTRAP_KEY_FILE": str(tmp_path / "key")})
    url = f"http://127.0.0.1:{port}"

    def status(path, headers=None):
        try:
            return http(url + path, headers=headers)[0]
        except OSError:
            return 0
    try:
        until(lambda: handle.poll() is not None or status("/keys", as_key(secret)) == 200)
        assert handle.poll() is None, log.read_text()
        for method, path, _ in routes():
            assert http(url + path, b"" if method in ("POST", "PUT") else None, method)[0] == 401, (method, path)
    finally:
        assert stop(handle) == 0


def test_loopback_can_be_made_to_want_keys_and_networks_not_to(tmp_path):
    port = free_port()
    handle, log = start(tmp_path, f"--listen=127.0.0.1:{port}", "--require-keys=yes", "--anonymous=127.0.0.0/8")
    url = f"http://127.0.0.1:{port}"

    def status(path):
        try:
            return http(url + path)[0]
        except OSError:
            return 0
    try:
        until(lambda: handle.poll() is not None or status("/api/version") == 200)
        assert status("/usage") == 403 and status("/keys") == 403
    finally:
        assert stop(handle) == 0
