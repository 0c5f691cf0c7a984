"""Steps of the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from g2g_agent import _core, lockstep
from g2g_agent._anet import AsyncConnections, AsyncWebSocket
from g2g_agent._astream import waited
from g2g_agent.errors import ApiError, ConnectionFailed
from g2g_agent.lockstep import States
from g2g_agent.models import Info, ReplicaShift

T = TypeVar("T")


class Ask(Protocol):
    """Asks until it is answered."""

    async def __call__(self, call: _core.Call[T]) -> T:
        """What the answer means."""
        ...


class AsyncLockstep:
    """As `Lockstep`."""

    def __init__(self, core: _core.Core, connections: AsyncConnections, ask: Ask, closed: asyncio.Event) -> None:
        self._core = core
        self._connections = connections
        self._ask = ask
        self._closed = closed
        self._lock = asyncio.Lock()
        self._bodies = lockstep.StepBodies()
        self._place = lockstep.Place()
        self._socket: AsyncWebSocket | None = None
        self._by_post = False

    async def step(
        self,
        n: int | None,
        until_s: float | None,
        fields: Sequence[str] | None,
        batch_size_by_model: Mapping[str, int] | None,
        ramp_up_rate_by_model: Mapping[str, float] | None,
        lease_s: float | None,
        replica_shifts: Iterable[ReplicaShift],
    ) -> States:
        """As `AsyncClient.step` and `Client.step_until`."""
        self._connections.enter()
        async with self._lock:
            if self._socket is None and not self._by_post:
                await self._open()
            asked = self._bodies.steps(
                n,
                until_s,
                (n is None or n > 1) and not self._by_post,
                fields,
                batch_size_by_model,
                ramp_up_rate_by_model,
                lease_s,
                replica_shifts,
            )
            if self._socket is None:
                return await self._ask(lockstep.post_steps(asked))
            try:
                states = lockstep.states_of(await self._socket.exchange(asked.body, self._core.timeout_s))
            except ConnectionFailed as err:
                states = await self._recover(asked, err)
            except ApiError:
                raise
            except BaseException:  # cancelled: the answer would be taken for the next one's
                await self.disconnect()
                raise
            self._place.after(states)
            return states

    async def _open(self) -> None:
        self._place.at(await self._ask(_core.get_info()))
        try:
            self._socket = await self._connections.websocket(lockstep.PATH, self._core.timeout_s)
        except ApiError as err:
            if err.status not in lockstep.NO_WEBSOCKET:
                raise
            self._by_post = True

    async def _recover(self, asked: lockstep.Steps, broken: ConnectionFailed) -> States:
        await self.disconnect()
        for _ in range(self._core.max_attempts):
            recovery = self._place.recover(asked, broken)
            try:
                action = next(recovery)
                while True:
                    if isinstance(action, lockstep.Pause):
                        await waited(self._closed, action.seconds)
                        action = recovery.send(None)
                    else:
                        info: Info = await self._ask(_core.get_info())
                        action = recovery.send(info)
            except StopIteration as done:
                how = done.value
            if isinstance(how, lockstep.Fetch):
                return lockstep.States([state.raw for state in await self._ask(_core.get_history(how.n))])
            try:
                self._socket = await self._connections.websocket(lockstep.PATH, self._core.timeout_s)
                return lockstep.states_of(await self._socket.exchange(asked.body, self._core.timeout_s))
            except ConnectionFailed as err:
                broken = err
                await self.disconnect()
        raise broken

    async def reset(self, body: bytes) -> Info:
        """As `AsyncClient.reset`."""
        async with self._lock:
            info = await self._ask(_core.post_reset(body))
            self._place.at(info)
            return info

    async def disconnect(self) -> None:
        """Closes the WebSocket."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
