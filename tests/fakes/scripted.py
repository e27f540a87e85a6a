"""Scripted model servers: byte-exact answers and byte-exact failures, over raw sockets on asyncio.

A Backend listens on 127.0.0.1 and speaks as llama.cpp, Ollama or any OpenAI-compatible server. What it does with an
inference request is a behaviour, a line of words; a backend has a list of them, one for each request in turn, the last
one for all that follow. A request whose last user text begins with "do: " brings its own.

    answer N              N tokens and a proper end ("w0 w1 …")
    hang                  read the request, answer nothing, ever
    close                 read the request, close the connection
    refuse                the port is closed (a state of the backend, not of a request)
    status CODE           an error with that status, in the kind's own shape; retry=S adds Retry-After
    error200              status 200 and a JSON error instead of an answer
    event-error N         N tokens, then an error event; unstreamed as error200
    unterminated N        N tokens, then a clean end of the body without the protocol's own end
    stall N               N tokens, then silence
    badutf8 N             N tokens of which each holds a byte that is not UTF-8
    bigline SIZE          one token, then a line of that many bytes without an end
    length DELTA          an answer whose Content-Length is off by that much (unstreamed)
    html                  status 200 and a page that is none of the protocol

with words behind it, where they make sense:

    wait=T                before the first byte (Ollama: the load of a model that is not in memory)
    gap=T                 between tokens
    split=each|N          the bytes leave one by one, or in two pieces cut at byte N
    drip=T                every byte on its own, T apart
    cut=N                 the connection ends when N bytes of the answer, head included, have left; `reset` makes it a reset
    usage=no              no counts

Every inference request is recorded as a Call: its bytes, its times, what was sent, when the connection closed.
"""
import asyncio
import functools
import json
import re
import socket
import struct
import time

PROMPT_TOKENS = 7


