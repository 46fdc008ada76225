"""What is in a zvol, written and read over a channel: the fake, a child on a pipe, sshd, real ZFS."""

from __future__ import annotations

import pytest

from tests.contract.ground import FOREIGN, INITIATOR, MIB, OTHER_PARENT, PARENT, ROUTE
from tests.contract.test_storage import SIZE, create, new_id, new_name
from tests.support.memory import MemorySink, MemorySource, random_bytes, whole
from zolder.api import Storage
from zolder.errors import Busy, NotFound, NotPermitted, RemoteProtocolError
from zolder.model import Change
from zolder.names import ZvolName

# The last block, one block, more than a frame that begins within one, and the first block.
PIECES = {
    0: random_bytes(4096, 1),
    5 * MIB - 8192: random_bytes(2 * MIB + 12288, 2),
    9 * MIB: random_bytes(4096, 3),
    SIZE - 4096: random_bytes(4096, 4),
}
WHOLE = whole(PIECES, SIZE)


@pytest.fixture(scope="module")
def storage(carried_storage: Storage) -> Storage:
    """Each implementation in turn, each of whose channels reaches the same SAN."""
    return carried_storage


def read(storage: Storage, zvol: ZvolName, position: int = 0) -> MemorySink:
    """Return what is in a zvol."""
    sink = MemorySink(position)
    assert storage.read_zvol(PARENT, zvol, sink) == len(sink.contents)
    return sink


class TestWriting:
    """Contents to a zvol."""

    def test_write_and_read(self, storage: Storage) -> None:
        """What was written is what is read, and the holes between are zeros."""
        made = create(storage)
        source = MemorySource(PIECES)
        assert storage.write_zvol(PARENT, made.name, source) == Change(changed=True, value=None)
        assert read(storage, made.name).contents == WHOLE
        assert source.acknowledged[-1] == SIZE

    def test_nothing_of_before_is_left(self, storage: Storage) -> None:
        """What a zvol had before shines through no hole of what is written over it."""
        made = create(storage)
        storage.write_zvol(PARENT, made.name, MemorySource({0: random_bytes(SIZE, 9)}))
        storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        assert read(storage, made.name).contents == WHOLE

    def test_write_nothing(self, storage: Storage) -> None:
        """Contents without data make a zvol of zeros."""
        made = create(storage)
        storage.write_zvol(PARENT, made.name, MemorySource({0: random_bytes(MIB)}))
        storage.write_zvol(PARENT, made.name, MemorySource({}))
        sink = read(storage, made.name)
        assert sink.contents == bytes(SIZE)
        assert sink.data_bytes == 0

    def test_a_clone_s_source_is_untouched(self, storage: Storage) -> None:
        """Written over, a clone is what was written, and its source what it was."""
        source = create(storage)
        storage.write_zvol(PARENT, source.name, MemorySource(PIECES))
        cloned = storage.clone_zvol(
            PARENT, source.name, None, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
        ).value
        storage.write_zvol(PARENT, cloned.name, MemorySource({MIB: random_bytes(MIB, 8)}))
        assert read(storage, source.name).contents == WHOLE
        assert read(storage, cloned.name).contents == whole({MIB: random_bytes(MIB, 8)}, SIZE)

    def test_beyond_the_end(self, storage: Storage) -> None:
        """Contents that are larger than the zvol are refused."""
        made = create(storage)
        with pytest.raises(RemoteProtocolError):
            storage.write_zvol(PARENT, made.name, MemorySource({SIZE - MIB: random_bytes(2 * MIB)}))

    def test_one_that_is_exported(self, storage: Storage) -> None:
        """A zvol that somebody may reach is not written, and who that is is said."""
        made = create(storage)
        storage.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
        with pytest.raises(Busy) as refused:
            storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        assert refused.value.details["holders"] == [INITIATOR]
        storage.withdraw_zvol(PARENT, made.name, None, attachment=None)
        storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        assert read(storage, made.name).contents == WHOLE

    def test_refused(self, storage: Storage) -> None:
        """What is absent, another's or not ours is neither written nor read."""
        for parent, zvol, error in (
            (PARENT, new_name(), NotFound),
            (PARENT, FOREIGN, NotPermitted),
            (OTHER_PARENT, new_name(), NotPermitted),
        ):
            with pytest.raises(error):
                storage.write_zvol(parent, zvol, MemorySource(PIECES))
            with pytest.raises(error):
                storage.read_zvol(parent, zvol, MemorySink())


class TestReading:
    """Contents from a zvol."""

    def test_zeros_are_left_out(self, storage: Storage) -> None:
        """What is read of a zvol costs no more than its data and a grain around each."""
        made = create(storage)
        storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        data = sum(len(piece) for piece in PIECES.values())
        assert read(storage, made.name).data_bytes <= data + 2 * len(PIECES) * 64 * 1024

    def test_from_a_position(self, storage: Storage) -> None:
        """What is there already is not read again."""
        made = create(storage)
        storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        sink = read(storage, made.name, 6 * MIB)
        assert sink.contents == bytes(6 * MIB) + WHOLE[6 * MIB :]

    def test_from_behind_the_end(self, storage: Storage) -> None:
        """To begin behind the end is refused."""
        made = create(storage)
        with pytest.raises(RemoteProtocolError, match="nothing is at"):
            storage.read_zvol(PARENT, made.name, MemorySink(SIZE + MIB))

    def test_one_that_is_exported(self, storage: Storage) -> None:
        """A zvol that somebody may reach is read all the same."""
        made = create(storage)
        storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
        storage.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
        assert read(storage, made.name).contents == WHOLE
        storage.withdraw_zvol(PARENT, made.name, None, attachment=None)
