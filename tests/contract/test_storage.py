"""The storage contract, held by every implementation: the fake, a child on a pipe, sshd, real ZFS."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable

import pytest

from tests.contract.ground import (
    AUTOSNAP,
    FOREIGN,
    INITIATOR,
    MIB,
    NEVER_FITS_BYTES,
    OTHER_PARENT,
    PARENT,
    PLANTED,
    ROUTE,
)
from zolder.api import Storage
from zolder.errors import AlreadyExists, Busy, InvalidRequest, NoSpace, NotFound, NotPermitted
from zolder.model import Change, Zvol
from zolder.names import SnapshotName, VolumeId, ZvolName

SIZE = 16 * MIB
SNAPSHOT = SnapshotName("snapshot-1")
_numbers = itertools.count(1)


def new_name() -> ZvolName:
    """Return a zvol name that no other test uses."""
    return ZvolName(f"volume-contract-{next(_numbers)}")


def new_id() -> VolumeId:
    """Return a fresh volume id."""
    return VolumeId(str(uuid.uuid4()))


def create(storage: Storage, *, sparse: bool = True, size: int = SIZE) -> Zvol:
    """Create a zvol under a fresh name."""
    return storage.create_zvol(
        PARENT, new_name(), volume_id=new_id(), volsize_bytes=size, sparse=sparse
    ).value


def clone(
    storage: Storage, source: Zvol, snapshot: SnapshotName | None, *, size: int = SIZE, sparse: bool = True
) -> Zvol:
    """Clone under a fresh name."""
    return storage.clone_zvol(
        PARENT,
        source.name,
        snapshot,
        new_name(),
        volume_id=new_id(),
        volsize_bytes=size,
        sparse=sparse,
    ).value


class TestZvols:
    """Creating, growing, listing and deleting."""

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_create(self, storage: Storage, *, sparse: bool) -> None:
        """What was created is what get_zvol returns."""
        made = create(storage, sparse=sparse)
        assert made.sparse is sparse
        assert storage.get_zvol(PARENT, made.name) == made

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_create_twice(self, storage: Storage, *, sparse: bool) -> None:
        """Asked for the same again, create changes nothing."""
        made = create(storage, sparse=sparse)
        again = storage.create_zvol(
            PARENT, made.name, volume_id=made.volume_id, volsize_bytes=SIZE, sparse=sparse
        )
        assert again == Change(changed=False, value=made)

    def test_create_other_volume(self, storage: Storage) -> None:
        """A name that another volume has is refused."""
        made = create(storage)
        with pytest.raises(AlreadyExists):
            storage.create_zvol(PARENT, made.name, volume_id=new_id(), volsize_bytes=SIZE, sparse=True)

    def test_create_other_size(self, storage: Storage) -> None:
        """The same volume of another size is refused."""
        made = create(storage)
        with pytest.raises(AlreadyExists):
            storage.create_zvol(
                PARENT, made.name, volume_id=made.volume_id, volsize_bytes=2 * SIZE, sparse=True
            )

    @pytest.mark.parametrize("size", [0, -MIB, 1, MIB + 512, 2**62])
    def test_bad_size(self, storage: Storage, size: int) -> None:
        """A size that is no positive multiple of 1 MiB, or absurd, is refused and makes nothing."""
        name = new_name()
        with pytest.raises(InvalidRequest):
            storage.create_zvol(PARENT, name, volume_id=new_id(), volsize_bytes=size, sparse=True)
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, name)

    def test_no_space(self, storage: Storage) -> None:
        """A thick zvol that does not fit is refused with the numbers, and nothing is left of it."""
        name = new_name()
        with pytest.raises(NoSpace) as refused:
            storage.create_zvol(
                PARENT, name, volume_id=new_id(), volsize_bytes=NEVER_FITS_BYTES, sparse=False
            )
        # What points at its blocks, and padding, come on top of its size.
        assert int(str(refused.value.details["needed_bytes"])) >= NEVER_FITS_BYTES
        assert 0 < int(str(refused.value.details["available_bytes"])) < NEVER_FITS_BYTES
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, name)

    def test_other_parent(self, storage: Storage) -> None:
        """A parent that is another identity's is refused."""
        with pytest.raises(NotPermitted):
            storage.create_zvol(OTHER_PARENT, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True)

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_grow(self, storage: Storage, *, sparse: bool) -> None:
        """A zvol grows, stays as sparse or thick as it was, and growing to the same size changes nothing."""
        made = create(storage, sparse=sparse)
        grown = storage.grow_zvol(PARENT, made.name, volsize_bytes=2 * SIZE)
        assert grown.changed
        assert (grown.value.volsize_bytes, grown.value.sparse) == (2 * SIZE, sparse)
        assert storage.get_zvol(PARENT, made.name) == grown.value
        assert not storage.grow_zvol(PARENT, made.name, volsize_bytes=2 * SIZE).changed

    def test_shrink(self, storage: Storage) -> None:
        """A zvol is never shrunk."""
        made = create(storage, size=2 * SIZE)
        with pytest.raises(InvalidRequest):
            storage.grow_zvol(PARENT, made.name, volsize_bytes=SIZE)
        assert storage.get_zvol(PARENT, made.name).volsize_bytes == 2 * SIZE

    def test_grow_no_space(self, storage: Storage) -> None:
        """A thick zvol's growth that does not fit is refused, and the zvol stays as it was."""
        made = create(storage, sparse=False)
        with pytest.raises(NoSpace):
            storage.grow_zvol(PARENT, made.name, volsize_bytes=NEVER_FITS_BYTES)
        assert storage.get_zvol(PARENT, made.name) == made

    def test_grow_absent(self, storage: Storage) -> None:
        """Growing what is not there says so."""
        with pytest.raises(NotFound):
            storage.grow_zvol(PARENT, new_name(), volsize_bytes=SIZE)

    def test_delete(self, storage: Storage) -> None:
        """A deleted zvol is gone, and deleting it again changes nothing."""
        made = create(storage)
        assert storage.delete_zvol(PARENT, made.name).changed
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, made.name)
        assert not storage.delete_zvol(PARENT, made.name).changed

    def test_delete_then_create(self, storage: Storage) -> None:
        """The name of a deleted zvol can be used again."""
        made = create(storage)
        storage.delete_zvol(PARENT, made.name)
        again = storage.create_zvol(
            PARENT, made.name, volume_id=new_id(), volsize_bytes=2 * SIZE, sparse=True
        )
        assert again.changed

    def test_list(self, storage: Storage) -> None:
        """The listing has exactly our zvols, sorted, and none without our mark."""
        made = [create(storage), create(storage)]
        listed = storage.list_zvols(PARENT)
        assert list(listed) == sorted(listed, key=lambda zvol: zvol.name)
        assert set(made) <= set(listed)
        assert FOREIGN not in {zvol.name for zvol in listed}

    def test_figures(self, storage: Storage) -> None:
        """Figures follow create, grow, clone and delete: provisioned is the sum of the volsizes."""
        before = storage.get_figures(PARENT)
        assert before.available_bytes > 0
        made = create(storage)
        storage.grow_zvol(PARENT, made.name, volsize_bytes=3 * SIZE)
        twin = clone(storage, made, None, size=3 * SIZE)
        after = storage.get_figures(PARENT)
        assert after.provisioned_bytes - before.provisioned_bytes == 6 * SIZE
        assert after.zvol_count - before.zvol_count == 2
        storage.delete_zvol(PARENT, twin.name)
        storage.delete_zvol(PARENT, made.name)
        assert storage.get_figures(PARENT).provisioned_bytes == before.provisioned_bytes


