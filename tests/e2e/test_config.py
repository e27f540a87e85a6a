"""corral config: show and check; a backup of a running Corral under load, and back; what is refused."""
import hashlib
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import threading

import pytest

from servers import ROOT, Corral, http
from test_runs import Scripted, until

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}


def config(*words, status=0, cwd=None, **env):
    done = subprocess.run([BINARY, "config", *map(str, words)], capture_output=True, text=True, timeout=120, cwd=cwd, env={**CLEAN, **env})
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_show_says_where_each_value_comes_from(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("queue_timeout: 3s\nbackends:\n  - a=openai+http://user:hunter2@127.0.0.1:9\n")
    shown = json.loads(config("show", "--json", "-c", file, CORRAL_ATTEMPTS="7", CORRAL_STATE_DIR=str(tmp_path)).stdout)
    found = {o["name"]: o for o in shown["options"]}
    assert found["queue_timeout"]["value"] == "3s" and found["queue_timeout"]["source"] == {"kind": "file", "file": str(file), "line": 1}
    assert found["attempts"]["value"] == 7 and found["attempts"]["source"] == {"kind": "environment", "name": "CORRAL_ATTEMPTS"}
    assert found["queue_max"]["source"] == {"kind": "default"} and found["queue_max"]["default"] == "256"
    assert "hunter2" not in json.dumps(shown) and "user:***@" in found["backends"]["value"][0]
    text = config("show", "-c", file, CORRAL_ATTEMPTS="7").stdout
    assert re.search(rf"^queue_timeout: 3s +# {file}:1$", text, re.M) and re.search(r"^attempts: 7 +# environment CORRAL_ATTEMPTS$", text, re.M)
    changed = config("show", "--changed", "-c", file).stdout
    assert "queue_timeout: 3s" in changed and "queue_max" not in changed
    assert "CORRAL_NONSENSE" in config("show", CORRAL_NONSENSE="1").stderr


def test_show_can_be_used_as_a_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(config("show", CORRAL_QUEUE_TIMEOUT="7s").stdout)
    assert "is right" in config("check", file).stdout
    assert re.search(rf"^queue_timeout: 7s +# {file}:\d+$", config("show", "-c", file).stdout, re.M)


@pytest.mark.parametrize("text, line", [
    ("queue_timeout: soon\n", "c.yaml:1:16: queue_timeout: 'soon' is not a duration"),
    ("\nqueue_timeout: 3s\nqueu_max: 1\n", "c.yaml:3:1: unknown option 'queu_max'; did you mean 'queue_max'?"),
    ("a: [\n", "c.yaml:"), ("anonymous: [10.0.0.1/8]\n", "c.yaml:1: "), ("queue_max: 1\nqueue-max: 2\n", "c.yaml:2:1: "),
])
def test_check_names_the_line(tmp_path, text, line):
    (tmp_path / "c.yaml").write_text(text)
    assert line in config("check", tmp_path / "c.yaml", status=1).stderr
    answer = json.loads(config("check", tmp_path / "c.yaml", "--json", status=1).stdout)
    assert not answer["ok"] and line in answer["error"]


def test_check_names_everything_that_is_wrong(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("queue_timeout: soon\nqueu_max: 1\nattempts: 99\nanonymous: [10.0.0.1/8]\nslots: [a=none]\naliases: [fast]\ndrain: 5s\n"
                    "public_tls_cert: x.pem\nworkers: 1\nworkers_: 2\n")
    said = config("check", file, CORRAL_QUEUE_MAX="many", status=1).stderr
    lines = [line.removeprefix("corral: ") for line in said.splitlines()]
    for sign in (":1:16: queue_timeout:", ":2:1: unknown option 'queu_max'", ":3:11: attempts:", ":4: ", ":5", ":6", ":10:1: unknown option", "environment CORRAL_QUEUE_MAX",
                 "public_tls_listen"):
        assert len([line for line in lines if sign in line]) == 1, (sign, said)
    assert len(lines) == 9 and not any(":7" in line or ":9:" in line for line in lines), said
    answer = json.loads(config("check", file, "--json", CORRAL_QUEUE_MAX="many", status=1).stdout)
    assert [e["error"] for e in answer["errors"]] == lines and answer["error"] == lines[0]
    assert answer["errors"][0]["field"] == "queue_timeout"
    file.write_text("queue_timeout: 3s\n")
    assert json.loads(config("check", file, "--json").stdout) == {"ok": True, "error": None, "field": None, "errors": []}


@pytest.fixture
def busy(tmp_path):
    """A Corral with a backend, and clients that do not stop."""
    model = Scripted()
    model.now("answer 5 gap=2ms")
    (tmp_path / "c.yaml").write_text("queue_max: 1000\n")
    running = []

    def start():
        running.append(Corral(tmp_path, {"a": ("llamacpp", model.url)}, "--config", str(tmp_path / "c.yaml"), "--spool-segment", "64k"))
        return running[-1]

    start.model, start.folder = model, tmp_path
    yield start
    model.now("refuse")
    wrong = [w for w in (c.close() for c in running) if w]
    model.close()
    assert not wrong, wrong


class Load:
    def __init__(self, corral, clients=3):
        self.corral, self.stop, self.done = corral, threading.Event(), []
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]
        for t in self.threads:
            t.start()

    def ask(self):
        while not self.stop.is_set():
            status, headers, _ = http(self.corral.url + "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}]})
            assert status == 200
            self.done.append(headers["X-Request-Id"])

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join()
        return self.done


def ledger(state):
    book = sqlite3.connect(f"file:{state}/usage-tracker/ledger.db?mode=ro", uri=True)
    rows = {(r[0], r[1]): r[2:] for r in book.execute("SELECT request_id, attempt, status, prompt_tokens, completion_tokens FROM usage")}
    book.close()
    return rows


def test_backup_under_load_and_back(busy, tmp_path):
    corral = busy()
    status, _, made = corral.post("/keys", {"name": "k", "role": "user"})
    assert status == 201
    load = Load(corral)
    until(lambda: len(load.done) > 200)
    job = corral.post("/run", {"input": {"prompt": "x"}})[2]
    until(lambda: corral.get(f"/status/{job['id']}")[2]["status"] == "COMPLETED")
    before = list(load.done)                        # what was answered before the backup began has to be in it
    said = json.loads(config("backup", tmp_path / "b.tar", "--json", "--state-dir", tmp_path / "state", "-c", tmp_path / "c.yaml").stdout)
    assert said["databases"] == len(list((tmp_path / "state").rglob("*.db"))) and (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    after = load.end()
    until(lambda: corral.get("/usage")[2]["totals"]["requests"] >= len(after) + 1)

    refused = config("restore", tmp_path / "b.tar", "--state-dir", tmp_path / "state", status=1).stderr
    assert any(f"process {pid} has the state in {tmp_path / 'state'} open" in refused for pid in corral.pids()), refused
    assert corral.close() is None
    now = ledger(tmp_path / "state")
    config("restore", tmp_path / "b.tar", "--state-dir", tmp_path / "state")
    kept = next(tmp_path.glob("state.before-*"))
    assert ledger(kept) == now and (tmp_path / "state/config.yaml.restored").read_text() == "queue_max: 1000\n"
    assert not list(tmp_path.glob("state.restore-*"))

    corral = busy()                                 # what was in the spools of the backup is booked now
    hexed = lambda request: request.replace("-", "")                                                      # noqa: E731
    until(lambda: all((hexed(r), 1) in ledger(tmp_path / "state") for r in before))
    back = ledger(tmp_path / "state")
    assert {k: v for k, v in back.items() if v[0] != "unknown"}.items() <= now.items()
    lost = [k for k, v in back.items() if v[0] == "unknown"]
    assert len(lost) <= 3 and all(k in now for k in lost)           # what was under way at that moment, one a client
    assert corral.get(f"/status/{job['id']}")[2]["status"] == "COMPLETED"
    assert any(k["id"] == made["key"]["id"] for k in corral.get("/keys")[2]["keys"])
    again = http(corral.url + "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}]})
    until(lambda: (hexed(again[1]["X-Request-Id"]), 1) in ledger(tmp_path / "state"))
    gaps = [line for line in corral.logs().splitlines() if "are gone" in line or "damaged" in line]
    assert not gaps, "\n".join(gaps)


def test_links_and_leftovers(busy, tmp_path):
    busy().close()
    state, real = tmp_path / "state", tmp_path / "real.yaml"
    (tmp_path / "c.yaml").rename(real)
    (tmp_path / "c.yaml").symlink_to(real)                               # as every mounted ConfigMap
    config("backup", tmp_path / "a.tar", "--state-dir", state, "-c", tmp_path / "c.yaml")
    with tarfile.open(tmp_path / "a.tar") as t:
        assert t.extractfile("config.yaml").read() == real.read_bytes()
    (tmp_path / "b.tar.part").write_text("another's")
    assert "b.tar.part is there already" in config("backup", tmp_path / "b.tar", "--state-dir", state, status=1).stderr
    assert (tmp_path / "b.tar.part").read_text() == "another's"
    (state / "usage-tracker/ledger.db").rename(tmp_path / "big.db")
    (state / "usage-tracker/ledger.db").symlink_to(tmp_path / "big.db")
    assert "ledger.db is a symbolic link" in config("backup", tmp_path / "c.tar", "--state-dir", state, status=1).stderr
    assert not list(tmp_path.glob("c.tar*"))


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system, where there is one."""
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(dir=shm or tmp_path)
    yield pathlib.Path(folder)
    shutil.rmtree(folder)


def rows(path):
    book = sqlite3.connect(path)
    found = [r[0] for r in book.execute("SELECT x FROM extra ORDER BY x")]
    book.close()
    return found


def test_databases_outside_the_state_are_exchanged_or_left(busy, tmp_path, elsewhere):
    busy().close()
    state, ledger_db = tmp_path / "state", elsewhere / "ledger.db"
    (state / "usage-tracker/ledger.db").unlink()
    subprocess.run(["python3", "-c", f"""if 1:
        import os, sqlite3
        d = sqlite3.connect({str(ledger_db)!r})
        d.executescript("PRAGMA journal_mode=WAL; CREATE TABLE extra (x); CREATE TABLE schema_version (number INTEGER); INSERT INTO extra VALUES (1)")
        os._exit(0)"""], check=True)
    (tmp_path / "c.yaml").write_text(f"db: sqlite:{ledger_db}\n")
    where = "--state-dir", state, "-c", tmp_path / "c.yaml"
    config("backup", tmp_path / "b.tar", *where)
    subprocess.run(["python3", "-c", f"import os, sqlite3; d = sqlite3.connect({str(ledger_db)!r}); d.execute('INSERT INTO extra VALUES (2)'); d.commit(); os._exit(0)"],
                   check=True)
    assert (elsewhere / "ledger.db-wal").stat().st_size               # the row is in the log alone
    if os.geteuid() == 0:                                             # root's restore gives the state back to its owner
        os.chown(state, 65534, 65534)
    for turn in range(2):                                             # a second one leaves what the first kept
        said = json.loads(config("restore", tmp_path / "b.tar", "--json", *where).stdout)
        assert said["config"] == str(tmp_path / "c.yaml.restored")
        if turn == 0:
            first = pathlib.Path(said["kept_databases"])
    assert rows(ledger_db) == [1] and rows(first) == [1, 2] and said["kept_databases"] != str(first)
    assert not list(elsewhere.glob("*.restore-*"))
    if os.geteuid() == 0:
        assert {p.stat().st_uid for p in [state, *state.rglob("*")]} == {65534}

    (tmp_path / "c.yaml.restored").unlink()
    (tmp_path / "c.yaml.restored").mkdir()                            # in the way
    said = json.loads(config("restore", tmp_path / "b.tar", "--json", *where).stdout)
    assert said["config"] == str(state / "config.yaml.restored") and (state / "config.yaml.restored").is_file()

    before = sorted(p.name for p in elsewhere.iterdir())
    shutil.rmtree(state)
    state.symlink_to(tmp_path / "nowhere")                            # nothing can be put over it, which shows after the databases' turn
    assert "cannot be put in its place" in config("restore", tmp_path / "b.tar", *where, status=1).stderr
    assert sorted(p.name for p in elsewhere.iterdir()) == before and rows(ledger_db) == [1]


def test_what_cannot_be_restored(busy, tmp_path):
    corral = busy()
    config("backup", tmp_path / "b.tar", "--state-dir", tmp_path / "state")
    assert "is there already" in config("backup", tmp_path / "b.tar", "--state-dir", tmp_path / "state", status=1).stderr
    assert corral.close() is None
    whole = (tmp_path / "b.tar").read_bytes()
    new = tmp_path / "other/state"

    def refused(data, sentence, name="bad.tar"):
        (tmp_path / name).write_bytes(data)
        for more in ("--verify",), ():
            assert sentence in config("restore", tmp_path / name, "--state-dir", new, *more, status=1).stderr
        assert not new.exists() and not list((tmp_path / "other").glob("*"))

    refused(whole[:len(whole) // 2], "ends too early")
    refused(b"x" * 2048, "no backup of Corral")
    at = whole.index(b"SQLite format 3") + 5000
    refused(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:], "missing or damaged")

    folder = tmp_path / "unpacked"
    with tarfile.open(tmp_path / "b.tar") as t:
        t.extractall(folder, filter="data")
        names = t.getnames()
    book = sqlite3.connect(folder / "state/usage-tracker/ledger.db")
    book.execute("INSERT INTO schema_version (number) VALUES (999)")
    book.commit()
    book.close()
    manifest = json.loads((folder / "manifest.json").read_text())
    for f in manifest["files"]:
        data = (folder / f["name"]).read_bytes()
        f["size"], f["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(tmp_path / "newer.tar", "w", format=tarfile.USTAR_FORMAT) as t:
        for name in names:
            t.add(folder / name, name)
    refused((tmp_path / "newer.tar").read_bytes(), "has schema version 999", "newer.tar")
    shutil.copy(folder / "config.yaml" if (folder / "config.yaml").exists() else folder / "manifest.json", folder / "state/extra")
    with tarfile.open(tmp_path / "extra.tar", "w", format=tarfile.USTAR_FORMAT) as t:
        for name in ["state/extra", *names]:
            t.add(folder / name, name)
    refused((tmp_path / "extra.tar").read_bytes(), "has schema version 999")

    config("restore", tmp_path / "b.tar", "--state-dir", new)            # a new place, with what is above it
    assert ledger(new) == ledger(tmp_path / "state")
