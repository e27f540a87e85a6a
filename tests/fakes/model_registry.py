"""A registry of models as a real Ollama pulls from: manifests, and files that are told to lie on another host.

Ollama wants of it: GET /v2/NS/NAME/manifests/TAG is a manifest in Docker's form; GET of a blob answers 307 with the Location of
the file on another host name (127.0.0.1 sends to localhost here), which then answers Range with 206. `rate` (bytes a second)
makes a pull take its time; `cut` breaks that many of the next transfers in the middle.
"""
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class ModelRegistry:
    def __init__(self, port=0):
        self.blobs, self.manifests = {}, {}
        self.rate, self.cut = None, 0
        self.transfers = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            registry = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def name(self, model):
        return f"{self.host}/library/{model}"

    def add(self, model, gguf, tag="latest"):
        """A model made of these bytes."""
        weights = self._layer("model", gguf)
        config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "152K", "file_type": "F32",
                  "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [weights["digest"]]}}
        settings = self._put(json.dumps(config).encode())
        self.manifests["library/" + model, tag] = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [weights],
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **settings}}).encode()

    def _put(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    def _layer(self, kind, data):
        return {"mediaType": f"application/vnd.ollama.image.{kind}", **self._put(data)}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        if parts[0] == "file" and parts[-1] in self.registry.blobs:
            self._file(self.registry.blobs[parts[-1]])
        elif parts[0] == "v2" and "manifests" in parts:
            found = self.registry.manifests.get(("/".join(parts[1:-2]), parts[-1]))
            self._answer(200 if found else 404, found or b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', Content_Type=MANIFEST)
        elif parts[0] == "v2" and "blobs" in parts and parts[-1] in self.registry.blobs:
            if self.command == "HEAD":
                self._answer(200, self.registry.blobs[parts[-1]])
            else:
                self._answer(307, Location=f"http://localhost:{self.registry.port}/file/{parts[-1]}")
        else:
            self._answer(404)

    def _file(self, data):
        first, last = 0, len(data) - 1
        asked = self.headers.get("Range")
        if asked:
            a, _, b = asked.removeprefix("bytes=").partition("-")
            first, last = int(a), int(b) if b else last
        with self.registry.lock:
            self.registry.transfers += 1
            cut = self.registry.cut > 0 and len(data) > 10000
            self.registry.cut -= cut
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        end = first + (last - first + 1) // 2 if cut else last + 1
        try:
            for at in range(first, end, 1 << 15):
                piece = data[at:min(at + (1 << 15), end)]
                self.wfile.write(piece)
                if self.registry.rate:
                    time.sleep(len(piece) / self.registry.rate)
        except OSError:
            pass
        if cut:
            self.close_connection = True
