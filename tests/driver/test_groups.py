"""Generic groups, driven by Cinder's own manager over its own database."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects
from cinder.db import api as db_api
from cinder.volume import manager as volume_manager
from cinder.volume import volume_utils

from tests.driver.conftest import PARENT, new_volume
from tests.driver.test_records import BACKEND, Cinder, Database, database
from zolder.cinder.driver import ZolderDriver
from zolder.errors import BackendError, Busy, Error
from zolder.fake import FakeStorage
from zolder.model import Change, Zvol, ZvolCopy, ZvolSnapshot
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName
from zolder.properties import INHERITED, BlockSize, ZvolProperties

__all__ = ["database"]  # a fixture is found by its name here
BLOCK = b"x" * 4096
FAST = DatasetName("fast/volumes")
PARENTS = f"san_zfs_volume_base = {PARENT}, {FAST}"


class TroubledSan(FakeStorage):
    """A SAN on which something fails of chosen zvols, and that notes what was asked of snapshots."""

    def __init__(self) -> None:
        """Start empty and without trouble."""
        super().__init__((PARENT, FAST), capacity_bytes=100 * 2**30)
        self.trouble: dict[str, Error] = {}
        self.together: list[int] = []
        self.clones_left = 100

    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        self._fail(zvol)
        return super().delete_zvol(parent, zvol)

    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        self._fail(zvol)
        return super().delete_snapshot(parent, zvol, snapshot)

    def clone_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        snapshot: SnapshotName | None,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        volsize_bytes: int,
        sparse: bool,
        properties: ZvolProperties = INHERITED,
        volblocksize: BlockSize | None = None,
    ) -> Change[Zvol]:
        self._count_clones(1)
        return super().clone_zvol(
            parent,
            source,
            snapshot,
            zvol,
            volume_id=volume_id,
            volsize_bytes=volsize_bytes,
            sparse=sparse,
            properties=properties,
            volblocksize=volblocksize,
        )

    def clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], *, moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        self.together.append(len(copies))
        self._count_clones(len(copies))
        return super().clone_zvols(parent, copies, moment=moment)

    def create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        self.together.append(len(members))
        for member in members:
            self._fail(member.zvol)
        return super().create_snapshots(parent, members)

    def _count_clones(self, more: int) -> None:
        self.clones_left -= more
        if self.clones_left < 0:
            message = "no more"
            raise BackendError(message)

    def _fail(self, zvol: ZvolName) -> None:
        if zvol in self.trouble:
            raise self.trouble[zvol]


class Groups(Cinder):
    """Cinder's manager, with groups of a type that is consistent or not."""

    def __init__(self, driver: ZolderDriver, san: TroubledSan, *, consistent: bool) -> None:
        """Make the type."""
        super().__init__(driver)
        self.san = san
        specs = {"consistent_group_snapshot_enabled": "<is> True"} if consistent else {}
        kind = db_api.group_type_create(self.context, {"name": uuid.uuid4().hex, "group_specs": specs})
        self.kind: str = kind["id"]
        self.manager.stats = {"allocated_capacity_gb": 0, "pools": {}}
        for name in (
            "_notify_about_group_usage",
            "_notify_about_group_snapshot_usage",
            "_notify_about_snapshot_usage",
            "publish_service_capabilities",
        ):
            setattr(self.manager, name, lambda *_, **__: None)

    def new_group(self, *members: objects.Volume, **fields: str) -> objects.Group:
        """Create a group and put volumes into it, as the manager does."""
        group = self.record(objects.Group, name="group", group_type_id=self.kind, **fields)
        self.manager.create_group(self.context, group)
        self.manager.update_group(self.context, group, add_volumes=",".join(one.id for one in members))
        return objects.Group.get_by_id(self.context, group.id)

    def snapshot(self, group: objects.Group) -> objects.GroupSnapshot:
        """Snapshot a group as the API and then the manager do."""
        whole = self.record(objects.GroupSnapshot, group_id=group.id, group_type_id=self.kind, name="moment")
        for volume in objects.VolumeList.get_all_by_generic_group(self.context, group.id):
            self.record(
                objects.Snapshot,
                volume_id=volume.id,
                volume_size=volume.size,
                group_snapshot_id=whole.id,
                volume_type_id=volume.volume_type_id,
            )
        self.manager.create_group_snapshot(self.context, whole)
        return whole

    def copy(self, group: objects.Group, whole: objects.GroupSnapshot | None = None) -> objects.Group:
        """Create a group from a group, or from its snapshot."""
        copy = self.record(objects.Group, name="copy", group_type_id=self.kind)
        for source in objects.VolumeList.get_all_by_generic_group(self.context, group.id):
            taken = [one for one in self.snapshots(whole) if one.volume_id == source.id] if whole else []
            fields = {"snapshot_id": taken[0].id} if taken else {"source_volid": source.id}
            self.record(
                objects.Volume,
                size=source.size,
                group_id=copy.id,
                volume_type_id=source.volume_type_id,
                attach_status="detached",
                **fields,
            )
        group = None if whole else group
        self.manager.create_group_from_src(self.context, copy, group_snapshot=whole, source_group=group)
        return copy

    def record(self, kind: Any, **fields: object) -> Any:  # noqa: ANN401 - one of Cinder's objects
        """Create a row in Cinder's database."""
        owner = {"project_id": self.context.project_id, "user_id": uuid.uuid4().hex, "status": "creating"}
        place = {} if kind in {objects.GroupSnapshot, objects.Snapshot} else {"host": f"{BACKEND}#{PARENT}"}
        made = kind(self.context, **{**owner, **place, **fields})
        made.create()
        return made

    def asked_for(self, parent: DatasetName, **fields: str) -> objects.Volume:
        """Return a volume that the scheduler has placed, and that is to be made."""
        kind = self.new_type({})
        return self.record(objects.Volume, size=1, host=f"{BACKEND}#{parent}", volume_type_id=kind, **fields)

    def statuses(self, group: objects.Group) -> tuple[str, list[str]]:
        """Return what Cinder says of a group and of its volumes."""
        members = objects.VolumeList.get_all_by_generic_group(self.context, group.id)
        found = objects.Group.get_by_id(self.context, group.id).status
        return found, sorted(one.status for one in members)

    def snapshots(self, whole: objects.GroupSnapshot) -> list[objects.Snapshot]:
        """Return a group snapshot's members."""
        return list(objects.SnapshotList.get_all_for_group_snapshot(self.context, whole.id))

    def members(self, group: objects.Group) -> list[objects.Volume]:
        """Return a group's volumes."""
        return list(objects.VolumeList.get_all_by_generic_group(self.context, group.id))

    def blocks(self, group: objects.Group) -> list[bytes | None]:
        """Return the first block of each volume of a group."""
        members = objects.VolumeList.get_all_by_generic_group(self.context, group.id)
        return [self.san.read_blocks(f"{PARENT}/{one.name}").get(0) for one in members]


