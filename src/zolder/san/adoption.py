"""Zvols and snapshots that others made become ours, and are given back: Cinder's manage and unmanage.

First the new name, then the size, and the mark last: whatever is cut short before the mark has left a zvol
without one, which nothing here grows, exports or destroys, and a repeat goes on from there. The other way
round half an adoption would be a zvol that counts as ours under a name that nobody knows. What fails is named
as before. Nothing is adopted that is in use, or the agent's own.
Sources: zfs_ioc_rename and zfs_secpolicy_rename_perms in zfs_ioctl.c, for lzc_rename.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final

from zolder.errors import AlreadyExists, Busy, InvalidRequest, NotFound, NotPermitted
from zolder.model import Change, FoundSnapshot, FoundZvol, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    is_own_snapshot,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.san import libzfs
from zolder.san.aside import await_holders
from zolder.san.attachments import Attachments
from zolder.san.groups import ZfsGroups
from zolder.san.libzfs import (
    DELETED_MARK,
    EXPORT_RECORD,
    REVERT_MARK,
    SNAPSHOT_MARK,
    VIEW_MARK,
    VOLUME_MARK,
    Properties,
)
from zolder.san.lzc import ZfsError
from zolder.san.reverting import settle
from zolder.san.snapshots import list_snapshots
from zolder.san.zpool import Zpool, describe_zvol, find_mark, is_deferred, is_hidden, local, number, zvols_in
from zolder.san.zvols import owner_of, set_mark, shape_zvol

LOG = logging.getLogger(__name__)

_OWN: Final = "zolder-"
# udev looks into what has just been made or renamed, and is no user (zolder.san.holders has the form).
_UDEVS: Final = ("((udev-worker))", "(systemd-udevd)")
# zfs_prop.h: a device without partitions, and none for snapshots.
_SAFE: Final = {"volmode": (2, "dev"), "snapdev": (0, "hidden")}


class ZfsAdoption(ZfsGroups):
    """What one operation may do to what others made; zolder.san.storage adds the rest."""

    def find_zvol(self, parent: DatasetName, zvol: ZvolName) -> FoundZvol | None:
        """See ``Storage``."""
        zpool, dataset = self._zpool(parent), zvol_dataset(parent, zvol)
        found = zpool.look(dataset)
        if not found:
            return None
        return self._found(zpool, dataset, found[dataset], partial(self._privileged.read_holders, parent))

    def list_found_zvols(self, parent: DatasetName) -> tuple[FoundZvol, ...]:
        """See ``Storage``."""
        zpool = self._zpool(parent)

        @functools.cache
        def held() -> dict[ZvolName, tuple[str, ...]]:
            return {each.zvol: each.holders for each in self._privileged.list_holders(parent)}

        return tuple(
            self._found(zpool, dataset, found, lambda zvol: held().get(zvol, ()))
            for dataset, found in sorted(zpool.children().items())
            if "volsize" in found
        )

    def adopt_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        former: VolumeId | None,
        volsize_bytes: int,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        old, new = zvol_dataset(parent, source), zvol_dataset(parent, zvol)
        with self._locks.hold(self._operation, old, new):
            zpool = self._zpool(parent)
            seen = zpool.look(*dict.fromkeys((old, new)))
            if new in seen and old in seen and old != new:
                message = f"{new} exists: {old} cannot have its name"
                raise AlreadyExists(message)
            if new in seen and find_mark(new, seen[new]) == volume_id:
                return Change(changed=False, value=describe_zvol(parent, zvol, volume_id, seen[new]))
            if not seen:
                message = f"{old} does not exist"
                raise NotFound(message)
            place = new if new in seen else old
            self._require_adoptable(zpool, place, seen[place], former)
            await_holders(zpool, _name_of(place), self._operation, release=lambda: None)
            now = replace(describe_zvol(parent, _name_of(place), volume_id, seen[place]), name=zvol)
            if volsize_bytes < now.volsize_bytes:
                message = f"{place} has {now.volsize_bytes} bytes and is never shrunk"
                raise InvalidRequest(message)
            with self._counting(parent, zvol, volsize_bytes), ExitStack() as undo:
                if place != new:
                    rename(zpool, old, new)
                    undo.callback(_name_back, zpool, new, old)
                wanted = replace(now, volsize_bytes=volsize_bytes)
                shape_zvol(zpool, now, wanted)
                set_mark(zpool, new, VOLUME_MARK, volume_id)
                undo.pop_all()
            if former is not None and source != zvol:
                self._index(parent).remove(source)
        return Change(changed=True, value=wanted)

    def release_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        with self._changing(parent, zvol) as zpool:
            settle(zpool, zvol, self._operation)
            found = zpool.look(dataset).get(dataset)
            ours = found is not None and find_mark(dataset, found) is not None and "volsize" in found
            if ours:
                if holders := [f"{dataset}@{name}" for name in list_snapshots(dataset)]:
                    message = f"{dataset} has snapshots that have to be released or deleted first: "
                    raise Busy(message + ", ".join(holders[:8]), holders=holders)
                Attachments(self._policy, zpool, zvol).close_recorded()
                set_mark(zpool, dataset, VOLUME_MARK, None)
            self._index(parent).remove(zvol)
        return Change(ours, None)

    def list_found_snapshots(self, parent: DatasetName, zvol: ZvolName | None) -> tuple[FoundSnapshot, ...]:
        """See ``Storage``."""
        zpool = self._zpool(parent)
        if zvol is None:
            names = [found.name for found in zvols_in(zpool.children(), parent)]
        else:
            owner_of(zpool, zvol)
            names = [zvol]
        return tuple(
            _found_snapshot(parent, name, snapshot, found)
            for name in names
            for snapshot, found in sorted(libzfs.library().snapshots(zvol_dataset(parent, name)).items())
            if not is_own_snapshot(snapshot) and not is_deferred(found)
        )

    def adopt_snapshot(
        self, parent: DatasetName, zvol: ZvolName, source: SnapshotName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        old, new = snapshot_dataset(parent, zvol, source), snapshot_dataset(parent, zvol, snapshot)
        value = ZvolSnapshot(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            owner_of(zpool, zvol)
            seen = zpool.look(*dict.fromkeys((old, new)))
            if new in seen and old in seen and old != new:
                message = f"{new} exists: {old} cannot have its name"
                raise AlreadyExists(message)
            if not seen:
                message = f"{old} does not exist"
                raise NotFound(message)
            [(place, found)] = seen.items()
            if is_deferred(found):
                message = f"{place} was deleted and still waits for its last clone to go"
                raise AlreadyExists(message)
            marked = local(found, SNAPSHOT_MARK, place) is not None
            if marked and place == new:
                return Change(changed=False, value=value)
            if marked:
                message = f"{place} was taken through Zolder, and is a client's already"
                raise NotPermitted(message)
            with ExitStack() as undo:
                if place != new:
                    rename(zpool, old, new)
                    undo.callback(_name_back, zpool, new, old)
                set_mark(zpool, new, SNAPSHOT_MARK, snapshot)
                undo.pop_all()
        return Change(changed=True, value=value)

    def release_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``."""
        name = snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            settle(zpool, zvol, self._operation)
            found = zpool.look(name).get(name)
            ours = (
                found is not None and local(found, SNAPSHOT_MARK, name) is not None and not is_deferred(found)
            )
            if ours:
                set_mark(zpool, name, SNAPSHOT_MARK, None)
        return Change(ours, None)

    def _found(
        self,
        zpool: Zpool,
        dataset: str,
        found: Properties,
        holders_of: Callable[[ZvolName], tuple[str, ...]],
    ) -> FoundZvol:
        name, volume_id = dataset.rpartition("/")[2], find_mark(dataset, found)
        try:
            self._require_adoptable(zpool, dataset, found, volume_id)
            if volume_id is None:  # one of ours has its users on record, and this look is dear
                _require_unused(dataset, holders_of(_name_of(dataset)))
        except (Busy, InvalidRequest, NotPermitted) as err:
            obstacle: str | None = err.message
        else:
            obstacle = None
        return FoundZvol(zpool.parent, name, number(found, "volsize"), volume_id, obstacle)

    def _require_adoptable(
        self, zpool: Zpool, dataset: str, found: Properties, former: VolumeId | None
    ) -> None:
        """Make sure that nobody uses a zvol, and that it is none of the agent's own.

        :raises Error: as ``Storage.adopt_zvol``; what to do is said.
        """
        leaf, volume_id = dataset.rpartition("/")[2], find_mark(dataset, found)
        if "volsize" not in found:
            message = f"{dataset} is no zvol"
            raise NotPermitted(message)
        if leaf.startswith(_OWN) or local(found, VIEW_MARK, dataset) is not None or is_hidden(found, dataset):
            message = f"{dataset} is Zolder's own: a snapshot's view, or what clones of a deleted volume need"
            raise NotPermitted(message)
        for option in (DELETED_MARK, REVERT_MARK):
            if local(found, option, dataset) is not None:
                message = (
                    f"{dataset} was deleted once and is marked so: 'zfs inherit {option} {dataset}' first"
                )
                raise NotPermitted(message)
        _name_of(dataset)
        if volume_id != former:
            message = f"{dataset} is marked as {f'volume {volume_id}' if volume_id else 'no volume'}"
            raise NotPermitted(message)
        if former is not None and zpool.parent in self._policy.shared_parents:
            message = f"{dataset} is marked as volume {former}, and this parent is shared with others"
            raise NotPermitted(message)
        for option, (value, word) in _SAFE.items():
            if option in found and found[option].source == dataset and found[option].value != value:
                message = (
                    f"{dataset} has a {option} of its own that shows what guests wrote to this SAN:"
                    f" 'zfs set {option}={word} {dataset}' first"
                )
                raise InvalidRequest(message)
        if local(found, EXPORT_RECORD, dataset) is not None:
            message = f"{dataset} is exported: detach it first"
            raise Busy(message, holders=["an export of Zolder"])


