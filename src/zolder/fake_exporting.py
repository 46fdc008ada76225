"""The verbs of exports on a SAN in memory, over the records of zolder.fake_exports."""

from __future__ import annotations

from zolder.errors import AlreadyExists, Error, NotFound, NotPermitted
from zolder.fake_state import FakeState, verb
from zolder.model import Access, Change, Chap, Export, Refusal, Route
from zolder.names import (
    AttachmentId,
    DatasetName,
    InitiatorName,
    SnapshotName,
    VolumeId,
    ZvolName,
    snapshot_dataset,
    view_name,
    viewed_id,
    zvol_dataset,
)


class FakeExporting(FakeState):
    """Who may reach what."""

    @verb
    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Storage``."""
        self.get_zvol(parent, zvol)
        opened = self._exports.open(parent, Access(zvol, initiator, attachment, chap), route)
        self._ended.discard((zvol_dataset(parent, zvol), attachment))
        return opened

    @verb
    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        """See ``Storage``."""
        changed, refused = False, []
        for access in wanted:
            try:
                self.get_zvol(parent, access.zvol)
                if (zvol_dataset(parent, access.zvol), access.attachment) not in self._ended:
                    changed |= self._exports.open(parent, access, route).changed
            except Error as err:
                refused.append(Refusal(access.zvol, access.initiator, err.code, err.message))
        return Change(changed, tuple(refused))

    @verb
    def withdraw_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``."""
        ended: tuple[AttachmentId | None, ...] = (attachment,)
        if initiator is None:
            ended = tuple(one.attachment for one in self._exports.attachments(parent) if one.zvol == zvol)
        closed = self._exports.close(parent, zvol, initiator, attachment)
        self._ended |= {(zvol_dataset(parent, zvol), each) for each in ended if each}
        return closed

    @verb
    def export_snapshot(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        snapshot: SnapshotName,
        initiator: InitiatorName,
        *,
        view_id: VolumeId,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Storage``."""
        origin = snapshot_dataset(parent, zvol, snapshot)
        found = self._snapshots.get(origin)
        if found is None or found.deferred:
            message = f"{origin} does not exist"
            raise NotFound(message)
        if not found.ours:
            message = f"{origin} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        view = view_name(view_id)
        if self._views.get(zvol_dataset(parent, view), origin) != origin:
            message = f"{view} exists and shows another snapshot"
            raise AlreadyExists(message)
        opened = self._exports.open(parent, Access(view, initiator, attachment, chap), route)
        self._views[zvol_dataset(parent, view)] = origin
        return opened

    @verb
    def withdraw_snapshot(
        self,
        parent: DatasetName,
        view_id: VolumeId,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``."""
        view = view_name(view_id)
        left = self.withdraw_zvol(parent, view, initiator, attachment=attachment)
        if not left.value:
            origin = self._views.pop(zvol_dataset(parent, view), None)
            if origin is not None:
                self._collect(origin)
        return left

    @verb
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Storage``."""
        return self._exports.exports(parent)

    @verb
    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        """See ``Storage``."""
        return self._exports.attachments(parent)

    @verb
    def list_views(self, parent: DatasetName) -> tuple[VolumeId, ...]:
        """See ``Storage``."""
        views = [view.rpartition("/") for view in self._views]
        return tuple(sorted(id_ for above, _, leaf in views if above == parent and (id_ := viewed_id(leaf))))
