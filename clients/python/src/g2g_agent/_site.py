"""A site of OpenG2G's objects, made into the agent's configuration and data files."""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from openg2g.controller.ofo import LogisticModelStore
from openg2g.datacenter.config import (
    DatacenterConfig,
    InferenceModelSpec,
    PowerAugmentationConfig,
    ReplicaSchedule,
    TrainingSchedule,
)
from openg2g.datacenter.offline import OfflineDatacenter, OfflineWorkload
from openg2g.datacenter.workloads.inference import InferenceData, InferenceTraceStore, ITLFitStore

from g2g_agent.config import Config, number

# How many replicas the agent draws latencies for one by one, as OpenG2G does unless it is told otherwise.
_EXACT_REPLICAS = 30


@dataclass
class AgentWorkload:
    """A workload that names its models instead of holding their data: the agent reads the data, Python does not.

    It stands in for OpenG2G's `OfflineWorkload` where `data_dir` is given, and starts faster.

    Attributes:
        models: OpenG2G's specifications of the models.
        replica_schedules: Replicas over time by model label.
        initial_batch_sizes: Batch sizes at the start by model label; of others it is the first feasible one.
        training: Training runs beside the models.
        itl: Whether latencies are drawn. Without, they are NaN, and the data need no latency fits.
    """

    models: tuple[InferenceModelSpec, ...]
    replica_schedules: dict[str, ReplicaSchedule] = field(default_factory=dict)
    initial_batch_sizes: dict[str, int] = field(default_factory=dict)
    training: TrainingSchedule = field(default_factory=TrainingSchedule)
    itl: bool = True


def models_of(workload: OfflineWorkload | AgentWorkload) -> tuple[InferenceModelSpec, ...]:
    """The specifications of a workload's models, in their order."""
    if isinstance(workload, AgentWorkload):
        return tuple(workload.models)
    return tuple(workload.inference_data.models)


def batch_sizes(workload: OfflineWorkload | AgentWorkload) -> dict[str, Collection[int]]:
    """The batch sizes that there are data of, by model label."""
    if isinstance(workload, AgentWorkload):
        return {spec.model_label: spec.batch_sizes for spec in workload.models}
    store, fits = workload.inference_data.power_templates, workload.inference_data.itl_fits
    out: dict[str, Collection[int]] = {}
    for spec in workload.inference_data.models:
        sizes = set(store.batch_sizes(spec.model_label))
        out[spec.model_label] = sizes if fits is None else sizes & fits.distributions[spec.model_label].keys()
    return out


def initial_batch_sizes(workload: OfflineWorkload | AgentWorkload) -> dict[str, int]:
    """The batch size of each model at the start, as OpenG2G picks it."""
    out = {}
    for spec in models_of(workload):
        feasible = spec.feasible_batch_sizes or spec.batch_sizes
        out[spec.model_label] = int(workload.initial_batch_sizes.get(spec.model_label, feasible[0]))
    return out


def validate_capacity(workload: OfflineWorkload | AgentWorkload, total_gpu_capacity: int) -> None:
    """Check that the schedules fit into the site, at the start and where ramps begin and end, as OpenG2G does.

    Raises:
        ValueError: They need more GPUs than there are.
    """
    models, schedules = models_of(workload), workload.replica_schedules
    used = sum(schedules[m.model_label].initial * m.gpus_per_replica for m in models if m.model_label in schedules)
    if used > total_gpu_capacity:
        raise ValueError(f"the initial replicas need {used} GPUs, but total_gpu_capacity is {total_gpu_capacity}")
    times = sorted({t for s in schedules.values() for _, t_start, t_end in s._ramps for t in (t_start, t_end)})
    for t in times:
        used = 0
        for m in models:
            if m.model_label in schedules:
                used += round(float(schedules[m.model_label].count_at(t))) * m.gpus_per_replica
        if used > total_gpu_capacity:
            raise ValueError(
                f"at t={t:.1f} s the ramps need {used} GPUs, but total_gpu_capacity is {total_gpu_capacity}"
            )


