"""The study that the examples share: OpenG2G's IEEE 13-bus setting with the OFO controller.

Everything here is OpenG2G's: models, schedules, feeder, controllers, statistics. The
examples differ in which datacenter they put in.
"""

from __future__ import annotations

import itertools
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from g2g_agent.openg2g import logistic_models
from openg2g.controller.base import Controller
from openg2g.controller.ofo import LogisticModelStore, OFOBatchSizeController, OFOConfig
from openg2g.controller.tap_schedule import TapScheduleController
from openg2g.coordinator import Coordinator, SimulationLog
from openg2g.datacenter.base import DatacenterBackend
from openg2g.datacenter.command import SetBatchSize
from openg2g.datacenter.config import (
    DatacenterConfig,
    InferenceModelSpec,
    PowerAugmentationConfig,
    ReplicaSchedule,
    TrainingRun,
)
from openg2g.datacenter.offline import OfflineWorkload
from openg2g.datacenter.workloads.inference import InferenceData
from openg2g.datacenter.workloads.training import TrainingTrace
from openg2g.grid.config import TapPosition, TapSchedule
from openg2g.grid.generator import SyntheticPV
from openg2g.grid.load import SyntheticLoad
from openg2g.grid.opendss import OpenDSSGrid
from openg2g.metrics.performance import PerformanceStats, compute_performance_stats
from openg2g.metrics.voltage import VoltageStats, compute_allbus_voltage_stats

HERE = Path(__file__).resolve().parent
FEEDER = HERE / "feeder" / "ieee13_datacenter.dss"
# An OpenG2G 0.2 data directory with the three models, H100, at batch sizes 8 to 512. It
# comes with the project. `g2g-agent generate inference-data` or InferenceData.ensure()
# make one of your own.
DATA_DIR = Path(os.environ.get("G2G_EXAMPLES_DATA_DIR", HERE.parent.parent / "testdata" / "golden" / "data_0.2"))

DT_S = Fraction(1, 10)
CONTROL_DT_S = Fraction(1)
FULL_DURATION_S = 3600
STEADY_SKIP_S = 5.0
EXCLUDED_BUSES = ("sourcebus", "650", "rg60")
TAP_STEP = 0.00625

FEASIBLE_BATCH_SIZES = (8, 16, 32, 64, 128, 256)
MODELS = tuple(
    InferenceModelSpec(
        model_label=label,
        model_id=f"meta-llama/{label}-Instruct{suffix}",
        gpu_model="H100",
        task="lm-arena-chat",
        gpus_per_replica=gpus,
        itl_deadline_s=deadline_s,
        batch_sizes=batch_sizes,
        feasible_batch_sizes=FEASIBLE_BATCH_SIZES,
    )
    for label, suffix, gpus, deadline_s, batch_sizes in (
        ("Llama-3.1-8B", "", 1, 0.08, (8, 16, 32, 64, 128, 256, 512)),
        ("Llama-3.1-70B", "", 4, 0.10, (8, 16, 32, 64, 128, 256, 512)),
        ("Llama-3.1-405B", "-FP8", 8, 0.12, (8, 16, 32, 64, 128, 256)),
    )
)
REPLICAS = {"Llama-3.1-8B": 1200, "Llama-3.1-70B": 300, "Llama-3.1-405B": 240}
INITIAL_BATCH_SIZE = 128

FACILITY = DatacenterConfig(gpus_per_server=8, base_kw_per_phase=500.0, power_factor=0.95)
AUGMENTATION = PowerAugmentationConfig(amplitude_scale_range=(0.98, 1.02), noise_fraction=0.005)
TOTAL_GPU_CAPACITY = 7200

OFO = OFOConfig(
    primal_step_size=0.1,
    w_throughput=0.001,
    w_switch=1.0,
    voltage_gradient_scale=1e6,
    v_min=0.95,
    v_max=1.05,
    voltage_dual_step_size=1.0,
    latency_dual_step_size=1.0,
    sensitivity_update_interval=3600,
    sensitivity_perturbation_kw=100.0,
)


def taps(a: int, b: int, c: int) -> TapPosition:
    """A tap position in steps of 5/8 % from neutral."""
    return TapPosition(a=1.0 + a * TAP_STEP, b=1.0 + b * TAP_STEP, c=1.0 + c * TAP_STEP)


INITIAL_TAPS = taps(14, 6, 15)


