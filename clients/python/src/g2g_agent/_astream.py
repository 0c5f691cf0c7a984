"""Streams and leases of the asynchronous client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from g2g_agent._anet import AsyncWebSocket
from g2g_agent._follow import NOTHING, SILENCE_S, Follower, Inbox, Retry, SkippedPolicy
from g2g_agent.errors import AgentError, ApiError, ConnectionFailed
from g2g_agent.hold import Lease
from g2g_agent.models import BatchSizeAnswer, Info, Model

T = TypeVar("T")
_log = logging.getLogger("g2g_agent")


async def waited(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, for so long at most; whether it has come."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


class AsyncStream(AsyncIterator[T], Generic[T]):
    """What an agent sends by itself, for `async for`. Made by `AsyncClient.stream` and `AsyncClient.follow_events`.

    When the connection breaks it is opened again, and goes on where it was. `close` ends the iteration.

    Attributes:
        reconnects: How often the connection has been opened again.
    """

    def __init__(
        self,
        follower: Follower[T],
        connect: Callable[[str], Awaitable[AsyncWebSocket]],
        info: Callable[[], Awaitable[Info]],
        skipped: SkippedPolicy,
        reconnect: bool | float,
    ) -> None:
        self.reconnects: int = 0
        self._follower = follower
        self._connect = connect
        self._info = info
        self._reconnect = reconnect
        self._retry = Retry(reconnect)
        self._inbox: Inbox[T] = Inbox(skipped)
        self._socket: AsyncWebSocket | None = None
        self._closed = asyncio.Event()
        self._was_open = False

    @property
    def run_id(self) -> str | None:
        """The `run_id` of the run whose states come; None before the first, and for events."""
        return getattr(self._follower, "run_id", None)

    @property
    def skipped(self) -> int:
        """How many states or events are missing so far."""
        return self._inbox.skipped

    def __aiter__(self) -> AsyncStream[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            item = self._inbox.take()
            if item is not NOTHING:
                return item  # type: ignore[no-any-return]
            if self._closed.is_set() or not await self._more():
                await self.close()
                raise StopAsyncIteration

    async def _more(self) -> bool:
        if self._follower.may_be_over() and await self._over():
            return False
        try:
            socket = self._socket or await self._open()
            text = await socket.receive(SILENCE_S)
        except (ConnectionFailed, ApiError) as err:
            await self._disconnect()
            if self._closed.is_set():
                return False
            if not self._reconnect:
                raise
            wait_s = self._retry.after(err, time.monotonic())
            _log.warning("stream broken, connecting again in %.1f s: %s", wait_s, err)
            return not await waited(self._closed, wait_s)
        self._retry.connected()
        self._inbox.put(self._follower.take(text))
        return True

    async def _over(self) -> bool:
        try:
            return (await self._info()).phase == "ended"
        except (ConnectionFailed, ApiError):
            return False

    async def _open(self) -> AsyncWebSocket:
        again = False
        while True:
            info = await self._info()
            socket = await self._connect(self._follower.path(info))
            if self._closed.is_set():
                await socket.close()
                raise ConnectionFailed("the stream has been closed")
            self.reconnects += self._was_open and not again
            self._was_open, self._socket = True, socket
            again = True
            if not self._follower.checked or not self._follower.missed(await self._info()):
                return socket
            await self._disconnect()

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def close(self) -> None:
        """Ends the iteration and closes the connection."""
        self._closed.set()
        await self._disconnect()

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Commands(Protocol):
    """What a hold needs of a client."""

    async def set_batch_size(
        self, batch_size_by_model: Mapping[str, int], *, lease_s: float | None = None
    ) -> BatchSizeAnswer:
        """As `AsyncClient.set_batch_size`."""
        ...

    async def info(self) -> Info:
        """As `AsyncClient.info`."""
        ...

    async def models(self) -> dict[str, Model]:
        """As `AsyncClient.models`."""
        ...

    async def close(self) -> None:
        """As `AsyncClient.close`."""
        ...


class AsyncHold(Lease):
    """Batch sizes under a lease that a task renews. Made by `AsyncClient.hold`; it begins at `async with`.

    When this program dies, the lease runs out, and the models return to their failsafe batch sizes. A renewal that
    fails is tried again, through restarts of the agent too, until the hold is closed.
    """

    def __init__(
        self,
        client: Commands,
        renewing: Commands,
        batch_size_by_model: Mapping[str, int],
        *,
        lease_s: float,
        restore: bool,
        on_failure: Callable[[AgentError], object] | None,
    ) -> None:
        super().__init__(batch_size_by_model, lease_s)
        self._client = client
        self._renewing = renewing
        self._restore = restore
        self._on_failure = on_failure
        self._commanding = asyncio.Lock()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def set(self, batch_size_by_model: Mapping[str, int]) -> BatchSizeAnswer:
        """Holds these from now on; models left out are held as they are.

        Raises:
            ApiError: As for `AsyncClient.set_batch_size`; what is held stays as it was.
        """
        async with self._commanding:
            sizes = {**self._sizes, **batch_size_by_model}
            sent_s = time.monotonic()
            answer = await self._client.set_batch_size(sizes, lease_s=self._lease_s)
            self._took(sizes, sent_s, answer)
            return answer

    async def _renew(self) -> None:
        wait_s = self._interval_s
        while not await waited(self._closed, wait_s):
            async with self._commanding:
                sent_s = time.monotonic()
                try:
                    answer = await self._renewing.set_batch_size(self._sizes, lease_s=self._lease_s)
                    self._took(self._sizes, sent_s, answer)
                    wait_s = self._interval_s
                    continue
                except AgentError as err:
                    if self._closed.is_set():
                        return
                    wait_s, failure = self._failed(err), err
            if self._on_failure is not None:
                try:
                    self._on_failure(failure)
                except Exception:  # the lease must be renewed, whatever the caller's function does
                    _log.exception("on_failure failed")

    async def close(self) -> None:
        """Stops renewing: the lease runs out, or, with `restore`, what ran before is commanded without one.

        Raises:
            AgentError: With `restore`: that failed. The lease runs out all the same.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        await self._renewing.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if before := self._to_restore():
            self._answered(await self._client.set_batch_size(before))

    async def __aenter__(self) -> AsyncHold:
        self._begins(await self._client.info(), await self._client.models() if self._restore else None)
        sent_s = time.monotonic()
        self._took(self._sizes, sent_s, await self._client.set_batch_size(self._sizes, lease_s=self._lease_s))
        self._task = asyncio.create_task(self._renew(), name="g2g-agent-hold")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
