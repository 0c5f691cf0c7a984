"""Has pandas, DuckDB, polars and zstdcat read a recording's segment and exports of it: all must have the same numbers."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl

Row = tuple[Any, ...]

# Columns that name a row, then those that are compared, by kind of export.
COLUMNS = {
    "power": ["gpu", "t_ms", "step", "mark", "power_w", "time_s"],
    "itl": ["model_label", "seq", "count", "sum_ns", "output_tokens", "mean_s", "p50_s", "p99_s"],
    "events": ["kind", "seq", "topic", "data"],
}


class Different(Exception):
    """Two readers of the same thing have different numbers."""


def lines_of(segment: Path) -> list[dict[str, Any]]:
    """The lines of a segment, by zstdcat and the standard library alone."""
    text = subprocess.run(["zstdcat", str(segment)], check=True, capture_output=True).stdout.decode()
    return [json.loads(line) for line in text.splitlines()]


def plain(value: Any) -> Any:
    """A value as all readers have it: missing is None, numbers that are whole are ints."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return tuple(plain(v) for v in value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def rows(records: Iterable[dict[str, Any]], columns: list[str]) -> list[Row]:
    """The records' columns, in an order of their own."""
    found = [tuple(plain(r.get(c)) for c in columns) for r in records]
    return sorted(found, key=repr)


def same(what: str, got: list[Row], want: list[Row]) -> None:
    """Compares rows.

    Raises:
        Different: They are not the same, or there are none.
    """
    if not want:
        raise Different(f"{what}: there is nothing to compare")
    if got != want:
        first = next((pair for pair in itertools.zip_longest(got, want) if pair[0] != pair[1]), None)
        raise Different(f"{what}: {len(got)} rows, want {len(want)}; the first that differ: {first}")
    print(f"{what}: {len(got)} rows, the same")


def segments(recording: Path) -> None:
    """Each reader has the lines of each segment."""
    columns = {
        "power": ["gpu", "second", "offset_ns", "t_ms", "power_mw", "steps", "mark"],
        "itl": ["seq", "model_label", "count", "sum_ns", "bins", "counts"],
        "state_hash": ["second", "seq", "late_us", "hash"],
        "end": ["seq", "frames"],
    }
    for segment in sorted(recording.glob("*.jsonl.zst")):
        lines = lines_of(segment)
        of_pandas = pd.read_json(segment, lines=True, compression="zstd", dtype=False)
        of_polars = pl.read_ndjson(segment, infer_schema_length=None)
        for kind, names in columns.items():
            want = rows((line for line in lines if line["kind"] == kind), names)
            if not want:
                continue
            part = of_pandas.query(f"kind == '{kind}'").reindex(columns=names)
            same(f"{segment.name}: pandas: {kind}", rows(part.to_dict("records"), names), want)
            present = [n for n in names if n in of_polars.columns]
            frame = of_polars.filter(pl.col("kind") == kind).select(present)
            same(f"{segment.name}: polars: {kind}", rows(frame.to_dicts(), names), want)
            relation = duckdb.sql(
                f"SELECT * FROM read_json('{segment}', format='newline_delimited', sample_size=-1, maximum_object_size=67108864) WHERE kind = '{kind}'"
            )
            got = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
            same(f"{segment.name}: duckdb: {kind}", rows(got, names), want)


def power_of_lines(recording: Path) -> list[dict[str, Any]]:
    """What the export of power must have, by the description of the format alone."""
    out = []
    start_ms = 0
    for segment in sorted(recording.glob("*.jsonl.zst")):
        for line in lines_of(segment):
            if line["kind"] == "header":
                start_ms = line["start_ms"]
            if line["kind"] != "power":
                continue
            times = itertools.accumulate(line["t_ms"])
            marks = line.get("mark") or "r" * len(line["t_ms"])
            for t_ms, power_mw, step, mark in zip(times, line["power_mw"], line["steps"], marks, strict=True):
                out.append(
                    {
                        "gpu": line["gpu"],
                        "t_ms": t_ms,
                        "step": step,
                        "mark": mark,
                        "power_w": power_mw / 1000,
                        "time_s": ((t_ms - start_ms) * 1_000_000 + line["offset_ns"]) / 1e9,
                    }
                )
    return out


def read_export(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of an export by each reader."""
    text = str(path)
    if path.suffix == ".csv":
        found = {
            "pandas": pd.read_csv(path),
            "polars": pl.read_csv(path, infer_schema_length=None),
            "duckdb": duckdb.read_csv(text, sample_size=-1),
        }
    elif path.suffix == ".jsonl":
        found = {
            "pandas": pd.read_json(path, lines=True, dtype=False, precise_float=True),
            "polars": pl.read_ndjson(path, infer_schema_length=None),
            "duckdb": duckdb.read_json(text, format="newline_delimited", sample_size=-1),
        }
    else:
        found = {"pandas": pd.read_parquet(path), "polars": pl.read_parquet(path), "duckdb": duckdb.read_parquet(text)}
    return {
        "pandas": found["pandas"].to_dict("records"),
        "polars": found["polars"].to_dicts(),
        "duckdb": [dict(zip(found["duckdb"].columns, row, strict=True)) for row in found["duckdb"].fetchall()],
    }


def exports(recording: Path, directory: Path) -> None:
    """Each reader has the same of each format of an export, and what the lines say."""
    wanted: dict[str, list[Row]] = {"power": rows(power_of_lines(recording), COLUMNS["power"])}
    for kind, columns in COLUMNS.items():
        for ending in ("csv", "jsonl", "parquet"):
            for reader, records in read_export(directory / f"{kind}.{ending}").items():
                if kind == "events":  # JSON in a column, which some readers parse
                    for r in records:
                        r["data"] = json.dumps(
                            json.loads(r["data"]) if isinstance(r["data"], str) else r["data"], sort_keys=True
                        )
                got = rows(records, columns)
                want = wanted.setdefault(kind, got)
                same(f"export {kind}.{ending}: {reader}", got, want)


def states(recording: Path, directory: Path) -> None:
    """The exported states are the recorded full ones, where there are such, and there is one for every hash."""
    lines = [line for segment in sorted(recording.glob("*.jsonl.zst")) for line in lines_of(segment)]
    full = {line["seq"]: line for line in lines if line["kind"] == "state"}
    steps = sum(len(line["hash"]) for line in lines if line["kind"] == "state_hash")
    for ending in ("csv", "jsonl", "parquet"):
        for reader, records in read_export(directory / f"states.{ending}").items():
            if len(records) != steps:
                raise Different(
                    f"export states.{ending}: {reader}: {len(records)} states, {steps} hashes were recorded"
                )
            got, want = [], []
            for seq, line in full.items():
                record = records[seq]
                phases = record["power_w"] if ending == "jsonl" else {p: record[f"power_{p}_w"] for p in "abc"}
                got.append((seq, *(plain(phases[p]) for p in "abc")))
                want.append((seq, *(plain(line["power_w"][p]) for p in "abc")))
            same(f"export states.{ending}: {reader}: full states", got, want)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recording", type=Path, required=True, help="the recording's directory")
    parser.add_argument(
        "--exports", type=Path, required=True, help="directory with KIND.csv, KIND.jsonl and KIND.parquet"
    )
    args = parser.parse_args()
    segments(args.recording)
    exports(args.recording, args.exports)
    states(args.recording, args.exports)
    print("all readers have the same numbers")


if __name__ == "__main__":
    main()
