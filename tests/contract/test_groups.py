"""Snapshots of several zvols at one moment, held by every implementation of the contract."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.ground import (
    AUTOSNAP,
    FOREIGN,
    MIB,
    NEVER_FITS_BYTES,
    OTHER_PARENT,
    PARENT,
    PLANTED,
)
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_name
from zolder.api import Storage
from zolder.errors import AlreadyExists, InvalidRequest, NoSpace, NotFound, NotPermitted
from zolder.model import Change, Zvol, ZvolCopy, ZvolSnapshot
from zolder.names import DatasetName, SnapshotName, VolumeId
from zolder.properties import BlockSize

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


def copy_of(zvol: Zvol, **fields: Any) -> ZvolCopy:  # noqa: ANN401 - of each field's own type
    """Return what is to be a clone of a zvol as it is, under a fresh name."""
    copy = ZvolCopy(
        PARENT,
        zvol.name,
        new_name(),
        VolumeId(str(uuid.uuid4())),
        zvol.volsize_bytes,
        sparse=True,
    )
    return replace(copy, **fields)


def new_moment() -> VolumeId:
    """Return the id of a moment that nobody has asked for."""
    return VolumeId(str(uuid.uuid4()))


def test_cloned_together(storage: Storage) -> None:
    """Each clone is what was asked for, no snapshot is left to its source, and both may go at once."""
    one, two = create(storage), create(storage, sparse=False)
    copies, moment = (copy_of(one), copy_of(two, volsize_bytes=2 * SIZE, sparse=False)), new_moment()
    made = storage.clone_zvols(PARENT, copies, moment=moment)
    assert made.changed
    for copy, clone_ in zip(copies, made.value, strict=True):
        assert storage.get_zvol(PARENT, copy.zvol) == clone_
        assert (clone_.volume_id, clone_.volsize_bytes, clone_.sparse) == (
            copy.volume_id,
            copy.volsize_bytes,
            copy.sparse,
        )
    assert of_ours(storage, one, two) == []
    assert all(storage.list_found_snapshots(PARENT, zvol.name) == () for zvol in (one, two))
    for zvol in (one, two):
        assert storage.delete_zvol(PARENT, zvol.name).changed
    assert storage.clone_zvols(PARENT, copies, moment=moment) == Change(changed=False, value=made.value)
    for copy in copies:
        assert storage.delete_zvol(PARENT, copy.zvol).changed
    assert storage.list_put_aside(PARENT) == ()


def test_cloned_together_twice(storage: Storage) -> None:
    """The repeat changes nothing; with one more, or one that was deleted since, it is refused."""
    one, two = create(storage), create(storage)
    copies, moment = (copy_of(one), copy_of(two)), new_moment()
    made = storage.clone_zvols(PARENT, copies, moment=moment)
    assert storage.clone_zvols(PARENT, copies, moment=moment) == Change(changed=False, value=made.value)
    with pytest.raises(AlreadyExists, match="not all"):
        storage.clone_zvols(PARENT, (*copies, copy_of(create(storage))), moment=moment)
    storage.delete_zvol(PARENT, copies[0].zvol)
    with pytest.raises(AlreadyExists, match="not all"):
        storage.clone_zvols(PARENT, copies, moment=moment)
    assert storage.get_zvol(PARENT, copies[1].zvol) == made.value[1]


def test_cloned_together_or_not_at_all(storage: Storage) -> None:
    """Where one cannot be cloned none is, and the same request is done once nothing is in its way."""
    one, two = create(storage), create(storage)
    copies, moment = (copy_of(one), copy_of(two)), new_moment()
    for wrong, error in (
        (replace(copies[1], source=new_name()), NotFound),
        (replace(copies[1], source=FOREIGN), NotPermitted),
        (replace(copies[1], zvol=FOREIGN), NotPermitted),
        (replace(copies[1], zvol=two.name, source=one.name), InvalidRequest),
        (replace(copies[1], volsize_bytes=SIZE - MIB), InvalidRequest),
        (replace(copies[1], volblocksize=BlockSize("64k")), InvalidRequest),
        (replace(copies[1], zvol=create(storage).name), AlreadyExists),
        (replace(copies[1], volsize_bytes=NEVER_FITS_BYTES, sparse=False), NoSpace),
    ):
        with pytest.raises(error):
            storage.clone_zvols(PARENT, (copies[0], wrong), moment=moment)
        with pytest.raises(NotFound):
            storage.get_zvol(PARENT, copies[0].zvol)
    assert storage.clone_zvols(PARENT, copies, moment=moment).changed


def test_clones_that_can_never_be(storage: Storage) -> None:
    """No zvol at all, one twice, one of another identity's parent and another's name are refused."""
    one, two = create(storage), create(storage)
    copy, other = copy_of(one), copy_of(two)
    for wrong in (
        (),
        (copy, copy),
        (copy, replace(other, source=one.name)),
        (copy, replace(other, zvol=two.name)),
    ):
        with pytest.raises(InvalidRequest):
            storage.clone_zvols(PARENT, wrong, moment=new_moment())
    for parent in (OTHER_PARENT, DatasetName("elsewhere/volumes")):
        with pytest.raises(NotPermitted):
            storage.clone_zvols(PARENT, (copy, replace(other, parent=parent)), moment=new_moment())
    with pytest.raises(NotFound):
        storage.get_zvol(PARENT, copy.zvol)
