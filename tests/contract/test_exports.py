"""The contract of exports, held by every implementation with every exporter."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, replace

import pytest

from tests.contract.ground import AUTOSNAP, INITIATOR, PARENT, PLANTED, ROUTES
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create, new_id, new_name
from zolder.api import Storage
from zolder.errors import AlreadyExists, Busy, InvalidRequest, NotFound, NotPermitted
from zolder.model import Access, Change, Chap, Export, Refusal, Route, Zvol
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    AttachmentId,
    ExporterName,
    InitiatorName,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    chap_user,
    export_target,
    target_name,
    unit_number,
    view_name,
)


def new_attachment() -> AttachmentId:
    """Return a fresh attachment id."""
    return AttachmentId(str(uuid.uuid4()))


@dataclass(frozen=True)
class Way:
    """One exporter of one implementation, and two initiators of its kind."""

    storage: Storage
    route: Route
    initiator: InitiatorName
    second: InitiatorName

    def chap(self, zvol: Zvol) -> Chap | None:
        """Return a secret of the first initiator where the exporter takes one of iSCSI's kind."""
        if self.route.exporter == NVMET:
            return None
        user = chap_user(target_name(self.route.prefix, zvol.name), self.initiator)
        return Chap(user, "correct-horse-battery")

    def open(
        self,
        zvol: Zvol,
        initiator: InitiatorName | None = None,
        attachment: AttachmentId | None = None,
        *,
        chap: Chap | None = None,
    ) -> Change[Export]:
        """Open a zvol to the first initiator, or to another."""
        return self.storage.export_zvol(
            PARENT,
            zvol.name,
            initiator or self.initiator,
            route=self.route,
            attachment=attachment,
            chap=chap,
        )

    def close(
        self, zvol: Zvol, initiator: InitiatorName | None, attachment: AttachmentId | None = None
    ) -> Change[tuple[InitiatorName, ...]]:
        """End one attachment, or all."""
        return self.storage.withdraw_zvol(PARENT, zvol.name, initiator, attachment=attachment)

    def reachable(self, zvol: Zvol) -> list[InitiatorName]:
        """Return who can reach a zvol as its targets stand."""
        exports = self.storage.list_exports(PARENT)
        return sorted(name for export in exports if export.zvol == zvol.name for name in export.initiators)

    def is_closed(self, zvol: Zvol) -> bool:
        """Say whether nobody reaches a zvol, nor is to."""
        return not self.reachable(zvol) and not self.recorded(zvol)

    def recorded(self, zvol: Zvol) -> list[tuple[InitiatorName, AttachmentId | None]]:
        """Return the attachments on record."""
        found = self.storage.list_attachments(PARENT)
        return [(access.initiator, access.attachment) for access in found if access.zvol == zvol.name]


@pytest.fixture(params=[LIO, TGT, NVMET], ids=str)
def way(request: pytest.FixtureRequest, storage: Storage) -> Way:
    """Each exporter in turn."""
    exporter: ExporterName = request.param
    return Way(storage, *ROUTES[exporter])


def test_export(way: Way) -> None:
    """An export names its target, portals, unit and the one initiator; repeated it changes nothing."""
    made = create(way.storage)
    attachment = new_attachment()
    first = way.open(made, attachment=attachment, chap=way.chap(made))
    route = way.route
    wanted = Export(
        made.name,
        route.exporter,
        export_target(route.exporter, route.prefix, made.name, way.initiator),
        route.portals,
        unit_number(route.exporter),
        (way.initiator,),
    )
    assert first == Change(changed=True, value=wanted)
    assert way.open(made, attachment=attachment, chap=way.chap(made)) == Change(changed=False, value=wanted)
    assert way.reachable(made) == [way.initiator]
    assert way.recorded(made) == [(way.initiator, attachment)]
    assert way.close(made, way.initiator, attachment) == Change(changed=True, value=())
    assert way.is_closed(made)


