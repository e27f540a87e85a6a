"""SIGHUP: the configuration file is read again while requests run; a bad one changes nothing and is told with its line."""
import json
import threading
import time

import pytest

from servers import ARRANGEMENT, Corral, http


@pytest.fixture
def reloadable(corral_with, llama, tmp_path):
    path = tmp_path / "corral.yaml"
    path.write_text("queue_timeout: 30s\n")
    corral = corral_with({"l": ("llamacpp", llama.url)}, "--config", str(path), "--log-format", "json", "--log-level", "debug")

    def change(text, expect):
        """What was logged of it: the line expected, and all. Where services are apart every one applies it; one that refuses is enough."""
        path.write_text(text)
        before = len(corral.logs().splitlines())
        seen = {p: len(p.log.read_text().splitlines()) for p in corral.programs()}
        corral.reload()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            told = [[json.loads(line) for line in p.log.read_text().splitlines()[n:] if line.startswith("{") and line.endswith("}")] for p, n in seen.items()]
            found = [[line for line in lines if line["msg"] == expect] for lines in told]
            if all(found) if expect == APPLIED else any(found):
                return next(f[0] for f in found if f), sum(told, [])
            time.sleep(0.02)
        raise AssertionError(f"'{expect}' was not logged:\n" + "\n".join(corral.logs().splitlines()[before:]))

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
    assert line["field"] == "queue_timeout" and ".yaml:2:16" in line["error"]
    ours = "8m" if ARRANGEMENT == "one" else "2k"                # a gateway apart is not asked about the slots
    line, _ = reloadable.change(f"max_body: {ours}\nslots: {{l: none}}\n", REFUSED)
    assert line["field"] == "slots" and ".yaml:2" in line["error"]
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
    path = tmp_path / "corral.yaml"
    path.write_text("backends: {}\nollama_host: 127.0.0.1:9\n")
    corral = Corral(tmp_path, None, "--config", str(path))

    def change(text, models):
        path.write_text(text)
        corral.reload()
        until(lambda: [m["id"] for m in corral.get("/v1/models")[2]["data"] if m["id"] != "auto"] == models)

    try:
        change(f"backends: {{one: {{kind: llamacpp, url: '{llama.url}'}}}}\n", ["corral-tiny"])
        until(lambda: ask(corral, "corral-tiny")[0] == 200)
        change("backends: {two: {kind: llamacpp, url: 'http://127.0.0.1:9'}}\n", [])
    finally:
        assert corral.close() is None
