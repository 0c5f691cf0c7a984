"""Against the real program: what the agent does and what this package takes it for, with both clients."""

from __future__ import annotations

import dataclasses
import json
import math
import urllib.request
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from conftest import CONFIG, MODELS
from g2g_agent import Agent, Event, Info, Model, ReplicaShift, State, ThreePhase, errors
from g2g_agent.models import BatchSizeAnswer, ReplicaShiftAnswer, Server
from proxy import Proxy
from test_errors import CODES

Connect = Callable[..., Any]
SMALL, MIDDLE, LARGE = MODELS


@pytest.fixture
def client(replay: Agent, connect: Connect) -> Any:
    return connect(replay.url)


def test_info(client: Any) -> None:
    info = client.info()
    assert (info.name, info.source, info.pace, info.phase) == ("dc", "replay", "lockstep", "waiting")
    assert (info.dt_s, info.duration_s, info.total_steps) == (Fraction(1, 10), 300, 3000)
    assert (info.steps, info.seed, info.at_end) == (0, 42, "stop")
    assert info.config_digest.startswith("sha256:")
    assert info.run_id


def test_models_are_in_config_order_and_whole(client: Any) -> None:
    models = client.models()
    assert list(models) == MODELS
    assert models[LARGE].feasible_batch_sizes == (8, 16, 32, 64, 128, 256)
    assert models[SMALL].replica_schedule.initial == 720
    assert models[SMALL].replica_schedule.ramps[0].target == 144
    assert models[SMALL].replica_schedule.ramps[0].t_end_s == 200
    assert models[LARGE].replica_schedule.ramps == ()
    assert 128 in models[SMALL].batch_sizes


def test_states_are_the_same_however_they_are_asked_for(client: Any) -> None:
    wanted = client.step(60)
    assert [state.seq for state in wanted] == list(range(60))
    assert wanted[-1].time_s == 5.9
    client.reset()
    by_one = [client.step()[0] for _ in range(60)]
    assert by_one == list(wanted)
    client.reset()
    assert client.step_until(5.95) == wanted
    assert client.history(60) == list(wanted)
    assert client.state() == wanted[-1]
    fields = ("power_w", "observed_itl_s_by_model", "batch_size_by_model")
    client.reset()
    few = client.step(60, fields=fields)
    assert few.columns == {name: wanted.columns[name] for name in ("seq", "time_s", *fields)}
    assert few[7].power_w == wanted[7].power_w


def test_a_state_has_what_a_controller_needs(client: Any) -> None:
    state = client.step(2)[1]
    assert isinstance(state.power_w, ThreePhase)
    assert 500e3 < state.power_w.a < 2e6
    for by_model in (
        state.power_by_model_w,
        state.batch_size_by_model,
        state.active_replicas_by_model,
        state.observed_itl_s_by_model,
        state.phase_share_by_model,
        state.achieved_batch_size_by_model,
    ):
        assert list(by_model) == MODELS
    assert state.achieved_batch_size_by_model == state.batch_size_by_model
    assert state.free_gpus == 2304 - 720 - 4 * 180 - 8 * 90
    assert sum(state.phase_share_by_model[SMALL]) == pytest.approx(1)
    assert state.stale_by_model == {}
    assert state.measured_power_w is None


def test_commands_hold_from_the_next_step_on(client: Any) -> None:
    client.step(3)
    answer = client.set_batch_size({SMALL: 64})
    assert (answer.time_s, answer.from_seq) == (0.3, 3)
    assert list(answer.batch_size_by_model) == MODELS
    assert answer.results[0].outcome == "accepted"
    shift = client.shift_replicas(LARGE, -20, lease_s=60)
    assert (shift.replicas, shift.replica_shift, shift.lease_s, shift.from_seq) == (70, -20, 60, 3)
    state = client.step()[0]
    assert state.seq == answer.from_seq
    assert state.batch_size_by_model[SMALL] == 64
    topics = [event.topic for event in client.events(n=10)]
    assert topics[-2:] == ["datacenter.batch_size.updated", "datacenter.replicas.shifted"]


