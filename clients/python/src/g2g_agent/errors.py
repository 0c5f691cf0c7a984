"""What can go wrong, by meaning.

Every error of this package is an `AgentError`. Most are also the built-in error that says the same: an unknown model is
a `KeyError`, a wrong value a `ValueError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AgentError",
    "ConnectionFailed",
    "TimedOut",
    "BadAnswer",
    "StartFailed",
    "StatesSkipped",
    "FieldError",
    "ApiError",
    "InvalidRequest",
    "InfeasibleBatchSize",
    "UnknownModel",
    "NotPermitted",
    "NotPossible",
    "NoCapacity",
    "NoRecording",
    "NotStarted",
    "RunOver",
    "NotLockstep",
    "InProgress",
    "WritingOutput",
    "PartlyDone",
    "RateLimited",
    "Unavailable",
    "AgentFault",
    "error_of",
]


class AgentError(Exception):
    """Something went wrong between this program and the agent."""


class ConnectionFailed(AgentError, ConnectionError):
    """The agent could not be reached, or the connection broke before it had answered."""


class TimedOut(ConnectionFailed, TimeoutError):
    """The agent did not answer in time."""


class BadAnswer(ConnectionFailed):
    """What answered does not speak as an agent does: no HTTP, no JSON, or a member is missing."""


class StartFailed(AgentError, RuntimeError):
    """The agent's process ended, or took too long, before it took requests.

    Attributes:
        exit_status: The exit status, below 0 the signal that ended it; None if it ran and had to be ended.
        log_lines: The last lines that it wrote.
    """

    def __init__(self, message: str, *, exit_status: int | None = None, log_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.log_lines: tuple[str, ...] = tuple(log_lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _start_failed, (self.args[0], self.exit_status, self.log_lines)

    def __str__(self) -> str:
        lines = [str(self.args[0]), *(f"  {line}" for line in self.log_lines[-10:])]
        return "\n".join(lines)


def _start_failed(message: str, exit_status: int | None, log_lines: Sequence[str]) -> StartFailed:
    return StartFailed(message, exit_status=exit_status, log_lines=log_lines)


class StatesSkipped(AgentError):
    """A stream was read too slowly, or the connection was away for too long: states or events are missing here.

    Iterating on goes on after the gap.

    Attributes:
        count: How many are missing.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f'{self.count} are missing here: read faster, or ask for skipped="warn" or skipped="yield"'


@dataclass(frozen=True)
class FieldError:
    """One part of a request that is wrong.

    Attributes:
        location: Where it stands, such as `body.batch_size_by_model.Llama-3.1-8B`.
        message: What is wrong with it and what would be right.
        code: What it is, in a word; None where the agent does not say.
    """

    location: str
    message: str
    code: str | None = None


class ApiError(AgentError):
    """The agent answered that it would not or could not.

    Attributes:
        status: The HTTP status.
        code: What it is, in a word, such as `no-capacity`; None if the answer does not say.
        title: The status in words.
        detail: What was wrong and what would be right, for people.
        errors: The parts of the request at fault.
        retry_after_s: When to come back, in seconds; None if that is not said.
        body: The whole answer.
    """

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        super().__init__(status, body, retry_after_s)
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s
        self.code: str | None = _text(body, "code")
        self.title: str = _text(body, "title") or ""
        self.detail: str = _text(body, "detail") or ""
        faults = body.get("errors")
        self.errors: tuple[FieldError, ...] = tuple(
            FieldError(_text(fault, "location") or "", _text(fault, "message") or "", _text(fault, "code"))
            for fault in (faults if isinstance(faults, list) else [])
            if isinstance(fault, Mapping)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.body, self.retry_after_s)

    def __str__(self) -> str:
        named = f"{self.status} {self.code}" if self.code else f"{self.status} {self.title}".rstrip()
        return f"{named}: {self.detail}" if self.detail else named


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


