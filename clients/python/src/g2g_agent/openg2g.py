"""The agent as a datacenter of OpenG2G's coordinator (extra `openg2g`).

`AgentDatacenter` takes the place of OpenG2G's `OfflineDatacenter`: the same arguments, the same numbers, less time.
`LiveAgentDatacenter` follows an agent that runs real hardware, or its demo.
"""

from __future__ import annotations

from g2g_agent._live import LiveAgentDatacenter, LiveAgentDatacenterState
from g2g_agent._rarely import RARELY
from g2g_agent._replay import AgentDatacenter, StepsAhead
from g2g_agent._site import AgentWorkload, logistic_models
from g2g_agent._states import AgentDatacenterState

__all__ = [
    "AgentDatacenter",
    "AgentDatacenterState",
    "AgentWorkload",
    "LiveAgentDatacenter",
    "LiveAgentDatacenterState",
    "RARELY",
    "StepsAhead",
    "logistic_models",
]