def test_two_initiators(way: Way) -> None:
    """Each initiator is let in and shut out by itself; the export goes with the last."""
    made = create(way.storage)
    way.open(made)
    way.open(made, way.second)
    assert way.reachable(made) == sorted([way.initiator, way.second])
    assert way.close(made, way.initiator) == Change(changed=True, value=(way.second,))
    assert way.close(made, way.initiator) == Change(changed=False, value=(way.second,))
    assert way.reachable(made) == [way.second]
    assert way.close(made, way.second).value == ()
    assert way.reachable(made) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_any_order_of_detaching(way: Way, order: tuple[int, ...]) -> None:
    """An initiator that has a zvol twice is shut out with its last use, whatever order they end in."""
    made = create(way.storage)
    uses: list[tuple[InitiatorName, AttachmentId | None]] = [
        (way.initiator, new_attachment()),
        (way.initiator, None),
        (way.second, new_attachment()),
    ]
    for use in uses:
        way.open(made, *use)
    left = list(uses)
    for number in order:
        left.remove(uses[number])
        names = tuple(sorted({initiator for initiator, _ in left}))
        assert way.close(made, *uses[number]) == Change(changed=True, value=names)
        assert way.reachable(made) == list(names)
        assert way.close(made, *uses[number]).changed is False


def test_an_attachment_that_is_not_on_record_takes_nothing(way: Way) -> None:
    """Ending an attachment that never was leaves those that are."""
    made = create(way.storage)
    held = new_attachment()
    way.open(made, attachment=held)
    for initiator, attachment in (
        (way.initiator, new_attachment()),
        (way.initiator, None),
        (way.second, held),
    ):
        assert way.close(made, initiator, attachment) == Change(changed=False, value=(way.initiator,))
    assert way.reachable(made) == [way.initiator]


def test_withdraw_all(way: Way) -> None:
    """Without an initiator a withdraw closes to all, each of their uses; repeated it changes nothing."""
    made = create(way.storage)
    way.open(made)
    way.open(made, attachment=new_attachment())
    way.open(made, way.second)
    assert way.close(made, None) == Change(changed=True, value=())
    assert way.close(made, None) == Change(changed=False, value=())
    assert way.is_closed(made)


def test_export_absent(way: Way) -> None:
    """Exporting what is not there says so; withdrawing it changes nothing."""
    absent = Zvol(PARENT, new_name(), new_id(), SIZE, sparse=True)
    with pytest.raises(NotFound):
        way.open(absent)
    assert way.close(absent, way.initiator) == Change(changed=False, value=())
    assert way.close(absent, None) == Change(changed=False, value=())


def test_an_initiator_of_another_kind(way: Way) -> None:
    """An initiator that the exporter has no use for is refused, and nothing is left of it."""
    made = create(way.storage)
    other = INITIATOR if way.route.exporter == NVMET else ROUTES[NVMET][1]
    with pytest.raises(InvalidRequest):
        way.open(made, other)
    assert way.is_closed(made)


def test_one_route_at_a_time(way: Way) -> None:
    """What is in use over one exporter is not opened over another; once it is free it can be."""
    made = create(way.storage)
    way.open(made)
    other, initiator, _ = ROUTES[LIO if way.route.exporter == NVMET else NVMET]
    elsewhere = replace(way, route=other, initiator=initiator)
    with pytest.raises(Busy) as refused:
        elsewhere.open(made)
    assert refused.value.details["holders"] == [way.initiator]
    assert way.reachable(made) == [way.initiator]
    way.close(made, None)
    elsewhere.open(made)
    assert way.reachable(made) == [initiator]


def test_nvmet_takes_keys_of_its_own_kind_alone(storage: Storage) -> None:
    """A secret of iSCSI's is no DH-HMAC-CHAP key: it is refused, and nothing is left of it."""
    way, made = Way(storage, *ROUTES[NVMET]), create(storage)
    with pytest.raises(InvalidRequest) as refused:
        way.open(made, chap=Chap("user", "correct-horse-battery"))
    assert "DH-HMAC-CHAP" in refused.value.message
    assert "correct-horse" not in refused.value.message
    (refusal,) = storage.ensure_exports(
        PARENT,
        (Access(made.name, way.initiator, None, Chap("user", "correct-horse-battery")),),
        route=way.route,
    ).value
    assert refusal.code == "invalid_request"
    assert way.is_closed(made)
    assert way.open(made).changed


def test_a_failed_second_attachment_takes_nothing_from_the_first(way: Way) -> None:
    """What cannot be opened leaves no record of itself, and those who are there stay."""
    made = create(way.storage)
    held = new_attachment()
    way.open(made, attachment=held)
    other = INITIATOR if way.route.exporter == NVMET else ROUTES[NVMET][1]
    with pytest.raises(InvalidRequest):
        way.open(made, other, new_attachment())
    assert way.reachable(made) == [way.initiator]
    assert way.recorded(made) == [(way.initiator, held)]


