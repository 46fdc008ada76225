"""A request's channel while something else than lines goes over it: a zvol's contents, or a descriptor.

Contents go one way at a time. Their end is told by a frame, so lines go on behind it; where they end in any
other way the channel is of no use any more and is closed (zolder.san.serve). One thread.
"""

from __future__ import annotations

import mmap

from zolder.errors import RemoteProtocolError
from zolder.frames import HEAD_BYTES, MAX_DATA_BYTES, Frame, Kind, decode_head, encode_head
from zolder.san.channel import Channel
from zolder.wire import Notice, Progress


class RequestLine:
    """The channel that a request came over, for as long as it is under way."""

    def __init__(self, channel: Channel, request_id: int) -> None:
        """Carry nothing yet."""
        self._channel = channel
        self._id = request_id
        self._buffer = memoryview(b"")

    def hand_over(self, descriptor: int) -> None:
        """Give the client an open descriptor, which stays the caller's as well.

        :raises BrokenPipeError: it is gone.
        """
        self._channel.write_descriptor(Notice(self._id, "an open device"), descriptor)

    def begin(self) -> None:
        """Tell the client that frames may go; its next bytes are one.

        :raises RemoteProtocolError: it has sent something already.
        """
        # Of whole pages, as what goes past the page cache must be (open(2), O_DIRECT).
        self._buffer = memoryview(mmap.mmap(-1, MAX_DATA_BYTES))
        self._channel.begin_contents(Progress(self._id, 0))

    def read_frame(self) -> Frame:
        """Return the next frame; its data is good until the one after.

        :raises ConnectionLost: the client is gone.
        :raises RemoteProtocolError: what comes is no frame, or nothing comes.
        """
        raw = bytearray(HEAD_BYTES)
        self._channel.read_into(memoryview(raw))
        head = decode_head(bytes(raw))
        data = self._buffer[: head.length_bytes]
        self._channel.read_into(data)
        if head.kind is Kind.DONE:
            self._channel.end_contents()
        return Frame(head.kind, head.offset_bytes, data)

    def read_beginning(self) -> int:
        """Return where the client wants contents to begin.

        :raises ConnectionLost, RemoteProtocolError: as `read_frame`.
        """
        frame = self.read_frame()
        if frame.kind is not Kind.HOLE:
            message = f"contents are asked for by a HOLE, not by {frame.kind.name}"
            raise RemoteProtocolError(message)
        return frame.offset_bytes

    def write_frame(self, frame: Frame) -> None:
        """Send a frame.

        :raises ConnectionLost: the client is gone.
        """
        self._channel.require_listener()
        self._channel.write_contents(encode_head(frame.head), frame.data)
        if frame.kind is Kind.DONE:
            self._channel.end_contents()

    def acknowledge(self, safe_bytes: int) -> None:
        """Tell the client how far its contents lie safe.

        :raises BrokenPipeError: it is gone.
        """
        self._channel.write(Progress(self._id, safe_bytes))

    def require_listener(self) -> None:
        """Make sure that the client still listens.

        :raises ConnectionLost: it does not.
        """
        self._channel.require_listener()
