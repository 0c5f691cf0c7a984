"""Has this program characterize a simulated host, and sets its replays of the data against OpenG2G's."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from compare_generation import replay_problems
from openg2g_reference import BINARY

FEASIBLE = [8, 16, 32]
MEASURED = [16, 8]
MODELS = {"small, with a comma": "org/Llama-8B", "large": "org/Llama-70B"}  # on one and four GPUs


@contextlib.contextmanager
def simulated_host():
    """A simulated zeusd's port, and vLLM servers' URLs, by model ID."""
    command = [BINARY, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "5", "--actuator", "runtime_config"]
    for model_id in MODELS.values():
        command += ["--vllm", f"127.0.0.1:0={model_id}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port, urls = None, {}
        while len(urls) < len(MODELS):
            line = process.stdout.readline()
            if not line:
                sys.exit("the simulated host did not start")
            if found := re.match(r"zeusd 127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
            if found := re.match(r"vLLM (\S+): (\S+) on", line):
                urls[found[2]] = found[1]
        yield port, urls
    finally:
        process.terminate()
        process.wait()


def live_config(port: int, urls: dict[str, str]) -> dict:
    models, first = [], 0
    for (label, model_id), gpus in zip(MODELS.items(), (1, 4)):
        models.append({
            "model_label": label, "model_id": model_id, "gpus_per_replica": gpus, "itl_deadline_s": 0.1, "feasible_batch_sizes": FEASIBLE,
            "fit_exclude_batch_sizes": [32],
            "live": {"vllm_base_url": urls[model_id], "simulated_num_replicas": 4,
                     "gpu_endpoints": [{"host": "127.0.0.1", "port": port, "gpu_indices": list(range(first, first + gpus))}]},
        })  # fmt: skip
        first += gpus
    return {"seed": 1, "dt_s": "1/10", "models": models, "live": {"prometheus_poll_interval_s": 0.2, "max_output_tokens": 60}}


def characterize(folder: Path, measure_s: float) -> list[str]:
    """What went wrong, if it did; the data is in ours."""
    with simulated_host() as (port, urls):
        (folder / "live.yaml").write_text(json.dumps(live_config(port, urls)))
        command = [BINARY, "characterize", "--config", folder / "live.yaml", "--out", folder / "ours", "--gpu-model", "H100",
                   "--measure-s", str(measure_s), "--steady-s", "4", "--plots", "none"]  # fmt: skip
        for batch_size in MEASURED:
            command += ["--batch-size", str(batch_size)]
        result = subprocess.run(command, capture_output=True, text=True)
        print(result.stdout, end="")
        return [] if result.returncode == 0 else [result.stderr.strip()]


def load_and_write_anew(folder: Path, specs: list[dict]) -> list[str]:
    """Has OpenG2G load ours and write it to theirs."""
    from openg2g.datacenter.config import InferenceModelSpec
    from openg2g.datacenter.workloads import inference

    models = tuple(InferenceModelSpec(**s) for s in specs)
    problems = [
        f"{m.model_label}: the folder is not {m.cache_hash()}, by which OpenG2G looks for it" for m in models if not (folder / "ours" / m.cache_hash()).is_dir()
    ]
    if problems:
        return problems
    loaded = inference.InferenceData.load(folder / "ours", models)
    if loaded.itl_fits is None:
        problems.append("OpenG2G finds no latency fits")
    traces = inference.InferenceTraceStore.load(folder / "ours", models)
    inference.ITLFitStore.load(folder / "ours", models).save(folder / "theirs", models)
    traces.save(folder / "theirs", models)
    inference._write_inference_manifest(folder / "theirs", models)
    for m in models:
        want = sorted(MEASURED)
        if list(m.feasible_batch_sizes) != want or list(m.batch_sizes) != want:
            problems.append(f"{m.model_label}: feasible are {m.feasible_batch_sizes}, measured {m.batch_sizes}, want {want}")
        ours, theirs = ((folder / side / m.cache_hash() / "trace.csv").read_text() for side in ("ours", "theirs"))
        if ours != theirs:
            problems.append(f"{m.model_label}: OpenG2G writes the traces in other digits")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure-s", type=float, default=8)
    parser.add_argument("--keep", type=Path, help="an empty or new folder that stays")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="characterize-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        problems = characterize(folder, args.measure_s)
        if not problems:
            specs = [json.loads(p.read_text())["spec"] for p in sorted((folder / "ours").glob("*/_manifest.json"))]
            if len(specs) != len(MODELS):
                problems.append(f"{len(specs)} measurements, want {len(MODELS)}")
            problems += load_and_write_anew(folder, specs)
        if not problems:
            problems = replay_problems(folder, specs, random.Random(1))
    for problem in problems:
        print(problem)
    print("FAILED" if problems else "OpenG2G loads what was characterized, and replays are equal in both directions")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
