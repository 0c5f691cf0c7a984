"""OpenG2G 0.2, driven by one of our configs."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "testdata/golden/data_0.2"
CASES = ROOT / "testdata/golden/offline"
BINARY = ROOT / "bin/g2g-agent"

# The measurement setting of the models in DATA, which their directory names hash.
SETTING = {"gpu_model": "H100", "task": "lm-arena-chat"}
REPLAY_CASE = "three_models_noise_ramps_training"


def golden_config(name: str) -> dict:
    """A golden case as a config of ours."""
    case = json.loads((CASES / f"{name}.json").read_text())
    models = []
    for m in case["models"]:
        deployment = {key: value for key, value in m.items() if key != "spec"}
        models.append({**m["spec"], **SETTING, "batch_sizes": m["spec"]["feasible_batch_sizes"], **deployment})
    return {
        "seed": case["seed"],
        "dt_s": case["dt_s"],
        "datacenter": {**case["datacenter"], "total_gpu_capacity": case["total_gpu_capacity"]},
        "augmentation": case.get("augmentation", {}),
        "models": models,
        "training": [{**t, "trace": str(DATA / t["trace"])} for t in case.get("training", [])],
        "control": {"allow_shifts_past_capacity": True},  # as OpenG2G does
        "replay": {
            "data_dir": str(DATA),
            "duration_s": case["duration_s"],
            "template_duration_s": case.get("template_duration_s", case["duration_s"]),
            "steady_skip_s": case.get("steady_skip_s", 0.0),
            "itl": True,
            "commands": case.get("commands", []),
        },
    }


def servers(config: dict) -> int:
    dc = config["datacenter"]
    return math.ceil(dc["total_gpu_capacity"] / dc["gpus_per_server"])


class Silent:
    """Takes OpenG2G's events and drops them."""

    def emit(self, *_args) -> None:
        pass


class Reference:
    """OpenG2G's offline datacenter for a config, to be stepped."""

    def __init__(self, config: dict) -> None:
        from openg2g.clock import SimulationClock
        from openg2g.datacenter.config import (
            DatacenterConfig,
            InferenceModelSpec,
            PowerAugmentationConfig,
            ReplicaSchedule,
            TrainingRun,
            TrainingSchedule,
        )
        from openg2g.datacenter.offline import OfflineDatacenter, OfflineWorkload
        from openg2g.datacenter.workloads.inference import InferenceData
        from openg2g.datacenter.workloads.training import TrainingTrace

        replay = config["replay"]
        self.dt = Fraction(str(config["dt_s"]))
        duration = Fraction(str(replay["duration_s"]))
        self.steps = int(duration / self.dt)

        specs, schedules, batch_sizes = [], {}, {}
        for model in config["models"]:
            fields = {k: v for k, v in model.items() if k not in ("replicas", "initial_batch_size")}
            specs.append(InferenceModelSpec(**fields))
            label = model["model_label"]
            if "replicas" in model:
                schedule = ReplicaSchedule(initial=model["replicas"]["initial"])
                for ramp in model["replicas"].get("ramps", []):
                    schedule = schedule.ramp_to(ramp["target"], t_start=ramp["t_start"], t_end=ramp["t_end"])
                schedules[label] = schedule
            if "initial_batch_size" in model:
                batch_sizes[label] = model["initial_batch_size"]
        self.labels = [spec.model_label for spec in specs]

        training = TrainingSchedule()
        for run in config.get("training", []):
            job = {"n_gpus": run["n_gpus"], "trace": TrainingTrace.load(Path(run["trace"]))}
            if "target_peak_w_per_gpu" in run:
                job["target_peak_W_per_gpu"] = run["target_peak_w_per_gpu"]
            training = training | TrainingRun(**job).at(t_start=run["t_start"], t_end=run["t_end"])

        data = InferenceData.load(
            Path(replay["data_dir"]),
            tuple(specs),
            duration_s=Fraction(str(replay.get("template_duration_s", duration))),
            dt_s=self.dt,
            steady_skip_s=replay.get("steady_skip_s", 0.0),
        )
        facility = {k: v for k, v in config["datacenter"].items() if k not in ("name", "total_gpu_capacity")}
        self.datacenter = OfflineDatacenter(
            DatacenterConfig(**facility),
            OfflineWorkload(data, schedules, batch_sizes, training),
            name="dc",
            dt_s=self.dt,
            seed=config["seed"],
            power_augmentation=PowerAugmentationConfig(**config.get("augmentation", {})),
            total_gpu_capacity=config["datacenter"]["total_gpu_capacity"],
        )
        self.specs, self.schedules = specs, schedules
        # What OpenG2G tells of its capacity at each step, and whether more GPUs were
        # asked for at one than there are.
        self.available_gpu_capacity: list[int] = []
        self.past_capacity = False
        self.clock = SimulationClock(self.dt)
        self.events = Silent()
        # The step before which each command is applied: the first with t <= its time.
        self.commands = [(math.ceil(Fraction(str(c["t"])) / self.dt), self._command(c)) for c in replay.get("commands", [])]
        self.commands.sort(key=lambda due: due[0])

    def _command(self, command: dict):
        from openg2g.datacenter.command import SetBatchSize, ShiftReplicas

        if "set_batch_size" in command:
            return SetBatchSize(command["set_batch_size"], target=self.datacenter)
        return ShiftReplicas(**command["shift_replicas"], target=self.datacenter)

    def run(self):
        """Yields the state of every step."""
        commands = iter(self.commands)
        due = next(commands, None)
        for step in range(self.steps):
            while due is not None and due[0] <= step:
                self.datacenter.apply_control(due[1], self.events)
                due = next(commands, None)
            self.past_capacity |= self._gpus() > self.datacenter.total_gpu_capacity
            self.available_gpu_capacity.append(self.datacenter.available_gpu_capacity())
            yield self.datacenter.do_step(self.clock, self.events)
            self.clock.advance()

    def _gpus(self) -> int:
        """The GPUs that the models ask for now."""
        gpus = 0
        for spec in self.specs:
            schedule = self.schedules.get(spec.model_label)
            if schedule is None or schedule.initial == 0:
                continue  # it never gets servers
            shift = self.datacenter._replica_offset_by_model[spec.model_label]
            gpus += max(0, int(round(schedule.count_at(self.clock.time_s))) + shift) * spec.gpus_per_replica
        return gpus

    def header(self) -> list[str]:
        columns = ["time_s", "power_a_w", "power_b_w", "power_c_w"]
        per_model = ["power_w", "active_replicas", "batch_size", "observed_itl_s"]
        per_model += [f"phase_share_{phase}" for phase in "abc"]
        return columns + [f"{label}:{name}" for label in self.labels for name in per_model]

    def row(self, state) -> list[str]:
        cells = [state.time_s, state.power_w.a, state.power_w.b, state.power_w.c]
        shares = self.datacenter.phase_share_by_model
        for label in self.labels:
            cells += [
                float(state.power_by_model_w[label]),
                int(state.active_replicas_by_model[label]),
                int(state.batch_size_by_model[label]),
                float(state.observed_itl_s_by_model[label]),
            ]
            cells += [float(share) for share in shares.get(label, (1 / 3, 1 / 3, 1 / 3))]
        return [repr(cell) for cell in cells]
