"""Batch sizes that are held as long as the controller lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from g2g_agent.errors import AgentError
from g2g_agent.models import BatchSizeAnswer, Info, Model

__all__ = ["Hold"]

RENEWALS_A_LEASE = 3
RETRY_S = 1.0
"""The longest wait before the next attempt when a renewal has failed."""

_log = logging.getLogger("g2g_agent")


class Commands(Protocol):
    """What a hold needs of a client."""

    def set_batch_size(
        self, batch_size_by_model: Mapping[str, int], *, lease_s: float | None = None
    ) -> BatchSizeAnswer:
        """As `Client.set_batch_size`."""
        ...

    def info(self) -> Info:
        """As `Client.info`."""
        ...

    def models(self) -> dict[str, Model]:
        """As `Client.models`."""
        ...

    def close(self) -> None:
        """As `Client.close`."""
        ...


def renewal_limits(timeout_s: float, lease_s: float) -> tuple[float, int]:
    """Timeout and attempts of one renewal: no longer than until the next, which is the next attempt."""
    return min(timeout_s, max(lease_s / RENEWALS_A_LEASE, 1.0)), 1


class Lease:
    """What is held, and how it goes.

    Attributes:
        failures: Renewals that have failed.
        error: Why the last renewal failed; None if it did not.
        lapses: How often the lease had run out before it was renewed.
        answer: The answer to the last command that succeeded.
    """

    answer: BatchSizeAnswer

    def __init__(self, batch_size_by_model: Mapping[str, int], lease_s: float) -> None:
        if not lease_s > 0:
            raise ValueError(f"lease_s: {lease_s} is not above 0")
        self.failures: int = 0
        self.error: AgentError | None = None
        self.lapses: int = 0
        self._sizes = dict(batch_size_by_model)
        self._lease_s = lease_s
        self._renewed_s: float | None = None
        self._before: dict[str, int] = {}

    @property
    def batch_size_by_model(self) -> dict[str, int]:
        """What is held, in requests."""
        return dict(self._sizes)

    def _begins(self, info: Info, models: dict[str, Model] | None) -> None:
        if info.pace == "lockstep":
            raise ValueError("hold: in lockstep leases count the replay's seconds: give lease_s to step()")
        if models is not None:
            self._before = {label: model.batch_size for label, model in models.items()}

    def _answered(self, answer: BatchSizeAnswer) -> None:
        self.answer = answer

    def _to_restore(self) -> dict[str, int]:
        """What ran before, of the models that were held."""
        return {label: size for label, size in self._before.items() if label in self._sizes}

    def _took(self, sizes: dict[str, int], sent_s: float, answer: BatchSizeAnswer) -> None:
        # From when it was sent, not answered: the earliest that the lease can have begun.
        if self._renewed_s is not None and time.monotonic() - self._renewed_s > self._lease_s:
            self.lapses += 1
        self._sizes, self._renewed_s, self.answer, self.error = sizes, sent_s, answer, None

    def _failed(self, error: AgentError) -> float:
        """Notes a failure; how long to wait before the next attempt, in seconds."""
        self.failures += 1
        self.error = error
        _log.warning("lease of %s not renewed: %s", ", ".join(self._sizes), error)
        return min(self._interval_s, RETRY_S)

    @property
    def _interval_s(self) -> float:
        return self._lease_s / RENEWALS_A_LEASE


class Hold(Lease):
    """Batch sizes under a lease that a thread renews. Made by `Client.hold`.

    When this program dies, the lease runs out, and the models return to their failsafe batch sizes. A renewal that
    fails is tried again, through restarts of the agent too, until the hold is closed.
    """

    def __init__(
        self,
        client: Commands,
        renewing: Commands,
        batch_size_by_model: Mapping[str, int],
        *,
        lease_s: float,
        restore: bool,
        on_failure: Callable[[AgentError], object] | None,
    ) -> None:
        super().__init__(batch_size_by_model, lease_s)
        self._client = client
        self._renewing = renewing
        self._on_failure = on_failure
        self._begins(client.info(), client.models() if restore else None)
        self._commanding = threading.Lock()  # over what is held, so that a renewal cannot undo a newer command
        self._closed = threading.Event()
        sent_s = time.monotonic()
        self._took(self._sizes, sent_s, client.set_batch_size(self._sizes, lease_s=lease_s))
        self._thread = threading.Thread(target=self._renew, name="g2g-agent-hold", daemon=True)
        self._thread.start()

    def set(self, batch_size_by_model: Mapping[str, int]) -> BatchSizeAnswer:
        """Holds these from now on; models left out are held as they are.

        Raises:
            ApiError: As for `Client.set_batch_size`; what is held stays as it was.
        """
        with self._commanding:
            sizes = {**self._sizes, **batch_size_by_model}
            sent_s = time.monotonic()
            answer = self._client.set_batch_size(sizes, lease_s=self._lease_s)
            self._took(sizes, sent_s, answer)
            return answer

    def _renew(self) -> None:
        wait_s = self._interval_s
        while not self._closed.wait(wait_s):
            with self._commanding:
                if self._closed.is_set():
                    return
                sent_s = time.monotonic()
                try:
                    answer = self._renewing.set_batch_size(self._sizes, lease_s=self._lease_s)
                    self._took(self._sizes, sent_s, answer)
                    wait_s = self._interval_s
                    continue
                except AgentError as err:
                    if self._closed.is_set():
                        return
                    wait_s, failure = self._failed(err), err
            if self._on_failure is not None:
                try:
                    self._on_failure(failure)
                except Exception:  # the lease must be renewed, whatever the caller's function does
                    _log.exception("on_failure failed")

    def close(self) -> None:
        """Stops renewing: the lease runs out, or, with `restore`, what ran before is commanded without one.

        Raises:
            AgentError: With `restore`: that failed. The lease runs out all the same.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._renewing.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if before := self._to_restore():
            self._answered(self._client.set_batch_size(before))

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
