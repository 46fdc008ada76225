"""Adoption and release, killed and refused at each of their steps: what is half done is nobody's."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.kept_san import (
    ALICE,
    DATASET,
    ID,
    PARENT,
    POLICY,
    ROUTE,
    SNAPSHOT,
    VIEW_ID,
    ZVOL,
    KeptSan,
    KeptZfs,
)
from tests.unit.kernel_tree import Killed
from tests.unit.test_asking import answering, asking, serving
from zolder.errors import BackendError, Busy, InvalidRequest, NoSpace, NotPermitted
from zolder.model import Change, FoundZvol, Zvol
from zolder.names import SnapshotName, VolumeId, ZvolName
from zolder.san import zfs
from zolder.san.libzfs import EXPORT_RECORD, SNAPSHOT_MARK, VIEW_MARK, VOLUME_MARK, Property
from zolder.san.lzc import ZfsError
from zolder.shapes import Json

MIB = 2**20
OLD, NEW = ZvolName("old-disk"), ZvolName("volume-2")
NEW_ID = VolumeId("5f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
TAKEN = SnapshotName("autosnap")
ADOPTING = replace(POLICY, adopt_from=(PARENT,))


class ZfsWithNames(KeptZfs):
    """ZFS in which things are renamed and grow."""

    def reservation_for(self, dataset: str, volsize_bytes: int, volblocksize_bytes: int | None) -> int:
        """Be libzfs."""
        assert dataset in self.datasets
        assert volblocksize_bytes is not None
        return volsize_bytes

    def rename(self, dataset: str, target: str) -> None:
        """Be libzfs_core; what is of a zvol goes along."""
        if self._steps.take("rename"):
            raise ZfsError(errno.EPERM, os.strerror(errno.EPERM), dataset)
        assert target not in self.datasets
        for name in [name for name in self.datasets if name == dataset or name.startswith(f"{dataset}@")]:
            held = self.datasets.pop(name)
            moved = name.replace(dataset, target, 1)
            self.datasets[moved] = {
                key: Property(one.value, moved if one.source == name else one.source)
                for key, one in held.items()
            }

    def set_volsize(self, dataset: str, volsize_bytes: int) -> None:
        """Be the zfs command."""
        if self._steps.take("grow"):
            raise ZfsError(errno.ENOSPC, os.strerror(errno.ENOSPC), dataset)
        self.datasets[dataset]["volsize"] = Property(volsize_bytes, dataset)

    def snapshots(self, zvol: str) -> dict[str, dict[str, Property]]:
        """Be libzfs."""
        return {name: self.read(name) or {} for name in self.datasets if name.startswith(f"{zvol}@")}

    def names(self) -> dict[str, object]:
        """Return each dataset below the parent with its mark."""
        return {
            name.removeprefix(f"{PARENT}/"): (
                one.get(VOLUME_MARK) or one.get(SNAPSHOT_MARK) or Property("", "")
            ).value
            for name, one in self.datasets.items()
            if name != PARENT
        }


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with an administrator's zvol and an administrator's snapshot of it, beside what is ours."""
    kept = KeptSan(tmp_path)
    kept.zfs = model = ZfsWithNames(kept.steps)
    model.datasets[PARENT]["available"] = Property(2**40, PARENT)
    model.add(f"{PARENT}/{OLD}", {"volsize": MIB})
    model.add(f"{PARENT}/{OLD}@{TAKEN}", {"volsize": MIB})
    model.add(f"{DATASET}@{TAKEN}", {"volsize": MIB})
    kept.install(monkeypatch)
    monkeypatch.setattr(zfs, "set_volsize", model.set_volsize)
    return kept


def names(san: KeptSan) -> dict[str, object]:
    """Return what is there, and its marks."""
    assert isinstance(san.zfs, ZfsWithNames)
    return san.zfs.names()


def adopt(
    san: KeptSan, *, size: int = 2 * MIB, former: VolumeId | None = None, source: ZvolName = OLD
) -> Change[Zvol]:
    """Adopt the administrator's zvol."""
    return san.storage(ADOPTING).adopt_zvol(
        PARENT, source, NEW, volume_id=NEW_ID, former=former, volsize_bytes=size
    )


def adopt_snapshot(san: KeptSan) -> bool:
    """Adopt the administrator's snapshot of our zvol."""
    wanted = SnapshotName("snapshot-2")
    return san.storage(ADOPTING).adopt_snapshot(PARENT, ZVOL, TAKEN, wanted).changed


def test_the_order_of_the_steps(san: KeptSan) -> None:
    """The name, the size, and the mark last."""
    san.steps.start()
    assert adopt(san).changed
    assert san.steps.taken == ["rename", "grow", f"set {VOLUME_MARK}"]
    san.steps.start()
    assert not adopt(san).changed
    assert san.steps.taken == []
    assert names(san)[NEW] == NEW_ID
    assert OLD not in names(san)
    assert san.zfs.datasets[f"{PARENT}/{NEW}"]["volsize"].value == 2 * MIB


