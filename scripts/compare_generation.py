"""Sets this program against OpenG2G in making inference data of benchmarks made up here."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from openg2g_exactness import compare_csv, relative_error, write_reference
from openg2g_reference import BINARY

MAX_FIT_ERROR = 1e-12  # of ITL fits
MAX_CURVE_ERROR = 1e-9  # of logistic fits, where the grid's cell is the same
MAX_TIME_SHARE = 1 / 3  # of OpenG2G's

COLUMNS_OF_NO_ACCOUNT = {
    "domain": "llm", "nickname": "m", "architecture": "dense", "total_params_billions": 8.0, "activated_params_billions": 8.0,
    "weight_precision": "bfloat16", "num_request_repeats": 1, "tensor_parallel": 1, "expert_parallel": 1, "data_parallel": 1,
    "steady_state_energy_joules": 1.0, "steady_state_duration_seconds": 1.0, "energy_per_token_joules": 1.0,
    "energy_per_request_joules": 1.0, "request_throughput_req_per_sec": 1.0, "total_output_tokens": 1.0, "completed_requests": 1.0,
    "avg_output_len": 1.0, "median_itl_ms": 1.0, "p50_itl_ms": 1.0, "p90_itl_ms": 1.0, "p95_itl_ms": 1.0, "p99_itl_ms": 1.0,
    "avg_batch_size": 1.0, "unstable_reason": "", "prometheus_path": "none.json",
}


def latencies(rng: random.Random, tokens: int, batch_size: int) -> list[float]:
    """What a client sees of a request: chunks are a gap and zeros behind it."""
    out: list[float] = [0] * rng.randint(0, 2)
    chunk = rng.choice([1, 1, 3, 9])
    while tokens > 0:
        n = min(tokens, rng.randint(1, chunk))
        gap = 0.005 * math.log2(batch_size + 2) * math.exp(rng.gauss(0, 0.2)) * n
        if rng.random() < 0.05:
            gap *= 5
        out += [gap if rng.random() < 0.7 else round(gap, 6)] + [0] * (n - 1)
        tokens -= n
    return out


def power(rng: random.Random, gpus: int, start: float, seconds: float, watts: float) -> dict[str, list]:
    """The timeline of each GPU, beyond the steady state on both sides, in no order."""
    ids = rng.sample(range(12), gpus)
    times = [round(start - 1 + 0.1 * i + rng.uniform(-0.004, 0.004), 3) for i in range(int((seconds + 2) / 0.1))]
    series = {}
    for gpu in ids:
        late = gpu != min(ids) and rng.random() < 0.3
        mine = [t + (0.013 if late and rng.random() < 0.6 else 0) for t in times]
        samples = [[t, round(watts * (1 + 0.1 * math.sin(t)) + rng.gauss(0, 9), 3)] for t in mine]
        for _ in range(rng.randint(0, 2)):  # times out of order, and twice
            i = rng.randrange(1, len(samples))
            samples[i - 1], samples[i] = samples[i], samples[i - 1]
            samples[i] = [samples[i - 1][0], samples[i][1]]
        series[str(gpu)] = samples
    return series


def write_run(root: Path, number: int, results: list, start: float, seconds: float, series: dict) -> str:
    path = Path("llm/h100/current/run") / str(number) / "results.json"
    (root / path.parent).mkdir(parents=True)
    bounds = {"steady_state_start_time": start, "steady_state_end_time": start + seconds}
    with (root / path).open("w") as file:
        json.dump({"mean_ttft_ms": math.nan, "results": results, "timeline": {**bounds, "power": {"device_instant": series}}}, file)
    return path.as_posix()


def write_table(root: Path, rows: list[dict]) -> None:
    import pandas as pd

    (root / "runs").mkdir(exist_ok=True)
    pd.DataFrame([{**COLUMNS_OF_NO_ACCOUNT, **row} for row in rows]).to_parquet(root / "runs/llm.parquet", index=False)


def a_row(path: str, model: dict, batch_size: int, seed: int, rng: random.Random) -> dict:
    n = math.log2(batch_size)
    return {
        "task": model["task"], "model_id": model["model_id"], "gpu_model": model["gpu_model"], "num_gpus": model["gpus_per_replica"],
        "max_num_seqs": batch_size, "seed": seed, "results_path": path, "is_stable": rng.random() < 0.7,
        "avg_power_watts": 100 + 500 / (1 + math.exp(-0.6 * (n - 5))) + rng.gauss(0, 8),
        "mean_itl_ms": 10 + 60 / (1 + math.exp(-0.7 * (n - 8))) + rng.gauss(0, 0.5),
        "output_throughput_tokens_per_sec": 50 + 9000 / (1 + math.exp(-0.9 * (n - 7))) + rng.gauss(0, 30),
    }  # fmt: skip


def random_benchmark(rng: random.Random, root: Path) -> list[dict]:
    """Writes a compiled directory; returns the specs of one task that it has runs of."""
    specs, rows, task = [], [], rng.choice(["gpqa", "lm-arena-chat"])
    for m in range(rng.randint(1, 3)):
        gpus = rng.choice([1, 1, 2, 3, 4, 8, 9])
        sizes = rng.sample([1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 768], rng.randint(3, 8))
        model = {
            "model_label": f"M{m} " + rng.choice(["plain", "ü \u201cq\u201d", "\U0001f50b, x", "a\tb\\"]), "model_id": f"org/m{m}", "gpu_model": "H100",
            "task": task, "precision": "bfloat16", "gpus_per_replica": gpus, "tensor_parallel": gpus, "expert_parallel": 1,
            "itl_deadline_s": rng.choice([0.08, 1.0, 1e-05]), "batch_sizes": sizes, "feasible_batch_sizes": sizes,
            "fit_exclude_batch_sizes": rng.sample(sizes, rng.randint(0, len(sizes) - 3)),
        }  # fmt: skip
        specs.append(model)
        for batch_size in sizes + [1024]:  # the last is nobody's
            for seed in range(rng.choice([1, 1, 2, 3, 4])):
                start = round(1.7e9 + rng.uniform(0, 1e7), rng.choice([3, 6]))
                seconds = rng.uniform(3, 15)
                tokens = rng.choice([1, 20, 300, 3000])
                requests = [{"success": True, "itl": latencies(rng, tokens, batch_size)} for _ in range(rng.choice([1, 4, 12]))]
                requests.insert(rng.randint(0, 1), {"success": False, "itl": [9.9]})
                series = power(rng, gpus, start, seconds, 80 + 40 * math.log2(batch_size + 1))
                rows.append(a_row(write_run(root, len(rows), requests, start, seconds, series), model, batch_size, seed, rng))
    rng.shuffle(rows)
    write_table(root, rows)
    return specs


def generate_theirs(compiled: Path, specs: list[dict], out: Path) -> None:
    from openg2g.controller.ofo import LogisticModelStore
    from openg2g.datacenter.config import InferenceModelSpec
    from openg2g.datacenter.workloads.inference import InferenceData

    models = tuple(InferenceModelSpec(**s) for s in specs)
    InferenceData.ensure(out, models, mlenergy_data_dir=compiled)
    LogisticModelStore.ensure(out, models, mlenergy_data_dir=compiled)


def ours(compiled: Path, specs: Path, out: Path) -> list[str]:
    return [str(BINARY), "generate", "inference-data", "--data", str(compiled), "--specs", str(specs), "--out", str(out)]


def numbers(document, path: str = ""):
    """All leaves of a JSON document by their paths."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from numbers(value, f"{path}.{key}")
    else:
        yield path, document


