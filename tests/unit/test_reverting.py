"""A revert past what clones need: cut at any step, refused at any step, and settled by whoever comes next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.ending_san import ASIDE, COPY, COPY_ID, ORIGIN, begin
from tests.unit.kept_san import ALICE, DATASET, ID, PARENT, POLICY, ROUTE, SNAPSHOT, ZVOL, KeptSan
from tests.unit.kernel_tree import Killed
from zolder.errors import BackendError, Busy, NotFound, NotPermitted
from zolder.model import Change, Zvol, ZvolSnapshot
from zolder.names import SnapshotName, ZvolName, reverted_name
from zolder.san.libzfs import (
    CONTENTS_NOTE,
    DELETED_MARK,
    REVERT_MARK,
    REVERT_NOTE,
    SNAPSHOT_MARK,
    VOLUME_MARK,
    Property,
)
from zolder.san.reverting import unsettled_in
from zolder.san.storage import ZfsStorage

OLDER = SnapshotName("snapshot-0")
LATER = f"{DATASET}@zolder-clone-{COPY_ID}"
CLONE = f"{PARENT}/{reverted_name(ZVOL)}"
SIZE = 2**20
WHOLE = {PARENT, DATASET, f"{DATASET}@{OLDER}", ORIGIN, LATER, f"{PARENT}/{COPY}"}
DONE = {
    PARENT,
    DATASET,
    f"{DATASET}@{OLDER}",
    ORIGIN,
    ASIDE,
    LATER.replace(DATASET, ASIDE),
    f"{PARENT}/{COPY}",
}


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> KeptSan:
    """Return a SAN with a zvol that has two snapshots, and behind them one that a clone needs."""
    san = begin(folder, patch)
    for leaf, taken in ((OLDER, 1), (SNAPSHOT, 2), (LATER.partition("@")[2], 5)):
        name = f"{DATASET}@{leaf}"
        san.zfs.add(name, {SNAPSHOT_MARK: leaf})
        san.zfs.datasets[name] |= {"createtxg": Property(taken, None), "volsize": Property(SIZE, None)}
    san.zfs.datasets[LATER]["defer_destroy"] = Property(1, None)
    san.zfs.datasets[f"{PARENT}/{COPY}"]["origin"] = Property(LATER, None)
    return san


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN as `prepare` has it."""
    return prepare(tmp_path / "san", monkeypatch)


def revert(san: KeptSan) -> Change[Zvol]:
    """Revert the zvol, always as the same operation."""
    return san.storage().revert_zvol(PARENT, ZVOL, SNAPSHOT, volsize_bytes=SIZE)


def names(san: KeptSan) -> set[str]:
    """Return all that is in the zpool."""
    return set(san.zfs.datasets)


def is_clean(san: KeptSan) -> bool:
    """Whether the zvol is the volume, with nothing of a revert that is under way."""
    found = san.zfs.datasets[DATASET]
    return found[VOLUME_MARK].value == ID and not {REVERT_MARK, DELETED_MARK} & found.keys()


