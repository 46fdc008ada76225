from __future__ import annotations

import io
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import wait_until
from zolder.cli.finding import HEADINGS, Finding, Kind
from zolder.cli.orphans import compare
from zolder.cli.progress import Progress
from zolder.cli.sides import AttachmentRow, CinderSide, SanSide, SnapshotRow, VolumeRow
from zolder.model import Access, Export, Zvol
from zolder.names import (
    LIO,
    AttachmentId,
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    VolumeId,
    ZvolName,
    view_name,
)

PARENT = DatasetName("data/volumes")
PORTAL = Portal("192.0.2.1:3260")
GIB = 2**30
MACHINES = tuple(InitiatorName(f"iqn.2004-10.org.example:m{number}") for number in range(4))
STRANGER = InitiatorName("iqn.2004-10.org.example:stranger")
MOVING = (
    "creating",
    "deleting",
    "backing-up",
    "uploading",
    "downloading",
    "retyping",
    "extending",
    "attaching",
)


@dataclass
class World:
    """Both sides, to be brought apart: what is planted is planted on one of them."""

    volumes: dict[ZvolName, VolumeRow] = field(default_factory=dict)
    snapshots: list[SnapshotRow] = field(default_factory=list)
    zvols: dict[ZvolName, Zvol] = field(default_factory=dict)
    on_san: set[tuple[ZvolName, SnapshotName]] = field(default_factory=set)
    records: list[Access] = field(default_factory=list)
    # What stands is what is on record, and these beside it, without those.
    standing: set[tuple[ZvolName, InitiatorName]] = field(default_factory=set)
    shut: set[tuple[ZvolName, InitiatorName]] = field(default_factory=set)
    more: dict[str, Any] = field(default_factory=dict)

    def sides(self) -> tuple[CinderSide, SanSide]:
        """Return both as they are compared."""
        reach = ({(access.zvol, access.initiator) for access in self.records} | self.standing) - self.shut
        exports = tuple(
            Export(zvol, LIO, f"iqn.2010-10.org.openstack:{zvol}", (PORTAL,), 0, who)
            for zvol in sorted({zvol for zvol, _ in reach})
            if (who := tuple(sorted(initiator for name, initiator in reach if name == zvol)))
        )
        return (
            CinderSide(dict(self.volumes), tuple(self.snapshots), **self.more),
            SanSide(dict(self.zvols), frozenset(self.on_san), exports, tuple(self.records)),
        )

    def found(self) -> tuple[Finding, ...]:
        """Compare."""
        return compare(PARENT, *self.sides())

    def change(self, zvol: ZvolName, **fields: Any) -> None:  # noqa: ANN401 - of each field's own type
        """Have Cinder's row of a volume say something else."""
        self.volumes[zvol] = replace(self.volumes[zvol], **fields)

    def add_volume(self, *, status: str = "available", size_gib: int = 1) -> ZvolName:
        """Have a volume on both sides."""
        identifier = new_id()
        name = ZvolName(f"volume-{identifier}")
        self.volumes[name] = VolumeRow(
            identifier,
            identifier,
            name,
            size_gib * GIB,
            status,
            None,
            f"control@zolder#{PARENT}",
            was_made=True,
        )
        self.zvols[name] = Zvol(PARENT, name, VolumeId(identifier), size_gib * GIB, sparse=True)
        return name

    def add_snapshot(self, zvol: ZvolName) -> SnapshotRow:
        """Have a snapshot on both sides."""
        row = new_snapshot(zvol)
        self.snapshots.append(row)
        self.on_san.add((zvol, row.name))
        return row

    def attach(self, zvol: ZvolName, initiator: InitiatorName, *, named: bool = True) -> AttachmentRow:
        """Have an attachment on both sides, under an id or without one."""
        row = AttachmentRow(
            new_id(), "attached", True, (initiator,), AttachmentId(new_id()) if named else None
        )  # fmt: skip
        self.change(zvol, status="in-use", attachments=(*self.volumes[zvol].attachments, row))
        access = Access(zvol, initiator, row.attachment)
        if access not in self.records:
            self.records.append(access)
        return row