def file_problems(theirs: Path, mine: Path, specs: list[dict]) -> list[str]:
    problems = []
    names = sorted(p.relative_to(theirs).as_posix() for p in theirs.rglob("*") if p.is_file() and p.suffix in (".csv", ".json"))
    if not names:
        return ["OpenG2G wrote nothing"]
    for name in names:
        if not (mine / name).exists():
            problems.append(f"{name} is missing")
            continue
        want, got = (theirs / name).read_text(), (mine / name).read_text()
        if name.endswith(".csv"):
            if want != got:
                problems.append(f"{name} differs")
            continue
        want_leaves, got_leaves = dict(numbers(json.loads(want))), dict(numbers(json.loads(got)))
        for ignored in (".written_utc", ".g2g_agent_version"):
            want_leaves.pop(ignored, None), got_leaves.pop(ignored, None)
        if want_leaves.keys() != got_leaves.keys():
            problems.append(f"{name}: the members differ: {want_leaves.keys() ^ got_leaves.keys()}")
            continue
        tolerated = MAX_CURVE_ERROR if name.endswith("logistic_fit.json") else MAX_FIT_ERROR
        for path, value in want_leaves.items():
            exact = not isinstance(value, float) or path.endswith((".k", ".x0"))
            if value != got_leaves[path] and (exact or relative_error(value, got_leaves[path]) > tolerated):
                problems.append(f"{name}: {path}: want {value!r}, got {got_leaves[path]!r}")
    return problems


