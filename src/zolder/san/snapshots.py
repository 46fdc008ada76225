"""Single steps on a zvol's snapshots: take, destroy, clone. The caller holds a lock.

A snapshot is ours by a mark of its own, set in the call that takes it: it inherits its zvol's mark, which
proves nothing. A snapshot with clones gets ZFS's deferred destroy, so its clones keep what they need and
nothing is promoted (docs/design.md, 9).
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from zolder.errors import AlreadyExists, InvalidRequest, NotFound
from zolder.model import Zvol
from zolder.names import SnapshotName, is_own_snapshot, zvol_dataset
from zolder.properties import BlockSize
from zolder.san import libzfs
from zolder.san.libzfs import SNAPSHOT_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.properties import numbered, require_origin_blocks
from zolder.san.reservations import needed_to_snapshot
from zolder.san.zpool import Zpool, is_deferred, is_full, local, number, refuse_foreign
from zolder.san.zvols import BUSY_SECONDS, shape_zvol

LOG = logging.getLogger(__name__)

# Between two tries: udev lets go within some tens of milliseconds, and says nothing then.
_PAUSE_SECONDS: Final = 0.05


def take_snapshot(zpool: Zpool, name: str) -> bool:
    """Snapshot a zvol that was found to be ours; return False where that was done before.

    :raises AlreadyExists: a snapshot of that name is not ours, or waits for its last clone to go.
    :raises NoSpace: a thick zvol's data cannot be reserved a second time.
    """
    try:
        zpool.library.snapshot([name], {SNAPSHOT_MARK: name.partition("@")[2]})
    except ZfsError as err:
        if err.errno != errno.EEXIST:
            needed = needed_to_snapshot(zpool, name.partition("@")[0]) if is_full(err) else 0
            zpool.explain(err, needed_bytes=needed)
    else:
        return True
    found = zpool.look(name).get(name)
    if found is None or local(found, SNAPSHOT_MARK, name) is None:
        message = f"{name} exists and was not made by Zolder"
        raise AlreadyExists(message)
    if is_deferred(found):
        message = f"{name} was deleted and still waits for its last clone to go"
        raise AlreadyExists(message)
    return False


def remove_snapshot(zpool: Zpool, name: str) -> bool:
    """Destroy a snapshot of ours, or mark it to go with its last clone; return False where it is gone.

    :raises NotPermitted: a snapshot of that name is not ours.
    """
    if not _is_there(zpool, name):
        return False
    destroy_snapshots(zpool, name)
    return True


def remove_uncloned(zpool: Zpool, name: str) -> bool | None:
    """Destroy a snapshot of ours that nothing depends on; return False where it is gone, None where it stays.

    :raises NotPermitted: a snapshot of that name is not ours.
    """
    if not _is_there(zpool, name):
        return False
    try:
        zpool.library.destroy_snapshot(name, defer=False)
    except ZfsError as err:
        if err.errno not in {errno.EEXIST, errno.EBUSY}:
            zpool.explain(err)
        return None
    return True


def require_snapshot(zpool: Zpool, name: str) -> None:
    """Make sure that a snapshot of ours is there.

    :raises NotFound: it is proven absent, or deleted to its clients.
    :raises NotPermitted: a snapshot of that name is not ours.
    """
    if not _is_there(zpool, name):
        message = f"{name} does not exist"
        raise NotFound(message)


def clone_snapshot(
    zpool: Zpool, found: Properties | None, wanted: Zvol, volblocksize: BlockSize | None = None
) -> None:
    """Clone a snapshot of ours to a zvol of the wanted size and reservation, or leave nothing.

    :param found: what a glance has shown of ``wanted.origin``.
    :raises NotFound: the snapshot is proven absent, or deleted to its clients.
    :raises InvalidRequest: the clone would be smaller than its origin, or of other blocks.
    :raises NoSpace: a thick clone does not fit.
    """
    origin = str(wanted.origin)
    if found is None or is_deferred(found):
        zpool.prove()
        message = f"{origin} does not exist"
        raise NotFound(message)
    if local(found, SNAPSHOT_MARK, origin) is None:
        refuse_foreign(origin)
    require_origin_blocks(found, origin, volblocksize)
    make_clone(zpool, number(found, "volsize"), wanted)


def clone_zvol(zpool: Zpool, volsize_bytes: int, wanted: Zvol) -> None:
    """Clone a zvol of ours as it is now, through a snapshot that goes with the clone, or leave nothing.

    The caller holds the source's lock too, so its size cannot change meanwhile.

    :param volsize_bytes: the source's size.
    :param wanted: its origin is the name that the snapshot gets.
    :raises InvalidRequest: the clone would be smaller than its source.
    :raises NoSpace: a thick clone does not fit.
    """
    origin = str(wanted.origin)
    with ExitStack() as undo:
        take_snapshot(zpool, origin)
        undo.callback(take_back, zpool.library.destroy_snapshot, origin)
        make_clone(zpool, volsize_bytes, wanted)
        undo.pop_all()
    destroy_snapshots(zpool, origin)


def complete_clone(zpool: Zpool, existing: Zvol, wanted: Zvol) -> None:
    """Finish what an earlier attempt at the same clone may have left undone.

    :raises AlreadyExists: it is another volume, or the clone of something else.
    :raises NoSpace: a thick clone does not fit.
    """
    # By its leaf: the source may have been put aside since, under another name.
    has, wants = (
        (zvol.volume_id, (zvol.origin or "").partition("@")[2], zvol.properties)
        for zvol in (existing, wanted)
    )
    if has != wants:
        dataset = zvol_dataset(wanted.parent, wanted.name)
        message = f"{dataset} exists and is not the clone that was asked for"
        raise AlreadyExists(message)
    shape_zvol(zpool, existing, wanted)


def list_snapshots(zvol: str) -> list[SnapshotName]:
    """Return the snapshots of a zvol that clients asked for and have not deleted, sorted."""
    return [
        SnapshotName(name.partition("@")[2])
        for name, found in sorted(libzfs.library().snapshots(zvol).items())
        if local(found, SNAPSHOT_MARK, name) is not None
        and not is_own_snapshot(name)
        and not is_deferred(found)
    ]


def make_clone(zpool: Zpool, volsize_bytes: int, wanted: Zvol) -> None:
    """Clone the snapshot that a zvol's origin names, found to be ours, or leave nothing.

    :param volsize_bytes: the snapshot's size.
    :raises InvalidRequest: the clone would be smaller.
    :raises NoSpace: a thick clone does not fit.
    """
    if wanted.volsize_bytes < volsize_bytes:
        message = f"a clone of {wanted.origin} needs at least {volsize_bytes} bytes"
        raise InvalidRequest(message)
    dataset = zvol_dataset(wanted.parent, wanted.name)
    try:
        properties: dict[str, str | int] = {VOLUME_MARK: wanted.volume_id, **numbered(wanted.properties)}
        zpool.library.clone(dataset, str(wanted.origin), properties)
    except ZfsError as err:
        zpool.explain(err)
    with ExitStack() as undo:
        undo.callback(take_back, zpool.library.destroy, dataset)
        made = replace(wanted, volsize_bytes=volsize_bytes, sparse=True)
        shape_zvol(zpool, made, wanted)
        undo.pop_all()


def _is_there(zpool: Zpool, name: str) -> bool:
    """Say whether a snapshot of ours is there and not deleted to its clients.

    :raises NotPermitted: a snapshot of that name is not ours.
    """
    found = zpool.look(name).get(name)
    if found is None:
        return False
    if local(found, SNAPSHOT_MARK, name) is None:
        refuse_foreign(name)
    return not is_deferred(found)


def destroy_snapshots(zpool: Zpool, *names: str) -> None:
    """Destroy snapshots that were found to be ours, each now or with its last clone.

    :raises Error: ZFS refused it.
    """
    try:
        zpool.library.destroy_snapshot(*names)
    except ZfsError as err:
        zpool.explain(err)


def take_back(step: Callable[..., None], *names: str) -> None:
    """Undo a step by another; a failure is logged alone, for the error that led here must reach the caller.

    What is busy is tried again for a while, whoever waits: udev looks into each zvol that has just been made.
    What is left a repeat of the request completes.
    """
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            step(*names)
        except ZfsError as err:
            if err.errno != errno.EBUSY or time.monotonic() > end:
                LOG.exception("could not take back %s", ", ".join(names))
                return
        else:
            return
        time.sleep(_PAUSE_SECONDS)
