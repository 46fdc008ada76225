from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.kept_san import (
    ALICE,
    BOB,
    DATASET,
    ID,
    PARENT,
    ROUTE,
    SNAPSHOT,
    VIEW_ID,
    ZVOL,
    KeptSan,
    access,
    attachment,
)
from tests.unit.kernel_tree import Killed
from zolder.errors import AlreadyExists, BackendError, DeadlineExceeded, Error, NotFound, NotPermitted
from zolder.model import Access, Change, Export
from zolder.names import AttachmentId, InitiatorName, SnapshotName, VolumeId, ZvolName, view_name
from zolder.san.libzfs import SNAPSHOT_MARK, VIEW_MARK, VOLUME_MARK, Property
from zolder.san.root import Root

VIEW = view_name(VIEW_ID)
VIEW_DATASET = f"{PARENT}/{VIEW}"
ORIGIN = f"{DATASET}@{SNAPSHOT}"


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that has one snapshot, and nobody who may reach either."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    return kept


def export(
    san: KeptSan,
    initiator: InitiatorName = ALICE,
    *,
    snapshot: SnapshotName = SNAPSHOT,
    view_id: VolumeId = VIEW_ID,
    use: AttachmentId | None = None,
) -> Change[Export]:
    """Open the snapshot to an initiator."""
    return san.storage().export_snapshot(
        PARENT, ZVOL, snapshot, initiator, view_id=view_id, route=ROUTE, attachment=use, chap=None
    )


def withdraw(
    san: KeptSan, initiator: InitiatorName | None = ALICE, use: AttachmentId | None = None
) -> Change[tuple[InitiatorName, ...]]:
    """Close it again."""
    return san.storage().withdraw_snapshot(PARENT, VIEW_ID, initiator, attachment=use)


def test_a_view_comes_and_goes(san: KeptSan) -> None:
    """A snapshot is read through a clone with its own mark, read-only, which goes with the last reader."""
    before = dict(san.zfs.datasets)
    assert export(san).value.zvol == VIEW
    assert san.zfs.datasets[VIEW_DATASET]["origin"].value == ORIGIN
    assert san.zfs.datasets[VIEW_DATASET][VIEW_MARK].value == VIEW_ID
    assert VOLUME_MARK not in san.zfs.datasets[VIEW_DATASET]
    (standing,) = san.lio.standing.values()
    assert (standing.read_only, standing.volume_id) == (True, VIEW_ID)
    assert export(san).changed is False
    export(san, BOB)
    assert withdraw(san) == Change(changed=True, value=(BOB,))
    assert VIEW_DATASET in san.zfs.datasets
    assert withdraw(san, BOB) == Change(changed=True, value=())
    assert withdraw(san, BOB) == Change(changed=False, value=())
    assert san.zfs.datasets == before
    assert san.reached_by() == {}


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, NotFound),
        ({}, NotPermitted),
        ({SNAPSHOT_MARK: Property("x", DATASET)}, NotPermitted),
        ({SNAPSHOT_MARK: Property("x", "$recvd")}, NotPermitted),
        ({SNAPSHOT_MARK: Property("x", ORIGIN), "defer_destroy": Property(1, None)}, NotFound),
    ],
)
def test_only_a_snapshot_of_ours_is_read(
    san: KeptSan, found: dict[str, Property] | None, error: type[Error]
) -> None:
    """One that is absent, deleted to its clients, or without a mark of its own is not cloned."""
    san.zfs.datasets[PARENT][SNAPSHOT_MARK] = Property("inherited", PARENT)
    if found is None:
        del san.zfs.datasets[ORIGIN]
    else:
        san.zfs.datasets[ORIGIN] = found
    with pytest.raises(error):
        export(san)
    assert san.steps.taken == []


@pytest.mark.parametrize(
    "squatter",
    [
        {"volsize": Property(1, None)},
        {"volsize": Property(1, None), VOLUME_MARK: Property(ID, VIEW_DATASET)},
        {"volsize": Property(1, None), VIEW_MARK: Property(VIEW_ID, PARENT)},
    ],
)
def test_what_has_a_views_name_and_is_none_is_left(san: KeptSan, squatter: dict[str, Property]) -> None:
    """A dataset that stands in a view's place without its mark is neither exported nor destroyed."""
    san.zfs.datasets[VIEW_DATASET] = squatter
    with pytest.raises(NotPermitted):
        export(san)
    with pytest.raises(NotPermitted):
        withdraw(san)
    assert san.zfs.datasets[VIEW_DATASET] == squatter


def test_a_view_of_another_snapshot(san: KeptSan) -> None:
    """One id is one snapshot's: a second is refused and the first one's readers go on."""
    export(san)
    san.zfs.add(f"{DATASET}@snapshot-2", {SNAPSHOT_MARK: "snapshot-2"})
    with pytest.raises(AlreadyExists, match="shows another snapshot"):
        export(san, BOB, snapshot=SnapshotName("snapshot-2"))
    assert san.reached_by() == {VIEW_DATASET: (ALICE,)}


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_failed_export_leaves_no_view(san: KeptSan, refused: int) -> None:
    """Where recording or opening fails, the clone that was made for it goes."""
    before = set(san.zfs.datasets)
    san.steps.start(refuse_at=refused)
    with pytest.raises(BackendError):
        export(san)
    assert set(san.zfs.datasets) == before
    assert san.reached_by() == {}


