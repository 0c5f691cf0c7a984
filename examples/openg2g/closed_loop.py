#!/usr/bin/env python3
"""OpenG2G's IEEE 13-bus closed loop, with three datacenters.

    python closed_loop.py                           the hour of OpenG2G's example, then a minute live
    python closed_loop.py --duration-s 120 --live-duration-s 20

The OFO controller holds the feeder's voltage by changing batch sizes. First OpenG2G's own
OfflineDatacenter computes the site, then the agent does, in lockstep with the coordinator:
all numbers are the same to the bit, or this exits with status 1. Last the agent's demo is
the site: servers that run in real time, measured and commanded. Live numbers differ: it is
another site, and another span of time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from g2g_agent import Agent
from g2g_agent.openg2g import AgentDatacenter, LiveAgentDatacenter
from openg2g.controller.ofo import OFOBatchSizeController
from openg2g.controller.tap_schedule import TapScheduleController
from openg2g.coordinator import Coordinator
from openg2g.datacenter.offline import OfflineDatacenter
from openg2g.grid.config import TapSchedule

import study


def offline(case: study.Study) -> study.Run:
    """With OpenG2G's datacenter."""
    datacenter = OfflineDatacenter(
        study.FACILITY,
        case.workload(),
        name="dc",
        dt_s=study.DT_S,
        seed=0,
        power_augmentation=study.AUGMENTATION,
        total_gpu_capacity=study.TOTAL_GPU_CAPACITY,
    )
    return case.run(datacenter)


def lockstep(case: study.Study) -> study.Run:
    """With the agent: what OfflineDatacenter takes, and where the data lie."""
    datacenter = AgentDatacenter(
        study.FACILITY,
        case.workload(),
        name="dc",
        dt_s=study.DT_S,
        seed=0,
        power_augmentation=study.AUGMENTATION,
        total_gpu_capacity=study.TOTAL_GPU_CAPACITY,
        data_dir=case.data_dir,
        duration_s=case.duration_s,
        steady_skip_s=study.STEADY_SKIP_S,
        control_dt_s=study.CONTROL_DT_S,  # controllers act once a second: ten steps a request
    )
    with datacenter:
        return case.run(datacenter)


def live(case: study.Study, duration_s: int) -> study.Run:
    """With a live site, in real time: the agent's demo, three models on 2,304 GPUs."""
    with Agent.demo() as agent, LiveAgentDatacenter(agent.url, lease_s=5.0) as datacenter:
        # OFO takes one set of batch sizes for all models: those that all of them have.
        sets = [set(model.feasible_batch_sizes) for model in datacenter.client.models().values()]
        feasible = tuple(sorted(set.intersection(*sets)))
        specs = tuple(spec.model_copy(update={"feasible_batch_sizes": feasible}) for spec in study.MODELS)
        initial = {label: min(batch, max(feasible)) for label, batch in batch_sizes(datacenter).items()}
        grid = case.grid(datacenter)
        config = study.OFO.model_copy(update={"w_throughput": 0.02, "voltage_dual_step_size": 3.0})
        controllers = [
            TapScheduleController(schedule=taps_up_and_down(duration_s), dt_s=study.CONTROL_DT_S),
            OFOBatchSizeController(
                specs,
                datacenter=datacenter,
                grid=grid,
                models=case.curves(),
                config=config,
                dt_s=study.CONTROL_DT_S,
                initial_batch_sizes=initial,
            ),
        ]
        coordinator: Coordinator[Any, Any] = Coordinator(
            datacenters=[datacenter], grid=grid, controllers=controllers, total_duration_s=duration_s, live=True
        )
        return study.run_coordinator(coordinator)


def batch_sizes(datacenter: LiveAgentDatacenter) -> dict[str, int]:
    """What each model runs now."""
    return {label: model.batch_size for label, model in datacenter.client.models().items()}


def taps_up_and_down(duration_s: int) -> TapSchedule:
    """Low and high taps in turn, so that there is something to do."""
    period_s = max(1, min(40, duration_s // 4))
    low, high = study.taps(6, 0, 7), study.taps(14, 8, 15)
    schedule = low.at(t=0)
    for i, t_s in enumerate(range(period_s, duration_s, period_s)):
        schedule = schedule | (low if i % 2 else high).at(t=t_s)
    return schedule


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration-s", type=int, default=study.FULL_DURATION_S, help="of the replays (default: 3600)")
    parser.add_argument("--live-duration-s", type=int, default=60, help="of the live run, 0: none (default: 60)")
    parser.add_argument("--feeder", type=Path, default=study.FEEDER, help="another OpenDSS master file")
    parser.add_argument("--data-dir", type=Path, default=study.DATA_DIR, help="another OpenG2G data directory")
    args = parser.parse_args()
    case = study.Study(args.duration_s, args.feeder.resolve(), args.data_dir.resolve())

    runs = {"OfflineDatacenter": offline(case), "AgentDatacenter": lockstep(case)}
    found = study.differences(*runs.values())
    if args.live_duration_s > 0:
        runs["LiveAgentDatacenter"] = live(case, args.live_duration_s)
    study.print_side_by_side(runs)
    print()
    if found:
        print("OfflineDatacenter and AgentDatacenter differ:", *found, sep="\n  ")
        return 1
    print(f"OfflineDatacenter and AgentDatacenter: {study.compared(runs['AgentDatacenter'])}, all equal to the bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
