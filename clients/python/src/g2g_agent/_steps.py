"""Steps of the synchronous client."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from g2g_agent import _core, lockstep
from g2g_agent._net import Connections, WebSocket
from g2g_agent.errors import ApiError, ConnectionFailed
from g2g_agent.lockstep import States
from g2g_agent.models import Info, ReplicaShift

T = TypeVar("T")


class Ask(Protocol):
    """Asks until it is answered."""

    def __call__(self, call: _core.Call[T]) -> T:
        """What the answer means."""
        ...


class Lockstep:
    """Steps over one WebSocket, or by POST where the agent, or what is in between, has none."""

    def __init__(self, core: _core.Core, connections: Connections, ask: Ask, closed: threading.Event) -> None:
        self._core = core
        self._connections = connections
        self._ask = ask
        self._closed = closed
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._bodies = lockstep.StepBodies()
        self._place = lockstep.Place()
        self._socket: WebSocket | None = None
        self._by_post = False

    def step(
        self,
        n: int | None,
        until_s: float | None,
        fields: Sequence[str] | None,
        batch_size_by_model: Mapping[str, int] | None,
        ramp_up_rate_by_model: Mapping[str, float] | None,
        lease_s: float | None,
        replica_shifts: Iterable[ReplicaShift],
    ) -> States:
        """As `Client.step` and `Client.step_until`."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        with self._lock:
            socket = self._socket
            if socket is None and not self._by_post:
                socket = self._open()
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
            if socket is None:
                return self._ask(lockstep.post_steps(asked))
            try:
                states = lockstep.states_of(socket.exchange(asked.body, self._core.timeout_s))
            except ConnectionFailed as err:
                states = self._recover(asked, err)
            except ApiError:
                raise
            except BaseException:  # Ctrl-C: the answer would be taken for the next one's
                self.disconnect()
                raise
            self._place.after(states)
            return states

    def _leave_to_parent(self) -> None:
        """After a fork: the WebSocket is the parent's, and another thread of it may have held the lock."""
        self._pid, self._lock = os.getpid(), threading.Lock()
        self.disconnect()

    def _open(self) -> WebSocket | None:
        self._place.at(self._ask(_core.get_info()))
        try:
            self._socket = self._connections.websocket(lockstep.PATH, self._core.timeout_s)
        except ApiError as err:
            if err.status not in lockstep.NO_WEBSOCKET:
                raise
            self._by_post = True
        return self._socket

    def _recover(self, asked: lockstep.Steps, broken: ConnectionFailed) -> States:
        self.disconnect()
        for _ in range(self._core.max_attempts):
            recovery = self._place.recover(asked, broken)
            try:
                action = next(recovery)
                while True:
                    if isinstance(action, lockstep.Pause):
                        self._closed.wait(action.seconds)
                        action = recovery.send(None)
                    else:
                        action = recovery.send(self._ask(_core.get_info()))
            except StopIteration as done:
                how = done.value
            if isinstance(how, lockstep.Fetch):
                return lockstep.States([state.raw for state in self._ask(_core.get_history(how.n))])
            try:
                self._socket = socket = self._connections.websocket(lockstep.PATH, self._core.timeout_s)
                return lockstep.states_of(socket.exchange(asked.body, self._core.timeout_s))
            except ConnectionFailed as err:
                broken = err
                self.disconnect()
        raise broken

    def reset(self, body: bytes) -> Info:
        """As `Client.reset`."""
        with self._lock:
            info = self._ask(_core.post_reset(body))
            self._place.at(info)
            return info

    def disconnect(self) -> None:
        """Closes the WebSocket."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def close(self) -> None:
        """Closes the WebSocket; a step that is under way in another thread fails."""
        self.disconnect()
