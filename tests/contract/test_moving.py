"""Zvols that get another parent, within a zpool and across: the fake, a child on a pipe, sshd, real ZFS."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.ground import FAST, FOREIGN, INITIATOR, MIB, MORE, OTHER_PARENT, PARENT, ROUTE
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_id, new_name
from tests.support.memory import MemorySink, MemorySource, random_bytes, whole
from zolder.api import Storage
from zolder.errors import AlreadyExists, Busy, NoSpace, NotFound, NotPermitted
from zolder.model import Change, Zvol
from zolder.names import DatasetName, VolumeId, ZvolName, arriving_name
from zolder.properties import BlockSize, Compression, ZvolProperties

PIECES = {0: random_bytes(8192, 1), 7 * MIB: random_bytes(MIB + 4096, 2), SIZE - 4096: random_bytes(4096, 3)}
WHOLE = whole(PIECES, SIZE)


@pytest.fixture(scope="module")
def storage(carried_storage: Storage) -> Storage:
    """Each implementation in turn, each of whose channels reaches the same SAN."""
    return carried_storage


@pytest.fixture(params=[MORE, FAST], ids=["within the zpool", "to another zpool"])
def to(request: pytest.FixtureRequest) -> DatasetName:
    """A parent of the same identity that the zvol is not in yet."""
    parent: DatasetName = request.param
    return parent


def move(
    storage: Storage,
    zvol: Zvol,
    to: DatasetName,
    *,
    name: ZvolName | None = None,
    volume_id: VolumeId | None = None,
) -> Change[Zvol]:
    """Move a zvol, which keeps its name and its mark unless others are given."""
    return storage.move_zvol(
        zvol.parent, zvol.name, to=to, name=name or zvol.name, volume_id=volume_id or zvol.volume_id
    )


def contents(storage: Storage, zvol: Zvol) -> bytes:
    """Return all that is in a zvol."""
    sink = MemorySink()
    storage.read_zvol(zvol.parent, zvol.name, sink)
    return bytes(sink.contents)


def written(storage: Storage, *, sparse: bool = True) -> Zvol:
    """Return a zvol with the pieces in it."""
    made = create(storage, sparse=sparse)
    storage.write_zvol(PARENT, made.name, MemorySource(PIECES))
    return made


def is_there(storage: Storage, zvol: Zvol) -> bool:
    """Say whether there is such a zvol."""
    return zvol in storage.list_zvols(zvol.parent)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
def test_it_is_there_and_no_longer_here(storage: Storage, to: DatasetName, *, sparse: bool) -> None:
    """A zvol has its size, thickness and contents at its new place, and its old one is empty."""
    made = written(storage, sparse=sparse)
    moved = move(storage, made, to)
    assert moved == Change(changed=True, value=replace(made, parent=to))
    assert storage.get_zvol(to, made.name) == moved.value
    assert contents(storage, moved.value) == WHOLE
    assert not is_there(storage, made)
    with pytest.raises(NotFound):
        storage.get_zvol(PARENT, made.name)
    assert storage.delete_zvol(to, made.name).changed


def test_there_and_back(storage: Storage, to: DatasetName) -> None:
    """A zvol that came back is what it was, and may go again."""
    made = written(storage)
    for _ in range(2):
        assert move(storage, move(storage, made, to).value, PARENT).value == made
    assert contents(storage, made) == WHOLE


def test_asked_twice(storage: Storage, to: DatasetName) -> None:
    """Where the zvol is at its new place already nothing changes."""
    made = create(storage)
    moved = move(storage, made, to)
    assert move(storage, made, to) == replace(moved, changed=False)


@pytest.mark.parametrize("place", [PARENT, MORE, FAST])
def test_another_name_and_mark(storage: Storage, place: DatasetName) -> None:
    """It gets the name and the mark that are asked for, at another parent or where it is."""
    made, name, volume_id = written(storage), new_name(), new_id()
    moved = move(storage, made, place, name=name, volume_id=volume_id).value
    assert moved == replace(made, parent=place, name=name, volume_id=volume_id)
    assert storage.get_zvol(place, name) == moved
    assert contents(storage, moved) == WHOLE


def test_only_with_the_mark_that_is_said(storage: Storage, to: DatasetName) -> None:
    """Where a mark is given that it must bear, it moves with that one, and as a repeat, but with no other."""
    made, volume_id = create(storage), new_id()

    def asked(former: VolumeId) -> Change[Zvol]:
        return storage.move_zvol(PARENT, made.name, to=to, name=made.name, volume_id=volume_id, former=former)

    with pytest.raises(AlreadyExists, match=f"is marked as volume {made.volume_id}"):
        asked(new_id())
    assert is_there(storage, made)
    assert asked(made.volume_id).value.volume_id == volume_id
    assert not asked(made.volume_id).changed


def test_its_properties_go_along(storage: Storage, to: DatasetName) -> None:
    """What it has of its own it has there, and its volblocksize stays."""
    properties = ZvolProperties(compression=Compression("zstd-3"))
    made = storage.create_zvol(
        PARENT,
        new_name(),
        volume_id=new_id(),
        volsize_bytes=SIZE,
        sparse=True,
        properties=properties,
        volblocksize=BlockSize("64k"),
    ).value
    assert move(storage, made, to).value.properties == properties
    kept = storage.set_zvol_properties(
        to, made.name, sparse=True, properties=properties, volblocksize=BlockSize("64k")
    )
    assert not kept.changed


def test_snapshots_go_along_within_a_zpool(storage: Storage) -> None:
    """Its snapshots are its own at its new place, and clones of them keep their origin."""
    made = written(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    cloned = clone(storage, made, SNAPSHOT)
    move(storage, made, MORE)
    assert storage.get_zvol(PARENT, cloned.name).origin == f"{MORE}/{made.name}@{SNAPSHOT}"
    assert contents(storage, cloned) == WHOLE
    assert not storage.create_snapshot(MORE, made.name, SNAPSHOT).changed
    assert storage.delete_snapshot(MORE, made.name, SNAPSHOT).changed
    assert storage.delete_zvol(MORE, made.name).changed
    assert contents(storage, cloned) == WHOLE


def test_snapshots_keep_it_in_its_zpool(storage: Storage) -> None:
    """With snapshots that were not deleted it goes to no other zpool; they are named."""
    made = written(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    with pytest.raises(Busy, match=str(SNAPSHOT)):
        move(storage, made, FAST)
    assert is_there(storage, made)
    assert made.name not in [one.name for one in storage.list_zvols(FAST)]


def test_what_clones_need_stays(storage: Storage) -> None:
    """A zvol whose deleted snapshot has a clone is put aside where it was; the clone is as before."""
    made = written(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    cloned = clone(storage, made, SNAPSHOT)
    storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
    moved = move(storage, made, FAST).value
    assert contents(storage, moved) == contents(storage, cloned) == WHOLE
    assert [item.volume_id for item in storage.list_put_aside(PARENT)] == [made.volume_id]
    storage.delete_zvol(PARENT, cloned.name)
    assert storage.list_put_aside(PARENT) == ()


def test_a_clone_moves(storage: Storage, to: DatasetName) -> None:
    """A clone goes like any other, and what it was cloned from is free of it in another zpool alone."""
    made = written(storage)
    cloned = clone(storage, made, None)
    moved = move(storage, cloned, to).value
    assert moved.origin == (cloned.origin if to == MORE else None)
    assert contents(storage, moved) == WHOLE
    assert storage.delete_zvol(to, moved.name).changed
    assert storage.delete_zvol(PARENT, made.name).changed
    assert storage.list_put_aside(PARENT) == ()


def test_the_place_is_taken(storage: Storage, to: DatasetName) -> None:
    """Where something has the name already nothing is moved, and what is there stays."""
    made, other = create(storage), create(storage)
    there = move(storage, other, to).value
    with pytest.raises(AlreadyExists):
        move(storage, made, to, name=other.name)
    assert is_there(storage, made)
    assert is_there(storage, there)
    with pytest.raises(AlreadyExists):
        move(storage, made, PARENT, name=FOREIGN)


def test_in_use(storage: Storage, to: DatasetName) -> None:
    """A zvol that an initiator may reach stays where it is."""
    made = create(storage)
    storage.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
    with pytest.raises(Busy):
        move(storage, made, to)
    storage.withdraw_zvol(PARENT, made.name, INITIATOR, attachment=None)
    assert move(storage, made, to).changed


def test_a_snapshot_of_it_is_read(storage: Storage) -> None:
    """While an initiator may read a snapshot of it, it stays where it is."""
    made, view_id = create(storage), new_id()
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    storage.export_snapshot(
        PARENT, made.name, SNAPSHOT, INITIATOR, view_id=view_id, route=ROUTE, attachment=None, chap=None
    )
    with pytest.raises(Busy):
        move(storage, made, MORE)
    storage.withdraw_snapshot(PARENT, view_id, None, attachment=None)
    assert move(storage, made, MORE).changed


def test_nothing_is_there(storage: Storage, to: DatasetName) -> None:
    """What is proven absent at both places is said to be so."""
    with pytest.raises(NotFound):
        storage.move_zvol(PARENT, new_name(), to=to, name=new_name(), volume_id=new_id())


def test_not_ours(storage: Storage, to: DatasetName) -> None:
    """What bears no mark, an agent's own name and another identity's parent are refused."""
    made = create(storage)
    with pytest.raises(NotPermitted):
        storage.move_zvol(PARENT, FOREIGN, to=to, name=new_name(), volume_id=new_id())
    for name in (arriving_name(made.name), ZvolName("zolder-deleted-1")):
        with pytest.raises(NotPermitted):
            move(storage, made, to, name=name)
    with pytest.raises(NotPermitted):
        move(storage, made, OTHER_PARENT)
    assert is_there(storage, made)


def test_no_room(storage: Storage) -> None:
    """A thick zvol that does not fit into the other zpool stays, and leaves nothing there."""
    room = storage.get_figures(FAST).available_bytes
    filler = storage.create_zvol(
        FAST, new_name(), volume_id=new_id(), volsize_bytes=(room - 40 * MIB) // MIB * MIB, sparse=False
    ).value
    made = create(storage, sparse=False, size=64 * MIB)
    before = storage.list_zvols(FAST)
    with pytest.raises(NoSpace):
        move(storage, made, FAST)
    assert is_there(storage, made)
    assert storage.list_zvols(FAST) == before
    storage.delete_zvol(FAST, filler.name)
    assert move(storage, made, FAST).changed


def test_guids(storage: Storage) -> None:
    """Each parent has a guid of its own, 16 hex digits that stay."""
    guids = [storage.get_guid(parent) for parent in (PARENT, MORE, FAST)]
    assert len(set(guids)) == len(guids)
    assert all(len(guid) == 16 and int(guid, 16) for guid in guids)
    assert guids == [storage.get_guid(parent) for parent in (PARENT, MORE, FAST)]
