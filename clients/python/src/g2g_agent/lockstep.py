"""Steps of a replay in lockstep, over one WebSocket: what is sent and what it means, without sockets."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from g2g_agent._core import Call, decoded, steps_body
from g2g_agent.errors import BadAnswer, ConnectionFailed, error_of
from g2g_agent.models import Info, ReplicaShift
from g2g_agent.state import State

__all__ = ["States"]

PATH = "/v1/lockstep"
NO_WEBSOCKET = (404, 405, 426, 501)
"""What an agent without `/v1/lockstep` answers, or one behind a proxy that knows no WebSockets: then by POST."""

PARTLY_S = 0.05
"""Between two looks at an agent that is still computing the steps whose answer was lost."""


class States(Sequence[State]):
    """The states of some steps, oldest first. Each is made when it is looked at.

    Attributes:
        columns: The same as one list over the steps for each number, nested as a state is:
            `columns["power_w"]["a"][i]`, `columns["observed_itl_s_by_model"]["Llama-3.1-8B"][i]` (None: not known).
        raw: The states as the agent writes them.
    """

    __slots__ = ("_columns", "_length", "_rows")

    def __init__(self, raw: Any) -> None:
        if isinstance(raw, list):
            self._rows: list[Mapping[str, Any]] | None = raw
            self._columns: dict[str, Any] | None = None
            self._length = len(raw)
        else:
            self._rows, self._columns = None, raw
            self._length = len(raw["seq"])

    @property
    def columns(self) -> dict[str, Any]:
        """One list over the steps for each number, nested as a state is."""
        if self._columns is None:
            self._columns = _columns_of(self._rows or [])
        return self._columns

    @property
    def raw(self) -> list[Mapping[str, Any]]:
        """The states as the agent writes them."""
        if self._rows is None:
            self._rows = [_row(self._columns, i) for i in range(self._length)]
        return self._rows

    @property
    def in_rows(self) -> bool:
        """Whether the agent sent the states one by one, so that `raw` is there at once; else `columns` is."""
        return self._rows is not None

    @property
    def last_seq(self) -> int:
        """The `seq` of the last one.

        Raises:
            IndexError: There are none.
        """
        seq: int = self._rows[-1]["seq"] if self._rows is not None else self._columns["seq"][-1]  # type: ignore[index]
        return seq

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> State: ...
    @overload
    def __getitem__(self, index: slice) -> list[State]: ...
    def __getitem__(self, index: int | slice) -> State | list[State]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if self._rows is not None:
            return State.from_json(self._rows[index])
        if index < 0:
            index += self._length
        if not 0 <= index < self._length:
            raise IndexError(f"there are {self._length} states")
        return State.from_json(_row(self._columns, index))

    def __iter__(self) -> Iterator[State]:
        for i in range(self._length):
            yield self[i]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (States, list)):
            return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))
        return NotImplemented

    def __add__(self, other: Iterable[State]) -> list[State]:
        return [*self, *other]

    def __radd__(self, other: Iterable[State]) -> list[State]:
        return [*other, *self]

    __hash__: None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __repr__(self) -> str:
        if not self._length:
            return "States()"
        return f"States({self._length} from {self[0].time_s:g} s to {self[-1].time_s:g} s)"


def _row(columns: Any, i: int) -> dict[str, Any]:
    return {
        name: column[i]
        if type(column) is list
        else {key: leaf[i] if type(leaf) is list else _row(leaf, i) for key, leaf in column.items()}
        for name, column in columns.items()
    }


def _columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Any] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        columns[name] = _columns_of([value or {} for value in values]) if isinstance(values[0], dict) else values
    if not rows:
        columns = {"seq": [], "time_s": []}
    return columns


@dataclass(frozen=True, slots=True)
class Steps:
    """What is asked for: steps, and the commands before the first of them."""

    n: int | None
    until_s: float | None
    body: bytes
    shifts: bool


class StepBodies:
    """Makes the bodies of requests for steps; those without commands are made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Any, bool], Steps] = {}

    def steps(
        self,
        n: int | None,
        until_s: float | None,
        columns: bool,
        fields: Sequence[str] | None,
        batch_size_by_model: Mapping[str, int] | None,
        ramp_up_rate_by_model: Mapping[str, float] | None,
        lease_s: float | None,
        replica_shifts: Iterable[ReplicaShift],
    ) -> Steps:
        """The request for `n` steps or for those until a time."""
        shifts = tuple(replica_shifts)
        if fields is not None and type(fields) is not tuple:
            if isinstance(fields, str):
                raise ValueError(f"fields: {fields!r} is one text: give a list of names")
            fields = tuple(fields)
        plain = n is not None and not batch_size_by_model and not shifts
        if plain and lease_s is None and not ramp_up_rate_by_model:
            made = self._made.get((n, fields, columns))  # type: ignore[arg-type]
            if made is not None:
                return made
        body = steps_body(
            n=n,
            until_s=until_s,
            batch_size_by_model=batch_size_by_model,
            ramp_up_rate_by_model=ramp_up_rate_by_model,
            lease_s=lease_s,
            replica_shifts=shifts,
            fields=fields,
            columns=columns,
        )
        made = Steps(n, until_s, body, bool(shifts))
        if plain and lease_s is None and not ramp_up_rate_by_model and len(self._made) < 256:
            self._made[(n, fields, columns)] = made  # type: ignore[index]
        return made


