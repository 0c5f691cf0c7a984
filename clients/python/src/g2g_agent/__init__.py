"""Reads, commands and runs g2g-agent."""

from __future__ import annotations

from g2g_agent import errors
from g2g_agent._version import __version__
from g2g_agent.aio import AsyncClient
from g2g_agent.binary import find_binary
from g2g_agent.client import Client
from g2g_agent.errors import AgentError, ApiError, ConnectionFailed
from g2g_agent.lockstep import States
from g2g_agent.models import (
    BatchSizeAnswer,
    Event,
    Health,
    Info,
    Model,
    NewRun,
    ReplicaShift,
    ReplicaShiftAnswer,
    Skipped,
)
from g2g_agent.process import Agent
from g2g_agent.state import State, ThreePhase

__all__ = [
    "Agent",
    "AgentError",
    "ApiError",
    "AsyncClient",
    "BatchSizeAnswer",
    "Client",
    "ConnectionFailed",
    "Event",
    "Health",
    "Info",
    "Model",
    "NewRun",
    "ReplicaShift",
    "ReplicaShiftAnswer",
    "Skipped",
    "State",
    "States",
    "ThreePhase",
    "__version__",
    "errors",
    "find_binary",
]
