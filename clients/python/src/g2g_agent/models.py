"""What the agent tells, as frozen values.

Names and units are those of the API: powers in watts, times in seconds, batch sizes in requests. `raw` is the answer as
it came, with members that this version does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from fractions import Fraction
from typing import Any, TypeVar

from g2g_agent.errors import BadAnswer
from g2g_agent.state import Percentiles, ServerLoad, State, ThreePhase, html_table, maybe_time_of, numbers_of, time_of

__all__ = [
    "ThreePhase",
    "State",
    "Percentiles",
    "ServerLoad",
    "Info",
    "Health",
    "Model",
    "Server",
    "ReplicaRamp",
    "ReplicaSchedule",
    "BatchSizeAnswer",
    "ModelResult",
    "ReplicaShiftAnswer",
    "ReplicaShift",
    "Event",
    "Skipped",
    "NewRun",
]

T = TypeVar("T")


def _decode(cls: Callable[..., T], raw: Mapping[str, Any], names: tuple[str, ...], **converted: Any) -> T:
    """A value of a class whose parameters are members of the answer, except for those already converted."""
    try:
        return cls(**{name: raw[name] for name in names if name not in converted}, **converted, raw=raw)
    except KeyError as err:
        raise BadAnswer(f"the answer lacks {err}; its members are {sorted(raw)}: is it an agent?") from None


def _names(cls: type, *but: str) -> tuple[str, ...]:
    return tuple(member.name for member in fields(cls) if member.name != "raw" and member.name not in but)


@dataclass(frozen=True, slots=True)
class Info:
    """What the agent is and how far it has come.

    Attributes:
        name: The datacenter's name.
        version: The agent's version.
        source: `live` or `replay`.
        started_at: When the agent was started.
        phase: `starting`, `stepping`, `waiting` (lockstep: until it is told to step) or `ended`.
        pace: `real_time` or `lockstep`.
        dt_s: The time between two steps, in seconds, exactly.
        time_s: The time of the next step, in seconds since the first.
        steps: Steps computed.
        duration_s: How long the run is, in seconds; None if it has no end, or the agent does not say.
        total_steps: How many steps the run has; None likewise.
        run_id: Another one with each start and each reset; None if the agent does not say.
        seed: What random numbers come from.
        config_digest: `sha256:` and 64 hexadecimal digits, of the config as it is in effect.
        at_end: `stop` or `continue`: what a replay does after its duration; None in live runs.
        total_gpu_capacity: GPUs that the datacenter can host.
        free_gpus: GPUs that no model asks for at the next step.
        available_gpu_capacity: The capacity less initial replicas and shifts, as OpenG2G counts.
        base_kw_per_phase: The constant load beside the servers, in kilowatts on each phase.
        power_factor: The lagging power factor of the whole load.
        gpus_per_server: GPUs in one server.
        history_states: States that the agent keeps.
        control_needs_token: Commands need a token.
        recording: The run is recorded; None if the agent does not say.
        raw: The answer as it came.
    """

    name: str
    version: str
    source: str
    started_at: datetime
    phase: str
    pace: str
    dt_s: Fraction
    time_s: float
    steps: int
    duration_s: float | None
    total_steps: int | None
    run_id: str | None
    seed: int | None
    config_digest: str | None
    at_end: str | None
    total_gpu_capacity: int
    free_gpus: int
    available_gpu_capacity: int
    base_kw_per_phase: float
    power_factor: float
    gpus_per_server: int
    history_states: int
    control_needs_token: bool
    recording: bool | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Info:
        """From the members of `/v1/info`."""
        dt = raw.get("dt")
        later = ("duration_s", "total_steps", "run_id", "seed", "config_digest", "at_end", "recording")
        return _decode(
            cls,
            raw,
            _INFO,
            started_at=time_of(raw.get("started_at", "")),
            dt_s=Fraction(dt) if dt is not None else Fraction(raw["dt_s"]).limit_denominator(10**6),
            **{name: raw.get(name) for name in later},
        )

    def _repr_html_(self) -> str:
        rows = [
            ("version", self.version),
            ("source", f"{self.source}, {self.pace}, {self.phase}"),
            ("time step", f"{self.dt_s} s"),
            ("next step", f"{self.time_s:g} s" + (f" of {self.duration_s:g} s" if self.duration_s is not None else "")),
            ("GPUs", f"{self.total_gpu_capacity} in servers of {self.gpus_per_server}, {self.free_gpus} free"),
            ("base load", f"{self.base_kw_per_phase:g} kW a phase, power factor {self.power_factor:g}"),
        ]
        return html_table(self.name, rows)


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe says.

    Attributes:
        ok: All is well.
        reasons: What is wrong; empty if all is well.
    """

    ok: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """A real vLLM server.

    Attributes:
        vllm_base_url: Where it listens.
        answers: It answered as it should when it was last looked at.
        achieved_batch_size: Requests that it runs; None if that is not known.
        batch_size_actuator: How its batch size is set; None before the start has found out.
        no_token_s: For how many seconds it has made no token although it should.
        raw: The object as it came.
    """

    vllm_base_url: str
    answers: bool
    achieved_batch_size: float | None
    batch_size_actuator: str | None
    no_token_s: float
    raw: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ReplicaRamp:
    """Replicas go to `target` from `t_start_s` to `t_end_s`, in seconds of the run."""

    target: int
    t_start_s: float
    t_end_s: float


