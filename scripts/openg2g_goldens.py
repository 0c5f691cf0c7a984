"""Writes what OpenG2G 0.2 computes into testdata/golden.

  python scripts/openg2g_goldens.py offline NAME    for testdata/golden/offline/NAME.json
  python scripts/openg2g_goldens.py noise-floor
  python scripts/openg2g_goldens.py online          measured_only_and_without_gpus
  python scripts/openg2g_goldens.py performance     statistics of three runs of testdata/golden/offline

Needs OpenG2G, such as the .venv that scripts/compare_openg2g.sh makes.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
from openg2g_exactness import write_reference
from openg2g_reference import CASES, SETTING, Silent, golden_config

GOLDEN = CASES.parent


def offline(name: str) -> None:
    """Writes a run's states, and what was said of its GPUs before each step."""
    reference, reason = write_reference(golden_config(name), CASES / f"{name}.csv")
    if reason is not None:
        sys.exit(reason)
    text = json.dumps(reference.available_gpu_capacity)
    (CASES / f"{name}.available_gpu_capacity.json").write_text(text + "\n")


def noise_floor() -> None:
    """Writes servers' power around 1 W, below which noise is that of 1 W."""
    from openg2g.datacenter.layout import ServerPool
    from openg2g.datacenter.workloads.inference import InferencePowerAugmenter

    servers, gpus_per_server, seed = 12, 8, 17
    case = {
        "num_servers": servers,
        "gpus_per_server": gpus_per_server,
        "phase_list": [i % 3 for i in range(servers)],
        "amplitude_scales": [0.75 + i / 16 for i in range(servers)],
        "noise_fraction": 0.25,
        "seed": seed,
        "steps": [],
    }
    pool = ServerPool(
        num_servers=servers,
        gpus_per_server=gpus_per_server,
        phase_list=np.array(case["phase_list"]),
        stagger_offsets=np.zeros(servers, dtype=int),
        amplitude_scales=np.array(case["amplitude_scales"]),
        noise_fraction=case["noise_fraction"],
        model_priorities={"m": np.arange(servers)},
    )
    augmenter = InferencePowerAugmenter(pool, {"m": gpus_per_server}, seed=seed)
    for per_gpu_w in (0, 0.001, 0.1, 0.125, 0.2, 100, 0):
        out = augmenter.augment({"m": np.full(servers, float(per_gpu_w))}, {"m": servers})
        power = [out.power_w.a, out.power_w.b, out.power_w.c]
        case["steps"].append({"per_gpu_w": per_gpu_w, "power_w": power, "power_by_model_w": out.power_by_model_w["m"]})
    (GOLDEN / "components/noise_floor.json").write_text(json.dumps(case, indent=1) + "\n")


def online() -> None:
    """Writes a live run with scripted readings: a model as usual, one that is only
    measured, and one that has no GPUs of its own."""
    rng = random.Random(4)
    spec = {"itl_deadline_s": 0.1, "feasible_batch_sizes": [8, 16, 32]}
    gpus = {"node1:4938": [0, 1, 2, 3], "node2:4938": [4, 5]}
    run = {
        "seed": 8,
        "dt_s": "0.1",
        "datacenter": {"gpus_per_server": 8, "base_kw_per_phase": 10.0},
        "augmentation": {"amplitude_scale_range": [0.9, 1.1], "noise_fraction": 0.02},
        "deployments": [
            {
                "spec": {"model_label": "usual", "model_id": "org/usual", "gpus_per_replica": 2, **spec},
                "simulated_num_replicas": 60,
                "initial_batch_size": 16,
                "gpu_endpoints": [{"host": "node1", "port": 4938, "gpu_indices": gpus["node1:4938"]}],
                "replicas": {"initial": 60, "ramps": [{"target": 20, "t_start": 0.5, "t_end": 1.5}]},
            },
            {
                "spec": {"model_label": "measured", "model_id": "org/measured", "gpus_per_replica": 1, **spec},
                "simulated_num_replicas": 0,
                "initial_batch_size": 8,
                "gpu_endpoints": [{"host": "node2", "port": 4938, "gpu_indices": gpus["node2:4938"]}],
                "replicas": {"initial": 5, "ramps": []},  # of no effect
            },
            {
                "spec": {"model_label": "no GPUs", "model_id": "org/none", "gpus_per_replica": 4, **spec},
                "simulated_num_replicas": 6,
                "initial_batch_size": 8,
                "gpu_endpoints": [],
            },
        ],
        "polls": [],
    }
    now = 1000.0
    for poll in range(140):
        now = round(now + rng.uniform(0.09, 0.11), 4)
        readings = {at: {str(i): round(rng.uniform(300, 600), 3) for i in indices} for at, indices in gpus.items()}
        run["polls"].append({"now_s": now, "readings_w": readings, "step": poll >= 115})
    name = "measured_only_and_without_gpus"
    (GOLDEN / f"online/{name}.json").write_text(json.dumps(run) + "\n")
    with (GOLDEN / f"online/{name}.csv").open("w", newline="") as file:
        write_online(run, csv.writer(file, lineterminator="\n"))


