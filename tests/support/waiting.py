"""The one way in which a test waits: for a condition that has a name, and never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_seconds: float, what: str) -> None:
    """Return once ``condition`` holds.

    :raises AssertionError: it did not hold in time; the message says what did not happen.
    """
    end = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > end:
            message = f"this did not happen within {timeout_seconds} s: {what}"
            raise AssertionError(message)
        time.sleep(0.01)