def seconds(text):
    """'20ms' or '1.5s' in seconds."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text)
    if not found:
        raise ValueError(f"'{text}' is not a time; write 20ms, 1.5s or 2m")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[found[2]]


def size(text):
    found = re.fullmatch(r"(\d+)([km]?)", text)
    if not found:
        raise ValueError(f"'{text}' is not a size; write 300, 64k or 10m")
    return int(found[1]) << {"": 0, "k": 10, "m": 20}[found[2]]


class Behaviour:
    WORDS = {"answer": "tokens", "hang": None, "close": None, "refuse": None, "status": "code", "error200": None, "event-error": "tokens",
             "unterminated": "tokens", "stall": "tokens", "badutf8": "tokens", "bigline": "bytes", "length": "delta", "html": None}

    def __init__(self, text):
        words = text.split()
        if not words or words[0] not in self.WORDS:
            raise ValueError(f"'{text}' is not a behaviour; they begin with {', '.join(self.WORDS)}")
        self.text, self.do, words = text, words[0], words[1:]
        self.tokens, self.code, self.bytes, self.delta = 3, 500, 10 << 20, 0
        self.wait = self.gap = self.drip = 0.0
        self.split = self.cut = self.retry = None
        self.reset, self.usage = False, True
        argument = self.WORDS[self.do]
        if argument and words and "=" not in words[0] and words[0] != "reset":
            word = words.pop(0)
            setattr(self, argument, size(word) if argument == "bytes" else int(word))
        for word in words:
            self._option(word)

    def _option(self, word):
        key, _, value = word.partition("=")
        if key in ("wait", "gap", "drip"):
            setattr(self, key, seconds(value))
        elif key in ("cut", "retry"):
            setattr(self, key, int(value))
        elif key == "split":
            self.split = value if value == "each" else int(value)
        elif key == "usage":
            self.usage = value != "no"
        elif key == "reset":
            self.reset = True
        else:
            raise ValueError(f"'{word}' says nothing to a behaviour")


class Call:
    """One inference request as the backend saw it. Times are time.monotonic(); None = has not happened."""

    def __init__(self, backend, conn, method, path, headers, body):
        self.backend, self.conn, self.method, self.path, self.headers, self.raw = backend, conn, method, path, headers, body
        self.at = time.monotonic()
        self.reused = conn.requests > 1
        try:
            self.json = json.loads(body)
        except ValueError:
            self.json = {}
        self.request_id = headers.get("x-request-id", "")
        self.model = self.json.get("model", "")
        self.behaviour = None
        self.sent_tokens = self.sent_bytes = self.total_bytes = 0
        self.first_byte_at = self.answered_at = self.closed_at = None      # closed_at: the gateway closed before the answer was complete
        self.load_finished = None            # of an Ollama load: True or False

    def prompt(self):
        if "input" in self.json:
            return self.json["input"] if isinstance(self.json["input"], str) else " ".join(map(str, self.json["input"]))
        if "messages" in self.json:
            said = [m for m in self.json["messages"] if m.get("role") == "user"]
            content = said[-1].get("content", "") if said else ""
            return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)
        return self.json.get("prompt") or ""


class Gone(Exception):
    """The gateway closed the connection."""


class Cut(Exception):
    """The script said that the connection ends here."""


class Conn:
    def __init__(self, sock, loop):
        self.sock, self.loop = sock, loop
        self.received, self.requests = b"", 0
        self.closed_at = None
        self.news, self.closed = asyncio.Event(), asyncio.Event()
        loop.add_reader(sock.fileno(), self._read)         # not the socket itself: asyncio asks a set that does not have it for its repr()

    def _read(self):
        try:
            data = self.sock.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self.received += data
        if not data:
            self.loop.remove_reader(self.sock.fileno())
            self.closed_at = time.monotonic()
            self.closed.set()
        self.news.set()

    async def _more(self):
        if self.closed.is_set():
            raise Gone
        self.news.clear()
        await self.news.wait()       # a whole request may have come before the close: its reader looks again

    async def request(self):
        """The next request: (method, path, headers, body)."""
        while b"\r\n\r\n" not in self.received:
            await self._more()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self.received) < len(head) + 4 + length:
            await self._more()
        rest = self.received[len(head) + 4:]
        body, self.received = rest[:length], rest[length:]
        self.requests += 1
        return method, path, headers, body

    async def sleep(self, s):
        """As asyncio.sleep(); Gone as soon as the other side closes."""
        try:
            await asyncio.wait_for(self.closed.wait(), s)
        except asyncio.TimeoutError:
            return
        raise Gone

    async def send(self, data):
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            raise Gone from None
        if sent == len(data):
            await asyncio.sleep(0)           # others have their turn between two pieces
        else:
            await self._send_when_it_can(data[sent:])

    async def _send_when_it_can(self, data):
        sending = self.loop.create_task(self.loop.sock_sendall(self.sock, data))
        closing = self.loop.create_task(self.closed.wait())
        try:
            await asyncio.wait({sending, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise Gone
            sending.result()
        except OSError:
            raise Gone from None
        finally:
            for task in (sending, closing):
                task.cancel()

    async def close(self, reset=False):
        if self.sock.fileno() >= 0:
            self.loop.remove_reader(self.sock.fileno())
            self.loop.remove_writer(self.sock.fileno())       # of a send that was given up
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()


class Backend:
    """name, kind (llamacpp, ollama, openai), models: {name: {"ctx", "caps", "params", "size", "family"}}."""

    INFERENCE = {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate", "/v1/embeddings", "/api/embed"}

    def __init__(self, name, kind, models, slots=4, loaded=True, behaviours=("answer 3",)):
        assert kind in ("llamacpp", "ollama", "openai"), kind
        self.name, self.kind, self.models, self.slots = name, kind, models, slots
        self.loaded = set(models) if loaded else set()
        self.listing = "answer"              # "hang": the listing endpoints accept and are silent; "hang-once": the next one is
        self.calls, self.listed = [], 0
        self.running = self.most_running = 0
        self.memory_of_one, self.in_memory = False, 0           # one model at a time; requests for it that run
        self.note = lambda call, what: None          # "begin", "token", "end": for who keeps a book
        self._script(behaviours)
        self.socket, self.tasks, self.conns = None, set(), set()
        self._bind(0)

    def _bind(self, port):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))        # bound and not listening: refused, and nobody else gets the port
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _script(self, behaviours):
        self.behaviours = [Behaviour(b) for b in behaviours]
        self.served = 0

    async def start(self):
        if self.behaviours[0].do != "refuse":
            self._listen()

    def _listen(self):
        self.socket.listen(1024)
        asyncio.get_running_loop().add_reader(self.socket, self._accept)

    def _spawn(self, what):
        task = asyncio.get_running_loop().create_task(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def now(self, behaviours):
        """From here on it behaves so."""
        refused = self.behaviours[0].do == "refuse"
        self._script(behaviours)
        if self.behaviours[0].do == "refuse" and not refused:
            await self.stop()
            self._bind(self.port)
        elif refused and self.behaviours[0].do != "refuse":
            self._listen()

    async def stop(self):
        if self.socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.socket)
        while self.tasks:            # wait_for() may swallow a cancellation that comes with its result
            for task in self.tasks:
                task.cancel()
            await asyncio.wait(set(self.tasks), timeout=0.1)
        for conn in list(self.conns):
            await conn.close()
        self.conns.clear()
        self.socket.close()

    def _accept(self):
        """Not sock_accept(): cancelled at the wrong moment it keeps the connection that it has just taken, open and unread."""
        try:
            sock, _ = self.socket.accept()
        except (BlockingIOError, ConnectionError):
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Conn(sock, asyncio.get_running_loop())
        self.conns.add(conn)                 # not first in _serve(): a task that is cancelled before it began runs no line of it
        self._spawn(self._serve(conn))

    async def _serve(self, conn):
        reset = False
        try:
            while True:
                method, path, headers, body = await conn.request()
                if method == "POST" and path in self.INFERENCE and body != b"{}":       # "{}" asks whether it embeds
                    await self._infer(conn, Call(self, conn, method, path, headers, body))
                else:
                    await self._list(conn, path, body)
        except Cut as cut:
            reset = cut.args[0]
        except Gone:
            pass
        finally:
            self.conns.discard(conn)
            await conn.close(reset)

    # --- inference ---

    async def _infer(self, conn, call):
        prompt = call.prompt()
        self.calls.append(call)
        if prompt.startswith("do: "):
            call.behaviour = Behaviour(prompt[4:].split("\n")[0])
        else:
            call.behaviour = self.behaviours[min(self.served, len(self.behaviours) - 1)]
            self.served += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.note(call, "begin")
        counted = False
        try:
            counted = self.memory_of_one and await self._place(conn, call)
            await self._behave(conn, call, call.behaviour)
            call.answered_at = time.monotonic()
        except Gone:
            call.closed_at = conn.closed_at
            raise
        finally:
            self.in_memory -= counted
            self.running -= 1
            self.note(call, "end")

    async def _place(self, conn, call):
        """As an Ollama that holds one model: another waits until no request runs for it, and those for it overtake."""
        while call.model not in self.loaded:
            if not self.in_memory:
                self.loaded = {call.model}
                break
            await conn.sleep(0.005)
        self.in_memory += 1
        return True

    async def _behave(self, conn, call, b):
        if b.do == "hang":
            await conn.sleep(3600)
        if b.do in ("close", "refuse"):
            raise Cut(b.reset)
        if b.wait:
            await self._wait(conn, call, b)
        out, pieces = Out(conn, call, b), self._pieces(call, b)
        call.total_bytes = sum(len(piece) for piece, _ in pieces)
        for piece, tokens in pieces:
            if b.gap and tokens and call.sent_tokens:
                await conn.sleep(b.gap)
            call.sent_tokens += tokens       # before they leave: what was read is never more than what was sent
            if tokens:
                self.note(call, "token")
            await out.send(piece)
        if b.do == "stall":
            await conn.sleep(3600)
        if b.cut is not None or b.do == "bigline" or (b.do == "length" and b.delta > 0):
            raise Cut(b.reset)

    async def _wait(self, conn, call, b):
        """Before the first byte. Ollama loads a model meanwhile, and gives up when who asked for it leaves."""
        loading = self.kind == "ollama" and call.model not in self.loaded
        try:
            await conn.sleep(b.wait)
        except Gone:
            call.load_finished = False if loading else None
            raise
        if loading:
            call.load_finished = True
            self.loaded.add(call.model)

    def _pieces(self, call, b):
        """(bytes, tokens in them) of the whole answer with its head."""
        stream = call.json.get("stream", self.kind == "ollama") and not path_embeds(call.path)
        if b.do == "status":
            return [(plain(b.code, self._error(b.code), f"Retry-After: {b.retry}\r\n" if b.retry is not None else ""), 0)]
        if b.do == "error200" or (b.do == "event-error" and not stream):
            return [(plain(200, self._error(500)), 0)]
        if b.do == "html":
            return [(plain(200, "<html>It works!</html>", kind="text/html"), 0)]
        if not stream:
            return self._whole(call, b)
        return self._stream(call, b)

    def _timings(self, b):
        return llamacpp_timings(b) if self.kind == "llamacpp" else {}

    def _error(self, code):
        if self.kind == "ollama":
            return json.dumps({"error": "the scripted engine broke"})
        return json.dumps({"error": {"code": code, "message": "the scripted engine broke", "type": "server_error"}})

    def _whole(self, call, b):
        text = "".join(words(b))
        if path_embeds(call.path):
            last = embeddings(call, b)
        elif self.kind == "ollama":
            last = {"model": call.model, "created_at": "2026-11-21T00:00:00Z", "done": True, "done_reason": "stop", **ollama_counts(b)}
            last.update({"message": {"role": "assistant", "content": text}} if call.path == "/api/chat" else {"response": text})
        else:
            choice = {"index": 0, "finish_reason": "stop"}
            choice.update({"message": {"role": "assistant", "content": text}} if "chat" in call.path else {"text": text})
            last = {"id": "cmpl-1", "object": "chat.completion", "created": 1, "model": call.model, "choices": [choice]}
            if b.usage:
                last["usage"] = openai_counts(b)
            last.update(self._timings(b))
        if b.do == "unterminated":
            last.pop("done", None)
            last.pop("data", None)
            last.pop("embeddings", None)
            for choice in last.get("choices", []):
                choice["finish_reason"] = None
        body = raw_json(last)
        if b.do == "badutf8":
            body = body.replace(b"\\udcff", b"\xff")
        return [(plain(200, body, delta=b.delta if b.do == "length" else 0), 0 if path_embeds(call.path) else b.tokens)]

    def _stream(self, call, b):
        kind = "application/x-ndjson" if self.kind == "ollama" else "text/event-stream"
        out = [(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), 0)]
        event, last = ollama_events(call, b) if self.kind == "ollama" else openai_events(call, b, self._timings(b))
        if self.kind != "ollama" and "chat" in call.path:
            out.append((chunk(event(None)), 0))
        out += [(chunk(event(word)), 1) for word in words(b)]
        if b.do == "bigline":
            start = event("")[:-4]
            return out[:3] + [(chunk(start), 0)] + [(chunk(b"x" * 65536), 0)] * (b.bytes >> 16)
        if b.do == "stall":
            return out
        if b.do == "event-error":
            error = self._error(500)
            out.append((chunk((f"data: {error}\n\n" if self.kind != "ollama" else f"{error}\n").encode()), 0))
        elif b.do != "unterminated":
            out += [(chunk(piece), 0) for piece in last]
        return out + [(b"0\r\n\r\n", 0)]

    # --- listing ---

    async def _list(self, conn, path, body):
        self.listed += 1
        if self.listing.startswith("hang"):
            self.listing = "hang" if self.listing == "hang" else "answer"
            await conn.sleep(3600)
        if path == "/v1/embeddings":
            embeds = any("embedding" in m.get("caps", ()) for m in self.models.values())
            await conn.send(plain(400 if embeds else 501, self._error(400 if embeds else 501)))
            return
        answer = self._listing(path.split("?")[0], body)
        await conn.send(plain(200, json.dumps(answer)) if answer is not None else plain(404, '{"error":"no such path"}'))

    def _listing(self, path, body):
        if path == "/v1/models":
            return {"object": "list", "data": [self._openai_entry(n, m) for n, m in self.models.items()]}
        if self.kind == "llamacpp":
            first = next(iter(self.models.values()))
            if path == "/v1/chat/completions/input_tokens":
                return {"object": "response.input_tokens", "input_tokens": 42}
            return {"/health": {"status": "ok"}, "/props": {
                "default_generation_settings": {"n_ctx": first.get("ctx", 4096)}, "total_slots": self.slots, "build_info": "b1-scripted",
                "chat_template": "", "modalities": {"vision": "vision" in first.get("caps", ()), "audio": False},
                "chat_template_caps": {"supports_tools": "tools" in first.get("caps", ())}}}.get(path)
        if self.kind == "ollama":
            return self._ollama_listing(path, body)
        return None

    def _openai_entry(self, name, m):
        if self.kind == "llamacpp":
            return {"id": name, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {
                "n_ctx_train": m.get("ctx", 4096), "n_embd": 64, "n_params": m.get("params", 1_000_000_000), "size": 1 << 30, "ftype": "all F32"}}
        return {"id": name, "object": "model", "created": 1, "owned_by": "scripted", "max_model_len": m.get("ctx", 4096)}

    def _ollama_listing(self, path, body):
        if path == "/api/version":
            return {"version": "0.34.2"}
        if path == "/api/tags":
            return {"models": [self._tag(n, m) for n, m in self.models.items()]}
        if path == "/api/ps":
            return {"models": [{**self._tag(n, self.models[n]), "expires_at": "2318-01-01T00:00:00Z", "size_vram": 1 << 30,
                                "context_length": self.models[n].get("ctx", 4096)} for n in self.loaded if n in self.models]}
        if path == "/api/show":
            m = self.models.get(json.loads(body).get("model"))
            return m and {"template": "", "details": self._details(m), "capabilities": list(m.get("caps", ("completion",))), "model_info": {
                "general.architecture": m.get("family", "llama"), "general.parameter_count": m.get("params", 1_000_000_000),
                f"{m.get('family', 'llama')}.context_length": m.get("ctx", 4096)}}
        return None

    def _details(self, m):
        family = m.get("family", "llama")
        return {"format": "gguf", "family": family, "families": [family], "quantization_level": "Q4_K_M",
                "parameter_size": f"{m.get('params', 1_000_000_000) / 1e9:.1f}B"}

    def _tag(self, name, m):
        return {"name": name, "model": name, "modified_at": "2026-11-01T00:00:00Z", "size": 1 << 30, "details": self._details(m),
                "digest": "".join(f"{b:02x}" for b in (name * 64).encode()[:32])}


class Out:
    """The bytes of one answer on their way: split, dripped, cut and counted."""

    def __init__(self, conn, call, behaviour):
        self.conn, self.call, self.b = conn, call, behaviour

    async def send(self, data):
        for piece in self._cuts(data):
            if self.b.drip and self.call.sent_bytes:
                await self.conn.sleep(self.b.drip)
            await self.conn.send(piece)
            if self.call.first_byte_at is None:
                self.call.first_byte_at = time.monotonic()
            self.call.sent_bytes += len(piece)
            if self.b.split is not None:
                await asyncio.sleep(0.003 if self.b.split != "each" else 0)      # so that the pieces arrive as pieces
            if self.b.cut is not None and self.call.sent_bytes >= self.b.cut:
                raise Cut(self.b.reset)

    def _cuts(self, data):
        at = self.call.sent_bytes
        if self.b.cut is not None:
            if self.b.cut <= at:
                raise Cut(self.b.reset)
            data = data[:self.b.cut - at]
        if self.b.drip or self.b.split == "each":
            return [data[i:i + 1] for i in range(len(data))]
        if isinstance(self.b.split, int) and at < self.b.split < at + len(data):
            return [data[:self.b.split - at], data[self.b.split - at:]]
        return [data]


def words(b):
    return [f"w{i}{chr(0xdcff) if b.do == 'badutf8' else ''} " for i in range(b.tokens)]


@functools.lru_cache(1024)
def raw_word(word):
    """A word as it stands in JSON, without its quotes."""
    return json.dumps(word)[1:-1].encode().replace(b"\\udcff", b"\xff")


def with_words(make):
    """make(word) for many words: all that is the same in their bytes is made once."""
    before, after = make("\0").split(b"\\u0000")
    return lambda word: before + raw_word(word) + after


packed = json.JSONEncoder(separators=(",", ":")).encode


def raw_json(value):
    return packed(value).encode()


def plain(status, body, headers="", kind="application/json", delta=0):
    data = body if isinstance(body, bytes) else body.encode()
    reason = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable"}.get(status, "Some")
    return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(data) + delta}\r\n{headers}\r\n".encode() + data


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def openai_counts(b):
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": b.tokens, "total_tokens": PROMPT_TOKENS + b.tokens}


def ollama_counts(b):
    return {"total_duration": 5_000_000, "prompt_eval_count": PROMPT_TOKENS, "eval_count": b.tokens} if b.usage else {}


def path_embeds(path):
    return path in ("/v1/embeddings", "/api/embed")


def embeddings(call, b):
    """A vector of three numbers for each input; PROMPT_TOKENS for all."""
    asked = call.json.get("input", [])
    vectors = [[i + 0.5, -1, 1e-3] for i in range(1 if isinstance(asked, str) else len(asked))]
    if call.path == "/api/embed":
        return {"model": call.model, "embeddings": vectors, **({"total_duration": 5_000_000, "prompt_eval_count": PROMPT_TOKENS} if b.usage else {})}
    counts = {"usage": {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}} if b.usage else {}
    return {"object": "list", "model": call.model, **counts,
            "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in reversed(list(enumerate(vectors)))]}


def llamacpp_timings(b):
    """llama.cpp's own counts: with the answer, or with its last chunk (the usage chunk where there is one)."""
    return {"timings": {"cache_n": 0, "prompt_n": PROMPT_TOKENS, "prompt_ms": 1.5, "predicted_n": b.tokens, "predicted_ms": 2.5}} if b.usage else {}


