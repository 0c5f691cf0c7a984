"""WebSocket frames (RFC 6455) without sockets."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import deque

from g2g_agent._http import Response
from g2g_agent.errors import BadAnswer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

MAX_MESSAGE = 1 << 30
"""Bytes of one message: that of 10,000 states of some hundred models."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SHORT, _MIDDLE = 126, 1 << 16


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message as a client sends it: one frame, masked by a fresh key."""
    size = len(payload)
    key = os.urandom(4)
    if size < _SHORT:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < _MIDDLE:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    # All bytes at once, as one large integer: a loop over them takes a hundred times as long.
    mask = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")
    return head + key + masked


def close_frame(code: int = 1000) -> bytes:
    """The frame that says goodbye."""
    return frame(CLOSE, code.to_bytes(2, "big"))


def new_key() -> str:
    """A `Sec-WebSocket-Key` for one handshake."""
    return base64.b64encode(os.urandom(16)).decode()


def check_handshake(response: Response, key: str) -> None:
    """Holds an answer with status 101 to the handshake.

    Raises:
        BadAnswer: It is not the answer to this handshake.
    """
    wanted = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
    headers = response.headers
    if headers.get("upgrade", "").lower() != "websocket" or headers.get("sec-websocket-accept") != wanted:
        raise BadAnswer("the WebSocket handshake was not answered as RFC 6455 says: is a proxy in between?")
    if headers.get("sec-websocket-extensions"):
        raise BadAnswer("the answer to the WebSocket handshake has extensions that were not asked for")


class Decoder:
    """Takes bytes from the server, gives whole messages and control frames."""

    def __init__(self, *, max_message: int = MAX_MESSAGE) -> None:
        self._max = max_message
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._size = 0
        self._opcode = 0  # of the message whose parts are coming; 0: none
        self._ready: deque[tuple[int, bytes]] = deque()

    def quick(self, data: bytes) -> bytes | None:
        """The payload, if the bytes are exactly one whole text message and nothing else is under way; else None.

        It is what nearly every answer in lockstep is, and takes a tenth of the time that `feed` does.
        """
        if self._buffer or self._parts or self._ready or len(data) < 2 or data[0] != 0x81:
            return None
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        elif size >= 127:
            return None
        return data[head:] if len(data) == head + size and size <= self._max else None

    def missing(self) -> int:
        """How many more bytes the frame that is under way needs, if that is known; else 0."""
        sizes = self._sizes()
        return max(0, sum(sizes) - len(self._buffer)) if sizes else 0

    def feed(self, data: bytes) -> None:
        """Takes more bytes.

        Raises:
            BadAnswer: The server broke the protocol, or the message is larger than is allowed.
        """
        self._buffer += data
        while (sizes := self._sizes()) is not None:
            head, size = sizes
            if len(self._buffer) < head + size:
                return
            first = self._buffer[0]
            payload = bytes(self._buffer[head : head + size])
            del self._buffer[: head + size]
            self._frame(bool(first & 0x80), first & 0x0F, payload)

    def next(self) -> tuple[int, bytes] | None:
        """The next message or control frame, as opcode and payload; None if more bytes are needed."""
        return self._ready.popleft() if self._ready else None

    def _sizes(self) -> tuple[int, int] | None:
        """The sizes of the first frame's head and payload; None if the head has not come whole."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        if first & 0x70 or second & 0x80:
            raise BadAnswer("a WebSocket frame has reserved bits, or is masked by the server")
        opcode, size, head = first & 0x0F, second, 2
        if size == 126:
            head = 4
        elif size == 127:
            head = 10
        if len(buffer) < head:
            return None
        if head > 2:
            size = int.from_bytes(buffer[2:head], "big")
        if opcode >= CLOSE:
            if size > 125 or not first & 0x80 or opcode > PONG:
                raise BadAnswer("a WebSocket control frame is malformed")
        elif opcode > BINARY or (opcode == 0) != (self._opcode != 0):
            raise BadAnswer("WebSocket frames do not follow each other as they must")
        elif self._size + size > self._max:
            raise BadAnswer(f"a WebSocket message has more than {self._max} bytes")
        return head, size

    def _frame(self, final: bool, opcode: int, payload: bytes) -> None:
        if opcode >= CLOSE:
            self._ready.append((opcode, payload))
            return
        if opcode:
            self._opcode = opcode
        self._parts.append(payload)
        self._size += len(payload)
        if final:
            self._ready.append((self._opcode, b"".join(self._parts)))
            self._parts, self._size, self._opcode = [], 0, 0


def goodbye(payload: bytes) -> str:
    """What a close frame says, in words."""
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
    return f"the agent closed the WebSocket (code {code}) {payload[2:].decode('utf-8', 'replace')}".rstrip()