def site_config(
    datacenter: DatacenterConfig,
    workload: OfflineWorkload | AgentWorkload,
    power_augmentation: PowerAugmentationConfig | None = None,
    *,
    dt_s: Fraction,
    total_gpu_capacity: int,
    name: str = "dc",
    seed: int = 0,
    data_dir: str | Path | None = None,
    duration_s: float | Fraction | None = None,
    steady_skip_s: float = 0.0,
    export_dir: str | Path | None = None,
) -> Config:
    """See [`Config.from_openg2g`][g2g_agent.config.Config.from_openg2g]."""
    if not isinstance(dt_s, Fraction):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"dt_s must be a Fraction, as OpenG2G's, not {type(dt_s).__name__}")
    if power_augmentation is None:
        power_augmentation = PowerAugmentationConfig()
    validate_capacity(workload, total_gpu_capacity)
    export = Path(export_dir).absolute() if export_dir is not None else None
    replay: dict[str, Any]
    if isinstance(workload, AgentWorkload):
        if data_dir is None or duration_s is None:
            raise ValueError("an AgentWorkload holds no data: name data_dir and duration_s")
        duration, itl = _exact(duration_s), workload.itl
        replay = {"data_dir": str(Path(data_dir).absolute()), "steady_skip_s": float(steady_skip_s)}
    else:
        data = workload.inference_data
        _check_fits(data)
        length, itl = template_length(data), data.itl_fits is not None
        duration = _duration(length, dt_s, duration_s)
        if data_dir is not None:
            _check_data_dir(data, Path(data_dir), dt_s, duration, steady_skip_s)
            replay = {"data_dir": str(Path(data_dir).absolute()), "steady_skip_s": float(steady_skip_s)}
        elif export is not None:
            export_inference_data(data, export / "data", dt_s)
            replay = {"data_dir": str(export / "data")}
        else:
            raise ValueError(
                "the workload holds its data in memory: name data_dir, the directory that it was loaded from, or "
                "export_dir, one to write it into"
            )
    replay.update(duration_s=number(duration), template_duration_s=number(duration), itl=itl)
    models = [_model(spec, workload, initial_batch_sizes(workload)[spec.model_label]) for spec in models_of(workload)]
    labels = [spec.model_label for spec in models_of(workload)]
    site: dict[str, Any] = {
        "name": name,
        "gpus_per_server": datacenter.gpus_per_server,
        "base_kw_per_phase": float(datacenter.base_kw_per_phase),
        "power_factor": float(datacenter.power_factor),
        "total_gpu_capacity": int(total_gpu_capacity),
    }
    if len({label.lower() for label in labels}) < len(labels):
        site["allow_labels_differing_in_case"] = True
    return Config(
        {
            "seed": int(seed),
            "dt_s": number(dt_s),
            "datacenter": site,
            "augmentation": {
                "amplitude_scale_range": [float(v) for v in power_augmentation.amplitude_scale_range],
                "noise_fraction": float(power_augmentation.noise_fraction),
            },
            "models": models,
            "training": training_entries(workload.training, export),
            "control": {"allow_infeasible_batch_sizes": True, "allow_shifts_past_capacity": True},  # as OpenG2G does
            "replay": replay,
        }
    )


def _model(spec: InferenceModelSpec, workload: OfflineWorkload | AgentWorkload, batch_size: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "model_label": spec.model_label,
        "model_id": spec.model_id,
        "gpus_per_replica": spec.gpus_per_replica,
        "itl_deadline_s": float(spec.itl_deadline_s),
        "feasible_batch_sizes": [int(b) for b in spec.feasible_batch_sizes or spec.batch_sizes],
        "initial_batch_size": batch_size,
        "gpu_model": spec.gpu_model,
        "task": spec.task,
        "precision": spec.precision,
        "tensor_parallel": spec.tensor_parallel,
        "expert_parallel": spec.expert_parallel,
        "batch_sizes": [int(b) for b in spec.batch_sizes],
        "fit_exclude_batch_sizes": [int(b) for b in spec.fit_exclude_batch_sizes],
    }
    schedule = workload.replica_schedules.get(spec.model_label)
    if schedule is not None:
        entry["replicas"] = replicas_entry(schedule)
    return entry


