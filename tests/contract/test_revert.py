"""Reverting to a snapshot: in place where nothing came after it, and past what clones still need."""

from __future__ import annotations

import pytest

from tests.contract.ground import AUTOSNAP, INITIATOR, MIB, PARENT, PLANTED, PLANTED_BYTES, ROUTE
from tests.contract.test_put_aside import LATER, put_aside
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create
from zolder.api import Storage
from zolder.errors import Busy, InvalidRequest, NotFound, NotPermitted
from zolder.model import Zvol
from zolder.names import SnapshotName, ZvolName
from zolder.properties import Cached, Compression, ZvolProperties

OLDER = SnapshotName("snapshot-0")


def revert(storage: Storage, zvol: Zvol, snapshot: SnapshotName = SNAPSHOT, *, size: int = SIZE) -> Zvol:
    """Revert a zvol, and see that the answer is what is there."""
    change = storage.revert_zvol(PARENT, zvol.name, snapshot, volsize_bytes=size)
    assert change.changed
    assert storage.get_zvol(PARENT, zvol.name) == change.value
    return change.value


def past_a_clone(storage: Storage, *, sparse: bool = True) -> tuple[Zvol, Zvol]:
    """Return a zvol whose snapshot is followed by a deleted one, and the clone that needs that one."""
    source = create(storage, sparse=sparse)
    for name in (OLDER, SNAPSHOT):
        storage.create_snapshot(PARENT, source.name, name)
    return source, clone(storage, source, None)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
def test_in_place(storage: Storage, *, sparse: bool) -> None:
    """A zvol goes back to its newest snapshot, keeps its snapshots and leaves nothing."""
    made = create(storage, sparse=sparse)
    for name in (OLDER, SNAPSHOT):
        storage.create_snapshot(PARENT, made.name, name)
    assert revert(storage, made) == made
    assert put_aside(storage, made) is None
    assert {OLDER, SNAPSHOT} == {
        each.name for each in storage.list_snapshots(PARENT) if each.zvol == made.name
    }


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
def test_past_what_a_clone_needs(storage: Storage, *, sparse: bool) -> None:
    """Past a deleted snapshot that a clone needs, it keeps all that Cinder knows, and the clone its data."""
    source, copy = past_a_clone(storage, sparse=sparse)
    assert revert(storage, source) == source
    kept = put_aside(storage, source)
    assert kept is not None
    assert kept.reverted
    assert kept.holders == (f"{PARENT}/{copy.name}",)
    names = {each.name for each in storage.list_snapshots(PARENT) if each.zvol == source.name}
    assert names == {OLDER, SNAPSHOT}
    assert clone(storage, source, OLDER).origin == f"{PARENT}/{source.name}@{OLDER}"


def test_it_keeps_its_types_properties(storage: Storage) -> None:
    """What a volume's type chose holds after a revert past a clone as before."""
    source, _ = past_a_clone(storage)
    chosen = ZvolProperties(compression=Compression("gzip-9"), primarycache=Cached("metadata"))
    storage.set_zvol_properties(PARENT, source.name, sparse=True, properties=chosen, volblocksize=None)
    assert revert(storage, source).properties == chosen


def test_all_of_it_can_go_afterwards(storage: Storage) -> None:
    """After such a revert everything can be deleted, in the order that hurts most, and nothing is left."""
    source, copy = past_a_clone(storage)
    revert(storage, source)
    for name in (SNAPSHOT, OLDER):
        assert storage.delete_snapshot(PARENT, source.name, name).changed
    assert storage.delete_zvol(PARENT, source.name).changed
    assert put_aside(storage, source) is not None
    storage.delete_zvol(PARENT, copy.name)
    assert put_aside(storage, source) is None


def test_again_and_again(storage: Storage) -> None:
    """A zvol may be reverted past clones more than once, and each of them keeps what it needs."""
    source, first = past_a_clone(storage)
    revert(storage, source)
    second = clone(storage, source, None)
    revert(storage, source)
    aside = [each for each in storage.list_put_aside(PARENT) if each.volume_id == source.volume_id]
    assert len(aside) == 2
    storage.delete_zvol(PARENT, first.name)
    storage.delete_zvol(PARENT, second.name)
    assert put_aside(storage, source) is None
    assert storage.get_zvol(PARENT, source.name) == source


def test_it_keeps_its_size(storage: Storage) -> None:
    """What has grown since the snapshot has the asked size afterwards, both in place and past a clone."""
    for source in (create(storage), past_a_clone(storage)[0]):
        if SNAPSHOT not in {each.name for each in storage.list_snapshots(PARENT) if each.zvol == source.name}:
            storage.create_snapshot(PARENT, source.name, SNAPSHOT)
        storage.grow_zvol(PARENT, source.name, volsize_bytes=SIZE + 8 * MIB)
        assert revert(storage, source, size=SIZE + 8 * MIB).volsize_bytes == SIZE + 8 * MIB


def test_never_smaller(storage: Storage) -> None:
    """A size below the snapshot's is refused."""
    made = create(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    with pytest.raises(InvalidRequest):
        storage.revert_zvol(PARENT, made.name, SNAPSHOT, volsize_bytes=SIZE - MIB)


def test_a_later_snapshot_is_in_the_way(storage: Storage) -> None:
    """A snapshot after it that was not deleted is named, and nothing is destroyed."""
    made = create(storage)
    for name in (SNAPSHOT, LATER):
        storage.create_snapshot(PARENT, made.name, name)
    with pytest.raises(Busy) as refused:
        storage.revert_zvol(PARENT, made.name, SNAPSHOT, volsize_bytes=SIZE)
    assert refused.value.details["holders"] == [f"{PARENT}/{made.name}@{LATER}"]
    assert revert(storage, made, LATER) == made


def test_what_is_exported_is_not_reverted(storage: Storage) -> None:
    """Whoever has it attached would see other data below a file system: refused, with the initiator."""
    made = create(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    storage.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
    with pytest.raises(Busy) as refused:
        storage.revert_zvol(PARENT, made.name, SNAPSHOT, volsize_bytes=SIZE)
    assert refused.value.details["holders"] == [INITIATOR]
    storage.withdraw_zvol(PARENT, made.name, None, attachment=None)
    assert revert(storage, made) == made


def test_what_is_not_there(storage: Storage) -> None:
    """Neither to a snapshot that is absent or deleted, nor of a zvol that is absent."""
    source, _ = past_a_clone(storage)
    clone(storage, source, SNAPSHOT)
    storage.delete_snapshot(PARENT, source.name, SNAPSHOT)
    for zvol, name in ((source.name, SNAPSHOT), (source.name, LATER), (ZvolName("volume-none"), SNAPSHOT)):
        with pytest.raises(NotFound):
            storage.revert_zvol(PARENT, zvol, name, volsize_bytes=SIZE)


def test_what_is_not_ours(storage: Storage) -> None:
    """An administrator's snapshot is nothing to revert to."""
    with pytest.raises(NotPermitted):
        storage.revert_zvol(PARENT, PLANTED, AUTOSNAP, volsize_bytes=PLANTED_BYTES)