class InvalidRequest(ApiError, ValueError):
    """A value is missing, unknown, of the wrong type or out of range (400, 413, 415, 422)."""


class InfeasibleBatchSize(InvalidRequest):
    """A model cannot run this batch size; `errors` says which ones it can."""


class UnknownModel(ApiError, KeyError):
    """There is no model of this label (404)."""

    def __str__(self) -> str:
        return ApiError.__str__(self)


class NoRecording(ApiError, LookupError):
    """Nothing is recorded, or nothing of that run or time (404)."""


class NotPermitted(ApiError, PermissionError):
    """No token, a wrong one, or one that may only read (401, 403)."""

    def __str__(self) -> str:
        return ApiError.__str__(self)


class NotPossible(ApiError, RuntimeError):
    """Not possible now (409)."""


class NoCapacity(NotPossible):
    """The GPUs would not suffice, now or with the schedules to come."""


class NotStarted(NotPossible):
    """The run has not begun."""


class RunOver(NotPossible):
    """The run is over."""


class NotLockstep(NotPossible):
    """Steps and resets are for replays in lockstep only (`replay --pace step`)."""


class InProgress(NotPossible):
    """The first request with the same key is still being carried out."""


class WritingOutput(NotPossible):
    """A replay that writes a file cannot be reset once it has stepped."""


class PartlyDone(ApiError):
    """Some vLLM servers did not do as they were told; the others have (502).

    Attributes:
        results: What became of each model commanded, as in the answer's `results`.
        batch_size_by_model: What all models are now commanded to run, in requests.
    """

    @property
    def results(self) -> list[dict[str, Any]]:
        """What became of each model commanded, as in the answer's `results`."""
        results = self.body.get("results")
        return results if isinstance(results, list) else []

    @property
    def batch_size_by_model(self) -> dict[str, int]:
        """What all models are now commanded to run, in requests."""
        sizes = self.body.get("batch_size_by_model")
        return sizes if isinstance(sizes, dict) else {}


class RateLimited(ApiError):
    """Too many requests, wrong tokens or connections (429)."""


class Unavailable(ApiError):
    """The agent cannot answer now: no state yet, or it is ending (503)."""


class AgentFault(ApiError):
    """The agent failed (500). Its log says why."""


_BY_CODE: dict[str, type[ApiError]] = {
    "malformed-body": InvalidRequest,
    "malformed-handshake": InvalidRequest,
    "unauthorized": NotPermitted,
    "forbidden": NotPermitted,
    "unknown-model": UnknownModel,
    "no-recording": NoRecording,
    "run-over": RunOver,
    "no-capacity": NoCapacity,
    "not-lockstep": NotLockstep,
    "not-started": NotStarted,
    "in-progress": InProgress,
    "writing-output": WritingOutput,
    "not-possible": NotPossible,
    "too-large": InvalidRequest,
    "unsupported-media-type": InvalidRequest,
    "invalid-request": InvalidRequest,
    "infeasible-batch-size": InfeasibleBatchSize,
    "key-reused": InvalidRequest,
    "rate-limited": RateLimited,
    "agent-fault": AgentFault,
    "servers-failed": PartlyDone,
    "no-state": Unavailable,
    "not-ready": Unavailable,
    "ending": Unavailable,
}

_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequest,
    401: NotPermitted,
    403: NotPermitted,
    409: NotPossible,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    500: AgentFault,
    503: Unavailable,
}


def error_of(status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> ApiError:
    """The error that a problem means: by its `code`, or, where that is missing or new, by its status.

    Args:
        status: The HTTP status.
        body: The problem's members; empty if the answer had none.
        retry_after_s: What `Retry-After` said, in seconds.

    Returns:
        The error, to be raised.
    """
    kind = _BY_CODE.get(_text(body, "code") or "")
    if kind is None:
        kind = _BY_STATUS.get(status, ApiError)
        if status == 502 and "results" in body:
            kind = PartlyDone
    return kind(status, body, retry_after_s)
