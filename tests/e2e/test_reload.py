"""SIGHUP: the configuration file is read again while requests run; a bad one changes nothing and is told with its line."""
import json
import os
import signal
import threading
import time

import pytest

from servers import ROOT, Program, free_port, http


@pytest.fixture
def reloadable(corral_with, llama, tmp_path):
    path = tmp_path / "corral.yaml"
    path.write_text("queue_timeout: 30s\n")
    corral = corral_with({"l": ("llamacpp", llama.url)}, "--config", str(path), "--log-format", "json", "--log-level", "debug")

    def change(text, expect):
        path.write_text(text)
        before = len(corral.program.log.read_text().splitlines())
        os.kill(corral.program.handle.pid, signal.SIGHUP)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            lines = [json.loads(line) for line in corral.program.log.read_text().splitlines()[before:] if line.startswith("{") and line.endswith("}")]
            for line in lines:
                if line["msg"] == expect:
                    return line, lines
            time.sleep(0.02)
        raise AssertionError(f"'{expect}' was not logged:\n{corral.program.tail()}")

    corral.change = change
    return corral


APPLIED = "the configuration in force is the one read last"
REFUSED = "the configuration was not read; the one in force stays"


def ask(corral, model, **more):
    return http(f"{corral.url}/v1/chat/completions", {"model": model, "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}], **more}, timeout=60)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_aliases_come_and_go(reloadable):
    assert ask(reloadable, "fast")[0] == 404
    reloadable.change("aliases: {fast: corral-tiny}\n", APPLIED)
    until(lambda: ask(reloadable, "fast")[0] == 200)
    assert http(f"{reloadable.admin}/readyz")[0] == 200
    reloadable.change("aliases: {}\n", APPLIED)
    until(lambda: ask(reloadable, "fast")[0] == 404)
    assert ask(reloadable, "corral-tiny")[0] == 200


def test_a_bad_file_changes_nothing(reloadable):
    reloadable.change("max_body: 2k\n", APPLIED)
    big = {"user": "x" * 3000}
    assert ask(reloadable, "corral-tiny", **big)[0] == 413
    line, _ = reloadable.change("max_body: 8m\nqueue_timeout: soon\n", REFUSED)
    assert line["field"] == "queue_timeout" and "corral.yaml:2:16" in line["error"]
    line, _ = reloadable.change("max_body: 8m\nslots: {l: none}\n", REFUSED)
    assert line["field"] == "slots" and "corral.yaml:2" in line["error"]
    line, _ = reloadable.change("max_body: 8m\nmax_bodi: 3\n", REFUSED)
    assert "did you mean 'max_body'" in line["error"]
    assert ask(reloadable, "corral-tiny", **big)[0] == 413
    reloadable.change("max_body: 8m\n", APPLIED)
    assert ask(reloadable, "corral-tiny", **big)[0] == 200


def test_hosts_and_restarts(reloadable):
    there = {"Host": "corral.example"}
    assert http(f"{reloadable.url}/v1/models", headers=there)[0] == 403
    _, lines = reloadable.change("allowed_hosts: [corral.example]\nspool_max: 1g\n", APPLIED)
    assert http(f"{reloadable.url}/v1/models", headers=there)[0] == 200
    assert [line["option"] for line in lines if "until a restart" in line["msg"]] == ["spool_max"]


def test_under_load_no_request_fails(reloadable):
    going, failed, done = True, [], []

    def client():
        while going:
            status, _, text = ask(reloadable, "corral-tiny")
            (done if status == 200 else failed).append(text)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for t in threads:
        t.start()
    for i in range(20):
        reloadable.change(f"aliases: {{name{i}: corral-tiny}}\nattempts: {i % 3 + 1}\n", APPLIED)
    going = False
    for t in threads:
        t.join()
    assert not failed and done


def test_backends_come_and_go(llama, tmp_path):
    path, port, admin = tmp_path / "corral.yaml", free_port(), free_port()
    path.write_text("backends: {}\nollama_host: 127.0.0.1:9\n")
    binary = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
    program = Program("corral", [binary, "serve", "--config", str(path), "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}",
                                 "--state-dir", str(tmp_path / "state")], tmp_path / "corral.log", f"http://127.0.0.1:{admin}/startupz")
    url = f"http://127.0.0.1:{port}"

    def change(text, models):
        path.write_text(text)
        os.kill(program.handle.pid, signal.SIGHUP)
        until(lambda: [m["id"] for m in json.loads(http(f"{url}/v1/models")[2])["data"] if m["id"] != "auto"] == models)

    try:
        change(f"backends: {{one: {{kind: llamacpp, url: '{llama.url}'}}}}\n", ["corral-tiny"])
        body = {"model": "corral-tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
        until(lambda: http(f"{url}/v1/chat/completions", body, timeout=60)[0] == 200)
        change("backends: {two: {kind: llamacpp, url: 'http://127.0.0.1:9'}}\n", [])
    finally:
        assert program.stop() == 0
