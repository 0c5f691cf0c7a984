"""Sockets of the synchronous client: connections that are kept, and WebSockets."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time

from g2g_agent import _ws
from g2g_agent._core import Core, problem_of
from g2g_agent._http import Response, ResponseParser
from g2g_agent.errors import AgentError, ConnectionFailed, TimedOut

RECV = 1 << 16
KEPT = 8
"""Idle connections kept: more threads than that at once open new ones."""


def tls_context(core: Core) -> ssl.SSLContext | None:
    """What is needed to speak TLS to the agent; None: it is spoken to without.

    Raises:
        ValueError: The file of certificates has none.
        OSError: It cannot be read.
    """
    if not core.tls:
        return None
    try:
        return ssl.create_default_context(cafile=core.ca_file)
    except ssl.SSLError:
        raise ValueError(f"ca_file: {core.ca_file} has no certificates in PEM") from None
    except OSError as err:
        err.filename = core.ca_file  # Python does not say which
        raise


def connect(core: Core, tls: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    """A new connection.

    Raises:
        ConnectionFailed: There is none to be had.
    """
    try:
        sock = socket.create_connection((core.host, core.port), timeout_s)
    except TimeoutError as err:
        raise TimedOut(f"{core.url}: no connection within {timeout_s:g} s") from err
    except OSError as err:
        raise ConnectionFailed(f"{core.url}: {reason(err)}: does the agent run, and listen there?") from err
    try:
        # A request is one small packet: it must not wait for the acknowledgement of the one before.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            return tls.wrap_socket(sock, server_hostname=core.host)
    except TimeoutError as err:
        sock.close()
        raise TimedOut(f"{core.url}: no TLS within {timeout_s:g} s") from err
    except OSError as err:
        sock.close()
        raise ConnectionFailed(f"{core.url}: {reason(err)}") from err
    return sock


def reason(err: OSError) -> str:
    """What an error of the system says, without its number."""
    if isinstance(err, ssl.SSLCertVerificationError):
        return f"{err.strerror}: ca_file names those to trust in place of the system's"
    return err.strerror or str(err) or type(err).__name__


class Connections:
    """Connections to one agent, kept for the next request; any number of threads at once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tls = tls_context(core)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()
        self._closed = False

    def exchange(self, request: bytes, timeout_s: float) -> Response:
        """Sends a request and gives its answer.

        The request may be sent twice: on a kept connection that the agent closed meanwhile, and then on a new one.

        Raises:
            ConnectionFailed: No answer came, or none that is HTTP.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            kept = self._take()
            sock = kept if kept is not None else connect(self._core, self._tls, timeout_s)
            parser = ResponseParser()
            done = False
            try:
                self._answer(sock, request, parser, deadline)
                done = True
                return parser.response
            except TimeoutError as err:
                raise TimedOut(f"{self._core.url}: no complete answer within {timeout_s:g} s") from err
            except (EOFError, OSError) as err:
                if isinstance(err, ConnectionFailed):
                    raise
                if kept is not None and not parser.started:
                    continue
                why = reason(err) if isinstance(err, OSError) else str(err)
                raise ConnectionFailed(f"{self._core.url}: {why}") from err
            finally:
                if done and parser.keep_alive:
                    self._give(sock)
                else:
                    sock.close()

    def _answer(self, sock: socket.socket, request: bytes, parser: ResponseParser, deadline: float) -> None:
        _until(sock, deadline)
        sock.sendall(request)
        while True:
            _until(sock, deadline)
            if parser.feed(sock.recv(RECV)):
                return

    def _take(self) -> socket.socket | None:
        if self._pid != os.getpid():
            self._leave_to_parent()
        with self._lock:
            if self._closed:
                raise ConnectionFailed(f"{self._core.url}: this client has been closed")
            return self._idle.pop() if self._idle else None

    def _leave_to_parent(self) -> None:
        """After a fork: the connections are the parent's, and another thread of it may have held the lock."""
        self._pid, self._lock = os.getpid(), threading.Lock()
        idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()  # here alone

    def _give(self, sock: socket.socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append(sock)
                return
        sock.close()

    def websocket(self, path: str, timeout_s: float) -> WebSocket:
        """Opens a WebSocket.

        Raises:
            ApiError: The agent would not.
            ConnectionFailed: It could not be reached.
        """
        deadline = time.monotonic() + timeout_s
        sock = connect(self._core, self._tls, timeout_s)
        key, request = self._core.handshake(path)
        parser = ResponseParser()
        try:
            self._answer(sock, request, parser, deadline)
            if parser.response.status != 101:
                raise problem_of(parser.response)
            _ws.check_handshake(parser.response, key)
            return WebSocket(sock, parser.rest)
        except AgentError:  # before OSError, which some of them are
            sock.close()
            raise
        except TimeoutError as err:
            sock.close()
            raise TimedOut(f"{self._core.url}: no WebSocket within {timeout_s:g} s") from err
        except (EOFError, OSError) as err:
            sock.close()
            why = reason(err) if isinstance(err, OSError) else str(err)
            raise ConnectionFailed(f"{self._core.url}: {why}") from err

    def close(self) -> None:
        """Closes the connections that are idle; the others are closed when they have been answered."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for sock in idle:
            sock.close()


def _until(sock: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    sock.settimeout(left_s)


class WebSocket:
    """An open WebSocket: messages out and in. One thread may read while others send."""

    def __init__(self, sock: socket.socket, rest: bytes = b"") -> None:
        self._sock = sock
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self.decoder = _ws.Decoder()
        self._closed = False
        self._timeout_s = 0.0
        if rest:
            self.decoder.feed(rest)

    def send(self, payload: bytes, opcode: int = _ws.TEXT) -> None:
        """Sends one message."""
        data = _ws.frame(opcode, payload)
        with self._sending:
            self._sock.sendall(data)

    def receive(self, timeout_s: float) -> bytes:
        """The next text or binary message. Pings are answered on the way.

        Args:
            timeout_s: How long the connection may be silent, in seconds: any frame ends the silence.

        Raises:
            ConnectionFailed: The connection is gone, or the agent said goodbye.
        """
        try:
            if timeout_s != self._timeout_s:
                self._block(timeout_s)
            return self._message()
        except (TimeoutError, BlockingIOError) as err:
            raise TimedOut(f"nothing came over the WebSocket for {timeout_s:g} s") from err
        except OSError as err:
            if isinstance(err, ConnectionFailed):
                raise
            raise ConnectionFailed(f"the WebSocket broke: {reason(err)}") from err

    def _message(self) -> bytes:
        decoder = self.decoder
        while True:
            while (message := decoder.next()) is not None:
                opcode, payload = message
                if opcode <= _ws.BINARY:
                    return payload
                self._control(opcode, payload)
            data = self._sock.recv(max(RECV, min(decoder.missing(), 1 << 24)))
            if not data:
                raise ConnectionFailed("the connection was closed without a goodbye")
            quick = decoder.quick(data)
            if quick is not None:
                return quick
            decoder.feed(data)

    def exchange(self, payload: bytes, timeout_s: float) -> bytes:
        """Sends a message and gives the next one that comes.

        Raises:
            ConnectionFailed: The connection is gone; it is not known whether the message arrived.
        """
        try:
            if timeout_s != self._timeout_s:
                self._block(timeout_s)
            self._sock.sendall(_ws.frame(_ws.TEXT, payload))
            data = self._sock.recv(RECV)
            quick = self.decoder.quick(data)
            if quick is not None:
                return quick
            if not data:
                raise ConnectionFailed("the connection was closed without a goodbye")
            self.decoder.feed(data)
            return self._message()
        except (TimeoutError, BlockingIOError) as err:
            raise TimedOut(f"nothing came over the WebSocket for {timeout_s:g} s") from err
        except OSError as err:
            if isinstance(err, ConnectionFailed):
                raise
            raise ConnectionFailed(f"the WebSocket broke: {reason(err)}") from err

    def _block(self, timeout_s: float) -> None:
        """The system's own timeouts, where they will do: Python's cost a call of the system more each time."""
        self._timeout_s = timeout_s
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.settimeout(timeout_s)
            return
        whole, part = divmod(timeout_s, 1)
        timeval = struct.pack("ll", int(whole), int(part * 1e6) or (0 if whole else 1))
        self._sock.settimeout(None)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == _ws.PING:
            self.send(payload, _ws.PONG)
        elif opcode == _ws.CLOSE:
            raise ConnectionFailed(_ws.goodbye(payload))

    def close(self) -> None:
        """Says goodbye and closes; whoever reads in another thread is woken. After a fork, closes here alone."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            try:
                self._sock.settimeout(1.0)
                self._sock.sendall(_ws.close_frame())
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already
        self._sock.close()
