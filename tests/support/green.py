"""Green threads over a pool of four channels: ``green.py FAULT AGENT FOLDER``; prints a report as JSON.

A process of its own, because eventlet's monkey-patching cannot be taken back. A green thread ticks meanwhile:
the longest pause between two ticks shows whether anything blocked the whole process.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402 - what is patched must be patched before it is used
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402

from zolder.client.channel import new_operation  # noqa: E402
from zolder.client.deadline import Deadline  # noqa: E402
from zolder.client.local import LocalAgent  # noqa: E402
from zolder.client.pool import Pool  # noqa: E402
from zolder.errors import Error  # noqa: E402


def main() -> None:
    """Run the scenario."""
    fault, program, folder = sys.argv[1:]
    spoken = {"noisy": "much_stderr", "dead": "none"}.get(fault, fault)
    pool = Pool(LocalAgent((sys.executable, "-S", "-E", program, spoken, folder)), max_channels=4)
    pauses: list[float] = []
    ticker = eventlet.spawn(tick, pauses)
    if fault == "dead":
        kill_idle_agents(pool)
    # Who waits for a channel that hangs has no time left to open another: no more of them than channels.
    count, seconds = (4, 2) if fault == "hang" else (20, 30)
    tasks = [eventlet.spawn(ask, pool, seconds) for _ in range(count)]
    outcomes = Counter(task.wait() for task in tasks)
    pool.close()
    ticker.kill()
    report = {
        "outcomes": outcomes,
        "connections": pool.connections,
        "longest_pause_seconds": max(pauses),
    }
    sys.stdout.write(json.dumps(report))


def ask(pool: Pool, seconds: float) -> str:
    """Exchange one request and name the outcome."""
    try:
        pool.exchange("get_zvol", new_operation(), {"padding": "x" * 100_000}, Deadline.after(seconds))
    except Error as err:
        return type(err).__name__
    return "answered"


def kill_idle_agents(pool: Pool) -> None:
    """Open channels and kill the agents behind them while nobody looks."""
    for task in [eventlet.spawn(ask, pool, 30) for _ in range(4)]:
        task.wait()
    for idle in pool._idle:
        os.kill(idle.channel._child.pid, 9)
    eventlet.sleep(0.2)


def tick(pauses: list[float]) -> None:
    """Note how long each sleep of 10 ms really took."""
    while True:
        began = time.monotonic()
        eventlet.sleep(0.01)
        pauses.append(time.monotonic() - began)


if __name__ == "__main__":
    main()
