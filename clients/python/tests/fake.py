"""A server on a real socket that answers as a test tells it to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from g2g_agent import _ws


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


INFO: dict[str, Any] = {
    "name": "fake",
    "version": "1",
    "source": "live",
    "started_at": "2026-11-23T12:00:00Z",
    "phase": "stepping",
    "pace": "real_time",
    "dt": "1/10",
    "dt_s": 0.1,
    "time_s": 0.3,
    "steps": 3,
    "duration_s": None,
    "total_steps": None,
    "run_id": "run-1",
    "seed": 1,
    "config_digest": "sha256:0",
    "at_end": None,
    "total_gpu_capacity": 8,
    "free_gpus": 0,
    "available_gpu_capacity": 0,
    "base_kw_per_phase": 500,
    "power_factor": 0.95,
    "gpus_per_server": 8,
    "history_states": 10,
    "control_needs_token": False,
}


def state(seq: int, **members: Any) -> dict[str, Any]:
    """A state of one model."""
    return {
        "seq": seq,
        "time_s": seq / 10,
        "wall_time": None,
        "source": "replay",
        "power_w": {"a": 1.5, "b": 2.5, "c": 3.5},
        "power_by_model_w": {"m": 4.5},
        "batch_size_by_model": {"m": 8},
        "active_replicas_by_model": {"m": 2},
        "observed_itl_s_by_model": {"m": None},
        "phase_share_by_model": {"m": [0.5, 0.25, 0.25]},
        **members,
    }


def answered(time_s: float = 0.3) -> dict[str, Any]:
    """An answer to a command of batch sizes."""
    return {
        "time_s": time_s,
        "from_seq": 3,
        "batch_size_by_model": {"m": 8},
        "achieved_batch_size_by_model": {"m": None},
        "lease_s_by_model": {"m": 1.0},
        "results": [{"model_label": "m", "outcome": "accepted"}],
    }


def response(status: int, body: Any = None, **headers: str) -> bytes:
    """The bytes of an answer."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def problem(status: int, code: str | None = None, detail: str = "wrong", **headers: str) -> bytes:
    """The bytes of a problem."""
    body = {"title": "Whatever", "status": status, "detail": detail, **({"code": code} if code else {})}
    return response(status, body, **headers)


class Connection:
    """One connection of a client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._decoded: list[tuple[int, bytes]] = []

    def request(self) -> Request | None:
        """The next request; None: the client is gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Request(method, path, headers, body)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError:
            return  # the client is gone, as a test may want

    def upgrade(self, request: Request) -> None:
        """Answers the handshake of a WebSocket."""
        accept = base64.b64encode(
            hashlib.sha1(
                request.headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            ).digest()
        )
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: g2g-agent.v1\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def text(self, message: Any) -> None:
        """Sends a text message."""
        self.send(server_frame(_ws.TEXT, json.dumps(message).encode()))

    def frame(self) -> tuple[int, bytes] | None:
        """The client's next frame; None: it is gone."""
        while True:
            parsed = client_frame(self._buffer)
            if parsed is not None:
                opcode, payload, size = parsed
                self._buffer = self._buffer[size:]
                return opcode, payload
            if not self._more():
                return None

    def message(self) -> Any:
        """The JSON of the client's next text message; None: it is gone or has said goodbye."""
        frame = self.frame()
        return None if frame is None or frame[0] != _ws.TEXT else json.loads(frame[1])

    def cut(self) -> None:
        """Closes the connection without a word."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def server_frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    first = (0x80 if final else 0) | opcode
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def client_frame(data: bytes) -> tuple[int, bytes, int] | None:
    """Opcode, unmasked payload and size of the first frame; None: it has not come whole."""
    if len(data) < 2:
        return None
    assert data[1] & 0x80, "a client masks its frames"
    size, head = data[1] & 0x7F, 2
    if size == 126:
        size, head = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, head = int.from_bytes(data[2:10], "big"), 10
    if len(data) < head + 4 + size:
        return None
    mask = data[head : head + 4]
    payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[head + 4 : head + 4 + size]))
    return data[0] & 0x0F, payload, head + 4 + size


Behaviour = Callable[[Connection, Request], object]


class Fake:
    """The server. Each request is answered by the behaviour of its path, by default 404.

    What is told by `then` for a path is used first, each once; `always` says what comes after.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.failure: BaseException | None = None
        self._always: dict[str, Behaviour] = {}
        self._then: dict[str, queue.SimpleQueue[Behaviour]] = {}
        self._threads: list[threading.Thread] = []
        self._open: list[Connection] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        self.always("/v1/info", response(200, INFO))

    def always(self, path: str, behaviour: Behaviour | bytes) -> None:
        self._always[path] = _behaviour(behaviour)

    def then(self, path: str, *behaviours: Behaviour | bytes) -> None:
        for behaviour in behaviours:
            self._then.setdefault(path, queue.SimpleQueue()).put(_behaviour(behaviour))

    def asked(self, path: str) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.path.split("?")[0] == path]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock)
            thread = threading.Thread(target=self._serve, args=(connection,))
            with self._lock:
                self.connections += 1
                self._open.append(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            while (request := connection.request()) is not None:
                with self._lock:
                    self.requests.append(request)
                path = request.path.split("?")[0]
                try:
                    behaviour = self._then.get(path, queue.SimpleQueue()).get_nowait()
                except queue.Empty:
                    behaviour = self._always.get(path, _behaviour(problem(404, "not-found")))
                behaviour(connection, request)
        except BaseException as err:  # shown by the fixture's end
            self.failure = err
        finally:
            connection.sock.close()

    def cut_all(self) -> None:
        """Cuts all connections that are open."""
        with self._lock:
            connections, self._open = self._open, []
        for connection in connections:
            connection.cut()

    def __enter__(self) -> Fake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        self.cut_all()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure


def _behaviour(behaviour: Behaviour | bytes) -> Behaviour:
    if isinstance(behaviour, bytes):
        data = behaviour
        return lambda connection, request: connection.send(data)
    return behaviour


def cut(connection: Connection, request: Request) -> None:
    """Closes the connection without an answer."""
    connection.cut()