@pytest.mark.parametrize("step", range(3))
def test_killed(san: KeptSan, step: int) -> None:
    """Before the mark it is nobody's under either name, and the repeat finishes it."""
    san.steps.start(kill_at=step)
    with pytest.raises(Killed):
        adopt(san)
    assert NEW_ID not in names(san).values()
    place = OLD if step == 0 else NEW
    assert names(san)[place] == ""
    san.steps.start()
    with pytest.raises(NotPermitted):
        san.storage().delete_zvol(PARENT, place)
    assert adopt(san).changed
    assert names(san)[NEW] == NEW_ID
    assert san.zfs.datasets[f"{PARENT}/{NEW}"]["volsize"].value == 2 * MIB


@pytest.mark.parametrize("step", range(3))
def test_refused(san: KeptSan, step: int) -> None:
    """What ZFS refuses has its old name and no mark, and counts for nothing."""
    before = names(san)
    provisioned = san.storage().get_figures(PARENT).provisioned_bytes
    san.steps.start(refuse_at=step)
    with pytest.raises((BackendError, NoSpace)):
        adopt(san)
    assert names(san) == before
    assert san.storage().get_figures(PARENT).provisioned_bytes == provisioned


def test_a_name_that_cannot_be_given_back(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the undoing fails too, the first error is told, and the zvol is nobody's under the new name."""
    renamed = ZfsWithNames.rename

    def refuse(_: object, dataset: str, *__: object) -> None:
        raise ZfsError(errno.EIO, os.strerror(errno.EIO), dataset)

    def once(self: ZfsWithNames, dataset: str, target: str) -> None:
        renamed(self, dataset, target)
        monkeypatch.setattr(ZfsWithNames, "rename", refuse)

    monkeypatch.setattr(ZfsWithNames, "rename", once)
    monkeypatch.setattr(ZfsWithNames, "set_property", refuse)
    with pytest.raises(BackendError, match=f"ZFS refused {PARENT}/{NEW}"):
        adopt(san)
    assert names(san)[NEW] == ""


def test_a_mark_that_another_has(san: KeptSan) -> None:
    """A volume's zvol changes hands only where its id is named, and never in a parent that is shared."""
    source = ZVOL
    del san.zfs.datasets[f"{DATASET}@{SNAPSHOT}"]
    with pytest.raises(NotPermitted, match=f"marked as volume {ID}"):
        adopt(san, source=source)
    shared = replace(ADOPTING, shared_parents=(PARENT,))
    with pytest.raises(NotPermitted, match="shared with others"):
        san.storage(shared).adopt_zvol(PARENT, source, NEW, volume_id=NEW_ID, former=ID, volsize_bytes=MIB)
    [found] = [one for one in san.storage(shared).list_found_zvols(PARENT) if one.name == source]
    assert "shared with others" in str(found.obstacle)
    assert adopt(san, source=source, former=ID).changed
    assert names(san)[NEW] == NEW_ID


def test_limits_count(san: KeptSan) -> None:
    """What is adopted counts towards the identity's limits before anything is changed."""
    before = names(san)
    few = replace(ADOPTING, max_volumes=1)
    with pytest.raises(NotPermitted, match="1 volumes below one parent"):
        san.storage(few).adopt_zvol(PARENT, OLD, NEW, volume_id=NEW_ID, former=None, volsize_bytes=MIB)
    assert names(san) == before


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("volmode", 1, "'zfs set volmode=dev"),
        ("snapdev", 1, "'zfs set snapdev=hidden"),
        (EXPORT_RECORD, "whatever", "is exported: detach it first"),
        (VIEW_MARK, ID, "Zolder's own"),
    ],
)
def test_obstacles(san: KeptSan, name: str, value: str | int, reason: str) -> None:
    """Each is shown in the list, and refused with the same words."""
    dataset = f"{PARENT}/{OLD}"
    san.zfs.datasets[dataset][name] = Property(value, dataset)
    found = san.storage().find_zvol(PARENT, OLD)
    assert found is not None
    assert reason in str(found.obstacle)
    with pytest.raises((Busy, InvalidRequest, NotPermitted), match=reason):
        adopt(san)
    san.zfs.datasets[dataset][name] = Property(value, PARENT)
    assert san.storage().find_zvol(PARENT, OLD) == FoundZvol(PARENT, OLD, MIB)


