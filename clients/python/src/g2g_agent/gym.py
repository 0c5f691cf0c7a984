"""A Gymnasium environment over a replay in lockstep (extra `gym`, with OpenG2G).

An action is a batch size for each model, an observation what the datacenter and, if there is one, the grid then do.
Episodes share one agent: a reset costs a message, not a process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
from openg2g.coordinator import Coordinator
from openg2g.datacenter.command import DatacenterCommand, SetBatchSize
from openg2g.grid.base import GridBackend, GridState
from openg2g.grid.command import GridCommand

from g2g_agent.openg2g import AgentDatacenter, AgentDatacenterState

__all__ = ["AgentEnv", "Transition", "default_reward"]

Array = np.ndarray[Any, Any]

# Where observations are cut off: a space of observations has bounds, and nothing that is in order comes near.
_MOST = 100.0


@dataclass(frozen=True)
class Transition:
    """What an action has led to, for rewards.

    Attributes:
        states: The datacenter's states since the action, in order.
        grid_states: The grid's states since then; empty without a grid.
        voltages_pu: The voltages of the buses observed, in per unit, shape (grid states, 3 times buses); NaN where a
            bus lacks a phase. Empty without a grid.
        batch_size_by_model: The batch sizes commanded.
        previous_batch_size_by_model: Those before.
        itl_deadline_s_by_model: The models' deadlines in seconds.
        dt_s: The time from one action to the next, in seconds.
    """

    states: Sequence[AgentDatacenterState]
    grid_states: Sequence[GridState]
    voltages_pu: Array
    batch_size_by_model: Mapping[str, int]
    previous_batch_size_by_model: Mapping[str, int]
    itl_deadline_s_by_model: Mapping[str, float]
    dt_s: float


def default_reward(
    transition: Transition,
    *,
    v_min: float = 0.95,
    v_max: float = 1.05,
    w_voltage: float = 100.0,
    w_latency: float = 1.0,
    w_throughput: float = 0.1,
    w_switch: float = 0.05,
) -> float:
    """Tokens are good; voltages outside their limits, latencies over deadlines and changes are not.

    Args:
        transition: What the action has led to.
        v_min: The lowest voltage allowed, in per unit.
        v_max: The highest voltage allowed, in per unit.
        w_voltage: Weight of the voltages' sum outside the limits, in per unit, the mean over the grid's steps.
        w_latency: Weight of the models' mean excess of latency, as a part of the deadline.
        w_throughput: Weight of the decadic logarithm of tokens per second.
        w_switch: Weight of the changes of batch sizes, in doublings.

    Returns:
        The reward.
    """
    reward, last = 0.0, transition.states[-1]
    volts = transition.voltages_pu
    if volts.size:
        outside = np.nansum(np.maximum(v_min - volts, 0.0) + np.maximum(volts - v_max, 0.0), axis=1)
        reward -= w_voltage * float(np.mean(outside))
    tokens_per_s, excess = 0.0, []
    for label, itl_s in last.observed_itl_s_by_model.items():
        if itl_s > 0:  # not of NaN
            tokens_per_s += last.active_replicas_by_model[label] * last.batch_size_by_model[label] / itl_s
            excess.append(max(itl_s / transition.itl_deadline_s_by_model[label] - 1.0, 0.0))
    if excess:
        reward -= w_latency * sum(excess) / len(excess)
    reward += w_throughput * math.log10(1.0 + tokens_per_s)
    before = transition.previous_batch_size_by_model
    reward -= w_switch * sum(abs(math.log2(b / before[label])) for label, b in transition.batch_size_by_model.items())
    return reward


class AgentEnv(gymnasium.Env[Array, Array]):
    """A datacenter, alone or on a grid, whose batch sizes are the actions.

    The first step of an episode is taken by `reset`; an action then holds for `control_dt_s`.

    - Actions: `MultiDiscrete`, for each model the place of a batch size among its feasible ones, ascending.
    - Observations: `Box` of float32: power on each phase, in parts of `power_scale_w`; for each model the batch size
      (its logarithm, 0 to 1 over the feasible ones), active replicas in parts of what the site could host, and the
      latency in parts of its deadline (0 where there is none); with a grid the voltages of `buses`, as their distance
      from 1 pu in parts of 0.05, 0 where a bus lacks a phase. All are cut off at -100 and 100.
    - Infos: `time_s`; `power_w`, an array of the phases; with a grid `v_min_pu` and `v_max_pu` of the buses observed.
    - `terminated` never comes, `truncated` after `duration_s`.

    Attributes:
        state: The datacenter's last state; None before the first `reset`.
        grid_state: The grid's; None also without a grid.

    Args:
        datacenter: The replay. The environment closes it.
        duration_s: The length of an episode in seconds.
        control_dt_s: From one action to the next, in seconds.
        grid: A grid of OpenG2G's that the datacenter has been attached to.
        buses: The buses whose voltages are observed and rewarded; by default all.
        reward: Makes a reward of what an action has led to.
        episode: Draws the next episode: what `AgentDatacenter.reconfigure` takes, such as replica schedules, given a
            random generator. By default episodes differ in their seed only.
        power_scale_w: What the observed power is divided by, in watts on each phase.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        datacenter: AgentDatacenter,
        *,
        duration_s: float = 600.0,
        control_dt_s: Fraction = Fraction(1),
        grid: GridBackend[Any] | None = None,
        buses: Sequence[str] | None = None,
        reward: Callable[[Transition], float] = default_reward,
        episode: Callable[[np.random.Generator], Mapping[str, Any]] | None = None,
        power_scale_w: float = 1e6,
    ) -> None:
        self._datacenter = datacenter
        self._grid = grid
        self._buses = None if buses is None else list(buses)
        self._reward = reward
        self._episode = episode
        self._power_scale_w = power_scale_w
        self._control_dt_s = Fraction(control_dt_s)
        datacenter.reset()
        datacenter.control_dt_s = self._control_dt_s
        self._coordinator: Coordinator[Any, Any] = Coordinator(
            datacenters=[datacenter], grid=_NoGrid(datacenter.dt_s) if grid is None else grid, controllers=[]
        )
        self._ticks = _whole(self._control_dt_s / self._coordinator.clock.tick_s, "control_dt_s", "the time steps")
        self._actions = math.ceil(Fraction(str(duration_s)) / self._control_dt_s)
        self._done = 0
        self._started = False
        self.state: AgentDatacenterState | None = None
        self.grid_state: GridState | None = None
        specs = datacenter.inference_models
        self._labels = [spec.model_label for spec in specs]
        self._feasible = {spec.model_label: sorted(spec.feasible_batch_sizes or spec.batch_sizes) for spec in specs}
        self._deadlines = {spec.model_label: spec.itl_deadline_s for spec in specs}
        self._most = {spec.model_label: datacenter.total_gpu_capacity / spec.gpus_per_replica for spec in specs}
        self.action_space = gymnasium.spaces.MultiDiscrete([len(self._feasible[label]) for label in self._labels])
        size = 3 + 3 * len(self._labels) + self._voltage_count()
        self.observation_space = gymnasium.spaces.Box(-_MOST, _MOST, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Makes this and the following episodes reproducible.
            options: What `AgentDatacenter.reconfigure` takes, in place of what would be drawn.

        Returns:
            The first observation, and the infos.
        """
        super().reset(seed=seed)
        drawn: dict[str, Any] = {"seed": int(self.np_random.integers(2**31))}
        if self._episode is not None:
            drawn.update(self._episode(self.np_random))
        drawn.update(options or {})
        self._stop()
        self._datacenter.reconfigure(**drawn)
        self._coordinator.reset()
        self._coordinator.start()
        self._started = True
        self._done = 0
        tick = self._coordinator.step()
        state = tick.dc_states[self._datacenter.name]
        self._batch = {label: state.batch_size_by_model[label] for label in self._labels}
        self.state, self.grid_state = state, tick.grid_state
        return self._observe(state, tick.grid_state), self._info(state, tick.grid_state)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Command batch sizes and go on to the time of the next action.

        Args:
            action: For each model the place of its batch size among the feasible ones.

        Returns:
            The observation, the reward, False, whether the episode is over, and the infos.
        """
        if not self._started:
            raise RuntimeError("call reset() before step()")
        wanted = {
            label: int(self._feasible[label][int(place)]) for label, place in zip(self._labels, action, strict=True)
        }
        commands: list[DatacenterCommand | GridCommand] = []
        if wanted != self._batch:
            commands.append(SetBatchSize(batch_size_by_model=wanted, target=self._datacenter))
        self._coordinator.dispatch_commands(commands)
        states: list[AgentDatacenterState] = []
        grid_states: list[GridState] = []
        for _ in range(self._ticks):
            tick = self._coordinator.step()
            states.extend(tick.dc_states.values())
            if tick.grid_state is not None and self._grid is not None:
                grid_states.append(tick.grid_state)
        volts = np.array([self._voltages(state) for state in grid_states]) if grid_states else np.empty((0, 0))
        reward = self._reward(
            Transition(states, grid_states, volts, wanted, self._batch, self._deadlines, float(self._control_dt_s))
        )
        self._batch = wanted
        self._done += 1
        state, grid_state = states[-1], grid_states[-1] if grid_states else None
        self.state, self.grid_state = state, grid_state
        over = self._done >= self._actions
        return self._observe(state, grid_state), float(reward), False, over, self._info(state, grid_state)

    def close(self) -> None:
        """End the datacenter."""
        self._stop()
        self._datacenter.close()

    def _stop(self) -> None:
        if self._started:
            self._started = False
            self._coordinator.stop()

    def _info(self, state: AgentDatacenterState, grid_state: GridState | None) -> dict[str, Any]:
        # Plain values, not the states: those with NaN, where a bus lacks a phase, are never equal.
        power = state.power_w
        info: dict[str, Any] = {"time_s": state.time_s, "power_w": np.array([power.a, power.b, power.c])}
        if grid_state is not None:
            volts = self._voltages(grid_state)
            info["v_min_pu"], info["v_max_pu"] = float(np.nanmin(volts)), float(np.nanmax(volts))
        return info

    def _observe(self, state: AgentDatacenterState, grid_state: GridState | None) -> Array:
        power = state.power_w
        values = [power.a / self._power_scale_w, power.b / self._power_scale_w, power.c / self._power_scale_w]
        for label in self._labels:
            sizes, itl_s = self._feasible[label], state.observed_itl_s_by_model[label]
            span = math.log2(sizes[-1] / sizes[0]) or 1.0
            values.append(math.log2(state.batch_size_by_model[label] / sizes[0]) / span)
            values.append(state.active_replicas_by_model[label] / self._most[label])
            values.append(0.0 if math.isnan(itl_s) else itl_s / self._deadlines[label])
        if self._grid is not None and grid_state is not None:
            volts = (np.asarray(self._voltages(grid_state)) - 1.0) / 0.05
            values.extend(np.nan_to_num(volts).tolist())
        return np.clip(np.array(values, dtype=np.float32), -_MOST, _MOST)

    def _voltage_count(self) -> int:
        if self._grid is None:
            return 0
        if self._buses is None:
            self._coordinator.reset()
            self._coordinator.start()
            try:
                found = self._coordinator.step().grid_state
            finally:
                self._coordinator.stop()
            if found is None:
                raise ValueError("the grid has no state after the first step; name its buses")
            self._buses = found.voltages.buses()
            self._datacenter.reset()
        return 3 * len(self._buses)

    def _voltages(self, state: GridState) -> list[float]:
        volts: list[float] = []
        for bus in self._buses or ():
            phases = state.voltages[bus]
            volts.extend((phases.a, phases.b, phases.c))
        return volts


def _whole(ratio: Fraction, name: str, of: str) -> int:
    if ratio.denominator != 1 or ratio < 1:
        raise ValueError(f"{name} must be a multiple of {of}")
    return int(ratio)


class _NoGrid(GridBackend[Any]):
    """A grid that nothing is attached to, so that a coordinator runs a datacenter alone."""

    def __init__(self, dt_s: Fraction) -> None:
        super().__init__()
        self._dt_s = dt_s

    @property
    def dt_s(self) -> Fraction:
        return self._dt_s

    @property
    def v_index(self) -> list[tuple[str, int]]:
        return []

    def step(self, clock: Any, power_samples_w: Any, events: Any) -> Any:
        return None

    def apply_control(self, command: GridCommand, events: Any) -> None:
        raise TypeError(f"there is no grid to carry out {type(command).__name__}")

    def voltages_vector(self) -> Array:
        return np.empty(0)

    def estimate_sensitivity(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("there is no grid")

    def reset(self) -> None:
        """There is nothing to reset."""
