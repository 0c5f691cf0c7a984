"""The states of a live agent as they come, kept until a step takes them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from g2g_agent.client import Client
from g2g_agent.errors import AgentError, ConnectionFailed, Unavailable
from g2g_agent.models import NewRun, Skipped
from g2g_agent.state import State

logger = logging.getLogger(__name__)

_RETRY_S = 0.5
# States kept at most while no step takes any.
_KEPT = 100_000


@dataclass
class Counts:
    """What became of a live agent's states.

    Attributes:
        received: States that have come.
        used: States that steps have returned.
        held: Steps that returned the state before once more, since no newer one had come.
        passed_over: States that came and were passed over, because steps were behind.
        missed: States that did not come, by what the agent says.
        runs: How often the agent has begun another run: it was started anew.
    """

    received: int = 0
    used: int = 0
    held: int = 0
    passed_over: int = 0
    missed: int = 0
    runs: int = 0


class Feed:
    """Follows an agent's stream in a thread of its own.

    Args:
        client: A client that is used for nothing else.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ready = threading.Condition()
        self._queue: deque[tuple[State, float, float]] = deque()  # with the time it came, and for how long none had
        self._stopped = False
        self._stream: Any = None
        self._error: AgentError | None = None
        self._arrived = time.monotonic()
        self.counts = Counts()
        self._thread = threading.Thread(target=self._follow, name="g2g-agent-feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following, and wait for the thread's end."""
        with self._ready:
            self._stopped = True
            stream = self._stream
            self._ready.notify_all()
        if stream is not None:
            stream.close()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            try:
                with self._client.stream(skipped="yield") as stream:
                    with self._ready:
                        if self._stopped:
                            return
                        self._stream = stream
                    for item in stream:
                        self._take(item)
            except (ConnectionFailed, Unavailable) as err:
                logger.debug("%s: %s", self._client.url, err)
            except AgentError as err:
                with self._ready:
                    self._error = err
                    self._ready.notify_all()
                    return
            with self._ready:
                self._stream = None
                if self._stopped or self._ready.wait_for(lambda: self._stopped, _RETRY_S):
                    return

    def _take(self, item: State | Skipped | NewRun) -> None:
        now = time.monotonic()
        with self._ready:
            if isinstance(item, Skipped):
                self.counts.missed += item.count
            elif isinstance(item, NewRun):
                self.counts.runs += 1
            else:
                # The first ones are old: they were there when the stream was opened.
                gap_s = 0.0 if self.counts.received == 0 else now - self._arrived
                self._arrived = now
                self.counts.received += 1
                self._queue.append((item, now, gap_s))
                if len(self._queue) > _KEPT:
                    self._queue.popleft()
                    self.counts.passed_over += 1
                self._ready.notify_all()

    @property
    def silent_s(self) -> float:
        """For how long no state has come, in seconds."""
        with self._ready:
            return time.monotonic() - self._arrived

    def wait_fresh(self, gap_s: float, silence_s: float) -> bool:
        """Wait for a state that has just come, and pass over those before.

        Args:
            gap_s: For how long none came before it, in seconds: what comes at once is what had been kept.
            silence_s: As for `wait`.

        Returns:
            Whether there is one.
        """
        with self._ready:
            passed, self._queue = len(self._queue), deque()
            self.counts.passed_over += passed
        while self.wait(silence_s):
            with self._ready:
                if self._queue[-1][2] >= gap_s:
                    while len(self._queue) > 1:
                        self._queue.popleft()
                        self.counts.passed_over += 1
                    return True
                self.counts.passed_over += len(self._queue)
                self._queue.clear()
        return False

    def wait(self, silence_s: float) -> bool:
        """Wait for a state that has not been taken.

        Args:
            silence_s: How long after the last state that has come, or after this call if that is later than the call's
                beginning, to give up, in seconds.

        Returns:
            Whether there is one.

        Raises:
            AgentError: The agent will send no more: it does not permit it.
        """
        with self._ready:
            while not self._queue:
                if self._error is not None:
                    raise self._error
                left_s = self._arrived + silence_s - time.monotonic()
                if left_s <= 0 or self._stopped:
                    return False
                self._ready.wait(left_s)
            return True

    def expect(self) -> None:
        """Count silence from now on."""
        with self._ready:
            self._arrived = time.monotonic()

    def pop(self, *, newest: bool, max_lag_s: float | None) -> tuple[State, float, int] | None:
        """The next state, when it came, and how many were passed over for it.

        Args:
            newest: Pass over all but the newest.
            max_lag_s: Pass over all but the newest if the next one is that much older than it, in seconds.

        Returns:
            None if there is none.
        """
        with self._ready:
            if not self._queue:
                return None
            first, last = self._queue[0][0], self._queue[-1][0]
            behind = max_lag_s is not None and (last.seq < first.seq or last.time_s - first.time_s > max_lag_s)
            passed = 0
            if newest or behind:
                passed = len(self._queue) - 1
                self.counts.passed_over += passed
                while len(self._queue) > 1:
                    self._queue.popleft()
            state, arrived, _ = self._queue.popleft()
            self.counts.used += 1
            return state, arrived, passed