def _require_unused(dataset: str, each: Sequence[str]) -> None:
    """Make sure that no process and nothing of the kernel's holds a zvol's device.

    :raises Busy: somebody does, and is named.
    """
    holders = [holder for holder in each if not holder.endswith(_UDEVS)]
    if holders:
        message = f"{dataset} is in use: it is held by {', '.join(holders[:8])}"
        raise Busy(message, holders=holders)


def rename(zpool: Zpool, old: str, new: str) -> None:
    """Give a zvol, or a snapshot, another name.

    :raises Error: ZFS refused it.
    """
    try:
        zpool.library.rename(old, new)
    except ZfsError as err:
        zpool.explain(err)


def _name_back(zpool: Zpool, new: str, old: str) -> None:
    try:
        zpool.library.rename(new, old)
    except ZfsError:
        # The error that led here must reach the caller; a repeat of the request goes on from the new name.
        LOG.exception("could not name %s %s again", new, old)


def _name_of(dataset: str) -> ZvolName:
    try:
        return ZvolName(dataset.rpartition("/")[2])
    except InvalidRequest as err:
        message = f"{err.message}: 'zfs rename {dataset}' to such a name first"
        raise InvalidRequest(message) from err


def _found_snapshot(parent: DatasetName, zvol: ZvolName, snapshot: str, found: Properties) -> FoundSnapshot:
    leaf = snapshot.partition("@")[2]
    obstacle = None
    try:
        SnapshotName(leaf)
    except InvalidRequest as err:
        obstacle = f"{err.message}: 'zfs rename {snapshot}' to such a name first"
    managed = local(found, SNAPSHOT_MARK, snapshot) is not None
    return FoundSnapshot(parent, zvol, leaf, number(found, "volsize"), managed, obstacle)
