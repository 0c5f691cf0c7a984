"""HTTP/1.1 without sockets: requests to bytes, bytes to answers.

Only what an agent and the proxies in front of one send. Everything is bounded, so that a peer that is no agent cannot
use up memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from g2g_agent.errors import BadAnswer

MAX_HEAD = 64 << 10
"""Bytes of a status line with its headers, and of one line of a body in chunks."""

MAX_BODY = 1 << 30
"""Bytes of a body: 10,000 states of some hundred models."""


@dataclass(slots=True)
class Response:
    """An answer, with header names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class ResponseParser:
    """Takes the bytes of one answer as they come.

    `response` is complete once `done`; what came after it stands in `rest`. `started` says that a byte has come.
    """

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self.done = False
        self.started = False
        self.keep_alive = False
        self.rest = b""
        self.response = Response(0, {})
        self._max_body = max_body
        self._buffer = bytearray()
        self._in_head = True
        self._left: int | None = 0  # of a body of known length; None: until the connection closes
        self._chunked = False
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bool:
        """Takes more bytes; an empty one says that the connection has been closed.

        Returns:
            Whether the answer is complete.

        Raises:
            BadAnswer: This is no HTTP, or larger than is allowed.
            EOFError: The connection was closed within the answer.
        """
        if not data:
            return self._end()
        self.started = True
        self._buffer += data
        if self._in_head and not self._head():
            return False
        if self._chunked:
            while not self.done and self._chunk():
                pass
        elif self._left is None:
            self._take(len(self._buffer))
        else:
            part = min(self._left, len(self._buffer))
            self._left -= part
            self._take(part)
            if self._left == 0:
                self._finish()
        return self.done

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD or not b"HTTP/".startswith(bytes(self._buffer[:5])):
                raise BadAnswer(_no_http(self._buffer))
            return False
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if end > MAX_HEAD or not words[0].startswith("HTTP/1.") or len(words) < 2 or not _is_status(words[1]):
            raise BadAnswer(_no_http(self._buffer))
        del self._buffer[: end + 4]
        status = int(words[1])
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadAnswer(f"the answer has a header line without a colon: {line[:80]!r}")
            headers[name.strip().lower()] = value.strip()
        if 100 <= status < 200 and status != 101:
            return self._head()  # an interim answer; the final one follows
        self._in_head = False
        self.response = Response(status, headers)
        self._body_follows(status, headers, words[0])
        return True

    def _body_follows(self, status: int, headers: dict[str, str], version: str) -> None:
        connection = headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)
        if status in (101, 204, 304):
            return
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdigit()):
                raise BadAnswer(f"the answer's Content-Length is {length[:80]!r}, no number")
            self._left = int(length)
            self._bounded(self._left)
        else:
            self._left, self.keep_alive = None, False

    def _chunk(self) -> bool:
        """Takes the next chunk, if it has come whole."""
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer("the answer has an endless line where the size of a chunk should be")
            return False
        text = bytes(self._buffer[:end]).split(b";")[0].strip()
        try:
            size = int(text, 16)
        except ValueError:
            size = -1
        if size < 0 or text[:1] in b"+-":
            raise BadAnswer(f"the answer has {text[:80]!r} where the size of a chunk should be")
        self._bounded(self._size + size)
        if size == 0:
            return self._trailer(end)
        if len(self._buffer) < end + 2 + size + 2:
            return False
        if not self._buffer.startswith(b"\r\n", end + 2 + size):
            raise BadAnswer("a chunk of the answer is longer than it says")
        self._body.append(bytes(self._buffer[end + 2 : end + 2 + size]))
        self._size += size
        del self._buffer[: end + 4 + size]
        return True

    def _trailer(self, end: int) -> bool:
        if self._buffer.startswith(b"\r\n\r\n", end):
            del self._buffer[: end + 4]
            self._finish()
            return False
        last = self._buffer.find(b"\r\n\r\n", end)
        if last < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer("the answer's trailer is too long")
            return False
        del self._buffer[: last + 4]
        self._finish()
        return False

    def _take(self, size: int) -> None:
        self._size += size
        self._bounded(self._size)
        self._body.append(bytes(self._buffer[:size]))
        del self._buffer[:size]

    def _bounded(self, size: int) -> None:
        if size > self._max_body:
            raise BadAnswer(f"the answer has more than {self._max_body} bytes: ask for fewer states at once")

    def _finish(self) -> None:
        self.done = True
        self.response.body = b"".join(self._body)
        self.rest = bytes(self._buffer)
        if self.rest and self.response.status != 101:
            self.keep_alive = False  # nothing was asked for that could be answered by this

    def _end(self) -> bool:
        if not self._in_head and self._left is None and not self.done:
            self._finish()
        if not self.done:
            raise EOFError("the connection was closed before the answer was complete")
        return True


def _is_status(word: str) -> bool:
    return len(word) == 3 and word.isascii() and word.isdigit()


def _no_http(data: bytearray) -> str:
    return f"what answers speaks no HTTP/1.1; it began with {bytes(data[:40])!r}: is it an agent?"