@pytest.fixture
def troubled() -> TroubledSan:
    """A SAN that can fail."""
    return TroubledSan()


@pytest.fixture(params=[True, False], ids=["consistent", "other"])
def cinder(
    request: pytest.FixtureRequest,
    make_driver: Callable[..., ZolderDriver],
    troubled: TroubledSan,
    database: Database,  # noqa: ARG001 - it stands below
) -> Groups:
    """Cinder with groups of either kind."""
    return Groups(make_driver(PARENTS, storage=troubled), troubled, consistent=request.param)


@pytest.fixture
def consistent(
    make_driver: Callable[..., ZolderDriver],
    troubled: TroubledSan,
    database: Database,  # noqa: ARG001 - it stands below
) -> Groups:
    """Cinder with consistent groups."""
    return Groups(make_driver(PARENTS, storage=troubled), troubled, consistent=True)


def test_a_groups_life(cinder: Groups, troubled: TroubledSan) -> None:
    """A group of either kind is made, filled, snapshotted, copied from both sources, and deleted."""
    one, two = cinder.new_volume(), cinder.new_volume()
    group = cinder.new_group(one, two)
    assert cinder.statuses(group) == ("available", ["available", "available"])
    troubled.write_block(f"{PARENT}/{one.name}", 0, BLOCK)
    whole = cinder.snapshot(group)
    assert whole.status == "available"
    assert [member.status for member in cinder.snapshots(whole)] == ["available"] * 2
    troubled.write_block(f"{PARENT}/{two.name}", 0, BLOCK)
    of_snapshot, of_group = cinder.copy(group, whole), cinder.copy(group)
    assert sorted(cinder.blocks(of_snapshot), key=str) == sorted([BLOCK, None], key=str)
    assert cinder.blocks(of_group) == [BLOCK, BLOCK]
    assert cinder.statuses(of_group) == ("available", ["available", "available"])
    assert len(troubled.list_snapshots(PARENT)) == 2, "the passing ones are gone"
    cinder.manager.delete_group_snapshot(cinder.context, whole)
    for every in (of_snapshot, of_group, group):
        cinder.manager.delete_group(cinder.context, every)
    assert troubled.list_zvols(PARENT) == ()


def test_one_moment_is_one_request(consistent: Groups, troubled: TroubledSan) -> None:
    """All members of a consistent group go in one request, also where the group itself is the source."""
    group = consistent.new_group(*(consistent.new_volume() for _ in range(3)))
    consistent.snapshot(group)
    assert troubled.together == [3]
    consistent.copy(group)
    assert troubled.together == [3, 3]


