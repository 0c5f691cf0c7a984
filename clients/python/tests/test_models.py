"""What the agent tells, as values."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Any

import pytest

from fake import INFO, answered, state
from g2g_agent import Event, Info, Model, State, States, ThreePhase
from g2g_agent._core import decoded
from g2g_agent.errors import BadAnswer
from g2g_agent.models import BatchSizeAnswer, ReplicaRamp, ReplicaSchedule
from g2g_agent.state import Percentiles, ServerLoad, time_of

MODEL: dict[str, Any] = {
    "model_label": "m",
    "model_id": "org/m",
    "gpus_per_replica": 1,
    "itl_deadline_s": 0.08,
    "feasible_batch_sizes": [8, 16],
    "initial_batch_size": 8,
    "failsafe_batch_size": 8,
    "batch_size": 8,
    "achieved_batch_size": None,
    "batch_size_actuator": None,
    "replicas": 2,
    "replica_shift": 0,
    "free_replicas": 1,
    "free_gpus": 1,
    "available_gpu_capacity": 1,
    "batch_size_lease_s": None,
    "replica_lease_s": None,
    "stale": False,
    "servers": [],
}

LIVE = state(
    7,
    source="live",
    wall_time="2026-11-23T12:00:00.123456789+01:30",
    measured_power_w={"a": 1.0, "b": None, "c": 3.0},
    measured_power_w_by_model={"m": 2.0},
    measured_throughput_tokens_per_s_by_model={"m": None},
    augmented_power_w_by_model={"m": 3.0},
    augmentation_factor_by_model={"m": 4.0},
    prometheus_metrics_by_model={
        "m": {
            "num_requests_running": 5,
            "num_requests_waiting": None,
            "kv_cache_usage_perc": 0.5,
            "num_preemptions_total": 0,
        },
        "n": None,
    },
    itl_percentiles_s_by_model={"m": {"p50": 0.1, "p90": None, "p95": 0.3, "p99": 0.4}},
    stale_by_model={"m": 2.5},
    achieved_batch_size_by_model={"m": 7.5, "n": None},
    free_gpus=3,
    of_a_later_version=[1],
)


def test_a_state_of_a_replay() -> None:
    got = State.from_json(state(3))
    assert (got.seq, got.time_s, got.wall_time, got.source) == (3, 0.3, None, "replay")
    assert got.power_w == ThreePhase(1.5, 2.5, 3.5)
    assert sum(got.power_w) == 7.5
    assert got.phase_share_by_model == {"m": ThreePhase(0.5, 0.25, 0.25)}
    assert math.isnan(got.observed_itl_s_by_model["m"])
    assert got.measured_power_w is None
    assert got.prometheus_metrics_by_model is None
    assert got.throughput_tokens_per_s_by_model == got.stale_by_model == got.achieved_batch_size_by_model == {}
    assert got.free_gpus is None


def test_a_live_state() -> None:
    got = State.from_json(LIVE)
    assert got.wall_time == datetime(2026, 11, 23, 12, 0, 0, 123456, timezone(timedelta(hours=1, minutes=30)))
    assert got.measured_power_w is not None
    assert (got.measured_power_w.a, got.measured_power_w.c) == (1.0, 3.0)
    assert math.isnan(got.measured_power_w.b)
    loads = got.prometheus_metrics_by_model
    assert loads is not None
    assert loads["n"] is None
    assert isinstance(loads["m"], ServerLoad)
    assert loads["m"].num_requests_running == 5
    assert math.isnan(loads["m"].num_requests_waiting)
    assert got.itl_percentiles_s_by_model is not None
    assert isinstance(got.itl_percentiles_s_by_model["m"], Percentiles)
    assert math.isnan(got.itl_percentiles_s_by_model["m"].p90)
    assert got.achieved_batch_size_by_model["m"] == 7.5
    assert math.isnan(got.achieved_batch_size_by_model["n"])
    assert got.stale_by_model == {"m": 2.5}
    assert got.free_gpus == 3


def test_members_of_later_versions_stay_reachable() -> None:
    assert State.from_json(LIVE).raw["of_a_later_version"] == [1]
    assert Info.from_json({**INFO, "later": 1}).raw["later"] == 1


def test_a_state_cannot_be_changed() -> None:
    got = State.from_json(state(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.seq = 4  # type: ignore[misc]
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        got.other = 4  # type: ignore[attr-defined]


def test_states_are_equal_by_what_they_say() -> None:
    assert State.from_json(state(3)) == State.from_json(state(3))
    assert State.from_json(state(3)) != State.from_json(state(3, power_w={"a": 0, "b": 0, "c": 0}))
    assert State.from_json(state(3)) != 3
    assert len({State.from_json(state(3)), State.from_json(state(3))}) == 1


def test_a_state_of_some_members_names_those_it_lacks() -> None:
    got = State.from_json({"seq": 3, "time_s": 0.3, "power_w": {"a": 1, "b": 2, "c": 3}})
    assert got.power_w.a == 1
    with pytest.raises(AttributeError, match=r"no power_by_model_w.*fields"):
        _ = got.power_by_model_w
    assert repr(got) == "State(seq=3, time_s=0.3, power_w=ThreePhase(a=1, b=2, c=3))"
    assert "State 3" in got._repr_html_()


def test_states_can_be_copied_and_sent_to_another_process() -> None:
    for got in (State.from_json(LIVE), State.from_json({"seq": 3, "time_s": 0.3})):
        assert copy.deepcopy(got) == got
        again = pickle.loads(pickle.dumps(got))
        assert again == got
        assert repr(again) == repr(got)


def test_a_state_that_was_replaced_is_another_one() -> None:
    got = State.from_json(LIVE)
    later = dataclasses.replace(got, seq=got.seq + 1, batch_size_by_model={"m": 16})
    assert (later.seq, later.batch_size_by_model, later.power_w) == (got.seq + 1, {"m": 16}, got.power_w)
    assert later != got
    assert dataclasses.replace(got) == got
    for again in (copy.deepcopy(later), pickle.loads(pickle.dumps(later))):
        assert again == later
        assert again != got


def test_info() -> None:
    info = Info.from_json(INFO)
    assert info.dt_s == Fraction(1, 10)
    assert info.started_at == datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    assert (info.run_id, info.seed, info.total_steps) == ("run-1", 1, None)
    older = {
        name: value for name, value in INFO.items() if name not in ("dt", "run_id", "seed", "duration_s", "at_end")
    }
    assert Info.from_json({**older, "dt_s": 1 / 3}).dt_s == Fraction(1, 3)
    assert Info.from_json(older).run_id is None
    assert "fake" in info._repr_html_()


def test_html_is_escaped() -> None:
    assert "<b>" not in Info.from_json({**INFO, "name": "<b>"})._repr_html_()
    assert "&lt;b&gt;" in Model.from_json({**MODEL, "model_label": "<b>"})._repr_html_()
    assert "<b>" not in State.from_json(state(1, batch_size_by_model={"<b>": 8}))._repr_html_()


def test_a_model() -> None:
    server = {
        "vllm_base_url": "http://h:1",
        "answers": True,
        "achieved_batch_size": 3.0,
        "batch_size_actuator": "concurrency",
        "no_token_s": 0,
    }
    model = Model.from_json(
        {
            **MODEL,
            "servers": [server],
            "gpu_model": "H100",
            "batch_sizes": [8, 16, 32],
            "replica_schedule": {"initial": 720, "ramps": [{"target": 144, "t_start": 150, "t_end": 200}]},
        }
    )
    assert model.feasible_batch_sizes == (8, 16)
    assert model.servers[0].vllm_base_url == "http://h:1"
    assert (model.gpu_model, model.batch_sizes) == ("H100", (8, 16, 32))
    assert model.replica_schedule == ReplicaSchedule(720, (ReplicaRamp(144, 150, 200),))
    bare = Model.from_json(MODEL)
    assert (bare.gpu_model, bare.batch_sizes, bare.replica_schedule) == (None, None, None)


def test_an_answer_and_an_event() -> None:
    answer = BatchSizeAnswer.from_json(answered())
    assert answer.from_seq == 3
    assert math.isnan(answer.achieved_batch_size_by_model["m"])
    assert answer.results[0].outcome == "accepted"
    event = Event.from_json(
        {"id": 7, "wall_time": "2026-11-23T12:00:00.1Z", "time_s": 1, "topic": "t", "data": {"a": 1}}
    )
    assert event.wall_time is not None
    assert event.wall_time.microsecond == 100000


@pytest.mark.parametrize("raw", [{}, [], None, "x", {**INFO, "started_at": "yesterday"}, {**INFO, "dt": "x"}])
def test_what_is_no_info_is_a_bad_answer(raw: Any) -> None:
    with pytest.raises(BadAnswer):
        decoded(Info.from_json, raw, "GET /v1/info")


@pytest.mark.parametrize(
    "text", ["", "2026-11-23", "2026-11-23T12:00:00", "2026-11-23T12:00:00.Z1", "2026-11-23T12:00:00x+01:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        time_of(text)


COLUMNS = {
    "seq": [0, 1],
    "time_s": [0.0, 0.1],
    "power_w": {"a": [1, 2], "b": [3, 4], "c": [5, 6]},
    "observed_itl_s_by_model": {"m": [None, 0.5]},
    "phase_share_by_model": {"m": [[1, 0, 0], [0, 1, 0]]},
}
ROWS = [
    {
        "seq": 0,
        "time_s": 0.0,
        "power_w": {"a": 1, "b": 3, "c": 5},
        "observed_itl_s_by_model": {"m": None},
        "phase_share_by_model": {"m": [1, 0, 0]},
    },
    {
        "seq": 1,
        "time_s": 0.1,
        "power_w": {"a": 2, "b": 4, "c": 6},
        "observed_itl_s_by_model": {"m": 0.5},
        "phase_share_by_model": {"m": [0, 1, 0]},
    },
]


def test_columns_and_rows_say_the_same() -> None:
    by_column, by_row = States(copy.deepcopy(COLUMNS)), States(copy.deepcopy(ROWS))
    assert not by_column.in_rows
    assert by_row.in_rows
    assert by_column.raw == ROWS
    assert by_row.columns == COLUMNS
    assert by_column == by_row == [State.from_json(row) for row in ROWS]
    assert by_column[-1].power_w == ThreePhase(2, 4, 6)
    assert by_column[0:1] == [by_row[0]]
    assert [one.seq for one in by_column] == [0, 1]
    assert by_column.last_seq == by_row.last_seq == 1
    assert repr(by_row) == "States(2 from 0 s to 0.1 s)"
    for states in (States(copy.deepcopy(COLUMNS)), by_row):
        for index in (2, -3):
            with pytest.raises(IndexError):
                _ = states[index]


def test_no_states() -> None:
    for empty in (States([]), States({"seq": [], "time_s": [], "power_w": {"a": [], "b": [], "c": []}})):
        assert len(empty) == 0
        assert list(empty) == empty.raw == []
        assert empty.columns["seq"] == []
        assert not empty
        assert repr(empty) == "States()"


def test_numbers_keep_their_last_bit() -> None:
    text = json.dumps(state(1, power_w={"a": 919007.8075157648, "b": 0.1, "c": 1e-300}))
    assert State.from_json(json.loads(text)).power_w == ThreePhase(919007.8075157648, 0.1, 1e-300)
