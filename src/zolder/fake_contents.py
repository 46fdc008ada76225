"""The contents of zvols on a SAN in memory, block by block."""

from __future__ import annotations

from zolder.errors import Busy, RemoteProtocolError
from zolder.fake_state import BLOCK_BYTES, FakeState, verb
from zolder.frames import MAX_DATA_BYTES, Frame, Kind, Sink, Source, Track
from zolder.model import Change
from zolder.names import DatasetName, ZvolName, zvol_dataset

# How much is written between two words of how far it lies safe.
_SAFE_EACH_BYTES = 8 * MAX_DATA_BYTES


class FakeContents(FakeState):
    """What is in a zvol. One thread has the whole SAN while contents move."""

    @verb
    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        """See ``Contents``."""
        found = self.get_zvol(parent, zvol)
        initiators = [access.initiator for access in self._exports.attachments(parent) if access.zvol == zvol]
        if initiators:
            message = f"{zvol_dataset(parent, zvol)} may be reached by {', '.join(initiators)}"
            raise Busy(message, holders=[str(name) for name in initiators])
        blocks = self._blocks[zvol_dataset(parent, zvol)]
        if not source.resumed:
            blocks.clear()
        track, safe = Track(found.volsize_bytes), 0
        for frame in source.frames(found.volsize_bytes):
            track.follow(frame.head)
            for start in range(0, len(frame.data), BLOCK_BYTES):
                number = (frame.offset_bytes + start) // BLOCK_BYTES
                blocks[number] = bytes(frame.data[start : start + BLOCK_BYTES])
            if track.is_done or track.position_bytes - safe >= _SAFE_EACH_BYTES:
                safe = track.position_bytes
                source.acknowledge(safe)
        return Change(changed=True, value=None)

    @verb
    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        """See ``Contents``."""
        found = self.get_zvol(parent, zvol)
        begin = sink.begin()
        if begin > found.volsize_bytes:
            message = f"{zvol_dataset(parent, zvol)} has {found.volsize_bytes} bytes: nothing is at {begin}"
            raise RemoteProtocolError(message)
        for number, data in sorted(self._blocks[zvol_dataset(parent, zvol)].items()):
            if number * BLOCK_BYTES >= begin and any(data):
                sink.put(Frame(Kind.DATA, number * BLOCK_BYTES, data))
        sink.put(Frame(Kind.DONE, found.volsize_bytes))
        return found.volsize_bytes
