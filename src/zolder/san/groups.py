"""Snapshots of several zvols at one moment: one request to the kernel, which takes all of them or none.

The kernel takes them in one transaction group, so all have one ``createtxg``: that is what a repeat is known
by, and what two snapshots of two moments are told apart by. Every zvol's lock is held, in the order that all
operations take theirs (zolder.san.locks).
Sources: lzc_snapshot in libzfs_core.h; dsl_dataset_snapshot in dsl_dataset.c.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from zolder.api import check_members
from zolder.errors import AlreadyExists, NotFound
from zolder.model import Change, ZvolSnapshot
from zolder.names import DatasetName, snapshot_dataset, zvol_dataset
from zolder.san.counting import ZfsCounting
from zolder.san.libzfs import SNAPSHOT_MARK
from zolder.san.lzc import ZfsError
from zolder.san.zpool import Zpool, is_deferred, local, number
from zolder.san.zvols import owner_of

# The mark of a snapshot that was taken with others: one call gives all of them the same properties.
_GROUP: Final = "group"


class ZfsGroups(ZfsCounting):
    """What one operation may do to several zvols at once; zolder.san.storage adds the rest."""

    def create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        """See ``Storage``."""
        check_members(parent, members)
        try:
            return self._create_snapshots(parent, members)
        except NotFound:
            for member in members:
                self.settle(member.parent, member.zvol)
        return self._create_snapshots(parent, members)

    def _create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        zvols = [zvol_dataset(member.parent, member.zvol) for member in members]
        with self._locks.hold(self._operation, *zvols):
            zpools = {place: self._zpool(place) for place in {member.parent for member in members}}
            for member in members:
                owner_of(zpools[member.parent], member.zvol)
            names = [snapshot_dataset(member.parent, member.zvol, member.name) for member in members]
            changed = take_together(self._zpool(parent), names)
        return Change(changed, members)


def take_together(zpool: Zpool, names: Sequence[str]) -> bool:
    """Snapshot zvols that were found to be ours; return False where just these were taken together before.

    :raises AlreadyExists: some are there already and are not ours, or deleted, or of several moments.
    :raises NoSpace: a thick zvol's data cannot be reserved a second time.
    """
    try:
        zpool.library.snapshot(names, {SNAPSHOT_MARK: _GROUP})
    except ZfsError as err:
        if err.errno != errno.EEXIST:
            zpool.explain(err)
    else:
        return True
    found = zpool.look(*names)
    standing = [
        name
        for name in names
        if name in found and local(found[name], SNAPSHOT_MARK, name) and not is_deferred(found[name])
    ]
    moments = {number(found[name], "createtxg") for name in standing}
    if len(standing) < len(names) or len(moments) > 1:
        taken = ", ".join(name for name in names if name in found)
        message = f"these exist and were not taken together with the others that are asked for: {taken}"
        raise AlreadyExists(message)
    return False