class TestForeign:
    """What does not bear our mark is never touched."""

    def test_foreign_zvol(self, storage: Storage) -> None:
        """A zvol without our mark is neither shown, grown, snapshotted, cloned, exported nor deleted."""
        attempts: list[Callable[[], object]] = [
            lambda: storage.get_zvol(PARENT, FOREIGN),
            lambda: storage.grow_zvol(PARENT, FOREIGN, volsize_bytes=NEVER_FITS_BYTES),
            lambda: storage.create_snapshot(PARENT, FOREIGN, SNAPSHOT),
            lambda: storage.delete_zvol(PARENT, FOREIGN),
            lambda: storage.create_zvol(PARENT, FOREIGN, volume_id=new_id(), volsize_bytes=SIZE, sparse=True),
            lambda: storage.clone_zvol(
                PARENT, FOREIGN, None, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
            ),
            lambda: storage.export_zvol(PARENT, FOREIGN, INITIATOR, route=ROUTE, attachment=None, chap=None),
        ]
        for attempt in attempts:
            with pytest.raises(NotPermitted):
                attempt()

    def test_foreign_snapshot_stays(self, storage: Storage) -> None:
        """An administrator's snapshot is not deleted, adopted or cloned; it blocks delete and is named."""
        with pytest.raises(NotPermitted):
            storage.delete_snapshot(PARENT, PLANTED, AUTOSNAP)
        with pytest.raises(AlreadyExists):
            storage.create_snapshot(PARENT, PLANTED, AUTOSNAP)
        with pytest.raises(NotPermitted):
            storage.clone_zvol(
                PARENT, PLANTED, AUTOSNAP, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
            )
        with pytest.raises(Busy) as refused:
            storage.delete_zvol(PARENT, PLANTED)
        assert AUTOSNAP in refused.value.message
        assert storage.get_zvol(PARENT, PLANTED).name == PLANTED


