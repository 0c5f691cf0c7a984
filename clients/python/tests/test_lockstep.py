"""Steps over a WebSocket, and what becomes of them when it breaks, with both clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fake import INFO, Connection, Fake, Request, problem, response, server_frame, state
from g2g_agent import Client, ReplicaShift, States, _ws, errors

Connect = Callable[..., Any]
LOCKSTEP = {**INFO, "pace": "lockstep", "source": "replay", "phase": "waiting", "steps": 0, "time_s": 0}


def columns(*states: dict[str, Any]) -> dict[str, Any]:
    return States(list(states)).columns


def info(steps: int, **members: Any) -> bytes:
    return response(200, {**LOCKSTEP, "steps": steps, "time_s": steps / 10, **members})


class Talk:
    """A WebSocket that answers by a script; what has been asked is kept."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[Any] = []
        self._answers = list(answers)

    def __call__(self, connection: Connection, request: Request) -> None:
        connection.upgrade(request)
        while (message := connection.message()) is not None:
            self.asked.append(message)
            answer = self._answers.pop(0)
            if answer is None:
                connection.cut()
                return
            if isinstance(answer, bytes):
                connection.send(answer)
            else:
                connection.text(answer)


@pytest.fixture
def replay(fake: Fake) -> Fake:
    fake.always("/v1/info", info(0))
    return fake


def test_single_steps_come_as_states_and_several_as_columns(replay: Fake, connect: Connect) -> None:
    talk = Talk([state(0)], columns(state(1), state(2)), [])
    replay.then("/v1/lockstep", talk)
    client = connect(replay.url)
    assert client.step()[0].seq == 0
    assert [one.seq for one in client.step(2)] == [1, 2]
    assert len(client.step()) == 0
    assert talk.asked == [{"steps": 1}, {"steps": 2, "layout": "columns"}, {"steps": 1}]
    assert len(replay.asked("/v1/info")) == 1


def test_commands_stand_in_the_request(replay: Fake, connect: Connect) -> None:
    talk = Talk([], columns(state(0)), [state(1)])
    replay.then("/v1/lockstep", talk)
    client = connect(replay.url)
    assert len(client.step(0, batch_size_by_model={"m": 8}, lease_s=5)) == 0
    client.step_until(0.05, replica_shifts=[ReplicaShift("m", -2), ReplicaShift("m", 1, lease_s=3)])
    client.step(ramp_up_rate_by_model={"m": 2}, batch_size_by_model={"m": 16}, fields=("power_w",))
    assert talk.asked == [
        {"steps": 0, "batch_size_by_model": {"m": 8}, "lease_s": 5},
        {
            "until_s": 0.05,
            "replica_shifts": [
                {"model_label": "m", "replica_delta": -2},
                {"model_label": "m", "replica_delta": 1, "lease_s": 3},
            ],
            "layout": "columns",
        },
        {
            "steps": 1,
            "batch_size_by_model": {"m": 16},
            "ramp_up_rate_by_model": {"m": 2},
            "fields": ["power_w"],
        },
    ]


def test_a_problem_is_its_error_and_the_next_step_goes_on(replay: Fake, connect: Connect) -> None:
    wrong = {
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "9 is not feasible",
        "code": "infeasible-batch-size",
        "errors": [{"location": "body.batch_size_by_model.m", "message": "9", "code": "infeasible-batch-size"}],
    }
    replay.then("/v1/lockstep", Talk(wrong, [state(0)]))
    client = connect(replay.url)
    with pytest.raises(errors.InfeasibleBatchSize, match="9 is not feasible") as caught:
        client.step(batch_size_by_model={"m": 9})
    assert caught.value.errors[0].location == "body.batch_size_by_model.m"
    assert client.step()[0].seq == 0
    assert len(replay.asked("/v1/lockstep")) == 1


