"""Errors by meaning."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from g2g_agent import errors
from g2g_agent.errors import ApiError, error_of

CODES: dict[str, tuple[int, type[ApiError], type[Exception]]] = {
    "malformed-body": (400, errors.InvalidRequest, ValueError),
    "malformed-handshake": (400, errors.InvalidRequest, ValueError),
    "unauthorized": (401, errors.NotPermitted, PermissionError),
    "forbidden": (403, errors.NotPermitted, PermissionError),
    "not-found": (404, errors.ApiError, errors.AgentError),
    "unknown-model": (404, errors.UnknownModel, KeyError),
    "method-not-allowed": (405, errors.ApiError, errors.AgentError),
    "request-timeout": (408, errors.ApiError, errors.AgentError),
    "run-over": (409, errors.RunOver, RuntimeError),
    "no-capacity": (409, errors.NoCapacity, RuntimeError),
    "no-recording": (404, errors.NoRecording, LookupError),
    "not-lockstep": (409, errors.NotLockstep, RuntimeError),
    "not-started": (409, errors.NotStarted, RuntimeError),
    "in-progress": (409, errors.InProgress, RuntimeError),
    "writing-output": (409, errors.WritingOutput, RuntimeError),
    "not-possible": (409, errors.NotPossible, RuntimeError),
    "too-large": (413, errors.InvalidRequest, ValueError),
    "unsupported-media-type": (415, errors.InvalidRequest, ValueError),
    "invalid-request": (422, errors.InvalidRequest, ValueError),
    "infeasible-batch-size": (422, errors.InfeasibleBatchSize, ValueError),
    "key-reused": (422, errors.InvalidRequest, ValueError),
    "upgrade-required": (426, errors.ApiError, errors.AgentError),
    "rate-limited": (429, errors.RateLimited, errors.AgentError),
    "agent-fault": (500, errors.AgentFault, errors.AgentError),
    "servers-failed": (502, errors.PartlyDone, errors.AgentError),
    "no-state": (503, errors.Unavailable, errors.AgentError),
    "not-ready": (503, errors.Unavailable, errors.AgentError),
    "ending": (503, errors.Unavailable, errors.AgentError),
}


@pytest.mark.parametrize("code", CODES)
def test_each_code_has_its_class(code: str) -> None:
    status, kind, builtin = CODES[code]
    error = error_of(status, {"title": "T", "status": status, "detail": "because", "code": code}, 2.0)
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert (error.status, error.code, error.title, error.detail, error.retry_after_s) == (
        status,
        code,
        "T",
        "because",
        2.0,
    )
    assert str(error) == f"{status} {code}: because"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest),
        (401, errors.NotPermitted),
        (403, errors.NotPermitted),
        (409, errors.NotPossible),
        (413, errors.InvalidRequest),
        (415, errors.InvalidRequest),
        (418, errors.ApiError),
        (422, errors.InvalidRequest),
        (429, errors.RateLimited),
        (500, errors.AgentFault),
        (502, errors.ApiError),
        (503, errors.Unavailable),
    ],
)
@pytest.mark.parametrize("body", [{}, {"code": "of-a-later-version"}, {"code": 5}])
def test_without_a_code_that_is_known_the_status_says(status: int, kind: type[ApiError], body: dict[str, Any]) -> None:
    assert type(error_of(status, body)) is kind


def test_what_became_of_each_model() -> None:
    results = [{"model_label": "m", "outcome": "unknown", "detail": "…"}]
    error = error_of(502, {"results": results, "batch_size_by_model": {"m": 8}})
    assert isinstance(error, errors.PartlyDone)
    assert error.results == results
    assert error.batch_size_by_model == {"m": 8}
    bare = error_of(502, {"code": "servers-failed"})
    assert isinstance(bare, errors.PartlyDone)
    assert (bare.results, bare.batch_size_by_model) == ([], {})


def test_the_parts_at_fault() -> None:
    fault = {
        "location": "body.batch_size_by_model.m",
        "message": "9 is not one of [8 16]",
        "code": "infeasible-batch-size",
    }
    error = error_of(422, {"errors": [fault, {"message": "x"}, "nonsense"]})
    assert error.errors == (
        errors.FieldError("body.batch_size_by_model.m", "9 is not one of [8 16]", "infeasible-batch-size"),
        errors.FieldError("", "x", None),
    )
    assert error_of(422, {"errors": "nonsense"}).errors == ()


def test_errors_can_be_sent_to_another_process() -> None:
    for error in (
        error_of(409, {"code": "no-capacity", "detail": "d"}, 1.0),
        error_of(401, {"detail": "d"}),
        errors.StartFailed("no", exit_status=2, log_lines=["a"]),
        errors.StatesSkipped(3),
        errors.TimedOut("t"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_what_is_caught_by_the_built_in_names() -> None:
    assert issubclass(errors.ConnectionFailed, ConnectionError)
    assert issubclass(errors.TimedOut, TimeoutError)
    assert issubclass(errors.StartFailed, RuntimeError)
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, errors.AgentError)


def test_a_failed_start_shows_the_last_lines() -> None:
    error = errors.StartFailed("it ended", exit_status=2, log_lines=[f"line {i}" for i in range(20)])
    assert str(error).splitlines() == ["it ended", *(f"  line {i}" for i in range(10, 20))]
