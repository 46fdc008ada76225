"""Adopting what others made, and giving it back, held by every implementation of the contract."""

from __future__ import annotations

from dataclasses import replace

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
    PLANTED_BYTES,
    ROUTE,
)
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_id, new_name
from zolder.api import Storage
from zolder.errors import AlreadyExists, Busy, InvalidRequest, NoSpace, NotFound, NotPermitted
from zolder.model import Change, FoundZvol, Zvol, ZvolSnapshot
from zolder.names import SnapshotName, VolumeId, ZvolName, view_name

OTHER = SnapshotName("snapshot-2")


def foreign(storage: Storage, *, sparse: bool = True, size: int = SIZE) -> Zvol:
    """Return a zvol that bears no mark any more."""
    made = create(storage, sparse=sparse, size=size)
    assert storage.release_zvol(PARENT, made.name).changed
    return made


def adopt(
    storage: Storage,
    source: ZvolName,
    zvol: ZvolName | None = None,
    *,
    volume_id: VolumeId | None = None,
    former: VolumeId | None = None,
    size: int = SIZE,
) -> Change[Zvol]:
    """Adopt a zvol under a fresh name and id."""
    return storage.adopt_zvol(
        PARENT,
        source,
        zvol or new_name(),
        volume_id=volume_id or new_id(),
        former=former,
        volsize_bytes=size,
    )


