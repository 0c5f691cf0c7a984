"""States, logs and files of states as pandas tables (extra `pandas`).

The wide layout has a row a step, with the columns of the agent's CSV and Parquet files; the long one a row for each
step and model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from g2g_agent.state import time_of

if TYPE_CHECKING:
    from openg2g.coordinator import SimulationLog

__all__ = ["states", "log", "read_states"]

Index = Literal["time_s", "wall_time", "none"]
Layout = Literal["wide", "long"]

# Members of a state that have a value for each model, and their column; in the order of the agent's files.
_FILE_COLUMNS = (
    ("power_by_model_w", "power_w"),
    ("active_replicas_by_model", "active_replicas"),
    ("batch_size_by_model", "batch_size"),
    ("observed_itl_s_by_model", "observed_itl_s"),
)
# What more there may be of a model, not in the files.
_MORE_COLUMNS = (
    ("throughput_tokens_per_s_by_model", "throughput_tokens_per_s"),
    ("achieved_batch_size_by_model", "achieved_batch_size"),
    ("measured_power_w_by_model", "measured_power_w"),
    ("measured_throughput_tokens_per_s_by_model", "measured_throughput_tokens_per_s"),
    ("augmented_power_w_by_model", "augmented_power_w"),
    ("augmentation_factor_by_model", "augmentation_factor"),
    ("stale_by_model", "stale_s"),
)
_SHARES = ("phase_share_a", "phase_share_b", "phase_share_c")
_PHASES = ("a", "b", "c")
_WHOLE = (":active_replicas", ":batch_size")
_NAN = float("nan")


def states(
    states: Iterable[Any], *, layout: Layout = "wide", index: Index = "time_s", extra: bool = False
) -> pd.DataFrame:
    """A table of states.

    Args:
        states: States of a client, of OpenG2G's datacenters, or objects of the agent's JSON lines.
        layout: `wide`: a row a step, with the columns of the agent's CSV (`power_a_w`, `LABEL:power_w`, …), of what the
            states have. `long`: a row for each step and model (`model_label`, `power_w`, …), in config order.
        index: The column that the rows are found by; it is `time_s` where the states have no `wall_time`. `none`: the
            rows are numbered, and both are columns.
        extra: Also what the agent's CSV does not have: throughput, achieved batch sizes, and what is measured in live
            runs.

    Returns:
        The table. Powers are in watts, times in seconds; a number that is not known is NaN.
    """
    rows = list(states)
    if layout == "wide":
        table = _wide(rows, extra)
    elif layout == "long":
        table = _long(rows, extra)
    else:
        raise ValueError(f'layout is "wide" or "long", not {layout!r}')
    return _indexed(table, index)


def log(log: SimulationLog[Any, Any], *, layout: Layout = "wide", index: Index = "time_s") -> pd.DataFrame:
    """A table of what a coordinator's run has logged.

    Args:
        log: What `Coordinator.run()` returns.
        layout: `wide`: a row for each step of a site, with `site` and then as [`states`][g2g_agent.frames.states]
            has it; `long`: a row for each step of a model, with `site` and `model_label`.
        index: As for [`states`][g2g_agent.frames.states].
    """
    tables = []
    for site, found in log.dc_states_by_site.items():
        table = states(found, layout=layout, index="none")
        table.insert(0, "site", site)
        tables.append(table)
    if not tables:
        return _indexed(pd.DataFrame({"site": [], "time_s": []}), index)
    return _indexed(pd.concat(tables, ignore_index=True), index)


def read_states(path: str | PathLike[str], *, layout: Layout = "wide", index: Index = "time_s") -> pd.DataFrame:
    """The states that an agent has written with `--out`: CSV, JSON lines or Parquet, told by the file's ending.

    Args:
        path: The file.
        layout: As for [`states`][g2g_agent.frames.states].
        index: As for [`states`][g2g_agent.frames.states]. A CSV has no `wall_time`.

    Raises:
        ValueError: The file's name ends otherwise, or what is in it are no states.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        with open(path, encoding="utf-8") as file:
            return states((json.loads(line) for line in file), layout=layout, index=index)
    if path.suffix == ".csv":
        # As text first: how well pandas reads decimals depends on its version.
        text = pd.read_csv(path, dtype=str, keep_default_na=False)
        table: Any = text.apply(lambda column: column.map(int if column.name.endswith(_WHOLE) else float))
    elif path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        raise ValueError(f"{path}: files of states end with .csv, .jsonl or .parquet")
    if "time_s" not in table.columns or "power_a_w" not in table.columns:
        raise ValueError(f"{path}: these are no states: the columns time_s and power_a_w are missing")
    if layout == "long":
        table = _wide_to_long(table)
    return _indexed(table, index)


def _value(state: Any, name: str, default: Any = None) -> Any:
    """A member of a state: an object's attribute, or an item of JSON."""
    if isinstance(state, Mapping):
        return state.get(name, default)
    return getattr(state, name, default)


