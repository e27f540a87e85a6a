"""HTTPS to backends: a certificate of one's own authority, and every way in which a server can be another, none, or broken."""
import http.client as http_client
import json
import socket
import ssl
import struct
import threading
import time

import openai
import pytest

from servers import http, until
from test_tls import make_identity, openssl


class Front:
    """Speaks TLS before a plain server. identity: its certificate and key; None: it closes in the handshake. 'reused': of each connection, was its handshake short."""

    def __init__(self, folder, identity, to):
        self.to, self.reused, self.open, self.names, self.slow = to, [], [], [], False
        self.context = None
        if identity:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(folder / f"{identity}.pem", folder / f"{identity}.key")
            self.context.sni_callback = lambda s, name, c: self.names.append(name)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        if not self.context:
            client.recv(100)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        try:
            client = self.context.wrap_socket(client, server_side=True)
        except OSError:
            return
        self.reused.append(client.session_reused)
        server = socket.create_connection(self.to)
        self.open += [client, server]
        threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
        self._pass(client, server)

    def _pass(self, this, that):
        try:
            while data := this.recv(200 if self.slow else 65536):
                that.sendall(data)
                time.sleep(0.1 if self.slow else 0)
        except OSError:
            pass
        for s in this, that:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Every connection breaks off, without a word of TLS."""
        for s in self.open:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.open = []

    def close(self):
        self.socket.close()
        self.cut()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backend-tls")
    make_identity(folder, "good")
    (folder / "elsewhere").mkdir()
    make_identity(folder / "elsewhere", "stranger")
    (folder / "elsewhere/stranger.pem").rename(folder / "stranger.pem")
    (folder / "elsewhere/stranger.key").rename(folder / "stranger.key")
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for name, alt, days in ("wrong-name", "DNS:other.example", "2"), ("expired", "IP:127.0.0.1,DNS:localhost", "-1"):
        openssl(folder, "req", *ec, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "ext").write_text(f"subjectAltName={alt}\n")
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", days, "-extfile", "ext",
                "-out", f"{name}.pem")
    openssl(folder, "req", "-x509", *ec, "-days", "2", "-subj", "/CN=self", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "self.key", "-out", "self.pem")
    return folder


@pytest.fixture(scope="module")
def fronts(files, llama):
    made = []

    def start(identity):
        made.append(Front(files, identity, ("127.0.0.1", int(llama.url.rsplit(":", 1)[1]))))
        return made[-1]
    yield start
    for front in made:
        front.close()


@pytest.fixture(scope="module")
def secure(files, fronts, corral_with):
    front = fronts("good")
    corral = corral_with({"far": ("openai", f"https://localhost:{front.port}/v1")}, "--backend-ca", str(files / "ca.pem"), "--workers=1", "--slots=far=8")
    until(lambda: "corral-tiny" in http(f"{corral.url}/v1/models")[2])
    return corral, front


def ask(corral, **more):
    return corral.post("/v1/chat/completions", {"model": "corral-tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}], **more}, timeout=60)


def test_answers_and_streams_are_those_of_the_backend(secure, direct):
    corral, front = secure
    client = openai.OpenAI(base_url=f"{corral.url}/v1", api_key="none", max_retries=0, timeout=60)
    for word in ("hello", "code", "zebra"):
        what = {"model": "corral-tiny", "messages": [{"role": "user", "content": word}], "max_tokens": 200}
        whole = client.chat.completions.create(**what).choices[0].message.content
        streamed = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**what, stream=True) if c.choices)
        assert whole == streamed == direct.chat.completions.create(**what).choices[0].message.content
    assert ask(corral, messages=[{"role": "user", "content": "hello " * 3000}])[0] == 200     # more than one record
    assert set(front.names) == {"localhost"}                     # told by SNI
    backend = corral.get("/backends")[2]["backends"][0]
    assert backend["state"] == "up" and backend["url"] == f"https://localhost:{front.port}"


def test_many_at_once(secure):
    corral, _ = secure
    statuses = []
    threads = [threading.Thread(target=lambda: [statuses.append(ask(corral, stream=False)[0]) for _ in range(10)]) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert statuses == [200] * 80


def test_the_next_handshake_is_short(secure):
    corral, front = secure
    before = len(front.reused)

    def goes_on():                                               # a check of the registry's that is cut as well says that the backend is down
        until(lambda: ask(corral)[0] == 200)
        front.cut()                                              # seen by the gateway as an idle connection that ended: nothing is lost
        return [ask(corral)[0] for _ in range(3)] == [200] * 3

    until(goes_on)
    assert len(front.reused) > before and any(front.reused[before:])


def test_a_stream_that_breaks_off_is_told(secure, files):
    corral, front = secure
    body = {"model": "corral-tiny", "stream": True, "messages": [{"role": "user", "content": "code"}]}
    until(lambda: ask(corral)[0] == 200)
    front.slow = True
    try:
        client = http_client.HTTPConnection(corral.url[7:], timeout=60)
        client.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = client.getresponse()
        begun = answer.readline()
        front.cut()
        rest = answer.read().decode()
    finally:
        front.slow = False
    assert begun.startswith(b"data: ") and "[DONE]" not in rest and '"error"' in rest, rest
    until(lambda: ask(corral)[0] == 200)


def down_because(corral):
    backend = until(lambda: next((b for b in corral.get("/health")[2]["backends"] if b["state"] == "down" and b.get("reason", "not asked yet") != "not asked yet"), None))
    return backend["reason"]


@pytest.mark.parametrize("identity, sentence", [
    ("wrong-name", "its certificate is not accepted: "), ("expired", "certificate has expired"), ("self", "its certificate is not accepted: self"),
    ("stranger", "its certificate is not accepted: "), (None, "TLS: "),
])
def test_who_is_not_the_one_is_not_asked(files, fronts, corral_with, identity, sentence):
    front = fronts(identity)
    corral = corral_with({"far": ("openai", f"https://127.0.0.1:{front.port}")}, "--backend-ca", str(files / "ca.pem"))
    assert sentence in down_because(corral)
    assert not front.open


def test_without_the_authority_nobody_is_believed(files, fronts, corral_with):
    corral = corral_with({"far": ("openai", f"https://127.0.0.1:{fronts('good').port}")})
    assert "its certificate is not accepted: " in down_because(corral)


def test_a_server_without_tls(files, llama, corral_with):
    corral = corral_with({"far": ("openai", llama.url.replace("http:", "https:"))}, "--backend-ca", str(files / "ca.pem"))
    assert "TLS: " in down_because(corral)
    assert json.loads(http(f"{corral.url}/v1/models")[2])["data"][1:] == []
