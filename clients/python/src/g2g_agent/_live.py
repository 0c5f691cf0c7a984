"""An agent that runs by itself, on real hardware or its demo, as a datacenter of OpenG2G's live coordinator."""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from openg2g.clock import SimulationClock
from openg2g.common import ThreePhase
from openg2g.datacenter.base import LLMBatchSizeControlledDatacenter
from openg2g.datacenter.command import DatacenterCommand, SetBatchSize, ShiftReplicas
from openg2g.datacenter.config import InferenceModelSpec
from openg2g.datacenter.offline import OfflineDatacenter, OfflineDatacenterState
from openg2g.events import EventEmitter

from g2g_agent._feed import Counts, Feed
from g2g_agent._rarely import Run
from g2g_agent._replay import model_spec
from g2g_agent.client import Client
from g2g_agent.errors import AgentError, ConnectionFailed, NotPossible, PartlyDone, RateLimited, TimedOut, Unavailable
from g2g_agent.models import Model
from g2g_agent.state import State

if TYPE_CHECKING:
    from openg2g.datacenter.base import LLMDatacenterState

    @dataclass(frozen=True)
    class _OnlineState(LLMDatacenterState):
        measured_power_w: ThreePhase = field(default_factory=lambda: ThreePhase(a=0.0, b=0.0, c=0.0))
        measured_power_w_by_model: dict[str, float] = field(default_factory=dict)
        augmented_power_w_by_model: dict[str, float] = field(default_factory=dict)
        augmentation_factor_by_model: dict[str, float] = field(default_factory=dict)
        prometheus_metrics_by_model: dict[str, dict[str, float]] = field(default_factory=dict)

else:
    try:
        from openg2g.datacenter.online import OnlineDatacenterState as _OnlineState
    except ImportError:  # it needs zeus and aiohttp, which are not needed here
        from openg2g.datacenter.base import LLMDatacenterState

        @dataclass(frozen=True)
        class _OnlineState(LLMDatacenterState):
            measured_power_w: ThreePhase = field(default_factory=lambda: ThreePhase(a=0.0, b=0.0, c=0.0))
            measured_power_w_by_model: dict[str, float] = field(default_factory=dict)
            augmented_power_w_by_model: dict[str, float] = field(default_factory=dict)
            augmentation_factor_by_model: dict[str, float] = field(default_factory=dict)
            prometheus_metrics_by_model: dict[str, dict[str, float]] = field(default_factory=dict)


logger = logging.getLogger(__name__)

T = TypeVar("T")
_NAN = float("nan")

# Events that commands of this datacenter cause are emitted with the command; they are not passed on a second time.
_OWN_TOPICS = ("datacenter.batch_size.updated", "datacenter.replicas.shifted")
_EVENTS_EVERY_S = 1.0
# An answer to a command takes 4 s at most, however many servers hang.
_COMMAND_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class LiveAgentDatacenterState(_OnlineState, OfflineDatacenterState):
    """The state of a live agent's step: OpenG2G's `OnlineDatacenterState`, with power by model as in a replay.

    Attributes:
        seq: The number of the agent's step.
        agent_time_s: The agent's own time, in seconds since its first step; `time_s` is the coordinator's.
        wall_time: When the agent's step was due.
        achieved_batch_size_by_model: Requests that run; NaN where that is not known.
        stale_by_model: For how many seconds power has not been confirmed, of those models where that is too long.
        held: No newer state had come: this is the one before once more.
    """

    seq: int = -1
    agent_time_s: float = _NAN
    wall_time: datetime | None = None
    achieved_batch_size_by_model: dict[str, float] = field(default_factory=dict)
    stale_by_model: dict[str, float] = field(default_factory=dict)
    held: bool = False


class PowerStale(AgentError, RuntimeError):
    """A model's power has not been read for longer than is allowed."""


