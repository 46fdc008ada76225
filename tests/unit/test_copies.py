"""A group's copy, killed and refused at each of its steps: a repeat ends it, and nothing is in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.unit.ending_san import ZfsThatRenames, begin
from tests.unit.kept_san import PARENT, KeptSan
from tests.unit.kernel_tree import Killed
from zolder.errors import AlreadyExists, BackendError
from zolder.model import Change, Zvol, ZvolCopy
from zolder.names import VolumeId, ZvolName, clone_origin
from zolder.san.libzfs import VOLUME_MARK, Property
from zolder.san.lzc import ZfsError

MIB = 2**20
IDS = [VolumeId(f"00000000-0000-4000-8000-00000000000{number}") for number in range(5)]
MOMENT = IDS[4]
SOURCES = [ZvolName("volume-a"), ZvolName("volume-b")]
COPIES = tuple(
    ZvolCopy(PARENT, source, ZvolName(f"{source}-copy"), volume_id, MIB, sparse=True)
    for source, volume_id in zip(SOURCES, IDS[2:], strict=False)
)
ORIGINS = [clone_origin(PARENT, source, MOMENT) for source in SOURCES]


class ZfsThatSnapshots(ZfsThatRenames):
    """ZFS that takes snapshots together, and lets them go together; both are one step."""

    txg = 100

    def snapshot(self, snapshots: Sequence[str], properties: Mapping[str, str]) -> None:
        """Be libzfs_core."""
        if self._steps.take("snapshot"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), snapshots[0])
        if self.datasets.keys() & set(snapshots):
            raise ZfsError(errno.EEXIST, os.strerror(errno.EEXIST), snapshots[0])
        self.txg += 1
        for name in snapshots:
            self.add(name, {"volsize": MIB, "createtxg": self.txg, **properties})

    def destroy_snapshot(self, snapshot: str, *others: str, defer: bool = True) -> None:
        """Be libzfs_core."""
        if self._steps.take("destroy snapshots"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), snapshot)
        for name in (snapshot, *others):
            if not self._clones(name):
                self.datasets.pop(name, None)
            elif defer:
                self.datasets[name]["defer_destroy"] = Property(1, None)
            else:
                raise ZfsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> KeptSan:
    """Return a SAN with two zvols to be copied."""
    san = begin(folder, patch)
    known, san.zfs = san.zfs, ZfsThatSnapshots(san.steps)
    san.zfs.datasets = known.datasets
    for number, source in enumerate(SOURCES):
        san.zfs.add(f"{PARENT}/{source}", {"volsize": MIB, VOLUME_MARK: IDS[number], "guid": number + 1})
    install(san, patch)
    return san


def install(san: KeptSan, patch: pytest.MonkeyPatch) -> None:
    """Have this SAN be the one that is asked."""
    assert isinstance(san.zfs, ZfsThatSnapshots)
    san.install(patch)
    patch.setattr("zolder.san.zfs.clones_of", san.zfs.clones_of)


def copy(san: KeptSan) -> Change[tuple[Zvol, ...]]:
    """Copy both."""
    return san.storage().clone_zvols(PARENT, COPIES, moment=MOMENT)


def standing(san: KeptSan) -> dict[str, bool]:
    """Return what is there, and whether it is deferred."""
    return {name: "defer_destroy" in found for name, found in san.zfs.datasets.items()}


def delete_all(san: KeptSan) -> None:
    """Delete the sources and then the copies, as Cinder may."""
    for name in (*SOURCES, *(one.zvol for one in COPIES)):
        san.storage().delete_zvol(PARENT, name)


def test_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All snapshots are taken by one step and let go by another, whatever the number of zvols."""
    san = prepare(tmp_path / "san", monkeypatch)
    before = standing(san)
    san.steps.start()
    assert copy(san).changed
    assert san.steps.taken == ["snapshot", "clone", "clone", "destroy snapshots"]
    assert not copy(san).changed
    assert [standing(san)[origin] for origin in ORIGINS] == [True, True]
    delete_all(san)
    assert standing(san).keys() == before.keys() - {f"{PARENT}/{source}" for source in SOURCES}


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("repeated", [True, False])
def test_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, *, repeated: bool) -> None:
    """A repeat makes of it what it would have been; without one everything can be deleted, sources first."""
    san = prepare(tmp_path / "san", monkeypatch)
    before = standing(san)
    san.steps.start(kill_at=step)
    with pytest.raises(Killed):
        copy(san)
    san.steps.start()
    if repeated:
        copy(san)
        whole = prepare(tmp_path / "whole", monkeypatch)
        copy(whole)
        assert standing(san) == standing(whole)
        install(san, monkeypatch)
    delete_all(san)
    assert standing(san).keys() == before.keys() - {f"{PARENT}/{source}" for source in SOURCES}


@pytest.mark.parametrize("step", range(3))
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Where ZFS refuses a snapshot or a clone nothing is left, and the same request is done later."""
    san = prepare(tmp_path / "san", monkeypatch)
    before = standing(san)
    san.steps.start(refuse_at=step)
    with pytest.raises(BackendError):
        copy(san)
    assert standing(san) == before
    san.steps.start()
    assert copy(san).changed


def test_a_clone_that_udev_looks_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first clone is busy when the second is refused, it goes as soon as it is not."""
    san = prepare(tmp_path / "san", monkeypatch)
    before, tries = standing(san), []
    destroy = san.zfs.destroy

    def busy_at_first(dataset: str) -> None:
        tries.append(dataset)
        if len(tries) == 1:
            raise ZfsError(errno.EBUSY, os.strerror(errno.EBUSY), dataset)
        destroy(dataset)

    monkeypatch.setattr(san.zfs, "destroy", busy_at_first)
    san.steps.start(refuse_at=2)
    with pytest.raises(BackendError):
        copy(san)
    assert tries == [f"{PARENT}/{COPIES[0].zvol}"] * 2
    assert standing(san) == before


def test_clones_of_two_moments_are_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one clone stands, and the other's snapshot is of another moment, it is not completed."""
    san = prepare(tmp_path / "san", monkeypatch)
    san.steps.start(kill_at=2)
    with pytest.raises(Killed):
        copy(san)
    san.steps.start()
    san.zfs.datasets[ORIGINS[1]]["createtxg"] = Property(7, None)
    with pytest.raises(AlreadyExists, match="not all"):
        copy(san)
    assert f"{PARENT}/{COPIES[1].zvol}" not in san.zfs.datasets
