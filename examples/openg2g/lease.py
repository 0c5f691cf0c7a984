#!/usr/bin/env python3
"""A controller dies, and its lease brings the site back to safe batch sizes.

    python lease.py [--lease-s 3]

The demo runs. A second process holds small batch sizes under a lease, which it renews
again and again. It is then killed with SIGKILL: nothing of it can tidy up. The agent
notices that the lease is not renewed and returns each model to its failsafe batch size.
Exits 1 if that is not seen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from g2g_agent import Agent, Client


def control(url: str, lease_s: float) -> None:
    """The controller: it holds the smallest batch sizes until it is killed."""
    with Client(url) as client:
        smallest = {label: min(model.feasible_batch_sizes) for label, model in client.models().items()}
        with client.hold(smallest, lease_s=lease_s):
            print("holding", flush=True)
            sys.stdin.read()


def wait_for(what: str, seen: Callable[[], bool], within_s: float) -> None:
    end = time.monotonic() + within_s
    while not seen():
        if time.monotonic() > end:
            raise SystemExit(f"not seen within {within_s:g} s: {what}")
        time.sleep(0.1)


def batch_sizes(client: Client) -> dict[str, int]:
    return dict(client.state().batch_size_by_model)


def show(client: Client, title: str) -> None:
    state = client.state()
    batches = ", ".join(f"{label} {batch}" for label, batch in state.batch_size_by_model.items())
    watts = state.power_w.a + state.power_w.b + state.power_w.c
    print(f"{state.time_s:6.1f} s  {watts / 1e6:.3f} MW  {batches}  ({title})", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lease-s", type=float, default=3.0)
    parser.add_argument("--control", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.control:
        control(args.control, args.lease_s)
        return 0

    with Agent.demo() as agent:
        client = agent.client
        client.wait_ready()
        failsafe = {label: model.failsafe_batch_size for label, model in client.models().items()}
        show(client, "before")

        command = [sys.executable, __file__, "--control", agent.url, "--lease-s", str(args.lease_s)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as controller:
            assert controller.stdout is not None
            if controller.stdout.readline() != "holding\n":
                raise SystemExit("the controller did not start")
            held = {label: min(model.feasible_batch_sizes) for label, model in client.models().items()}
            wait_for("the held batch sizes", lambda: batch_sizes(client) == held, within_s=5)
            show(client, "held")
            time.sleep(2 * args.lease_s)  # twice as long as a lease: it is being renewed
            if batch_sizes(client) != held:
                raise SystemExit("the lease ended though its controller lives")
            show(client, "still held: the lease is being renewed")
            controller.kill()
        print("          the controller was killed", flush=True)

        wait_for("the failsafe", lambda: batch_sizes(client) == failsafe, within_s=args.lease_s + 10)
        show(client, "failsafe")
        time.sleep(2)
        show(client, "the servers are filling up again")
        for event in client.events(n=100):
            if event.topic == "datacenter.batch_size.lease_expired":
                print(f"{event.time_s:6.1f} s  {event.topic}: {dict(event.data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