def test_other_groups_are_left_to_cinder(cinder: Groups, troubled: TroubledSan) -> None:
    """The three hooks that Cinder replaces well raise NotImplementedError for them, and only for them."""
    consistent = bool(volume_manager.volume_utils.is_group_a_cg_snapshot_type({"group_type_id": cinder.kind}))
    group = cinder.new_group(cinder.new_volume())
    whole = cinder.snapshot(group)
    driver = cinder.manager.driver
    hooks: tuple[Callable[[], object], ...] = (
        lambda: driver.create_group(cinder.context, group),
        lambda: driver.update_group(cinder.context, group, add_volumes=[], remove_volumes=[]),
        lambda: driver.create_group_snapshot(cinder.context, group, cinder.snapshots(whole)),
    )
    for hook in hooks:
        if consistent:
            hook()
        else:
            with pytest.raises(NotImplementedError):
                hook()
    assert troubled.together == ([1, 1] if consistent else [])


def test_a_moment_that_fails_fails_for_all(consistent: Groups, troubled: TroubledSan) -> None:
    """No member has a snapshot, and Cinder says so of each."""
    one, two = consistent.new_volume(), consistent.new_volume()
    group = consistent.new_group(one, two)
    troubled.trouble[two.name] = BackendError("no")
    with pytest.raises(exception.VolumeBackendAPIException):
        consistent.snapshot(group)
    [whole] = objects.GroupSnapshotList.get_all_by_group(consistent.context, group.id)
    assert whole.status == "error"
    assert [member.status for member in consistent.snapshots(whole)] == ["error"] * 2
    assert troubled.list_snapshots(PARENT) == ()


@pytest.mark.parametrize(
    ("error", "status"),
    [(Busy("held by lvm", holders=["lvm"]), "available"), (BackendError("no"), "error")],
    ids=["busy", "failed"],
)
def test_a_member_that_cannot_be_deleted_stays(
    cinder: Groups, troubled: TroubledSan, error: Error, status: str
) -> None:
    """Cinder keeps its record and the group's, deletes the others, and a repeat deletes the rest."""
    one, two = cinder.new_volume(), cinder.new_volume()
    group = cinder.new_group(one, two)
    whole = cinder.snapshot(group)
    troubled.trouble[one.name] = error
    with pytest.raises(exception.VolumeDriverException):
        cinder.manager.delete_group_snapshot(cinder.context, whole)
    assert sorted(member.status for member in cinder.snapshots(whole)) == sorted([status, "deleted"])
    assert [member.zvol for member in troubled.list_snapshots(PARENT)] == [one.name]
    del troubled.trouble[one.name]
    cinder.manager.delete_group_snapshot(cinder.context, whole)
    assert troubled.list_snapshots(PARENT) == ()
    troubled.trouble[one.name] = error
    with pytest.raises(exception.VolumeDriverException):
        cinder.manager.delete_group(cinder.context, group)
    assert cinder.statuses(group) == ("error", sorted([status, "deleted"]))
    assert [zvol.name for zvol in troubled.list_zvols(PARENT)] == [one.name]
    del troubled.trouble[one.name]
    cinder.manager.delete_group(cinder.context, group)
    assert troubled.list_zvols(PARENT) == ()


@pytest.mark.parametrize("of_snapshot", [True, False])
def test_a_copy_that_fails_leaves_nothing(
    cinder: Groups, troubled: TroubledSan, *, of_snapshot: bool
) -> None:
    """Where one member cannot be cloned the others' clones go again, and Cinder has all in error."""
    group = cinder.new_group(*(cinder.new_volume() for _ in range(3)))
    whole = cinder.snapshot(group) if of_snapshot else None
    before = troubled.list_snapshots(PARENT)
    troubled.clones_left = 2
    with pytest.raises(exception.VolumeBackendAPIException, match="no more"):
        cinder.copy(group, whole)
    assert len(troubled.list_zvols(PARENT)) == 3
    assert troubled.list_snapshots(PARENT) == before
    copy = next(one for one in objects.GroupList.get_all(cinder.context) if one.name == "copy")
    assert cinder.statuses(copy) == ("error", ["error"] * 3)


