"""OpenG2G's states as the agent's answers hold them.

An answer has an array over its steps for each member. A state knows its place in them and makes a member of its own
when that is read for the first time: of most states a coordinator only ever reads the power.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from openg2g.common import ThreePhase
from openg2g.datacenter.offline import OfflineDatacenterState

from g2g_agent.lockstep import States

__all__ = ["AgentDatacenterState", "Block"]

# Not by way of __dict__: an object whose __dict__ is never asked for has none, which spares the garbage collector half
# of what a long run keeps.
_new, _get, _set = object.__new__, object.__getattribute__, object.__setattr__
_NAN = float("nan")


class Block:
    """The states of one answer: in columns, or, of a single step, as the object that it is.

    Attributes:
        columns: An array over the steps for each member; of a single step the members themselves.
        steps: How many states there are.
        single: It is a single step's object.
    """

    __slots__ = ("columns", "single", "steps")

    def __init__(self, states: States) -> None:
        self.steps = len(states)
        self.single = self.steps == 1 and states.in_rows
        self.columns: Any = states.raw[0] if self.single else states.columns

    @property
    def first_seq(self) -> int:
        """The number of the first step."""
        seq: int = self.columns["seq"] if self.single else self.columns["seq"][0]
        return seq


def _power(block: Block, i: int) -> ThreePhase:
    power = block.columns["power_w"]
    if block.single:
        return ThreePhase(power["a"], power["b"], power["c"])
    return ThreePhase(power["a"][i], power["b"][i], power["c"][i])


def _nan_for_null(values: dict[str, Any]) -> dict[str, Any]:
    # The agent writes null for a latency that there is none of, OpenG2G has NaN.
    if None in values.values():
        return {label: _NAN if value is None else value for label, value in values.items()}
    return values


class _Lazy:
    """A member that is made of the answer when it is first read, and kept.

    Not a property: it has no setter, so that what stands in the instance goes before it, as a dataclass's own
    constructor puts it there.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, state: Any, owner: Any = None) -> Any:
        if state is None:
            raise AttributeError(self.name)  # as of a dataclass's field without a default
        try:
            block, i = _get(state, "_block"), _get(state, "_i")
        except AttributeError:
            raise AttributeError(self.name) from None
        value: Any
        if self.name == "power_w":
            value = _power(block, i)
        else:
            member = block.columns[self.name]
            value = _nan_for_null(member if block.single else {label: of[i] for label, of in member.items()})
        _set(state, self.name, value)
        return value


class AgentDatacenterState(OfflineDatacenterState):
    """The state of a replay's step: OpenG2G's `OfflineDatacenterState`, with the same numbers.

    Attributes:
        seq: The number of the step, from 0; None in a state that was not made of an answer.
    """

    if not TYPE_CHECKING:
        power_w = _Lazy("power_w")
        power_by_model_w = _Lazy("power_by_model_w")
        batch_size_by_model = _Lazy("batch_size_by_model")
        active_replicas_by_model = _Lazy("active_replicas_by_model")
        observed_itl_s_by_model = _Lazy("observed_itl_s_by_model")

    @property
    def seq(self) -> int | None:
        """The number of the step, from 0; None in a state that was not made of an answer."""
        place = place_of(self)
        if place is None:
            return None
        block, i = place
        seq: int = block.columns["seq"] if block.single else block.columns["seq"][i]
        return seq


FIELDS = ("power_w", "power_by_model_w", "batch_size_by_model", "active_replicas_by_model", "observed_itl_s_by_model")
"""The members of the agent's states that an OpenG2G state has."""


def state_at(block: Block, i: int) -> AgentDatacenterState:
    """The state of one step of an answer."""
    state: AgentDatacenterState = _new(AgentDatacenterState)
    _set(state, "time_s", block.columns["time_s"] if block.single else block.columns["time_s"][i])
    _set(state, "_block", block)
    _set(state, "_i", i)
    return state


def place_of(state: AgentDatacenterState) -> tuple[Block, int] | None:
    """The answer that a state was made of, and its place in it; None if it was made otherwise."""
    try:
        return _get(state, "_block"), _get(state, "_i")
    except AttributeError:
        return None


def phase_shares(block: Block, i: int) -> dict[str, np.ndarray[Any, Any]]:
    """The part of each model's servers on each phase, of the models that have servers, as OpenG2G has it."""
    shares, replicas = block.columns["phase_share_by_model"], block.columns["active_replicas_by_model"]
    if block.single:
        return {label: np.array(of, dtype=float) for label, of in shares.items() if replicas[label] > 0}
    return {label: np.array(of[i], dtype=float) for label, of in shares.items() if replicas[label][i] > 0}


def add_phase_shares(block: Block, shares_by_seq: dict[int, Any]) -> None:
    """Give an answer the member that was not asked for.

    Raises:
        KeyError: A step's is missing.
    """
    if block.single:
        block.columns["phase_share_by_model"] = shares_by_seq[block.columns["seq"]]
        return
    rows = [shares_by_seq[seq] for seq in block.columns["seq"]]
    block.columns["phase_share_by_model"] = {label: [row[label] for row in rows] for label in rows[0]}


def drop_phase_shares(block: Block) -> None:
    """Forget what is asked for of the last step only."""
    block.columns.pop("phase_share_by_model", None)