def test_who_holds_it(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the device open is named, and nothing is renamed meanwhile."""
    monkeypatch.setattr("zolder.san.root.holders_of", lambda *_: ["process 812 (qemu-img)"])
    san.steps.start()
    with pytest.raises(Busy, match=r"held by process 812 \(qemu-img\)"):
        adopt(san)
    assert san.steps.taken == []
    found = san.storage().find_zvol(PARENT, OLD)
    assert "process 812" in str(found and found.obstacle)


def test_one_question_for_all(san: KeptSan, tmp_path: Path) -> None:
    """However many foreign zvols there are, the root helper is asked once who uses them; of none, never."""
    for number in range(20):
        san.zfs.add(f"{PARENT}/disk-{number}", {"volsize": MIB})
    held: list[Json] = [
        {"zvol": "disk-7", "holders": ["process 812 (qemu-img)"]},
        {"zvol": "disk-8", "holders": ["process 99 ((udev-worker))"]},
    ]
    with serving(tmp_path, answering(held)) as (server, line):
        found = {
            one.name: one.obstacle for one in san.storage(ADOPTING, asking(line)).list_found_zvols(PARENT)
        }
    assert server.methods == ["hello", "list_holders"]
    assert "held by process 812 (qemu-img)" in str(found.pop("disk-7"))
    assert [name for name, obstacle in found.items() if name.startswith("disk-") and obstacle] == []
    assert len(found) == 21
    for name in [
        name for name in san.zfs.datasets if name.startswith((f"{PARENT}/disk-", f"{PARENT}/{OLD}"))
    ]:
        del san.zfs.datasets[name]
    (tmp_path / "helper.socket").unlink()
    with serving(tmp_path) as (server, line):
        assert [one.name for one in san.storage(ADOPTING, asking(line)).list_found_zvols(PARENT)] == [ZVOL]
    assert server.methods == []


def test_names_that_no_request_carries(san: KeptSan) -> None:
    """They are listed with what to do, for zvols and for snapshots."""
    san.zfs.add(f"{PARENT}/Old_Disk", {"volsize": MIB})
    san.zfs.add(f"{DATASET}@00:00", {"volsize": MIB})
    found = {one.name: one.obstacle for one in san.storage().list_found_zvols(PARENT)}
    assert f"'zfs rename {PARENT}/Old_Disk' to such a name first" in str(found["Old_Disk"])
    snapshots = {one.name: one for one in san.storage().list_found_snapshots(PARENT, ZVOL)}
    assert "to such a name first" in str(snapshots["00:00"].obstacle)
    assert (snapshots[TAKEN].managed, snapshots[SNAPSHOT].managed) == (False, True)


@pytest.mark.parametrize("kill_at", [0, 1])
def test_a_snapshot_killed(san: KeptSan, kill_at: int) -> None:
    """Before the mark it is no client's, and the repeat finishes it."""
    san.steps.start(kill_at=kill_at)
    with pytest.raises(Killed):
        adopt_snapshot(san)
    san.steps.start()
    assert adopt_snapshot(san)
    assert not adopt_snapshot(san)
    assert names(san)[f"{ZVOL}@snapshot-2"] == "snapshot-2"
    assert f"{ZVOL}@{TAKEN}" not in names(san)


@pytest.mark.parametrize("step", [0, 1])
def test_a_snapshot_refused(san: KeptSan, step: int) -> None:
    """What ZFS refuses has its old name and no mark."""
    before = names(san)
    san.steps.start(refuse_at=step)
    with pytest.raises(BackendError):
        adopt_snapshot(san)
    assert names(san) == before


@pytest.mark.parametrize("kill_at", range(4))
def test_a_release_killed(san: KeptSan, kill_at: int) -> None:
    """The record goes, then the target, then the mark; the repeat finishes what was cut short."""
    del san.zfs.datasets[f"{DATASET}@{SNAPSHOT}"]
    san.storage().export_zvol(PARENT, ZVOL, ALICE, route=ROUTE, attachment=None, chap=None)
    san.steps.start(kill_at=kill_at)
    if kill_at < 3:
        with pytest.raises(Killed):
            san.storage().release_zvol(PARENT, ZVOL)
    else:
        assert san.storage().release_zvol(PARENT, ZVOL).changed
    san.steps.start()
    san.storage().release_zvol(PARENT, ZVOL)
    assert names(san)[ZVOL] == ""
    assert san.record() is None
    assert not san.storage().release_zvol(PARENT, ZVOL).changed


def test_a_release_needs_no_policys_word(san: KeptSan) -> None:
    """A snapshot, and then its zvol, are given back under their names; a view never is."""
    storage = san.storage()
    with pytest.raises(Busy, match=SNAPSHOT):
        storage.release_zvol(PARENT, ZVOL)
    assert storage.release_snapshot(PARENT, ZVOL, SNAPSHOT).changed
    assert storage.release_zvol(PARENT, ZVOL).changed
    assert names(san)[ZVOL] == names(san)[f"{ZVOL}@{SNAPSHOT}"] == ""
    view = ZvolName(f"zolder-view-{VIEW_ID}")
    san.zfs.add(f"{PARENT}/{view}", {"volsize": MIB, VIEW_MARK: VIEW_ID})
    assert not storage.release_zvol(PARENT, view).changed
