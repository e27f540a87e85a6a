"""The command line: every command against a running Corral with a real model behind it."""
import json
import os
import pty
import re
import select
import socket
import subprocess
import time

import pytest

from servers import ROOT, free_port, start_llama
from test_native import account
from test_openai import MODEL

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CORRAL_", "OLLAMA_"))}


def run(*words, url=None, env=None, stdin=""):
    return subprocess.run([BINARY, *words], input=stdin, capture_output=True, text=True, timeout=60,
                          env={**CLEAN, **({"CORRAL_URL": url} if url else {}), **(env or {})})


@pytest.fixture
def cli(corral):
    """cli("models", ...): the finished command, which has to succeed."""
    def call(*words, status=0, **kw):
        done = run(*words, url=corral.url, **kw)
        assert done.returncode == status, done.stdout + done.stderr
        assert "\033" not in done.stdout + done.stderr
        return done
    return call


def at_home(corral):
    """The environment in which doctor looks where this instance is."""
    return {"CORRAL_LISTEN": corral.url[7:], "CORRAL_ADMIN_LISTEN": corral.admin[7:], "CORRAL_STATE_DIR": str(corral.folder / "state")}


def table(text):
    """Rows as dicts, cut at the places of the header's names."""
    head, *lines = [line for line in text.splitlines() if line.strip()]
    names = re.findall(r"\S+(?: \S+)*", head)
    return [dict(zip(names, re.split(r"\s{2,}", line.strip()))) for line in lines]


# --- asking ---

def test_an_answer(cli, corral):
    done = cli("chat", "hello")
    assert done.stdout.startswith("Welcome to Corral!") and done.stdout.endswith("?\n")
    about = re.fullmatch(r"corral-tiny on tiny, chosen by rules; 9 tokens in, 34 out; [\d.]+ s, first after [\d.]+ s; [\d.]+ tokens/s; request (\S+)\n",
                         done.stderr)
    assert about, done.stderr
    (row,) = account(corral, about[1])
    assert row["completion_tokens"] == 34 and row["reason"] == "rules"


def test_ways_to_ask(cli):
    answer = cli("chat", "-q", "hello").stdout
    for done in (cli("chat", "--model", MODEL, "-q", "-m", "hello"), cli("chat", "-q", stdin="hello\n"), cli("chat", "-q", "please say", "-", stdin="hello")):
        assert done.stdout == answer and done.stderr == ""


def test_an_answer_as_json(cli):
    said = json.loads(cli("chat", "--json", "hello").stdout)
    assert (said["end"], said["model"], said["backend"], said["completion_tokens"]) == ("done", MODEL, "tiny", 34)
    assert said["content"].startswith("Welcome to Corral!")


def test_the_limit_is_named(cli):
    assert "cut at its limit of tokens" in cli("chat", "--max-tokens", "5", "forever").stderr


def test_an_unknown_model(cli):
    done = cli("chat", "--model", "nope", "hello", status=1)
    assert "'nope' is not on any backend" in done.stderr and done.stdout == ""


def test_events_of_a_place_without_any_say_so(cli, tmp_path):
    done = cli("events", "tail", "usage.v1", "--state-dir", str(tmp_path), "--idle", "1")
    assert done.stdout == "" and f"Nothing of usage.v1 is in {tmp_path}/gateway/spool yet" in done.stderr and "--state-dir" in done.stderr


def test_ctrl_c_ends_one_question(corral):
    chat = subprocess.Popen([BINARY, "chat", "forever"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                            env={**CLEAN, "CORRAL_URL": corral.url})
    assert chat.stdout.read(20)
    chat.send_signal(2)
    assert b"(interrupted)" in chat.communicate(timeout=10)[1]
    assert chat.returncode == 130


# --- a conversation at a terminal ---

class Terminal:
    def __init__(self, *words, url):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(BINARY, [BINARY, *words], {**CLEAN, "CORRAL_URL": url, "TERM": "xterm"})
        self.seen = ""

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, pattern, wait_s=20):
        """Everything up to the first match, which is then forgotten."""
        until = time.monotonic() + wait_s
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < until, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        text, self.seen = self.seen[:found.end()], self.seen[found.end():]
        return text

    def end(self, wait_s=20):
        """The exit status, and what was still said."""
        said, until = self.seen, time.monotonic() + wait_s
        while time.monotonic() < until:
            try:
                data = os.read(self.fd, 65536)
            except OSError:         # the terminal is gone with its program
                break
            if not data:
                break
            said += data.decode(errors="replace")
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), said