def replicas_entry(schedule: ReplicaSchedule) -> dict[str, Any]:
    """A schedule as the configuration and the API's reset write it."""
    ramps = [{"target": target, "t_start": t_start, "t_end": t_end} for target, t_start, t_end in schedule._ramps]
    return {"initial": schedule.initial, "ramps": ramps}


def training_entries(training: TrainingSchedule, export: Path | None) -> list[dict[str, Any]]:
    """Training runs as the configuration writes them. Their traces are written into `export`."""
    entries: list[dict[str, Any]] = []
    files: dict[int, Path] = {}
    for run, t_start, t_end in training:
        if export is None:
            raise ValueError("training traces exist in memory alone: name export_dir, a directory to write them into")
        trace = run.trace
        if id(trace) not in files:
            if np.any(np.asarray(trace.power_w) < 0) or np.any(np.diff(trace.t_s) < 0):
                raise ValueError(
                    "a training trace has negative power or times out of order; save it and load it again, as "
                    "TrainingTrace.load mends both"
                )
            files[id(trace)] = export / f"training_{len(files)}.csv"
            export.mkdir(parents=True, exist_ok=True)
            _write_columns(files[id(trace)], "t_s,power_W", trace.t_s, trace.power_w)
        entries.append(
            {
                "n_gpus": int(run.n_gpus),
                "trace": str(files[id(trace)]),
                "target_peak_w_per_gpu": float(run.target_peak_W_per_gpu),
                "t_start": t_start,
                "t_end": t_end,
            }
        )
    return entries


def template_length(data: InferenceData) -> int:
    """Samples of each of the workload's power templates.

    Raises:
        ValueError: They differ in length; the agent's do not.
    """
    store = data.power_templates
    lengths = {len(store.template(m.model_label, b)) for m in data.models for b in store.batch_sizes(m.model_label)}
    if len(lengths) != 1:
        raise ValueError(
            f"the power templates differ in length ({sorted(lengths)} samples); load all with one duration_s"
        )
    return lengths.pop()


def _exact(seconds: float | Fraction) -> Fraction:
    return seconds if isinstance(seconds, Fraction) else Fraction(str(seconds))


def _samples(duration: Fraction, dt_s: Fraction) -> int:
    """Samples of a template, by OpenG2G's arithmetic."""
    return math.ceil(float(duration) / float(dt_s)) + 1


def _duration(length: int, dt_s: Fraction, given: float | Fraction | None) -> Fraction:
    """The duration, in seconds, that makes templates of so many samples."""
    if given is not None:
        duration = _exact(given)
        if _samples(duration, dt_s) != length:
            raise ValueError(
                f"templates of duration_s={given} have {_samples(duration, dt_s)} samples, but the workload's have "
                f"{length}: give the duration_s and dt_s that the data were loaded with"
            )
        return duration
    for duration in ((length - 1) * dt_s, (length - Fraction(3, 2)) * dt_s):
        if duration > 0 and _samples(duration, dt_s) == length:
            return duration
    raise ValueError(f"the power templates have {length} samples; they need at least 2")


def _check_fits(data: InferenceData) -> None:
    fits: ITLFitStore | None = data.itl_fits
    if fits is not None and fits._approx_sampling_thresh != _EXACT_REPLICAS:
        raise ValueError(
            f"the latency fits have approx_sampling_thresh={fits._approx_sampling_thresh}; the agent has "
            f"{_EXACT_REPLICAS}, OpenG2G's default, only"
        )


