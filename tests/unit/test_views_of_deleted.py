"""What becomes of a snapshot's views when the snapshot is deleted: they go first, whoever reads."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from tests.unit.kept_san import ALICE, DATASET, ID, PARENT, ROUTE, SNAPSHOT, VIEW_ID, ZVOL, KeptSan, KeptZfs
from tests.unit.kernel_tree import Killed
from zolder.errors import BackendError, Busy
from zolder.model import Change
from zolder.names import VolumeId, view_name
from zolder.san import zfs
from zolder.san.libzfs import VOLUME_MARK, Property
from zolder.san.lzc import ZfsError

ORIGIN = f"{DATASET}@{SNAPSHOT}"
VIEW = f"{PARENT}/{view_name(VIEW_ID)}"
OTHER_ID = VolumeId("5f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
COPY = f"{PARENT}/volume-2"


class ZfsWithClones(KeptZfs):
    """ZFS that knows which snapshots have clones; ``listed`` counts how often somebody asked it for all."""

    listed = 0
    opened: Callable[[], Collection[str]] = dict

    def destroy_snapshot(self, snapshot: str, *, defer: bool = True) -> None:
        """Be libzfs_core."""
        if self._steps.take("destroy snapshot"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), snapshot)
        if not self._clones(snapshot):
            self.datasets.pop(snapshot, None)
        elif defer:
            self.datasets[snapshot]["defer_destroy"] = Property(1, None)
        else:
            raise ZfsError(errno.EEXIST, os.strerror(errno.EEXIST), snapshot)

    def destroy(self, dataset: str) -> None:
        """Be libzfs_core, and the kernel: what is exported is busy, what waited for this clone goes."""
        if dataset in self.opened():
            raise ZfsError(errno.EBUSY, os.strerror(errno.EBUSY), dataset)
        origin = self.datasets[dataset].get("origin")
        super().destroy(dataset)
        if origin and "defer_destroy" in self.datasets[str(origin.value)]:
            self.datasets.pop(str(origin.value))

    def clones_of(self, zvol: str) -> Mapping[str, tuple[str, ...]]:
        """Be the zfs command."""
        self.listed += 1
        return {name: self._clones(name) for name in self.datasets if name.startswith(f"{zvol}@")}

    def _clones(self, snapshot: str) -> tuple[str, ...]:
        each = self.datasets.items()
        return tuple(name for name, found in each if "origin" in found and found["origin"].value == snapshot)


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that has one snapshot."""
    return begin(tmp_path, monkeypatch)


def begin(folder: Path, patch: pytest.MonkeyPatch) -> KeptSan:
    """Return a SAN whose ZFS knows of clones."""
    kept = KeptSan(folder)
    known = ZfsWithClones(kept.steps)
    known.opened = kept.reached_by
    kept.zfs = known
    kept.install(patch)
    patch.setattr(zfs, "clones_of", known.clones_of)
    return kept


def export(san: KeptSan, view_id: VolumeId = VIEW_ID) -> None:
    """Let somebody read the snapshot through a view."""
    san.storage().export_snapshot(
        PARENT, ZVOL, SNAPSHOT, ALICE, view_id=view_id, route=ROUTE, attachment=None, chap=None
    )


def delete(san: KeptSan) -> Change[None]:
    """Delete the snapshot."""
    return san.storage().delete_snapshot(PARENT, ZVOL, SNAPSHOT)


def listed(san: KeptSan) -> int:
    """Return how often all snapshots with their clones were asked for."""
    assert isinstance(san.zfs, ZfsWithClones)
    return san.zfs.listed


def test_what_a_dead_backup_left_goes_with_the_snapshot(san: KeptSan) -> None:
    """Cinder deletes a dead backup's snapshot and withdraws nothing: its readers are shut out with it."""
    export(san)
    export(san, OTHER_ID)
    assert delete(san) == Change(changed=True, value=None)
    assert set(san.zfs.datasets) == {PARENT, DATASET}
    assert san.reached_by() == {}
    assert delete(san) == Change(changed=False, value=None)


def test_a_view_without_a_record_goes_too(san: KeptSan) -> None:
    """An agent that was killed between the clone and its record has left a view that nobody is to read."""
    san.steps.start(kill_at=1)
    with pytest.raises(Killed):
        export(san)
    san.steps.start()
    assert VIEW in san.zfs.datasets
    assert san.record(VIEW) is None
    assert san.storage().list_views(PARENT) == (VIEW_ID,)
    assert delete(san).changed
    assert set(san.zfs.datasets) == {PARENT, DATASET}


def test_a_volume_that_was_cloned_stays(san: KeptSan) -> None:
    """Only views go; the snapshot waits for its other clones, as it always did."""
    export(san)
    san.zfs.add(COPY, {"volsize": 2**20, "origin": ORIGIN, VOLUME_MARK: ID})
    assert delete(san).changed
    assert set(san.zfs.datasets) == {PARENT, DATASET, ORIGIN, COPY}
    assert "defer_destroy" in san.zfs.datasets[ORIGIN]


@pytest.mark.parametrize("marks", [{}, {VOLUME_MARK: str(ID)}])
def test_what_has_a_views_name_and_is_none_stays(san: KeptSan, marks: dict[str, str]) -> None:
    """A clone that somebody gave a view's name is a clone like any other."""
    san.zfs.add(VIEW, {"volsize": 2**20, "origin": ORIGIN, **marks})
    assert san.storage().list_views(PARENT) == ()
    assert delete(san).changed
    assert set(san.zfs.datasets) == {PARENT, DATASET, ORIGIN, VIEW}


def test_without_clones_nothing_more_is_asked(san: KeptSan) -> None:
    """The kernel destroys at once what nothing depends on: one step, and no list."""
    san.steps.start()
    assert delete(san).changed
    assert (san.steps.taken, listed(san)) == (["destroy snapshot"], 0)


def test_a_view_that_is_held_keeps_the_snapshot(san: KeptSan) -> None:
    """What a process on the SAN has open is named, and the snapshot can be deleted once more."""
    export(san)
    san.zfs.busy.add(VIEW)
    with pytest.raises(Busy, match="zolder-view"):
        delete(san)
    assert "defer_destroy" not in san.zfs.datasets[ORIGIN]
    san.zfs.busy.clear()
    assert delete(san).changed
    assert set(san.zfs.datasets) == {PARENT, DATASET}


def test_a_snapshot_that_zfs_does_not_destroy(san: KeptSan) -> None:
    """What nobody recognised is told, and is not taken for a clone."""
    san.steps.start(refuse_at=0)
    with pytest.raises(BackendError, match="ZFS refused"):
        delete(san)
    assert listed(san) == 0


def test_a_delete_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill at every step of deleting a snapshot that is read, asking again ends it as without."""

    def start(name: str) -> KeptSan:
        (tmp_path / name).mkdir()
        san = begin(tmp_path / name, monkeypatch)
        export(san)
        san.zfs.add(COPY, {"volsize": 2**20, "origin": ORIGIN, VOLUME_MARK: ID})
        san.steps.start()
        return san

    counted = start("counted")
    delete(counted)
    steps = len(counted.steps.taken)
    assert steps >= 5
    for step in range(steps):
        san = start(str(step))
        san.steps.start(kill_at=step)
        with pytest.raises(Killed):
            delete(san)
        san.steps.start()
        delete(san)
        assert san.zfs.datasets == counted.zfs.datasets, f"killed at step {step}"
        assert san.reached_by() == {}, f"killed at step {step}"