def new_id() -> str:
    """Return a fresh UUID."""
    return str(uuid.uuid4())


def new_snapshot(zvol: ZvolName) -> SnapshotRow:
    """Return the row of a snapshot that the SAN need not have."""
    identifier = new_id()
    return SnapshotRow(identifier, zvol, SnapshotName(f"snapshot-{identifier}"), "available")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Return volumes with snapshots and attachments that are the same on both sides."""
    world = World()
    for _ in range(draw(st.integers(1, 4))):
        zvol = world.add_volume(size_gib=draw(st.integers(1, 9)))
        for _ in range(draw(st.integers(0, 2))):
            world.add_snapshot(zvol)
        for machine in draw(st.lists(st.sampled_from(MACHINES), max_size=4)):
            world.attach(zvol, machine, named=draw(st.booleans()))
    return world


def plant_zvol(world: World, zvol: ZvolName) -> ZvolName:  # noqa: ARG001 - as the other plants
    """A zvol of which Cinder knows nothing."""
    name = world.add_volume()
    del world.volumes[name]
    return name


def plant_volume(world: World, zvol: ZvolName) -> ZvolName:  # noqa: ARG001 - as the other plants
    """A volume without its zvol, and so without its snapshot."""
    name = world.add_volume()
    del world.zvols[name]
    world.snapshots.append(new_snapshot(name))
    return name


def plant_snapshot_on_san(world: World, zvol: ZvolName) -> ZvolName:
    """A snapshot of which Cinder knows nothing."""
    world.on_san.add((zvol, SnapshotName("snapshot-x")))
    return zvol


def plant_snapshot_in_cinder(world: World, zvol: ZvolName) -> ZvolName:
    """A snapshot that the SAN does not have."""
    world.snapshots.append(new_snapshot(zvol))
    return zvol


def plant_record(world: World, zvol: ZvolName) -> ZvolName:
    """An attachment on record that Cinder does not have."""
    world.records.append(Access(zvol, STRANGER, AttachmentId(new_id())))
    return zvol


def plant_unnamed_record(world: World, zvol: ZvolName) -> ZvolName:
    """An attachment on record, as Cinder makes for itself, while it does nothing."""
    world.records.append(Access(zvol, STRANGER, None))
    return zvol


def plant_row(world: World, zvol: ZvolName) -> ZvolName:
    """An attachment in Cinder that is not on record."""
    world.attach(zvol, STRANGER)
    world.records.pop()
    return zvol


def plant_export(world: World, zvol: ZvolName) -> ZvolName:
    """An export for somebody who is not on record."""
    world.standing.add((zvol, STRANGER))
    return zvol


def plant_shut(world: World, zvol: ZvolName) -> ZvolName:
    """An attachment on both sides that is not exported."""
    world.attach(zvol, STRANGER)
    world.shut.add((zvol, STRANGER))
    return zvol


def plant_view(world: World, zvol: ZvolName) -> ZvolName:
    """A snapshot that can be read, and is not being backed up."""
    view = view_name(VolumeId(world.add_snapshot(zvol).id))
    world.records.append(Access(view, STRANGER, None))
    return view


def plant_size(world: World, zvol: ZvolName) -> ZvolName:
    """A volume that Cinder takes for larger."""
    world.change(zvol, size_bytes=world.volumes[zvol].size_bytes + GIB)
    return zvol


def plant_mark(world: World, zvol: ZvolName) -> ZvolName:
    """A zvol that bears the mark of another volume."""
    world.zvols[zvol] = replace(world.zvols[zvol], volume_id=VolumeId(new_id()))
    return zvol


PLANTS: dict[Callable[[World, ZvolName], ZvolName], Kind] = {
    plant_zvol: Kind.ZVOL_ONLY_ON_SAN,
    plant_volume: Kind.VOLUME_ONLY_IN_CINDER,
    plant_snapshot_on_san: Kind.SNAPSHOT_ONLY_ON_SAN,
    plant_snapshot_in_cinder: Kind.SNAPSHOT_ONLY_IN_CINDER,
    plant_record: Kind.ATTACHMENT_ONLY_ON_SAN,
    plant_unnamed_record: Kind.ATTACHMENT_ONLY_ON_SAN,
    plant_row: Kind.ATTACHMENT_ONLY_IN_CINDER,
    plant_export: Kind.EXPORT_ONLY,
    plant_shut: Kind.RECORD_ONLY,
    plant_view: Kind.VIEW_LEFT,
    plant_size: Kind.SIZE_DIFFERS,
    plant_mark: Kind.MARK_DIFFERS,
}
by_plant = pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.removeprefix("plant_"))


def test_every_kind_is_planted() -> None:
    """Every kind has a difference below that makes it, and a heading."""
    assert set(PLANTS.values()) == set(Kind) == set(HEADINGS)


@given(worlds())
def test_consistent_sides_give_nothing(world: World) -> None:
    """Two sides that say the same give no finding, whatever is attached to whom."""
    assert world.found() == ()


@by_plant
@given(world=worlds(), data=st.data())
def test_difference_gives_its_finding(
    plant: Callable[[World, ZvolName], ZvolName], world: World, data: st.DataObject
) -> None:
    """One difference gives one finding, of its kind and about its zvol, and nothing else does."""
    zvol = plant(world, data.draw(st.sampled_from(sorted(world.volumes))))
    (finding,) = world.found()
    assert finding.kind == PLANTS[plant]
    assert finding.thing.partition("@")[0] == f"{PARENT}/{zvol}"


@pytest.mark.parametrize("status", MOVING)
@pytest.mark.parametrize("plant", [
    plant_record, plant_unnamed_record, plant_row, plant_view, plant_size, plant_mark, plant_snapshot_on_san,
    plant_snapshot_in_cinder,
], ids=lambda plant: plant.__name__)  # fmt: skip
def test_what_moves_is_left_out(status: str, plant: Callable[[World, ZvolName], ZvolName]) -> None:
    """While Cinder works on a volume nothing about it is a finding."""
    world = World()
    zvol = world.add_volume()
    plant(world, zvol)
    world.change(zvol, status=status)
    assert world.found() == ()


@pytest.mark.parametrize("migration", ["migrating", "completing", "target:x", "deleting", "starting"])
def test_migration_is_left_out(migration: str) -> None:
    """Neither half of a migration is a finding, with its zvol or without."""
    world = World()
    source, target = world.add_volume(), world.add_volume()
    for zvol in (source, target):
        world.change(zvol, migration_status=migration)
    del world.zvols[target]
    assert world.found() == ()


@pytest.mark.parametrize("migration", [None, "none", "success", "error"])
def test_ended_migration_counts(migration: str | None) -> None:
    """A volume whose migration has ended, either way, is looked at as any other."""
    world = World()
    zvol = world.add_volume()
    world.change(zvol, migration_status=migration)
    del world.zvols[zvol]
    assert [finding.kind for finding in world.found()] == [Kind.VOLUME_ONLY_IN_CINDER]


def test_migrated_volume_is_known_by_name_id() -> None:
    """A migrated volume's zvol bears the id that it was made under, and is no finding."""
    world = World()
    zvol = world.add_volume()
    world.change(zvol, id=new_id())
    assert world.found() == ()


