"""What is followed over a WebSocket, without sockets: where to go on after a break, and what a message means."""

from __future__ import annotations

import json
import random
import warnings
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

from g2g_agent._core import MAX_RETRY_AFTER_S, decoded, query
from g2g_agent.errors import ApiError, BadAnswer, ConnectionFailed, RateLimited, StatesSkipped, Unavailable
from g2g_agent.models import Event, Info, NewRun, Skipped
from g2g_agent.state import State

SkippedPolicy = Literal["raise", "warn", "yield"]

SILENCE_S = 65.0
"""The agent pings every 20 s: one that has said nothing for longer than this is gone."""

FIRST_RETRY_S, MAX_RETRY_S = 0.1, 1.0
"""Before the first attempt to connect again, and the longest before any: a live controller is blind meanwhile."""

ALL_KEPT = 9007199254740991
"""As `after`: a number that no run reaches, of which the agent sends all states that it keeps."""

T = TypeVar("T")


class Follower(Protocol[T]):
    """What `Stream` and `AsyncStream` need to know of what they follow."""

    def path(self, info: Info) -> str:
        """What to open, to go on after what is known."""
        ...

    @property
    def checked(self) -> bool:
        """Whether the agent must be looked at again once it is open, for `missed`."""
        ...

    def missed(self, info: Info) -> bool:
        """Whether what has been opened is not what was thought, and must be opened again."""
        ...

    def take(self, text: bytes) -> list[T | Skipped | NewRun]:
        """What a message has."""
        ...

    def may_be_over(self) -> bool:
        """Whether nothing may come any more, so that the agent is to be asked."""
        ...


class States:
    """Follows `/v1/stream`: each state once and in order, and `Skipped` where that is not possible."""

    def __init__(self, after: int | None) -> None:
        self.run_id: str | None = None
        self._after = after
        self._seq: int | None = after
        self._total_steps: int | None = None
        self._told = 0  # of states missing before the next

    def path(self, info: Info) -> str:
        """What to open, to go on after the last state."""
        self._total_steps = info.total_steps if info.pace == "real_time" else None
        if info.run_id is None:
            return "/v1/stream"
        if self.run_id is None:
            self.run_id = info.run_id
        after = self._seq
        if after is None:
            # From the latest state on; steps that come before it is open are not missed.
            after = info.steps - 2 if info.steps >= 2 and info.run_id == self.run_id else ALL_KEPT
        return query("/v1/stream", after=after, run=self.run_id)

    checked = False

    def missed(self, info: Info) -> bool:
        """Never: the agent itself tells of another run."""
        return False

    def take(self, text: bytes) -> list[State | Skipped | NewRun]:
        """The state of a message, and what is to be told before it."""
        raw = _object(text)
        if "seq" not in raw:
            return self._notice(raw)
        state = decoded(State.from_json, raw, "the stream of states")
        last, told = self._seq, self._told
        if last is not None and state.seq <= last:
            return []  # it came before the break
        self._seq, self._told = state.seq, 0
        # Counted here and not taken from the notice: it is what this reader misses.
        missing = told if last is None else state.seq - last - 1
        return [Skipped(missing), state] if missing > 0 else [state]

    def _notice(self, raw: Mapping[str, Any]) -> list[State | Skipped | NewRun]:
        if isinstance(raw.get("skipped"), int):
            self._told += raw["skipped"]
            return []
        run_id = raw.get("run_id")
        if not isinstance(run_id, str):
            return []  # of a kind that this version does not know
        if run_id == self.run_id:
            return []
        told, self._told = self._told, 0
        self.run_id, self._seq = run_id, -1
        return [Skipped(told), NewRun(run_id)] if told else [NewRun(run_id)]

    def may_be_over(self) -> bool:
        """After the last step of a run that has one."""
        return self._total_steps is not None and self._seq is not None and self._seq + 1 >= self._total_steps


class Events:
    """Follows `/v1/events`: each event once and in order."""

    def __init__(self, after: int | None) -> None:
        self._id = after
        self._started_at: datetime | None = None
        self._told = 0

    def path(self, info: Info) -> str:
        """What to open, to go on after the last event."""
        if self._started_at is None:
            self._started_at = info.started_at
        elif self._started_at != info.started_at:
            self._started_at, self._id = info.started_at, None  # ids begin anew
        return query("/v1/events", follow="true", after=self._id)

    checked = True

    def missed(self, info: Info) -> bool:
        """Whether the agent was started anew between the look at it and the opening."""
        return self._started_at != info.started_at

    def take(self, text: bytes) -> list[Event | Skipped | NewRun]:
        """The event of a message, and what is to be told before it."""
        raw = _object(text)
        if "id" not in raw:
            if isinstance(raw.get("skipped"), int):
                self._told += raw["skipped"]
            return []
        event = decoded(Event.from_json, raw, "the stream of events")
        if self._id is not None and event.id <= self._id:
            return []
        told, self._told = self._told, 0
        self._id = event.id
        return [Skipped(told), event] if told else [event]

    def may_be_over(self) -> bool:
        """Never: commands may come after the last step."""
        return False


def _object(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError as err:
        raise BadAnswer(f"a message of the stream is no JSON ({err}); it begins with {text[:40]!r}") from None
    if not isinstance(raw, dict):
        raise BadAnswer(f"a message of the stream is no JSON object; it begins with {text[:40]!r}")
    return raw


NOTHING = object()


class Inbox(Generic[T]):
    """What has come and has not been taken, and what to do where something is missing."""

    def __init__(self, policy: SkippedPolicy) -> None:
        if policy not in ("raise", "warn", "yield"):
            raise ValueError(f'skipped: {policy!r} is none of "raise", "warn", "yield"')
        self.skipped = 0
        self._policy = policy
        self._items: deque[T | Skipped | NewRun] = deque()

    def put(self, items: list[T | Skipped | NewRun]) -> None:
        """These have come."""
        self._items.extend(items)

    def take(self) -> Any:
        """The next item, or `NOTHING`.

        Raises:
            StatesSkipped: Some are missing here.
        """
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Skipped):
                self.skipped += item.count
                if self._policy == "raise":
                    raise StatesSkipped(item.count)
                if self._policy == "warn":
                    # The caller of next(), behind this and the stream's own.
                    warnings.warn(f"{item.count} states or events are missing here", stacklevel=3)
                    continue
            elif isinstance(item, NewRun) and self._policy != "yield":
                continue
            return item
        return NOTHING


class Retry:
    """How long to wait before the next attempt to connect, and when to give up."""

    def __init__(self, reconnect: bool | float) -> None:
        self._for_s = float("inf") if reconnect is True else float(reconnect)
        self._since_s: float | None = None
        self._wait_s = FIRST_RETRY_S

    def connected(self) -> None:
        """A message has come."""
        self._since_s, self._wait_s = None, FIRST_RETRY_S

    def after(self, error: ConnectionFailed | ApiError, now_s: float) -> float:
        """How long to wait, in seconds.

        Raises:
            ConnectionFailed, ApiError: It is no use, or has taken too long.
        """
        asked_s = None
        if isinstance(error, ApiError):
            if not isinstance(error, (RateLimited, Unavailable)):
                raise error
            asked_s = error.retry_after_s
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s >= self._for_s:
            raise error
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, MAX_RETRY_S)
        return min(asked_s, MAX_RETRY_AFTER_S) if asked_s else wait_s * random.uniform(0.5, 1.0)