def replay_problems(folder: Path, specs: list[dict], rng: random.Random) -> list[str]:
    """Replays of the two programs, each on what the other wrote."""
    models = []
    for s in specs:
        size = rng.choice(s["batch_sizes"])
        models.append({**s, "initial_batch_size": size, "replicas": {"initial": rng.randint(1, 4)}})
    config = {
        "seed": rng.randrange(1000), "dt_s": "0.1", "datacenter": {"gpus_per_server": 36, "total_gpu_capacity": 360}, "models": models,
        "augmentation": {"amplitude_scale_range": [0.9, 1.1]},
        "replay": {"duration_s": 12, "steady_skip_s": 1.0, "itl": True},
    }  # fmt: skip
    problems = []
    for theirs_on, ours_on in (("theirs", "ours"), ("ours", "theirs")):
        config["replay"]["data_dir"] = str(folder / theirs_on)
        want, got, file = folder / "want.csv", folder / "got.csv", folder / "config.yaml"
        _, reason = write_reference(config, want)
        if reason is not None:
            return [f"OpenG2G on what is {theirs_on}: {reason}"]
        config["replay"]["data_dir"] = str(folder / ours_on)
        file.write_text(json.dumps(config))
        result = subprocess.run([BINARY, "replay", "--config", file, "--out", got], capture_output=True, text=True)
        if result.returncode != 0:
            return [f"g2g-agent on what is {ours_on}: {result.stderr.strip()}"]
        problems += [f"OpenG2G on {theirs_on}, g2g-agent on {ours_on}: {p}" for p in compare_csv(want, got, noisy=False).differing[:5]]
    return problems


def exactness(cases: int, seed: int, keep: Path | None) -> bool:
    folder = keep or Path(tempfile.mkdtemp(prefix="generation-"))
    failures = files = 0
    for i in range(cases):
        rng = random.Random(f"{seed}/{i}")
        case = folder / f"{i:04}"
        shutil.rmtree(case, ignore_errors=True)
        specs = random_benchmark(rng, case / "compiled")
        (case / "specs.json").write_text(json.dumps(specs))
        generate_theirs(case / "compiled", specs, case / "theirs")
        result = subprocess.run(ours(case / "compiled", case / "specs.json", case / "ours"), capture_output=True, text=True)
        if result.returncode != 0:
            problems = [result.stderr.strip()]
        else:
            problems = file_problems(case / "theirs", case / "ours", specs) + replay_problems(case, specs, rng)
            files += 4 * len(specs)
        if problems:
            failures += 1
            print(f"case {i} FAILED ({case})")
            for problem in problems[:20]:
                print(f"  {problem}")
        elif keep is None:
            shutil.rmtree(case)
    print(f"{cases} benchmarks with seed {seed}: {failures} failed; {files} files compared, and replays in both directions")
    return failures == 0


