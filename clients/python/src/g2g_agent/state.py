"""The datacenter at one step."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

__all__ = ["ThreePhase", "State", "Percentiles", "ServerLoad"]


class ThreePhase(NamedTuple):
    """A quantity on phases A, B and C; `sum(power_w)` is the total."""

    a: float
    b: float
    c: float


class Percentiles(NamedTuple):
    """Percentiles of a latency, in seconds; NaN where there is none."""

    p50: float
    p90: float
    p95: float
    p99: float


class ServerLoad(NamedTuple):
    """What a model's vLLM servers tell of their load; NaN what they do not tell.

    Attributes:
        num_requests_running: Requests that run, of several servers the sum.
        num_requests_waiting: Requests that wait, of several servers the sum.
        kv_cache_usage_perc: The part of the KV cache in use, 0 to 1, of several servers the mean.
        num_preemptions_total: Requests preempted since the server's start.
    """

    num_requests_running: float
    num_requests_waiting: float
    kv_cache_usage_perc: float
    num_preemptions_total: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class State:
    """The datacenter at one step.

    Members of live runs are None in replays. Of a state that was asked for with `fields`, the others raise
    `AttributeError`.

    Attributes:
        seq: The number of the step, from 0.
        time_s: The step's time, in seconds since the first.
        wall_time: When the step was due; None in lockstep.
        source: `live` or `replay`.
        power_w: The whole datacenter's power on each phase, in watts.
        power_by_model_w: The power of each model's servers, in watts.
        batch_size_by_model: The batch size commanded and accepted last, in requests.
        active_replicas_by_model: The replicas that each model's servers hold.
        observed_itl_s_by_model: Mean inter-token latency, in seconds; NaN where there is none.
        throughput_tokens_per_s_by_model: Output tokens per second; empty if it is not known of any model.
        phase_share_by_model: The part of each model's servers on phases A, B and C.
        achieved_batch_size_by_model: Requests that run, the mean over a model's servers; NaN where that is not known.
        free_gpus: GPUs that no model asks for at the next step; None if the agent does not tell.
        stale_by_model: For how many seconds power has not been confirmed, of those models where that is too long.
        measured_power_w: What the real GPUs draw, over the phases, plus the base load, in watts.
        measured_power_w_by_model: What each model's real GPUs draw, in watts.
        measured_throughput_tokens_per_s_by_model: Output tokens per second of the real servers.
        augmented_power_w_by_model: As `power_by_model_w`.
        augmentation_factor_by_model: Simulated replicas per real one.
        prometheus_metrics_by_model: The load of each model's vLLM servers, None where nothing of it is known.
        itl_percentiles_s_by_model: Percentiles of the latencies, in seconds.
        raw: The state as it came, with members that are not listed here.
    """

    seq: int
    time_s: float
    wall_time: datetime | None
    source: str
    power_w: ThreePhase
    power_by_model_w: dict[str, float]
    batch_size_by_model: dict[str, int]
    active_replicas_by_model: dict[str, int]
    observed_itl_s_by_model: dict[str, float]
    throughput_tokens_per_s_by_model: dict[str, float]
    phase_share_by_model: dict[str, ThreePhase]
    achieved_batch_size_by_model: dict[str, float]
    free_gpus: int | None
    stale_by_model: dict[str, float]
    measured_power_w: ThreePhase | None
    measured_power_w_by_model: dict[str, float] | None
    measured_throughput_tokens_per_s_by_model: dict[str, float] | None
    augmented_power_w_by_model: dict[str, float] | None
    augmentation_factor_by_model: dict[str, float] | None
    prometheus_metrics_by_model: dict[str, ServerLoad | None] | None
    itl_percentiles_s_by_model: dict[str, Percentiles] | None
    raw: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not set.
        raise AttributeError(
            f"this state has no {name}: the agent did not send it, or it was not among the fields asked for"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return self.raw == other.raw and not self._changed(other)

    def __hash__(self) -> int:
        return hash((self.seq, self.time_s))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.raw, self._changed(State.from_json(self.raw)))

    def _changed(self, other: State) -> dict[str, Any]:
        """The members that another state of the same `raw` has not, as `dataclasses.replace` makes them."""
        # In lists, since NaN then equals itself.
        return {
            name: mine
            for name, *_ in _STATE_MEMBERS
            if [mine := getattr(self, name, MISSING)] != [getattr(other, name, MISSING)]
        }

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _STATE_REPR if hasattr(self, name))
        return f"State({shown})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, str]] = []
        for label in self.raw.get("batch_size_by_model", {}):
            itl_s = getattr(self, "observed_itl_s_by_model", {}).get(label, math.nan)
            rows.append(
                (
                    label,
                    f"{getattr(self, 'power_by_model_w', {}).get(label, math.nan) / 1e3:,.1f} kW, "
                    f"batch size {self.batch_size_by_model[label]}, "
                    f"{getattr(self, 'active_replicas_by_model', {}).get(label, '?')} replicas, ITL "
                    + ("none" if math.isnan(itl_s) else f"{1e3 * itl_s:.1f} ms"),
                )
            )
        power_w: ThreePhase = getattr(self, "power_w", ThreePhase(math.nan, math.nan, math.nan))
        power = " / ".join(f"{watts / 1e6:.3f}" for watts in power_w)
        return html_table(f"State {self.seq}, {self.time_s:g} s", [("power A / B / C", f"{power} MW"), *rows])

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> State:
        """A state from the members of its JSON object.

        Args:
            raw: The object. The state keeps it, so it must not be changed any more.
        """
        state = object.__new__(cls)
        for name, put, convert, default in _STATE_MEMBERS:
            value = raw.get(name, MISSING)
            if value is MISSING:
                if default is not MISSING:
                    put(state, default() if callable(default) else default)
            else:
                put(state, value if convert is None else convert(value))
        _put_raw(state, raw)
        return state


def _remade(raw: Mapping[str, Any], changed: dict[str, Any]) -> State:
    state = State.from_json(raw)
    return replace(state, **changed) if changed else state


_STATE_REPR = ("seq", "time_s", "source", "power_w", "batch_size_by_model", "observed_itl_s_by_model")


def _number(value: Any) -> float:
    return math.nan if value is None else value


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers by model label, NaN for null."""
    # A dict without null is taken as it is.
    if None in values.values():
        return {label: math.nan if value is None else value for label, value in values.items()}
    return values  # type: ignore[return-value]


