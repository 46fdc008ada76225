"""Deleting in any order that Cinder allows: what clones still need is put aside and goes with the last."""

from __future__ import annotations

import re

import pytest

from tests.contract.ground import PARENT
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_id
from zolder.api import Storage
from zolder.errors import Busy, NotFound, NotPermitted
from zolder.model import Change, PutAside, Zvol
from zolder.names import SnapshotName

LATER = SnapshotName("snapshot-2")


def put_aside(storage: Storage, deleted: Zvol) -> PutAside | None:
    """Return what was put aside of a volume, where something was."""
    each = storage.list_put_aside(PARENT)
    return next((item for item in each if item.volume_id == deleted.volume_id), None)


def delete(storage: Storage, zvol: Zvol) -> Change[None]:
    """Delete a zvol."""
    return storage.delete_zvol(PARENT, zvol.name)


def cloned(storage: Storage) -> tuple[Zvol, Zvol]:
    """Return a zvol, and a clone of a snapshot of it that was deleted since."""
    source = create(storage)
    storage.create_snapshot(PARENT, source.name, SNAPSHOT)
    copy = clone(storage, source, SNAPSHOT)
    storage.delete_snapshot(PARENT, source.name, SNAPSHOT)
    return source, copy


def test_a_source_goes_while_its_clone_lives(storage: Storage) -> None:
    """A volume whose deleted snapshot has a clone is deleted at once, and shown with what holds it."""
    source, copy = cloned(storage)
    assert delete(storage, source) == Change(changed=True, value=None)
    with pytest.raises(NotFound):
        storage.get_zvol(PARENT, source.name)
    assert source.name not in {zvol.name for zvol in storage.list_zvols(PARENT)}
    kept = put_aside(storage, source)
    assert kept is not None
    assert kept.holders == (f"{PARENT}/{copy.name}",)
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d:\d\d:\d\dZ", kept.deleted_at)
    assert storage.get_zvol(PARENT, copy.name).origin == f"{PARENT}/{kept.name}@{SNAPSHOT}"


def test_deleted_twice(storage: Storage) -> None:
    """A repeat of a delete that put something aside changes nothing."""
    source, _ = cloned(storage)
    delete(storage, source)
    assert delete(storage, source) == Change(changed=False, value=None)
    assert put_aside(storage, source) is not None


def test_it_goes_with_its_last_clone(storage: Storage) -> None:
    """What was put aside is destroyed with the last clone that needs it."""
    source, first = cloned(storage)
    second = clone(storage, source, None)
    delete(storage, source)
    delete(storage, first)
    assert put_aside(storage, source) is not None
    delete(storage, second)
    assert put_aside(storage, source) is None


def test_clones_of_clones(storage: Storage) -> None:
    """A chain of copies may be deleted from its beginning: all of it goes with its end."""
    chain = [create(storage)]
    for _ in range(3):
        chain.append(clone(storage, chain[-1], None))
    for zvol in chain[:-1]:
        delete(storage, zvol)
        assert put_aside(storage, zvol) is not None
    delete(storage, chain[-1])
    assert not {item.volume_id for item in storage.list_put_aside(PARENT)} & {z.volume_id for z in chain}


def test_its_name_is_free(storage: Storage) -> None:
    """Another volume may have the name of one that was put aside."""
    source, _ = cloned(storage)
    delete(storage, source)
    other = new_id()
    made = storage.create_zvol(PARENT, source.name, volume_id=other, volsize_bytes=SIZE, sparse=True)
    assert made.changed
    assert storage.get_zvol(PARENT, source.name).volume_id == other
    delete(storage, source)
    assert put_aside(storage, source) is not None


def test_what_is_put_aside_answers_to_nobody(storage: Storage) -> None:
    """By its new name it can be neither read, copied, grown nor deleted."""
    source, _ = cloned(storage)
    delete(storage, source)
    kept = put_aside(storage, source)
    assert kept is not None
    for ask in (
        lambda: storage.get_zvol(PARENT, kept.name),
        lambda: storage.create_snapshot(PARENT, kept.name, LATER),
        lambda: storage.grow_zvol(PARENT, kept.name, volsize_bytes=2 * SIZE),
        lambda: storage.delete_zvol(PARENT, kept.name),
        lambda: storage.delete_snapshot(PARENT, kept.name, SNAPSHOT),
        lambda: storage.clone_zvol(
            PARENT, kept.name, None, source.name, volume_id=new_id(), volsize_bytes=SIZE, sparse=True
        ),
    ):
        with pytest.raises(NotPermitted):
            ask()
    assert put_aside(storage, source) == kept


def test_a_snapshot_that_cinder_knows_keeps_it(storage: Storage) -> None:
    """A volume with a snapshot that was not deleted stays, beside deleted ones with clones, and names it."""
    source, _ = cloned(storage)
    storage.create_snapshot(PARENT, source.name, LATER)
    with pytest.raises(Busy) as refused:
        delete(storage, source)
    assert refused.value.details["holders"] == [f"{PARENT}/{source.name}@{LATER}"]
    assert storage.get_zvol(PARENT, source.name) == source


def test_a_thick_one_leaves_its_room(storage: Storage) -> None:
    """What is put aside reserves nothing: the room is there for others."""
    source = create(storage, sparse=False)
    before = storage.get_figures(PARENT)
    clone(storage, source, None)
    delete(storage, source)
    after = storage.get_figures(PARENT)
    assert after.available_bytes > before.available_bytes + SIZE // 2
    assert after.provisioned_bytes == before.provisioned_bytes
