"""OpenG2G's coordinator, controllers and statistics take the agent for OfflineDatacenter, and give the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openg2g")

import numpy as np
from openg2g.controller.batch_size_schedule import BatchSizeChange, BatchSizeScheduleController
from openg2g.controller.load_shift import LoadShiftConfig, LoadShiftController
from openg2g.controller.noop import NoopController
from openg2g.controller.ofo import OFOBatchSizeController, OFOConfig
from openg2g.controller.rule_based import RuleBasedBatchSizeController, RuleBasedConfig
from openg2g.coordinator import Coordinator
from openg2g.datacenter.command import SetBatchSize, ShiftReplicas
from openg2g.datacenter.config import ReplicaSchedule
from openg2g.datacenter.offline import OfflineDatacenter, OfflineDatacenterState, OfflineWorkload

from g2g_agent.openg2g import AgentDatacenter
from sites import all_same, study

pytestmark = pytest.mark.slow

Make = Callable[..., Any]


def made(binary: Path, facility: Any, workload: OfflineWorkload, **common: Any) -> dict[str, Any]:
    """The same site computed by OpenG2G, by the agent step by step, and by the agent ahead."""
    return {
        "offline": OfflineDatacenter(facility, workload, **common),
        "one": AgentDatacenter(facility, workload, binary=binary, **common),
        "ahead": AgentDatacenter(facility, workload, binary=binary, control_dt_s=Fraction(1), **common),
    }


def common(module: Any, **changes: Any) -> dict[str, Any]:
    return {
        "name": "dc",
        "dt_s": module.DT_S,
        "seed": 0,
        "power_augmentation": module.AUGMENTATION,
        "total_gpu_capacity": module.TOTAL_GPU_CAPACITY,
        **changes,
    }


def close(datacenters: Any) -> None:
    for datacenter in datacenters:
        if isinstance(datacenter, AgentDatacenter):
            datacenter.close()


def test_the_closed_loop_with_ofo(binary: Path) -> None:
    module = study()
    case = module.Study(120)
    datacenters = made(binary, module.FACILITY, case.workload(), **common(module))
    try:
        runs = {name: case.run(datacenter) for name, datacenter in datacenters.items()}
        again = case.run(datacenters["ahead"])  # a second run of the same datacenter
    finally:
        close(datacenters.values())
    for run in (runs["one"], runs["ahead"], again):
        assert module.differences(runs["offline"], run) == []
    run = runs["ahead"]
    assert len(run.log.dc_states) == 1200
    assert sum(run.batch_size_changes().values()) > 5
    assert run.voltage() == runs["offline"].voltage()
    # What OpenG2G's plots ask for.
    assert all(isinstance(state, OfflineDatacenterState) for state in run.log.dc_states)
    assert run.performance().mean_throughput_tps == pytest.approx(runs["offline"].performance().mean_throughput_tps)


def test_two_sites_with_load_shifting(binary: Path) -> None:
    module = study()
    case = module.Study(60)
    data = case.inference_data()
    sites = {
        "west": (1, "671", {"Llama-3.1-8B": 840, "Llama-3.1-70B": 210, "Llama-3.1-405B": 168}),
        "east": (2, "633", {"Llama-3.1-8B": 360, "Llama-3.1-70B": 90, "Llama-3.1-405B": 72}),
    }
    runs = {}
    for kind in ("offline", "ahead"):
        datacenters = {
            name: made(
                binary,
                module.FACILITY,
                OfflineWorkload(
                    data,
                    {label: ReplicaSchedule(initial=n) for label, n in replicas.items()},
                    dict.fromkeys(replicas, 16),
                ),
                **common(module, name=name, seed=seed, total_gpu_capacity=4800),
            )
            for name, (seed, _, replicas) in sites.items()
        }
        chosen = {name: of[kind] for name, of in datacenters.items()}
        try:
            grid = module.open_feeder(case.feeder, module.taps(8, 2, 8))
            for name, (_, bus, _) in sites.items():
                grid.attach_dc(chosen[name], bus=bus, power_factor=0.95)
            config = OFOConfig(
                primal_step_size=0.1,
                w_throughput=0.001,
                w_switch=1.0,
                voltage_gradient_scale=1e6,
                latency_dual_step_size=1.0,
                sensitivity_update_interval=3600,
            )
            controllers: list[Any] = [
                OFOBatchSizeController(
                    module.MODELS,
                    datacenter=datacenter,
                    grid=grid,
                    models=case.curves(),
                    config=config,
                    initial_batch_sizes=dict.fromkeys(module.REPLICAS, 16),
                )
                for datacenter in chosen.values()
            ]
            controllers.append(
                LoadShiftController(
                    config=LoadShiftConfig(enabled=True, gpus_per_shift=8),
                    dt_s=Fraction(1),
                    datacenters=list(chosen.values()),
                    grid=grid,
                    models_by_dc={datacenter: list(module.REPLICAS) for datacenter in chosen.values()},
                    gpus_per_replica_by_model={m.model_label: m.gpus_per_replica for m in module.MODELS},
                    feasible_batch_sizes_by_model={m.model_label: list(m.feasible_batch_sizes) for m in module.MODELS},
                )
            )
            runs[kind] = module.run_coordinator(
                Coordinator(datacenters=list(chosen.values()), grid=grid, controllers=controllers, total_duration_s=60)
            )
        finally:
            for of in datacenters.values():
                close(of.values())
    assert module.differences(runs["offline"], runs["ahead"]) == []
    assert sum(isinstance(command, ShiftReplicas) for command in runs["ahead"].log.commands) > 20
    for name in sites:
        all_same(runs["ahead"].log.dc_states_by_site[name], runs["offline"].log.dc_states_by_site[name])


@pytest.mark.parametrize("kind", ["rule-based", "schedule", "noop"])
def test_other_controllers(binary: Path, kind: str) -> None:
    module = study()
    case = module.Study(30)
    datacenters = made(binary, module.FACILITY, case.workload(), **common(module))
    runs = {}
    try:
        for name, datacenter in datacenters.items():
            grid = case.grid(datacenter)
            controller: Any
            if kind == "rule-based":
                controller = RuleBasedBatchSizeController(
                    module.MODELS,
                    datacenter=datacenter,
                    grid=grid,
                    config=RuleBasedConfig(step_size=100.0),
                    exclude_buses=module.EXCLUDED_BUSES,
                    initial_batch_sizes=dict.fromkeys(module.REPLICAS, 128),
                )
            elif kind == "schedule":
                schedule = BatchSizeChange(64).at(t=0) | BatchSizeChange(8).at(t=7) | BatchSizeChange(256).at(t=20)
                controller = BatchSizeScheduleController(datacenter=datacenter, schedules={"Llama-3.1-70B": schedule})
            else:
                controller = NoopController()
            runs[name] = module.run_coordinator(
                Coordinator(datacenters=[datacenter], grid=grid, controllers=[controller], total_duration_s=30)
            )
    finally:
        close(datacenters.values())
    for name in ("one", "ahead"):
        assert module.differences(runs["offline"], runs[name]) == []
    if kind != "noop":
        assert sum(runs["ahead"].batch_size_changes().values()) > 0


class PPO:
    """An environment as OpenG2G's example of reinforcement learning has it: each episode makes a new site with other
    ramps, of traces that all share, and drives the coordinator from outside."""

    def __init__(self, module: Any, make: Callable[..., Any], duration_s: int) -> None:
        self.module, self.make, self.duration_s = module, make, duration_s
        self.case = module.Study(duration_s)
        self.data = self.case.inference_data()
        self.coordinator: Any = None

    def reset(self, seed: int) -> Any:
        self.close()
        rng = np.random.default_rng(seed)
        schedules = {}
        for label, n in self.module.REPLICAS.items():
            target, start_s = int(rng.integers(n // 3, n)), float(rng.uniform(0, self.duration_s / 2))
            schedules[label] = ReplicaSchedule(initial=n).ramp_to(target, t_start=start_s, t_end=start_s + 3)
        workload = OfflineWorkload(self.data, schedules, dict.fromkeys(schedules, 128))
        self.datacenter = self.make(self.module.FACILITY, workload, **common(self.module, seed=seed, dt_s=Fraction(1)))
        self.coordinator = Coordinator(
            datacenters=[self.datacenter],
            grid=self.case.grid(self.datacenter),
            controllers=[],
            total_duration_s=self.duration_s,
        )
        self.coordinator.reset()
        self.coordinator.start()
        return self.observation()

    def observation(self) -> Any:
        # The grid has a tenth of the time step.
        ticks = [self.coordinator.step() for _ in range(10)]
        states = [state for tick in ticks for state in tick.dc_states.values()]
        assert len(states) == 1
        return states[0], ticks[-1].grid_state.voltages

    def step(self, batch_size_by_model: dict[str, int]) -> Any:
        self.coordinator.dispatch_commands(
            [SetBatchSize(batch_size_by_model=batch_size_by_model, target=self.datacenter)]
        )
        return self.observation()

    def close(self) -> None:
        if self.coordinator is not None:
            self.coordinator.stop()
            close([self.datacenter])
            self.coordinator = None


@pytest.mark.filterwarnings("ignore:dt_grid")
def test_an_environment_that_drives_the_coordinator(binary: Path) -> None:
    module = study()

    def agent(*args: Any, **options: Any) -> AgentDatacenter:
        return AgentDatacenter(*args, binary=binary, **options)

    def offline(*args: Any, **options: Any) -> OfflineDatacenter:
        return OfflineDatacenter(*args, **options)

    def episodes(make: Callable[..., Any]) -> list[Any]:
        environment, out = PPO(module, make, 10), []
        actions = np.random.default_rng(0)
        for episode in range(3):
            out.append(environment.reset(episode))
            for _ in range(9):
                sizes = actions.choice([8, 16, 32, 64, 128, 256], size=3)
                out.append(environment.step(dict(zip(module.REPLICAS, map(int, sizes), strict=True))))
        environment.close()
        return out

    # The study's data have a time step of a tenth of a second; here they are gone through a second at a time.
    ours, theirs = episodes(agent), episodes(offline)
    all_same([state for state, _ in ours], [state for state, _ in theirs])
    assert [repr(voltages) for _, voltages in ours] == [repr(voltages) for _, voltages in theirs]
    assert len({repr(dataclasses.asdict(state)) for state, _ in ours}) == 30