class LiveAgentDatacenter(LLMBatchSizeControlledDatacenter[LiveAgentDatacenterState]):
    """A live agent (`g2g-agent run` or `demo`, or a paced replay) as a datacenter of `Coordinator(live=True)`.

    A step takes the agent's next state, in order and each once. The first one waits for a state that has just come, so
    that from then on states are milliseconds old when controllers see them. Where the agent is gone, the last state is
    held until it is back; if it was started anew, it is then told again what has been commanded.

    Args:
        url: The agent's address, or a client of it.
        token: The token for commands.
        lease_s: For how long a command holds if this program dies, in seconds: batch sizes then go back to the models'
            `failsafe_batch_size`, and shifts to none. `step` renews it in time. None: it holds for ever, or for as long
            as the agent's config says.
        follow: `every`: each state once and in order; `latest`: the newest there is.
        max_lag_s: With `every`, how far a state may be behind the newest, in seconds; then those between are left out.
        align: The first step waits for a fresh state.
        on_stale: What to do about power that the agent marks as stale, and about an agent that sends nothing: `warn`
            once and go on with what there is, `raise`, or `ignore`.
        restore: Put back initial batch sizes and shifts when a run begins and when it ends.
        name: The datacenter's name; by default the agent's.
        lost_after_s: After how many seconds without a state the last one is held, until others come; by default
            `max_lag_s`.

    Raises:
        ConnectionFailed: There is no agent at the address.
    """

    def __init__(
        self,
        url: str | Client = "http://127.0.0.1:8480",
        *,
        token: str | None = None,
        lease_s: float | None = 10.0,
        follow: Literal["every", "latest"] = "every",
        max_lag_s: float = 1.0,
        align: bool = True,
        on_stale: Literal["warn", "raise", "ignore"] = "warn",
        restore: bool = True,
        name: str | None = None,
        lost_after_s: float | None = None,
    ) -> None:
        if follow not in ("every", "latest"):
            raise ValueError(f'follow is "every" or "latest", not {follow!r}')
        if on_stale not in ("warn", "raise", "ignore"):
            raise ValueError(f'on_stale is "warn", "raise" or "ignore", not {on_stale!r}')
        if lease_s is not None and lease_s <= 0:
            raise ValueError(f"lease_s must be above 0, or None for no lease, got {lease_s}")
        self._owns_client = not isinstance(url, Client)
        if isinstance(url, Client):
            self._client = self._commander = self._follower = url
        else:
            self._client = Client(url, token=token)
            # Commands must not hold up steps for long, and a later step comes back to what failed.
            self._commander = Client(url, token=token, timeout_s=_COMMAND_TIMEOUT_S, attempts=2)
            # The stream itself tries again, and soon.
            self._follower = Client(url, token=token, attempts=1)
        info = self._client.info()
        super().__init__(name=name or info.name)
        self._dt_s = info.dt_s
        self._total_gpu_capacity = info.total_gpu_capacity
        self._lease_s = lease_s
        self._latest = follow == "latest"
        self._max_lag_s = max_lag_s
        self._align = align
        self._on_stale = on_stale
        self._restore = restore
        self._lost_after_s = max(2.5 * float(self._dt_s), max_lag_s) if lost_after_s is None else lost_after_s
        self._models: dict[str, Model] = dict(self._client.models())
        self._initial_replicas = {
            label: m.replica_schedule.initial if m.replica_schedule is not None else m.replicas - m.replica_shift
            for label, m in self._models.items()
        }
        self._specs = tuple(model_spec(m) for m in self._models.values())
        self._under_way = Run()
        weakref.finalize(self, self._under_way.end)
        self._feed: Feed | None = None
        self._counts = Counts()
        self._forget()

    def _forget(self) -> None:
        self._last: State | None = None
        self._seen_runs = 0
        self._lost = False
        self._stale: frozenset[str] = frozenset()
        self._wanted: dict[str, int] = {}
        self._shift = dict.fromkeys(self._models, 0)
        self._shift_sent: dict[str, int] = dict.fromkeys(self._models, 0)
        self._unsent = False
        self._renewed = 0.0
        self._events_after: int | None = None
        self._events_next = 0.0

    # What OpenG2G's backends have

    @property
    def dt_s(self) -> Fraction:
        """The agent's time step in seconds."""
        return self._dt_s

    @property
    def total_gpu_capacity(self) -> int:
        """GPUs that the datacenter can host."""
        return self._total_gpu_capacity

    def current_gpu_usage(self) -> int:
        """GPUs of the initial replicas and of the shifts since, as OpenG2G counts."""
        return sum(
            max(0, self._initial_replicas[label] + self._shift[label]) * m.gpus_per_replica
            for label, m in self._models.items()
        )

    def available_gpu_capacity(self) -> int:
        """GPUs that are left for replicas of other sites."""
        return max(0, self._total_gpu_capacity - self.current_gpu_usage())

    @property
    def phase_share_by_model(self) -> dict[str, np.ndarray[Any, Any]]:
        """The part of each model's servers on phases A, B and C at the last step, of models that have servers."""
        if self._last is None:
            return {}
        active = self._last.active_replicas_by_model
        return {
            label: np.array(share, dtype=float)
            for label, share in self._last.phase_share_by_model.items()
            if active[label] > 0
        }

    def reset(self) -> None:
        """Put the hardware back to where runs begin: initial batch sizes, no shifts (unless `restore` is False)."""
        self._forget()
        self._counts = Counts()
        self._close_feed()
        if self._restore:
            self._put_back()

    def start(self) -> None:
        """Wait until the agent is ready, and follow it from now on.

        Raises:
            TimedOut: It was not ready within two minutes.
        """
        self._client.wait_ready()
        self._under_way.begin()
        known = self._client.events(n=1)
        self._events_after = known[-1].id if known else None
        self._open_feed()

    def stop(self) -> None:
        """Follow the agent no more, and put the hardware back (unless `restore` is False). The state stays readable."""
        self._under_way.end()
        self._close_feed()
        if self._restore:
            try:
                self._put_back()
            except AgentError as err:
                logger.warning("%s: the initial batch sizes could not be restored: %s", self.name, err)

    def _put_back(self) -> None:
        try:
            self._commander.restore()
        except NotPossible as err:
            # The run has not begun, or is over: the agent itself sets initial batch sizes then.
            logger.debug("%s: %s", self.name, err)
        except PartlyDone as err:
            logger.warning("%s: not all servers took their initial batch size: %s", self.name, err)

    def _open_feed(self) -> Feed:
        if self._feed is None:
            self._feed = Feed(self._follower)
            self._feed.counts = self._counts
        return self._feed

    def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def step(self, clock: SimulationClock, events: EventEmitter) -> LiveAgentDatacenterState:
        """The agent's next state.

        Raises:
            PowerStale: With `on_stale="raise"`, a model's power is stale.
            ConnectionFailed: With `on_stale="raise"`, or at the first step, no state came.
        """
        feed = self._open_feed()
        first = self._last is None
        state, held = self._next(feed, clock, events)
        self._last = state
        self._look_at_power(state, held)
        if self._seen_runs != self._counts.runs:
            self._seen_runs = self._counts.runs
            self._begun_anew(events)
        # Not in the first step: OpenG2G's clock starts at its end, and states are that much older from then on.
        if not self._lost and not first:
            self._keep_commands(events)
            self._pass_events_on(events)
        return self._converted(state, clock.time_s, held)

    def _next(self, feed: Feed, clock: SimulationClock, events: EventEmitter) -> tuple[State, bool]:
        """The state of this step, and whether it is the one before once more."""
        max_lag_s = None if self._latest else self._max_lag_s
        if self._last is None:
            feed.expect()
            silence_s = max(10 * self._lost_after_s, 5.0)
            if not (feed.wait_fresh(float(self._dt_s) / 2, silence_s) if self._align else feed.wait(silence_s)):
                raise TimedOut(f"{self._client.url}: the agent sends no states; is its run over?")
        else:
            late_s = _late_s(clock)
            if late_s <= float(self._dt_s) and not self._lost:
                feed.wait(self._lost_after_s)
        got = feed.pop(newest=self._latest or self._lost, max_lag_s=max_lag_s)
        if got is not None:
            state, arrived, passed = got
            if self._lost:
                state = self._found_again(feed, arrived, events) or state
            elif passed and not self._latest:
                logger.warning("%s: %d states passed over: steps were over %s s behind", self.name, passed, max_lag_s)
            return state, False
        assert self._last is not None
        if not self._lost and feed.silent_s >= self._lost_after_s:
            self._lose(feed.silent_s, events)
        self._counts.held += 1
        return self._last, True

    def _lose(self, silent_s: float, events: EventEmitter) -> None:
        if self._on_stale == "raise":
            raise ConnectionFailed(f"{self._client.url}: no state has come for {silent_s:.2f} s")
        self._lost = True
        if self._on_stale == "warn":
            logger.warning("%s: no state has come for %.2f s; the last one is held", self.name, silent_s)
        events.emit("datacenter.agent.lost", {"silent_s": silent_s})

    def _found_again(self, feed: Feed, arrived: float, events: EventEmitter) -> State | None:
        """The agent is back: go on with a state that has just come, as at the start."""
        self._lost = False
        logger.info("%s: states come again", self.name)
        events.emit("datacenter.agent.back", {})
        # A state that waited here until the clock's tick would be as old at each tick to come.
        dt_s = float(self._dt_s)
        if self._align and time.monotonic() - arrived > 0.2 * dt_s and feed.wait(self._lost_after_s):
            got = feed.pop(newest=True, max_lag_s=None)
            return None if got is None else got[0]
        return None

    def _look_at_power(self, state: State, held: bool) -> None:
        if held or self._on_stale == "ignore":
            return
        stale = frozenset(state.stale_by_model)
        if stale and self._on_stale == "raise":
            ages = ", ".join(f"{label!r} for {age_s:.1f} s" for label, age_s in state.stale_by_model.items())
            raise PowerStale(f"{self.name}: power has not been read of {ages}")
        if stale - self._stale:
            logger.warning("%s: power is stale of %s", self.name, ", ".join(sorted(stale - self._stale)))
        self._stale = stale

    def _begun_anew(self, events: EventEmitter) -> None:
        """The agent was started again: it knows nothing of earlier commands."""
        logger.warning("%s: the agent has begun another run; what was commanded is commanded again", self.name)
        events.emit("datacenter.agent.restarted", {})
        self._events_after = None
        self._shift_sent = dict.fromkeys(self._models, 0)
        self._unsent = True

    def _keep_commands(self, events: EventEmitter) -> None:
        """Send what has not reached the agent, and renew leases in time."""
        now = time.monotonic()
        due = self._lease_s is not None and now - self._renewed >= self._lease_s / 3
        if not (self._unsent or due) or not (self._wanted or any(self._shift.values())):
            return
        self._renewed = now
        self._unsent = False
        if self._wanted:
            self._attempt(lambda: self._commander.set_batch_size(self._wanted, lease_s=self._lease_s), events)
        for label, shift in self._shift.items():
            delta = shift - self._shift_sent[label]
            if delta or (due and shift):
                self._send_shift(label, delta, events)

    def _send_shift(self, label: str, delta: int, events: EventEmitter) -> None:
        done = self._attempt(lambda: self._commander.shift_replicas(label, delta, lease_s=self._lease_s), events)
        if done is not None:
            self._shift_sent[label] += delta

    def _attempt(self, send: Callable[[], T], events: EventEmitter) -> T | None:
        """Send a command. Where the agent cannot be reached it is kept, to be sent again."""
        try:
            return send()
        except PartlyDone as err:
            logger.warning("%s: not all servers did as they were told: %s", self.name, err)
            events.emit("datacenter.batch_size.failed", {"results": err.results})
        except (ConnectionFailed, Unavailable, RateLimited) as err:
            if self._on_stale == "raise":
                raise
            self._unsent = True
            logger.warning("%s: a command has not reached the agent, and is sent again: %s", self.name, err)
        return None

    def _pass_events_on(self, events: EventEmitter) -> None:
        """Emit what has happened in the agent since."""
        now = time.monotonic()
        if now < self._events_next:
            return
        self._events_next = now + _EVENTS_EVERY_S
        try:
            found = self._commander.events(n=1000, after=self._events_after)
        except AgentError as err:
            logger.debug("%s: %s", self.name, err)
            return
        for event in found:
            self._events_after = event.id
            if event.topic not in _OWN_TOPICS:
                events.emit(event.topic, {**event.data, "agent_time_s": event.time_s})

    def _converted(self, state: State, time_s: float, held: bool) -> LiveAgentDatacenterState:
        if held and self._state is not None and self._state.seq == state.seq:
            return replace(self._state, time_s=time_s, held=True)
        power = state.power_w
        measured = state.measured_power_w or (0.0, 0.0, 0.0)
        loads = state.prometheus_metrics_by_model or {}
        return LiveAgentDatacenterState(
            time_s=time_s,
            power_w=ThreePhase(a=power.a, b=power.b, c=power.c),
            batch_size_by_model=dict(state.batch_size_by_model),
            active_replicas_by_model=dict(state.active_replicas_by_model),
            observed_itl_s_by_model=dict(state.observed_itl_s_by_model),
            power_by_model_w=dict(state.power_by_model_w),
            measured_power_w=ThreePhase(*measured),
            measured_power_w_by_model=dict(state.measured_power_w_by_model or {}),
            augmented_power_w_by_model=dict(state.augmented_power_w_by_model or state.power_by_model_w),
            augmentation_factor_by_model=dict(state.augmentation_factor_by_model or {}),
            # A server whose metrics cannot be read tells nothing; OpenG2G leaves it empty then.
            prometheus_metrics_by_model={label: {} if m is None else m._asdict() for label, m in loads.items()},
            seq=state.seq,
            agent_time_s=state.time_s,
            wall_time=state.wall_time,
            achieved_batch_size_by_model=dict(state.achieved_batch_size_by_model),
            stale_by_model=dict(state.stale_by_model),
            held=held,
        )

    @functools.singledispatchmethod
    def apply_control(  # pyright: ignore[reportIncompatibleMethodOverride]  (as OpenG2G's own datacenters)
        self, command: DatacenterCommand, events: EventEmitter
    ) -> None:
        """Carry out a command. It holds from the agent's next step on, and for `lease_s`, renewed by steps.

        Raises:
            TypeError: This kind of command is not known.
            ValueError: The command is wrong: no such model, an infeasible batch size, a ramp-up rate below 0.
            RuntimeError: The GPUs do not suffice for a shift.
        """
        raise TypeError(f"LiveAgentDatacenter does not support {type(command).__name__}")

    @apply_control.register
    def apply_control_set_batch_size(self, command: SetBatchSize, events: EventEmitter) -> None:
        """Set batch sizes on the real servers."""
        wanted = {self._known(str(label), "SetBatchSize"): int(b) for label, b in command.batch_size_by_model.items()}
        for label, batch_size in wanted.items():
            if batch_size <= 0:
                raise ValueError(f"SetBatchSize: the batch size of {label!r} must be above 0, got {batch_size}")
        ramps = {str(label): float(rate) for label, rate in command.ramp_up_rate_by_model.items() if rate}
        if wanted and not self._lost:
            self._attempt(
                lambda: self._commander.set_batch_size(
                    wanted, ramp_up_rate_by_model=ramps or None, lease_s=self._lease_s
                ),
                events,
            )
        elif wanted:
            self._unsent = True  # for when the agent is back
        if not self._wanted:
            self._renewed = time.monotonic()
        self._wanted.update(wanted)
        events.emit("datacenter.batch_size.updated", {"batch_size_by_model": self._commanded()})

    @apply_control.register
    def apply_control_shift_replicas(self, command: ShiftReplicas, events: EventEmitter) -> None:
        """Add replicas to a model or take some away."""
        label, delta = self._known(command.model_label, "ShiftReplicas"), int(command.replica_delta)
        self._send_shift(label, delta, events)
        self._shift[label] += delta
        effective = max(0, self._initial_replicas[label] + self._shift[label])
        events.emit(
            "datacenter.replicas.shifted",
            {"model_label": label, "replica_delta": delta, "effective_replicas": effective},
        )

    def _commanded(self) -> dict[str, int]:
        return {label: self._wanted.get(label, m.initial_batch_size) for label, m in self._models.items()}

    def _known(self, label: str, command: str) -> str:
        if label not in self._models:
            raise ValueError(f"{command}: unknown model {label!r}; there are {', '.join(map(repr, self._models))}")
        return label

    # What is the agent's own

    @property
    def client(self) -> Client:
        """The agent's API."""
        return self._client

    @property
    def inference_models(self) -> tuple[InferenceModelSpec, ...]:
        """OpenG2G's specifications of the models, which controllers take. What the agent does not know is empty."""
        return self._specs

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the run's states: `received`, `used`, `held`, `passed_over`, `missed`, `runs`."""
        return vars(self._counts).copy()

    def close(self) -> None:
        """Follow the agent no more, and close the connections. The agent runs on."""
        self._under_way.end()
        self._close_feed()
        if self._owns_client:
            for client in (self._commander, self._follower, self._client):
                client.close()

    def __enter__(self) -> LiveAgentDatacenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _late_s(clock: SimulationClock) -> float:
    """How far a live clock is behind the time on the wall, in seconds; 0 if it does not follow that."""
    began: float | None = clock._wall_t0 if clock.live else None
    return 0.0 if began is None else time.monotonic() - began - clock.time_s


# So that what asks for an OfflineDatacenter, as LoadShiftController does, takes it.
OfflineDatacenter.register(LiveAgentDatacenter)
