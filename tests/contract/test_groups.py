"""Snapshots of several zvols at one moment, held by every implementation of the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.ground import AUTOSNAP, FOREIGN, OTHER_PARENT, PARENT, PLANTED
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_name
from zolder.api import Storage
from zolder.errors import AlreadyExists, InvalidRequest, NotFound, NotPermitted
from zolder.model import Change, Zvol, ZvolSnapshot
from zolder.names import DatasetName, SnapshotName

OTHER = SnapshotName("snapshot-2")


def members(*zvols: Zvol, name: SnapshotName = SNAPSHOT) -> tuple[ZvolSnapshot, ...]:
    """Return what is to be taken of these zvols."""
    return tuple(ZvolSnapshot(PARENT, zvol.name, name) for zvol in zvols)


def of_ours(storage: Storage, *zvols: Zvol) -> list[ZvolSnapshot]:
    """Return the snapshots that these zvols have."""
    names = {zvol.name for zvol in zvols}
    return [found for found in storage.list_snapshots(PARENT) if found.zvol in names]


def test_all_are_taken(storage: Storage) -> None:
    """Each zvol has its own snapshot, under its own name, and each of them can be cloned."""
    one, two = create(storage), create(storage, sparse=False)
    wanted = (ZvolSnapshot(PARENT, two.name, OTHER), ZvolSnapshot(PARENT, one.name, SNAPSHOT))
    assert storage.create_snapshots(PARENT, wanted) == Change(changed=True, value=wanted)
    assert set(of_ours(storage, one, two)) == set(wanted)
    assert clone(storage, one, SNAPSHOT).origin == f"{PARENT}/{one.name}@{SNAPSHOT}"
    assert clone(storage, two, OTHER).volsize_bytes == SIZE


def test_asked_twice(storage: Storage) -> None:
    """The repeat changes nothing, in whatever order the zvols are named."""
    one, two = create(storage), create(storage)
    storage.create_snapshots(PARENT, members(one, two))
    assert storage.create_snapshots(PARENT, members(two, one)) == Change(
        changed=False, value=members(two, one)
    )
    assert len(of_ours(storage, one, two)) == 2


def test_one_alone(storage: Storage) -> None:
    """A group may have one member."""
    one = create(storage)
    assert storage.create_snapshots(PARENT, members(one)).changed
    assert storage.delete_snapshot(PARENT, one.name, SNAPSHOT).changed


def test_some_are_there(storage: Storage) -> None:
    """Where some exist the others are not added, for they would be of another moment."""
    one, two = create(storage), create(storage)
    storage.create_snapshot(PARENT, one.name, SNAPSHOT)
    with pytest.raises(AlreadyExists, match=f"{one.name}@"):
        storage.create_snapshots(PARENT, members(one, two))
    assert of_ours(storage, two) == []


def test_all_are_there_of_two_moments(storage: Storage) -> None:
    """Snapshots that were taken one after the other are no repeat of a request that wants one moment."""
    one, two = create(storage), create(storage)
    storage.create_snapshot(PARENT, one.name, SNAPSHOT)
    storage.create_snapshot(PARENT, two.name, SNAPSHOT)
    with pytest.raises(AlreadyExists):
        storage.create_snapshots(PARENT, members(one, two))


def test_one_was_deleted(storage: Storage) -> None:
    """A member that was deleted and waits for its clone to go is not taken for what is asked for."""
    one, two = create(storage), create(storage)
    storage.create_snapshots(PARENT, members(one, two))
    cloned = clone(storage, one, SNAPSHOT)
    storage.delete_snapshot(PARENT, one.name, SNAPSHOT)
    with pytest.raises(AlreadyExists):
        storage.create_snapshots(PARENT, members(one, two))
    storage.delete_zvol(PARENT, cloned.name)
    with pytest.raises(AlreadyExists, match=f"{two.name}@"):
        storage.create_snapshots(PARENT, members(one, two))


def test_one_is_not_there(storage: Storage) -> None:
    """Where a zvol is absent none of the others is snapshotted."""
    one = create(storage)
    with pytest.raises(NotFound):
        storage.create_snapshots(PARENT, (*members(one), ZvolSnapshot(PARENT, new_name(), SNAPSHOT)))
    assert of_ours(storage, one) == []


def test_one_is_not_ours(storage: Storage) -> None:
    """A zvol without our mark, or a snapshot of that name without it, keeps all from being taken."""
    one = create(storage)
    with pytest.raises(NotPermitted):
        storage.create_snapshots(PARENT, (*members(one), ZvolSnapshot(PARENT, FOREIGN, SNAPSHOT)))
    with pytest.raises(AlreadyExists, match=AUTOSNAP):
        storage.create_snapshots(PARENT, (*members(one), ZvolSnapshot(PARENT, PLANTED, AUTOSNAP)))
    assert of_ours(storage, one) == []


def test_what_can_never_be(storage: Storage) -> None:
    """No zvol at all, one twice and another zpool's are refused, and so is another identity's parent."""
    one = create(storage)
    twice = (*members(one), *members(one, name=OTHER))
    for wanted in ((), members(one) * 2, twice):
        with pytest.raises(InvalidRequest):
            storage.create_snapshots(PARENT, wanted)
    for parent in (OTHER_PARENT, DatasetName("elsewhere/volumes")):
        with pytest.raises(NotPermitted):
            storage.create_snapshots(PARENT, (replace(members(one)[0], parent=parent),))
    assert of_ours(storage, one) == []