def large_benchmark(root: Path, runs: int, megabytes: float, models: int) -> list[dict]:
    """Writes runs of about that size, of which the most are latencies."""
    rng = random.Random(1)
    sizes = [8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536][: max(1, runs // models)]
    bytes_each = 22  # of a latency, as Python writes it
    text = "Some words of an answer, which take their share of such a file. " * 40
    bodies = []
    for _ in range(4):
        requests, left = [], megabytes * 1e6
        while left > 0:
            requests.append({"success": True, "output_text": text, "itl": [0.01 + 0.02 * rng.random() for _ in range(500)]})
            left -= 500 * bytes_each + len(text)
        bodies.append(requests)
    specs, rows = [], []
    for m in range(models):
        specs.append({"model_label": f"M{m}", "model_id": f"org/m{m}", "gpu_model": "H100", "task": "gpqa", "gpus_per_replica": 2,
                      "itl_deadline_s": 0.08, "batch_sizes": sizes, "feasible_batch_sizes": sizes})  # fmt: skip
    for i in range(runs):
        model, batch_size = specs[i % models], sizes[i // models % len(sizes)]
        start = 1.7e9 + 1000 * i
        path = write_run(root, i, bodies[i % len(bodies)], start, 120, power(rng, 2, start, 120, 300))
        rows.append(a_row(path, model, batch_size, i, rng))
    write_table(root, rows)
    return specs


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and the most memory, in MiB, of a program."""
    most = 0
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            try:  # what the kernel says at the end would count this program's own, too
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max([most] + [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")])
            except OSError:
                pass
            time.sleep(0.01)
        took = time.monotonic() - began
        if process.returncode != 0:
            said.seek(0)
            sys.exit(f"{command[0]} failed: {said.read().decode()[-2000:]}")
    return took, most / 1024


def speed(runs: int, megabytes: float, models: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="generation-"))
    try:
        specs = large_benchmark(folder / "compiled", runs, megabytes, models)
        (folder / "specs.json").write_text(json.dumps(specs))
        size = sum(p.stat().st_size for p in folder.rglob("results.json")) / 1e6
        warm = sum(len(p.read_bytes()) for p in folder.rglob("results.json"))  # both find the files in memory
        print(f"{runs} runs of {size / runs:.1f} MB ({warm / 1e9:.2f} GB), {models} models, {os.cpu_count()} processors")
        ours_s, ours_mib = timed(ours(folder / "compiled", folder / "specs.json", folder / "ours"))
        print(f"g2g-agent {ours_s:8.1f} s  {ours_mib:8.0f} MiB  {size / ours_s:6.0f} MB/s")
        theirs_s, theirs_mib = timed([sys.executable, __file__, "theirs", str(folder)])
        print(f"OpenG2G   {theirs_s:8.1f} s  {theirs_mib:8.0f} MiB  {size / theirs_s:6.0f} MB/s")
        print(f"g2g-agent takes {ours_s / theirs_s:.3f} of OpenG2G's time, and {ours_mib / theirs_mib:.3f} of its memory")
        problems = file_problems(folder / "theirs", folder / "ours", specs)
        for problem in problems[:20]:
            print(f"  {problem}")
        return not problems and ours_s <= MAX_TIME_SHARE * theirs_s
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("exactness")
    verb.add_argument("--cases", type=int, default=20)
    verb.add_argument("--seed", type=int, default=1)
    verb.add_argument("--keep", type=Path)
    verb = verbs.add_parser("speed")
    verb.add_argument("--runs", type=int, default=100)
    verb.add_argument("--megabytes", type=float, default=10)
    verb.add_argument("--models", type=int, default=10)
    verb = verbs.add_parser("theirs")  # what speed measures
    verb.add_argument("folder", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # OpenG2G's remarks on fits
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    if args.verb == "exactness":
        return 0 if exactness(args.cases, args.seed, args.keep) else 1
    if args.verb == "speed":
        return 0 if speed(args.runs, args.megabytes, args.models) else 1
    generate_theirs(args.folder / "compiled", json.loads((args.folder / "specs.json").read_text()), args.folder / "theirs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
