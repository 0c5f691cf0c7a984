"""Fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake import Fake
from g2g_agent import Agent, Client
from sides import Loop, asynchronous

ROOT = Path(__file__).absolute().parents[3]
CONFIG = ROOT / "configs" / "replay.yaml"
MODELS = ["Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"]


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        yield server


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, loop: Loop) -> Iterator[Callable[..., Any]]:
    """Makes a client, of either kind, that is closed at the end."""
    made = []

    def make(*args: Any, **kwargs: Any) -> Any:
        client = Client(*args, **kwargs) if request.param == "sync" else asynchronous(loop, *args, **kwargs)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program. The tests that need it are skipped without it, unless G2GTEST_REQUIRE_TOOLS=1."""
    path = Path(os.environ.get("G2G_AGENT_BINARY", ROOT / "bin" / "g2g-agent")).absolute()
    if not os.access(path, os.X_OK):
        reason = f"{path} is missing: run `make build`"
        pytest.fail(reason) if os.environ.get("G2GTEST_REQUIRE_TOOLS") == "1" else pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def shared_replay(binary: Path) -> Iterator[Agent]:
    with Agent.replay(CONFIG, binary=binary) as agent:
        yield agent


@pytest.fixture
def replay(shared_replay: Agent) -> Agent:
    """A replay in lockstep that has not stepped."""
    shared_replay.client.reset()
    return shared_replay


@pytest.fixture(scope="session")
def demo(binary: Path) -> Iterator[Agent]:
    """A live run on simulated hosts, which is warm."""
    with Agent.demo(binary=binary) as agent:
        agent.client.wait_ready()
        yield agent


@pytest.fixture(scope="session")
def replay_config() -> Path:
    return CONFIG
