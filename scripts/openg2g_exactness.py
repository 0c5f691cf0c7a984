"""Compares the numbers of g2g-agent with OpenG2G's over random configs."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import random
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from fractions import Fraction
from pathlib import Path

from openg2g_reference import BINARY, DATA, REPLAY_CASE, Reference, golden_config

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