@dataclass(frozen=True, slots=True)
class ReplicaSchedule:
    """The replicas that a model begins with, and its ramps in order of time."""

    initial: int
    ramps: tuple[ReplicaRamp, ...] = ()

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ReplicaSchedule:
        """From the members of a model's `replica_schedule`."""
        ramps = tuple(ReplicaRamp(ramp["target"], ramp["t_start"], ramp["t_end"]) for ramp in raw.get("ramps") or ())
        return cls(raw["initial"], ramps)


@dataclass(frozen=True, slots=True)
class Model:
    """A model, its limits and what it runs.

    Attributes:
        model_label: Names it in commands and states.
        model_id: The Hugging Face id.
        gpus_per_replica: GPUs that one replica occupies.
        itl_deadline_s: The inter-token latency to hold it to, in seconds.
        feasible_batch_sizes: The batch sizes it may be commanded to run, in requests.
        initial_batch_size: What a run begins with.
        failsafe_batch_size: What it returns to when a lease runs out.
        batch_size: What is commanded.
        achieved_batch_size: Requests that run, the mean over its servers; None if that is not known.
        batch_size_actuator: How real servers' batch sizes are set; None in replays.
        replicas: Replicas that it asks for at the next step.
        replica_shift: The part of them that commands have added, below 0: taken away.
        free_replicas: How many more the free servers hold at the next step.
        free_gpus: GPUs of the whole site that no model asks for at the next step.
        available_gpu_capacity: That of the whole site, as in `Info`.
        batch_size_lease_s: For how many more seconds of the run a leased batch size holds; None without a lease.
        replica_lease_s: The same for leased shifts.
        stale: Its power has not been read for longer than is allowed.
        servers: Its real vLLM servers, none in a replay.
        gpu_model: The GPU of its data, such as `H100`; None where it is not known, as in all that follow.
        task: The benchmark task of its data.
        precision: The precision of its weights.
        tensor_parallel: GPUs that a replica is spread over.
        batch_sizes: The batch sizes that there are data of.
        spec_hash: What OpenG2G's data directory calls its specification.
        replica_schedule: The replicas over time.
        raw: The object as it came.
    """

    model_label: str
    model_id: str
    gpus_per_replica: int
    itl_deadline_s: float
    feasible_batch_sizes: tuple[int, ...]
    initial_batch_size: int
    failsafe_batch_size: int
    batch_size: int
    achieved_batch_size: float | None
    batch_size_actuator: str | None
    replicas: int
    replica_shift: int
    free_replicas: int
    free_gpus: int
    available_gpu_capacity: int
    batch_size_lease_s: float | None
    replica_lease_s: float | None
    stale: bool
    servers: tuple[Server, ...]
    gpu_model: str | None
    task: str | None
    precision: str | None
    tensor_parallel: int | None
    batch_sizes: tuple[int, ...] | None
    spec_hash: str | None
    replica_schedule: ReplicaSchedule | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Model:
        """From an object of `/v1/models`."""
        batch_sizes, schedule = raw.get("batch_sizes"), raw.get("replica_schedule")
        later = ("gpu_model", "task", "precision", "tensor_parallel", "spec_hash")
        return _decode(
            cls,
            raw,
            _MODEL,
            feasible_batch_sizes=tuple(raw.get("feasible_batch_sizes", ())),
            servers=tuple(_decode(Server, server, _SERVER) for server in raw.get("servers", ())),
            batch_sizes=None if batch_sizes is None else tuple(batch_sizes),
            replica_schedule=None if schedule is None else ReplicaSchedule.from_json(schedule),
            **{name: raw.get(name) for name in later},
        )

    def _repr_html_(self) -> str:
        rows = [
            ("model", f"{self.model_id}, {self.gpus_per_replica} GPUs a replica"),
            ("batch size", f"{self.batch_size} of {', '.join(map(str, self.feasible_batch_sizes))}"),
            ("replicas", f"{self.replicas}, {self.free_replicas} more fit"),
            ("ITL deadline", f"{1e3 * self.itl_deadline_s:g} ms"),
        ]
        return html_table(self.model_label, rows)


