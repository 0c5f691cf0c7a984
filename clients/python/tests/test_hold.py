"""Leases that renew themselves, with both clients."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fake import INFO, Connection, Fake, Request, answered, cut, problem, response
from g2g_agent import Client, errors
from g2g_agent.hold import Lease, renewal_limits
from g2g_agent.models import BatchSizeAnswer
from test_models import MODEL

Connect = Callable[..., Any]
LEASE_S = 0.15


class Commands:
    """Answers commands of batch sizes, after those that are to fail, and tells when there have been so many."""

    def __init__(self, fake: Fake) -> None:
        self.bodies: list[Any] = []
        self._came = threading.Condition()
        self._failing: list[Any] = []
        fake.always("/v1/batch-sizes", self)
        fake.always("/v1/models", response(200, [{**MODEL, "batch_size": 16}]))

    def fail(self, *how: Any) -> None:
        with self._came:
            self._failing += how

    def __call__(self, connection: Connection, request: Request) -> None:
        with self._came:
            self.bodies.append(request.json)
            how = self._failing.pop(0) if self._failing else response(200, answered())
            self._came.notify_all()
        if isinstance(how, bytes):
            connection.send(how)
        else:
            how(connection, request)

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.bodies) >= count, 30), (
                f"{len(self.bodies)} of {count} commands came"
            )


@pytest.fixture
def commands(fake: Fake, caplog: pytest.LogCaptureFixture) -> Commands:
    caplog.set_level(logging.CRITICAL, "g2g_agent")
    return Commands(fake)


def test_a_lease_is_renewed_until_the_end(fake: Fake, connect: Connect, commands: Commands) -> None:
    with connect(fake.url).hold({"m": 8}, lease_s=LEASE_S) as hold:
        commands.wait(4)
        assert hold.batch_size_by_model == {"m": 8}
        assert hold.failures == 0
    after = len(commands.bodies)
    assert commands.bodies == [{"batch_size_by_model": {"m": 8}, "lease_s": LEASE_S}] * after


def test_what_is_held_can_be_changed(fake: Fake, connect: Connect, commands: Commands) -> None:
    with connect(fake.url).hold({"m": 8}, lease_s=LEASE_S) as hold:
        hold.set({"n": 16})
        changed = len(commands.bodies)
        commands.wait(changed + 2)
    assert commands.bodies[-1] == {"batch_size_by_model": {"m": 8, "n": 16}, "lease_s": LEASE_S}


def test_a_change_that_is_refused_changes_nothing(fake: Fake, connect: Connect, commands: Commands) -> None:
    with connect(fake.url).hold({"m": 8}, lease_s=30) as hold:
        commands.fail(problem(422, "infeasible-batch-size"))
        with pytest.raises(errors.InfeasibleBatchSize):
            hold.set({"m": 9})
        assert hold.batch_size_by_model == {"m": 8}


def test_failures_are_told_and_tried_again(fake: Fake, connect: Connect, commands: Commands) -> None:
    told: list[errors.AgentError] = []
    with connect(fake.url).hold({"m": 8}, lease_s=LEASE_S, on_failure=told.append) as hold:
        commands.fail(cut, problem(503, "ending"), problem(422, "invalid-request"))
        commands.wait(6)
        assert hold.failures == 3
        assert hold.error is None
    assert [type(error) for error in told] == [errors.ConnectionFailed, errors.Unavailable, errors.InvalidRequest]


def test_a_function_that_fails_does_not_end_the_renewals(fake: Fake, connect: Connect, commands: Commands) -> None:
    def broken(error: errors.AgentError) -> None:
        raise RuntimeError("mine")

    with connect(fake.url).hold({"m": 8}, lease_s=LEASE_S, on_failure=broken):
        commands.fail(cut)
        commands.wait(4)


def test_restore_commands_what_ran_before(fake: Fake, connect: Connect, commands: Commands) -> None:
    models = [{**MODEL, "model_label": label, "batch_size": size} for label, size in (("m", 16), ("n", 32), ("o", 64))]
    fake.always("/v1/models", response(200, models))
    with connect(fake.url).hold({"m": 8}, lease_s=30, restore=True) as hold:
        hold.set({"n": 8})
    assert commands.bodies[-1] == {"batch_size_by_model": {"m": 16, "n": 32}}
    assert len(commands.bodies) == 3


def test_a_hold_ends_while_a_renewal_hangs(fake: Fake, connect: Connect, commands: Commands) -> None:
    enough = threading.Event()
    try:
        with connect(fake.url).hold({"m": 8}, lease_s=LEASE_S):
            commands.fail(lambda connection, request: enough.wait(30))
            commands.wait(2)
    finally:
        enough.set()


def test_the_first_command_may_fail(fake: Fake, connect: Connect, commands: Commands) -> None:
    commands.fail(problem(422, "infeasible-batch-size"))
    with pytest.raises(errors.InfeasibleBatchSize), connect(fake.url).hold({"m": 9}, lease_s=30):
        pass
    assert len(commands.bodies) == 1


def test_not_in_lockstep(fake: Fake, connect: Connect, commands: Commands) -> None:
    fake.always("/v1/info", response(200, {**INFO, "pace": "lockstep"}))
    with pytest.raises(ValueError, match="lease_s to step"), connect(fake.url).hold({"m": 8}, lease_s=30):
        pass
    with pytest.raises(ValueError, match="above 0"):
        connect(fake.url).hold({"m": 8}, lease_s=0)


def test_closing_twice_is_closing(fake: Fake, commands: Commands) -> None:
    with Client(fake.url) as client:
        hold = client.hold({"m": 8}, lease_s=30)
        hold.close()
        hold.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "g2g-agent-hold"]


def test_a_lease_that_ran_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("g2g_agent.hold.time.monotonic", lambda: now[0])
    lease = Lease({"m": 8}, 10.0)
    answer = BatchSizeAnswer.from_json(answered())
    for sent_s, answered_s, lapses in [(100, 100, 0), (103, 104, 0), (112, 112.9, 0), (125, 125.5, 1), (128, 128, 1)]:
        now[0] = answered_s
        lease._took({"m": 8}, sent_s, answer)
        assert lease.lapses == lapses


def test_a_renewal_takes_no_longer_than_until_the_next() -> None:
    assert renewal_limits(30.0, 12.0) == (4.0, 1)
    assert renewal_limits(30.0, 0.3) == (1.0, 1)
    assert renewal_limits(2.0, 60.0) == (2.0, 1)
