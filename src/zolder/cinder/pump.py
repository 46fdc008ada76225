"""Carries contents from one SAN to another: what is read of a zvol here is written to one there.

A thread reads, the caller's writes, and a short queue lies between them, so that neither waits for the other
longer than it must. What was written and does not lie safe yet is kept, to be sent once more where a line was
lost: on either side each line is taken up by itself. A failure of one side ends the other with its next
frame, and the first cause is what is raised. Green threads do as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from zolder.cinder.imagefile import Progress
from zolder.errors import ConnectionLost
from zolder.frames import Frame, Kind, Sink, Source

# So many frames, of 1 MiB at most, are read ahead.
_AHEAD: Final = 16
# An agent gives its client up that sends nothing, or reads nothing, for 120 s; so the writer says something
# while nothing is read, and the reader takes its line up anew where nothing is written.
_SILENCE_SECONDS: Final = 30.0
_STUCK_SECONDS: Final = 90.0


def pump(read: Callable[[Sink], object], write: Callable[[Source], object], progress: Progress) -> None:
    """Read into a pipe and write what comes out of it; return once the writer has all of it.

    No thread is left behind: one that waits for its SAN is waited for, at most as long as it waits.

    :raises Exception: what either side raised first.
    """
    pipe = _Pipe(progress)

    def reading() -> None:
        try:
            read(pipe)
        except BaseException as err:  # noqa: BLE001 - it is raised where the thread is waited for
            pipe.end(err)

    reader = threading.Thread(target=reading, name="zolder-pump", daemon=True)
    reader.start()
    try:
        write(pipe)
    except BaseException as err:  # noqa: BLE001 - raised below, unless the reader was first
        pipe.end(err)
    finally:
        reader.join()
    if pipe.cause is not None:
        raise pipe.cause


class _Ended(Exception):
    """The other side has failed."""


class _Pipe(Source, Sink):
    """Frames on their way."""

    def __init__(self, progress: Progress) -> None:
        self.cause: BaseException | None = None
        self._progress = progress
        self._changed = threading.Condition()
        # All frames that do not lie safe; the first few of them were handed on.
        self._frames: deque[Frame] = deque()
        self._handed = 0
        self._position = 0
        self._safe_bytes = 0
        self._carried_bytes = 0

    def end(self, cause: BaseException) -> None:
        """End both sides; the first cause is the one that counts."""
        with self._changed:
            self.cause = self.cause or cause
            self._changed.notify_all()

    def begin(self) -> int:
        """See ``Sink``."""
        with self._changed:
            self._require_open()
            return self._position

    def put(self, frame: Frame) -> None:
        """See ``Sink``; wait while enough is read ahead."""
        # A view of somebody's buffer would change with the next frame.
        kept = Frame(frame.kind, frame.offset_bytes, bytes(frame.data))
        with self._changed:
            taken = self._changed.wait_for(
                lambda: self.cause or len(self._frames) - self._handed < _AHEAD, _STUCK_SECONDS
            )
            self._require_open()
            if not taken:
                message = f"nothing that was read was written for {_STUCK_SECONDS:.0f} s."
                raise ConnectionLost(message)
            self._frames.append(kept)
            self._position = kept.head.end_bytes
            self._changed.notify_all()

    def frames(self, limit_bytes: int) -> Iterator[Frame]:  # noqa: ARG002 - both zvols have one size
        """See ``Source``; wait while nothing has come."""
        with self._changed:
            self._handed = 0
            reached = self._safe_bytes
        while True:
            with self._changed:
                come = self._changed.wait_for(
                    lambda: self.cause or self._handed < len(self._frames), _SILENCE_SECONDS
                )
                self._require_open()
                if come:
                    frame = self._frames[self._handed]
                    self._handed += 1
                    self._carried_bytes += len(frame.data)
                    self._changed.notify_all()
                else:
                    # Says nothing of what lies behind it.
                    frame = Frame(Kind.HOLE, reached)
                reached = frame.head.end_bytes
            yield frame
            if frame.kind is Kind.DONE:
                return

    def acknowledge(self, offset_bytes: int) -> None:
        """See ``Source``; what is acknowledged ends with a frame, and the last one stays."""
        with self._changed:
            self._safe_bytes = offset_bytes
            while self._handed and self._is_safe(self._frames[0], offset_bytes):
                self._frames.popleft()
                self._handed -= 1
        self._progress.reach(offset_bytes, self._carried_bytes)

    @staticmethod
    def _is_safe(frame: Frame, offset_bytes: int) -> bool:
        return frame.kind is not Kind.DONE and frame.head.end_bytes <= offset_bytes

    def _require_open(self) -> None:
        if self.cause is not None:
            raise _Ended from self.cause
