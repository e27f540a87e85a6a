"""What gateways tell the audit log: acts on models, and who was turned away from administration; also while access is away."""
import json
import re

import pytest

from servers import http as ask
from test_access import Engine, as_key, make_key, put_tenant, until
from test_limits import Two

NOBODYS = "corral_sk_YyvEAUi7ojPzci2n_EArs0WHbYA5cgWiyKZMutyEgSKxoKFU9IuiPqGsxC4X05dcCS"


@pytest.fixture(scope="module")
def engine():
    engine = Engine()
    yield engine
    engine.server.shutdown()


@pytest.fixture(scope="module")
def corral(corral_with, engine):
    corral = corral_with({"e": ("openai", engine.url)})
    until(lambda: len(corral.get("/v1/models")[2]["data"]) == 4)
    return corral


def entries(url, **wanted):
    status, _, text = ask(url + "/audit?limit=1000")
    return [e for e in json.loads(text)["entries"] if all(e[k] == v for k, v in wanted.items())] if status == 200 else []


def one(url, **wanted):
    """The one entry that is so, once it is there."""
    found = until(lambda: entries(url, **wanted))
    assert len(found) == 1
    return found[0]


def act(url, method, path, secret=None, body=None):
    status, headers, _ = ask(url + path, body, method, as_key(secret) if secret else {})
    return status, headers["X-Request-Id"]


def test_acts_on_models_are_written_down(corral):
    key, secret = make_key(corral, name="admin", role="admin")
    for verb, method, path in (("protect", "POST", "/models/alpha-1/protect"), ("unprotect", "POST", "/models/alpha-1/unprotect"), ("pin", "POST", "/models/alpha-2/pin")):
        status, request = act(corral.url, method, path, secret)
        assert status == 200
        e = one(corral.url, request_id=request)
        assert (e["action"], e["object"], e["outcome"], e["actor"], e["role"], e["tenant"]) == (f"models.{verb}", path.split("/")[2], "ok", key, "admin", "default")
        assert e["address"] == "127.0.0.1" and json.loads(e["detail"])["status"] == 200
    _, request = act(corral.url, "POST", "/models/no-such-model/protect")
    e = one(corral.url, request_id=request)
    assert (e["action"], e["outcome"], e["actor"], json.loads(e["detail"])["error_code"]) == ("models.protect", "failed", "loopback", "MODEL_NOT_FOUND")
    _, request = act(corral.url, "POST", "/api/pull", secret, {"model": "new-model", "stream": False})
    assert one(corral.url, request_id=request)["action"] == "models.pull"
    _, request = act(corral.url, "DELETE", "/jobs/nothing", secret)
    assert one(corral.url, request_id=request)["action"] == "jobs.cancel"
    _, request = act(corral.url, "GET", "/models", secret)
    _, request2 = act(corral.url, "POST", "/v1/chat/completions", secret, {"model": "alpha-1", "messages": [{"role": "user", "content": "hi"}]})
    _, last = act(corral.url, "POST", "/models/alpha-2/unpin", secret)
    one(corral.url, request_id=last)
    assert not entries(corral.url, request_id=request) and not entries(corral.url, request_id=request2)


def test_who_is_turned_away_from_administration_is_written_down(corral):
    key, secret = make_key(corral, name="user", role="user")
    for method, path, action, thing in (("DELETE", "/keys/abc", "keys.revoke", "abc"), ("PUT", "/tenants/acme", "tenants.write", "acme"), ("GET", "/audit", "audit.read", ""),
                                        ("POST", "/models/pull", "models.manage", ""), ("DELETE", "/api/delete", "models.manage", "")):
        status, request = act(corral.url, method, path, secret)
        e = one(corral.url, request_id=request)
        assert (status, e["action"], e["object"], e["outcome"], e["actor"]) == (403, action, thing, "refused", key)
    status, request = act(corral.url, "GET", "/keys", NOBODYS)
    e = one(corral.url, request_id=request)
    assert (status, e["outcome"], e["actor"], e["role"]) == (401, "refused", "unknown", "") and NOBODYS[10:] not in json.dumps(entries(corral.url))
    _, request = act(corral.url, "DELETE", "/keys/" + "x" * 3000, NOBODYS)
    assert len(one(corral.url, request_id=request)["object"]) == 512
    put_tenant(corral, "locked-out")
    late, secret = make_key(corral, name="late", role="admin", tenant="locked-out")
    put_tenant(corral, "locked-out", suspended=True)
    refused = lambda: act(corral.url, "GET", "/keys", secret)[0] == 403                            # noqa: E731
    until(refused, 5)
    assert until(lambda: refused() and entries(corral.url, actor=late))[0]["outcome"] == "refused"     # the first of them may be access's own word
    assert json.loads(ask(corral.url + "/audit/verify")[2])["ok"] is True


