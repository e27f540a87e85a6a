"""Canaries: keys of providers, keys of clients and prompts, each a word that is nowhere else. Afterwards everything is searched that somebody might come
to read: logs at their most talkative, metrics, error bodies, spools, databases, a dump of PostgreSQL, the command lines and environments of all
processes. None of them may hold one.

What keeps a prompt because that is what it is for is not asked here: jobs of /run, and a cache on disk or in Redis (docs/jobs.md, docs/cache.md)."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from servers import ROOT, Corral, http, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import providers                                                 # noqa: E402
import stores                                                    # noqa: E402

PROVIDER_KEY, PROMPT, ANSWER_TO = "sk-heron-7Qk2provider", "gannet-3Xw9prompt", "gannet-3Xw9system"
TOKEN = "petrel-5Lm1token-of-gateways"
ENTRY = '  - {{name: {}, kind: {}, url: "{}{}", models: m, key_file: "{}", monthly_tokens: unlimited}}\n'
KINDS = {"oa": ("openai", "/v1"), "an": ("anthropic", "/v1"), "ge": ("gemini", "/v1beta"), "or": ("openrouter", "/api/v1")}
FAULTS = ("answer 2", "status 400", "status 500", "error200", "close", "torn 2", "status 401")     # after the last one the key rests


@pytest.fixture(scope="module")
def fake():
    with providers.Fake(script=["answer 3"], keys={PROVIDER_KEY}) as fake:
        yield fake


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def place(request, fake, tmp_path_factory):
    folder, server, env = tmp_path_factory.mktemp("canaries"), None, {"CORRAL_CLOUD_TOKEN_FILE": str(tmp_path_factory.mktemp("t") / "token")}
    Path(env["CORRAL_CLOUD_TOKEN_FILE"]).write_text(TOKEN + "\n")
    if request.param == "postgres":
        if stores.missing("postgres"):
            pytest.skip(stores.missing("postgres"))
        server = stores.Postgres().start()
    try:
        (folder / "keys").write_text(PROVIDER_KEY + "\n")
        (folder / "corral.yaml").write_text("providers:\n" + "".join(ENTRY.format(name, kind, fake.url, base, folder / "keys") for name, (kind, base) in KINDS.items()))
        if server:
            env["CORRAL_DB"] = server.url
            program = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
            subprocess.run([program, "migrate"], env={**os.environ, **env}, check=True, capture_output=True)
        corral = Corral(folder, None, "--backends=gone=openai+http://127.0.0.1:1", "--config", str(folder / "corral.yaml"), "--cloud-listen=127.0.0.1:0",
                        "--cache=off", "--log-level=debug", "--decision-sample=1", "--breaker-failures=100", "--cloud-recheck=1s", env=env)
        corral.server = server
        yield corral
        corral.close()
    finally:
        if server:
            server.stop()


def asks(corral, name, secret):
    """Requests of each dialect that end well or in an error; the bodies of the errors."""
    model, head, errors = f"{name}/m", {"Authorization": f"Bearer {secret}", "x-api-key": secret}, []
    for n, fault in enumerate(FAULTS):
        say = f"do: {fault}\n{PROMPT}"
        path, body = [("/v1/chat/completions", {"messages": [{"role": "system", "content": ANSWER_TO}, {"role": "user", "content": say}], "max_tokens": 9}),
                      ("/v1/messages", {"system": ANSWER_TO, "messages": [{"role": "user", "content": say}], "max_tokens": 9}),
                      ("/api/chat", {"messages": [{"role": "user", "content": say}], "stream": False})][n % 3]
        status, _, text = http(corral.url + path, {"model": model, "stream": n % 2 == 1, **body}, "POST", headers=head, timeout=60)
        if status != 200:
            errors.append(text)
    return errors


def test_no_canary_is_found_anywhere(place, fake):
    corral = place
    until(lambda: all(p["state"] == "ready" for p in corral.get("/providers")[2]["providers"]))
    status, _, body = corral.post("/keys", {"name": "bird", "role": "developer"})
    assert status == 201, body
    secret = body["secret"]
    until(lambda: http(corral.url + "/v1/models", headers={"Authorization": f"Bearer {secret}"})[0] == 200)
    until(lambda: '"oa/m"' in http(corral.url + "/v1/models", headers={"Authorization": f"Bearer {secret}"})[2])
    for name in KINDS:                                           # its budget is known
        ready = {"model": f"{name}/m", "messages": [{"role": "user", "content": "do: answer 1"}], "max_tokens": 9}
        until(lambda: http(corral.url + "/v1/chat/completions", ready, "POST", headers={"Authorization": f"Bearer {secret}"})[0] == 200)
    errors = [text for name in KINDS for text in asks(corral, name, secret)]
    errors += [http(corral.url + path, body, "POST", headers={"Authorization": "Bearer " + secret + "x"})[2] for path, body in [
        ("/v1/chat/completions", b'{"model": "oa/m", "messages": [{"role": "user", "content": "' + PROMPT.encode() + b'" }'),
        ("/v1/chat/completions", {"model": "oa/m", "messages": [{"role": "nobody", "content": PROMPT}]})]]
    assert len(errors) > 8 and any(PROMPT in json.dumps(c.json) for c in fake.calls)              # it was sent, and failed in many ways
    assert any(PROVIDER_KEY in json.dumps(dict(c.headers)) for c in fake.calls)
    until(lambda: corral.get("/usage?group_by=provider")[2]["totals"]["attempts"] >= len(KINDS) * (len(FAULTS) - 1))
    processes = {f"/proc/{pid}/{what}": Path(f"/proc/{pid}/{what}").read_bytes() for pid in corral.pids() for what in ("cmdline", "environ")}
    for pid in corral.pids():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 ", limits, re.M), limits
    found = {"errors": "\n".join(errors).encode(), "metrics": corral.metrics().encode(), "providers": json.dumps(corral.get("/providers")[2]).encode(), **processes}
    found["keys"] = json.dumps(corral.get("/keys")[2]).encode()
    if corral.server:
        found["dump"] = subprocess.run(["pg_dump", corral.server.url], capture_output=True, check=True).stdout
        assert b"usage_tracker" in found["dump"] and b"bird" in found["dump"]
    found["logs"] = corral.logs().encode()
    files = {str(p): p.read_bytes() for p in (corral.folder / "state").rglob("*") if p.is_file()}
    assert any("spool" in name for name in files), list(files)
    for where, text in {**found, **files}.items():
        for canary in (PROVIDER_KEY, secret, PROMPT, ANSWER_TO, TOKEN):
            assert canary.encode() not in text, (where, canary, text[max(0, text.find(canary.encode()) - 200):][:400])