PROMPT = r">>>\S* "


def test_a_conversation(corral):
    t = Terminal("chat", url=corral.url)
    assert "Asking auto" in t.wait_for(PROMPT)
    t.type("hello\n")
    first = t.wait_for(PROMPT)
    assert "Welcome to Corral!" in first and "chosen by rules" in first
    t.type("and corral\n")
    second = t.wait_for(PROMPT)
    assert "Corral is one front door" in second and "as before in this conversation" in second
    t.type("/model nope\n")
    assert "Asking nope from now on" in t.wait_for(PROMPT)
    t.type("hello\n")
    assert "'nope' is not on any backend" in t.wait_for(PROMPT)
    t.type("/model auto\n")
    t.wait_for(PROMPT)
    t.type("/quit\n")
    assert t.end()[0] == 0


def test_ctrl_c_in_a_conversation(corral):
    t = Terminal("chat", url=corral.url)
    t.wait_for(PROMPT)
    t.type("forever\n")
    t.wait_for("tick")
    t.type("\x03")
    assert "(interrupted)" in t.wait_for(PROMPT)
    t.type("hello\n")
    assert "Welcome to Corral!" in t.wait_for(PROMPT)
    t.type("forever\n")
    t.wait_for("tick")
    t.type("\x03")
    t.wait_for(PROMPT)
    t.type("\x03")
    status, said = t.end()
    assert status == 0, said


def test_ctrl_d_and_a_hint(corral):
    t = Terminal("chat", url=corral.url)
    t.wait_for(PROMPT)
    t.type("\x03")
    assert "Ctrl-D or /quit ends" in t.wait_for(PROMPT)
    t.type("\x04")
    assert t.end()[0] == 0


