"""A zvol's contents as binary frames, in order, without I/O (docs/protocol.md, "Contents").

A frame is a head of 16 bytes and, where it carries data, that data. What no frame carries is zeros. A frame
has a largest size, so neither side's memory depends on the other; each lies behind the one before and within
the zvol, so a stream says its own position and can be taken up again from any. Who sends anything else has
broken the protocol.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from zolder.errors import LocalProtocolError, RemoteProtocolError

MAX_DATA_BYTES: Final = 2**20
# What each offset and length is a multiple of: no zvol has smaller blocks that a disk can be written by.
ALIGNMENT_BYTES: Final = 4096
# How far a stream of zeros goes on without a word.
LONGEST_SILENCE_BYTES: Final = 256 * 2**20

_HEAD: Final = struct.Struct(">4sIQ")
HEAD_BYTES: Final = _HEAD.size


class Kind(Enum):
    """What a frame says."""

    DATA = b"DATA"  # data at an offset
    HOLE = b"HOLE"  # all up to an offset is zeros, as far as no frame before has said otherwise
    DONE = b"DONE"  # the same, and nothing follows


class Head(NamedTuple):
    """What stands before a frame's data."""

    kind: Kind
    length_bytes: int
    offset_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where the frame ends."""
        return self.offset_bytes + self.length_bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. A view of a buffer as its data is good until the next frame is asked for."""

    kind: Kind
    offset_bytes: int
    data: bytes | memoryview = b""

    @property
    def head(self) -> Head:
        """What goes before the data."""
        return Head(self.kind, len(self.data), self.offset_bytes)


class Source(ABC):
    """What is to be written to a zvol."""

    # Whether its beginning was acknowledged before: then nothing of the zvol is cleared.
    resumed: bool = False

    @abstractmethod
    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        """Yield all behind what was acknowledged, in order; the last is ``DONE``.

        :param limit_bytes: the zvol's size.
        """

    @abstractmethod
    def acknowledge(self, offset_bytes: int) -> None:
        """Take note that all up to an offset lies safe in the zvol."""


class Sink(ABC):
    """What a zvol's contents are read into."""

    @abstractmethod
    def begin(self) -> int:
        """Return where to begin: all before it is here already."""

    @abstractmethod
    def put(self, frame: Frame) -> None:
        """Take the next frame; the last is ``DONE``, at the zvol's size."""


class Track:
    """Where a stream is, to which each frame is held."""

    def __init__(self, limit_bytes: int, position_bytes: int = 0) -> None:
        """Begin at a position of something that has a size."""
        self._limit = limit_bytes
        self.position_bytes = position_bytes
        self.is_done = False

    def follow(self, head: Head) -> None:
        """Go on to a frame's end.

        :raises RemoteProtocolError: it lies before the last one's end or beyond the limit, or behind the end.
        """
        if self.is_done or not self.position_bytes <= head.offset_bytes <= head.end_bytes <= self._limit:
            message = (
                f"a {head.kind.name} of {head.length_bytes} bytes at {head.offset_bytes} does not lie"
                f" between {self.position_bytes} and {self._limit}"
            )
            raise RemoteProtocolError(message)
        self.position_bytes = head.end_bytes
        self.is_done = head.kind is Kind.DONE


def encode_head(head: Head) -> bytes:
    """Return a head as bytes.

    :raises LocalProtocolError: no such frame may be sent.
    """
    fault = _fault(head)
    if fault:
        raise LocalProtocolError(fault)
    return _HEAD.pack(head.kind.value, head.length_bytes, head.offset_bytes)


def decode_head(data: bytes | memoryview) -> Head:
    """Read a head.

    :param data: ``HEAD_BYTES`` of them.
    :raises RemoteProtocolError: it is none.
    """
    word, length_bytes, offset_bytes = _HEAD.unpack(data)
    try:
        head = Head(Kind(word), length_bytes, offset_bytes)
    except ValueError as err:
        message = f"{word!a} begins no frame"
        raise RemoteProtocolError(message) from err
    fault = _fault(head)
    if fault:
        raise RemoteProtocolError(fault)
    return head


def _fault(head: Head) -> str | None:
    if head.offset_bytes % ALIGNMENT_BYTES or head.length_bytes % ALIGNMENT_BYTES:
        return f"a frame at {head.offset_bytes} of {head.length_bytes} bytes is not of whole blocks"
    fits = 0 < head.length_bytes <= MAX_DATA_BYTES if head.kind is Kind.DATA else head.length_bytes == 0
    return None if fits else f"a {head.kind.name} may not have {head.length_bytes} bytes"