@dataclass(frozen=True)
class Study:
    """One hour of the IEEE 13-bus feeder, or the same story told in less time.

    Attributes:
        duration_s: Length in whole seconds. Ramps, training and tap changes keep their
            place in the run: at half of 3600 s they come after half the time.
        feeder: The OpenDSS master file.
        data_dir: OpenG2G data directory with the models and `training_trace.csv`.
    """

    duration_s: int = FULL_DURATION_S
    feeder: Path = FEEDER
    data_dir: Path = DATA_DIR

    def at(self, t_s: float) -> float:
        """The time in this run, in seconds, of a time in the full hour."""
        return t_s * self.duration_s / FULL_DURATION_S

    def inference_data(self) -> InferenceData:
        """Traces and latencies of the models, with templates as long as the run."""
        return InferenceData.load(
            self.data_dir, MODELS, duration_s=self.duration_s, dt_s=float(DT_S), steady_skip_s=STEADY_SKIP_S
        )

    def workload(self) -> OfflineWorkload:
        """OpenG2G's description of what runs: models, replicas, batch sizes, training."""
        trace = TrainingTrace.load(self.data_dir / "training_trace.csv")
        training = TrainingRun(n_gpus=2400, trace=trace, target_peak_W_per_gpu=400.0)
        return OfflineWorkload(
            inference_data=self.inference_data(),
            replica_schedules={
                label: ReplicaSchedule(initial=n).ramp_to(n // 2, t_start=self.at(2500), t_end=self.at(3000))
                for label, n in REPLICAS.items()
            },
            initial_batch_sizes={label: INITIAL_BATCH_SIZE for label in REPLICAS},
            training=training.at(t_start=self.at(1000), t_end=self.at(2000)),
        )

    def curves(self) -> LogisticModelStore:
        """Power, latency and throughput over the batch size, for OFO: fitted to the data directory."""
        return logistic_models(self.data_dir, MODELS)

    def tap_schedule(self) -> TapSchedule:
        return taps(16, 6, 17).at(t=self.at(1500)) | taps(10, 6, 10).at(t=self.at(3300))

    def grid(self, datacenter: DatacenterBackend[Any]) -> OpenDSSGrid:
        grid = open_feeder(self.feeder, INITIAL_TAPS)
        grid.attach_dc(datacenter, bus="671", power_factor=FACILITY.power_factor)
        grid.attach_generator(SyntheticPV(peak_kw=10.0), bus="675")
        grid.attach_load(SyntheticLoad(peak_kw=10.0), bus="680")
        return grid

    def run(self, datacenter: DatacenterBackend[Any]) -> Run:
        """Runs the closed loop with a datacenter, whichever it is."""
        grid = self.grid(datacenter)
        controllers: list[Controller[Any, Any]] = [
            TapScheduleController(schedule=self.tap_schedule(), dt_s=CONTROL_DT_S),
            OFOBatchSizeController(
                MODELS,
                datacenter=datacenter,
                models=self.curves(),
                config=OFO,
                dt_s=CONTROL_DT_S,
                initial_batch_sizes={label: INITIAL_BATCH_SIZE for label in REPLICAS},
                grid=grid,
            ),
        ]
        return run_coordinator(
            Coordinator(datacenters=[datacenter], grid=grid, controllers=controllers, total_duration_s=self.duration_s)
        )


def open_feeder(path: Path, initial_taps: TapPosition) -> OpenDSSGrid:
    """The feeder with the source at 1.0 pu; its regulators move by schedule only."""
    return OpenDSSGrid(
        dss_case_dir=path.parent,
        dss_master_file=path.name,
        dt_s=DT_S,
        source_pu=1.0,
        initial_tap_position=initial_taps,
        exclude_buses=EXCLUDED_BUSES,
    )


@dataclass(frozen=True)
class Run:
    """What a run leaves behind.

    Attributes:
        log: OpenG2G's log of the run.
        wall_s: How long it took, in seconds.
        late_ticks: How often OpenG2G's live clock was late.
    """

    log: SimulationLog[Any, Any]
    wall_s: float
    late_ticks: int = 0
    deadlines: dict[str, float] = field(default_factory=lambda: {m.model_label: m.itl_deadline_s for m in MODELS})

    def voltage(self) -> VoltageStats:
        return compute_allbus_voltage_stats(self.log.grid_states, exclude_buses=EXCLUDED_BUSES)

    def performance(self) -> PerformanceStats:
        return compute_performance_stats(self.log.dc_states, itl_deadline_s_by_model=self.deadlines)

    def left_out(self) -> int:
        """States of the agent that the coordinator did not see: live ones are numbered."""
        left_out = 0
        for states in self.log.dc_states_by_site.values():
            numbers = [state.seq for state in states if hasattr(state, "seq")]
            left_out += sum(after - before - 1 for before, after in itertools.pairwise(numbers))
        return left_out

    def batch_size_changes(self) -> dict[str, int]:
        """How often each model's batch size changed, at all sites."""
        changes: dict[str, int] = {}
        for states in self.log.dc_states_by_site.values():
            for before, after in itertools.pairwise(states):
                for label, batch in after.batch_size_by_model.items():
                    changes[label] = changes.get(label, 0) + (batch != before.batch_size_by_model[label])
        return changes


def run_coordinator(coordinator: Coordinator[Any, Any]) -> Run:
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = coordinator.run()
    late = 0
    for warning in caught:
        if "Clock lag" in str(warning.message):
            late += 1
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return Run(log=log, wall_s=time.monotonic() - start, late_ticks=late)


# Side by side.

ROWS: tuple[tuple[str, Callable[[Run], float | int | str]], ...] = (
    ("states", lambda run: len(run.log.dc_states)),
    ("mean power, MW", lambda run: float(np.mean([sum(phases(s)) for s in run.log.dc_states])) / 1e6),
    ("peak power, MW", lambda run: max(sum(phases(s)) for s in run.log.dc_states) / 1e6),
    ("violation, s", lambda run: run.voltage().violation_time_s),
    ("violation, pu·s", lambda run: run.voltage().integral_violation_pu_s),
    ("lowest voltage, pu", lambda run: run.voltage().worst_vmin),
    ("highest voltage, pu", lambda run: run.voltage().worst_vmax),
    ("throughput, tokens/s", lambda run: run.performance().mean_throughput_tps),
    ("ITL over deadline, %", lambda run: 100 * run.performance().itl_deadline_fraction),
    ("batch size changes", lambda run: ", ".join(str(n) for n in run.batch_size_changes().values())),
    ("commands", lambda run: sum(isinstance(c, SetBatchSize) for c in run.log.commands)),
    ("states left out", lambda run: run.left_out()),
    ("late ticks", lambda run: run.late_ticks),
    ("wall time, s", lambda run: round(run.wall_s, 1)),
)


def phases(state: Any) -> tuple[float, float, float]:
    """A state's power on phases A, B and C, in W."""
    return state.power_w.a, state.power_w.b, state.power_w.c


def print_side_by_side(runs: dict[str, Run]) -> None:
    """A table: a row per statistic, a column per run; floats in full."""
    table = [["", *runs]]
    for title, value in ROWS:
        table.append([title, *(str(value(run)) for run in runs.values())])
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for title, *values in table:
        cells = [title.ljust(widths[0]), *(v.rjust(w) for v, w in zip(values, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


# Equality, to the bit.


def differences(a: Run, b: Run) -> list[str]:
    """What differs between two runs of the same study: [] if all is the same, to the bit.

    Latency alone is compared to 1e-12: how a mean of many draws is summed differs in its
    last bit between NumPy and the agent (docs/exactness.md), and nothing that hangs on it does.
    """
    columns: dict[str, Callable[[Run], list[Any]]] = {
        "time": lambda run: [s.time_s for s in run.log.dc_states],
        "power on three phases": lambda run: [phases(s) for s in run.log.dc_states],
        "power by model": lambda run: [s.power_by_model_w for s in run.log.dc_states],
        "active replicas": lambda run: [s.active_replicas_by_model for s in run.log.dc_states],
        "batch sizes": lambda run: [s.batch_size_by_model for s in run.log.dc_states],
        "voltages": lambda run: [repr(s.voltages) for s in run.log.grid_states],  # repr: NaN equals NaN
        "tap positions": lambda run: [s.tap_positions for s in run.log.grid_states],
        "commands": lambda run: [command_key(c) for c in run.log.commands],
        "events": lambda run: [(e.tick, e.t_s, e.source, e.topic, e.data) for e in run.log.events],
        "voltage statistics": lambda run: [run.voltage()],
    }
    found = []
    for what, column in columns.items():
        ours, theirs = column(a), column(b)
        if len(ours) != len(theirs):
            found.append(f"{what}: {len(ours)} and {len(theirs)} values")
            continue
        unequal = [i for i, (x, y) in enumerate(zip(ours, theirs, strict=True)) if x != y]
        if unequal:
            i = unequal[0]
            found.append(f"{what}: {len(unequal)} of {len(ours)}, first number {i}: {ours[i]} and {theirs[i]}")
    for i, (x, y) in enumerate(zip(a.log.dc_states, b.log.dc_states, strict=False)):
        for label, itl_s in x.observed_itl_s_by_model.items():
            other_s = y.observed_itl_s_by_model[label]
            same = math.isnan(itl_s) == math.isnan(other_s) and not abs(itl_s - other_s) > 1e-12 * abs(itl_s)
            if not same:
                found.append(f"latency of {label}, state {i}: {itl_s} and {other_s}")
                return found
    return found


def compared(run: Run) -> str:
    """How much `differences` compares."""
    voltages = 3 * sum(len(state.voltages.buses()) for state in run.log.grid_states)
    return f"{len(run.log.dc_states):,} states, {len(run.log.commands):,} commands and {voltages:,} voltages"


def command_key(command: Any) -> tuple[str, str]:
    """A command, with the name of the datacenter it is for in its place."""
    values = {key: value.name if key == "target" else value for key, value in vars(command).items()}
    return type(command).__name__, repr(values)
