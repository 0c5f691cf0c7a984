#!/usr/bin/env python3
"""Two sites on one feeder: batch sizes at each, and load shifted between them.

    python two_sites.py [--duration-s 200]

Where batch sizes alone do not hold the voltage, OpenG2G's LoadShiftController moves
replicas from one site to the other. Once with OfflineDatacenter and once with an agent per
site: the numbers are the same to the bit, or this exits with status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from g2g_agent.openg2g import AgentDatacenter
from openg2g.controller.base import Controller
from openg2g.controller.load_shift import LoadShiftConfig, LoadShiftController
from openg2g.controller.ofo import OFOBatchSizeController, OFOConfig
from openg2g.coordinator import Coordinator
from openg2g.datacenter.command import ShiftReplicas
from openg2g.datacenter.config import ReplicaSchedule
from openg2g.datacenter.offline import OfflineDatacenter, OfflineWorkload

import study

INITIAL_BATCH_SIZE = 16
TOTAL_GPU_CAPACITY = 4800
OFO = OFOConfig(
    primal_step_size=0.1,
    w_throughput=0.001,
    w_switch=1.0,
    voltage_gradient_scale=1e6,
    voltage_dual_step_size=1.0,
    sensitivity_update_interval=3600,
)


@dataclass(frozen=True)
class Site:
    """A datacenter of the study: where it is, and how much of each model it runs."""

    name: str
    bus: str
    seed: int
    replicas: dict[str, int]


SITES = (
    Site("west", "671", 1, {"Llama-3.1-8B": 840, "Llama-3.1-70B": 210, "Llama-3.1-405B": 168}),
    Site("east", "633", 2, {"Llama-3.1-8B": 360, "Llama-3.1-70B": 90, "Llama-3.1-405B": 72}),
)


def workload(case: study.Study, site: Site) -> OfflineWorkload:
    return OfflineWorkload(
        inference_data=case.inference_data(),
        replica_schedules={label: ReplicaSchedule(initial=n) for label, n in site.replicas.items()},
        initial_batch_sizes=dict.fromkeys(site.replicas, INITIAL_BATCH_SIZE),
    )


def offline(case: study.Study, site: Site) -> OfflineDatacenter:
    return OfflineDatacenter(
        study.FACILITY,
        workload(case, site),
        name=site.name,
        dt_s=study.DT_S,
        seed=site.seed,
        power_augmentation=study.AUGMENTATION,
        total_gpu_capacity=TOTAL_GPU_CAPACITY,
    )


def agent(case: study.Study, site: Site) -> AgentDatacenter:
    return AgentDatacenter(
        study.FACILITY,
        workload(case, site),
        name=site.name,
        dt_s=study.DT_S,
        seed=site.seed,
        power_augmentation=study.AUGMENTATION,
        total_gpu_capacity=TOTAL_GPU_CAPACITY,
        data_dir=case.data_dir,
        duration_s=case.duration_s,
        steady_skip_s=study.STEADY_SKIP_S,
        control_dt_s=study.CONTROL_DT_S,
    )


def run(case: study.Study, make: Callable[[study.Study, Site], Any]) -> study.Run:
    """The loop with datacenters of one kind."""
    with ExitStack() as stack:
        datacenters = [make(case, site) for site in SITES]
        for datacenter in datacenters:
            if isinstance(datacenter, AgentDatacenter):
                stack.enter_context(datacenter)
        grid = study.open_feeder(case.feeder, study.taps(8, 2, 8))
        for datacenter, site in zip(datacenters, SITES, strict=True):
            grid.attach_dc(datacenter, bus=site.bus, power_factor=study.FACILITY.power_factor)
        controllers: list[Controller[Any, Any]] = [
            OFOBatchSizeController(
                study.MODELS,
                datacenter=datacenter,
                grid=grid,
                models=case.curves(),
                config=OFO,
                dt_s=study.CONTROL_DT_S,
                initial_batch_sizes=dict.fromkeys(site.replicas, INITIAL_BATCH_SIZE),
            )
            for datacenter, site in zip(datacenters, SITES, strict=True)
        ]
        controllers.append(
            LoadShiftController(
                config=LoadShiftConfig(enabled=True, gpus_per_shift=8),
                dt_s=study.CONTROL_DT_S,
                datacenters=datacenters,
                grid=grid,
                models_by_dc={dc: list(site.replicas) for dc, site in zip(datacenters, SITES, strict=True)},
                gpus_per_replica_by_model={spec.model_label: spec.gpus_per_replica for spec in study.MODELS},
                feasible_batch_sizes_by_model={
                    spec.model_label: list(spec.feasible_batch_sizes or ()) for spec in study.MODELS
                },
            )
        )
        return study.run_coordinator(
            Coordinator(datacenters=datacenters, grid=grid, controllers=controllers, total_duration_s=case.duration_s)
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration-s", type=int, default=200)
    args = parser.parse_args()
    case = study.Study(args.duration_s)

    runs = {"OfflineDatacenter": run(case, offline), "AgentDatacenter": run(case, agent)}
    study.print_side_by_side(runs)
    shifts = sum(isinstance(command, ShiftReplicas) for command in runs["AgentDatacenter"].log.commands)
    print(f"\n{shifts} shifts of replicas between {' and '.join(site.name for site in SITES)}")
    found = study.differences(*runs.values())
    if found:
        print("OfflineDatacenter and AgentDatacenter differ:", *found, sep="\n  ")
        return 1
    print(f"{study.compared(runs['AgentDatacenter'])}, all equal to the bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