class TestSnapshots:
    """Snapshots and clones."""

    def test_snapshot_twice(self, storage: Storage) -> None:
        """A snapshot asked for again changes nothing; deleted again likewise."""
        made = create(storage)
        assert storage.create_snapshot(PARENT, made.name, SNAPSHOT).changed
        assert not storage.create_snapshot(PARENT, made.name, SNAPSHOT).changed
        assert storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed
        assert not storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed

    def test_snapshot_absent(self, storage: Storage) -> None:
        """A snapshot of what is not there says so; deleting one there changes nothing."""
        with pytest.raises(NotFound):
            storage.create_snapshot(PARENT, new_name(), SNAPSHOT)
        assert not storage.delete_snapshot(PARENT, new_name(), SNAPSHOT).changed

    def test_delete_with_snapshot(self, storage: Storage) -> None:
        """A zvol with a snapshot is not deleted; the snapshot is named."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        with pytest.raises(Busy) as refused:
            storage.delete_zvol(PARENT, made.name)
        assert f"{PARENT}/{made.name}@{SNAPSHOT}" in str(refused.value.details["holders"])
        storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
        assert storage.delete_zvol(PARENT, made.name).changed

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_clone_larger(self, storage: Storage, *, sparse: bool) -> None:
        """A clone of a snapshot may be larger than it, and is as sparse or thick as asked for."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        cloned = clone(storage, made, SNAPSHOT, size=2 * SIZE, sparse=sparse)
        assert storage.get_zvol(PARENT, cloned.name) == cloned
        assert (cloned.volsize_bytes, cloned.sparse) == (2 * SIZE, sparse)
        assert cloned.origin == f"{PARENT}/{made.name}@{SNAPSHOT}"

    def test_clone_smaller(self, storage: Storage) -> None:
        """A clone smaller than its origin is refused and nothing is left of it."""
        made = create(storage, size=2 * SIZE)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        name = new_name()
        for snapshot in (SNAPSHOT, None):
            with pytest.raises(InvalidRequest):
                storage.clone_zvol(
                    PARENT, made.name, snapshot, name, volume_id=new_id(), volsize_bytes=SIZE, sparse=True
                )
        storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
        assert storage.delete_zvol(PARENT, made.name).changed

    @pytest.mark.parametrize("snapshot", [SNAPSHOT, None], ids=["of snapshot", "of zvol"])
    def test_clone_twice(self, storage: Storage, snapshot: SnapshotName | None) -> None:
        """A clone asked for again changes nothing; another volume of that name is refused."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        cloned = clone(storage, made, snapshot)
        again = storage.clone_zvol(
            PARENT,
            made.name,
            snapshot,
            cloned.name,
            volume_id=cloned.volume_id,
            volsize_bytes=SIZE,
            sparse=True,
        )
        assert again == Change(changed=False, value=cloned)
        with pytest.raises(AlreadyExists):
            storage.clone_zvol(
                PARENT, made.name, snapshot, cloned.name, volume_id=new_id(), volsize_bytes=SIZE, sparse=True
            )

    def test_clone_absent(self, storage: Storage) -> None:
        """A clone of a snapshot or a zvol that is not there says so."""
        made = create(storage)
        for source, snapshot in ((made.name, SNAPSHOT), (new_name(), None)):
            with pytest.raises(NotFound):
                storage.clone_zvol(
                    PARENT, source, snapshot, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
                )

    def test_clone_keeps_its_origin(self, storage: Storage) -> None:
        """A snapshot deleted while a clone lives is gone to its clients, and really so with the clone."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        cloned = clone(storage, made, SNAPSHOT)
        assert storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed
        assert not storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed
        with pytest.raises(NotFound):
            clone(storage, made, SNAPSHOT)
        with pytest.raises(AlreadyExists):
            storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        storage.delete_zvol(PARENT, cloned.name)
        assert storage.create_snapshot(PARENT, made.name, SNAPSHOT).changed

    def test_clone_of_zvol_leaves_nothing(self, storage: Storage) -> None:
        """A clone of a zvol as it is now leaves no snapshot behind when it goes."""
        made = create(storage)
        cloned = clone(storage, made, None)
        storage.delete_zvol(PARENT, cloned.name)
        assert storage.delete_zvol(PARENT, made.name).changed
