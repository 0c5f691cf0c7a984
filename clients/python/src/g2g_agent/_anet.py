"""Sockets of the asynchronous client: connections that are kept, and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from g2g_agent import _ws
from g2g_agent._core import Core, problem_of
from g2g_agent._http import Response, ResponseParser
from g2g_agent._net import KEPT, RECV, reason, tls_context
from g2g_agent.errors import AgentError, ConnectionFailed, TimedOut

T = TypeVar("T")
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def within(seconds: float, work: Coroutine[Any, Any, T], what: str) -> T:
    """What the work gives, if it is done in time.

    Raises:
        TimedOut: It was not.
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError as err:
        if isinstance(err, AgentError):
            raise
        raise TimedOut(f"{what} within {seconds:g} s") from err


class AsyncConnections:
    """Connections to one agent, kept for the next request; any number of tasks of one loop at once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tls = tls_context(core)
        self._idle: list[Pipe] = []
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def enter(self) -> None:
        """Called before all that goes over connections.

        Raises:
            RuntimeError: The client has been used in another event loop, which its connections belong to.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                f"{self._core.url}: this AsyncClient belongs to another event loop: make one in each, as with "
                "`async with AsyncClient(url) as client:`"
            )

    async def exchange(self, request: bytes, timeout_s: float) -> Response:
        """As `Connections.exchange`."""
        self.enter()
        return await within(timeout_s, self._exchange(request), f"{self._core.url}: no complete answer")

    async def _exchange(self, request: bytes) -> Response:
        while True:
            if self._closed:
                raise ConnectionFailed(f"{self._core.url}: this client has been closed")
            kept = self._idle.pop() if self._idle else None
            reader, writer = kept if kept is not None else await self._connect()
            parser = ResponseParser()
            done = False
            try:
                await _answer(reader, writer, request, parser)
                done = True
                return parser.response
            except (EOFError, OSError) as err:
                if isinstance(err, ConnectionFailed):
                    raise
                if kept is not None and not parser.started:
                    continue
                why = reason(err) if isinstance(err, OSError) else str(err)
                raise ConnectionFailed(f"{self._core.url}: {why}") from err
            finally:
                if done and parser.keep_alive and not self._closed and len(self._idle) < KEPT:
                    self._idle.append((reader, writer))
                else:
                    writer.close()

    async def _connect(self) -> Pipe:
        core = self._core
        name = core.host if self._tls is not None else None
        try:
            return await asyncio.open_connection(core.host, core.port, ssl=self._tls, server_hostname=name)
        except OSError as err:
            raise ConnectionFailed(f"{core.url}: {reason(err)}: does the agent run, and listen there?") from err

    async def websocket(self, path: str, timeout_s: float) -> AsyncWebSocket:
        """As `Connections.websocket`."""
        self.enter()
        return await within(timeout_s, self._websocket(path), f"{self._core.url}: no WebSocket")

    async def _websocket(self, path: str) -> AsyncWebSocket:
        reader, writer = await self._connect()
        key, request = self._core.handshake(path)
        parser = ResponseParser()
        opened = False
        try:
            await _answer(reader, writer, request, parser)
            if parser.response.status != 101:
                raise problem_of(parser.response)
            _ws.check_handshake(parser.response, key)
            opened = True
            return AsyncWebSocket(reader, writer, parser.rest)
        except AgentError:  # before OSError, which some of them are
            raise
        except (EOFError, OSError) as err:
            why = reason(err) if isinstance(err, OSError) else str(err)
            raise ConnectionFailed(f"{self._core.url}: {why}") from err
        finally:
            if not opened:
                writer.close()

    async def close(self) -> None:
        """Closes the connections that are idle; the others are closed when they have been answered."""
        self._closed = True
        idle, self._idle = self._idle, []
        for _, writer in idle:
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Closes a connection and waits for it."""
    writer.close()
    with contextlib.suppress(OSError):  # it may be gone already
        await writer.wait_closed()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, parser: ResponseParser
) -> None:
    writer.write(request)
    await writer.drain()
    while not parser.feed(await reader.read(RECV)):
        pass


class AsyncWebSocket:
    """An open WebSocket, as `WebSocket`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._closed = False
        self._decoder = _ws.Decoder()
        if rest:
            self._decoder.feed(rest)

    async def exchange(self, payload: bytes, timeout_s: float) -> bytes:
        """As `WebSocket.exchange`."""
        try:
            self._writer.write(_ws.frame(_ws.TEXT, payload))
            await self._writer.drain()
        except OSError as err:
            raise ConnectionFailed(f"the WebSocket broke: {reason(err)}") from err
        return await self.receive(timeout_s)

    async def receive(self, timeout_s: float) -> bytes:
        """As `WebSocket.receive`."""
        decoder = self._decoder
        while True:
            while (message := decoder.next()) is not None:
                opcode, payload = message
                if opcode <= _ws.BINARY:
                    return payload
                if opcode == _ws.PING:
                    self._writer.write(_ws.frame(_ws.PONG, payload))
                elif opcode == _ws.CLOSE:
                    raise ConnectionFailed(_ws.goodbye(payload))
            try:
                data = await within(timeout_s, self._reader.read(RECV), "nothing came over the WebSocket")
            except OSError as err:
                if isinstance(err, ConnectionFailed):
                    raise
                raise ConnectionFailed(f"the WebSocket broke: {reason(err)}") from err
            if not data:
                raise ConnectionFailed("the connection was closed without a goodbye")
            quick = decoder.quick(data)
            if quick is not None:
                return quick
            decoder.feed(data)

    async def close(self) -> None:
        """Says goodbye and closes; a task that reads is woken."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(_ws.close_frame())
        await closed(self._writer)