def test_ensure_exports(way: Way) -> None:
    """Many are opened in one request; what cannot be is named, and nothing that stands is withdrawn."""
    first, second = create(way.storage), create(way.storage)
    way.open(first, way.second)
    attachment = new_attachment()
    absent = ZvolName("volume-never-was")
    wanted = (
        Access(first.name, way.initiator, None),
        Access(absent, way.initiator, None),
        Access(second.name, way.initiator, attachment, way.chap(second)),
    )
    done = way.storage.ensure_exports(PARENT, wanted, route=way.route)
    assert done.changed
    (refusal,) = done.value
    assert isinstance(refusal, Refusal)
    assert (refusal.zvol, refusal.initiator, refusal.code) == (absent, way.initiator, "not_found")
    assert way.reachable(first) == sorted([way.initiator, way.second])
    assert way.recorded(second) == [(way.initiator, attachment)]
    again = way.storage.ensure_exports(PARENT, wanted, route=way.route)
    assert again == Change(changed=False, value=done.value)


def test_ensure_exports_reopens_nothing_that_ended(way: Way) -> None:
    """A list that is older than an attachment's end opens it to nobody; who names it alone opens it."""
    made, held, lost = create(way.storage), new_attachment(), new_attachment()
    listed = (
        Access(made.name, way.initiator, held),
        Access(made.name, way.second, lost),
    )
    assert not way.storage.ensure_exports(PARENT, listed, route=way.route).value
    way.close(made, way.initiator, held)
    assert way.storage.ensure_exports(PARENT, listed, route=way.route) == Change(changed=False, value=())
    assert way.recorded(made) == [(way.second, lost)]
    way.close(made, None)
    assert way.storage.ensure_exports(PARENT, listed, route=way.route) == Change(changed=False, value=())
    assert way.is_closed(made)
    assert way.open(made, attachment=held).changed
    assert not way.storage.ensure_exports(PARENT, listed[:1], route=way.route).changed
    assert way.recorded(made) == [(way.initiator, held)]


def test_delete_exported(way: Way) -> None:
    """Deleting an exported zvol closes its export with it."""
    made = create(way.storage)
    way.open(made)
    assert way.storage.delete_zvol(PARENT, made.name).changed
    assert way.is_closed(made)


def test_delete_held_by_a_snapshot(way: Way) -> None:
    """A delete that a snapshot forbids leaves those attached who are."""
    made = create(way.storage)
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    held = new_attachment()
    way.open(made, attachment=held)
    with pytest.raises(Busy):
        way.storage.delete_zvol(PARENT, made.name)
    way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
    way.storage.delete_zvol(PARENT, made.name)


def test_grow_exported(way: Way) -> None:
    """An exported zvol grows and stays exported."""
    made = create(way.storage)
    way.open(made)
    assert way.storage.grow_zvol(PARENT, made.name, volsize_bytes=2 * SIZE).changed
    assert way.reachable(made) == [way.initiator]


def test_a_clone_has_no_export(way: Way) -> None:
    """What is cloned from an exported zvol is not exported."""
    made = create(way.storage)
    way.open(made)
    copy = way.storage.clone_zvol(
        PARENT, made.name, None, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
    ).value
    assert way.is_closed(copy)


def test_snapshot_view(way: Way) -> None:
    """A snapshot is read through a clone that is no volume, and that goes with its last attachment."""
    made = create(way.storage)
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    before = way.storage.list_zvols(PARENT)
    view_id = new_id()

    def attach(attachment: AttachmentId | None) -> Change[Export]:
        return way.storage.export_snapshot(
            PARENT,
            made.name,
            SNAPSHOT,
            way.initiator,
            view_id=view_id,
            route=way.route,
            attachment=attachment,
            chap=None,
        )

    def detach(attachment: AttachmentId | None) -> Change[tuple[InitiatorName, ...]]:
        return way.storage.withdraw_snapshot(PARENT, view_id, way.initiator, attachment=attachment)

    attachment = new_attachment()
    first = attach(attachment)
    assert first.changed
    assert first.value.zvol == view_name(view_id)
    assert attach(attachment) == Change(changed=False, value=first.value)
    attach(None)
    assert way.storage.list_zvols(PARENT) == before
    assert view_id in way.storage.list_views(PARENT)
    for request in (way.storage.get_zvol, way.storage.delete_zvol):
        with pytest.raises(NotPermitted):
            request(PARENT, view_name(view_id))
    assert detach(attachment) == Change(changed=True, value=(way.initiator,))
    assert detach(None) == Change(changed=True, value=())
    assert detach(None) == Change(changed=False, value=())
    assert view_id not in way.storage.list_views(PARENT)
    assert way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed
    assert way.storage.delete_zvol(PARENT, made.name).changed