def test_failed_creation_is_expected() -> None:
    """A volume that was never made is said to have no zvol as expected; one that was, to be lost."""
    world = World()
    never, once = world.add_volume(status="error"), world.add_volume(status="error")
    world.change(never, was_made=False)
    world.zvols.clear()
    said = {finding.volume_id: finding.meaning for finding in world.found()}
    assert "to be expected" in said[world.volumes[never].id]
    assert "lost" in said[world.volumes[once].id]


def test_zvol_of_another_back_end_is_none_of_ours() -> None:
    """A zvol that Cinder has at another back end over this parent is no finding, nor is who reaches it."""
    world = World()
    zvol = world.add_volume()
    world.add_snapshot(zvol)
    world.attach(zvol, MACHINES[0])
    world.snapshots.clear()
    world.more = {"others": {zvol: world.volumes.pop(zvol)}}
    assert world.found() == ()


@pytest.mark.parametrize("known", [True, False])
def test_zvol_without_a_volume_is_not_provably_ours(known: bool) -> None:  # noqa: FBT001 - pytest's way
    """Who reaches a zvol is repaired where Cinder has deleted its volume, and not where it never had one."""
    world = World()
    zvol = world.add_volume()
    world.attach(zvol, MACHINES[0])
    row = world.volumes.pop(zvol)
    world.more = {"deleted": {zvol: row}} if known else {}
    findings = {finding.kind: finding for finding in world.found()}
    assert set(findings) == {Kind.ATTACHMENT_ONLY_ON_SAN, Kind.ZVOL_ONLY_ON_SAN}
    assert findings[Kind.ATTACHMENT_ONLY_ON_SAN].repairable is known
    assert not findings[Kind.ZVOL_ONLY_ON_SAN].repairable