def test_a_flood_of_refusals_is_counted_and_not_written(corral):
    before = len(entries(corral.url))
    for _ in range(800):
        assert act(corral.url, "GET", "/keys", NOBODYS)[0] == 401
    lost = until(lambda: re.search(r'^corral_audit_lost_total\{[^}]*reason="flood"[^}]*\} (\d+)', ask(corral.admin + "/metrics")[2], re.M))
    assert int(lost[1]) > 100
    assert len(entries(corral.url)) - before <= 600
    key, secret = make_key(corral, name="after", role="admin")
    _, request = act(corral.url, "POST", "/models/alpha-1/protect", secret)        # acts that are done are never left out
    one(corral.url, request_id=request)


def test_nothing_is_lost_while_access_is_away(tmp_path_factory, engine):
    two = Two(tmp_path_factory.mktemp("trail"), engine)
    try:
        two.key(name="first", role="user")
        two.access.kill()
        requests = []
        for i in range(40):
            status, request = act(two.urls[i % 2], "POST", f"/models/alpha-1/{'protect' if i % 2 else 'unprotect'}")
            assert status == 200
            requests.append(request)
        two.access.start()
        until(lambda: set(requests) <= {e["request_id"] for e in entries(two.url)})
        assert [len(entries(two.url, request_id=r)) for r in requests] == [1] * 40
        assert json.loads(ask(two.url + "/audit/verify")[2])["ok"] is True
        assert act(two.url, "POST", "/models/alpha-1/pin")[0] == 200
        two.gateways[0].stop()                                                     # what waits goes out before the end
        two.gateways[0].start()
        two.wait(two.urls[0])
        until(lambda: entries(two.url, action="models.pin"))
    finally:
        two.close()


def test_kill_9_loses_nothing(tmp_path_factory, engine):
    """What was done and who was seen is on the gateway's disk: access is away, the gateway is killed, and all of it is in the log, once."""
    two = Two(tmp_path_factory.mktemp("killed"), engine)
    try:
        secret = two.key(name="seen", role="user")
        quiet = two.key(name="quiet", role="user")
        two.access.kill()
        requests = []
        for i in range(60):
            status, request = act(two.urls[0], "POST", f"/models/alpha-1/{'protect' if i % 2 else 'unprotect'}")
            assert status == 200
            requests.append(request)
            if i in (20, 40):                                                      # twice in the middle, too
                two.gateways[0].kill()
                two.gateways[0].start()
                two.wait(two.urls[0])
        until(lambda: act(two.urls[0], "GET", "/v1/models", secret)[0] == 200)      # by the keys on its disk
        two.gateways[0].kill()
        two.access.start()
        two.gateways[0].start()
        two.wait(two.urls[0])
        until(lambda: set(requests) <= {e["request_id"] for e in entries(two.url)})
        for _ in range(2):                                                         # and another start does not write it again
            assert [len(entries(two.url, request_id=r)) for r in requests] == [1] * 60
            two.gateways[0].kill()
            two.gateways[0].start()
            two.wait(two.urls[0])
        assert json.loads(ask(two.url + "/audit/verify")[2])["ok"] is True
        keys = {k["name"]: k["last_used_at"] for k in json.loads(ask(two.url + "/keys?limit=1000")[2])["keys"]}
        assert keys["seen"] and keys["quiet"] and quiet != secret
    finally:
        two.close()


def test_when_a_key_was_used_is_shown(corral):
    key, secret = make_key(corral, name="in-use", role="user")
    idle, _ = make_key(corral, name="put-away", role="user", networks=["203.0.113.0/24"])
    act(corral.url, "GET", "/v1/models", secret)

    def used(key):
        return next(k["last_used_at"] for k in corral.get("/keys?limit=1000")[2]["keys"] if k["id"] == key)
    seen = until(lambda: used(key))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00(\.0+)?Z", seen) and used(idle) is None
