"""Models come, are loaded, protected, unloaded and deleted, before a real Ollama and a real llama.cpp; and Ollama's own command line
against the gateway."""
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import ollama
import pytest

from servers import Corral, Program, free_port, http, script, start_llama, start_ollama


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = true()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError("it never came to that")


@pytest.fixture(scope="module")
def ollama_built():
    built, reason = script("get-ollama", *(["--cached"] if os.environ.get("CORRAL_TEST_OLLAMA") == "cached" else []))
    if not built:
        pytest.skip(f"no Ollama: {reason}")
    return built


@pytest.fixture(scope="module")
def own_ollama(ollama_built, model_file, tmp_path_factory):
    """An Ollama whose models may be deleted; it begins with one, 'first'."""
    server = start_ollama(tmp_path_factory.mktemp("own-ollama"), ollama_built, model_file, "first")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def front(corral_with, own_ollama):
    return corral_with({"o": ("ollama", own_ollama.url)}, "--delete-grace=0", "--protected=kept")


@pytest.fixture
def cli(front, ollama_built, tmp_path):
    """Ollama's command line, told that the gateway is its server."""
    def call(*words, status=0, host=None):
        done = subprocess.run([f"{ollama_built}/bin/ollama", *words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=tmp_path,
                              env={**os.environ, "HOME": str(tmp_path), "OLLAMA_HOST": host or front.url, "NO_COLOR": "1"})
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr
    return call


def names(front):
    return {m["name"] for m in front.get("/api/tags")[2]["models"]}


def model(front, name):
    status, _, text = http(f"{front.url}/models/{name}")
    return json.loads(text) if status == 200 else None


def job(front, id):
    def ended():
        got = front.get(f"/jobs/{id}")[2]
        return got if got["state"] in ("done", "failed", "cancelled") else None
    return until(ended)


def act(front, name, verb, want=202, query=""):
    status, _, body = front.post(f"/models/{name}/{verb}{query}", None)
    assert status in (want, 200), body
    return job(front, body["job_id"])


def test_ollamas_own_command_line(front, cli, model_file, tmp_path):
    assert "0." in cli("--version") and "first" in cli("list")
    (tmp_path / "Modelfile").write_text(f"FROM {model_file}\nPARAMETER num_ctx 2048\n")
    assert "success" in cli("create", "mine", "-f", "Modelfile")
    assert "mine:latest" in cli("list")                           # at once, with no sync in between
    assert "num_ctx" in cli("show", "mine")
    assert "Welcome to Corral!" in cli("run", "mine", "hello").replace("\n", " ")
    until(lambda: "mine:latest" in cli("ps"))                     # what is in memory is read every few seconds
    cli("stop", "mine")
    until(lambda: "mine:latest" not in cli("ps"))
    cli("cp", "mine", "copy")
    assert "copy:latest" in cli("list")
    cli("rm", "copy")
    assert "copy:latest" not in cli("list") and "mine:latest" in cli("list")
    assert "Welcome to Corral!" in cli("run", "auto", "hello")    # our own names too
    cli("rm", "mine")
    assert "mine:latest" not in cli("list")
    assert "not here" in cli("rm", "mine", status=1)


def test_the_command_line_asks_what_it_may(front, cli):
    """Registries that are not listed are refused here and not by the network."""
    assert "pull_from" in cli("pull", "registry.example/x/y", status=1)
    assert "does not serve POST /api/me" in cli("push", "first", status=1)       # it asks for an account there first
    status, _, text = http(f"{front.url}/api/push", {"model": "first"}, "POST")
    assert status == 403 and "push_to" in text


def test_the_command_line_cannot_send_a_key(cli, front):
    """As docs/clients.md says: there is no place in its settings for one. When this fails the page can be rewritten."""
    port = front.url.rsplit(":", 1)[1]
    assert "invalid URL" in cli("list", status=1, host=f"http://corral_sk_x@127.0.0.1:{port}")


def test_the_vendors_package(front, own_ollama, model_file):
    client = ollama.Client(host=front.url, timeout=120)
    digest = client.create_blob(str(model_file))
    steps = [s.status for s in client.create("packaged", files={"model.gguf": digest}, stream=True)]
    assert steps[-1] == "success" and "packaged:latest" in names(front)
    client.copy("packaged", "second")
    assert {"packaged:latest", "second:latest"} <= names(front)
    for name in ("packaged", "second"):
        client.delete(name)
        assert f"{name}:latest" not in names(front)
    until(lambda: not {"packaged:latest", "second:latest"} & {m["name"] for m in json.loads(http(f"{own_ollama.url}/api/tags")[2])["models"]})
    with pytest.raises(ollama.ResponseError) as refused:
        client.delete("packaged")
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as refused:
        list(client.pull("first/../x", stream=True))
    assert refused.value.status_code in (400, 422)


def test_a_blob_is_what_its_digest_says(front, own_ollama):
    data = os.urandom(100_000)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert http(f"{front.url}/api/blobs/{digest}", method="HEAD")[0] == 404
    status, _, text = http(f"{front.url}/api/blobs/{digest}", data[:-1] + b"?", "POST")
    assert status == 400 and "digest mismatch" in text
    assert http(f"{front.url}/api/blobs/{digest}", data, "POST")[0] == 201
    assert http(f"{front.url}/api/blobs/{digest}", method="HEAD")[0] == 200
    assert http(f"{own_ollama.url}/api/blobs/{digest}", method="HEAD")[0] == 200
    assert http(f"{front.url}/api/blobs/{digest}", data, "POST")[0] == 200
    with socket.create_connection(("127.0.0.1", int(front.url.rsplit(":", 1)[1]))) as left:      # one that never ends
        left.sendall(f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n".encode() + data[:50_000])
    assert not [f for f in os.listdir(front.folder / "state") if "blob" in f]          # its file never had a name
    for bad in ("sha256:..", "sha256:" + "Z" * 64, "md5:" + "0" * 64):
        assert http(f"{front.url}/api/blobs/{bad}", data, "POST")[0] == 400


def test_nobody_makes_deletes_or_replaces_what_is_protected(front, own_ollama):
    """By every route: Ollama's own and ours."""
    assert http(f"{front.url}/models/first/protect", b"", "POST")[0] in (200, 202)
    for name in ("first", "FIRST:latest", "kept"):
        for method, path, body in (("POST", "/api/create", {"model": name, "from": "first", "system": "x"}),
                                   ("POST", "/api/copy", {"source": "first", "destination": name})):
            status, _, text = http(front.url + path, body, method)
            assert status == 403 and "protected" in json.loads(text)["error"], (path, name, text)
    for method, path, body in (("DELETE", "/api/delete", {"model": "first"}), ("DELETE", "/models/first", None), ("POST", "/api/pull", {"model": "first"}),
                               ("POST", "/models/pull", {"name": "first"})):
        status, _, text = http(front.url + path, body, method)
        assert status == 403 and "protected" in text, (path, text)
    for body in ({"MODEL": "first"}, {"model": "x", "Model": "first"}, {"model": "x", "name": "first"}):
        assert http(f"{front.url}/api/delete", body, "DELETE")[0] == 400
    assert "first:latest" in {m["name"] for m in json.loads(http(f"{own_ollama.url}/api/tags")[2])["models"]}
    status, _, text = http(f"{front.url}/models/first/unprotect", b"", "POST")
    assert status in (200, 202), text


@pytest.mark.parametrize("role, status", [("admin", 200), ("operator", 403), ("auditor", 403), ("developer", 403), ("user", 403), ("service", 403)])
def test_only_admins_manage_models(front, role, status):
    _, _, made = front.post("/keys", {"name": f"for-{role}", "role": role})
    headers = {"Authorization": f"Bearer {made['secret']}"}
    data = b"x" * 10
    digest = "sha256:" + hashlib.sha256(data).hexdigest()

    def seen():      # a new key is known to the gateway a moment later
        return http(f"{front.url}/api/tags", headers=headers)[0] == 200
    until(seen)
    asked = [("POST", "/api/copy", {"source": "first", "destination": f"by-{role}"}), ("DELETE", "/api/delete", {"model": f"by-{role}"}),
             ("POST", f"/api/blobs/{digest}", data)]
    for method, path, body in asked:
        got, _, text = http(front.url + path, body, method, headers)
        assert got == status or (status == 200 and got == 201), (path, text)
    if status == 403:
        for path in ("/api/pull", "/api/create", "/api/push"):
            assert http(front.url + path, {"model": "x"}, "POST", headers)[0] == 403


def test_the_life_of_a_model_on_ollama(front, own_ollama, model_file):
    data = Path(model_file).read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    assert http(f"{front.url}/api/blobs/{digest}", data, "POST", timeout=60)[0] in (200, 201)
    status, _, text = http(f"{front.url}/api/create", {"model": "life", "files": {"m.gguf": digest}, "stream": False}, "POST", timeout=60)
    assert status == 200 and json.loads(text)["status"] == "success"
    assert not model(front, "life")["loaded_on"]
    assert act(front, "life", "preload")["state"] == "done"
    until(lambda: model(front, "life")["loaded_on"] == ["o"])
    assert "life:latest" in http(f"{own_ollama.url}/api/ps")[2]
    assert act(front, "life", "protect")["state"] == "done"
    until(lambda: model(front, "life")["protected"])
    assert http(f"{front.url}/models/life", method="DELETE")[0] == 403
    assert act(front, "life", "unload")["state"] == "done"
    until(lambda: "life:latest" not in http(f"{own_ollama.url}/api/ps")[2])
    assert act(front, "life", "unprotect")["state"] == "done"
    status, _, text = http(f"{front.url}/models/life?grace_s=600", method="DELETE")
    assert status == 202
    until(lambda: model(front, "life") is None)
    assert "life" in http(f"{own_ollama.url}/api/tags")[2]               # not yet
    act(front, "life", "undelete")
    until(lambda: model(front, "life"))
    status, _, text = http(f"{front.url}/models/life?grace_s=0", method="DELETE")
    assert status == 202 and job(front, json.loads(text)["job_id"])["state"] == "done"
    assert "life" not in http(f"{own_ollama.url}/api/tags")[2]
    until(lambda: model(front, "life") is None)


@pytest.fixture(scope="module")
def router(engine, model_file, tmp_path_factory):
    """A llama-server that serves a folder of models and loads what it is told to."""
    folder = tmp_path_factory.mktemp("router")
    (folder / "models").mkdir()
    for name in ("first", "one"):
        shutil.copy(model_file, folder / "models" / f"{name}.gguf")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = Program("llama-server", [f"{engine}/bin/llama-server", "--host", "127.0.0.1", "--port", str(port), "--models-dir", str(folder / "models"),
                                      "--no-models-autoload", "--jinja", "--ctx-size", "8192", "--parallel", "2", "--cache-ram", "64"],
                     folder / "router.log", f"{url}/health", {"LLAMA_ARG_THREADS": "1", "HOME": str(folder)}, 60)
    server.url = url
    yield server
    server.stop()


def router_state(router, name):
    return next(m["status"]["value"] for m in json.loads(http(f"{router.url}/models")[2])["data"] if m["id"] == name)


def test_the_life_of_a_model_on_a_llamacpp_router(corral_with, router):
    front = corral_with({"r": ("llamacpp", router.url)})
    assert {"first", "one"} <= names(front) and router_state(router, "one") == "unloaded"
    assert act(front, "one", "preload")["state"] == "done"
    assert router_state(router, "one") == "loaded" and router_state(router, "first") == "unloaded"
    until(lambda: model(front, "one")["loaded_on"] == ["r"])
    _, _, answer = front.post("/v1/chat/completions", {"model": "one", "messages": [{"role": "user", "content": "hello"}]}, timeout=60)
    assert answer["choices"][0]["message"]["content"].startswith("Welcome to Corral!")
    status, _, text = http(f"{front.url}/models/one", method="DELETE")
    assert status == 501 and "cannot delete" in text                    # it has no such thing, and says so
    assert act(front, "one", "unload")["state"] == "done"
    assert router_state(router, "one") == "unloaded"
    until(lambda: not model(front, "one")["loaded_on"])


def test_a_model_leaves_the_memory_of_every_backend(corral_with, router, own_ollama):
    """The router is not where it stops."""
    front = corral_with({"r": ("llamacpp", router.url), "o": ("ollama", own_ollama.url)}, "--residency-every=500ms")
    until(lambda: model(front, "first") and set(model(front, "first")["backends"]) == {"r", "o"})
    http(f"{router.url}/models/load", {"model": "first"}, "POST")
    until(lambda: router_state(router, "first") == "loaded")
    assert http(f"{own_ollama.url}/api/generate", {"model": "first"}, "POST", timeout=60)[0] == 200
    until(lambda: set(model(front, "first")["loaded_on"]) == {"r", "o"})
    assert act(front, "first", "unload")["state"] == "done"
    assert router_state(router, "first") == "unloaded"
    until(lambda: "first" not in http(f"{own_ollama.url}/api/ps")[2])
    until(lambda: model(front, "first")["loaded_on"] == [])


def test_what_was_used_most_is_loaded_at_the_start(own_ollama, corral_with, tmp_path_factory):
    """Corral, its ledger and its jobs come back; the model that was used is in memory again although nobody asked."""
    folder = tmp_path_factory.mktemp("preload")
    options = ({"o": ("ollama", own_ollama.url)}, "--residency-every=500ms")
    front = Corral(folder, *options)
    for _ in range(2):
        assert front.post("/api/chat", {"model": "first", "messages": [{"role": "user", "content": "hello"}], "stream": False}, timeout=60)[0] == 200
    until(lambda: front.get("/usage?group_by=model")[2]["totals"]["requests"] == 2)
    assert act(front, "first", "unload")["state"] == "done"
    assert not front.close()
    until(lambda: "first" not in http(f"{own_ollama.url}/api/ps")[2])
    front = Corral(folder, *options, "--preload-top=0")
    until(lambda: model(front, "first"))
    time.sleep(2)
    assert not front.close() and "first" not in http(f"{own_ollama.url}/api/ps")[2]
    front = Corral(folder, *options)
    until(lambda: "first" in http(f"{own_ollama.url}/api/ps")[2])
    until(lambda: [j for j in front.get("/jobs")[2]["jobs"] if j["kind"] == "preload" and j["state"] == "done"])
    assert not front.close()


def test_a_check_leaves_the_model_as_it_is_loaded(own_ollama, corral_with):
    """Another context would load it anew; an engine that was started once is the sign that it was not."""
    front = corral_with({"o": ("ollama", own_ollama.url)}, "--check-every=200ms", "--residency-every=300ms", "--preload-top=0")
    until(lambda: model(front, "first"))
    asked = {"model": "first", "messages": [{"role": "user", "content": "hello"}], "stream": False, "options": {"num_ctx": 1024}}
    checked = lambda: sum(int(n) for n in re.findall(r'^corral_backend_checks_total{.*backend="o",outcome="ok"} (\d+)', front.metrics(), re.M))
    assert front.post("/api/chat", {**asked, "options": {}}, timeout=60)[0] == 200
    until(checked)                                                # the one after the start is over
    before = checked()
    assert front.post("/api/chat", asked, timeout=60)[0] == 200
    starts = own_ollama.log.read_text().count("llama-server started")
    until(lambda: checked() > before)
    loaded = json.loads(http(f"{own_ollama.url}/api/ps")[2])["models"]
    assert [m["context_length"] for m in loaded if m["name"] == "first:latest"] == [1024]
    assert front.post("/api/chat", asked, timeout=60)[0] == 200
    assert own_ollama.log.read_text().count("llama-server started") == starts


def test_a_client_that_leaves_does_not_end_a_load(own_ollama, corral_with):
    front = corral_with({"o": ("ollama", own_ollama.url)}, "--residency-every=300ms", "--check-every=0s", "--preload-top=0")
    until(lambda: model(front, "first"))
    http(f"{own_ollama.url}/api/generate", {"model": "first", "keep_alive": 0}, "POST")
    until(lambda: "first" not in http(f"{own_ollama.url}/api/ps")[2] and not model(front, "first")["loaded_on"])
    body = json.dumps({"model": "first", "messages": [{"role": "user", "content": "hello"}]}).encode()
    starts = lambda: own_ollama.log.read_text().count('msg="starting llama-server')
    before = starts()
    with socket.create_connection(("127.0.0.1", int(front.url.rsplit(":", 1)[1]))) as left:
        left.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: starts() > before)                          # the load has begun, and takes a while
    until(lambda: "first" in http(f"{own_ollama.url}/api/ps")[2])


def test_what_nobody_asks_for_is_proposed_for_removal(corral_with, llama, engine, model_file, tmp_path):
    second = start_llama(tmp_path, engine, model_file, "idle-one", slots=1, context=2048)
    try:
        front = corral_with({"l": ("llamacpp", llama.url), "s": ("llamacpp", second.url)})
        until(lambda: {"corral-tiny", "idle-one"} <= {m["name"] for m in front.get("/models")[2]["models"]})
        assert front.post("/v1/chat/completions", {"model": "corral-tiny", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]})[0] == 200
        assert front.get("/models/unused")[2] == {"days": 30, "models": [], "proposed_bytes": 0}       # none is known for so long

        def unused():
            status, _, got = front.get("/models/unused?days=0")
            return {m["name"]: m for m in got["models"]} if status == 200 else {}
        until(lambda: "idle-one" in unused())
        assert front.get("/models/unused?days=x")[0] == 422
        assert front.post("/models/idle-one/protect", {})[0] == 200
        until(lambda: unused()["idle-one"]["is_protected"] and not unused()["idle-one"]["proposed"])
    finally:
        second.stop()