def test_reserved_attachment_forbids_the_repair() -> None:
    """While an attachment is reserved, a record without a row may be its own: it is not repaired."""
    world = World()
    zvol = world.add_volume()
    world.change(zvol, attachments=(AttachmentRow(new_id(), "reserved", has_connector=False),))
    plant_record(world, zvol)
    (finding,) = world.found()
    assert finding.kind == Kind.ATTACHMENT_ONLY_ON_SAN
    assert not finding.repairable


def test_row_of_the_old_call_may_be_anybodys() -> None:
    """An attachment by the old call has no connector in Cinder, so a record is not held against it."""
    world = World()
    zvol = world.add_volume(status="in-use")
    world.change(zvol, attachments=(AttachmentRow(new_id(), "attached", has_connector=False),))
    plant_unnamed_record(world, zvol)
    assert world.found() == ()


def test_temporary_volume_of_a_revert_is_no_finding() -> None:
    """It is in-use, has no row, and is attached by Cinder itself: to cut it would spoil the revert."""
    world = World()
    zvol = world.add_volume(status="in-use")
    plant_unnamed_record(world, zvol)
    assert world.found() == ()


@pytest.mark.parametrize("plant", [plant_record, plant_unnamed_record], ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("attached", [True, False])
def test_what_is_no_temporary_volume_is_found(
    plant: Callable[[World, ZvolName], ZvolName],
    attached: bool,  # noqa: FBT001 - pytest's way
) -> None:
    """In-use with a row, or with an id on record, is no revert's; nor is what is available."""
    world = World()
    zvol = world.add_volume(status="in-use" if plant is plant_record else "available")
    if attached:
        world.attach(zvol, MACHINES[0])
    plant(world, zvol)
    (finding,) = world.found()
    assert (finding.kind, finding.repairable) == (Kind.ATTACHMENT_ONLY_ON_SAN, True)


def test_id_counts_for_its_initiator_alone() -> None:
    """A record that has a row's id and another's name is a finding, and so is the row."""
    world = World()
    zvol = world.add_volume()
    row = world.attach(zvol, MACHINES[0])
    world.records[:] = [Access(zvol, STRANGER, row.attachment)]
    assert [finding.kind for finding in world.found()] == [
        Kind.ATTACHMENT_ONLY_ON_SAN,
        Kind.ATTACHMENT_ONLY_IN_CINDER,
    ]


@pytest.mark.parametrize("status", ["attaching", "detached", "reserved", "error_attaching"])
def test_only_attached_rows_need_a_record(status: str) -> None:
    """A row that is not attached, or not yet, needs no record on the SAN."""
    world = World()
    zvol = world.add_volume()
    row = world.attach(zvol, MACHINES[0])
    world.records.clear()
    world.change(zvol, attachments=(replace(row, status=status),))
    assert world.found() == ()


def test_nvme_name_of_a_connector_counts() -> None:
    """A connector has two names, and the SAN's record is under the one of the volume's protocol."""
    world = World()
    zvol = world.add_volume()
    row = world.attach(zvol, MACHINES[0])
    nqn = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:6a0a3a56-0000-4000-8000-000000000001")
    world.change(zvol, attachments=(replace(row, initiators=(MACHINES[0], nqn)),))
    world.records[:] = [Access(zvol, nqn, row.attachment)]
    assert world.found() == ()


@pytest.mark.parametrize("status", ["backing-up", "restoring"])
def test_view_of_a_backup_is_no_finding(status: str) -> None:
    """A snapshot that is being backed up is read through a view."""
    world = World()
    zvol = world.add_volume()
    plant_view(world, zvol)
    world.snapshots[:] = [replace(row, status=status) for row in world.snapshots]
    assert world.found() == ()


def test_view_without_a_snapshot() -> None:
    """A view of a snapshot that Cinder does not know is found, and not repaired."""
    world = World()
    zvol = world.add_volume()
    plant_view(world, zvol)
    world.on_san.clear()
    world.snapshots.clear()
    (finding,) = world.found()
    assert (finding.kind, finding.repairable) == (Kind.VIEW_LEFT, False)


def test_empty_target_without_a_record() -> None:
    """A target that lets nobody in is not wanted, or waits for the secrets of those on record."""
    world = World()
    zvol = world.add_volume()
    cinder, san = world.sides()
    empty = Export(zvol, LIO, "iqn.2010-10.org.openstack:x", (PORTAL,), 0, ())
    assert [found.kind for found in compare(PARENT, cinder, replace(san, exports=(empty,)))] == [
        Kind.EXPORT_ONLY
    ]
    world.attach(zvol, MACHINES[0])
    cinder, san = world.sides()
    shut = compare(PARENT, cinder, replace(san, exports=(empty,), secrets_missing=1))
    assert [found.kind for found in shut] == [Kind.RECORD_ONLY]
    assert "1 exports wait for their secrets: cinder-volume sends those of attachments" in shut[0].meaning


def test_no_advice_destroys_more_than_it_names() -> None:
    """No sentence tells anybody to destroy anything recursively."""
    for plant in PLANTS:
        world = World()
        zvol = world.add_volume()
        world.add_snapshot(zvol)
        plant(world, zvol)
        assert all("destroy -" not in finding.advice for finding in world.found())


def test_worst_comes_first() -> None:
    """What somebody may reach without a right to is said before all else."""
    world = World()
    for plant in PLANTS:
        plant(world, world.add_volume())
    kinds = [finding.kind for finding in world.found()]
    assert kinds == sorted(kinds, key=list(Kind).index)
    assert kinds[0] == Kind.ATTACHMENT_ONLY_ON_SAN


def test_progress_is_said_of_what_takes_long() -> None:
    """What lasts is said while it lasts, and how long it took; what is quick is not."""
    stream = io.StringIO()
    progress = Progress(stream, patience_seconds=0.01)
    with progress("listing"):
        wait_until(lambda: "listing ..." in stream.getvalue(), 5, "progress to be said")
    assert "listing: 0 seconds" in stream.getvalue()
    quiet = io.StringIO()
    with Progress(quiet, patience_seconds=60)("listing"):
        assert time.monotonic() > 0
    assert not quiet.getvalue()