@dataclass(frozen=True, slots=True)
class ModelResult:
    """What became of a command for one model.

    Attributes:
        model_label: The model.
        outcome: `accepted`, `refused`, `unreachable` or `unknown`.
        detail: What went wrong; empty if nothing did.
    """

    model_label: str
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class BatchSizeAnswer:
    """The answer to a command of batch sizes, or to `restore`.

    Attributes:
        time_s: The time of the step from which on it holds, in seconds since the first.
        from_seq: The `seq` of that step's state; None if the agent does not say.
        batch_size_by_model: What all models are now commanded to run, in requests.
        achieved_batch_size_by_model: Requests that run; NaN where that is not known.
        lease_s_by_model: For how many more seconds a leased batch size holds; None without a lease.
        replica_shift_by_model: All shifts so far, in the answer to `restore`; empty in others.
        results: What became of each model commanded.
        raw: The answer as it came.
    """

    time_s: float
    from_seq: int | None
    batch_size_by_model: dict[str, int]
    achieved_batch_size_by_model: dict[str, float]
    lease_s_by_model: dict[str, float | None]
    replica_shift_by_model: dict[str, int]
    results: tuple[ModelResult, ...]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> BatchSizeAnswer:
        """From the members of the answer."""
        results = tuple(
            ModelResult(result["model_label"], result["outcome"], result.get("detail", ""))
            for result in raw.get("results", ())
        )
        return _decode(
            cls,
            raw,
            _BATCH_SIZE_ANSWER,
            from_seq=raw.get("from_seq"),
            achieved_batch_size_by_model=numbers_of(raw.get("achieved_batch_size_by_model", {})),
            replica_shift_by_model=raw.get("replica_shift_by_model", {}),
            results=results,
        )


@dataclass(frozen=True, slots=True)
class ReplicaShiftAnswer:
    """The answer to a replica shift.

    Attributes:
        time_s: The time of the step from which on it holds, in seconds since the first.
        from_seq: The `seq` of that step's state; None if the agent does not say.
        model_label: The model.
        replica_delta: The replicas added, below 0: taken away.
        replica_shift: All shifts of the model so far.
        replicas: The replicas it asks for at the next step.
        free_replicas: How many more the free servers hold at the next step.
        lease_s: For how many more seconds the leased shifts hold; None without a lease.
        raw: The answer as it came.
    """

    time_s: float
    from_seq: int | None
    model_label: str
    replica_delta: int
    replica_shift: int
    replicas: int
    free_replicas: int
    lease_s: float | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ReplicaShiftAnswer:
        """From the members of the answer."""
        return _decode(cls, raw, _REPLICA_SHIFT_ANSWER, from_seq=raw.get("from_seq"))


@dataclass(frozen=True, slots=True)
class ReplicaShift:
    """A shift to be carried out before a step.

    Attributes:
        model_label: The model.
        replica_delta: Replicas to add, below 0: to take away.
        lease_s: For how many seconds of the run it holds unless it is renewed; None: as the config says.
    """

    model_label: str
    replica_delta: int
    lease_s: float | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at a step.

    Attributes:
        id: Numbers the events of this start of the agent, from 0.
        wall_time: When it happened.
        time_s: The time of the step before which it happened, in seconds since the first.
        topic: What kind it is, such as `datacenter.batch_size.updated`. More kinds may come.
        data: What is told of it.
        raw: The event as it came.
    """

    id: int
    wall_time: datetime | None
    time_s: float
    topic: str
    data: dict[str, Any]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Event:
        """From the members of an event."""
        return _decode(cls, raw, _EVENT, wall_time=maybe_time_of(raw.get("wall_time")))


@dataclass(frozen=True, slots=True)
class Skipped:
    """States or events that are missing at this place of a stream.

    Attributes:
        count: How many.
    """

    count: int


@dataclass(frozen=True, slots=True)
class NewRun:
    """From this place of a stream on, states are those of another run: after a reset, or a start of the agent.

    Attributes:
        run_id: The run's name.
    """

    run_id: str


_INFO, _MODEL, _SERVER = _names(Info), _names(Model), _names(Server)
_BATCH_SIZE_ANSWER, _REPLICA_SHIFT_ANSWER, _EVENT = _names(BatchSizeAnswer), _names(ReplicaShiftAnswer), _names(Event)
