"""The examples' comparison sees the least difference, and shorter runs tell the same story."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from openg2g.common import ThreePhase
from openg2g.datacenter.offline import OfflineDatacenter
from openg2g.grid.base import BusVoltages

import closed_loop
import study


@pytest.fixture(scope="module")
def run() -> study.Run:
    case = study.Study(duration_s=4)
    datacenter = OfflineDatacenter(
        study.FACILITY,
        case.workload(),
        name="dc",
        dt_s=study.DT_S,
        total_gpu_capacity=study.TOTAL_GPU_CAPACITY,
        power_augmentation=study.AUGMENTATION,
    )
    return case.run(datacenter)


def next_up(value: float) -> float:
    return math.nextafter(value, math.inf)


def change_state(run: study.Run, **changes: Any) -> None:
    run.log.dc_states[-1] = dataclasses.replace(run.log.dc_states[-1], **changes)


def change_power(run: study.Run) -> None:
    power = run.log.dc_states[-1].power_w
    change_state(run, power_w=ThreePhase(power.a, power.b, next_up(power.c)))


def change_model_power(run: study.Run) -> None:
    powers = dict(run.log.dc_states[-1].power_by_model_w)
    label = next(iter(powers))
    change_state(run, power_by_model_w=powers | {label: next_up(powers[label])})


def change_batch_size(run: study.Run) -> None:
    batches = dict(run.log.dc_states[-1].batch_size_by_model)
    change_state(run, batch_size_by_model=batches | {next(iter(batches)): 8})


def change_latency(run: study.Run) -> None:
    latencies = dict(run.log.dc_states[-1].observed_itl_s_by_model)
    label = next(iter(latencies))
    change_state(run, observed_itl_s_by_model=latencies | {label: latencies[label] * (1 + 3e-12)})


def lose_latency(run: study.Run) -> None:
    latencies = dict(run.log.dc_states[-1].observed_itl_s_by_model)
    change_state(run, observed_itl_s_by_model=latencies | {next(iter(latencies)): math.nan})


def change_voltage(run: study.Run) -> None:
    state = run.log.grid_states[-1]
    phases = state.voltages["671"]
    voltages = {bus: state.voltages[bus] for bus in state.voltages.buses()}
    voltages["671"] = dataclasses.replace(phases, a=next_up(phases.a))
    run.log.grid_states[-1] = dataclasses.replace(state, voltages=BusVoltages(voltages))


def lose_command(run: study.Run) -> None:
    run.log.commands.pop()


def change_event(run: study.Run) -> None:
    run.log.events[-1] = dataclasses.replace(run.log.events[-1], t_s=1e9)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_power, "power on three phases"),
        (change_model_power, "power by model"),
        (change_batch_size, "batch sizes"),
        (change_latency, "latency of Llama-3.1-8B"),
        (lose_latency, "latency of Llama-3.1-8B"),
        (change_voltage, "voltages"),
        (lose_command, "commands"),
        (change_event, "events"),
    ],
)
def test_the_least_difference_is_seen(run: study.Run, change: Callable[[study.Run], None], named: str) -> None:
    other = copy.deepcopy(run)
    assert study.differences(run, other) == []
    change(other)
    found = study.differences(run, other)
    assert any(text.startswith(named) for text in found), found


def test_a_latency_that_differs_in_its_last_bit_is_the_same(run: study.Run) -> None:
    other = copy.deepcopy(run)
    latencies = dict(run.log.dc_states[-1].observed_itl_s_by_model)
    change_state(other, observed_itl_s_by_model={label: next_up(itl_s) for label, itl_s in latencies.items()})
    assert study.differences(run, other) == []


def test_a_shorter_run_has_the_same_story(run: study.Run) -> None:
    first, middle, last = run.log.dc_states[0], run.log.dc_states[12], run.log.dc_states[-1]
    # Half the replicas at the end, training in between; the taps have gone up and down.
    for label, n in study.REPLICAS.items():
        assert first.active_replicas_by_model[label] == n
        assert last.active_replicas_by_model[label] == n // 2
    training_w = [sum(study.phases(s)) - sum(s.power_by_model_w.values()) - 1.5e6 for s in (first, middle, last)]
    assert training_w[0] == pytest.approx(0, abs=1)
    assert training_w[1] > 100e3
    assert training_w[2] == pytest.approx(0, abs=1)
    taps = [state.tap_positions.regulators["creg1a"] for state in run.log.grid_states]
    assert taps[0] == pytest.approx(1 + 14 * study.TAP_STEP)
    assert max(taps) == pytest.approx(1 + 16 * study.TAP_STEP)


def test_statistics_are_printed_side_by_side(run: study.Run, capsys: pytest.CaptureFixture[str]) -> None:
    study.print_side_by_side({"left": run, "right": run})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["left", "right"]
    assert len(lines) == 1 + len(study.ROWS)
    (violation,) = [line for line in lines if line.startswith("violation, s")]
    assert violation.split()[-1] == str(run.voltage().violation_time_s)


@pytest.mark.parametrize(("change", "status"), [(None, 0), (change_power, 1)])
def test_the_closed_loop_tells_a_difference(
    run: study.Run,
    change: Callable[[study.Run], None] | None,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = copy.deepcopy(run)
    if change is not None:
        change(other)
    monkeypatch.setattr(closed_loop, "offline", lambda case: run)
    monkeypatch.setattr(closed_loop, "lockstep", lambda case: other)
    monkeypatch.setattr(sys, "argv", ["closed_loop.py", "--live-duration-s", "0"])
    assert closed_loop.main() == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("all equal to the bit") if status == 0 else last.startswith("  power on three phases")