def test_a_run_that_steps_by_itself_is_an_error(replay: Fake, connect: Connect) -> None:
    replay.always("/v1/lockstep", problem(409, "not-lockstep"))
    with pytest.raises(errors.NotLockstep):
        connect(replay.url).step()


@pytest.mark.parametrize("status", [404, 426])
def test_without_the_websocket_steps_go_by_post(replay: Fake, connect: Connect, status: int) -> None:
    replay.always("/v1/lockstep", problem(status))
    replay.then("/v1/steps", response(200, [state(0)]), response(200, [state(1), state(2)]))
    client = connect(replay.url)
    assert client.step()[0].seq == 0
    two = client.step(2, batch_size_by_model={"m": 8})
    assert two.columns["seq"] == [1, 2]
    assert [request.json for request in replay.asked("/v1/steps")] == [
        {"steps": 1},
        {"steps": 2, "batch_size_by_model": {"m": 8}},
    ]
    assert len(replay.asked("/v1/lockstep")) == 1


def test_a_long_answer_in_parts_is_one(replay: Fake, connect: Connect) -> None:
    text = json.dumps(columns(*(state(i) for i in range(2000)))).encode()
    assert len(text) > 1 << 16
    parts = (
        server_frame(_ws.TEXT, text[:1000], final=False) + server_frame(_ws.PING, b"") + server_frame(0, text[1000:])
    )
    replay.then("/v1/lockstep", Talk(server_frame(_ws.TEXT, text), parts))
    client = connect(replay.url)
    for _ in range(2):
        assert client.step(2000).columns["seq"] == list(range(2000))


class TestLostAnswers:
    """The connection breaks after the request: the agent is asked how far it is."""

    def test_nothing_was_done(self, replay: Fake, connect: Connect) -> None:
        again = Talk([state(0)])
        replay.then("/v1/lockstep", Talk(None), again)
        assert connect(replay.url).step(batch_size_by_model={"m": 8})[0].seq == 0
        assert again.asked == [{"steps": 1, "batch_size_by_model": {"m": 8}}]

    def test_all_was_done(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0), info(1))  # at the opening, and while it is still computing
        replay.always("/v1/info", info(2))
        replay.then("/v1/lockstep", Talk(None), Talk([state(2)]))
        replay.always("/v1/history", response(200, [state(0), state(1)]))
        client = connect(replay.url)
        assert [one.seq for one in client.step(2)] == [0, 1]
        assert len(replay.asked("/v1/info")) == 3
        assert replay.asked("/v1/history")[0].path == "/v1/history?n=2"
        assert client.step()[0].seq == 2

    def test_another_run_began(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0))
        replay.always("/v1/info", info(0, run_id="run-2"))
        replay.then("/v1/lockstep", Talk(None))
        with pytest.raises(errors.ConnectionFailed, match="anew"):
            connect(replay.url).step()

    def test_somebody_else_stepped_too(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0))
        replay.always("/v1/info", info(5))
        replay.then("/v1/lockstep", Talk(None))
        with pytest.raises(errors.ConnectionFailed, match="5 steps were computed"):
            connect(replay.url).step(2)

    def test_its_states_are_not_kept_any_more(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0))
        replay.always("/v1/info", info(20))
        replay.then("/v1/lockstep", Talk(None))
        with pytest.raises(errors.ConnectionFailed, match="cannot be had any more"):
            connect(replay.url).step(20)

    def test_a_shift_alone_may_have_been_carried_out(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/lockstep", Talk(None))
        with pytest.raises(errors.ConnectionFailed, match="shift"):
            connect(replay.url).step(0, replica_shifts=[ReplicaShift("m", 1)])

    def test_the_run_ended_before_all_was_done(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0))
        replay.always("/v1/info", info(2, total_steps=2, phase="ended"))
        replay.then("/v1/lockstep", Talk(None))
        replay.always("/v1/history", response(200, [state(0), state(1)]))
        assert [one.seq for one in connect(replay.url).step(5)] == [0, 1]

    def test_until_a_time(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0), info(1))
        replay.always("/v1/info", info(2))
        replay.then("/v1/lockstep", Talk(None))
        replay.always("/v1/history", response(200, [state(0), state(1)]))
        assert [one.seq for one in connect(replay.url).step_until(0.1)] == [0, 1]
        assert len(replay.asked("/v1/info")) == 3

    def test_the_agent_is_gone(self, replay: Fake, connect: Connect) -> None:
        replay.then("/v1/info", info(0))
        replay.always("/v1/info", problem(503, "ending"))
        replay.then("/v1/lockstep", Talk(None))
        with pytest.raises(errors.Unavailable):
            connect(replay.url).step()

    def test_attempts_are_bounded(self, replay: Fake, connect: Connect) -> None:
        talks = [Talk(None) for _ in range(10)]
        replay.then("/v1/lockstep", *talks)
        with pytest.raises(errors.ConnectionFailed):
            connect(replay.url, attempts=3).step()
        assert sum(len(talk.asked) for talk in talks) == 4


