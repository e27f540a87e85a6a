"""A scripted client: one request on one connection, read as fast or as slowly as the script says, left at any byte.

Everything is noted with its time, so that a test can say what the client saw and when it left.
"""
import asyncio
import errno
import json
import os
import socket
import struct
import time


class Client:
    """start() sends; done is set when the answer is complete, broke, or the client left."""

    def __init__(self, address, method, path, body=None, headers=(), reading=True, rate=None, receive_buffer=None):
        self.address, self.method, self.path, self.headers = address, method, path, list(headers)
        self.body = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.rate, self.receive_buffer = rate, receive_buffer
        self.status, self.answer_headers, self.data = None, {}, b""
        self.complete = False                # the framing's own end came
        self.broken = None                   # why it is not complete
        self.sent_at = self.first_byte_at = self.ended_at = self.left_at = None
        self.done, self.progress = asyncio.Event(), asyncio.Event()
        self.reading = asyncio.Event()
        if reading:
            self.reading.set()
        self.sock = self.task = None
        self.wire, self.left = b"", None     # read and not looked at; of the body, where its length was told

    def start(self):
        self.task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def _run(self):
        try:
            await self._talk()
        except (OSError, EOFError, ValueError) as e:
            self.broken = self.broken or str(e) or type(e).__name__
        except asyncio.CancelledError:
            self.broken = "the client left"
        self.ended_at = time.monotonic()
        if self.sock and self.left_at is None:
            self.sock.close()
        self.done.set()
        self.progress.set()

    async def _talk(self):
        loop = asyncio.get_running_loop()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        await self._connect(loop)
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.address[0]}:{self.address[1]}", *self.headers]
        if self.body or self.method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        self.sent_at = time.monotonic()
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body
        if (sent := self._send(request)) < len(request):
            await loop.sock_sendall(self.sock, request[sent:])
        while not self._head():
            await self._more()
        self.progress.set()
        while not self._body():
            await self._more()
        self.complete = True

    async def _connect(self, loop):
        """Itself, for it succeeds at once; asyncio looks for names first."""
        if (said := self.sock.connect_ex(self.address)) == errno.EINPROGRESS:
            writable, fd = loop.create_future(), self.sock.fileno()
            loop.add_writer(fd, lambda: loop.remove_writer(fd) and not writable.done() and writable.set_result(None))
            await writable
            said = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if said:
            raise OSError(said, os.strerror(said))

    def _send(self, data):
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    async def _more(self):
        await self.reading.wait()
        if self.rate:
            await asyncio.sleep(1 / 20)
        data = await asyncio.get_running_loop().sock_recv(self.sock, max(1, self.rate // 20) if self.rate else 1 << 16)
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        if not data:
            raise EOFError("the connection ended before the answer did")
        self.wire += data

    def _head(self):
        """Takes the head off the wire; False as long as it is not whole."""
        head, end, rest = self.wire.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status, self.wire = int(first.split(" ")[1]), rest
        for line in lines:
            key, _, value = line.partition(":")
            self.answer_headers[key.strip().lower()] = value.strip()
        self._length()
        return True

    def _length(self):
        if self.method == "HEAD" or self.status == 204:
            self.left = 0
        elif "content-length" in self.answer_headers:
            self.left = int(self.answer_headers["content-length"])
        elif self.answer_headers.get("transfer-encoding") != "chunked":
            raise ValueError("the answer has no framing")

    def _body(self):
        """Takes what is there of the body off the wire; True when that was its end."""
        if self.left is None:
            return self._chunks()
        data, self.wire = self.wire[:self.left], self.wire[self.left:]
        self.left -= len(data)
        if data:
            self._got([data])
        return not self.left

    def _chunks(self):
        """Whole chunks only."""
        wire, at, whole = self.wire, 0, []
        while (end := wire.find(b"\r\n", at)) >= 0:
            n = int(wire[at:end], 16)
            if len(wire) < end + n + 4:
                break
            at = end + n + 4
            if not n:
                self.complete = True
                break
            whole.append(wire[end + 2:at - 2])
        self.wire = wire[at:]
        if whole:
            self._got(whole)
        return self.complete

    def _got(self, pieces):
        self.data += b"".join(pieces)
        self.progress.set()

    # --- for scripts ---

    async def until(self, condition, timeout=10):
        """Waits until condition() holds; False when it does not within the time."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0 or self.done.is_set():
                return condition()
            self.progress.clear()
            try:
                await asyncio.wait_for(self.progress.wait(), min(left, 0.05))
            except asyncio.TimeoutError:
                pass
        return True

    async def wait(self, timeout=30):
        await asyncio.wait_for(self.done.wait(), timeout)
        return self

    def leave(self, reset=False):
        """Closes the connection now."""
        if self.left_at is None and self.sock and not self.done.is_set():
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asyncio.get_running_loop().remove_reader(self.sock.fileno())          # or the loop does it later, to whoever has the descriptor then
            asyncio.get_running_loop().remove_writer(self.sock.fileno())
            self.left_at = time.monotonic()
            self.sock.close()
            self.task.cancel()

    # --- what the answer says ---

    def text_body(self):
        return self.data.decode(errors="replace")

    def json(self):
        return json.loads(self.data)

    def events(self):
        """The JSON of every event or line of a stream, "[DONE]" as that string."""
        out = []
        for line in self.text_body().split("\n"):
            line = line.strip()
            if line.startswith("data:"):
                line = line[5:].strip()
            elif line.startswith(":") or line.startswith("event:") or not line:
                continue
            try:
                out.append("[DONE]" if line == "[DONE]" else json.loads(line))
            except ValueError:
                out.append({"not_json": line})
        return out

    def answer_text(self):
        """What the model said, put together from a stream or a whole answer, in any dialect."""
        said = ""
        for e in self.events():
            if not isinstance(e, dict):
                continue
            for choice in e.get("choices") or []:
                said += (choice.get("delta") or choice.get("message") or {}).get("content") or choice.get("text") or ""
            message = e.get("message") if isinstance(e.get("message"), dict) else {}
            said += message.get("content") or "" if not isinstance(message.get("content"), list) else ""
            said += (e.get("delta") or {}).get("text") or "" if e.get("type") == "content_block_delta" else ""
            said += "".join(b.get("text", "") for b in e["content"]) if isinstance(e.get("content"), list) else ""
            said += e.get("response") or ""
        return said

    def finished(self):
        """True when the dialect's own end is there: [DONE], done:true, message_stop, or a finish reason of a whole answer."""
        for e in self.events():
            if e == "[DONE]":
                return True
            if isinstance(e, dict) and (e.get("done") is True or e.get("type") == "message_stop" or e.get("stop_reason") or "embeddings" in e or "embedding" in e or
                                        (e.get("object") == "list" and e.get("data")) or (e.get("object") == "chat.completion" and e["choices"][0].get("finish_reason"))):
                return True
        return False

    def error(self):
        """The error that the answer holds, as a word or sentence; "" = none."""
        for e in self.events():
            if not isinstance(e, dict):
                continue
            if e.get("error_code"):
                return e["error_code"]
            if e.get("error"):
                error = e["error"]
                return error if isinstance(error, str) else str(error.get("code") or error.get("type") or error.get("message"))
        return ""