def test_snapshot_view_withdrawn_from_all(way: Way) -> None:
    """Without an initiator every attachment of a snapshot ends; that may be asked again."""
    made = create(way.storage)
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    view_id = new_id()
    for initiator in (way.initiator, way.second):
        way.storage.export_snapshot(
            PARENT,
            made.name,
            SNAPSHOT,
            initiator,
            view_id=view_id,
            route=way.route,
            attachment=None,
            chap=None,
        )
    assert way.storage.withdraw_snapshot(PARENT, view_id, None, attachment=None).changed
    assert not way.storage.withdraw_snapshot(PARENT, view_id, None, attachment=None).changed
    assert way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT).changed
    assert way.storage.delete_zvol(PARENT, made.name).changed


def test_a_snapshot_deleted_while_it_is_read(way: Way) -> None:
    """Its views go with it, readers and all; a volume that was cloned from it stays, and keeps it."""
    made = create(way.storage)
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    views = [new_id(), new_id()]

    def attach(view_id: VolumeId, initiator: InitiatorName) -> Change[Export]:
        return way.storage.export_snapshot(
            PARENT,
            made.name,
            SNAPSHOT,
            initiator,
            view_id=view_id,
            route=way.route,
            attachment=new_attachment(),
            chap=None,
        )

    attach(views[0], way.initiator)
    attach(views[0], way.second)
    attach(views[1], way.initiator)
    copy = clone(way.storage, made, SNAPSHOT)
    assert way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT) == Change(changed=True, value=None)
    assert way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT) == Change(changed=False, value=None)
    for view_id in views:
        assert way.is_closed(Zvol(PARENT, view_name(view_id), view_id, SIZE, sparse=True))
        assert not way.storage.withdraw_snapshot(PARENT, view_id, None, attachment=None).changed
    assert not {*views} & {*way.storage.list_views(PARENT)}
    with pytest.raises(NotFound):
        attach(views[0], way.initiator)
    assert way.storage.delete_zvol(PARENT, copy.name).changed
    assert way.storage.delete_zvol(PARENT, made.name).changed


def test_snapshots_that_have_no_view(way: Way) -> None:
    """A snapshot that is absent, deleted or somebody else's is not exported, and no clone is left of it."""
    made = create(way.storage)

    def attach(zvol: ZvolName, snapshot: SnapshotName, view_id: VolumeId) -> Change[Export]:
        return way.storage.export_snapshot(
            PARENT,
            zvol,
            snapshot,
            way.initiator,
            view_id=view_id,
            route=way.route,
            attachment=None,
            chap=None,
        )

    with pytest.raises(NotFound):
        attach(made.name, SNAPSHOT, new_id())
    with pytest.raises(NotPermitted):
        attach(PLANTED, AUTOSNAP, new_id())
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    other = create(way.storage)
    way.storage.create_snapshot(PARENT, other.name, SNAPSHOT)
    view_id = new_id()
    attach(made.name, SNAPSHOT, view_id)
    with pytest.raises(AlreadyExists):
        attach(other.name, SNAPSHOT, view_id)
    way.storage.withdraw_snapshot(PARENT, view_id, None, attachment=None)


def test_list_snapshots(way: Way) -> None:
    """The snapshots that clients asked for are listed, and neither others' nor deleted ones."""
    made = create(way.storage)
    way.storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    copy = way.storage.clone_zvol(
        PARENT, made.name, None, new_name(), volume_id=new_id(), volsize_bytes=SIZE, sparse=True
    ).value

    def listed() -> list[str]:
        return [found.name for found in way.storage.list_snapshots(PARENT) if found.zvol == made.name]

    assert listed() == [SNAPSHOT]
    assert AUTOSNAP not in {found.name for found in way.storage.list_snapshots(PARENT)}
    way.storage.delete_zvol(PARENT, copy.name)
    way.storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
    assert listed() == []


def test_a_route_beyond_the_policy(way: Way) -> None:
    """A prefix that is not this identity's is refused by whatever has a policy."""
    made = create(way.storage)
    route = replace(way.route, prefix=TargetPrefix("iqn.2003-01.org.elsewhere:"))
    stranger = replace(way, route=route)
    if way.storage.__class__.__name__ != "FakeStorage":
        with pytest.raises(NotPermitted):
            stranger.open(made)
        assert way.is_closed(made)