def count_steps(folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Return how many steps such a revert has."""
    san = prepare(folder, patch)
    san.steps.start()
    revert(san)
    assert (names(san), is_clean(san)) == (DONE, True)
    return len(san.steps.taken)


def each_cut(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[int, KeptSan]]:
    """Yield a SAN for each step before which a revert was killed."""
    for step in range(count_steps(folder / "counted", patch)):
        san = prepare(folder / str(step), patch)
        san.steps.start(kill_at=step)
        with pytest.raises(Killed):
            revert(san)
        san.steps.start()
        yield step, san


def test_the_steps(san: KeptSan) -> None:
    """The zvol is hidden before anything of it moves, and the clone shows last."""
    san.steps.start()
    assert revert(san).changed
    assert san.steps.taken == [
        "clone",
        "mark",
        "promote",
        f"set {REVERT_MARK}",
        "roll back",
        "rename",
        "rename",
        f"inherit {REVERT_MARK}",
    ]
    (kept,) = san.storage().list_put_aside(PARENT)
    assert (kept.reverted, kept.volume_id, kept.holders) == (True, ID, (f"{PARENT}/{COPY}",))


def test_asked_twice(san: KeptSan) -> None:
    """A repeat of the same operation is answered and not redone."""
    revert(san)
    san.steps.start()
    assert not revert(san).changed
    assert san.steps.taken == []


def test_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill at every step, asking again ends it as without."""
    for step, san in each_cut(tmp_path, monkeypatch):
        revert(san)
        assert (names(san), is_clean(san)) == (DONE, True), f"killed at step {step}"


NEXT: dict[str, Callable[[ZfsStorage], object]] = {
    "get": lambda storage: storage.get_zvol(PARENT, ZVOL),
    "grow": lambda storage: storage.grow_zvol(PARENT, ZVOL, volsize_bytes=SIZE),
    "delete the older snapshot": lambda storage: storage.delete_snapshot(PARENT, ZVOL, OLDER),
    "export": lambda storage: storage.export_zvol(
        PARENT, ZVOL, ALICE, route=ROUTE, attachment=None, chap=None
    ),
    "clone": lambda storage: storage.clone_zvol(
        PARENT, ZVOL, OLDER, ZvolName("volume-3"), volume_id=ID, volsize_bytes=SIZE, sparse=True
    ),
    "count": lambda storage: storage.get_figures(PARENT),
}


@pytest.mark.parametrize("asked", NEXT)
def test_whoever_comes_next_settles_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """After a kill at any step any request finds the zvol whole, as it was or reverted."""
    for step, san in each_cut(tmp_path, monkeypatch):
        NEXT[asked](san.storage())
        san.storage().get_zvol(PARENT, ZVOL)  # what asks for a snapshot alone may have missed nothing
        assert is_clean(san), f"killed at step {step}"
        reverted = REVERT_NOTE in san.zfs.datasets[DATASET]
        assert reverted is (step > 1), f"killed at step {step}"
        made = {CLONE} if step == 1 and asked != "count" else set()  # nobody missed the zvol yet
        gone = {f"{DATASET}@{OLDER}"} if "delete" in asked else set()
        added = {f"{PARENT}/volume-3"} if asked == "clone" else set()
        assert names(san) == (DONE if reverted else WHOLE) - gone | made | added, f"killed at step {step}"


def test_a_delete_settles_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted after a kill at any step, a zvol leaves nothing, and nothing comes back."""
    for step, san in each_cut(tmp_path, monkeypatch):
        for name in (SNAPSHOT, OLDER):
            san.storage().delete_snapshot(PARENT, ZVOL, name)
        san.storage().delete_zvol(PARENT, ZVOL)
        san.storage().delete_zvol(PARENT, COPY)
        assert names(san) == {PARENT}, f"killed at step {step}"


@pytest.mark.parametrize("step", [0, 2])
def test_refused_before_it_counts(san: KeptSan, step: int) -> None:
    """Where ZFS makes no clone, or promotes none, the zvol is as it was."""
    san.steps.start(refuse_at=step)
    with pytest.raises(BackendError):
        revert(san)
    assert (names(san), is_clean(san)) == (WHOLE, True)


def test_a_strangers_dataset_has_the_clones_name(san: KeptSan) -> None:
    """What is not ours is neither used nor destroyed."""
    san.zfs.add(CLONE, {"volsize": SIZE, VOLUME_MARK: ID})
    with pytest.raises(NotPermitted):
        revert(san)
    assert CLONE in names(san)
    assert is_clean(san)


def test_a_strangers_snapshot_came_after(san: KeptSan) -> None:
    """A snapshot that somebody else took later is named and stays."""
    san.zfs.add(f"{DATASET}@autosnap", {})
    san.zfs.datasets[f"{DATASET}@autosnap"]["createtxg"] = Property(7, None)
    with pytest.raises(Busy, match="autosnap"):
        revert(san)
    assert names(san) == WHOLE | {f"{DATASET}@autosnap"}


def test_a_mark_that_somebody_wrote(san: KeptSan) -> None:
    """A mark that no revert wrote is nobody's to settle, and is not taken away."""
    san.zfs.datasets[DATASET][REVERT_MARK] = Property("begun ../x", DATASET)
    assert unsettled_in(san.zfs.children(PARENT)) == []
    assert not san.storage().settle(PARENT, ZVOL)
    assert REVERT_MARK in san.zfs.datasets[DATASET]


def test_the_last_clone_ends_behind_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cut revert has hidden does not go with its last clone: the volume is whole."""
    for step, san in each_cut(tmp_path, monkeypatch):
        san.storage().delete_zvol(PARENT, COPY)
        san.storage().get_zvol(PARENT, ZVOL)
        san.storage().get_figures(PARENT)
        assert is_clean(san), f"killed at step {step}"
        assert {DATASET, f"{DATASET}@{OLDER}", ORIGIN} <= names(san), f"killed at step {step}"
        assert not names(san) & {ASIDE, CLONE}, f"killed at step {step}"


def test_a_reader_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity that may only look settles nothing, and is not told that the volume is absent."""
    reader = dataclasses.replace(POLICY, role="read-only")
    for step, san in each_cut(tmp_path, monkeypatch):
        if step < 2:
            continue  # not hidden yet
        for name in (ZVOL, ZvolName(CLONE.rpartition("/")[2])):
            with suppress(Busy, NotFound):
                san.storage(reader).get_zvol(PARENT, name)
        assert san.steps.taken == [], f"killed at step {step}"


def test_the_agents_own_names_are_no_volumes() -> None:
    """No request reaches what is no volume any more, or none yet, by its name."""
    for name in (CLONE, ASIDE):
        leaf = ZvolName(name.rpartition("/")[2])
        for arguments in (
            {"zvol": leaf},
            {"source": leaf},
            {"members": (ZvolSnapshot(PARENT, leaf, OLDER),)},
        ):
            with pytest.raises(NotPermitted, match="agent's own"):
                POLICY.check("get_zvol", {"parent": PARENT, **arguments})


def test_a_write_that_was_cut_does_not_go_on_behind_it(san: KeptSan) -> None:
    """A revert in place takes the note of an unfinished write away."""
    san.storage().delete_zvol(PARENT, COPY)
    san.zfs.datasets[DATASET][CONTENTS_NOTE] = Property("00000000-0000-4000-8000-000000000009 begun", DATASET)
    revert(san)
    assert CONTENTS_NOTE not in san.zfs.datasets[DATASET]