def _check_data_dir(
    data: InferenceData, data_dir: Path, dt_s: Fraction, duration: Fraction, steady_skip_s: float
) -> None:
    """Hold one model's templates to the directory that they are said to come from."""
    spec = data.models[0]
    for base in (data_dir, data_dir / "specs"):
        if (base / spec.cache_hash() / "trace.csv").exists():
            break
    else:
        return  # another layout, which the agent looks into
    made = InferenceTraceStore.load(base, (spec,)).build_templates(
        duration_s=duration, dt_s=dt_s, steady_skip_s=steady_skip_s
    )
    for batch_size in made.batch_sizes(spec.model_label):
        want = data.power_templates.template(spec.model_label, batch_size)
        if not np.array_equal(want, made.template(spec.model_label, batch_size)):
            raise ValueError(
                f"{base}: with duration_s={float(duration)} and steady_skip_s={steady_skip_s} the templates of "
                f"{spec.model_label!r} are others than the workload's: give the values that the data were loaded with"
            )


def export_inference_data(data: InferenceData, directory: Path, dt_s: Fraction) -> None:
    """Write a workload's templates and latency fits so that the agent makes the same templates of them.

    A template is a trace with a sample at each step and the length of the template: repeated, it is itself.
    Layout 0.1, where a trace says of how many GPUs it is: of one, which keeps every bit.
    """
    store = data.power_templates
    samples = max(template_length(data), 5)  # a trace has at least five samples
    times = np.arange(samples + 1, dtype=float) * float(dt_s)
    time_texts = [repr(t) for t in times.tolist()]
    (directory / "traces").mkdir(parents=True, exist_ok=True)
    with open(directory / "traces_summary.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["model_label", "num_gpus", "max_num_seqs", "trace_file"])
        for i, spec in enumerate(data.models):
            for batch_size in store.batch_sizes(spec.model_label):
                template = np.asarray(store.template(spec.model_label, batch_size), dtype=float)
                power = np.resize(template, samples)
                power = np.append(power, power[:1])
                trace = f"traces/{i}_max_num_seqs_{batch_size}.csv"
                _write_rows(directory / trace, "relative_time_s,power_total_W", time_texts, power)
                rows.writerow([spec.model_label, 1, batch_size, trace])
    if data.itl_fits is not None:
        _export_fits(data.itl_fits, directory / "latency_fits.csv")


def _export_fits(fits: ITLFitStore, path: Path) -> None:
    names = ("loc", "pi_steady", "sigma_steady", "scale_steady", "pi_stall", "sigma_stall", "scale_stall")
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["model_label", "max_num_seqs", "itl_dist", *(f"itl_mix_{name}" for name in names)])
        for label, by_batch in fits.distributions.items():
            for batch_size, fit in sorted(by_batch.items()):
                values: Mapping[str, Any] = fit.to_dict()
                rows.writerow(
                    [label, batch_size, "lognormal_mixture_2"]
                    + [repr(float(values[n] if n in values else values[f"itl_mix_{n}"])) for n in names]
                )


def _write_columns(path: Path, header: str, t_s: Any, power_w: Any) -> None:
    times = [repr(t) for t in np.asarray(t_s, dtype=float).tolist()]
    _write_rows(path, header, times, np.asarray(power_w, dtype=float))


def _write_rows(path: Path, header: str, times: list[str], power: Any) -> None:
    lines = [f"{t},{p!r}" for t, p in zip(times, power.tolist(), strict=True)]
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")


class Exports:
    """Directories with the data of workloads, written once for each `InferenceData` and gone with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dirs: weakref.WeakKeyDictionary[InferenceData, dict[Fraction, Path]] = weakref.WeakKeyDictionary()

    def data_dir(self, data: InferenceData, dt_s: Fraction) -> Path:
        """The directory of a workload's data for a time step, made at the first call."""
        with self._lock:
            dirs = self._dirs.setdefault(data, {})
            if dt_s not in dirs:
                directory = temporary_dir(data)
                export_inference_data(data, directory, dt_s)
                dirs[dt_s] = directory
            return dirs[dt_s]


