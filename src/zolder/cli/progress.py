"""Tells whoever waits what takes so long.

It writes to standard error alone, and only of what has lasted some seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

PATIENCE_SECONDS: Final = 3.0


class Progress:
    """Says what is being done once it has lasted a while; called from one thread."""

    def __init__(self, stream: TextIO, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Say it on ``stream``."""
        self._stream = stream
        self._patience_seconds = patience_seconds

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Say what is being done if it lasts, and then how long it took."""
        started = time.monotonic()
        timer = threading.Timer(self._patience_seconds, self._say, (f"zolder: {what} ...",))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        seconds = time.monotonic() - started
        if seconds >= self._patience_seconds:
            self._say(f"zolder: {what}: {seconds:.0f} seconds")

    def _say(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()