def openai_events(call, b, more=()):
    base = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": call.model}
    chat = "chat" in call.path

    def event(word):
        choice = {"index": 0, "finish_reason": None}
        choice.update({"delta": {"role": "assistant", "content": None} if word is None else {"content": word}} if chat else {"text": word})
        return sse({**base, "choices": [choice]})

    said = with_words(event)

    last = [{**base, "choices": [{"index": 0, "finish_reason": "stop", **({"delta": {}} if chat else {"text": ""})}]}]
    if b.usage and (call.json.get("stream_options") or {}).get("include_usage"):
        last.append({**base, "choices": [], "usage": openai_counts(b)})
    last[-1].update(more)
    return lambda word: event(word) if word is None else said(word), [sse(value) for value in last] + [b"data: [DONE]\n\n"]


def sse(value):
    return b"data: " + raw_json(value) + b"\n\n"


def ollama_events(call, b):
    base = {"model": call.model, "created_at": "2026-11-21T00:00:00Z"}
    chat = call.path == "/api/chat"

    def line(word, **more):
        said = {"message": {"role": "assistant", "content": word}} if chat else {"response": word}
        return raw_json({**base, **said, "done": False, **more}) + b"\n"

    return with_words(line), [line("", done=True, done_reason="stop", **ollama_counts(b))]
