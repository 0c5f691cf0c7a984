"""LiveAgentDatacenter."""

from __future__ import annotations

import logging
import math
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openg2g")

from openg2g.clock import SimulationClock
from openg2g.controller.base import Controller
from openg2g.coordinator import Coordinator
from openg2g.datacenter.base import LLMBatchSizeControlledDatacenter
from openg2g.datacenter.command import DatacenterCommand, SetBatchSize, ShiftReplicas
from openg2g.datacenter.offline import OfflineDatacenter, OfflineDatacenterState
from openg2g.grid.base import GridBackend

from g2g_agent import Agent, Client, Event, NewRun, Skipped, State
from g2g_agent.errors import ConnectionFailed, NotPermitted, NotPossible, PartlyDone, TimedOut, error_of
from g2g_agent.gym import _NoGrid
from g2g_agent.models import Info, Model
from g2g_agent.openg2g import LiveAgentDatacenter, LiveAgentDatacenterState
from sites import Driver

S, L = "small", "large"


def state(seq: int, **changes: Any) -> State:
    by_model = {S: 1.0, L: None}
    raw = {
        "seq": seq,
        "time_s": seq / 10,
        "wall_time": "2026-11-25T12:00:00Z",
        "source": "live",
        "power_w": {"a": 1.0 + seq, "b": 2.0, "c": 3.0},
        "power_by_model_w": {S: 10.0, L: 20.0},
        "batch_size_by_model": {S: 8, L: 16},
        "active_replicas_by_model": {S: 4, L: 0},
        "observed_itl_s_by_model": by_model,
        "phase_share_by_model": {S: [0.5, 0.25, 0.25], L: [1 / 3, 1 / 3, 1 / 3]},
        "measured_power_w": {"a": 0.5, "b": 0.5, "c": 0.5},
        "prometheus_metrics_by_model": {S: {"num_requests_running": 3.0, "num_requests_waiting": None}, L: None},
        "achieved_batch_size_by_model": by_model,
        "stale_by_model": {},
    }
    return State.from_json({**raw, **changes})


class Stream:
    """A stream that the test feeds; None ends it as a break does."""

    def __init__(self) -> None:
        self.items: queue.Queue[Any] = queue.Queue()
        self.closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        item = self.items.get()
        if item is None:
            raise StopIteration
        if isinstance(item, Exception):
            raise item
        return item

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self.items.put(None)


