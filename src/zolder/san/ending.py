"""The part of the storage contract that deletes and reverts, and keeps what clones still need.

Implements its verbs of zolder.api.Storage, from steps in zolder.san.zvols, snapshots, aside and reverting.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from zolder.errors import BackendError, Busy, Error
from zolder.model import Change, PutAside, Zvol
from zolder.names import (
    DatasetName,
    SnapshotName,
    ZvolName,
    is_clone_origin,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.san import libzfs
from zolder.san.aside import (
    await_holders,
    collect,
    describe,
    finish_putting_aside,
    put_aside,
    put_aside_in,
    zvol_behind,
)
from zolder.san.attachments import Attachments
from zolder.san.counting import ZfsCounting
from zolder.san.libzfs import EXPORT_RECORD, Properties
from zolder.san.records import find_record
from zolder.san.reverting import revert_zvol, settle, unsettled_in, was_reverted_by
from zolder.san.settling import settling
from zolder.san.snapshots import remove_snapshot, remove_uncloned, require_snapshot
from zolder.san.views import views_of
from zolder.san.zpool import Zpool, is_deleted, is_hidden, local, require_zvol, text
from zolder.san.zvols import destroy_zvol, look_at

LOG = logging.getLogger(__name__)

_COLLECT_SECONDS: Final = 30


class ZfsEnding(ZfsCounting):
    """How zvols and snapshots end."""

    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            changed, origin = self._end(zpool, zvol)
        self._collect(origin)
        return Change(changed, None)

    def _end(self, zpool: Zpool, zvol: ZvolName) -> tuple[bool, str | None]:
        """End a zvol whose lock is held; return whether there was one, and what is to be collected then."""
        dataset, origin = zvol_dataset(zpool.parent, zvol), None
        found = zpool.look(dataset)
        if (not found or is_hidden(found[dataset], dataset)) and settle(zpool, zvol, self._operation):
            found = zpool.look(dataset)
        if found and is_deleted(found[dataset], dataset):
            aside = finish_putting_aside(zpool, zvol, self._operation)  # cut short before
            found, origin = {}, f"{zvol_dataset(zpool.parent, aside)}@"
        elif found:
            require_zvol(found, dataset)
            origin = text(found[dataset], "origin")
            attachments = Attachments(self._policy, zpool, zvol)
            if local(found[dataset], EXPORT_RECORD, dataset):
                attachments.close_recorded()
            gone = destroy_zvol(zpool, zvol, self._operation, release=attachments.close_all)
            if origin and is_clone_origin(origin):
                remove_snapshot(zpool, origin)  # left where the clone was cut short
            if not gone:
                # A clone that was to take its place and did not would be one of those that need it.
                settle(zpool, zvol, self._operation)
                aside = put_aside(zpool, zvol, self._operation, release=attachments.close_all)
                origin = f"{zvol_dataset(zpool.parent, aside)}@"
        self._index(zpool.parent).remove(zvol)
        return bool(found), origin

    @settling()
    def revert_zvol(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName, *, volsize_bytes: int
    ) -> Change[Zvol]:
        """See ``Storage``."""
        dataset, name = zvol_dataset(parent, zvol), snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            settle(zpool, zvol, self._operation)
            found, properties = look_at(zpool, zvol)
            wanted = replace(found, volsize_bytes=volsize_bytes)
            if was_reverted_by(properties, dataset, self._operation.id):
                return Change(changed=False, value=wanted)
            require_snapshot(zpool, name)
            wish = find_record(properties, dataset)
            if wish is not None:
                message = f"{dataset} is exported: detach it first"
                raise Busy(message, holders=list(wish.initiators))
            attachments = Attachments(self._policy, zpool, zvol)
            await_holders(zpool, zvol, self._operation, release=attachments.close_all)
            with self._counting(parent, zvol, volsize_bytes):
                aside = revert_zvol(zpool, found, name, wanted, self._operation)
        self._collect(f"{zvol_dataset(parent, aside)}@" if aside else None)
        return Change(changed=True, value=wanted)

    def list_put_aside(self, parent: DatasetName) -> tuple[PutAside, ...]:
        """See ``Storage``."""
        zpool = self._zpool(parent)
        children, each = zpool.children(), []
        for dataset in put_aside_in(children):
            try:
                each.append(describe(parent, dataset, children))
            except BackendError:
                if zpool.look(dataset):
                    raise
        return tuple(item for item in each if item is not None)

    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``; ZFS's deferred destroy, so clones keep what they need, but for views."""
        name = snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            changed = remove_uncloned(zpool, name)
            if changed is False and settle(zpool, zvol, self._operation):
                changed = remove_uncloned(zpool, name)
            if changed is not None:
                return Change(changed, None)
            views = views_of(zpool, name)
        # Each under its own lock, and none is waited for while another is held (zolder.san.locks).
        for view_id in views:
            self.withdraw_snapshot(parent, view_id, None, attachment=None)
        with self._changing(parent, zvol) as zpool:
            changed = remove_snapshot(zpool, name)
        return Change(changed, None)

    def _collect(self, origin: str | None) -> None:
        """Destroy what was put aside for a clone that is gone now, and what that was cloned from in turn.

        The clone's own end is done and is what was asked for. What is left here is found by the next figures
        that list the parent.
        """
        try:
            # A repeat of the request would find the clone gone, and not what it was made from.
            with self._operation.unheard(_COLLECT_SECONDS):
                # A clone may have moved to another parent since it was made.
                while behind := zvol_behind(self._policy.parents, origin):
                    with self._changing(*behind) as zpool:
                        origin = collect(zpool, behind[1], self._operation)
        except Error as err:
            LOG.warning("%s stays although its clone has gone: %s", origin, err.message)

    def _sweep(self, parent: DatasetName, children: Mapping[str, Properties]) -> None:
        """Destroy what was put aside and nothing needs any more: what a cut kept `_collect` from doing."""
        if self._policy.allows("revert_zvol"):
            for zvol in unsettled_in(children):
                try:
                    self.settle(parent, zvol)
                except Error as err:
                    LOG.warning("a revert of %s that was cut stays so: %s", zvol, err.message)
        if self._policy.allows("delete_zvol"):
            for dataset in put_aside_in(children):
                try:
                    held = bool(libzfs.library().snapshots(dataset))
                except BackendError as err:
                    held = True  # it has gone since it was listed, most likely
                    LOG.warning("%s cannot be looked at: %s", dataset, err.message)
                if not held:
                    self._collect(f"{dataset}@")
