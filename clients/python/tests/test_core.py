"""When something is asked again, without sockets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from g2g_agent import _core
from g2g_agent._core import Core, Send, Wait
from g2g_agent._http import Response
from g2g_agent.errors import (
    AgentFault,
    BadAnswer,
    ConnectionFailed,
    InvalidRequest,
    NotPermitted,
    NotPossible,
    RateLimited,
    TimedOut,
    Unavailable,
)
from g2g_agent.models import Health, ReplicaShift


def core(**options: Any) -> Core:
    return Core(
        **{
            "url": "http://127.0.0.1:8480",
            "token": None,
            "token_file": None,
            "ca_file": None,
            "timeout_s": 30.0,
            "attempts": 5,
            **options,
        }
    )


def call(body: bytes | None = b"{}") -> _core.Call[Any]:
    return _core.Call("GET" if body is None else "POST", "/x", lambda raw: raw, body)


def answer(status: int, body: Any = None, **headers: str) -> Response:
    return Response(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode()
    )


def drive(of: Core, outcomes: Sequence[Response | ConnectionFailed], what: _core.Call[Any] | None = None) -> Any:
    """Runs one call over these outcomes; returns its result, the requests sent and the waits."""
    requests: list[bytes] = []
    waits: list[float] = []
    left = list(outcomes)
    attempts = of.attempts(what or call())
    action = next(attempts)
    result: Any = None
    try:
        while True:
            if isinstance(action, Wait):
                waits.append(action.seconds)
                action = attempts.send(None)
            else:
                assert isinstance(action, Send)
                requests.append(action.request)
                action = attempts.send(left.pop(0))
    except StopIteration as done:
        result = done.value
    except Exception as err:
        result = err
    assert not left
    return result, requests, waits


def key_of(request: bytes) -> str:
    return next(line for line in request.decode().split("\r\n") if line.startswith("Idempotency-Key"))


LOST = ConnectionFailed("cut")


def test_a_command_is_repeated_with_the_same_key_until_it_is_answered() -> None:
    result, requests, waits = drive(core(), [LOST, TimedOut("t"), answer(200, {"a": 1})])
    assert result == {"a": 1}
    assert len({key_of(request) for request in requests}) == 1
    assert len(set(requests)) == 1
    assert 0.05 <= waits[0] <= 0.1 <= waits[1] <= 0.2


def test_each_command_has_a_key_of_its_own() -> None:
    one, other = core(), core()
    keys = [key_of(drive(of, [answer(200, {})])[1][0]) for of in (one, one, other)]
    assert len(set(keys)) == 3


def test_a_read_has_no_key_and_is_repeated_too() -> None:
    result, requests, _ = drive(core(), [LOST, answer(200, [])], call(None))
    assert result == []
    assert b"Idempotency-Key" not in requests[0]


def test_attempts_are_bounded() -> None:
    result, requests, waits = drive(core(attempts=3), [LOST, LOST, LOST])
    assert result is LOST
    assert (len(requests), len(waits)) == (3, 2)


@pytest.mark.parametrize(
    ("outcome", "wait_s", "kind"),
    [
        (answer(429, {}, retry_after="7"), 7.0, RateLimited),
        (answer(503, {}, retry_after="2"), 2.0, Unavailable),
        (answer(429, {}, retry_after="Wed, 25 Nov 2026 18:00:00 GMT"), None, RateLimited),
        (answer(429, {}), None, RateLimited),
        (answer(409, {"code": "in-progress"}), None, NotPossible),
        (answer(408, {"code": "request-timeout"}), None, Exception),
    ],
)
def test_what_is_asked_again_after_a_while(outcome: Response, wait_s: float | None, kind: type[Exception]) -> None:
    result, requests, waits = drive(core(), [outcome, answer(200, 1)])
    assert result == 1
    assert key_of(requests[0]) == key_of(requests[1])
    assert waits == [wait_s] if wait_s is not None else 0 < waits[0] <= 0.1
    assert isinstance(drive(core(attempts=1), [outcome])[0], kind)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (answer(503, {"code": "ending"}), Unavailable),
        (answer(503, {"code": "no-state"}, retry_after="1"), Unavailable),
        (answer(429, {}, retry_after="3600"), RateLimited),
        (answer(409, {"code": "no-capacity"}), NotPossible),
        (answer(422, {}), InvalidRequest),
        (answer(500, {}), AgentFault),
    ],
)
def test_what_is_an_answer_is_not_asked_again(outcome: Response, kind: type[Exception]) -> None:
    result, requests, _ = drive(core(), [outcome])
    assert isinstance(result, kind)
    assert len(requests) == 1


def test_an_answer_that_is_no_json_is_asked_again_and_then_shown() -> None:
    garbage = Response(200, {}, b"<html>proxy</html>")
    result, _, _ = drive(core(attempts=2), [garbage, garbage])
    assert isinstance(result, BadAnswer)
    assert "<html>proxy" in str(result)
    assert drive(core(attempts=2), [garbage, answer(200, 1)])[0] == 1


def test_a_problem_that_is_no_json_has_its_text() -> None:
    result, _, _ = drive(core(), [Response(502, {}, b"Bad gateway, says the proxy")])
    assert result.status == 502
    assert "says the proxy" in str(result)


def test_a_token_file_is_read_again_when_it_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    of = core(token_file=file)
    file.write_text("new\n")
    result, requests, waits = drive(of, [answer(401, {}), answer(200, 1)])
    assert (result, waits) == (1, [])
    assert b"Authorization: Bearer old\r\n" in requests[0]
    assert b"Authorization: Bearer new\r\n" in requests[1]
    assert key_of(requests[0]) == key_of(requests[1])


def test_a_token_that_has_not_changed_is_not_tried_again(tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    for of in (core(token_file=file), core(token="old"), core()):
        assert isinstance(drive(of, [answer(401, {})])[0], NotPermitted)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(core(token="secret").token)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "127.0.0.1:8480"}, "http://127.0.0.1:8480"),
        ({"url": "ftp://h"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://h/?a=1"}, "url"),
        ({"url": "http://me:secret@h"}, "token"),
        ({"url": "http://h:99999"}, "[Pp]ort"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"attempts": 0}, "attempts"),
        ({"token": "a b"}, "token"),
        ({"token": ""}, "token"),
        ({"token": "a", "token_file": "b"}, "exclude"),
        ({"ca_file": "x"}, "https"),
    ],
)
def test_wrong_arguments_say_what_would_be_right(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core(**options)


def test_urls_with_a_path_and_ipv6() -> None:
    request = core(url="http://[::1]:80/dc/1/").request("GET", "/v1/info")
    assert request.startswith(b"GET /dc/1/v1/info HTTP/1.1\r\nHost: [::1]:80\r\n")
    assert core(url="https://h").port == 443


def test_bodies_take_what_number_types_there_are() -> None:
    class Numpy:
        def item(self) -> int:
            return 8

    body = _core.steps_body(n=1, batch_size_by_model={"m": Numpy()}, lease_s=Fraction(1, 2))  # type: ignore[dict-item, arg-type]
    assert json.loads(body) == {"steps": 1, "batch_size_by_model": {"m": 8}, "lease_s": 0.5}
    with pytest.raises(ValueError, match="JSON takes finite numbers"):
        _core.body_of(lease_s=float("nan"))
    with pytest.raises(ValueError, match="object"):
        _core.body_of(x=object())


def test_steps_with_all_that_can_stand_in_them() -> None:
    body = _core.steps_body(
        until_s=1.5,
        replica_shifts=[ReplicaShift("m", -2), ReplicaShift("n", 3, 9.0)],
        fields=("power_w",),
        columns=True,
    )
    assert json.loads(body) == {
        "until_s": 1.5,
        "replica_shifts": [
            {"model_label": "m", "replica_delta": -2},
            {"model_label": "n", "replica_delta": 3, "lease_s": 9.0},
        ],
        "fields": ["power_w"],
        "layout": "columns",
    }


def test_the_environment_names_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"G2G_AGENT_{name}", raising=False)
    assert _core.from_env({}) == {"url": "http://127.0.0.1:8480", "token": None, "token_file": None}
    monkeypatch.setenv("G2G_AGENT_URL", "http://h:1")
    monkeypatch.setenv("G2G_AGENT_TOKEN", "t")
    assert _core.from_env({"timeout_s": 1}) == {"url": "http://h:1", "token": "t", "token_file": None, "timeout_s": 1}
    monkeypatch.setenv("G2G_AGENT_TOKEN_FILE", "f")
    with pytest.raises(ValueError, match="unset one"):
        _core.from_env({})
    assert _core.from_env({"token": "mine"})["token"] == "mine"


def test_waiting_for_readiness_ends_and_says_why() -> None:
    wait = _core.WaitReady("http://h", 10.0, 100.0)
    assert wait.after(Health(False, ("warming up",)), 101.0) == _core.READY_LOOK_S
    assert wait.after(ConnectionFailed("refused"), 102.0) == _core.READY_LOOK_S
    assert wait.after(Health(True, ()), 120.0) is None
    with pytest.raises(TimedOut, match="10 s: stale; late"):
        wait.after(Health(False, ("stale", "late")), 110.0)
