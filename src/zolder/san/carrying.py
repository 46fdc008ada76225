"""The agent's end of contents: between a request's frames and whatever storage takes or gives them.

A client is told to send only once the zvol is found, locked and open. What it sends is held to the zvol's
size frame by frame (zolder.frames).
"""

from __future__ import annotations

from collections.abc import Iterator

from zolder.api import Contents, ContentsRequests
from zolder.frames import Frame, Sink, Source, Track
from zolder.model import Change
from zolder.names import DatasetName, ZvolName
from zolder.san.requestline import RequestLine


class CarriedContents(ContentsRequests):
    """The two requests, for one that came over a channel."""

    def __init__(self, contents: Contents, line: RequestLine) -> None:
        """Carry between a storage and a client."""
        self._contents = contents
        self._line = line

    def write_zvol(self, parent: DatasetName, zvol: ZvolName, *, resumed: bool) -> Change[None]:
        """See ``ContentsRequests``."""
        return self._contents.write_zvol(parent, zvol, _FromClient(self._line, resumed=resumed))

    def read_zvol(self, parent: DatasetName, zvol: ZvolName) -> int:
        """See ``ContentsRequests``."""
        return self._contents.read_zvol(parent, zvol, _ToClient(self._line))


class _FromClient(Source):
    def __init__(self, line: RequestLine, *, resumed: bool) -> None:
        self._line = line
        self.resumed = resumed

    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        track = Track(limit_bytes)
        self._line.begin()
        while not track.is_done:
            frame = self._line.read_frame()
            track.follow(frame.head)
            yield frame

    def acknowledge(self, offset_bytes: int) -> None:
        self._line.acknowledge(offset_bytes)


class _ToClient(Sink):
    def __init__(self, line: RequestLine) -> None:
        self._line = line

    def begin(self) -> int:
        self._line.begin()
        return self._line.read_beginning()

    def put(self, frame: Frame) -> None:
        self._line.write_frame(frame)