class FakeClient(Client):
    """An agent with two models, which notes what it is told."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self.streams: queue.Queue[Stream] = queue.Queue()
        self.told: list[tuple[Any, ...]] = []
        self.failing: Exception | None = None
        self.happened: list[Event] = []

    def info(self) -> Info:
        return Info.from_json(
            {
                "name": "dc", "version": "1", "source": "live", "started_at": "2026-11-25T12:00:00Z",
                "phase": "stepping", "pace": "real_time", "dt": "1/10", "dt_s": 0.1, "time_s": 1.0, "steps": 10,
                "total_gpu_capacity": 64, "free_gpus": 8, "available_gpu_capacity": 8, "base_kw_per_phase": 0.0,
                "power_factor": 0.95, "gpus_per_server": 8, "history_states": 3000, "control_needs_token": False,
            }
        )  # fmt: skip

    def models(self) -> dict[str, Model]:
        def model(label: str, gpus: int, replicas: int) -> Model:
            return Model.from_json(
                {
                    "model_label": label, "model_id": f"x/{label}", "gpus_per_replica": gpus, "itl_deadline_s": 0.1,
                    "feasible_batch_sizes": [8, 16, 32], "initial_batch_size": 8, "failsafe_batch_size": 8,
                    "batch_size": 8, "achieved_batch_size": None, "batch_size_actuator": None, "replicas": replicas + 1,
                    "replica_shift": 1, "free_replicas": 1, "free_gpus": 8, "available_gpu_capacity": 8,
                    "batch_size_lease_s": None, "replica_lease_s": None, "stale": False, "servers": [],
                }
            )  # fmt: skip

        return {S: model(S, 1, 16), L: model(L, 8, 4)}

    def wait_ready(self, timeout_s: float = 120.0) -> Info:
        return self.info()

    def events(self, *, n: int | None = None, after: int | None = None, wait_s: float | None = None) -> list[Event]:
        return [event for event in self.happened if after is None or event.id > after][-(n or 100) :]

    def stream(self, **_: Any) -> Any:
        made = Stream()
        self.streams.put(made)
        return made

    def _note(self, *what: Any) -> Any:
        self.told.append(what)
        if self.failing is not None:
            raise self.failing

    def set_batch_size(self, batch_size_by_model: Any, **options: Any) -> Any:
        return self._note("batch", dict(batch_size_by_model), options)

    def shift_replicas(self, model_label: str, replica_delta: int, **options: Any) -> Any:
        self._note("shift", model_label, replica_delta, options)
        return True

    def restore(self) -> Any:
        return self._note("restore")


class Live:
    """A datacenter on a fake agent, driven step by step."""

    def __init__(self, **options: Any) -> None:
        self.client = FakeClient()
        self.datacenter = LiveAgentDatacenter(self.client, **{"lost_after_s": 30.0, **options})
        self.drive = Driver(self.datacenter)
        self.stream = self.client.streams.get(timeout=5)

    def send(self, *items: Any) -> None:
        """Have items come, and wait until they have."""
        feed = self.datacenter._feed
        assert feed is not None
        before, states = feed.counts.received, sum(isinstance(item, State) for item in items)
        for item in items:
            self.stream.items.put(item)
        with feed._ready:
            assert feed._ready.wait_for(lambda: feed.counts.received >= before + states, 5)

    def step(self, *items: Any) -> Any:
        if items:
            self.send(*items)
        return self.drive.step()[0]

    def late(self, by_s: float) -> None:
        """The coordinator's clock is so far behind the one on the wall."""
        self.drive.clock.live = True
        self.drive.clock._wall_t0 = time.monotonic() - self.drive.clock.time_s - by_s

    def told(self) -> list[Any]:
        told, self.client.told = self.client.told, []
        return told


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(**options: Any) -> Live:
        made.append(Live(**{"align": False, **options}))
        return made[-1]

    yield make
    for one in made:
        one.client.failing = None
        one.datacenter.stop()
        one.datacenter.close()


def test_states(live: Callable[..., Live]) -> None:
    one = live()
    assert one.datacenter.phase_share_by_model == {}
    seen = one.step(state(40))
    assert isinstance(seen, (LiveAgentDatacenterState, OfflineDatacenterState))
    assert isinstance(one.datacenter, OfflineDatacenter)
    assert (seen.time_s, seen.agent_time_s, seen.seq) == (0.0, 4.0, 40)
    assert (seen.power_w.a, seen.power_w.c) == (41.0, 3.0)
    assert seen.power_by_model_w == seen.augmented_power_w_by_model == {S: 10.0, L: 20.0}
    assert seen.wall_time == datetime(2026, 11, 25, 12, tzinfo=timezone.utc)
    assert math.isnan(seen.observed_itl_s_by_model[L])
    assert math.isnan(seen.achieved_batch_size_by_model[L])
    assert seen.measured_power_w.b == 0.5
    assert seen.prometheus_metrics_by_model[S]["num_requests_running"] == 3.0
    assert math.isnan(seen.prometheus_metrics_by_model[S]["num_requests_waiting"])
    assert seen.prometheus_metrics_by_model[L] == {}
    assert one.datacenter.phase_share_by_model.keys() == {S}
    assert one.datacenter.phase_share_by_model[S].tolist() == [0.5, 0.25, 0.25]
    assert one.datacenter.dt_s == Fraction(1, 10)


def test_openg2gs_live_states() -> None:
    online = pytest.importorskip("openg2g.datacenter.online")
    assert issubclass(LiveAgentDatacenterState, online.OnlineDatacenterState)


def test_every_state_once_and_in_order(live: Callable[..., Live]) -> None:
    one = live()
    one.send(*(state(seq) for seq in range(5)))
    assert [one.step().seq for _ in range(5)] == [0, 1, 2, 3, 4]
    assert one.step(state(5), state(6)).time_s == 0.5
    assert one.step().seq == 6
    assert dict(one.datacenter.counts) == {
        "received": 7, "used": 7, "held": 0, "passed_over": 0, "missed": 0, "runs": 0
    }  # fmt: skip


