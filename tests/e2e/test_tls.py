"""HTTPS on the public port: real clients, the certificate changed under load, what is said about wrong files and wrong doors, clients that leave."""
import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest

from servers import ROOT, free_port, http

sys.path.insert(0, str(ROOT / "tests" / "fakes"))
from scripted import Backend                                     # noqa: E402

BINARY = os.environ.get("CORRAL_BIN", str(ROOT / "build/bin/corral"))
# Python's urllib and openssl must not be led astray by a proxy of the machine.
os.environ["no_proxy"] = "127.0.0.1,localhost"


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_identity(folder, name, common_name="corral"):
    """NAME.pem and NAME.key in the folder, signed by ca.pem there, which is made when it is not."""
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    if not (folder / "ca.pem").exists():
        openssl(folder, "req", "-x509", *ec, "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem",
                "-addext", "keyUsage=critical,keyCertSign")
    openssl(folder, "req", *ec, "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext",
            "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_identity(folder, "one", "first certificate")
    make_identity(folder, "two", "second certificate")
    return folder


def put(files, name, where):
    """As tools that renew certificates do: each file is replaced whole."""
    for kind in ("pem", "key"):
        fresh = where / f"now.{kind}.new"
        fresh.write_bytes((files / f"{name}.{kind}").read_bytes())
        fresh.rename(where / f"now.{kind}")


@pytest.fixture(scope="module")
def secure(files, corral_with, llama, tmp_path_factory):
    """A Corral with plain HTTP on loopback and HTTPS beside it. tls: its address; files: where its certificate lies."""
    where = tmp_path_factory.mktemp("live")
    put(files, "one", where)
    port = free_port()
    corral = corral_with({"l": ("llamacpp", llama.url)}, "--public-tls-listen", f"127.0.0.1:{port}", "--public-tls-cert", str(where / "now.pem"),
                         "--public-tls-key", str(where / "now.key"), "--workers", "2", "--log-format", "json")
    corral.tls, corral.tls_port, corral.files = f"https://127.0.0.1:{port}", port, where
    corral.context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    return corral


def subject(corral):
    with socket.create_connection(("127.0.0.1", corral.tls_port), 10) as s, corral.context.wrap_socket(s, server_hostname="localhost") as t:
        return dict(x[0] for x in t.getpeercert()["subject"])["commonName"], t.version(), t.selected_alpn_protocol()


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_curl(secure, files):
    body = json.dumps({"model": "corral-tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]})
    for more in ([], ["--tls-max", "1.2"], ["--http2"]):
        done = subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", str(files / "ca.pem"), *more, "-H", "Content-Type: application/json", "-d", body,
                               f"{secure.tls}/v1/chat/completions"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and json.loads(done.stdout)["choices"], done
    old = subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", str(files / "ca.pem"), "--tls-max", "1.1", f"{secure.tls}/v1/models"], capture_output=True,
                         text=True, timeout=60)
    assert old.returncode != 0 and not old.stdout
    untrusted = subprocess.run(["curl", "-sS", "--noproxy", "*", f"{secure.tls}/v1/models"], capture_output=True, text=True, timeout=60)
    assert untrusted.returncode == 60


def test_the_openai_client(secure):
    with httpx.Client(verify=secure.context, trust_env=False) as transport:
        client = openai.OpenAI(base_url=f"{secure.tls}/v1", api_key="none", max_retries=0, timeout=60, http_client=transport)
        ask = {"model": "corral-tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
        whole = client.chat.completions.create(**ask).choices[0].message.content
        parts = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True) if c.choices]
        assert whole and "".join(parts)
        assert "corral-tiny" in [m.id for m in client.models.list()]


def test_both_addresses(secure):
    assert http(f"{secure.url}/v1/models")[0] == 200
    status, _, text = http(f"http://127.0.0.1:{secure.tls_port}/v1/models")
    assert status == 400 and "this port speaks HTTPS" in json.loads(text)["error"]["message"]
    name, version, protocol = subject(secure)
    assert version == "TLSv1.3" and protocol in (None, "http/1.1")
    with socket.create_connection(("127.0.0.1", secure.tls_port), 10) as s:
        s.sendall(b"\x16\x03\x01\x00\x05nonsense")
        s.settimeout(20)
        while s.recv(4096):
            pass


class Load:
    """Threads that ask all the time, each with a new connection for every third request; failures are kept."""

    def __init__(self, corral, n=6):
        self.corral, self.going, self.done, self.failed = corral, True, 0, []
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(n)]
        for t in self.threads:
            t.start()

    def _run(self):
        while self.going:
            try:
                with httpx.Client(verify=self.corral.context, trust_env=False, timeout=60) as client:
                    for _ in range(3):
                        body = {"model": "corral-tiny", "max_tokens": 3, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
                        answer = client.post(f"{self.corral.tls}/v1/chat/completions", json=body)
                        assert answer.status_code == 200 and "[DONE]" in answer.text, answer.text
                        self.done += 1
            except (httpx.HTTPError, AssertionError) as e:
                self.failed.append(repr(e))

    def stop(self):
        self.going = False
        for t in self.threads:
            t.join(60)
        return self.failed


def test_a_new_certificate_under_load(secure, files):
    assert subject(secure)[0] == "first certificate"
    load = Load(secure)
    until(lambda: load.done > 5)
    put(files, "two", secure.files)                              # noticed by itself
    until(lambda: subject(secure)[0] == "second certificate")
    (secure.files / "now.key").write_bytes((files / "one.key").read_bytes())       # not its key: nothing changes, and the log says so
    until(lambda: "is not that of the certificate" in secure.logs())
    assert subject(secure)[0] == "second certificate"
    put(files, "one", secure.files)
    secure.signal(signal.SIGHUP)            # at once
    until(lambda: subject(secure)[0] == "first certificate")
    before = load.done
    until(lambda: load.done > before + 5)
    assert load.stop() == []
    metrics = http(f"{secure.admin}/metrics")[2]
    ends = [float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith("corral_public_tls_certificate_ends_timestamp_seconds")]
    assert len(ends) == 1 and 46 * 3600 < ends[0] - time.time() < 50 * 3600


def serve(folder, *options):
    done = subprocess.run([BINARY, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--state-dir", str(folder / "state"), *options],
                          capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


@pytest.mark.parametrize("options,sentence", [
    (["--public-tls-listen=:0"], "public_tls_listen needs public_tls_cert and public_tls_key"),
    (["--public-tls-listen=:0", "--public-tls-cert=one.pem"], "public_tls_listen needs public_tls_cert and public_tls_key"),
    (["--public-tls-cert=one.pem", "--public-tls-key=one.key"], "for public_tls_listen, which is not given"),
    (["--public-tls-listen=:0", "--public-tls-cert=one.pem", "--public-tls-key=two.key"], "is not that of the certificate in 'one.pem'"),
    (["--public-tls-listen=:0", "--public-tls-cert=none.pem", "--public-tls-key=two.key"], "'none.pem' cannot be read: No such file"),
    (["--public-tls-listen=:0", "--public-tls-cert=one.key", "--public-tls-key=two.key"], "'one.key' is no certificate in PEM form"),
    (["--public-tls-listen=nowhere", "--public-tls-cert=one.pem", "--public-tls-key=one.key"], "is not an address for TLS"),
    (["--listen=none"], "nobody could connect"),
])
def test_what_cannot_work_is_told_at_the_start(files, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(files)
    status, said = serve(tmp_path, *options)
    assert status == 1 and sentence in said, said


def test_a_wide_address_with_tls_needs_keys(files, tmp_path):
    status, said = serve(tmp_path, "--public-tls-listen", "0.0.0.0:0", "--public-tls-cert", str(files / "one.pem"), "--public-tls-key", str(files / "one.key"))
    assert status == 1 and "there is no key that would let anybody in" in said, said


def test_keys_are_for_the_wide_address_only(files, corral_with, llama, tmp_path):
    port, key_file = free_port(), tmp_path / "first.key"
    key = subprocess.run([BINARY, "keys", "generate"], capture_output=True, text=True, check=True).stdout.strip()
    key_file.write_text(key)
    corral = corral_with({"l": ("llamacpp", llama.url)}, "--bootstrap-key-file", str(key_file), "--public-tls-listen", f"0.0.0.0:{port}",
                         "--public-tls-cert", str(files / "one.pem"), "--public-tls-key", str(files / "one.key"))
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
        assert client.get(f"https://127.0.0.1:{port}/v1/models").status_code == 401
        assert client.get(f"https://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert http(f"{corral.url}/v1/models")[0] == 200             # on loopback, by the plain address


def test_a_client_that_leaves_frees_the_backend(files, corral_with):
    """Over TLS as over plain connections: the backend's connection is closed within 100 ms."""
    port = free_port()
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))

    async def leave(corral, backend, abruptly):
        before = len(backend.calls)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "do: answer 10000 gap=5ms"}]}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        got = 0
        while got < 2000:
            got += len(await asyncio.wait_for(reader.read(4096), 20))
        call = backend.calls[before]
        left = time.monotonic()
        writer.transport.abort() if abruptly else writer.close()
        while not call.closed_at and time.monotonic() < left + 10:
            await asyncio.sleep(0.001)
        return call.closed_at - left

    async def run():
        backend = Backend("a", "openai", {"m": {}}, slots=4)
        await backend.start()
        loop = asyncio.get_running_loop()
        corral = await loop.run_in_executor(None, lambda: corral_with({"a": ("openai", backend.url)}, "--public-tls-listen", f"127.0.0.1:{port}",
                                            "--public-tls-cert", str(files / "one.pem"), "--public-tls-key", str(files / "one.key")))
        times = [await leave(corral, backend, n % 2 == 1) for n in range(20)]
        await backend.stop()
        return times

    times = sorted(asyncio.run(run()))
    assert times[len(times) * 9 // 10] < 0.1, times