def test_commands_in_a_step_are_those_before_it(client: Any) -> None:
    client.set_batch_size({SMALL: 64, MIDDLE: 32})
    client.shift_replicas(LARGE, -20)
    wanted = client.step(10)
    client.reset()
    got = client.step(10, batch_size_by_model={SMALL: 64, MIDDLE: 32}, replica_shifts=[ReplicaShift(LARGE, -20)])
    assert got == wanted
    client.reset()
    assert len(client.step(0, batch_size_by_model={SMALL: 64, MIDDLE: 32})) == 0
    assert len(client.step(0, replica_shifts=[ReplicaShift(LARGE, -20)])) == 0
    assert client.step(10) == wanted


def test_a_reset_begins_anew(client: Any) -> None:
    first = client.step(20)
    before = client.info()
    client.set_batch_size({SMALL: 8})
    info = client.reset()
    assert (info.steps, info.phase) == (0, "waiting")
    assert info.run_id != before.run_id
    assert client.step(20) == first
    info = client.reset(
        seed=7, initial_batch_sizes={SMALL: 32}, replicas={LARGE: {"initial": 10}}, training=[], duration_s=2
    )
    assert (info.seed, info.duration_s, info.total_steps) == (7, 2, 20)
    other = client.step(100)
    assert len(other) == 20
    assert other[0].batch_size_by_model[SMALL] == 32
    assert other[0].active_replicas_by_model[LARGE] == 10
    assert other[0].power_w != first[0].power_w
    client.set_batch_size({SMALL: 64})  # a command after the last step is taken
    assert len(client.step()) == 0
    client.reset()
    assert client.step(20) == first


def test_restore(client: Any) -> None:
    client.set_batch_size({SMALL: 8}, lease_s=60)
    client.shift_replicas(LARGE, -20)
    answer = client.restore()
    assert answer.batch_size_by_model[SMALL] == 128
    assert answer.replica_shift_by_model == dict.fromkeys(MODELS, 0)
    assert answer.lease_s_by_model[SMALL] is None


def test_errors_by_meaning(client: Any, replay: Agent) -> None:
    with pytest.raises(errors.Unavailable) as unavailable:
        client.state()
    assert unavailable.value.code == "no-state"
    with pytest.raises(errors.InfeasibleBatchSize, match="feasible") as infeasible:
        client.set_batch_size({SMALL: 65})
    assert infeasible.value.errors[0].location == f"body.batch_size_by_model.{SMALL}"
    with pytest.raises(errors.InfeasibleBatchSize):
        client.step(batch_size_by_model={SMALL: 65})
    with pytest.raises(errors.UnknownModel, match="Mixtral"):
        client.shift_replicas("Mixtral", 1)
    with pytest.raises(errors.NoCapacity, match="GPUs"):
        client.shift_replicas(MIDDLE, 500)
    with pytest.raises(errors.NoCapacity):
        client.step(replica_shifts=[ReplicaShift(MIDDLE, 500)])
    wrongs: list[Callable[[], Any]] = [
        lambda: client.step(10001),
        lambda: client.step(-1),
        lambda: client.step(0),
        lambda: client.step(fields=("no_such_member",)),
        lambda: client.step(2, fields=("no_such_member",)),
        lambda: client.set_batch_size({}),
        lambda: client.set_batch_size({SMALL: 64}, lease_s=-1),
        lambda: client.reset(duration_s=-5),
        lambda: client.reset(replicas={"Mixtral": {"initial": 1}}),
        lambda: client.history(0),
    ]
    for wrong in wrongs:
        with pytest.raises((errors.InvalidRequest, errors.UnknownModel)):
            wrong()
    assert client.info().steps == 0
    with pytest.raises(ValueError, match="JSON"):
        client.set_batch_size({SMALL: 64}, lease_s=math.nan)