def test_a_step_waits_for_the_next_state(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    done: list[Any] = []
    waiting = threading.Thread(target=lambda: done.append(one.step()))
    waiting.start()
    one.send(state(1))
    waiting.join(5)
    assert [seen.seq for seen in done] == [1]


def test_the_first_step_waits_for_a_fresh_state(live: Callable[..., Live]) -> None:
    one = live(align=True)
    one.send(state(0), state(1))  # what was there when the stream was opened
    done: list[Any] = []
    waiting = threading.Thread(target=lambda: done.append(one.step()))
    waiting.start()
    feed = one.datacenter._feed
    assert feed is not None

    def passed_over(n: int) -> None:
        with feed._ready:
            assert feed._ready.wait_for(lambda: feed.counts.passed_over == n, 5)

    passed_over(2)
    one.send(state(2))  # at once after: it had been kept, too
    passed_over(3)
    with feed._ready:
        feed._arrived -= 0.1  # a time step later
    one.send(state(3))
    waiting.join(5)
    assert done[0].seq == 3


def test_behind_by_more_than_max_lag(live: Callable[..., Live], caplog: pytest.LogCaptureFixture) -> None:
    one = live(max_lag_s=0.5)
    one.send(*(state(seq) for seq in range(6)))
    assert one.step().seq == 0
    one.send(state(6))
    assert one.step().seq == 1  # 0.5 s behind, which is allowed
    one.send(state(7), state(8))
    assert one.step().seq == 8
    assert one.datacenter.counts["passed_over"] == 6
    assert "6 states passed over" in caplog.text


def test_the_latest_state(live: Callable[..., Live]) -> None:
    one = live(follow="latest")
    one.send(*(state(seq) for seq in range(6)))
    assert one.step().seq == 5
    assert one.step(state(6)).seq == 6
    assert one.datacenter.counts["passed_over"] == 5


@pytest.mark.filterwarnings("ignore:Clock lag")
def test_a_late_clock_is_not_made_later(live: Callable[..., Live]) -> None:
    one = live()
    first = one.step(state(0))
    one.late(0.25)
    held = one.step()
    assert (held.seq, held.held, held.time_s) == (0, True, 0.1)
    assert held.power_w == first.power_w
    assert not first.held
    assert one.datacenter.counts["held"] == 1
    one.late(0.05)
    assert not one.step(state(1)).held
    assert one.drive.topics() == []


def test_a_silent_agent(live: Callable[..., Live], caplog: pytest.LogCaptureFixture) -> None:
    one = live(lost_after_s=0.05)
    one.step(state(0))
    assert [one.step().held for _ in range(3)] == [True] * 3
    assert caplog.text.count("the last one is held") == 1
    one.drive.command(SetBatchSize(batch_size_by_model={S: 16}, target=one.datacenter))
    assert [what[0] for what in one.told()] == ["restore"]  # nothing is sent to nobody
    seen = one.step(state(9), state(10))
    assert (seen.seq, seen.held) == (10, False)
    assert [topic for _, topic, _ in one.drive.topics()] == [
        "datacenter.agent.lost",
        "datacenter.batch_size.updated",
        "datacenter.agent.back",
    ]
    assert one.told() == [("batch", {S: 16}, {"lease_s": 10.0})]


def test_a_silent_agent_may_be_an_error(live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    one = live(lost_after_s=0.05, on_stale="raise")
    one.step(state(0))
    with pytest.raises(ConnectionFailed, match="no state has come"):
        one.step()
    never = live(lost_after_s=0.05)
    feed = never.datacenter._feed
    assert feed is not None
    monkeypatch.setattr(feed, "expect", lambda: None)
    feed._arrived -= 10  # as after so many seconds without any
    with pytest.raises(TimedOut, match="sends no states"):
        never.step()


def test_stale_power(live: Callable[..., Live], caplog: pytest.LogCaptureFixture) -> None:
    one = live()
    assert one.step(state(0, stale_by_model={S: 3.0})).stale_by_model == {S: 3.0}
    one.step(state(1, stale_by_model={S: 3.1}))
    assert caplog.text.count("power is stale of small") == 1
    raising = live(on_stale="raise")
    with pytest.raises(RuntimeError, match=r"'small' for 3\.0 s"):
        raising.step(state(0, stale_by_model={S: 3.0}))
    caplog.clear()
    live(on_stale="ignore").step(state(0, stale_by_model={S: 3.0}))
    assert caplog.text == ""


def test_commands(live: Callable[..., Live]) -> None:
    one = live(lease_s=None)
    one.step(state(0))
    one.told()
    one.drive.command(
        SetBatchSize(batch_size_by_model={S: 16}, ramp_up_rate_by_model={S: 2.0, L: 0.0}, target=one.datacenter)
    )
    one.drive.command(ShiftReplicas(model_label=L, replica_delta=-2, target=one.datacenter))
    assert one.told() == [
        ("batch", {S: 16}, {"ramp_up_rate_by_model": {S: 2.0}, "lease_s": None}),
        ("shift", L, -2, {"lease_s": None}),
    ]
    assert one.drive.topics() == [
        (1, "datacenter.batch_size.updated", {"batch_size_by_model": {S: 16, L: 8}}),
        (1, "datacenter.replicas.shifted", {"model_label": L, "replica_delta": -2, "effective_replicas": 2}),
    ]
    assert one.datacenter.total_gpu_capacity == 64
    assert one.datacenter.current_gpu_usage() == 16 + 2 * 8
    assert one.datacenter.available_gpu_capacity() == 32
    one.step(state(1))
    assert one.told() == []  # nothing to renew


def test_wrong_commands(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    one.told()
    for command, match in (
        (SetBatchSize(batch_size_by_model={"m": 8}, target=one.datacenter), "unknown model 'm'.*'small', 'large'"),
        (SetBatchSize(batch_size_by_model={S: -1}, target=one.datacenter), "above 0"),
        (ShiftReplicas(model_label="m", replica_delta=1, target=one.datacenter), "unknown model"),
    ):
        with pytest.raises(ValueError, match=match):
            one.drive.command(command)
    assert one.told() == []

    class Unknown(DatacenterCommand):
        target = one.datacenter

    with pytest.raises(TypeError, match="Unknown"):
        one.drive.command(Unknown())
    one.client.failing = error_of(422, {"code": "infeasible-batch-size", "detail": "48 is not one of"})
    with pytest.raises(ValueError, match="48 is not one of"):
        one.drive.command(SetBatchSize(batch_size_by_model={S: 48}, target=one.datacenter))
    one.client.failing = error_of(409, {"code": "no-capacity", "detail": "too many"})
    with pytest.raises(RuntimeError, match="too many"):
        one.drive.command(ShiftReplicas(model_label=S, replica_delta=100, target=one.datacenter))
    assert one.datacenter.current_gpu_usage() == 16 + 32
    one.client.failing = None
    assert one.drive.topics() == []


def test_leases_are_renewed_by_steps(live: Callable[..., Live]) -> None:
    one = live(lease_s=0.03)
    one.step(state(0))
    one.drive.command(SetBatchSize(batch_size_by_model={S: 16}, target=one.datacenter))
    one.drive.command(SetBatchSize(batch_size_by_model={L: 32}, target=one.datacenter))
    one.drive.command(ShiftReplicas(model_label=S, replica_delta=3, target=one.datacenter))
    one.told()
    deadline = time.monotonic() + 5
    renewed: list[Any] = []
    seq = 0
    while not renewed and time.monotonic() < deadline:
        seq += 1
        one.step(state(seq))
        renewed = one.told()
    assert renewed == [("batch", {S: 16, L: 32}, {"lease_s": 0.03}), ("shift", S, 0, {"lease_s": 0.03})]


def test_a_command_that_does_not_reach_the_agent_is_sent_again(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    one.told()
    one.client.failing = ConnectionFailed("refused")
    one.drive.command(SetBatchSize(batch_size_by_model={S: 16}, target=one.datacenter))
    one.drive.command(ShiftReplicas(model_label=S, replica_delta=3, target=one.datacenter))
    one.told()
    one.client.failing = None
    one.step(state(1))
    assert one.told() == [("batch", {S: 16}, {"lease_s": 10.0}), ("shift", S, 3, {"lease_s": 10.0})]
    one.step(state(2))
    assert one.told() == []


def test_servers_that_fail_do_not_end_the_run(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    one.client.failing = PartlyDone(502, {"results": [{"model_label": S, "outcome": "unknown"}]})
    one.drive.command(SetBatchSize(batch_size_by_model={S: 16}, target=one.datacenter))
    assert one.drive.topics()[0] == (
        1,
        "datacenter.batch_size.failed",
        {"results": [{"model_label": S, "outcome": "unknown"}]},
    )


def test_an_agent_that_was_started_anew_is_told_again(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(50))
    one.drive.command(SetBatchSize(batch_size_by_model={S: 16}, target=one.datacenter))
    one.drive.command(SetBatchSize(batch_size_by_model={L: 32, S: 8}, target=one.datacenter))
    one.drive.command(ShiftReplicas(model_label=S, replica_delta=3, target=one.datacenter))
    one.drive.command(ShiftReplicas(model_label=S, replica_delta=1, target=one.datacenter))
    one.told()
    one.send(NewRun("b"), state(0))
    assert one.step().seq == 0
    assert one.told() == [("batch", {S: 8, L: 32}, {"lease_s": 10.0}), ("shift", S, 4, {"lease_s": 10.0})]
    assert one.drive.topics()[-1][1] == "datacenter.agent.restarted"
    assert one.datacenter.counts["runs"] == 1


def test_what_is_missing_is_counted(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    one.step(Skipped(3), state(4))
    assert one.datacenter.counts["missed"] == 3


def test_restoring(live: Callable[..., Live]) -> None:
    one = live()
    assert one.told() == [("restore",)]
    one.datacenter.stop()
    assert one.told() == [("restore",)]
    one.client.failing = NotPossible(409, {"detail": "the run has not begun"})
    one.datacenter.do_reset()
    one.client.failing = PartlyDone(502, {})
    one.datacenter.do_reset()
    one.client.failing = ConnectionFailed("gone")
    one.datacenter.stop()  # an end is an end
    with pytest.raises(ConnectionFailed):
        one.datacenter.do_reset()
    one.client.failing = None
    other = live(restore=False)
    other.datacenter.stop()
    assert other.told() == []


def test_a_second_run_begins_anew(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(7))
    one.drive.command(ShiftReplicas(model_label=S, replica_delta=3, target=one.datacenter))
    one.datacenter.stop()
    assert one.datacenter.state.seq == 7
    drive = Driver(one.datacenter)
    assert one.datacenter.current_gpu_usage() == 48
    one.stream, one.drive = one.client.streams.get(timeout=5), drive
    seen = one.step(state(30))
    assert (seen.time_s, seen.seq) == (0.0, 30)
    assert one.datacenter.counts["received"] == 1


def test_the_agents_events_are_passed_on(live: Callable[..., Live]) -> None:
    def event(number: int, topic: str, **data: Any) -> Event:
        raw = {"id": number, "wall_time": None, "time_s": number / 10, "topic": topic, "data": data}
        return Event.from_json(raw)

    one = live()
    one.client.happened = [event(0, "datacenter.power.stale", model_label="before")]
    one.datacenter.stop()
    one.drive = Driver(one.datacenter)
    one.stream = one.client.streams.get(timeout=5)
    one.client.happened += [
        event(1, "datacenter.batch_size.updated", batch_size_by_model={}),  # of somebody's command
        event(2, "datacenter.batch_size.lease_expired", model_label=S, failsafe_batch_size=8),
    ]
    one.step(state(0))
    one.step(state(1))
    assert one.drive.topics() == [
        (
            1,
            "datacenter.batch_size.lease_expired",
            {"model_label": S, "failsafe_batch_size": 8, "agent_time_s": 0.2},
        )
    ]


def test_a_broken_stream_is_opened_again(live: Callable[..., Live]) -> None:
    one = live()
    one.step(state(0))
    one.stream.items.put(ConnectionFailed("broken"))
    one.stream = one.client.streams.get(timeout=5)
    assert one.step(state(1)).seq == 1
    one.stream.items.put(NotPermitted(401, {"detail": "this needs a token"}))
    with pytest.raises(PermissionError, match="token"):
        one.step()


def test_wrong_arguments() -> None:
    for options, match in (({"follow": "all"}, "follow"), ({"on_stale": "x"}, "on_stale"), ({"lease_s": 0}, "lease_s")):
        with pytest.raises(ValueError, match=match):
            LiveAgentDatacenter("http://127.0.0.1:9", **options)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(ConnectionFailed):
            LiveAgentDatacenter(f"http://127.0.0.1:{taken.getsockname()[1]}")


class Recorder(Controller[LLMBatchSizeControlledDatacenter[Any], GridBackend[Any]]):
    """Notes how old states are, and commands now and then."""

    def __init__(self, datacenter: Any, label: str, sizes: tuple[int, int], then: Callable[[int], None]) -> None:
        self.datacenter, self.label, self.sizes, self.then = datacenter, label, sizes, then
        self.ages_s: list[float] = []

    @property
    def dt_s(self) -> Fraction:
        return Fraction(1, 10)

    def reset(self) -> None:
        self.ages_s.clear()

    def step(self, clock: SimulationClock, events: Any) -> list[Any]:
        due = self.datacenter.state.wall_time
        self.ages_s.append((datetime.now(timezone.utc) - due).total_seconds())
        self.then(clock.step)
        if clock.step % 10:
            return []
        size = self.sizes[clock.step // 10 % 2]
        return [SetBatchSize(batch_size_by_model={self.label: size}, target=self.datacenter)]


def coordinate(datacenter: Any, controller: Any, seconds: int) -> Any:
    grid = _NoGrid(datacenter.dt_s)
    coordinator: Any = Coordinator(
        datacenters=[datacenter], grid=grid, controllers=[controller], total_duration_s=seconds, live=True
    )
    return coordinator.run()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Clock lag")
def test_the_demo(demo: Agent) -> None:
    label = "Llama-3.1-8B"
    with LiveAgentDatacenter(demo.url, lease_s=5.0, name="site", max_lag_s=30.0) as datacenter:
        assert [spec.model_label for spec in datacenter.inference_models] == list(demo.client.models())
        during: list[Any] = []

        def look(step: int) -> None:
            if step == 35:
                during.append(demo.client.models()[label])

        controller = Recorder(datacenter, label, (64, 16), look)
        log = coordinate(datacenter, controller, 4)
        seqs = [seen.seq for seen in log.dc_states if not seen.held]
        assert len(log.dc_states) == 40
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert datacenter.counts["missed"] == datacenter.counts["runs"] == 0
        assert min(controller.ages_s) < 0.1
        assert during[0].batch_size == 16
        assert 0 < during[0].batch_size_lease_s <= 5
        # The end puts everything back.
        after = demo.client.models()[label]
        assert (after.batch_size, after.batch_size_lease_s) == (after.initial_batch_size, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Clock lag")
def test_an_agent_that_is_killed_and_started_again(
    binary: Path, replay_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start() -> Agent:
        return Agent.replay(replay_config, pace="real_time", binary=binary, listen=f"127.0.0.1:{port}")

    agents = [start()]

    def kill_and_start(step: int) -> None:
        if step == 15:
            agents[0].process.kill()
            agents[0].process.wait()
        if step == 25:
            agents.append(start())

    caplog.set_level(logging.WARNING)
    try:
        with LiveAgentDatacenter(f"http://127.0.0.1:{port}") as datacenter:
            controller = Recorder(datacenter, "Llama-3.1-70B", (256, 256), kill_and_start)
            log = coordinate(datacenter, controller, 6)
        assert len(log.dc_states) == 60
        topics = [event.topic for event in log.events]
        assert topics.count("datacenter.agent.lost") == topics.count("datacenter.agent.restarted") == 1
        assert datacenter.counts["runs"] == 1
        last = log.dc_states[-1]
        assert not last.held
        assert last.batch_size_by_model["Llama-3.1-70B"] == 256  # commanded before and after
    finally:
        for agent in agents:
            agent.close()
