"""Streams over breaks, restarts and gaps, with both clients."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fake import INFO, Connection, Fake, Request, problem, response, server_frame, state
from g2g_agent import Client, NewRun, Skipped, State, _ws, errors

Connect = Callable[..., Any]


def sends(*messages: Any, then: str = "cut") -> Callable[[Connection, Request], None]:
    """Opens a WebSocket, sends these, and cuts the connection, says goodbye, or waits for the client."""

    def behave(connection: Connection, request: Request) -> None:
        connection.upgrade(request)
        for message in messages:
            connection.text(message)
        if then == "cut":
            connection.cut()
        elif then == "goodbye":
            connection.send(server_frame(_ws.CLOSE, (1001).to_bytes(2, "big") + b"the agent is ending"))
        else:
            while connection.frame() is not None:
                pass

    return behave


def paths(fake: Fake, path: str) -> list[str]:
    return [request.path for request in fake.asked(path)]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "g2g_agent")


def test_states_go_on_after_a_break_where_they_were(fake: Fake, connect: Connect) -> None:
    fake.then(
        "/v1/stream", sends(state(2), state(3)), sends(state(4), state(5), then="goodbye"), sends(state(6), then="wait")
    )
    with connect(fake.url).stream() as stream:
        assert [next(stream).seq for _ in range(5)] == [2, 3, 4, 5, 6]
        assert (stream.reconnects, stream.skipped, stream.run_id) == (2, 0, "run-1")
    assert paths(fake, "/v1/stream") == [
        "/v1/stream?after=1&run=run-1",
        "/v1/stream?after=3&run=run-1",
        "/v1/stream?after=5&run=run-1",
    ]


def test_before_the_first_step_all_states_are_asked_for(fake: Fake, connect: Connect) -> None:
    fake.always("/v1/info", response(200, {**INFO, "steps": 0}))
    fake.then("/v1/stream", sends(state(0), state(1)))
    with connect(fake.url).stream(reconnect=False) as stream:
        assert [next(stream).seq for _ in range(2)] == [0, 1]
    assert paths(fake, "/v1/stream") == ["/v1/stream?after=9007199254740991&run=run-1"]


def test_after_goes_on_from_a_state_that_is_known(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(1), state(2)))
    with connect(fake.url).stream(after=0, reconnect=False) as stream:
        assert [next(stream).seq for _ in range(2)] == [1, 2]
    assert paths(fake, "/v1/stream") == ["/v1/stream?after=0&run=run-1"]


def test_a_state_that_comes_twice_is_given_once(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2), state(3)), sends(state(2), state(3), state(4)))
    with connect(fake.url).stream() as stream:
        assert [next(stream).seq for _ in range(3)] == [2, 3, 4]


GAP = sends(state(2), {"skipped": 3}, state(6), then="wait")


def test_a_gap_is_an_error_and_iterating_goes_on_behind_it(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", GAP)
    with connect(fake.url).stream() as stream:
        assert next(stream).seq == 2
        with pytest.raises(errors.StatesSkipped, match="3 are missing") as caught:
            next(stream)
        assert caught.value.count == 3
        assert next(stream).seq == 6


def test_a_gap_can_be_a_warning(fake: Fake) -> None:
    fake.then("/v1/stream", GAP)
    with Client(fake.url) as client, client.stream(skipped="warn") as stream:
        assert next(stream).seq == 2
        with pytest.warns(UserWarning, match="3 states") as caught:
            assert next(stream).seq == 6
        assert caught[0].filename == __file__


def test_a_gap_can_be_told(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", GAP)
    with connect(fake.url).stream(skipped="yield") as stream:
        assert next(stream).seq == 2
        assert next(stream) == Skipped(3)
        assert next(stream).seq == 6
        assert stream.skipped == 3


def test_a_gap_that_nobody_told_of_is_seen(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2)), sends(state(5)))
    with connect(fake.url).stream(skipped="yield") as stream:
        assert next(stream).seq == 2
        assert next(stream) == Skipped(2)
        assert next(stream).seq == 5


def test_another_run_begins_with_its_first_state(fake: Fake, connect: Connect) -> None:
    fake.then(
        "/v1/stream", sends(state(2), {"run_id": "run-2"}, state(0)), sends(state(1), {"run_id": "run-2"}, state(2))
    )
    with connect(fake.url).stream(skipped="yield") as stream:
        assert next(stream).seq == 2
        assert next(stream) == NewRun("run-2")
        assert [next(stream).seq for _ in range(3)] == [0, 1, 2]
        assert stream.run_id == "run-2"
    assert paths(fake, "/v1/stream")[1] == "/v1/stream?after=0&run=run-2"


def test_without_yield_another_run_is_no_item(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2), {"run_id": "run-2"}, state(0), then="wait"))
    with connect(fake.url).stream() as stream:
        assert [next(stream).seq for _ in range(2)] == [2, 0]


def test_messages_of_later_versions_are_ignored(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends({"of_a_later_version": 1}, state(2), then="wait"))
    with connect(fake.url).stream() as stream:
        assert next(stream).seq == 2


def test_an_agent_that_is_away_is_waited_for(fake: Fake, connect: Connect) -> None:
    fake.then(
        "/v1/stream",
        sends(state(2)),
        problem(503, "ending"),
        problem(429, "rate-limited", Retry_After="0"),
        sends(state(3), then="wait"),
    )
    with connect(fake.url).stream() as stream:
        assert [next(stream).seq for _ in range(2)] == [2, 3]


def test_without_reconnect_a_break_is_an_error(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2), then="goodbye"))
    with connect(fake.url).stream(reconnect=False) as stream:
        assert next(stream).seq == 2
        with pytest.raises(errors.ConnectionFailed, match=r"1001.*ending"):
            next(stream)


def test_reconnecting_ends_when_the_time_is_up(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2)))
    fake.always("/v1/stream", problem(503, "ending"))
    with connect(fake.url).stream(reconnect=0.05) as stream:
        assert next(stream).seq == 2
        with pytest.raises(errors.Unavailable):
            next(stream)


def test_what_is_no_use_to_try_again_is_an_error(fake: Fake, connect: Connect) -> None:
    fake.always("/v1/stream", problem(403, "forbidden"))
    with connect(fake.url).stream() as stream, pytest.raises(errors.NotPermitted):
        next(stream)


def test_garbage_in_a_stream_is_an_error(fake: Fake, connect: Connect) -> None:
    def garbage(connection: Connection, request: Request) -> None:
        connection.upgrade(request)
        connection.send(server_frame(_ws.TEXT, b"no json"))

    fake.then("/v1/stream", garbage)
    with connect(fake.url).stream() as stream, pytest.raises(errors.BadAnswer, match="no json"):
        next(stream)


def test_pings_are_answered(fake: Fake, connect: Connect) -> None:
    pongs: list[Any] = []

    def ping(connection: Connection, request: Request) -> None:
        connection.upgrade(request)
        connection.send(server_frame(_ws.PING, b"are you there"))
        pongs.append(connection.frame())
        connection.text(state(2))

    fake.then("/v1/stream", ping)
    with connect(fake.url).stream(reconnect=False) as stream:
        assert next(stream).seq == 2
    assert pongs == [(_ws.PONG, b"are you there")]


def test_an_answer_that_is_no_handshake_is_an_error(fake: Fake, connect: Connect) -> None:
    fake.always(
        "/v1/stream", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
    )
    with connect(fake.url).stream(reconnect=False) as stream, pytest.raises(errors.BadAnswer, match="handshake"):
        next(stream)


def test_closing_from_another_thread_ends_the_iteration(fake: Fake) -> None:
    fake.then("/v1/stream", sends(state(2), then="wait"))
    with Client(fake.url) as client:
        stream = client.stream()
        assert next(stream).seq == 2
        closer = threading.Thread(target=stream.close)
        left: list[State] = []

        def rest() -> None:
            left.extend(stream)

        reader = threading.Thread(target=rest)
        reader.start()
        closer.start()
        reader.join(30)
        assert not reader.is_alive()
        closer.join()
    assert left == []
    assert list(stream) == []


def test_closing_the_client_ends_its_streams(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/stream", sends(state(2), then="wait"))
    client = connect(fake.url)
    stream = client.stream()
    assert next(stream).seq == 2
    client.close()
    assert list(stream) == []


def test_a_run_that_is_over_ends_the_iteration(fake: Fake, connect: Connect) -> None:
    running = response(200, {**INFO, "steps": 3, "total_steps": 4})
    fake.then("/v1/info", running)
    fake.always("/v1/info", response(200, {**INFO, "phase": "ended", "steps": 4, "total_steps": 4}))
    fake.then("/v1/stream", sends(state(2), state(3), then="wait"))
    assert [one.seq for one in connect(fake.url).stream()] == [2, 3]


def test_wrong_arguments(fake: Fake, connect: Connect) -> None:
    with pytest.raises(ValueError, match='"raise", "warn", "yield"'):
        connect(fake.url).stream(skipped="ignore")


def event(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "wall_time": "2026-11-23T12:00:00Z",
        "time_s": 1.5,
        "topic": "datacenter.t",
        "data": {"n": number},
    }


def test_events_go_on_after_a_break(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/events", sends(event(0), event(1)), sends(event(1), event(2), then="wait"))
    with connect(fake.url).follow_events() as events:
        assert [next(events).id for _ in range(3)] == [0, 1, 2]
    assert paths(fake, "/v1/events") == ["/v1/events?follow=true", "/v1/events?follow=true&after=1"]


def test_events_of_an_agent_started_anew_come_from_the_first_on(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/events", sends(event(7)), sends(then="wait"), sends(event(0), event(1), then="wait"))
    again = response(200, {**INFO, "started_at": "2026-11-23T13:00:00Z"})
    # The restart is between the look at the agent and the opening: ids above 7 may be new ones.
    fake.then("/v1/info", response(200, INFO), response(200, INFO), response(200, INFO))
    fake.always("/v1/info", again)
    with connect(fake.url).follow_events() as events:
        assert [next(events).id for _ in range(3)] == [7, 0, 1]
    assert paths(fake, "/v1/events") == [
        "/v1/events?follow=true",
        "/v1/events?follow=true&after=7",
        "/v1/events?follow=true",
    ]


def test_events_after_one_that_is_known(fake: Fake, connect: Connect) -> None:
    fake.then("/v1/events", sends({"skipped": 2}, event(7), then="wait"))
    with connect(fake.url).follow_events(after=4, skipped="yield") as events:
        assert list(itertools.islice(events, 1)) == [Skipped(2)]
        assert next(events).id == 7
    assert paths(fake, "/v1/events") == ["/v1/events?follow=true&after=4"]