def write_online(run: dict, out) -> None:
    from openg2g.clock import SimulationClock
    from openg2g.datacenter import online as openg2g_online
    from openg2g.datacenter.config import DatacenterConfig, InferenceModelSpec, PowerAugmentationConfig, ReplicaSchedule

    now = SimpleNamespace(s=0.0, readings={})

    class Readings:
        """Stands in for the power client."""

        def __init__(self, servers) -> None:
            pass

        def get_power(self) -> dict:
            by_gpu = {at: {int(i): w for i, w in of.items()} for at, of in now.readings.items()}
            return {at: SimpleNamespace(gpu_power_w=of) for at, of in by_gpu.items()}

    openg2g_online.PowerStreamingClient = Readings
    openg2g_online.time = SimpleNamespace(monotonic=lambda: now.s)
    deployments, schedules = [], {}
    for d in run["deployments"]:
        spec = InferenceModelSpec(**d["spec"], **SETTING, batch_sizes=d["spec"]["feasible_batch_sizes"])
        fields = {k: v for k, v in d.items() if k not in ("spec", "replicas")}
        deployments.append(openg2g_online.VLLMDeployment(spec=spec, vllm_base_url="http://n:8000", **fields))
        if "replicas" in d:
            schedule = ReplicaSchedule(initial=d["replicas"]["initial"])
            for ramp in d["replicas"]["ramps"]:
                schedule = schedule.ramp_to(ramp["target"], t_start=ramp["t_start"], t_end=ramp["t_end"])
            schedules[d["spec"]["model_label"]] = schedule
    dt = Fraction(run["dt_s"])
    datacenter = openg2g_online.OnlineDatacenter(
        DatacenterConfig(**run["datacenter"]),
        deployments,
        name="dc",
        dt_s=dt,
        seed=run["seed"],
        power_augmentation=PowerAugmentationConfig(**run["augmentation"]),
        replica_schedules=schedules,
    )
    clock = SimulationClock(dt)
    labels = [d.model_label for d in deployments]
    per_model = ["measured_power_w", "augmented_power_w", "active_replicas", "augmentation_factor"]
    out.writerow(
        ["now_s", "time_s", "power_a_w", "power_b_w", "power_c_w", "measured_power_per_phase_w"]
        + [f"{label}:{column}" for label in labels for column in per_model]
    )
    for poll in run["polls"]:
        now.s, now.readings = poll["now_s"], poll["readings_w"]
        if not poll["step"]:
            datacenter._poll_power_into_buffer()
            continue
        state = datacenter.step(clock, Silent())
        clock.advance()
        row = [now.s, state.time_s, state.power_w.a, state.power_w.b, state.power_w.c, state.measured_power_w.a]
        for label in labels:
            row += [
                state.measured_power_w_by_model[label],
                # It does not list models that it does not simulate.
                state.augmented_power_w_by_model.get(label, 0.0),
                state.active_replicas_by_model.get(label, 0),
                state.augmentation_factor_by_model[label],
            ]
        out.writerow([repr(cell) for cell in row])


def performance() -> None:
    """Writes the performance statistics of recorded runs, with deadlines that some latencies miss."""
    from openg2g.metrics.performance import compute_performance_stats

    deadlines = {"Llama-3.1-8B": 0.0135, "Llama-3.1-70B": 0.0185, "Llama-3.1-405B": 0.034}
    by_run = {}
    for name in ("one_model", "three_models_noise_ramps_training", "uneven_servers_exact_latency"):
        with (CASES / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        labels = [column.removesuffix(":power_w") for column in rows[0] if column.endswith(":power_w")]
        # It fails for a model that never serves anybody.
        labels = [label for label in labels if any(int(row[f"{label}:active_replicas"]) > 0 for row in rows)]
        states = [
            SimpleNamespace(
                time_s=float(row["time_s"]),
                batch_size_by_model={label: int(row[f"{label}:batch_size"]) for label in labels},
                active_replicas_by_model={label: int(row[f"{label}:active_replicas"]) for label in labels},
                observed_itl_s_by_model={label: float(row[f"{label}:observed_itl_s"]) for label in labels},
            )
            for row in rows
        ]
        stats = compute_performance_stats(states, itl_deadline_s_by_model=deadlines)
        by_run[name] = {"itl_deadline_s_by_model": deadlines, "stats": dataclasses.asdict(stats)}
    text = json.dumps(by_run, indent=1, sort_keys=True)
    (GOLDEN / "performance" / "offline.json").write_text(text + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["offline"] and len(sys.argv) == 3:
        offline(sys.argv[2])
    elif sys.argv[1:] == ["noise-floor"]:
        noise_floor()
    elif sys.argv[1:] == ["online"]:
        online()
    elif sys.argv[1:] == ["performance"]:
        performance()
    else:
        sys.exit(__doc__)
