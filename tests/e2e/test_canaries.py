"""Canaries (tests/fakes/canaries.py): keys of providers, keys of clients and prompts. Afterwards everything is searched that somebody might come to read: logs
at their most talkative, metrics, error bodies, spools, databases, a dump of PostgreSQL, a Redis, the command lines and environments of all processes.
None of them may hold one. Topics of Kafka are searched in test_kafka.py.

A word that is no secret is put into all of them, and has to be found there: else the search were blind.

One place keeps a prompt because that is what it is for, until it is answered: the database of jobs (docs/jobs.md)."""
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from servers import ARRANGEMENT, ROOT, Corral, free_port, http, until

sys.path.insert(0, str(ROOT / "tests/fakes"))
import canaries                                                  # noqa: E402
import providers                                                 # noqa: E402
import stores                                                    # noqa: E402
from canaries import FAULTS, JOB_PROMPT, KINDS, PLANTED, PROMPT, PROVIDER_KEY, SYSTEM, TOKEN     # noqa: E402

PROGRAM = Path(os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral")))


@pytest.fixture(scope="module")
def fake():
    with providers.Fake(script=["answer 3"], keys={PROVIDER_KEY}) as fake:
        yield fake


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if stores.missing("redis"):
        yield None
        return
    server = stores.Redis(Path(tempfile.mkdtemp(prefix="corral-r.", dir="/tmp"))).start()      # the path of a socket has room for 100 letters
    yield server
    server.stop()
    shutil.rmtree(server.folder.parent)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def place(request, fake, redis, tmp_path_factory):
    folder, server = tmp_path_factory.mktemp("canaries"), None
    env = {"CORRAL_CLOUD_TOKEN_FILE": str(tmp_path_factory.mktemp("t") / "token"), "CORRAL_CONTAINER": f"{PLANTED}-env"}
    Path(env["CORRAL_CLOUD_TOKEN_FILE"]).write_text(TOKEN + "\n")
    if request.param == "postgres":
        if stores.missing("postgres"):
            pytest.skip(stores.missing("postgres"))
        server = stores.Postgres().start()
    try:
        if server:
            env["CORRAL_DB"] = server.url
            subprocess.run([PROGRAM, "migrate"], env={**os.environ, **env}, check=True, capture_output=True)
        corral = Corral(folder, None, *canaries.options(canaries.write_config(folder, fake)), f"--cache={redis.url if redis else 'memory:'}", env=env)
        corral.server, corral.redis = server, redis
        yield corral
        corral.close()
    finally:
        if server:
            server.stop()


@pytest.fixture(scope="module")
def secret(place):
    """The key of a client, once all providers answer it."""
    until(lambda: all(p["state"] == "ready" for p in place.get("/providers")[2]["providers"]))
    status, _, body = place.post("/keys", {"name": f"{PLANTED}-key", "role": "developer"})
    assert status == 201, body
    secret = body["secret"]
    for name in KINDS:
        until(lambda: chat(place, secret, name, "do: answer 1")[0] == 200)
    return secret


@pytest.fixture(scope="module")
def left(place, fake, secret):
    """{where: bytes} of all that stays behind."""
    errors = [text for name in KINDS for text in canaries.asks(http, place.url, name, secret)]
    errors += [http(place.url + "/v1/chat/completions", body, "POST", headers={"Authorization": "Bearer " + secret + "x"})[2] for body in [
        b'{"model": "oa/m", "messages": [{"role": "user", "content": "' + PROMPT.encode() + b'" }', {"model": "oa/m", "messages": [{"role": "nobody", "content": PROMPT}]}]]
    assert len(errors) > 8 and any(PROMPT in json.dumps(c.json) for c in fake.calls)              # it was sent, and failed in many ways
    assert any(PROVIDER_KEY in json.dumps(dict(c.headers)) for c in fake.calls)
    for name in ("oa", PLANTED):                                                                  # their keys have rested
        until(lambda: chat(place, secret, name, "x")[0] == 200)
    keep(place, secret)
    run_a_job(place, secret)
    until(lambda: place.get("/usage?group_by=provider")[2]["totals"]["attempts"] >= len(KINDS) * (len(FAULTS) - 1))
    out = {"errors": "\n".join(errors).encode(), **canaries.places(place)}
    if place.server:
        out["dump"] = subprocess.run(["pg_dump", place.server.url], capture_output=True, check=True).stdout
    if place.redis:
        out["redis"] = b"".join(p.read_bytes() for p in place.redis.folder.rglob("*") if p.is_file())
    return out


def chat(corral, secret, name, text):
    body = {"model": f"{name}/m", "messages": [{"role": "user", "content": text}], "max_tokens": 9}
    return http(corral.url + "/v1/chat/completions", body, "POST", headers={"Authorization": f"Bearer {secret}"})


def keep(corral, secret):
    """An answer to the prompt that is kept, for a second client finds it."""
    body = {"prompt": PROMPT, "model": "oa/m", "cache_ttl_s": 600}
    until(lambda: http(corral.url + "/inference", body, "POST", headers={"Authorization": f"Bearer {secret}"})[1].get("X-Corral-Cache") == "hit")


def run_a_job(corral, secret):
    head = {"Authorization": f"Bearer {secret}"}
    status, _, text = http(corral.url + "/runsync", {"input": {"prompt": JOB_PROMPT, "model": f"{PLANTED}/m"}}, "POST", headers=head, timeout=60)
    assert status == 200 and json.loads(text)["status"] == "COMPLETED", text


def is_of_jobs(where):
    return where == "dump" or "runs.db" in where


def test_no_canary_is_found_anywhere(left, secret):
    assert canaries.found(left, (PROVIDER_KEY, secret, PROMPT, SYSTEM, TOKEN)) == []
    assert canaries.found({where: text for where, text in left.items() if not is_of_jobs(where)}, [JOB_PROMPT]) == []


def test_what_is_no_secret_is_found_everywhere(place, left):
    """The search sees what is there: a name in every place, and the answer that is kept in Redis."""
    where = {where for where, _, _ in canaries.found(left, [PLANTED])}
    ends = {"errors", "metrics", "logs", "providers", "keys", "usage?group_by=provider", "v1/models", "dump" if place.server else "ledger.db"}
    assert {end for end in ends if not any(w.endswith(end) or end + "-wal" in w for w in where)} == set(), sorted(where)
    assert any(w.endswith("/cmdline") for w in where) and any("spool" in w for w in left)
    if os.geteuid() == 0:
        assert any(w.endswith("/environ") for w in where)
    assert any(is_of_jobs(w) and (not place.server or how == "in hexadecimal") for w, _, how in canaries.found(left, [PLANTED]))      # a job's answer, a binary column
    if place.redis:
        assert b"w0 " in left["redis"]


def test_the_search_knows_a_word_in_other_clothes():
    word = PROVIDER_KEY.encode()
    for before in (b"", b"a", b"ab", b"abc"):
        for clothes in (b'{"x":"%s"}' % word, (before + word).hex().encode(), canaries.base64.b64encode(before + word + b"zz"),
                        canaries.base64.urlsafe_b64encode(before + word)):
            assert canaries.found({"here": b"..." + clothes + b"..."}, [PROVIDER_KEY]), clothes
    assert canaries.found({"here": word[:-1] + b"-"}, [PROVIDER_KEY]) == []


def test_no_program_leaves_a_core_file(place):
    for pid in place.pids():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 ", limits, re.M), limits


@pytest.fixture
def nobody():
    """A user without rights; oneself, if one has none anyhow."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()


@pytest.fixture
def open_folder(nobody):
    """A folder that such a user reaches, with the programs in it."""
    folder = Path(tempfile.mkdtemp(prefix="corral-canaries.", dir="/tmp"))
    for name in ("corral", "gateway", "cloud-fallback"):
        shutil.copy(PROGRAM.parent / name, folder / name)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    for path in (folder, folder / "state"):
        os.chown(path, nobody, -1)
    yield folder
    shutil.rmtree(folder)


def seen_by(user, path):
    """Can somebody of that user open it?"""
    return subprocess.run(["/bin/sh", "-c", f": <{path} && cat {path} >/dev/null" if "mem" not in path else f": <{path}"], user=user, capture_output=True).returncode == 0


@pytest.mark.skipif(ARRANGEMENT != "one", reason="starts its own programs")
@pytest.mark.parametrize("name, words", [("corral", ["serve", "--backends=gone=openai+http://127.0.0.1:1"]), ("gateway", []), ("cloud-fallback", [])])
def test_the_memory_of_a_program_is_its_own(open_folder, nobody, name, words):
    """Another process of the same user can look into any program that does not forbid it; here it cannot."""
    admin = f"127.0.0.1:{free_port()}"
    own = [f"--rpc-listen=ipc://{open_folder}/rpc"] if name == "cloud-fallback" else [f"--listen=127.0.0.1:{free_port()}"]
    log = open_folder / "log"
    with log.open("wb") as out:
        argv = [open_folder / name, *words, *own, f"--admin-listen={admin}", f"--state-dir={open_folder}/state"]
        program = subprocess.Popen(argv, user=nobody, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
        other = subprocess.Popen(["sleep", "600"], user=nobody, cwd="/")
    try:
        until(lambda: program.poll() is not None or answers(f"http://{admin}/livez"))
        assert program.poll() is None, log.read_text()
        until(lambda: seen_by(nobody, f"/proc/{other.pid}/environ"))
        assert not any(seen_by(nobody, f"/proc/{program.pid}/{what}") for what in ("environ", "maps", "mem"))
        assert re.search(r"^Max core file size +0 ", Path(f"/proc/{program.pid}/limits").read_text(), re.M)
    finally:
        for p in (program, other):
            p.terminate()
            p.wait(30)


def answers(url):
    try:
        return http(url, timeout=2)[0] in (200, 503)
    except OSError:
        return False
