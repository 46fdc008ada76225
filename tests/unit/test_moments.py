"""Reading what is in use: through a clone of its own, which a lost line keeps and every other end removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.memory import MemorySink
from tests.unit.ending_san import begin
from tests.unit.kept_san import ALICE, DATASET, ID, PARENT, POLICY, ROUTE, ZVOL
from tests.unit.kernel_tree import Killed
from tests.unit.test_copies import ZfsThatSnapshots, install
from zolder.errors import BackendError, ConnectionLost
from zolder.frames import Frame
from zolder.names import DatasetName, OperationId, ZvolName, clone_origin, read_name
from zolder.san.libzfs import VIEW_MARK
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.root import Root
from zolder.san.storage import ZfsStorage

SIZE = 2**20
FIRST = OperationId("00000000-0000-4000-8000-00000000000a")
SECOND = OperationId("00000000-0000-4000-8000-00000000000b")
CLONE = f"{PARENT}/{read_name(FIRST)}"


class Reading:
    """A SAN whose one zvol is exported, and which notes what is opened."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Export it."""
        self.san = begin(folder / "san", patch)
        known, self.san.zfs = self.san.zfs, ZfsThatSnapshots(self.san.steps)
        self.san.zfs.datasets = known.datasets
        install(self.san, patch)
        self.device = folder / "device"
        self.device.write_bytes(b"\xff" * SIZE)
        self.opened: list[str] = []
        self.san.storage().export_zvol(PARENT, ZVOL, ALICE, route=ROUTE, attachment=None, chap=None)
        self.before = set(self.san.zfs.datasets)

    def storage(self, operation: OperationId) -> ZfsStorage:
        """Return the verbs of one operation."""
        reading = self

        class FilesRoot(Root):
            def open_device(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> int:
                assert (parent, to_write) == (PARENT, False)
                reading.opened.append(zvol)
                return os.open(reading.device, os.O_RDONLY)

        under_way = Operation(operation, seconds=20, peer_is_there=lambda: True, notify=lambda _: None)
        root = FilesRoot(POLICY, under_way, Locks(self.device.parent / "locks"), site=self.san.site)
        return ZfsStorage(POLICY, under_way, root, self.san.site)

    def left(self) -> set[str]:
        """Return what there is beside what there was."""
        return set(self.san.zfs.datasets) - self.before


class Ending(MemorySink):
    """A sink that ends with an error."""

    def __init__(self, error: Exception) -> None:
        """Raise it at the first frame."""
        super().__init__()
        self._error = error

    def put(self, frame: Frame) -> None:  # noqa: ARG002 - the interface's
        """See ``Sink``."""
        raise self._error


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reading:
    """One zvol in use."""
    return Reading(tmp_path, monkeypatch)


def test_through_a_clone(reading: Reading) -> None:
    """It is read whole through a clone that bears a view's mark, and nothing is left."""
    seen: list[set[str]] = []

    class Looking(MemorySink):
        def put(self, frame: Frame) -> None:
            seen.append(reading.left())
            super().put(frame)

    sink = Looking()
    assert reading.storage(FIRST).read_zvol(PARENT, ZVOL, sink) == SIZE
    assert sink.contents == b"\xff" * SIZE
    assert reading.opened == [read_name(FIRST)]
    assert seen[0] == {CLONE, clone_origin(PARENT, ZVOL, FIRST)}
    assert reading.left() == set()


def test_one_that_nobody_may_reach(reading: Reading) -> None:
    """It is read directly: no step is taken."""
    reading.san.storage().withdraw_zvol(PARENT, ZVOL, None, attachment=None)
    reading.san.steps.start()
    reading.storage(FIRST).read_zvol(PARENT, ZVOL, MemorySink())
    assert reading.opened == [ZVOL]
    assert reading.san.steps.taken == []


def test_a_line_that_is_lost(reading: Reading) -> None:
    """The same operation goes on with its clone; another that wants to go on is told to begin anew."""
    with pytest.raises(ConnectionLost):
        reading.storage(FIRST).read_zvol(PARENT, ZVOL, Ending(ConnectionLost("gone")))
    assert reading.san.zfs.datasets[CLONE][VIEW_MARK].value == FIRST
    with pytest.raises(BackendError, match="read it from its beginning"):
        reading.storage(SECOND).read_zvol(PARENT, ZVOL, MemorySink(SIZE // 2))
    assert reading.left() == {CLONE, clone_origin(PARENT, ZVOL, FIRST)}
    reading.storage(FIRST).read_zvol(PARENT, ZVOL, MemorySink(SIZE // 2))
    assert reading.left() == set()


def test_detached_since_the_line_was_lost(reading: Reading) -> None:
    """What was begun through a clone does not go on without one."""
    with pytest.raises(ConnectionLost):
        reading.storage(FIRST).read_zvol(PARENT, ZVOL, Ending(ConnectionLost("gone")))
    reading.san.storage().withdraw_zvol(PARENT, ZVOL, None, attachment=None)
    with pytest.raises(BackendError, match="read it from its beginning"):
        reading.storage(FIRST).read_zvol(PARENT, ZVOL, MemorySink(SIZE // 2))


def test_another_end(reading: Reading) -> None:
    """What fails otherwise leaves nothing."""
    with pytest.raises(BackendError):
        reading.storage(FIRST).read_zvol(PARENT, ZVOL, Ending(BackendError("no")))
    assert reading.left() == set()


@pytest.mark.parametrize("step", range(3))
def test_killed_and_counted_away(reading: Reading, step: int) -> None:
    """Of a kill at any step the figures, or whoever deletes the zvol, leave nothing."""
    reading.san.steps.start(kill_at=step)
    with pytest.raises(Killed):
        reading.storage(FIRST).read_zvol(PARENT, ZVOL, MemorySink())
    reading.san.steps.start()
    reading.san.storage().get_figures(PARENT)
    assert CLONE not in reading.left()
    assert ID in str(reading.san.zfs.datasets[DATASET])


def test_one_that_is_being_read_stays(reading: Reading) -> None:
    """The figures take no clone away whose reader is at work."""

    class Counting(MemorySink):
        def put(self, frame: Frame) -> None:
            reading.san.storage().get_figures(PARENT)
            assert CLONE in reading.left()
            super().put(frame)

    reading.storage(FIRST).read_zvol(PARENT, ZVOL, Counting())
    assert reading.left() == set()
