"""Tables of states."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pandas")

import pandas as pd

from g2g_agent import Agent, frames

SMALL, LARGE = "Llama-3.1-8B", "Llama-3.1-405B"
MODELS = [SMALL, "Llama-3.1-70B", LARGE]
WIDE = ["power_w", "active_replicas", "batch_size", "observed_itl_s", "phase_share_a", "phase_share_b", "phase_share_c"]


@pytest.fixture(scope="module")
def files(binary: Path, replay_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same 40 states as files of each format, and as states of a client."""
    directory = tmp_path_factory.mktemp("states")
    out: dict[str, Any] = {}
    for ending in ("csv", "jsonl", "parquet"):
        path = directory / f"states.{ending}"
        with Agent.replay(replay_config, binary=binary, out=path) as agent:
            out["states"] = agent.client.step(40)
        out[ending] = path
    return out


def test_wide_tables_have_the_columns_of_the_agents_files(files: dict[str, Any]) -> None:
    header = files["csv"].read_text().splitlines()[0].split(",")
    table = frames.states(files["states"])
    assert [table.index.name, *table.columns] == header
    assert header[4:11] == [f"{SMALL}:{name}" for name in WIDE]
    pd.testing.assert_frame_equal(table, frames.read_states(files["csv"]), check_dtype=False, check_exact=True)
    pd.testing.assert_frame_equal(table, frames.read_states(files["jsonl"]), check_exact=True)
    parquet = frames.read_states(files["parquet"])
    pd.testing.assert_frame_equal(table, parquet[table.columns], check_dtype=False, check_exact=True)
    assert table.loc[3.9, f"{LARGE}:batch_size"] == files["states"][39].batch_size_by_model[LARGE]


def test_long_tables_have_a_row_for_each_model(files: dict[str, Any]) -> None:
    table = frames.states(files["states"], layout="long", index="none")
    assert list(table.columns) == ["time_s", "model_label", *WIDE]
    assert list(table["model_label"][:6]) == MODELS * 2
    assert len(table) == 120
    row = table.iloc[5]
    state = files["states"][1]
    assert row["time_s"] == state.time_s
    assert row["power_w"] == state.power_by_model_w[LARGE]
    assert row["phase_share_b"] == state.phase_share_by_model[LARGE].b
    for ending in ("csv", "jsonl", "parquet"):
        other = frames.read_states(files[ending], layout="long", index="none")
        pd.testing.assert_frame_equal(table, other[table.columns], check_dtype=False, check_exact=True)


def test_sums_by_model(files: dict[str, Any]) -> None:
    table = frames.states(files["states"], layout="long")
    total = table.groupby("time_s")["power_w"].sum()
    wide = frames.states(files["states"])
    assert total.iloc[7] == pytest.approx(sum(wide[f"{label}:power_w"].iloc[7] for label in MODELS))


def test_live_states(demo: Agent) -> None:
    states = demo.client.history(5)
    table = frames.states(states, index="wall_time", extra=True)
    assert table.index.name == "wall_time"
    assert str(pd.DatetimeIndex(table.index).tz) == "UTC"
    assert f"{SMALL}:throughput_tokens_per_s" in table.columns
    assert f"{SMALL}:measured_power_w" in table.columns
    assert "measured_power_a_w" in table.columns
    plain = frames.states(states, index="wall_time")
    assert list(plain.columns) == ["time_s", "power_a_w", "power_b_w", "power_c_w"] + [
        f"{label}:{name}" for label in MODELS for name in WIDE
    ]


def test_what_is_not_known_is_nan() -> None:
    state = {
        "time_s": 0.0,
        "power_w": {"a": 1.0, "b": 2.0, "c": 3.0},
        "power_by_model_w": {"m": 5.0},
        "batch_size_by_model": {"m": 8},
        "active_replicas_by_model": {"m": 0},
        "observed_itl_s_by_model": {"m": None},
    }
    table = frames.states([state])
    assert math.isnan(table.loc[0.0, "m:observed_itl_s"])
    assert "m:phase_share_a" not in table.columns


def test_no_states() -> None:
    assert len(frames.states([])) == 0
    assert len(frames.states([], layout="long")) == 0


def test_wrong_arguments(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout"):
        frames.states([], layout="tall")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="index"):
        frames.states(files["states"], index="seq")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl or \.parquet"):
        frames.read_states(tmp_path / "states.txt")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no states"):
        frames.read_states(other)


def test_a_coordinators_log(binary: Path) -> None:
    pytest.importorskip("openg2g")
    from openg2g.coordinator import SimulationLog

    from sites import Driver, Site

    log: Any = SimulationLog()
    assert len(frames.log(log)) == 0
    with Site().agent(binary) as west, Site().but(seed=9).agent(binary) as east:
        for name, datacenter in (("west", west), ("east", east)):
            for state in Driver(datacenter).step(5):
                log.record_datacenter(state, dc_name=name)
    table = frames.log(log)
    assert list(table["site"]) == ["west"] * 5 + ["east"] * 5
    assert "power_a_w" in table.columns
    offline = frames.states(Driver(Site().offline()).step(5))
    pd.testing.assert_frame_equal(table[table["site"] == "west"].drop(columns="site"), offline, check_exact=False)
    long = frames.log(log, layout="long")
    assert set(long["model_label"]) == {SMALL, LARGE}
    assert len(long) == 20
    assert io.StringIO(long.to_csv()).readline().startswith("time_s,site,model_label,power_w,")