def test_a_view_that_cannot_be_taken_back_hides_nothing(
    san: KeptSan, caplog: pytest.LogCaptureFixture
) -> None:
    """While udev still looks into the new device it stays, the first error is told, and a repeat goes on."""
    san.zfs.busy.add(VIEW_DATASET)
    san.steps.start(refuse_at=2)
    with pytest.raises(BackendError, match="the kernel refuses to make"):
        export(san)
    assert f"could not take back {VIEW_DATASET}" in caplog.text
    san.steps.start()
    assert export(san).changed
    san.zfs.busy.clear()
    assert withdraw(san).changed
    assert VIEW_DATASET not in san.zfs.datasets


def test_an_export_of_a_snapshot_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill at every step of exporting and withdrawing, asking again ends it as without."""

    def begin(name: str, *, exported: bool) -> KeptSan:
        (tmp_path / name).mkdir()
        san = KeptSan(tmp_path / name)
        san.install(monkeypatch)
        if exported:
            export(san)
        san.steps.start()
        return san

    for exported, verb in ((False, export), (True, withdraw)):
        counted = begin(f"counted-{exported}", exported=exported)
        verb(counted)
        steps = len(counted.steps.taken)
        assert steps >= 4
        for step in range(steps):
            san = begin(f"{exported}-{step}", exported=exported)
            san.steps.start(kill_at=step)
            with pytest.raises(Killed):
                verb(san)
            san.steps.start()
            verb(san)
            assert san.zfs.datasets == counted.zfs.datasets, f"killed at step {step}"
            assert san.reached_by() == counted.reached_by(), f"killed at step {step}"


def test_no_verb_of_volumes_takes_a_view(san: KeptSan) -> None:
    """A view is no volume: it cannot be looked at, deleted, grown, snapshotted, cloned or exported as one."""
    export(san)
    before = {name: dict(found) for name, found in san.zfs.datasets.items()}
    storage, target = san.storage(), ZvolName("volume-2")
    size = 2**20
    attempts = (
        lambda: storage.get_zvol(PARENT, VIEW),
        lambda: storage.delete_zvol(PARENT, VIEW),
        lambda: storage.grow_zvol(PARENT, VIEW, volsize_bytes=2 * size),
        lambda: storage.create_snapshot(PARENT, VIEW, SNAPSHOT),
        lambda: storage.clone_zvol(PARENT, VIEW, None, target, volume_id=ID, volsize_bytes=size, sparse=True),
        lambda: storage.clone_zvol(
            PARENT, ZVOL, SNAPSHOT, VIEW, volume_id=ID, volsize_bytes=size, sparse=True
        ),
        lambda: storage.export_zvol(PARENT, VIEW, BOB, route=ROUTE, attachment=None, chap=None),
    )
    for attempt in attempts:
        with pytest.raises(NotPermitted):
            attempt()
    assert storage.list_zvols(PARENT) == (storage.get_zvol(PARENT, ZVOL),)
    assert {name: dict(found) for name, found in san.zfs.datasets.items()} == before
    assert san.reached_by() == {VIEW_DATASET: (ALICE,)}


def test_attachments_of_views_are_listed(san: KeptSan) -> None:
    """What is on record for a parent has the views' attachments among the volumes'."""
    export(san, use=attachment(3))
    san.storage().export_zvol(PARENT, ZVOL, BOB, route=ROUTE, attachment=None, chap=None)
    assert san.storage().list_attachments(PARENT) == (
        Access(ZVOL, BOB, None),
        Access(VIEW, ALICE, attachment(3)),
    )


def test_many_at_once_are_done_one_by_one(san: KeptSan) -> None:
    """Each that fails is told with its code and keeps none of the others from being done."""
    wanted = (
        access(),
        access(zvol=ZvolName("volume-9")),
        access(number=2),
        access(zvol=VIEW),
        access(BOB, None),
    )
    first = san.storage().ensure_exports(PARENT, wanted, route=ROUTE)
    assert first.changed
    assert [(refusal.zvol, refusal.initiator, refusal.code) for refusal in first.value] == [
        ("volume-9", ALICE, "not_found"),
        (VIEW, ALICE, "not_found"),
    ]
    assert all(refusal.message for refusal in first.value)
    assert san.storage().list_attachments(PARENT) == (access(), access(number=2), access(BOB, None))
    again = san.storage().ensure_exports(PARENT, wanted, route=ROUTE)
    assert again == Change(changed=False, value=first.value)
    assert san.agrees()


def test_many_at_once_withdraw_nothing(san: KeptSan) -> None:
    """Whom a batch leaves out keeps what it has."""
    san.storage().ensure_exports(PARENT, (access(), access(BOB)), route=ROUTE)
    assert not san.storage().ensure_exports(PARENT, (access(BOB),), route=ROUTE).changed
    assert not san.storage().ensure_exports(PARENT, (), route=ROUTE).changed
    assert san.reached_by() == {DATASET: (ALICE, BOB)}


def test_many_at_once_end_with_the_deadline(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up the rest is not begun, and what was done stays."""
    now = time.monotonic()

    class Slow(Root):
        def open_export(self, *args: object, **kwargs: object) -> bool:
            if san.steps.taken.count("let in") == 1:
                monkeypatch.setattr("zolder.san.operation.time.monotonic", lambda: now + 60)
                message = "the deadline passed before the SAN could begin"
                raise DeadlineExceeded(message)
            return super().open_export(*args, **kwargs)  # type: ignore[arg-type]  # whatever it was asked

    root = san.root()
    root.__class__ = Slow
    with pytest.raises(DeadlineExceeded):
        san.storage(privileged=root).ensure_exports(
            PARENT, (access(), access(BOB), access(BOB, 2)), route=ROUTE
        )
    assert san.reached_by() == {DATASET: (ALICE,)}
    assert san.agrees()
