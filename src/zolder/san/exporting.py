"""The part of the storage contract that opens and closes: exports of zvols, and of snapshots' views.

Implements its verbs of zolder.api.Storage for one operation of one identity, each under its zvol's lock, from
steps in zolder.san.attachments and views. Takes checked names only, which the policy has allowed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from zolder.api import Storage
from zolder.errors import Busy, ConnectionLost, DeadlineExceeded, Error, PoolSuspended, PoolUnavailable
from zolder.model import Access, Change, Chap, Export, Refusal, Route
from zolder.names import (
    AttachmentId,
    DatasetName,
    InitiatorName,
    SnapshotName,
    VolumeId,
    ZvolName,
    reverted_name,
    snapshot_dataset,
    view_name,
    zvol_dataset,
)
from zolder.san.attachments import Attachments
from zolder.san.ended import Ended
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.privileged import Privileged
from zolder.san.records import accesses_in
from zolder.san.reverting import settle
from zolder.san.settling import settling
from zolder.san.views import ensure_view, remove_view, views_in
from zolder.san.zpool import Zpool

# Of many attachments each may wait for its zvol for such a part of what is left: most others need not wait.
_SHARES: Final = 20
_LEAST_SECONDS: Final = 1.0


class ZfsExports(Storage):
    """What one operation may do about this SAN's exports; zolder.san.storage adds the rest."""

    def __init__(
        self, policy: Policy, operation: Operation, privileged: Privileged, site: Site | None = None
    ) -> None:
        """Act for ``operation`` within ``policy``, which has been checked already.

        :param privileged: does what the kernel lets root do alone.
        """
        self._operation = operation
        self._privileged = privileged
        self._site = site or Site()
        self._locks = Locks(self._site.run / "locks")
        self._policy = policy
        self._ended = Ended(self._site.run / "ended")

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
        return self._open(parent, zvol, Access(zvol, initiator, attachment, chap), route)

    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        """See ``Storage``; each zvol is locked by itself, so others may go on meanwhile."""
        changed, refused = False, []
        for access in wanted:
            share = max(self._operation.remaining_seconds / _SHARES, _LEAST_SECONDS)
            try:
                with self._operation.limited(share):
                    changed |= self._ensure(parent, access.zvol, access, route)
            except ConnectionLost:
                raise
            except DeadlineExceeded:
                # The whole one, or this share: then somebody else has the zvol.
                self._operation.check()
                message = f"another operation on {access.zvol} did not end in time"
                refused.append(Refusal(access.zvol, access.initiator, Busy.code, message))
            except Error as err:
                refused.append(Refusal(access.zvol, access.initiator, err.code, err.message))
        return Change(changed, tuple(refused))

    def withdraw_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``; while the zpool is away only everybody at once can be shut out, and is."""
        with self._locks.hold(self._operation, zvol_dataset(parent, zvol)):
            try:
                zpool = self._zpool(parent)
            except (PoolUnavailable, PoolSuspended):
                if initiator is None:
                    self._privileged.close_export(parent, zvol, None, exporter=None)
                raise
            attachments = Attachments(self._policy, zpool, zvol)
            ended = attachments.recorded() if initiator is None else (attachment,)
            if initiator is None:
                closed = attachments.close_all()
            else:
                closed = attachments.close(Access(zvol, initiator, attachment))
            for each in ended:
                self._ended.add(zvol_dataset(parent, zvol), each)
            return closed

    @settling()
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
        view = view_name(view_id)
        origin = snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, view) as zpool, ensure_view(zpool, view_id, origin):
            access = Access(view, initiator, attachment, chap)
            return Attachments(self._policy, zpool, view, is_view=True).open(access, route)

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
        with self._changing(parent, view) as zpool:
            attachments = Attachments(self._policy, zpool, view, is_view=True)
            if initiator is None:
                closed = attachments.close_recorded()
            else:
                closed = attachments.close(Access(view, initiator, attachment))
            gone = not closed.value and remove_view(
                zpool, view_id, self._operation, release=attachments.close_all
            )
        return Change(closed.changed or gone, closed.value)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Storage``."""
        return self._privileged.list_exports(parent)

    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        """See ``Storage``."""
        return tuple(
            access
            for dataset, found in sorted(self._zpool(parent).children().items())
            for access in accesses_in(dataset, found)
        )

    def list_views(self, parent: DatasetName) -> tuple[VolumeId, ...]:
        """See ``Storage``."""
        return tuple(views_in(self._zpool(parent).children()))

    def settle(self, parent: DatasetName, zvol: ZvolName) -> bool:
        """End what a revert that was cut has left of a zvol; return whether there was anything.

        :raises Busy: there is, and this identity may only look.
        """
        with self._changing(parent, zvol) as zpool:
            if self._policy.allows("revert_zvol"):
                return settle(zpool, zvol, self._operation)
            clone = zvol_dataset(parent, reverted_name(zvol))
            if zpool.glance(clone):
                message = f"a revert of {parent}/{zvol} was cut: the next request of who may write ends it"
                raise Busy(message, holders=[clone])
            return False

    @settling()
    def _open(self, parent: DatasetName, zvol: ZvolName, access: Access, route: Route) -> Change[Export]:
        """Open a zvol as somebody asks for by name, whatever was before."""
        with self._changing(parent, zvol) as zpool:
            opened = Attachments(self._policy, zpool, zvol).open(access, route)
            self._ended.forget(zvol_dataset(parent, zvol), access.attachment)
            return opened

    @settling()
    def _ensure(self, parent: DatasetName, zvol: ZvolName, access: Access, route: Route) -> bool:
        """Open a zvol as a list asks that may be older than the attachment's end; say if that was new."""
        with self._changing(parent, zvol) as zpool:
            if self._ended.has(zvol_dataset(parent, zvol), access.attachment):
                return False
            return Attachments(self._policy, zpool, zvol).open(access, route).changed

    @contextmanager
    def _changing(self, parent: DatasetName, zvol: ZvolName) -> Iterator[Zpool]:
        with self._locks.hold(self._operation, zvol_dataset(parent, zvol)):
            yield self._zpool(parent)

    def _zpool(self, parent: DatasetName) -> Zpool:
        return Zpool(self._site, parent, self._privileged)
