"""Compares g2g-agent with OpenG2G 0.2: speed, and exactness of the numbers.

Run through scripts/compare_openg2g.sh, which provides OpenG2G.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from openg2g_exactness import exactness
from openg2g_reference import BINARY, REPLAY_CASE, ROOT, Reference, golden_config, servers


@dataclasses.dataclass(frozen=True)
class SpeedCase:
    """A benchmark of ours and what it must reach."""

    name: str
    servers: int
    min_ratio: float | None = None  # over OpenG2G; None: it is not run
    max_us: float | None = None


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
