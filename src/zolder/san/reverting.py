"""Bringing a zvol back to one of its snapshots, whatever it has become since.

To its newest snapshot it is rolled back in place. Snapshots after that which were deleted, and which clones
need, cannot go; so a clone of the snapshot takes the zvol's place: it is made and hidden, the zvol is hidden,
the clone is promoted, so that older snapshots move to it and keep their place in Cinder's eyes, the zvol is
put aside (zolder.san.aside), and the clone gets its name (docs/design.md, 9).

What a cut leaves says itself how it is to end: until the zvol is hidden the clone goes, from then on it takes
over. `settle` does that when a request does not find the zvol. The caller holds the zvol's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from zolder.errors import Busy, Error, InvalidRequest
from zolder.model import Zvol
from zolder.names import OperationId, ZvolName, reverted_name, zvol_dataset
from zolder.san import libzfs
from zolder.san.aside import finish_putting_aside, is_reverted, mark_deleted, unmark_deleted
from zolder.san.libzfs import CONTENTS_NOTE, REVERT_MARK, REVERT_NOTE, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.properties import numbered
from zolder.san.zpool import Zpool, local, number, refuse_foreign, text
from zolder.san.zvols import alive_snapshots, destroy_zvol, remove_own_snapshots, shape_zvol

LOG = logging.getLogger(__name__)

# How far the clone has come; the zvol's name follows.
_BEGUN: Final = "begun "
_PROMOTED: Final = "promoted "


def revert_zvol(
    zpool: Zpool, now: Zvol, snapshot: str, wanted: Zvol, operation: Operation
) -> ZvolName | None:
    """Bring a zvol that nobody uses back to a snapshot of ours, and to the size and reservation wanted.

    :param snapshot: its whole name; it was found to be there.
    :return: what was put aside for it, and has to be collected.
    :raises Busy: snapshots after it were not deleted; they are named.
    :raises InvalidRequest: it would be smaller than its snapshot.
    :raises NoSpace: a thick one does not fit; it stays as it was.
    """
    dataset = zvol_dataset(now.parent, now.name)
    remove_own_snapshots(zpool, dataset)
    each = libzfs.library().snapshots(dataset)
    taken = number(each[snapshot], "createtxg")
    later = [name for name, found in each.items() if number(found, "createtxg") > taken]
    if alive := sorted(set(later) & set(alive_snapshots(dataset))):
        message = f"{dataset} has snapshots after {snapshot} that must go first: {', '.join(alive[:8])}"
        raise Busy(message, holders=alive)
    least_bytes = number(each[snapshot], "volsize")
    if wanted.volsize_bytes < least_bytes:
        message = f"{snapshot} has {least_bytes} bytes, and a zvol is never shrunk"
        raise InvalidRequest(message)
    rolled = replace(now, volsize_bytes=least_bytes)
    try:
        if later:
            return _replace(zpool, rolled, snapshot, wanted, operation)
        if local(zpool.look(dataset)[dataset], CONTENTS_NOTE, dataset) is not None:
            # A write that was cut before it must not go on behind it (zolder.san.contents).
            libzfs.library().set_property(dataset, CONTENTS_NOTE, None)
        zpool.library.rollback(dataset, snapshot)
        shape_zvol(zpool, rolled, wanted)
        libzfs.library().set_property(dataset, REVERT_NOTE, operation.id)
    except ZfsError as err:
        zpool.explain(err)
    return None


def was_reverted_by(found: Properties, dataset: str, operation: OperationId) -> bool:
    """Say whether this very operation has reverted a zvol already."""
    return local(found, REVERT_NOTE, dataset) == operation


def settle(zpool: Zpool, zvol: ZvolName, operation: Operation) -> bool:
    """End what a revert that was cut has left of a zvol; return whether there was anything.

    :raises NotPermitted: something else has the clone's name.
    """
    dataset, clone = (zvol_dataset(zpool.parent, name) for name in (zvol, reverted_name(zvol)))
    found = zpool.glance(dataset, clone)
    try:
        if clone in found:
            stage = local(found[clone], REVERT_MARK, clone)
            if stage not in {f"{_BEGUN}{zvol}", f"{_PROMOTED}{zvol}"}:
                refuse_foreign(clone)
            # What was promoted has snapshots of its own, and all that the volume is: it is never destroyed.
            promoted = stage == f"{_PROMOTED}{zvol}" or libzfs.library().snapshots(clone)
            if not promoted and not is_reverted(found.get(dataset, {}), dataset):
                destroy_zvol(zpool, reverted_name(zvol), operation, release=lambda: None)
            else:
                _take_over(zpool, zvol, operation)
        elif dataset in found and local(found[dataset], REVERT_MARK, dataset) == f"{_PROMOTED}{zvol}":
            libzfs.library().set_property(dataset, REVERT_MARK, None)
        else:
            return False
    except ZfsError as err:
        zpool.explain(err)
    return True


def unsettled_in(children: Mapping[str, Properties]) -> list[ZvolName]:
    """Return the zvols among a parent's for which a revert was cut, or is under way."""
    named = []
    for dataset, found in sorted(children.items()):
        name = (local(found, REVERT_MARK, dataset) or "").rpartition(" ")[2]
        with suppress(InvalidRequest):  # whoever wrote that, we did not
            named.append(ZvolName(name))
    return named


def _replace(
    zpool: Zpool, rolled: Zvol, snapshot: str, wanted: Zvol, operation: Operation
) -> ZvolName | None:
    """Let a clone of a snapshot take a zvol's place; a failure before that takes the clone back."""
    name = reverted_name(rolled.name)
    clone = zvol_dataset(rolled.parent, name)
    marks = {VOLUME_MARK: rolled.volume_id, REVERT_MARK: f"{_BEGUN}{rolled.name}", REVERT_NOTE: operation.id}
    zpool.library.clone(clone, snapshot, {**marks, **numbered(rolled.properties)})
    try:
        shape_zvol(zpool, replace(rolled, name=name, sparse=True), replace(wanted, name=name))
        mark_deleted(zpool, rolled.name, reverted=True)
        zpool.library.promote(clone)
    except (Error, ZfsError):
        try:
            unmark_deleted(zpool, rolled)
            settle(zpool, rolled.name, operation)
        except Error:
            # The error that led here must reach the caller; whoever does not find the zvol settles it.
            LOG.exception("could not take back %s", clone)
        raise
    return _take_over(zpool, rolled.name, operation)


def _take_over(zpool: Zpool, zvol: ZvolName, operation: Operation) -> ZvolName | None:
    dataset, clone = (zvol_dataset(zpool.parent, name) for name in (zvol, reverted_name(zvol)))
    found, aside = zpool.glance(dataset, clone), None
    if dataset in found:
        if not is_reverted(found[dataset], dataset):
            # Where ZFS promoted and said that it did not, that was taken back.
            mark_deleted(zpool, zvol, reverted=True)
        if (text(found[clone], "origin") or "").startswith(f"{dataset}@"):
            zpool.library.promote(clone)
        libzfs.library().set_property(clone, REVERT_MARK, f"{_PROMOTED}{zvol}")
        aside = finish_putting_aside(zpool, zvol, operation)
    zpool.library.rename(clone, dataset)
    libzfs.library().set_property(dataset, REVERT_MARK, None)
    return aside