_decode = json.JSONDecoder().raw_decode


def states_of(text: bytes) -> States:
    """The states that a message has.

    Raises:
        ApiError: The message is a problem.
        BadAnswer: It is neither.
    """
    try:
        raw, _ = _decode(text.decode())
    except ValueError as err:
        raise BadAnswer(f"the answer to steps is no JSON ({err}); it begins with {text[:40]!r}") from None
    if type(raw) is dict and "seq" not in raw:
        if isinstance(raw.get("status"), int):
            raise error_of(raw["status"], raw)
        raise BadAnswer(f"the answer to steps is neither states nor a problem: it has {sorted(raw)[:10]}")
    return decoded(States, raw, "steps")


def post_steps(asked: Steps) -> Call[States]:
    """The same by POST."""
    return Call("POST", "/v1/steps", States, asked.body)


@dataclass(frozen=True, slots=True)
class Look:
    """Ask `/v1/info`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Again:
    """Nothing of it was done: send it again."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """It was done: its states are the latest so many of the history."""

    n: int


class Place:
    """Where the run stood after the last answer, to know what became of a request whose answer was lost."""

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.steps: int = 0
        self.known: bool = False

    def at(self, info: Info) -> None:
        """The run stands where the agent says."""
        self.run_id, self.steps, self.known = info.run_id, info.steps, True

    def after(self, states: States) -> None:
        """These have been computed."""
        if states:
            self.steps = states.last_seq + 1

    def recover(self, asked: Steps, broken: ConnectionFailed) -> Generator[Look | Pause, Info | None, Again | Fetch]:
        """What became of a request whose connection broke.

        Yields:
            What to do next.

        Returns:
            How to go on.

        Raises:
            ConnectionFailed: Nobody can tell any more.
        """
        if not self.known:
            raise broken
        while True:
            info = yield Look()
            assert info is not None
            if info.run_id != self.run_id:
                raise ConnectionFailed(
                    "the agent was started or reset anew meanwhile: its run is another one"
                ) from broken
            done = info.steps - self.steps
            if done == 0:
                if asked.shifts and asked.n == 0:
                    raise ConnectionFailed(
                        "it is not known whether the shift was carried out: look at models()"
                    ) from broken
                return Again()
            at_end = info.phase == "ended" or (info.total_steps is not None and info.steps >= info.total_steps)
            if asked.n is not None:
                whole = done == asked.n or (at_end and done < asked.n)
                over = done > asked.n
            else:
                whole = at_end or info.time_s > (asked.until_s or 0.0)
                over = False
            if over or (whole and done > info.history_states):
                raise ConnectionFailed(
                    f"the answer was lost, and its states cannot be had any more: {done} steps were computed since"
                ) from broken
            if whole:
                return Fetch(done)
            yield Pause(PARTLY_S)
