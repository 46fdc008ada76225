"""The lab's one poll loop.

Whoever waits for something that gives no event calls `wait_until`; nobody else sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lab.errors import TimedOut

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None], timeout_seconds: float, what: str, *, interval_seconds: float = 0.05
) -> T:
    """Call a condition until it answers something true, and return that.

    :param what: what is waited for, for the error: "san to answer over ssh".
    :raises TimedOut: when it did not come true in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimedOut(f"waited {timeout_seconds:g} s for {what}, in vain")
        time.sleep(interval_seconds)