class TestZvols:
    """Zvols that change hands."""

    def test_an_administrators_zvol(self, storage: Storage) -> None:
        """What was made by hand is found, adopted under a new name, and then a volume like any other."""
        assert storage.find_zvol(PARENT, FOREIGN) == FoundZvol(PARENT, FOREIGN, PLANTED_BYTES)
        adopted = adopt(storage, FOREIGN, size=2 * PLANTED_BYTES)
        assert adopted.changed
        assert storage.get_zvol(PARENT, adopted.value.name) == adopted.value
        assert adopted.value.volsize_bytes == 2 * PLANTED_BYTES
        assert storage.find_zvol(PARENT, FOREIGN) is None
        assert storage.delete_zvol(PARENT, adopted.value.name).changed

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "thick"])
    def test_given_back_and_taken_again(self, storage: Storage, *, sparse: bool) -> None:
        """A released zvol keeps its name, size and thickness, is no volume, and can be adopted again."""
        made = foreign(storage, sparse=sparse)
        with pytest.raises(NotPermitted):
            storage.get_zvol(PARENT, made.name)
        with pytest.raises(NotPermitted):
            storage.delete_zvol(PARENT, made.name)
        found = FoundZvol(PARENT, made.name, SIZE)
        assert found in storage.list_found_zvols(PARENT)
        adopted = adopt(storage, made.name).value
        assert (adopted.sparse, adopted.volsize_bytes) == (sparse, SIZE)

    def test_asked_twice(self, storage: Storage) -> None:
        """The repeat of an adoption, or of a release, changes nothing."""
        made = foreign(storage)
        adopted = adopt(storage, made.name)
        again = adopt(storage, made.name, adopted.value.name, volume_id=adopted.value.volume_id)
        assert again == replace(adopted, changed=False)
        assert storage.release_zvol(PARENT, adopted.value.name).changed
        assert not storage.release_zvol(PARENT, adopted.value.name).changed
        assert not storage.release_zvol(PARENT, new_name()).changed

    def test_under_the_name_that_it_has(self, storage: Storage) -> None:
        """A zvol may keep its name, as where an adoption was cut short before the mark."""
        made = foreign(storage)
        assert adopt(storage, new_name(), made.name).value.name == made.name
        storage.release_zvol(PARENT, made.name)
        assert adopt(storage, made.name, made.name).changed

    def test_snapshots_and_clones_go_along(self, storage: Storage) -> None:
        """Snapshots of others stay with it, and a clone that depends on it keeps its origin."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        cloned = clone(storage, made, SNAPSHOT)
        storage.release_snapshot(PARENT, made.name, SNAPSHOT)
        storage.release_zvol(PARENT, made.name)
        adopted = adopt(storage, made.name).value
        [found] = storage.list_found_snapshots(PARENT, adopted.name)
        assert (found.name, found.managed) == (SNAPSHOT, False)
        origin = storage.get_zvol(PARENT, cloned.name).origin
        assert origin == f"{PARENT}/{adopted.name}@{SNAPSHOT}"

    def test_another_name_is_taken(self, storage: Storage) -> None:
        """A name that any dataset has is refused, and nothing is renamed."""
        made, taken, other = create(storage), foreign(storage), foreign(storage)
        for name in (made.name, taken.name):
            with pytest.raises(AlreadyExists):
                adopt(storage, other.name, name)
        assert storage.find_zvol(PARENT, other.name) == FoundZvol(PARENT, other.name, SIZE)

    def test_it_is_not_there(self, storage: Storage) -> None:
        """What is absent is not adopted, and looking for it says so."""
        assert storage.find_zvol(PARENT, new_name()) is None
        with pytest.raises(NotFound):
            adopt(storage, new_name())

    def test_the_mark_has_to_be_named(self, storage: Storage) -> None:
        """A zvol that is some volume's is adopted by who says which, one without a mark by who says none."""
        marked, bare = create(storage), foreign(storage)
        for source, former in ((marked, None), (marked, new_id()), (bare, new_id())):
            with pytest.raises(NotPermitted, match="marked as"):
                adopt(storage, source.name, former=former)
        before = storage.get_figures(PARENT)
        adopted = adopt(storage, marked.name, former=marked.volume_id).value
        assert storage.get_zvol(PARENT, adopted.name).volume_id == adopted.volume_id != marked.volume_id
        assert storage.get_figures(PARENT).zvol_count == before.zvol_count
        assert adopt(storage, marked.name, adopted.name, volume_id=adopted.volume_id).changed is False

    def test_the_size(self, storage: Storage) -> None:
        """It grows to the size that is asked for, never shrinks, and counts from then on."""
        made = foreign(storage)
        for size in (SIZE - MIB, SIZE + 1):
            with pytest.raises(InvalidRequest):
                adopt(storage, made.name, size=size)
        before = storage.get_figures(PARENT)
        adopted = adopt(storage, made.name, size=3 * SIZE).value
        after = storage.get_figures(PARENT)
        assert storage.get_zvol(PARENT, adopted.name).volsize_bytes == 3 * SIZE
        assert after.provisioned_bytes - before.provisioned_bytes == 3 * SIZE
        assert after.zvol_count - before.zvol_count == 1
        storage.release_zvol(PARENT, adopted.name)
        assert storage.get_figures(PARENT).provisioned_bytes == before.provisioned_bytes

    def test_no_space(self, storage: Storage) -> None:
        """A thick zvol's growth that does not fit is refused, and the zvol is as it was."""
        made = foreign(storage, sparse=False)
        with pytest.raises(NoSpace):
            adopt(storage, made.name, size=NEVER_FITS_BYTES)
        assert storage.find_zvol(PARENT, made.name) == FoundZvol(PARENT, made.name, SIZE)

    def test_what_is_exported(self, storage: Storage) -> None:
        """A volume that is on record as exported is not adopted; a release closes it."""
        made = create(storage)
        storage.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
        found = storage.find_zvol(PARENT, made.name)
        assert found is not None
        assert "is exported: detach it first" in str(found.obstacle)
        with pytest.raises(Busy):
            adopt(storage, made.name, former=made.volume_id)
        storage.release_zvol(PARENT, made.name)
        assert made.name not in {export.zvol for export in storage.list_exports(PARENT)}
        assert storage.list_attachments(PARENT) == ()
        assert adopt(storage, made.name).changed

    def test_a_view_is_the_agents_own(self, storage: Storage) -> None:
        """The clone through which a snapshot is read is shown with the reason, and never adopted."""
        made, view_id = create(storage), new_id()
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        storage.export_snapshot(
            PARENT, made.name, SNAPSHOT, INITIATOR, view_id=view_id, route=ROUTE, attachment=None, chap=None
        )
        view = view_name(view_id)
        found = storage.find_zvol(PARENT, view)
        assert found is not None
        assert "Zolder's own" in str(found.obstacle)
        with pytest.raises(NotPermitted):
            adopt(storage, view)
        assert not storage.release_zvol(PARENT, view).changed
        storage.withdraw_snapshot(PARENT, view_id, None, attachment=None)

    def test_a_clients_snapshots_keep_it(self, storage: Storage) -> None:
        """A volume whose snapshots clients still know is not released; they are named."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        with pytest.raises(Busy, match=f"{made.name}@{SNAPSHOT}"):
            storage.release_zvol(PARENT, made.name)
        assert storage.get_zvol(PARENT, made.name) == made

    def test_another_parent(self, storage: Storage) -> None:
        """Below a parent that is another identity's nothing is looked for, adopted or released."""
        for attempt in (
            lambda: storage.find_zvol(OTHER_PARENT, FOREIGN),
            lambda: storage.list_found_zvols(OTHER_PARENT),
            lambda: storage.list_found_snapshots(OTHER_PARENT, None),
            lambda: storage.adopt_zvol(
                OTHER_PARENT, FOREIGN, new_name(), volume_id=new_id(), former=None, volsize_bytes=SIZE
            ),
            lambda: storage.release_zvol(OTHER_PARENT, FOREIGN),
        ):
            with pytest.raises(NotPermitted):
                attempt()


