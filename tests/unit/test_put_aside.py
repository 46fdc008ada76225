"""Putting a zvol aside, cut at any step, beside its last clone's end, and swept up by the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.ending_san import ASIDE, COPY, COPY_ID, ORIGIN, ZfsThatRenames, begin
from tests.unit.kept_san import DATASET, ID, PARENT, SNAPSHOT, ZVOL, KeptSan, operation
from tests.unit.kernel_tree import Killed
from zolder.errors import Busy
from zolder.model import Change
from zolder.names import ZvolName
from zolder.san import aside as asides
from zolder.san.libzfs import DELETED_MARK, SNAPSHOT_MARK, Property


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with a zvol whose one snapshot was deleted and has a clone."""
    return begin(tmp_path / "san", monkeypatch)


def names(san: KeptSan) -> set[str]:
    """Return all that is in the zpool."""
    return set(san.zfs.datasets)


def delete(san: KeptSan, zvol: ZvolName = ZVOL) -> Change[None]:
    """Delete a zvol."""
    return san.storage().delete_zvol(PARENT, zvol)


def test_the_steps(san: KeptSan) -> None:
    """It is hidden first; then its newest data go, and then its name."""
    san.steps.start()
    assert delete(san).changed
    assert san.steps.taken[-3:] == ["mark", "roll back", "rename"]
    assert names(san) == {PARENT, ASIDE, f"{ASIDE}@{SNAPSHOT}", f"{PARENT}/{COPY}"}
    (kept,) = san.storage().list_put_aside(PARENT)
    assert (kept.volume_id, kept.holders) == (ID, (f"{PARENT}/{COPY}",))


def test_a_delete_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill at every step, asking again ends it as without, and its last clone takes it along."""
    counted = begin(tmp_path / "counted", monkeypatch)
    counted.steps.start()
    delete(counted)
    steps = len(counted.steps.taken)
    assert steps >= 3
    for step in range(steps):
        san = begin(tmp_path / str(step), monkeypatch)
        san.steps.start(kill_at=step)
        with pytest.raises(Killed):
            delete(san)
        san.steps.start()
        delete(san)
        assert names(san) == names(counted), f"killed at step {step}"
        delete(san, COPY)
        assert names(san) == {PARENT}, f"killed at step {step}"


def test_cut_before_it_lost_its_name(san: KeptSan) -> None:
    """A zvol that bears the mark under its own name is deleted to everybody."""
    san.zfs.datasets[DATASET][DELETED_MARK] = Property("2026-11-28T12:00:00Z", DATASET)
    assert san.storage().list_zvols(PARENT) == (san.storage().get_zvol(PARENT, COPY),)
    assert [item.name for item in san.storage().list_put_aside(PARENT)] == [ZVOL]
    assert not delete(san).changed
    assert ASIDE in names(san)


def test_a_copy_of_the_mark_hides_nothing(san: KeptSan) -> None:
    """A mark that a zvol has from elsewhere is no mark of its own."""
    san.zfs.datasets[DATASET][DELETED_MARK] = Property("2026-11-28T12:00:00Z", PARENT)
    assert san.storage().get_zvol(PARENT, ZVOL).volume_id == ID


def test_who_has_it_open_keeps_it(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zvol that a process on the SAN has open is not put aside: nothing is changed below its hands."""
    root = san.root()
    monkeypatch.setattr(root, "read_holders", lambda *_: ("qemu (pid 7)",))
    with pytest.raises(Busy, match="qemu"):
        san.storage(privileged=root).delete_zvol(PARENT, ZVOL)
    assert DELETED_MARK not in san.zfs.datasets[DATASET]


def test_its_last_clone_goes_meanwhile(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last clone went just before the mark stood, what was put aside goes as well."""
    assert isinstance(san.zfs, ZfsThatRenames)
    mark = san.zfs.set_properties

    def race(dataset: str, properties: Mapping[str, str]) -> None:
        del san.zfs.datasets[f"{PARENT}/{COPY}"], san.zfs.datasets[ORIGIN]
        mark(dataset, properties)

    monkeypatch.setattr(san.zfs, "set_properties", race)
    assert delete(san).changed
    assert names(san) == {PARENT}


def test_what_was_left_goes_with_the_next_figures(san: KeptSan) -> None:
    """What an agent left that died behind the last clone goes when the parent is counted."""
    delete(san)
    del san.zfs.datasets[f"{PARENT}/{COPY}"], san.zfs.datasets[f"{ASIDE}@{SNAPSHOT}"]
    san.storage().get_figures(PARENT)
    assert names(san) == {PARENT}


def test_a_strangers_snapshot_keeps_it(san: KeptSan) -> None:
    """An administrator's snapshot of what is put aside stays, and keeps no figures back."""
    delete(san)
    del san.zfs.datasets[f"{PARENT}/{COPY}"], san.zfs.datasets[f"{ASIDE}@{SNAPSHOT}"]
    san.zfs.add(f"{ASIDE}@autosnap", {})
    san.storage().get_figures(PARENT)
    assert names(san) == {PARENT, ASIDE, f"{ASIDE}@autosnap"}
    (kept,) = san.storage().list_put_aside(PARENT)
    assert kept.holders == (f"{ASIDE}@autosnap",)


def test_a_strangers_snapshot_is_in_the_way(san: KeptSan) -> None:
    """A zvol with a snapshot that is not ours is neither destroyed nor put aside; the snapshot is named."""
    san.zfs.add(f"{DATASET}@autosnap", {})
    with pytest.raises(Busy, match="autosnap"):
        delete(san)
    assert DELETED_MARK not in san.zfs.datasets[DATASET]


def test_a_clone_that_was_cut_short_is_no_reason(san: KeptSan) -> None:
    """The agent's own snapshot that a cut left undeleted is deleted on the way, and waits for its clone."""
    own = f"{DATASET}@zolder-clone-{COPY_ID}"
    del san.zfs.datasets[ORIGIN]
    san.zfs.add(own, {SNAPSHOT_MARK: f"zolder-clone-{COPY_ID}"})
    san.zfs.datasets[f"{PARENT}/{COPY}"]["origin"] = Property(own, None)
    assert delete(san).changed
    assert ASIDE in names(san)
    delete(san, COPY)
    assert names(san) == {PARENT}


def test_nobody_waits_for_ever(san: KeptSan) -> None:
    """What was put aside and is none any more is left alone."""
    assert asides.collect(san.zpool(), ZVOL, operation()) is None
    assert DATASET in names(san)
