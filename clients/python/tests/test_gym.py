"""The Gymnasium environment."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openg2g")
pytest.importorskip("gymnasium")

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from openg2g.common import ThreePhase
from openg2g.datacenter.config import ReplicaSchedule

from g2g_agent.gym import AgentEnv, Transition, default_reward
from g2g_agent.openg2g import AgentDatacenterState
from sites import LARGE, SMALL, Driver, Site, same, study

S, L = SMALL.model_label, LARGE.model_label


@pytest.mark.parametrize("on_a_grid", [False, True])
def test_gymnasium_finds_nothing_wrong(binary: Path, on_a_grid: bool) -> None:
    datacenter = Site().agent(binary)
    environment = AgentEnv(datacenter, grid=study().Study(10).grid(datacenter) if on_a_grid else None, duration_s=3)
    try:
        check_env(environment, skip_render_check=True)  # a warning would be an error
        _, info = environment.reset(seed=1)
        assert pickle.loads(pickle.dumps(info)).keys() == info.keys()
    finally:
        environment.close()


def test_an_episode(binary: Path) -> None:
    environment = AgentEnv(Site().agent(binary), duration_s=4)
    with pytest.raises(RuntimeError, match="reset"):
        environment.step(np.array([0, 0]))
    observation, info = environment.reset(seed=1)
    assert environment.action_space == gymnasium.spaces.MultiDiscrete([7, 6])
    assert observation.shape == environment.observation_space.shape == (9,)
    assert environment.state is not None
    assert info["time_s"] == environment.state.time_s == 0
    over, times = False, []
    while not over:
        observation, reward, terminated, over, info = environment.step(np.array([0, 5]))
        assert not terminated
        assert isinstance(reward, float)
        times.append(info["time_s"])
        assert environment.state.batch_size_by_model == {S: 8, L: 256}
    assert times == [1.0, 2.0, 3.0, 4.0]
    assert environment.grid_state is None
    power = environment.state.power_w
    assert info["power_w"].tolist() == [power.a, power.b, power.c]
    assert observation[:3] == pytest.approx([power.a / 1e6, power.b / 1e6, power.c / 1e6])
    assert observation[3] == 0.0  # the least batch size
    assert observation[6] == 1.0  # the greatest
    assert observation[7] == pytest.approx(environment.state.active_replicas_by_model[L] / 20)
    environment.close()


def test_episodes_share_a_process_and_differ(binary: Path) -> None:
    def episode(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "replica_schedules": {S: ReplicaSchedule(initial=int(rng.integers(8, 40))), L: ReplicaSchedule(initial=6)}
        }

    datacenter = Site().agent(binary)
    environment = AgentEnv(datacenter, duration_s=2, episode=episode)
    process_id = datacenter.process_id

    def run(**options: Any) -> list[list[float]]:
        seen = [environment.reset(**options)[0]]
        seen += [environment.step(np.array([k, k]))[0] for k in (1, 2)]
        return [observation.tolist() for observation in seen]

    first, second = run(seed=5), run()
    assert first != second
    assert run(seed=5) == first
    assert run() == second
    chosen = {"seed": 3, "replica_schedules": Site().schedules, "initial_batch_sizes": Site().initial}
    environment.reset(options=chosen)
    assert environment.state is not None
    same(environment.state, Driver(Site().offline()).step()[0])
    assert datacenter.process_id == process_id
    environment.close()
    environment.close()


def test_an_episode_begins_though_the_agent_is_gone(binary: Path) -> None:
    datacenter = Site().agent(binary)
    environment = AgentEnv(datacenter, duration_s=2)
    wanted = environment.reset(seed=4)[0].tolist()
    assert datacenter.process_id is not None
    os.kill(datacenter.process_id, signal.SIGKILL)
    with pytest.raises(ConnectionError):
        environment.step(np.array([0, 0]))
    assert environment.reset(seed=4)[0].tolist() == wanted
    environment.close()


def test_on_a_grid(binary: Path) -> None:
    module = study()
    case = module.Study(10)

    def environment(**options: Any) -> AgentEnv:
        datacenter = Site().agent(binary)
        return AgentEnv(datacenter, grid=case.grid(datacenter), duration_s=3, **options)

    every = environment()
    observation, info = every.reset(seed=2)
    assert every.grid_state is not None
    buses = every.grid_state.voltages.buses()
    assert observation.shape == (9 + 3 * len(buses),)
    every.close()
    transitions: list[Transition] = []

    def reward(transition: Transition) -> float:
        transitions.append(transition)
        return default_reward(transition)

    few = environment(buses=["671", "675"], reward=reward)
    observation, info = few.reset(seed=2)
    assert observation.shape == (15,)
    assert few.grid_state is not None
    volts = few.grid_state.voltages["675"]
    seen = [v for bus in ("671", "675") for v in dataclasses.astuple(few.grid_state.voltages[bus])]
    assert (info["v_min_pu"], info["v_max_pu"]) == (min(seen), max(seen))
    assert observation[12:] == pytest.approx([(v - 1) / 0.05 for v in (volts.a, volts.b, volts.c)], abs=1e-5)
    few.step(np.array([0, 0]))
    assert len(transitions[0].states) == len(transitions[0].grid_states) == 10
    assert transitions[0].voltages_pu.shape == (10, 6)
    few.close()


def test_rewards() -> None:
    last = AgentDatacenterState(
        time_s=0.0,
        power_w=ThreePhase(a=0.0, b=0.0, c=0.0),
        observed_itl_s_by_model={"m": 0.2, "n": float("nan")},
        active_replicas_by_model={"m": 10, "n": 0},
        batch_size_by_model={"m": 20, "n": 8},
    )

    def transition(**changes: Any) -> Transition:
        values: dict[str, Any] = {
            "states": [last],
            "grid_states": [],
            "voltages_pu": np.empty((0, 0)),
            "batch_size_by_model": {"m": 16},
            "previous_batch_size_by_model": {"m": 16},
            "itl_deadline_s_by_model": {"m": 0.2, "n": 0.1},
            "dt_s": 1.0,
        }
        return Transition(**{**values, **changes})

    weights = {"w_voltage": 10.0, "w_latency": 2.0, "w_throughput": 1.0, "w_switch": 0.5}
    base = default_reward(transition(), **weights)
    assert base == pytest.approx(np.log10(1001))  # 10 replicas, 20 requests, 0.2 s
    low = transition(voltages_pu=np.array([[0.94, 1.0, np.nan], [1.0, 1.07, np.nan]]))
    assert default_reward(low, **weights) == pytest.approx(base - 10 * (0.01 + 0.02) / 2)
    late = transition(itl_deadline_s_by_model={"m": 0.1, "n": 0.1})
    assert default_reward(late, **weights) == pytest.approx(base - 2)
    switched = transition(previous_batch_size_by_model={"m": 64})
    assert default_reward(switched, **weights) == pytest.approx(base - 1)


def test_wrong_time_steps(binary: Path) -> None:
    with Site().agent(binary) as datacenter, pytest.raises(ValueError, match="control_dt_s"):
        AgentEnv(datacenter, control_dt_s=Fraction(1, 4))
