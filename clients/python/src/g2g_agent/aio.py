"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from g2g_agent import _core, _follow
from g2g_agent._anet import AsyncConnections, AsyncWebSocket
from g2g_agent._asteps import AsyncLockstep
from g2g_agent._astream import AsyncHold, AsyncStream, waited
from g2g_agent._follow import SkippedPolicy
from g2g_agent.errors import AgentError, ConnectionFailed
from g2g_agent.hold import renewal_limits
from g2g_agent.lockstep import States
from g2g_agent.models import (
    BatchSizeAnswer,
    Event,
    Health,
    Info,
    Model,
    NewRun,
    ReplicaShift,
    ReplicaShiftAnswer,
    Skipped,
)
from g2g_agent.state import State

__all__ = ["AsyncClient", "AsyncHold", "AsyncStream"]

T = TypeVar("T")


class AsyncClient:
    """Reads from an agent and commands it, in asyncio. What `Client` has, with `await`.

    Connections are kept, and any number of tasks of one event loop may use one client. Everything is asked again until
    it is answered, `attempts` times at most: commands have an `Idempotency-Key`, so that none is carried out twice.

    Args:
        url: Where the agent's API is, such as `http://127.0.0.1:8480`.
        token: The token, if the agent needs one.
        token_file: Or a file that has it, which is read again when the agent refuses what it said.
        ca_file: Certificates to trust, for `https://`; those of the system if it is not given.
        timeout_s: How long an answer may take, in seconds.
        attempts: How often a request is sent at most.

    Raises:
        ValueError: An argument is wrong; the message says which and what would be right.
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        url: str = _core.DEFAULT_URL,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout_s: float = 30.0,
        attempts: int = 5,
    ) -> None:
        self._begin(
            _core.Core(url, token=token, token_file=token_file, ca_file=ca_file, timeout_s=timeout_s, attempts=attempts)
        )

    def _begin(self, core: _core.Core) -> None:
        self._core = core
        self._connections = AsyncConnections(self._core)
        self._closed = asyncio.Event()
        self._streams: weakref.WeakSet[AsyncStream[Any]] = weakref.WeakSet()
        self._lockstep = AsyncLockstep(self._core, self._connections, self._ask, self._closed)

    @classmethod
    def from_env(cls, **options: Any) -> AsyncClient:
        """A client of the agent that the environment names.

        `G2G_AGENT_URL` is its address (`http://127.0.0.1:8480` if that is not set), `G2G_AGENT_TOKEN` or
        `G2G_AGENT_TOKEN_FILE` the token.

        Args:
            options: As for `AsyncClient`; they go before the environment.

        Raises:
            ValueError: As for `AsyncClient`.
        """
        return cls(**_core.from_env(options))

    @property
    def url(self) -> str:
        """Where the agent's API is."""
        return self._core.url

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections and ends the streams. Whoever waits before another attempt gets an error."""
        self._closed.set()
        for stream in list(self._streams):
            await stream.close()
        await self._lockstep.disconnect()
        await self._connections.close()

    async def _ask(self, call: _core.Call[T]) -> T:
        attempts = self._core.attempts(call)
        action = next(attempts)
        try:
            while True:
                if isinstance(action, _core.Wait):
                    if await waited(self._closed, action.seconds):
                        attempts.throw(ConnectionFailed(f"{self.url}: this client has been closed"))
                    action = attempts.send(None)
                    continue
                try:
                    outcome: Any = await self._connections.exchange(action.request, action.timeout_s)
                except ConnectionFailed as err:
                    outcome = err
                action = attempts.send(outcome)
        except StopIteration as done:
            value: T = done.value
            return value

    async def info(self) -> Info:
        """What the agent is and how far it has come."""
        return await self._ask(_core.get_info())

    async def models(self) -> dict[str, Model]:
        """The models by label, in config order."""
        return await self._ask(_core.get_models())

    async def state(self) -> State:
        """The latest state.

        Raises:
            Unavailable: There has been no step yet.
        """
        return await self._ask(_core.get_state())

    async def next_state(self, after: int, *, wait_s: float = 30.0) -> State | None:
        """The latest state, as soon as its `seq` is above `after`, or the run is another one.

        Args:
            after: The `seq` of the state that is known.
            wait_s: How long to wait for it, in seconds, 60 at most.

        Returns:
            The state; None if none came.
        """
        return await self._ask(_core.await_state(after, wait_s))

    async def history(self, n: int | None = None) -> list[State]:
        """The latest `n` states that the agent keeps, oldest first; 100 if `n` is not given."""
        return await self._ask(_core.get_history(n))

    async def events(
        self, *, n: int | None = None, after: int | None = None, wait_s: float | None = None
    ) -> list[Event]:
        """The latest events, oldest first.

        Args:
            n: How many at most; 100 if it is not given.
            after: Only those with a higher `id`.
            wait_s: With `after`: how long to wait until there is one, in seconds, 60 at most.
        """
        return await self._ask(_core.get_events(n, after, wait_s))

    async def ready(self) -> Health:
        """Whether what is read can be relied on, and if not, why."""
        return await self._ask(_core.get_ready())

    async def wait_ready(self, timeout_s: float = 120.0) -> Info:
        """Waits until what is read can be relied on. A replay in lockstep is ready at once.

        Args:
            timeout_s: For how long, in seconds.

        Raises:
            TimedOut: It was not ready by then; the message says why.
        """
        wait = _core.WaitReady(self.url, timeout_s, time.monotonic())
        while True:
            try:
                health: Health | ConnectionFailed = await self.ready()
            except ConnectionFailed as err:
                health = err
            seconds = wait.after(health, time.monotonic())
            if seconds is None:
                return await self.info()
            if await waited(self._closed, seconds):
                raise ConnectionFailed(f"{self.url}: this client has been closed")

    async def set_batch_size(
        self,
        batch_size_by_model: Mapping[str, int],
        *,
        ramp_up_rate_by_model: Mapping[str, float] | None = None,
        lease_s: float | None = None,
    ) -> BatchSizeAnswer:
        """Sets batch sizes, from the next step on.

        Args:
            batch_size_by_model: In requests; models left out stay as they are.
            ramp_up_rate_by_model: How fast a server grows into a larger batch, in requests per second.
            lease_s: For how many seconds of the run it holds unless it is commanded anew.

        Raises:
            InfeasibleBatchSize: A model cannot run this.
            InvalidRequest: Something else is wrong with a value.
            PartlyDone: Some servers did not do it; `results` says which.
        """
        return await self._ask(_core.post_batch_sizes(batch_size_by_model, ramp_up_rate_by_model, lease_s))

    async def shift_replicas(
        self, model_label: str, replica_delta: int, *, lease_s: float | None = None
    ) -> ReplicaShiftAnswer:
        """Adds replicas to a model, or takes some away (below 0), on top of its schedule and of earlier shifts.

        Args:
            model_label: The model.
            replica_delta: How many.
            lease_s: For how many seconds of the run the model's leased shifts hold unless they are renewed.

        Raises:
            UnknownModel: There is no such model.
            NoCapacity: The GPUs would not suffice.
        """
        return await self._ask(_core.post_replica_shift(model_label, replica_delta, lease_s))

    async def restore(self) -> BatchSizeAnswer:
        """Back to initial batch sizes and no shifts; leases end.

        Raises:
            PartlyDone: Some servers did not do it; `results` says which.
        """
        return await self._ask(_core.post_restore())

    def hold(
        self,
        batch_size_by_model: Mapping[str, int],
        *,
        lease_s: float,
        restore: bool = False,
        on_failure: Callable[[AgentError], object] | None = None,
    ) -> AsyncHold:
        """Sets batch sizes under a lease that is renewed three times as often as it would run out.

        Use it with `async with`, which sends the first command. When this program dies, or the agent cannot be reached,
        the lease runs out and the models return to their failsafe batch sizes. Not for lockstep, where leases count the
        replay's seconds.

        Args:
            batch_size_by_model: In requests.
            lease_s: The lease, in seconds.
            restore: At the end, command what ran before, in place of letting the lease run out.
            on_failure: Called with the error of each renewal that fails.

        Raises:
            ApiError: As for `set_batch_size`.
            ValueError: The lease is not above 0, or the agent is in lockstep.
        """
        renewing = AsyncClient.__new__(AsyncClient)
        renewing._begin(self._core.limited(*renewal_limits(self._core.timeout_s, lease_s)))
        return AsyncHold(self, renewing, batch_size_by_model, lease_s=lease_s, restore=restore, on_failure=on_failure)

    async def step(
        self,
        n: int = 1,
        *,
        batch_size_by_model: Mapping[str, int] | None = None,
        ramp_up_rate_by_model: Mapping[str, float] | None = None,
        lease_s: float | None = None,
        replica_shifts: Iterable[ReplicaShift] = (),
        fields: Sequence[str] | None = None,
    ) -> States:
        """Computes the next steps of a replay in lockstep.

        Commands are checked whole, and carried out before the first step.

        Args:
            n: How many steps, 1 to 10,000; 0 if there is a command.
            batch_size_by_model: Batch sizes to set before, in requests.
            ramp_up_rate_by_model: As for `set_batch_size`.
            lease_s: As for `set_batch_size`.
            replica_shifts: Shifts to carry out then.
            fields: The members of states that are wanted, beside `seq` and `time_s`; all if it is not given.

        Returns:
            The states: fewer than `n` at the replay's end, at last none.

        Raises:
            NotLockstep: The run steps by itself.
        """
        return await self._lockstep.step(
            n, None, fields, batch_size_by_model, ramp_up_rate_by_model, lease_s, replica_shifts
        )

    async def step_until(
        self,
        t_s: float,
        *,
        batch_size_by_model: Mapping[str, int] | None = None,
        ramp_up_rate_by_model: Mapping[str, float] | None = None,
        lease_s: float | None = None,
        replica_shifts: Iterable[ReplicaShift] = (),
        fields: Sequence[str] | None = None,
    ) -> States:
        """Computes all steps whose `time_s` is `t_s` or earlier; the rest is as for `step`."""
        return await self._lockstep.step(
            None, t_s, fields, batch_size_by_model, ramp_up_rate_by_model, lease_s, replica_shifts
        )

    @overload
    def stream(
        self, *, after: int | None = None, skipped: Literal["raise", "warn"] = "raise", reconnect: bool | float = True
    ) -> AsyncStream[State]: ...
    @overload
    def stream(
        self, *, after: int | None = None, skipped: Literal["yield"], reconnect: bool | float = True
    ) -> AsyncStream[State | Skipped | NewRun]: ...
    def stream(
        self, *, after: int | None = None, skipped: SkippedPolicy = "raise", reconnect: bool | float = True
    ) -> AsyncStream[Any]:
        """The states as they come, each once and in order: the latest first, then each new one.

        After a break it goes on where it was, out of what the agent keeps. It ends after the last step of a run in real
        time.

        Args:
            after: Begin after the state of this `seq`, out of what the agent keeps.
            skipped: What to do where states are missing, since this reader was too slow or the connection was away for
                too long: `raise` StatesSkipped (iterating on goes on behind the gap), `warn`, or `yield` a `Skipped`,
                and a `NewRun` where another run begins.
            reconnect: Whether to connect again after a break, for ever; or for how many seconds.

        Raises:
            ConnectionFailed: While iterating: there was no connection any more.
        """
        return self._stream(_follow.States(after), skipped, reconnect)

    @overload
    def follow_events(
        self, *, after: int | None = None, skipped: Literal["raise", "warn"] = "raise", reconnect: bool | float = True
    ) -> AsyncStream[Event]: ...
    @overload
    def follow_events(
        self, *, after: int | None = None, skipped: Literal["yield"], reconnect: bool | float = True
    ) -> AsyncStream[Event | Skipped]: ...
    def follow_events(
        self, *, after: int | None = None, skipped: SkippedPolicy = "raise", reconnect: bool | float = True
    ) -> AsyncStream[Any]:
        """The events as they come: those that the agent keeps, then each new one.

        Args:
            after: Only those with a higher `id`.
            skipped: As for `stream`.
            reconnect: As for `stream`.
        """
        return self._stream(_follow.Events(after), skipped, reconnect)

    def _stream(
        self, follower: _follow.Follower[Any], skipped: SkippedPolicy, reconnect: bool | float
    ) -> AsyncStream[Any]:
        stream: AsyncStream[Any] = AsyncStream(follower, self._websocket, self.info, skipped, reconnect)
        self._streams.add(stream)
        if self._closed.is_set():
            raise ConnectionFailed(f"{self.url}: this client has been closed")
        return stream

    async def _websocket(self, path: str) -> AsyncWebSocket:
        return await self._connections.websocket(path, self._core.timeout_s)

    async def reset(
        self,
        *,
        seed: int | None = None,
        replicas: Mapping[str, Any] | None = None,
        initial_batch_sizes: Mapping[str, int] | None = None,
        training: Iterable[Mapping[str, Any]] | None = None,
        duration_s: float | None = None,
    ) -> Info:
        """Begins a replay in lockstep anew. What is not given is as in the config.

        Args:
            seed: What random numbers come from.
            replicas: By model label, as `replicas` in the config.
            initial_batch_sizes: By model label, in requests.
            training: Training runs, as in the config; empty: none.
            duration_s: How long the run is, in seconds.

        Returns:
            What the agent is now, with another `run_id`.

        Raises:
            NotLockstep: The run steps by itself.
            WritingOutput: The replay writes a file.
            InvalidRequest: A value is wrong; nothing has changed.
        """
        return await self._lockstep.reset(
            _core.reset_body(
                seed=seed,
                replicas=replicas,
                initial_batch_sizes=initial_batch_sizes,
                training=training,
                duration_s=duration_s,
            )
        )
