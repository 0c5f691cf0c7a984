"""States and events as they come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from g2g_agent._follow import NOTHING, SILENCE_S, Follower, Inbox, Retry, SkippedPolicy
from g2g_agent._net import WebSocket
from g2g_agent.errors import ApiError, ConnectionFailed
from g2g_agent.models import Info

__all__ = ["Stream"]

T = TypeVar("T")
_log = logging.getLogger("g2g_agent")


class Stream(Iterator[T], Generic[T]):
    """What an agent sends by itself, as an iterator. Made by `Client.stream` and `Client.follow_events`.

    When the connection breaks it is opened again, and goes on where it was. `close`, in whatever thread, ends the
    iteration. One thread may iterate at a time.

    Attributes:
        reconnects: How often the connection has been opened again.
    """

    def __init__(
        self,
        follower: Follower[T],
        connect: Callable[[str], WebSocket],
        info: Callable[[], Info],
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
        self._socket: WebSocket | None = None
        self._closing = threading.Lock()
        self._closed = threading.Event()
        self._was_open = False

    @property
    def run_id(self) -> str | None:
        """The `run_id` of the run whose states come; None before the first, and for events."""
        return getattr(self._follower, "run_id", None)

    @property
    def skipped(self) -> int:
        """How many states or events are missing so far."""
        return self._inbox.skipped

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        while True:
            item = self._inbox.take()
            if item is not NOTHING:
                return item  # type: ignore[no-any-return]
            if self._closed.is_set() or not self._more():
                self.close()
                raise StopIteration

    def _more(self) -> bool:
        """Waits for the next message; False when the run is over, or the stream closed."""
        if self._follower.may_be_over() and self._over():
            return False
        try:
            socket = self._socket or self._open()
            text = socket.receive(SILENCE_S)
        except (ConnectionFailed, ApiError) as err:
            self._disconnect()
            if self._closed.is_set():
                return False
            if not self._reconnect:
                raise
            wait_s = self._retry.after(err, time.monotonic())
            _log.warning("stream broken, connecting again in %.1f s: %s", wait_s, err)
            return not self._closed.wait(wait_s)
        self._retry.connected()
        self._inbox.put(self._follower.take(text))
        return True

    def _over(self) -> bool:
        try:
            return self._info().phase == "ended"
        except (ConnectionFailed, ApiError):
            return False

    def _open(self) -> WebSocket:
        again = False
        while True:
            info = self._info()
            socket = self._connect(self._follower.path(info))
            with self._closing:
                if self._closed.is_set():
                    socket.close()
                    raise ConnectionFailed("the stream has been closed")
                self.reconnects += self._was_open and not again
                self._was_open, self._socket = True, socket
            again = True
            if not self._follower.checked or not self._follower.missed(self._info()):
                return socket
            self._disconnect()

    def _disconnect(self) -> None:
        with self._closing:
            socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def close(self) -> None:
        """Ends the iteration and closes the connection."""
        self._closed.set()
        self._disconnect()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
