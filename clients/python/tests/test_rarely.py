"""How often Python collects garbage while runs are under way."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from g2g_agent._rarely import RARELY, Rarely, Run


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_full_collections_are_rarer_until_the_last_run_ends() -> None:
    rarely = Rarely()
    rarely.begin()
    assert gc.get_threshold() == (700, 10, 500)
    rarely.begin()
    rarely.end()
    assert gc.get_threshold() == (700, 10, 500)
    rarely.end()
    assert gc.get_threshold() == (700, 10, 10)


def test_what_somebody_else_has_set_meanwhile_stays() -> None:
    rarely = Rarely()
    rarely.begin()
    gc.set_threshold(1, 2, 3)
    rarely.end()
    assert gc.get_threshold() == (1, 2, 3)


def test_it_can_be_switched_off() -> None:
    rarely = Rarely()
    rarely.enabled = False
    rarely.begin()
    assert gc.get_threshold() == (700, 10, 10)
    rarely.end()
    assert gc.get_threshold() == (700, 10, 10)


def test_a_run_begins_and_ends_once() -> None:
    run, other = Run(), Run()
    run.begin()
    run.begin()
    other.begin()
    run.end()
    run.end()
    assert gc.get_threshold() == (700, 10, 500)
    other.end()
    assert gc.get_threshold() == (700, 10, 10)


def test_a_run_ends_that_nobody_stopped() -> None:
    class Datacenter:
        def __init__(self) -> None:
            self.run = Run()
            weakref.finalize(self, self.run.end)

    datacenter = Datacenter()
    datacenter.run.begin()
    assert gc.get_threshold() == (700, 10, 500)
    # As when the collector finds it while another run begins.
    with RARELY._lock:
        del datacenter
    assert gc.get_threshold() == (700, 10, 10)