def test_colours_are_for_terminals(corral):
    t = Terminal("status", url=corral.url)
    status, said = t.end()
    assert status == 0 and "\033[32mok\033[0m" in said
    plain = subprocess.run(["script", "-qec", f"{BINARY} status", "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                           env={**CLEAN, "CORRAL_URL": corral.url, "TERM": "xterm", "NO_COLOR": "1"})
    assert "is ok" in plain.stdout and "\033" not in plain.stdout


# --- looking ---

def test_status(cli, corral):
    first, rest = cli("status", "--admin-url", corral.admin).stdout.split("\n", 1)
    assert re.fullmatch(rf"Corral \S+ at {corral.url} is ok: 1 model, 1 of 1 backends up\.", first)
    (row,) = table(rest)
    assert (row["BACKEND"], row["KIND"], row["STATE"], row["QUEUE"], row["MODELS"]) == ("tiny", "llamacpp", "up", "0", "1")
    assert re.fullmatch(r"\d/4", row["SLOTS"])
    body = json.loads(cli("status", "--json", "--admin-url", corral.admin).stdout)
    assert body["health"]["status"] == "ok" and body["backends"][0]["name"] == "tiny" and body["ready"]["status"] == "ready"
    assert json.loads(cli("status", "--json", "--admin-url", "http://127.0.0.1:1").stdout)["ready"] is None


def test_a_backend_that_went_away(corral_with, engine, model_file, tmp_path):
    server = start_llama(tmp_path, engine, model_file, "leaving", slots=1, context=512)
    try:
        away = corral_with({"gone": ("llamacpp", server.url)})
    finally:
        server.stop()
    done = run("models", "sync", url=away.url)
    assert done.returncode == 1 and "gone could not be listed: connection refused; its models stay as they were." in done.stdout, done.stdout + done.stderr
    until = time.monotonic() + 2        # the gateway hears it from the registry a moment later
    while (done := run("status", url=away.url)).returncode == 0 and time.monotonic() < until:
        time.sleep(0.05)
    assert done.returncode == 1 and "is unavailable" in done.stdout and "0 of 1 backends up" in done.stdout, done.stdout
    assert "gone (down)" in run("models", url=away.url).stdout
    done = run("doctor", env=at_home(away))
    assert done.returncode == 1
    assert re.search(r"^FAIL  backend +gone: nothing answers at http://127.0.0.1:\d+: connection refused. Start that server", done.stdout, re.M), done.stdout
    assert re.search(r"^FAIL  answer +no model answers: ", done.stdout, re.M), done.stdout


def test_models(cli):
    rows = {row["NAME"]: row for row in table(cli("models").stdout)}
    assert set(rows) == {"auto", MODEL}
    assert rows[MODEL]["BACKENDS"] == "tiny" and rows[MODEL]["CONTEXT"] == "4k" and "tools" in rows[MODEL]["CAPABILITIES"]
    assert [r["NAME"] for r in table(cli("models", "--capability", "tools", "--backend", "tiny", "--available").stdout)] == [MODEL]
    assert cli("models", "--backend", "other").stdout.startswith("No model fits.")
    assert MODEL in [m["name"] for m in json.loads(cli("models", "--json").stdout)["models"]]


def test_sync(cli):
    assert cli("models", "sync").stdout == "1 model; 0 new, 0 gone.\n"
    assert json.loads(cli("models", "sync", "--json").stdout)["models"] == 1
    assert "backend" in cli("models", "sync", "--backend", "other", status=1).stderr


def test_usage(cli, corral):
    account(corral, json.loads(cli("chat", "--json", "hello").stdout)["request_id"])
    (row,) = [r for r in table(cli("usage").stdout) if r["MODEL"] == MODEL]
    assert int(row["REQUESTS"]) >= 1 and int(row["OUT"]) >= 34
    by_day = table(cli("usage", "--by", "day,backend", "--from", "2020-01-01").stdout)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|all", r["DAY"]) for r in by_day) and "tiny" in {r["BACKEND"] for r in by_day}
    assert cli("usage", "--to", "2020-01-01").stdout == "The ledger has no requests of that time.\n"
    assert cli("usage", "--csv").stdout.startswith("model,requests,attempts,errors,")
    assert json.loads(cli("usage", "--json").stdout)["totals"]["requests"] >= 1
    assert "'bogus' is not a grouping" in cli("usage", "--by", "bogus", status=1).stderr


# --- why ---

def test_explain(cli, corral):
    request_id = json.loads(cli("chat", "--json", "fix this bug").stdout)["request_id"]
    account(corral, request_id)
    until = time.monotonic() + 2
    while (done := run("explain", request_id, url=corral.url)).returncode and time.monotonic() < until:
        time.sleep(0.05)
    assert done.returncode == 0, done.stderr
    assert f"Request {request_id}, 20" in done.stdout and f"sent to {MODEL} on tiny (rules, confidence " in done.stdout
    assert "task BUG_FIX" in done.stdout and "Replayed: the same inputs give the same decision, bit for bit." in done.stdout
    (row,) = table(done.stdout.split("\n\n")[1])
    assert (row["#"], row["MODEL"], row["BACKEND"]) == ("1", MODEL, "tiny")
    assert json.loads(cli("explain", request_id, "--json").stdout)["replayed"] is True


def test_explain_of_what_is_not_known(cli):
    assert "not a request id" in cli("explain", "nonsense", status=1).stderr
    assert "no decision is kept" in cli("explain", "01a1fd8f-c946-738a-89dd-39600b00b3e9", status=1).stderr
    assert "needs a context of about" in cli("explain", "--prompt", "word " * 15000, status=1).stderr


def test_a_model_that_does_not_fit_is_named_with_its_rule(corral_with, engine, model_file, llama, tmp_path):
    small = start_llama(tmp_path, engine, model_file, "small", slots=1, context=512)
    try:
        both = corral_with({"tiny": ("llamacpp", llama.url), "little": ("llamacpp", small.url)})
        done = run("explain", "--prompt", "word " * 700, url=both.url)
        assert done.returncode == 0, done.stderr
        assert f"this would go to {MODEL} on tiny" in done.stdout
        (row,) = [r for r in table(done.stdout[done.stdout.index("NOT CHOSEN"):])]
        assert row["NOT CHOSEN"] == "small" and row["BACKEND"] == "little" and row["RULE"] and "512" in row["WHY"]
    finally:
        small.stop()


# --- doctor ---

def findings(done):
    """[(state, check, sentence)] of the lines that are findings."""
    return [m.groups() for m in map(re.compile(r"(ok|warn|FAIL) +(\S+) +(.*)").fullmatch, done.stdout.splitlines()) if m]


def test_doctor_finds_all_well(corral):
    done = run("doctor", env=at_home(corral))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {state for state, *_ in findings(done)} == {"ok"}, done.stdout
    assert [check for _, check, _ in findings(done)] == ["configuration", "gateway", "port", "port", "state", "disk", "descriptors", "backend", "answer",
                                                         "ledger", "clock"]
    assert done.stdout.count("is held by a running Corral") == 2 and done.stdout.endswith("All is well.\n")
    body = json.loads(run("doctor", "--json", env=at_home(corral)).stdout)
    assert body["ok"] is True and len(body["checks"]) == 11


def test_doctor_before_the_first_start(tmp_path):
    port, admin = free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run("doctor", "--state-dir", str(tmp_path / "a/b"), env={
            "CORRAL_LISTEN": f"127.0.0.1:{port}", "CORRAL_ADMIN_LISTEN": f"127.0.0.1:{other.getsockname()[1]}",
            "CORRAL_BACKENDS": f"x=ollama+http://127.0.0.1:{admin}"})
    assert done.returncode == 1
    said = {(state, check) for state, check, _ in findings(done)}
    assert said >= {("ok", "configuration"), ("FAIL", "gateway"), ("ok", "port"), ("FAIL", "port"), ("ok", "state"), ("FAIL", "backend"), ("warn", "answer"),
                    ("warn", "ledger"), ("ok", "clock")}, done.stdout
    assert "is held by another program" in done.stdout and f"{tmp_path}/a/b will be made at the first start" in done.stdout
    assert not (tmp_path / "a").exists()


def test_doctor_reads_the_file(tmp_path):
    (tmp_path / "corral.yaml").write_text("listen: 127.0.0.1:8100\nworkerz: 2\n")
    done = run("doctor", "--config", str(tmp_path / "corral.yaml"), url="http://127.0.0.1:1")
    (state, _, text), *_ = findings(done)
    assert done.returncode == 1 and state == "FAIL" and "corral.yaml:2" in text and "workers" in text, done.stdout


def test_doctor_sees_a_state_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("doctor", "--state-dir", str(tmp_path / "file/state"), url="http://127.0.0.1:1")
    assert "file cannot be written: Not a directory; give its owner the right, or another place with --state-dir" in done.stdout


# --- words ---

@pytest.mark.parametrize("words", [["status"], ["models"], ["usage"]])
def test_another_program_there(llama, words):
    done = run(*words, url=llama.url)
    assert done.returncode == 1 and f"what answers at {llama.url} is not Corral" in done.stderr and "--url" in done.stderr, done.stderr


def test_nobody_there():
    for words in (["status"], ["models"], ["models", "sync"], ["usage"], ["explain", "x"], ["chat", "hello"]):
        done = run(*words, url="http://127.0.0.1:1")
        assert done.returncode == 3 and "does not answer: connection refused" in done.stderr and "corral serve" in done.stderr


def test_serve_keeps_its_own_words():
    assert "Usage: corral serve [--option=value ...]" in run("serve", "--help").stdout
    assert run("serve", "--version").stdout == run("--version").stdout
    assert run("--dump=errors").stdout == run("serve", "--dump=errors").stdout
    assert "# default" in run("--check-config").stdout
    done = run("serve", "--lisen=127.0.0.1:1")
    assert done.returncode == 1 and "--listen" in done.stderr


def test_every_command_has_help():
    overview = run("help")
    names = re.findall(r"^  ([a-z]+) ", overview.stdout[:overview.stdout.index("Options of")], re.M)
    assert {"serve", "status", "models", "jobs", "chat", "usage", "explain", "doctor", "hardware", "keys", "tenants", "audit", "config", "help", "version"} <= set(names)
    for name in names:
        done = run(name, "--help")
        assert done.returncode == 0 and done.stdout and done.stderr == ""


def test_a_full_disk_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run([BINARY, "help"], stdout=full, stderr=subprocess.PIPE, text=True, env=CLEAN)
    assert done.returncode == 1 and "could not be written" in done.stderr
