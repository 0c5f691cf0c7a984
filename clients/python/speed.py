"""How much CPU a step in lockstep costs, the client's and the agent's, of the example's 288 servers.

Run it by `make python-speed`. Processor time is what counts; wall time depends on what else runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

from g2g_agent import Agent, Client

CONFIG = Path(__file__).absolute().parents[2] / "configs" / "replay.yaml"
FIELDS = ("power_w", "power_by_model_w", "batch_size_by_model", "active_replicas_by_model", "observed_itl_s_by_model")
STEPS = 2990


class Cost(NamedTuple):
    """Of one step, in microseconds."""

    client_us: float
    agent_us: float
    wall_us: float


def agent_s(pid: int) -> float:
    """The processor time that a process has taken, in seconds, to the nanosecond (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def run(client: Client, pid: int, n: int, fields: tuple[str, ...] | None, look: bool) -> Cost:
    """Steps through the replay, n steps a request, and looks at each state if it is to."""
    client.reset()
    client.step(n, fields=fields)
    cpu, agent, wall = time.process_time(), agent_s(pid), time.perf_counter()
    done = 0
    while done + n <= STEPS:
        states = client.step(n, fields=fields)
        if look:
            for state in states:
                assert state.power_w.a > 0
        done += len(states)
    spent = time.process_time() - cpu, agent_s(pid) - agent, time.perf_counter() - wall
    return Cost(*(1e6 * seconds / done for seconds in spent))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", help="the agent's program; found as the package finds it if not given")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; the median counts")
    arguments = parser.parse_args()
    options = {} if arguments.binary is None else {"binary": arguments.binary}
    print("µs a step                                    client   agent     sum    wall")
    with Agent.replay(CONFIG, **options) as agent:
        for n in (1, 10):
            for name, fields, look in (
                ("all members", None, False),
                ("what OpenG2G needs (fields)", FIELDS, False),
                ("all members, as State objects", None, True),
            ):
                costs = [run(agent.client, agent.process.pid, n, fields, look) for _ in range(arguments.rounds)]
                client, spent, wall = (statistics.median(column) for column in zip(*costs, strict=True))
                print(f"{n:2} a request, {name:30} {client:7.1f} {spent:7.1f} {client + spent:7.1f} {wall:7.1f}")


if __name__ == "__main__":
    main()
