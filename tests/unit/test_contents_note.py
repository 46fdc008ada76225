"""What stands on a zvol of the operation that writes it, and what a repeat, a rest and a stranger get."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.support.memory import MemorySource, random_bytes
from tests.unit.kept_san import ALICE, DATASET, PARENT, POLICY, ROUTE, ZVOL, KeptSan, access
from zolder.errors import Busy, ConnectionLost
from zolder.model import Change
from zolder.names import DatasetName, OperationId, ZvolName
from zolder.san.libzfs import CONTENTS_NOTE, Property
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.root import Root
from zolder.san.storage import ZfsStorage

SIZE = 2**20
FIRST = OperationId("00000000-0000-4000-8000-00000000000a")
SECOND = OperationId("00000000-0000-4000-8000-00000000000b")


class Listener:
    """A client that is there."""

    def require_listener(self) -> None:
        """Be there."""


class Bench:
    """A SAN whose one zvol has a file for its device; it notes what is cleared."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Have a device full of data."""
        self.san = KeptSan(folder)
        self.san.install(patch)
        self.device = folder / "device"
        self.device.write_bytes(b"\xff" * SIZE)
        self.cleared = 0
        patch.setattr(fcntl, "ioctl", self._clear)

    def storage(self, operation: OperationId) -> ZfsStorage:
        """Return the verbs of one operation."""
        bench = self

        class FilesRoot(Root):
            def open_device(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> int:
                assert (parent, zvol, to_write) == (PARENT, ZVOL, True)
                return os.open(bench.device, os.O_RDWR)

        under_way = Operation(
            operation,
            seconds=20,
            peer_is_there=lambda: True,
            notify=lambda _: None,
            line=Listener(),  # type: ignore[arg-type]  # all that is asked of it here
        )
        root = FilesRoot(POLICY, under_way, Locks(self.device.parent / "locks"), site=self.san.site)
        return ZfsStorage(POLICY, under_way, root, self.san.site)

    def write(self, operation: OperationId, data: bytes, *, resumed: bool = False) -> Change[None]:
        """Write the zvol's beginning."""
        source = MemorySource({0: data})
        source.resumed = resumed
        return self.storage(operation).write_zvol(PARENT, ZVOL, source)

    @property
    def note(self) -> str | None:
        """What stands on the zvol."""
        found = self.san.zfs.datasets[DATASET].get(CONTENTS_NOTE)
        return str(found.value) if found else None

    def _clear(self, descriptor: int, request: int, argument: bytes) -> bytes:
        del request
        self.cleared += 1
        os.pwrite(descriptor, bytes(SIZE), 0)
        return argument


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One zvol."""
    return Bench(tmp_path, monkeypatch)


class Cut(MemorySource):
    """A source whose client is gone after its first piece."""

    def frames(self, limit_bytes: int):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as the one above
        for frame in super().frames(limit_bytes):
            yield frame
            message = "gone"
            raise ConnectionLost(message)


DATA = random_bytes(8192)


def test_a_whole_write(bench: Bench) -> None:
    """The zvol is cleared once and says whose contents it has."""
    assert bench.write(FIRST, DATA) == Change(changed=True, value=None)
    assert bench.cleared == 1
    assert bench.note == f"{FIRST} written"
    assert bench.device.read_bytes() == DATA.ljust(SIZE, b"\0")


def test_a_repeat_of_one_that_ended(bench: Bench) -> None:
    """An answer that was lost is answered again, and nothing is written or cleared."""
    bench.write(FIRST, DATA)
    for resumed in (True, False):
        assert bench.write(FIRST, b"\xee" * 4096, resumed=resumed) == Change(changed=False, value=None)
    assert bench.cleared == 1
    assert bench.device.read_bytes() == DATA.ljust(SIZE, b"\0")


@pytest.mark.parametrize("resumed", [True, False])
def test_one_that_was_cut_goes_on(bench: Bench, *, resumed: bool) -> None:
    """Cleared before, it is not cleared again, whether the client heard of that or not."""
    with pytest.raises(ConnectionLost):
        bench.storage(FIRST).write_zvol(PARENT, ZVOL, Cut({4096: DATA}))
    assert bench.note == f"{FIRST} begun"
    assert bench.write(FIRST, b"\xee" * 4096, resumed=resumed).changed
    assert bench.cleared == 1
    assert bench.device.read_bytes() == (b"\xee" * 4096 + DATA).ljust(SIZE, b"\0")
    assert bench.note == f"{FIRST} written"


def test_one_that_was_overtaken(bench: Bench) -> None:
    """When another has written the zvol since, the first writes nothing any more, however late it comes."""
    with pytest.raises(ConnectionLost):
        bench.storage(FIRST).write_zvol(PARENT, ZVOL, Cut({0: b"\xee" * 8192}))
    bench.write(SECOND, DATA)
    with pytest.raises(Busy, match="written by another operation meanwhile"):
        bench.write(FIRST, b"\xee" * 8192, resumed=True)
    assert bench.device.read_bytes() == DATA.ljust(SIZE, b"\0")
    assert bench.note == f"{SECOND} written"


def test_another_begins_anew(bench: Bench) -> None:
    """What one left half written is cleared for the next."""
    with pytest.raises(ConnectionLost):
        bench.storage(FIRST).write_zvol(PARENT, ZVOL, Cut({65536: b"\xee" * 8192}))
    bench.write(SECOND, DATA)
    assert bench.cleared == 2
    assert bench.device.read_bytes() == DATA.ljust(SIZE, b"\0")


@pytest.mark.parametrize(
    "note",
    [
        Property(f"{FIRST} written", str(PARENT)),
        Property(f"{FIRST} written", None),
        Property(f"{FIRST}", DATASET),
        Property("written", DATASET),
        Property(f"{FIRST} finished", DATASET),
        Property(f"{FIRST} written twice", DATASET),
        Property(7, DATASET),
    ],
    ids=str,
)
def test_what_is_no_note(bench: Bench, note: Property) -> None:
    """What a clone inherited, and what Zolder did not write, keeps nothing from being written."""
    bench.san.zfs.datasets[DATASET][CONTENTS_NOTE] = note
    assert bench.write(FIRST, DATA).changed
    assert bench.note == f"{FIRST} written"


def test_a_zvol_that_fails_to_be_cleared_has_no_note(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note comes behind the clearing: a kill between them clears once more, and never too little."""

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(Exception, match="refused to clear"):
        bench.write(FIRST, DATA)
    assert bench.note is None


def test_an_exported_zvol(bench: Bench) -> None:
    """Root does not open it, so not even its clearing begins."""
    bench.san.storage().export_zvol(
        PARENT, ZVOL, ALICE, route=ROUTE, attachment=access().attachment, chap=None
    )
    with pytest.raises(Busy) as refused:
        bench.san.root().open_device(PARENT, ZVOL, to_write=True)
    assert refused.value.details["holders"] == [ALICE]
