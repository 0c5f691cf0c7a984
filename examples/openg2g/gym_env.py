#!/usr/bin/env python3
"""Episodes of a Gymnasium environment on the IEEE 13-bus feeder, with random actions.

    python gym_env.py [--episodes 5] [--duration-s 60]

The setting of OpenG2G's PPO example: batch sizes are the actions, each episode has other
ramps. All episodes share one agent, which a reset brings back to its start in milliseconds.
Put a policy in where the random actions are; `AgentEnv` is an ordinary Gymnasium
environment.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
from g2g_agent.gym import AgentEnv
from g2g_agent.openg2g import AgentDatacenter, AgentWorkload
from openg2g.datacenter.config import ReplicaSchedule

import study

OBSERVED_BUSES = ("632", "671", "675", "680")


def environment(case: study.Study) -> AgentEnv:
    """The site of the closed loop, on its feeder."""
    datacenter = AgentDatacenter(
        study.FACILITY,
        AgentWorkload(
            models=study.MODELS,
            replica_schedules={label: ReplicaSchedule(initial=n) for label, n in study.REPLICAS.items()},
            initial_batch_sizes=dict.fromkeys(study.REPLICAS, study.INITIAL_BATCH_SIZE),
        ),
        name="dc",
        dt_s=study.DT_S,
        power_augmentation=study.AUGMENTATION,
        total_gpu_capacity=study.TOTAL_GPU_CAPACITY,
        data_dir=case.data_dir,
        duration_s=case.duration_s,
        steady_skip_s=study.STEADY_SKIP_S,
    )

    def episode(rng: np.random.Generator) -> dict[str, Any]:
        """Each model ramps to between a third and all of its replicas, at some time."""
        schedules = {}
        for label, n in study.REPLICAS.items():
            start_s = round(float(rng.uniform(0, case.duration_s / 2)), 1)
            target = int(rng.integers(n // 3, n + 1))
            schedules[label] = ReplicaSchedule(initial=n).ramp_to(
                target, t_start=start_s, t_end=start_s + case.duration_s / 4
            )
        return {"replica_schedules": schedules}

    return AgentEnv(
        datacenter,
        duration_s=case.duration_s,
        control_dt_s=study.CONTROL_DT_S,
        grid=case.grid(datacenter),
        buses=OBSERVED_BUSES,
        episode=episode,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--duration-s", type=int, default=60, help="of an episode")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    case = study.Study(args.duration_s)

    env = environment(case)
    try:
        env.action_space.seed(args.seed)
        for episode in range(args.episodes):
            start = time.monotonic()
            env.reset(seed=args.seed if episode == 0 else None)
            reset_s = time.monotonic() - start
            total, steps, over = 0.0, 0, False
            while not over:
                _, reward, terminated, truncated, info = env.step(env.action_space.sample())
                total += reward
                steps += 1
                over = terminated or truncated
            megawatts = info["power_w"].sum() / 1e6
            print(
                f"episode {episode}: reward {total:9.3f} in {steps} actions, {megawatts:.3f} MW at the end, "
                f"{1e3 * reset_s:.0f} ms to reset, {steps / (time.monotonic() - start - reset_s):.0f} actions a second"
            )
    finally:
        env.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