def _phases(value: Mapping[str, Any]) -> ThreePhase:
    return ThreePhase(_number(value["a"]), _number(value["b"]), _number(value["c"]))


def _shares(values: Mapping[str, Any]) -> dict[str, ThreePhase]:
    return {label: ThreePhase(_number(a), _number(b), _number(c)) for label, (a, b, c) in values.items()}


def _load(value: Mapping[str, Any] | None) -> ServerLoad | None:
    return None if value is None else ServerLoad(*(_number(value.get(name)) for name in ServerLoad._fields))


def _loads(values: Mapping[str, Any]) -> dict[str, ServerLoad | None]:
    return {label: _load(value) for label, value in values.items()}


def _percentiles(values: Mapping[str, Any]) -> dict[str, Percentiles]:
    return {
        label: Percentiles(*(_number(value.get(name)) for name in Percentiles._fields))
        for label, value in values.items()
    }


def time_of(text: str) -> datetime:
    """The time that an RFC 3339 text says; digits below a microsecond are dropped.

    Raises:
        ValueError: It is no such text.
    """
    seconds, rest = datetime.fromisoformat(text[:19]), text[19:]
    digits = len(rest)
    zone = timezone.utc
    if rest.endswith(("Z", "z")):
        digits -= 1
    elif len(rest) >= 6 and rest[-6] in "+-" and rest[-3] == ":":
        digits -= 6
        offset = timedelta(hours=int(rest[-5:-3]), minutes=int(rest[-2:]))
        zone = timezone(-offset if rest[-6] == "-" else offset)
    else:
        raise ValueError(f"{text!r} does not end in a time zone")
    fraction = rest[:digits]
    if fraction and (fraction[0] != "." or not fraction[1:].isdigit()):
        raise ValueError(f"{text!r} is no time as in RFC 3339")
    return seconds.replace(microsecond=int(fraction[1:7].ljust(6, "0")) if fraction else 0, tzinfo=zone)


def maybe_time_of(text: str | None) -> datetime | None:
    """As `time_of`, or None."""
    return None if text is None else time_of(text)


_STATE_CONVERT: dict[str, Callable[[Any], Any]] = {
    "wall_time": maybe_time_of,
    "power_w": _phases,
    "power_by_model_w": numbers_of,
    "observed_itl_s_by_model": numbers_of,
    "throughput_tokens_per_s_by_model": numbers_of,
    "phase_share_by_model": _shares,
    "achieved_batch_size_by_model": numbers_of,
    "stale_by_model": numbers_of,
    "measured_power_w": _phases,
    "measured_power_w_by_model": numbers_of,
    "measured_throughput_tokens_per_s_by_model": numbers_of,
    "augmented_power_w_by_model": numbers_of,
    "augmentation_factor_by_model": numbers_of,
    "prometheus_metrics_by_model": _loads,
    "itl_percentiles_s_by_model": _percentiles,
}

# What the rest is, where the agent leaves it out.
_STATE_DEFAULT: dict[str, Any] = {
    "throughput_tokens_per_s_by_model": dict,
    "achieved_batch_size_by_model": dict,
    "stale_by_model": dict,
    "free_gpus": None,
    "measured_power_w": None,
    "measured_power_w_by_model": None,
    "measured_throughput_tokens_per_s_by_model": None,
    "augmented_power_w_by_model": None,
    "augmentation_factor_by_model": None,
    "prometheus_metrics_by_model": None,
    "itl_percentiles_s_by_model": None,
}

# Through the slots themselves: a frozen dataclass's own constructor takes several times as long.
_put_raw: Callable[[State, Any], None] = State.__dict__["raw"].__set__
_STATE_MEMBERS = tuple(
    (
        member.name,
        State.__dict__[member.name].__set__,
        _STATE_CONVERT.get(member.name),
        _STATE_DEFAULT.get(member.name, MISSING),
    )
    for member in fields(State)
    if member.name != "raw"
)


def html_table(title: str, rows: list[tuple[str, str]]) -> str:
    """A small table of names and values, escaped."""
    body = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<table><caption>{html.escape(title)}</caption>{body}</table>"