def temporary_dir(owner: object) -> Path:
    """A directory that is removed when its owner is, and at the program's end."""
    directory = Path(tempfile.mkdtemp(prefix="g2g-agent-"))
    weakref.finalize(owner, shutil.rmtree, directory, ignore_errors=True)
    return directory


def config_of(
    value: object,
    *,
    data_dir: str | Path | None = None,
    duration_s: float | Fraction | None = None,
    steady_skip_s: float = 0.0,
    export_dir: str | Path | None = None,
) -> Config:
    """The configuration of a datacenter: an `OfflineDatacenter` of OpenG2G's, or one that has a `config`.

    Raises:
        TypeError: It is neither.
        ValueError: Directories are missing, see [`Config.from_openg2g`][g2g_agent.config.Config.from_openg2g].
    """
    own = getattr(value, "config", None)
    if isinstance(own, Config):
        return own
    if isinstance(value, OfflineDatacenter) and hasattr(value, "_workload"):
        return site_config(
            value._datacenter,
            value._workload,
            value._power_augmentation,
            dt_s=value.dt_s,
            total_gpu_capacity=value.total_gpu_capacity,
            name=value.name,
            seed=value._seed,
            data_dir=data_dir,
            duration_s=duration_s,
            steady_skip_s=steady_skip_s,
            export_dir=export_dir,
        )
    raise TypeError(
        f"a configuration is made of an OfflineDatacenter or an AgentDatacenter, not of {type(value).__name__}"
    )


def logistic_models(
    data: InferenceData | str | Path, models: tuple[InferenceModelSpec, ...] | None = None, *, skip_s: float = 5.0
) -> LogisticModelStore:
    """Curves of power, latency and throughput over the batch size, which OFO needs, of a workload's own data.

    For data without `logistic_fit.json`. Power is the mean of a trace, or template, without its first seconds; latency
    the mean of the fitted mixture; throughput the batch size over that.

    Args:
        data: The workload's data, or the directory that they are in (layout 0.2).
        models: The models; by default all of the data. Needed with a directory.
        skip_s: Seconds left out of the start of each trace; templates are taken whole.
    """
    from mlenergy.data.modeling import LogisticModel

    traces: dict[str, dict[int, Any]] = {}
    if isinstance(data, InferenceData):
        models, fits = data.models if models is None else models, data.itl_fits
        for spec in models:
            label = spec.model_label
            traces[label] = {
                b: float(np.mean(data.power_templates.template(label, b))) * spec.gpus_per_replica
                for b in data.power_templates.batch_sizes(label)
            }
    elif models is None:
        raise ValueError("name the models of which the directory has the data")
    else:
        fits = ITLFitStore.load(data, models)
        for label, by_batch in InferenceTraceStore.load(data, models)._traces.items():
            traces[label] = {b: float(np.mean(tr.power_w[tr.t_s >= tr.t_s[0] + skip_s])) for b, tr in by_batch.items()}
    if fits is None:
        raise ValueError("the workload has no latency fits")
    power, latency, throughput = {}, {}, {}
    for spec in models:
        label = spec.model_label
        measured = fits.distributions[label].keys() & traces[label].keys()
        sizes = sorted(measured - set(spec.fit_exclude_batch_sizes))
        x = np.log2(np.array(sizes, dtype=float))
        itl = np.array([fits.distributions[label][b].mean_var()[0] for b in sizes])
        power[label] = LogisticModel.fit(x, np.array([traces[label][b] for b in sizes]))
        latency[label] = LogisticModel.fit(x, itl)
        throughput[label] = LogisticModel.fit(x, np.array(sizes) / itl)
    return LogisticModelStore(power, latency, throughput)


EXPORTS = Exports()
