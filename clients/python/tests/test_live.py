"""Against live runs on simulated hosts, and replays in real time, with both clients."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import CONFIG, MODELS
from g2g_agent import Agent, NewRun, errors
from proxy import Proxy

pytestmark = pytest.mark.slow
Connect = Callable[..., Any]
SMALL, MIDDLE, LARGE = MODELS


def test_a_live_state(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    state = client.next_state(client.state().seq, wait_s=10)
    assert state.source == "live"
    assert state.wall_time is not None
    assert sum(state.power_w) > 1e6
    for by_model in (
        state.measured_power_w_by_model,
        state.achieved_batch_size_by_model,
        state.itl_percentiles_s_by_model,
    ):
        assert list(by_model) == MODELS
    assert not any(math.isnan(itl_s) for itl_s in state.observed_itl_s_by_model.values())
    assert client.models()[SMALL].servers[0].answers
    assert client.ready().ok


def test_states_come_once_and_in_order_over_breaks(
    demo: Agent, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "g2g_agent")
    with Proxy(int(demo.url.rsplit(":", 1)[1])) as proxy:
        client = connect(proxy.url)
        with client.stream() as stream:
            seqs = []
            for i, state in enumerate(itertools.islice(stream, 30)):
                seqs.append(state.seq)
                if i % 7 == 3:
                    proxy.cut()
            assert stream.reconnects >= 3
            assert stream.skipped == 0
        client.close()
    assert seqs == list(range(seqs[0], seqs[0] + 30))


def test_a_long_poll_that_nothing_comes_of(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    assert client.events(after=10**6, wait_s=0) == client.events()  # an id that there has not been
    last = client.events()
    after = last[-1].id if last else 0
    client.set_batch_size({SMALL: 32})
    client.set_batch_size({SMALL: 64})
    came = client.events(after=after, wait_s=10)
    assert came
    assert all(event.id > after for event in came)


def test_events_are_followed(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    with client.follow_events() as events:
        client.set_batch_size({MIDDLE: 16})
        client.set_batch_size({MIDDLE: 32})
        sizes = []
        for event in events:
            if event.topic == "datacenter.batch_size.updated":
                sizes.append(event.data["batch_size_by_model"][MIDDLE])
            if sizes[-2:] == [16, 32]:
                break


def test_a_lease_that_is_held_does_not_run_out_and_then_it_does(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    kept = client.events()
    with client.follow_events(after=kept[-1].id if kept else None) as events:
        next_expiry = (event for event in events if event.topic == "datacenter.batch_size.lease_expired")
        with client.hold({SMALL: 16}, lease_s=1) as hold:
            with client.stream() as states:
                held = [state.batch_size_by_model[SMALL] for state in itertools.islice(states, 25)]
            assert held[2:] == [16] * 23
            assert (hold.failures, hold.lapses) == (0, 0)
        assert next(next_expiry).data == {"model_label": SMALL, "failsafe_batch_size": 64}
    with client.stream() as states:  # the server is told; it takes it a little later
        assert any(state.batch_size_by_model[SMALL] == 64 for state in itertools.islice(states, 50))
    with client.hold({SMALL: 16}, lease_s=30, restore=True):
        assert client.models()[SMALL].batch_size == 16
    assert client.models()[SMALL].batch_size == 64
    assert client.models()[SMALL].batch_size_lease_s is None


def test_restore(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    client.set_batch_size({SMALL: 8, LARGE: 8})
    client.shift_replicas(LARGE, -10)
    answer = client.restore()
    assert answer.batch_size_by_model == {SMALL: 64, MIDDLE: 32, LARGE: 32}
    assert answer.replica_shift_by_model == dict.fromkeys(MODELS, 0)


def test_what_a_live_run_does_not_do(demo: Agent, connect: Connect) -> None:
    client = connect(demo.url)
    with pytest.raises(errors.NotLockstep):
        client.step()
    with pytest.raises(errors.NotLockstep):
        client.reset()


def test_before_it_is_warm(binary: Path) -> None:
    with Agent.demo(binary=binary) as agent:
        with pytest.raises(errors.Unavailable):
            agent.client.state()
        with pytest.raises(errors.NotStarted):
            agent.client.set_batch_size({SMALL: 8})
        with pytest.raises(errors.TimedOut, match="not ready after"):
            agent.client.wait_ready(timeout_s=0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_an_agent_that_is_killed_and_started_anew(
    binary: Path, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on with the new run, and the hold commands it."""
    caplog.set_level(logging.ERROR, "g2g_agent")
    listen = f"127.0.0.1:{free_port()}"
    real_time = {"pace": "real_time", "binary": binary, "listen": listen}
    first = Agent.replay(CONFIG, **real_time)  # type: ignore[arg-type]
    client = connect(first.url)
    with client.stream(skipped="yield") as stream, client.hold({SMALL: 16}, lease_s=2) as hold:
        seqs = [next(stream).seq for _ in range(3)]
        first.process.send_signal(signal.SIGKILL)
        assert first.close() == -signal.SIGKILL
        second = Agent.replay(CONFIG, **real_time)  # type: ignore[arg-type]
        try:
            items = []
            for item in stream:
                items.append(item)
                if getattr(item, "batch_size_by_model", {}).get(SMALL) == 16 and any(
                    isinstance(one, NewRun) for one in items
                ):
                    break
        finally:
            run_id = second.client.info().run_id
            second.close()
        assert hold.error is None or isinstance(hold.error, errors.ConnectionFailed)
    assert run_id is not None
    began = items.index(NewRun(run_id))
    before, after = [item.seq for item in items[:began]], [item.seq for item in items[began + 1 :]]
    assert seqs + before == list(range(seqs[0], seqs[0] + 3 + len(before)))
    assert after == list(range(len(after)))


def test_a_replay_in_real_time_ends_and_so_does_its_stream(binary: Path, connect: Connect) -> None:
    env = {"G2G_AGENT_REPLAY__DURATION_S": "2"}
    with Agent.replay(CONFIG, pace="real_time", binary=binary, env=env) as agent:
        client = connect(agent.url)
        seqs = [state.seq for state in client.stream(after=0)]
        assert seqs[-1] == 19
        assert seqs == list(range(seqs[0], 20))
        assert client.info().phase == "ended"
        with pytest.raises(errors.RunOver):
            client.set_batch_size({SMALL: 8})


def test_threads_share_a_client(demo: Agent) -> None:
    barrier = threading.Barrier(4)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            barrier.wait()
            for _ in range(5):
                seq = demo.client.state().seq
                assert demo.client.history(3)[-1].seq >= seq
                demo.client.set_batch_size({MIDDLE: 32})
        except BaseException as err:
            failed.append(err)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