class TestSnapshots:
    """Snapshots that change hands."""

    def test_an_administrators_snapshot(self, storage: Storage) -> None:
        """What was taken by hand is found, adopted under a new name, and then deleted like any other."""
        found = {one.name: one for one in storage.list_found_snapshots(PARENT, PLANTED)}[AUTOSNAP]
        assert (found.volsize_bytes, found.managed, found.obstacle) == (PLANTED_BYTES, False, None)
        adopted = storage.adopt_snapshot(PARENT, PLANTED, AUTOSNAP, SNAPSHOT)
        assert adopted == Change(changed=True, value=ZvolSnapshot(PARENT, PLANTED, SNAPSHOT))
        assert adopted.value in storage.list_snapshots(PARENT)
        again = storage.adopt_snapshot(PARENT, PLANTED, AUTOSNAP, SNAPSHOT)
        assert again == replace(adopted, changed=False)
        assert storage.delete_snapshot(PARENT, PLANTED, SNAPSHOT).changed

    def test_given_back_and_taken_again(self, storage: Storage) -> None:
        """A released snapshot keeps its name, is no client's, and can be adopted again, under any name."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        assert storage.release_snapshot(PARENT, made.name, SNAPSHOT).changed
        assert not storage.release_snapshot(PARENT, made.name, SNAPSHOT).changed
        with pytest.raises(NotPermitted):
            storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
        assert storage.adopt_snapshot(PARENT, made.name, SNAPSHOT, OTHER).changed
        storage.release_snapshot(PARENT, made.name, OTHER)
        assert storage.adopt_snapshot(PARENT, made.name, OTHER, OTHER).changed
        assert clone(storage, made, OTHER).origin == f"{PARENT}/{made.name}@{OTHER}"

    def test_what_clients_have_already(self, storage: Storage) -> None:
        """A client's own snapshot is shown as such, and is not adopted under another name."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        [found] = storage.list_found_snapshots(PARENT, made.name)
        assert found.managed
        assert found in storage.list_found_snapshots(PARENT, None)
        with pytest.raises(NotPermitted):
            storage.adopt_snapshot(PARENT, made.name, SNAPSHOT, OTHER)

    def test_the_name_is_taken(self, storage: Storage) -> None:
        """Two snapshots of one zvol never become one."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        storage.create_snapshot(PARENT, made.name, OTHER)
        storage.release_snapshot(PARENT, made.name, SNAPSHOT)
        with pytest.raises(AlreadyExists):
            storage.adopt_snapshot(PARENT, made.name, SNAPSHOT, OTHER)
        assert len(storage.list_found_snapshots(PARENT, made.name)) == 2

    def test_it_is_not_there(self, storage: Storage) -> None:
        """Neither an absent snapshot nor one of an absent zvol is adopted; releasing one changes nothing."""
        made = create(storage)
        with pytest.raises(NotFound):
            storage.adopt_snapshot(PARENT, made.name, SNAPSHOT, OTHER)
        with pytest.raises(NotFound):
            storage.adopt_snapshot(PARENT, new_name(), SNAPSHOT, OTHER)
        with pytest.raises(NotFound):
            storage.list_found_snapshots(PARENT, new_name())
        assert not storage.release_snapshot(PARENT, made.name, SNAPSHOT).changed

    def test_a_deleted_one(self, storage: Storage) -> None:
        """A snapshot that was deleted and waits for its clone is not shown, adopted or released."""
        made = create(storage)
        storage.create_snapshot(PARENT, made.name, SNAPSHOT)
        clone(storage, made, SNAPSHOT)
        clone(storage, made, None)
        storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
        assert storage.list_found_snapshots(PARENT, made.name) == ()
        with pytest.raises(AlreadyExists):
            storage.adopt_snapshot(PARENT, made.name, SNAPSHOT, OTHER)
        assert not storage.release_snapshot(PARENT, made.name, SNAPSHOT).changed
