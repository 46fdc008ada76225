"""Pumps under eventlet's monkey-patching, as cinder-volume does; prints whether the copy is whole.

A process of its own, because the patching cannot be taken back.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402 - what is patched must be patched before it is used
import threading  # noqa: E402

from eventlet import patcher  # noqa: E402

from tests.driver.test_pump import COUNT, SIZE, Copy, Zvol  # noqa: E402
from zolder.cinder.imagefile import Progress  # noqa: E402
from zolder.cinder.pump import pump  # noqa: E402


def main() -> None:
    """Carry one zvol while another green thread counts its turns."""
    turns = [0]

    def tick() -> None:
        while True:
            turns[0] += 1
            eventlet.sleep(0)

    ticker = eventlet.spawn(tick)
    zvol, copy = Zvol((7,)), Copy((9, 33))
    pump(zvol.read, copy.write, Progress("it", SIZE))
    ticker.kill()
    assert patcher.is_monkey_patched("thread")
    assert threading.active_count() == 1
    sys.stdout.write(f"{len(copy.safe) == COUNT} {turns[0] > 1}")


if __name__ == "__main__":
    main()
