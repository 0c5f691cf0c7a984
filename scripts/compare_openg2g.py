"""Compares g2g-agent with OpenG2G 0.2: speed, and exactness of the numbers.

Run through scripts/compare_openg2g.sh, which provides OpenG2G.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import json
import logging
import math
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "testdata/golden/data_0.2"
CASES = ROOT / "testdata/golden/offline"
BINARY = ROOT / "bin/g2g-agent"

# The measurement setting of the models in DATA, which their directory names hash.
SETTING = {"gpu_model": "H100", "task": "lm-arena-chat"}


# --- OpenG2G, driven by one of our configs -----------------------------------


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


# --- speed -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SpeedCase:
    """A benchmark of ours and what it must reach."""

    name: str
    servers: int
    min_ratio: float | None = None  # over OpenG2G; None: it is not run
    max_us: float | None = None


REPLAY_CASE = "three_models_noise_ramps_training"
MAX_REPLAY_S = 0.15
REPLAY_RUNS = 9
MARKERS = ("<!-- measured:begin -->", "<!-- measured:end -->")


def speed_cases() -> list[SpeedCase]:
    return [
        SpeedCase(REPLAY_CASE, servers(golden_config(REPLAY_CASE)), min_ratio=50),
        SpeedCase("ten_thousand_servers", servers(golden_config("ten_thousand_servers")), min_ratio=100),
        SpeedCase("million_gpus", 125_000, max_us=2000),
    ]


def openg2g_us_per_step(name: str) -> float:
    """Times OpenG2G's step loop in a process of its own."""
    command = [sys.executable, __file__, "openg2g-steps", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_openg2g_us_per_step(name: str) -> None:
    reference = Reference(golden_config(name))
    started = time.perf_counter()
    for _state in reference.run():
        pass
    print((time.perf_counter() - started) / reference.steps * 1e6)


def agent_us_per_step(test_binary: Path, name: str) -> tuple[float, int]:
    """Runs our benchmark once, on one core: microseconds and allocations a step."""
    result = subprocess.run(
        [test_binary, "-test.run=^$", f"-test.bench=^BenchmarkStep$/^{name}$", "-test.benchmem"],
        cwd=ROOT / "agent",
        env={**os.environ, "GOMAXPROCS": "1"},
        capture_output=True,
        text=True,
    )
    line = re.search(rf"^BenchmarkStep/{name}\s.*?([\d.]+) ns/op.*?(\d+) allocs/op", result.stdout, re.MULTILINE)
    if result.returncode != 0 or line is None:
        sys.exit(f"BenchmarkStep/{name} in ./agent gave no result:\n{result.stdout}{result.stderr}")
    return float(line[1]) / 1e3, int(line[2])


def replay_seconds() -> float:
    """Times the whole command, start to exit."""
    config = ROOT / f"testdata/configs/{REPLAY_CASE}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        command = [BINARY, "replay", "--config", config, "--out", Path(folder) / "out.csv"]
        times = []
        for _ in range(REPLAY_RUNS):
            started = time.perf_counter()
            result = subprocess.run(command, capture_output=True, text=True)
            times.append(time.perf_counter() - started)
            if result.returncode != 0:
                sys.exit(f"{' '.join(map(str, command))} exited with {result.returncode}:\n{result.stderr}")
    return statistics.median(times)


def speed(rounds: int, write: bool) -> bool:
    table = [
        "| case | servers | OpenG2G, µs/step | g2g-agent, µs/step | allocations/step | ratio | required | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    passed = True

    def verdict(ok: bool) -> str:
        nonlocal passed
        passed = passed and ok
        return "met" if ok else "**missed**"

    with tempfile.TemporaryDirectory() as folder:
        test_binary = Path(folder) / "agent.test"
        subprocess.run(["go", "test", "-c", "-o", test_binary, "./agent"], cwd=ROOT, check=True)
        for case in speed_cases():
            theirs, ours, allocs = [], [], 0
            for i in range(rounds):  # alternating, so that a change of the machine's mood meets both
                print(f"{case.name}: round {i + 1} of {rounds}", file=sys.stderr)
                if case.min_ratio is not None:
                    theirs.append(openg2g_us_per_step(case.name))
                us, allocs = agent_us_per_step(test_binary, case.name)
                ours.append(us)
            our_median = statistics.median(ours)
            row = [case.name, f"{case.servers:,}"]
            if case.min_ratio is not None:
                ratio = statistics.median(a / b for a, b in zip(theirs, ours))
                row += [f"{statistics.median(theirs):,.1f}", f"{our_median:,.1f}", str(allocs), f"{ratio:,.0f}x"]
                row += [f"at least {case.min_ratio:.0f}x", verdict(ratio >= case.min_ratio)]
            else:
                row += ["", f"{our_median:,.1f}", str(allocs), ""]
                row += [f"at most {case.max_us:,.0f} µs", verdict(our_median <= case.max_us)]
            table.append(f"| {' | '.join(row)} |")
    seconds = replay_seconds()
    table += [
        "",
        f"The whole command, `g2g-agent replay` of {REPLAY_CASE} from start to exit with its CSV: "
        f"{seconds:.3f} s (median of {REPLAY_RUNS}; required: less than {MAX_REPLAY_S} s, {verdict(seconds < MAX_REPLAY_S)}).",
        "",
        f"Measured on {environment()}, both on one core, in {rounds} alternating rounds; the ratio is the median of the rounds' ratios.",
    ]
    print("\n".join(table))
    if write:
        write_between_markers(ROOT / "docs/performance.md", "\n".join(table))
    return passed


def environment() -> str:
    import numpy

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        cpu = found[1].strip() if found else cpu
    go = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return (
        f"{today}, {cpu} with {os.cpu_count()} cores, {go}, "
        f"Python {platform.python_version()}, NumPy {numpy.__version__}, OpenG2G {openg2g_version()}"
    )


def openg2g_version() -> str:
    from importlib.metadata import version

    return version("openg2g")


def write_between_markers(page: Path, text: str) -> None:
    before, begin, rest = page.read_text().partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        sys.exit(f"{page} needs the lines {MARKERS[0]} and {MARKERS[1]}, between which the table goes")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


# --- exactness ---------------------------------------------------------------

MAX_ITL_ERROR = 1e-12
# A normal draw in the ziggurat's tail goes through libm, so that with noise a
# sum may differ in its last bit, in at most this part of a case's power cells.
MAX_NOISE_ERROR = 1e-15
MAX_NOISE_CELLS = 0.01


def random_config(rng: random.Random) -> dict:
    """A config that goes where replays differ most easily."""
    known = [
        {k: v for k, v in m.items() if k not in ("replicas", "initial_batch_size")}
        for m in golden_config(REPLAY_CASE)["models"]
    ]
    models = rng.sample(known, rng.randint(1, len(known)))
    dt = rng.choice(["1/10", "0.1", 0.1, "1/3", 0.25, "1/4", 1, 0.05, "1/20"])
    exact_dt = Fraction(str(dt))
    steps = rng.randint(20, 400) * exact_dt.denominator if exact_dt == Fraction(1, 3) else rng.randint(20, 400)
    steps = min(steps, 600)
    duration = exact_dt * steps
    scale = rng.choice([3, 30, 30, 200])  # servers a model, about

    def some_time() -> float:
        """On a step, or anywhere; sometimes past the end."""
        if rng.random() < 0.5:
            return round(float(rng.randrange(steps) * exact_dt), 3)
        return round(rng.uniform(0, 1.1 * float(duration)), rng.randint(0, 3))

    gpus_per_server = rng.randint(1, 10)
    most = {}
    for model in models:
        label, per_replica = model["model_label"], model["gpus_per_replica"]
        bound = max(1, scale * gpus_per_server // per_replica)
        most[label] = 0
        if rng.random() < 0.9:
            initial = rng.choice([0, 1, rng.randint(0, bound), rng.randint(0, bound), rng.randint(0, bound)])
            replicas = {"initial": initial}
            times = sorted(some_time() for _ in range(2 * rng.randint(0, 3)))
            ramps = []
            for start, end in zip(times[::2], times[1::2]):
                if ramps and rng.random() < 0.3:
                    start = ramps[-1]["t_end"]  # touching the one before
                if rng.random() < 0.25:
                    end = start  # vertical
                ramps.append({"target": rng.randint(0, bound), "t_start": start, "t_end": end})
            if ramps or rng.random() < 0.5:
                replicas["ramps"] = ramps
            model["replicas"] = replicas
            most[label] = max([initial] + [ramp["target"] for ramp in ramps])
        if rng.random() < 0.8:
            model["initial_batch_size"] = rng.choice(model["feasible_batch_sizes"])

    commands = []
    for _ in range(rng.choice([0, 1, 3, 8])):
        command = {"t": some_time()}
        if rng.random() < 0.3:
            command["t"] = str(rng.randrange(steps) * exact_dt)  # "10/3" is exactly on a step
        if rng.random() < 0.5:
            chosen = rng.sample(models, rng.randint(1, len(models)))
            command["set_batch_size"] = {m["model_label"]: rng.choice(m["feasible_batch_sizes"]) for m in chosen}
        else:
            model = rng.choice(models)
            bound = max(1, scale * gpus_per_server // model["gpus_per_replica"] // 2)
            delta = rng.randint(-bound, bound)
            command["shift_replicas"] = {"model_label": model["model_label"], "replica_delta": delta}
            if most[model["model_label"]] > 0:
                most[model["model_label"]] += max(delta, 0)
        commands.append(command)
    commands.sort(key=lambda command: Fraction(str(command["t"])))

    needed = sum(
        math.ceil(most[m["model_label"]] * m["gpus_per_replica"] / gpus_per_server) * gpus_per_server for m in models
    )
    capacity = max(needed, 1) + rng.choice([0, 0, rng.randint(0, 3 * gpus_per_server), rng.randint(0, needed)])
    if rng.random() < 0.15:  # too little, or just enough because not all need it at once
        capacity = max(1, int(capacity * rng.uniform(0.5, 0.99)))
    if rng.random() < 0.3:  # to just the capacity or the last server, or just past it
        added, capacity = shifts_at_capacity(rng, models, gpus_per_server, exact_dt, steps)
        commands = [c for c in commands if "shift_replicas" not in c] + added
        for model in models:
            model.get("replicas", {}).pop("ramps", None)
        commands.sort(key=lambda command: Fraction(str(command["t"])))

    config = {
        "seed": rng.choice([0, 1, rng.randrange(2**32), rng.randrange(2**32, 2**40), rng.randrange(2**62)]),
        "dt_s": dt,
        "datacenter": {
            "gpus_per_server": gpus_per_server,
            "base_kw_per_phase": rng.choice([0, 12.5, round(rng.uniform(0, 5000), 2)]),
            "total_gpu_capacity": capacity,
        },
        "models": models,
        "training": [],
        "replay": {
            "data_dir": str(DATA),
            "duration_s": int(duration) if duration.denominator == 1 else float(duration),
            "steady_skip_s": rng.choice([0, 0, 5, round(rng.uniform(0, 20), 1)]),
            "itl": True,
            "commands": commands,
        },
        "control": {"allow_shifts_past_capacity": rng.random() < 0.6},
    }
    if rng.random() < 0.6:  # else templates are as long as the run
        config["replay"]["template_duration_s"] = random_template_duration(rng, exact_dt, steps)
    if rng.random() < 0.85:
        low, high = sorted(round(rng.uniform(0.5, 1.5), 2) for _ in range(2))
        noise = rng.choice([0, 0, 0.02, round(rng.uniform(0, 0.3), 3), 1.5])
        config["augmentation"] = {"amplitude_scale_range": [low, high], "noise_fraction": noise}
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        start, end = sorted((some_time(), some_time()))
        run = {"n_gpus": rng.randint(1, 5000), "trace": str(DATA / "training_trace.csv"), "t_start": start, "t_end": end}
        if rng.random() < 0.7:
            run["target_peak_w_per_gpu"] = round(rng.uniform(50, 1000), 1)
        config["training"].append(run)
    return config


def shifts_at_capacity(rng: random.Random, models: list, gpus_per_server: int, dt: Fraction, steps: int) -> tuple[list, int]:
    """Shifts that fill the models' last servers, or one replica more, and a capacity short of them."""
    commands, servers = [], 0
    for model in models:
        initial, per_replica = model.get("replicas", {}).get("initial", 0), model["gpus_per_replica"]
        if initial == 0:
            continue
        taken = math.ceil(initial * per_replica / gpus_per_server) + rng.choice([0, 0, 1])
        servers += taken
        delta = taken * gpus_per_server // per_replica - initial + rng.choice([0, 0, 0, 0, 0, 1])
        shift = {"model_label": model["model_label"], "replica_delta": delta}
        step = rng.randrange(steps)
        commands.append({"t": str(step * dt), "shift_replicas": shift})
        if rng.random() < 0.3:
            back = {"model_label": model["model_label"], "replica_delta": -delta}
            commands.append({"t": str((step + rng.randint(1, 30)) * dt), "shift_replicas": back})
    return commands, max(1, servers * gpus_per_server - rng.randrange(gpus_per_server))


def random_template_duration(rng: random.Random, dt: Fraction, steps: int):
    """Shorter or longer than the run, on steps or not; 600 s is OpenG2G's default."""
    duration = rng.choice([
        600,
        rng.randint(1, steps) * dt,
        dt,
        steps * dt + dt * rng.randint(1, 50),
        Fraction(round(rng.uniform(float(dt), 1.5 * steps * float(dt)), 3)).limit_denominator(1000),
    ])
    return duration if isinstance(duration, int) else str(duration)


@dataclasses.dataclass
class Comparison:
    """What comparing two CSV files found."""

    cells: int = 0
    power_cells: int = 0
    noise_cells: int = 0  # power, other in the last bit where noise allows it
    worst_itl: float = 0.0
    differing: list[str] = dataclasses.field(default_factory=list)

    def failed(self) -> bool:
        return bool(self.differing) or self.noise_cells > MAX_NOISE_CELLS * self.power_cells


def relative_error(want: float, got: float) -> float:
    if want == got or (math.isnan(want) and math.isnan(got)):
        return 0.0
    if not (math.isfinite(want) and math.isfinite(got)):
        return math.inf
    return abs(want - got) / max(abs(want), abs(got))


def same_bits(want: float, got: float) -> bool:
    if math.isnan(want) or math.isnan(got):
        return math.isnan(want) and math.isnan(got)
    return want == got and math.copysign(1, want) == math.copysign(1, got)


def compare_csv(want_path: Path, got_path: Path, noisy: bool) -> Comparison:
    result = Comparison()
    with want_path.open(newline="") as a, got_path.open(newline="") as b:
        want_rows, got_rows = list(csv.reader(a)), list(csv.reader(b))
    header = want_rows[0]
    if not got_rows or got_rows[0] != header:
        result.differing.append(f"header: want {header}, got {got_rows[:1]}")
        return result
    if len(want_rows) != len(got_rows):
        result.differing.append(f"want {len(want_rows) - 1} rows, got {len(got_rows) - 1}")
    for line, (want_row, got_row) in enumerate(zip(want_rows[1:], got_rows[1:]), start=2):
        if len(got_row) != len(header):
            result.differing.append(f"line {line}: want {len(header)} cells, got {len(got_row)}")
            continue
        for column, want_text, got_text in zip(header, want_row, got_row):
            result.cells += 1
            name = column.rpartition(":")[2]
            is_power = name.startswith("power_")
            result.power_cells += is_power
            if want_text == got_text:
                continue
            if name in ("active_replicas", "batch_size"):
                ok = False
            else:
                want, got = float(want_text), float(got_text)
                error = relative_error(want, got)
                ok = same_bits(want, got)
                if name == "observed_itl_s":
                    result.worst_itl = max(result.worst_itl, error)
                    ok = error <= MAX_ITL_ERROR
                elif not ok and is_power and noisy and error <= MAX_NOISE_ERROR:
                    result.noise_cells += 1
                    ok = True
            if not ok:
                result.differing.append(f"line {line}, {column}: want {want_text}, got {got_text}")
    return result


def write_reference(config: dict, path: Path) -> tuple[Reference | None, str | None]:
    """Writes OpenG2G's CSV; returns what was run, and why it raised, if it did."""
    reference = None
    try:
        reference = Reference(config)
        with path.open("w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(reference.header())
            for state in reference.run():
                out.writerow(reference.row(state))
    except (RuntimeError, ValueError) as err:
        return reference, f"{type(err).__name__}: {err}"
    return reference, None


def capacity_problems(config_path: Path, reference: Reference) -> list[str]:
    """Drives the replay step by step and compares the GPUs it tells to be left."""
    environ = {**os.environ, "G2G_AGENT_API__LISTEN": "127.0.0.1:0", "G2G_AGENT_LOG__FORMAT": "json"}
    command = [BINARY, "replay", "--config", config_path, "--pace", "step"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        url = next((json.loads(line)["url"] for line in process.stderr if '"url"' in line), None)
        if url is None:
            return ["the API did not come up"]
        process_log = threading.Thread(target=process.stderr.read, daemon=True)  # so that it never waits for us
        process_log.start()

        def ask(path: str, body: dict | None = None):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(url.rstrip("/") + path, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)

        changes = sorted({0, reference.steps - 1, *(step for step, _ in reference.commands if step < reference.steps)})
        done, problems = 0, []
        for step in changes:
            ask("/v1/steps", {"steps": step + 1 - done})
            done = step + 1
            want, got = reference.available_gpu_capacity[step], ask("/v1/info")["available_gpu_capacity"]
            if want != got:
                problems.append(f"step {step}, available_gpu_capacity: want {want}, got {got}")
        return problems
    finally:
        process.terminate()
        process.wait()


def exactness(cases: int, seed: int, keep: Path | None, reference_only: bool) -> bool:
    folder = keep or Path(tempfile.mkdtemp(prefix="exactness-"))
    folder.mkdir(parents=True, exist_ok=True)
    failures = raised = refused = past = cells = noise_cells = steps_compared = 0
    worst_itl = 0.0
    for i in range(cases):
        config = random_config(random.Random(f"{seed}/{i}"))
        config_path, want, got = (folder / f"{i:04}.{ending}" for ending in ("yaml", "openg2g.csv", "g2g-agent.csv"))
        config_path.write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML
        reference, reason = write_reference(config, want)
        raised += reason is not None
        if reference_only:
            print(f"case {i}: {reason or 'ok'}")
            continue
        got.unlink(missing_ok=True)
        command = [BINARY, "replay", "--config", config_path, "--out", got]
        result = subprocess.run(command, capture_output=True, text=True)
        problems = []
        if reason is not None:
            if result.returncode != 2:
                problems.append(f"OpenG2G raised {reason}; g2g-agent must exit with 2, exited with {result.returncode}")
        elif reference.past_capacity and not config["control"]["allow_shifts_past_capacity"]:
            refused += 1
            if result.returncode != 2:
                problems.append(f"more GPUs are asked for than there are; g2g-agent must exit with 2, exited with {result.returncode}")
        elif result.returncode != 0:
            problems.append(f"OpenG2G ran; g2g-agent exited with {result.returncode}: {result.stderr.strip()}")
        else:
            found = compare_csv(want, got, noisy=config.get("augmentation", {}).get("noise_fraction", 0) > 0)
            cells += found.cells
            noise_cells += found.noise_cells
            worst_itl = max(worst_itl, found.worst_itl)
            if found.failed():
                problems = found.differing[:10] or ["too many power cells differ in the last bit"]
                problems.append(
                    f"{len(found.differing)} of {found.cells} cells differ, "
                    f"and {found.noise_cells} of {found.power_cells} power cells in the last bit"
                )
            capacity = capacity_problems(config_path, reference)
            steps_compared += reference.steps
            past += reference.past_capacity
            if capacity:
                problems += capacity
        if problems:
            failures += 1
            print(f"case {i} FAILED ({config_path})")
            for problem in problems:
                print(f"  {problem}")
    print(
        f"{cases} cases with seed {seed}: {failures} failed; OpenG2G raised in {raised}; {refused} go past the capacity and were "
        f"refused as they should be, {past} do and were not, as they were allowed to; {steps_compared} steps, {cells} cells compared, "
        f"{noise_cells} power cells differ in the last bit (tail of the normal distribution), "
        f"largest relative error of observed_itl_s {worst_itl:.1e}"
    )
    if failures:
        print(f"the files are in {folder}")
    elif keep is None:
        shutil.rmtree(folder)
    return failures == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("speed", help="time both programs, alternating, and print a table")
    verb.add_argument("--rounds", type=int, default=5)
    verb.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    verb = verbs.add_parser("exactness", help="compare the numbers of both programs over random configs")
    verb.add_argument("--cases", type=int, default=50)
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--keep", type=Path, help="leave configs and CSV files in this folder")
    verb.add_argument("--reference-only", action="store_true", help="write configs and OpenG2G's CSV only")
    verb = verbs.add_parser("openg2g-steps", help="print OpenG2G's microseconds a step for a golden case")
    verb.add_argument("case")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.verb == "speed":
        ok = speed(args.rounds, args.write)
    elif args.verb == "exactness":
        ok = exactness(args.cases, args.seed, args.keep, args.reference_only)
    else:
        ok = True
        print_openg2g_us_per_step(args.case)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
