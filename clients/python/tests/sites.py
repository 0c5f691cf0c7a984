"""Sites of OpenG2G's objects, on the data that come with the project."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
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
from openg2g.events import EventEmitter, SimEvent

from g2g_agent.openg2g import AgentDatacenter, AgentWorkload

ROOT = Path(__file__).absolute().parents[3]
DATA = ROOT / "testdata" / "golden" / "data_0.2"
EXAMPLES = ROOT / "examples" / "openg2g"
SKIP_S = 5.0


def spec(label: str, gpus: int, deadline_s: float, suffix: str = "", most: int = 512) -> InferenceModelSpec:
    sizes = tuple(size for size in (8, 16, 32, 64, 128, 256, 512) if size <= most)
    return InferenceModelSpec(
        model_label=label,
        model_id=f"meta-llama/{label}-Instruct{suffix}",
        gpu_model="H100",
        task="lm-arena-chat",
        gpus_per_replica=gpus,
        itl_deadline_s=deadline_s,
        batch_sizes=sizes,
        feasible_batch_sizes=sizes,
    )


SMALL, LARGE = spec("Llama-3.1-8B", 1, 0.08), spec("Llama-3.1-405B", 8, 0.12, "-FP8", 256)


@dataclass(frozen=True)
class Site:
    """Arguments of a datacenter, small enough to be quick."""

    specs: tuple[InferenceModelSpec, ...] = (SMALL, LARGE)
    duration_s: float = 20
    dt_s: Fraction = Fraction(1, 10)
    seed: int = 3
    capacity: int = 160
    schedules: dict[str, ReplicaSchedule] = field(
        default_factory=lambda: {
            SMALL.model_label: ReplicaSchedule(initial=40).ramp_to(16, t_start=4, t_end=8),
            LARGE.model_label: ReplicaSchedule(initial=6),
        }
    )
    initial: dict[str, int] = field(default_factory=lambda: {SMALL.model_label: 64, LARGE.model_label: 32})
    trained: bool = True
    noise: float = 0.02
    facility: DatacenterConfig = field(default_factory=lambda: DatacenterConfig(base_kw_per_phase=20))

    def data(self) -> InferenceData:
        return InferenceData.load(
            DATA, self.specs, duration_s=self.duration_s, dt_s=float(self.dt_s), steady_skip_s=SKIP_S
        )

    @property
    def training(self) -> TrainingSchedule:
        if not self.trained:
            return TrainingSchedule()
        trace = TrainingTrace.load(DATA / "training_trace.csv")
        return TrainingRun(n_gpus=16, trace=trace).at(5, 12) | TrainingRun(n_gpus=8, trace=trace).at(2, 6)

    def workload(self) -> OfflineWorkload:
        return OfflineWorkload(self.data(), self.schedules, self.initial, self.training)

    def naming(self) -> AgentWorkload:
        return AgentWorkload(self.specs, self.schedules, self.initial, self.training)

    @property
    def common(self) -> dict[str, Any]:
        return {
            "name": "dc",
            "dt_s": self.dt_s,
            "seed": self.seed,
            "power_augmentation": PowerAugmentationConfig(amplitude_scale_range=(0.9, 1.1), noise_fraction=self.noise),
            "total_gpu_capacity": self.capacity,
        }

    def offline(self) -> OfflineDatacenter:
        return OfflineDatacenter(self.facility, self.workload(), **self.common)

    def agent(self, binary: Path, **options: Any) -> AgentDatacenter:
        return AgentDatacenter(self.facility, self.workload(), binary=binary, **self.common, **options)

    def but(self, **changes: Any) -> Site:
        return replace(self, **changes)


class Driver:
    """Steps a datacenter as a coordinator does, and keeps its events."""

    def __init__(self, datacenter: Any) -> None:
        self.datacenter = datacenter
        self.clock = SimulationClock(tick_s=datacenter.dt_s)
        self.seen: list[SimEvent] = []
        self.events = EventEmitter(self.clock, self, "datacenter")  # type: ignore[arg-type]
        datacenter.do_reset()
        datacenter.start()

    def emit(self, event: SimEvent) -> None:
        self.seen.append(event)

    def step(self, n: int = 1) -> list[Any]:
        states = []
        for _ in range(n):
            states.append(self.datacenter.do_step(self.clock, self.events))
            self.clock.advance()
        return states

    def command(self, command: Any) -> None:
        self.datacenter.apply_control(command, self.events)

    def topics(self) -> list[tuple[int, str, dict[str, Any]]]:
        return [(event.tick, event.topic, event.data) for event in self.seen]


def same(ours: Any, theirs: Any) -> None:
    """Two states have the same numbers: to the bit, but for the last bit of latencies."""
    assert ours.time_s == theirs.time_s
    assert (ours.power_w.a, ours.power_w.b, ours.power_w.c) == (theirs.power_w.a, theirs.power_w.b, theirs.power_w.c)
    assert ours.power_by_model_w == theirs.power_by_model_w
    assert ours.batch_size_by_model == theirs.batch_size_by_model
    assert ours.active_replicas_by_model == theirs.active_replicas_by_model
    assert ours.observed_itl_s_by_model.keys() == theirs.observed_itl_s_by_model.keys()
    for label, itl_s in theirs.observed_itl_s_by_model.items():
        our_s = ours.observed_itl_s_by_model[label]
        assert math.isnan(our_s) == math.isnan(itl_s)
        assert math.isnan(itl_s) or math.isclose(our_s, itl_s, rel_tol=1e-12)


def all_same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for mine, its in zip(ours, theirs, strict=True):
        same(mine, its)


def study() -> Any:
    """The study of the examples: OpenG2G's IEEE 13-bus setting."""
    pytest.importorskip("opendssdirect")
    if not (EXAMPLES / "study.py").exists():
        pytest.skip(f"{EXAMPLES} is missing")
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module("study")


def ended(process_id: int) -> bool:
    """Whether a process is gone, or only waits to be asked how it ended."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