def test_a_reset_is_a_command_and_steps_begin_anew(replay: Fake, connect: Connect) -> None:
    replay.then("/v1/lockstep", Talk([state(0)], None), Talk([state(0)]))
    replay.then("/v1/reset", response(200, {**LOCKSTEP, "run_id": "run-2"}))
    client = connect(replay.url)
    client.step()
    again = client.reset(
        seed=7, replicas={"m": {"initial": 2}}, initial_batch_sizes={"m": 8}, training=[], duration_s=60
    )
    assert again.run_id == "run-2"
    reset = replay.asked("/v1/reset")[0]
    assert reset.json == {
        "seed": 7,
        "replicas": {"m": {"initial": 2}},
        "initial_batch_sizes": {"m": 8},
        "training": [],
        "duration_s": 60,
    }
    assert "idempotency-key" in reset.headers
    replay.always("/v1/info", info(0, run_id="run-2"))
    assert client.step()[0].seq == 0  # recovered: that the run is another one is known


def test_ctrl_c_does_not_mix_up_answers(replay: Fake) -> None:
    first, second = Talk([state(0)]), Talk([state(1)])
    replay.then("/v1/lockstep", first, second)
    with Client(replay.url) as client:
        client.step()
        socket = client._lockstep._socket
        assert socket is not None

        def interrupted(*_: Any) -> bytes:
            raise KeyboardInterrupt

        socket.exchange = interrupted  # type: ignore[assignment, method-assign]
        with pytest.raises(KeyboardInterrupt):
            client.step()
        assert client.step()[0].seq == 1
    assert len(second.asked) == 1


def test_threads_step_one_after_the_other(replay: Fake) -> None:
    replay.then("/v1/lockstep", Talk(*([state(i)] for i in range(80))))
    seen: list[int] = []
    with Client(replay.url) as client:

        def work() -> None:
            for _ in range(20):
                seen.append(client.step()[0].seq)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(80))


def test_a_silent_agent_ends_at_the_timeout(replay: Fake, connect: Connect) -> None:
    enough = threading.Event()

    def silent(connection: Connection, request: Request) -> None:
        connection.upgrade(request)
        connection.message()
        enough.wait(30)

    replay.always("/v1/lockstep", silent)
    try:
        with pytest.raises(errors.TimedOut, match=r"0\.1 s"):
            connect(replay.url, timeout_s=0.1, attempts=1).step()
    finally:
        enough.set()


def test_fields_may_be_a_list_and_are_no_text(replay: Fake, connect: Connect) -> None:
    talk = Talk([{"seq": 0, "time_s": 0, "source": "replay"}])
    replay.then("/v1/lockstep", talk)
    client = connect(replay.url)
    assert client.step(fields=["source"])[0].source == "replay"
    assert talk.asked == [{"steps": 1, "fields": ["source"]}]
    with pytest.raises(ValueError, match="a list of names"):
        client.step(fields="source")
