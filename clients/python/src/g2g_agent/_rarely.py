"""Spares long runs most of Python's garbage collection."""

from __future__ import annotations

import gc
import threading

__all__ = ["RARELY", "Rarely"]

_TIMES = 50


class Rarely:
    """Makes full garbage collections rarer while runs are under way.

    A run keeps every state, so that the collector looks through all objects of the program again and again, those of
    imported libraries too, and finds nothing: a third of the time of OpenG2G's closed loop with the agent, and pauses
    of a tenth of a second in live runs. Young objects are collected as always, and so is all by `gc.collect()`.

    Attributes:
        enabled: Whether runs that begin from now on do this.
    """

    def __init__(self) -> None:
        self.enabled = True
        # Reentrant: a datacenter that the collector finds while this is held ends its run here, too.
        self._lock = threading.RLock()
        self._runs = 0
        self._before: tuple[int, int, int] | None = None
        self._set: tuple[int, int, int] | None = None

    def begin(self) -> None:
        """A run begins."""
        with self._lock:
            self._runs += 1
            if self._runs == 1 and self.enabled:
                self._before = gc.get_threshold()
                self._set = (*self._before[:2], _TIMES * self._before[2])
                gc.set_threshold(*self._set)

    def end(self) -> None:
        """A run is over."""
        with self._lock:
            self._runs -= 1
            if self._runs == 0 and self._before is not None:
                if gc.get_threshold() == self._set:  # nobody else has changed it meanwhile
                    gc.set_threshold(*self._before)
                self._before = self._set = None


class Run:
    """Whether a datacenter's run is under way, which holds for all of the program."""

    def __init__(self) -> None:
        self._on = False

    def begin(self) -> None:
        """The run begins, if it has not."""
        if not self._on:
            self._on = True
            RARELY.begin()

    def end(self) -> None:
        """The run is over, if it has begun."""
        if self._on:
            self._on = False
            RARELY.end()


RARELY = Rarely()
"""That of all datacenters of this program."""