def _phase(value: Any, phase: str) -> float:
    if value is None:
        return _NAN
    got = value.get(phase) if isinstance(value, Mapping) else getattr(value, phase)
    return _NAN if got is None else got


def _labels(rows: list[Any]) -> list[str]:
    """The models, in the order in which the states name them."""
    found: dict[str, None] = {}
    for state in rows:
        if len(found) == len(_value(state, "batch_size_by_model") or ()):
            break
        found.update(dict.fromkeys(_value(state, "batch_size_by_model") or ()))
    return list(found)


def _members(rows: list[Any], extra: bool) -> list[tuple[str, str]]:
    """Which of the members by model the states have."""
    wanted = (*_FILE_COLUMNS, *_MORE_COLUMNS) if extra else _FILE_COLUMNS
    return [(name, column) for name, column in wanted if any(_value(state, name) for state in rows[:1])]


def _times(rows: list[Any]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {"time_s": [_value(state, "time_s") for state in rows]}
    walls = [_time(_value(state, "wall_time")) for state in rows]
    if any(wall is not None for wall in walls):
        out["wall_time"] = walls
    return out


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        return time_of(value).astimezone(timezone.utc)
    return value.astimezone(timezone.utc) if isinstance(value, datetime) else None


def _column(rows: list[Any], name: str, label: str) -> list[Any]:
    out = []
    for state in rows:
        value = (_value(state, name) or {}).get(label)
        out.append(_NAN if value is None else value)
    return out


def _share_columns(rows: list[Any], label: str) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {column: [] for column in _SHARES}
    for state in rows:
        shares = (_value(state, "phase_share_by_model") or {}).get(label, (_NAN, _NAN, _NAN))
        for column, share in zip(_SHARES, shares, strict=True):
            out[column].append(float(share))
    return out


def _wide(rows: list[Any], extra: bool) -> pd.DataFrame:
    columns: dict[str, list[Any]] = _times(rows)
    for phase in _PHASES:
        columns[f"power_{phase}_w"] = [_phase(_value(state, "power_w"), phase) for state in rows]
    members = _members(rows, extra)
    shares = any(_value(state, "phase_share_by_model") for state in rows[:1])
    for label in _labels(rows):
        for name, column in members:
            columns[f"{label}:{column}"] = _column(rows, name, label)
        if shares:
            columns.update({f"{label}:{column}": values for column, values in _share_columns(rows, label).items()})
    if extra and any(_value(state, "measured_power_w") is not None for state in rows[:1]):
        for phase in _PHASES:
            columns[f"measured_power_{phase}_w"] = [_phase(_value(state, "measured_power_w"), phase) for state in rows]
    return pd.DataFrame(columns)


def _long(rows: list[Any], extra: bool) -> pd.DataFrame:
    labels, times = _labels(rows), _times(rows)
    members = _members(rows, extra)
    shares = any(_value(state, "phase_share_by_model") for state in rows[:1])
    tables = []
    for place, label in enumerate(labels):
        columns: dict[str, Any] = {name: values for name, values in times.items()}
        columns["model_label"] = label
        for name, column in members:
            columns[column] = _column(rows, name, label)
        if shares:
            columns.update(_share_columns(rows, label))
        table = pd.DataFrame(columns)
        table["_order"] = table.index * len(labels) + place
        tables.append(table)
    if not tables:
        return pd.DataFrame({"time_s": [], "model_label": []})
    whole = pd.concat(tables, ignore_index=True).sort_values("_order", kind="stable", ignore_index=True)
    out: pd.DataFrame = whole.drop(columns="_order")
    return out


def _wide_to_long(table: pd.DataFrame) -> pd.DataFrame:
    labels = [column.rpartition(":")[0] for column in table.columns if column.endswith(":power_w")]
    times = [column for column in ("time_s", "wall_time") if column in table.columns]
    tables = []
    for place, label in enumerate(labels):
        own = [column for column in table.columns if column.rpartition(":")[0] == label]
        part: Any = table[times + own]
        part = part.rename(columns={column: column.rpartition(":")[2] for column in own})
        part.insert(len(times), "model_label", label)
        part["_order"] = part.index * len(labels) + place
        tables.append(part)
    if not tables:
        return pd.DataFrame({"time_s": [], "model_label": []})
    whole = pd.concat(tables, ignore_index=True).sort_values("_order", kind="stable", ignore_index=True)
    out: pd.DataFrame = whole.drop(columns="_order")
    return out


def _indexed(table: pd.DataFrame, index: Index) -> pd.DataFrame:
    if index == "none":
        return table
    if index not in ("time_s", "wall_time"):
        raise ValueError(f'index is "time_s", "wall_time" or "none", not {index!r}')
    column = "wall_time" if index == "wall_time" and "wall_time" in table.columns else "time_s"
    indexed: pd.DataFrame = table.set_index(column)
    return indexed