def test_cinder_alone_would_forget_a_busy_member(
    cinder: Groups, troubled: TroubledSan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generic path takes a busy volume out of its record while the zvol stands: so it is not taken."""

    def leave(*_: object) -> None:
        raise NotImplementedError

    one = cinder.new_volume()
    group = cinder.new_group(one)
    troubled.trouble[one.name] = Busy("held by lvm", holders=["lvm"])
    monkeypatch.setattr(cinder.manager.driver, "delete_group", leave)
    cinder.manager.delete_group(cinder.context, group)
    with pytest.raises(exception.VolumeNotFound):
        objects.Volume.get_by_id(cinder.context, one.id)
    assert [zvol.name for zvol in troubled.list_zvols(PARENT)] == [one.name]


def test_a_group_across_zpools_is_refused(consistent: Groups, troubled: TroubledSan) -> None:
    """A volume of another zpool is not let into a consistent group; the message says which and what to do."""
    here, there = consistent.new_volume(), consistent.new_volume()
    there.host = f"{BACKEND}#{FAST}"
    there.save()
    group = consistent.new_group(here)
    with pytest.raises(exception.InvalidInput, match=rf"{there.id} in fast/volumes.*Have them in one pool"):
        consistent.manager.update_group(consistent.context, group, add_volumes=there.id)
    with pytest.raises(exception.InvalidInput):
        consistent.manager.driver.create_group_from_src(
            consistent.context, group, [here, there], source_group=group, source_vols=[here, there]
        )
    there.group_id = group.id
    there.save()
    with pytest.raises(exception.InvalidInput):
        consistent.snapshot(group)
    assert troubled.together == []


def test_who_leaves_need_not_fit(consistent: Groups) -> None:
    """A volume that is taken out of a group no longer counts."""
    here, there = consistent.new_volume(), consistent.new_volume()
    group = consistent.new_group(here)
    there.host = f"{BACKEND}#{FAST}"
    there.save()
    consistent.manager.update_group(consistent.context, group, add_volumes=there.id, remove_volumes=here.id)
    assert consistent.statuses(group) == ("available", ["available"])


def test_copies_stay_in_their_sources_pools(
    make_driver: Callable[..., ZolderDriver], troubled: TroubledSan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cinder places a group in one pool; each copy is made, and recorded, where its source is."""
    monkeypatch.setattr(volume_utils, "is_group_a_cg_snapshot_type", lambda _: False)
    driver = make_driver(PARENTS, storage=troubled)
    hosts = [f"control@zolder#{parent}" for parent in (PARENT, FAST)]
    sources = [new_volume(1, host=host) for host in hosts]
    for source in sources:
        driver.create_volume(source)
    copies = [new_volume(1, host=hosts[0]) for _ in sources]
    _, updates = driver.create_group_from_src(
        None, objects.Group(id=str(uuid.uuid4())), copies, source_group=objects.Group(), source_vols=sources
    )
    assert [update["host"] for update in updates] == hosts
    assert len(troubled.list_zvols(FAST)) == 2


@pytest.mark.parametrize("made_from", ["nothing", "volume", "snapshot"])
def test_a_new_member_beside_the_others(consistent: Groups, troubled: TroubledSan, made_from: str) -> None:
    """What would land in another zpool than its group's members is refused, whatever it is made from."""
    driver = consistent.manager.driver
    member = consistent.new_volume()
    group = consistent.new_group(member)
    source = consistent.asked_for(FAST)
    driver.create_volume(source)
    snapshot = consistent.record(
        objects.Snapshot, volume_id=source.id, volume_size=1, volume_type_id=source.volume_type_id
    )
    driver.create_snapshot(snapshot)

    def make() -> None:
        new = consistent.asked_for(FAST, group_id=group.id)
        if made_from == "nothing":
            driver.create_volume(new)
        elif made_from == "volume":
            driver.create_cloned_volume(new, source)
        else:
            driver.create_volume_from_snapshot(new, snapshot)

    with pytest.raises(exception.InvalidInput, match=rf"{member.id} in {PARENT}, volume \S+ in {FAST}"):
        make()
    assert len(troubled.list_zvols(FAST)) == 1
    for standing in consistent.members(group):
        standing.status = "error"
        standing.save()
    make()
    assert len(troubled.list_zvols(FAST)) == 2


def test_of_two_new_members_the_first_stays(consistent: Groups, troubled: TroubledSan) -> None:
    """Two that are made at once in two zpools are not both let in, nor both refused."""
    group = consistent.new_group()
    volumes = [consistent.asked_for(parent, group_id=group.id) for parent in (FAST, PARENT)]
    first, second = sorted(volumes, key=lambda volume: (volume.created_at, volume.id))
    with pytest.raises(exception.InvalidInput):
        consistent.manager.driver.create_volume(second)
    consistent.manager.driver.create_volume(first)
    assert [len(troubled.list_zvols(parent)) for parent in (PARENT, FAST)].count(1) == 1


def test_another_group_may_be_anywhere(cinder: Groups, troubled: TroubledSan) -> None:
    """A group that is not consistent takes a member of any zpool, and so does no group at all."""
    consistent = bool(volume_manager.volume_utils.is_group_a_cg_snapshot_type({"group_type_id": cinder.kind}))
    group = cinder.new_group(cinder.new_volume())
    members = {} if consistent else {"group_id": group.id}
    new = cinder.asked_for(FAST, **members)
    cinder.manager.driver.create_volume(new)
    assert len(troubled.list_zvols(FAST)) == 1