def test_a_replay_that_writes_a_file_is_not_reset(binary: Path, connect: Connect, tmp_path: Path) -> None:
    with Agent.replay(CONFIG, binary=binary, out=tmp_path / "states.csv") as agent:
        client = connect(agent.url)
        client.reset()
        client.step()
        with pytest.raises(errors.WritingOutput):
            client.reset()


def test_tokens(binary: Path, connect: Connect, tmp_path: Path) -> None:
    control, read = tmp_path / "control", tmp_path / "read"
    control.write_text("control-token-of-32-characters--\n")
    read.write_text("read-token-of-32-characters-----\n")
    for file in (control, read):
        file.chmod(0o600)
    env = {"G2G_AGENT_API__TOKEN_FILE": str(control), "G2G_AGENT_API__READ_TOKEN_FILE": str(read)}
    with Agent.replay(CONFIG, binary=binary, env=env, token_file=control) as agent:
        assert agent.client.step()[0].seq == 0
        with pytest.raises(errors.NotPermitted) as nobody:
            connect(agent.url).info()
        assert nobody.value.code == "unauthorized"
        reader = connect(agent.url, token_file=read)
        assert reader.info().control_needs_token
        with pytest.raises(errors.NotPermitted) as reads:
            reader.set_batch_size({SMALL: 64})
        assert reads.value.code == "forbidden"
        with pytest.raises(errors.NotPermitted):
            reader.step()


def test_lost_answers_change_nothing(replay: Agent, connect: Connect) -> None:
    """Every second answer of the lockstep is lost: the states are those of an untroubled run."""
    wanted = replay.client.step(40)
    replay.client.reset()
    count = 0

    def answers(data: bytes) -> bool:
        nonlocal count
        if data[:1] != b"\x81":  # frames alone; requests by HTTP have their own tests
            return True
        count += 1
        return count % 2 != 0

    with Proxy(int(replay.url.rsplit(":", 1)[1])) as proxy:
        client = connect(proxy.url)
        proxy.answers = answers
        got = []
        for n in (1, 1, 5, 1, 10, 2, 1, 1, 8, 10):
            got += client.step(n)
        client.close()
    assert got == list(wanted)
    assert count >= 10


def test_lost_answers_to_commands_change_nothing(replay: Agent, connect: Connect) -> None:
    lose = True

    def answers(data: bytes) -> bool:
        nonlocal lose
        lost = lose and b"replica_shift" in data
        lose = lose and not lost
        return not lost

    with Proxy(int(replay.url.rsplit(":", 1)[1])) as proxy:
        client = connect(proxy.url)
        proxy.answers = answers
        answer = client.shift_replicas(LARGE, -5)
        client.close()
    assert not lose
    assert (answer.replica_shift, answer.replicas) == (-5, 85)
    assert replay.client.models()[LARGE].replica_shift == -5


@pytest.fixture(scope="module")
def description(binary: Path) -> Any:
    with Agent.replay(CONFIG, binary=binary) as agent, urllib.request.urlopen(f"{agent.url}/openapi.json") as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("kind", "schema", "not_its_own"),
    [
        (State, "State", ()),
        (Info, "Info", ("dt",)),
        (Model, "Model", ()),
        (Server, "Server", ()),
        (Event, "Event", ()),
        (BatchSizeAnswer, "BatchSizes", ("replica_shift_by_model",)),
        (ReplicaShiftAnswer, "ReplicaShift", ()),
    ],
)
def test_every_member_of_the_description_is_known(
    description: Any, kind: type, schema: str, not_its_own: tuple[str, ...]
) -> None:
    described = set(description["components"]["schemas"][schema]["properties"])
    known = {field.name for field in dataclasses.fields(kind)} - {"raw"}
    assert described - set(not_its_own) == known - set(not_its_own)


def test_every_code_has_an_error(description: Any) -> None:
    codes = description["components"]["schemas"]["Problem"]["properties"]["code"]["x-extensible-enum"]
    assert set(codes) <= set(CODES)
