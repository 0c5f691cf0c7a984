"""Both clients behind one interface, so that each test runs with either."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from g2g_agent import AsyncClient


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the function in the loop, and waits for what it awaits."""

        async def call() -> Any:
            result = function(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Synchronous:
    """An object whose coroutines are called as functions, and whose `async with` and `async for` lack the async."""

    def __init__(self, loop: Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(self._loop.do(value, *args, **kwargs))

        return call

    def _wrapped(self, value: Any) -> Any:
        if hasattr(value, "__aenter__") or hasattr(value, "__anext__"):
            return Synchronous(self._loop, value)
        return value

    def __enter__(self) -> Any:
        self._loop.do(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.do(self._inner.__aexit__, kind, error, trace)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.do(self._inner.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None


def asynchronous(loop: Loop, *args: Any, **kwargs: Any) -> Any:
    """An `AsyncClient` that is used as a `Client` is."""
    return Synchronous(loop, loop.do(AsyncClient, *args, **kwargs))
