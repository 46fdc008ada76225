"""Single steps on zvols: find, create, grow, destroy. The caller holds the zvol's lock.

The cheap way first: the kernel is asked at once and looked at closer only where it refuses. What does not
bear its own mark is never changed, and nothing is destroyed recursively.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from zolder.errors import AlreadyExists, Busy, NotFound
from zolder.model import Zvol
from zolder.names import VolumeId, ZvolName, is_own_snapshot, zvol_dataset
from zolder.properties import BlockSize, given
from zolder.san import libzfs, zfs
from zolder.san.libzfs import SNAPSHOT_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.properties import numbered, require_block_size, spelled
from zolder.san.reservations import needed_to_create, needed_to_reserve
from zolder.san.zpool import (
    Zpool,
    is_deferred,
    is_full,
    local,
    require_ours,
    zvol_in,
)

# How long a destroy waits for whoever holds the zvol: udev and a closing session let go within this.
BUSY_SECONDS: Final = 10


def look_at(zpool: Zpool, zvol: ZvolName) -> tuple[Zvol, Properties]:
    """Return a zvol of ours, and all that was seen of it.

    :raises NotFound: it is proven absent.
    :raises NotPermitted: a dataset of that name lacks our mark.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    seen = zpool.look(dataset)
    found = zvol_in(seen, zpool.parent, zvol)
    if found is None:
        message = f"{dataset} does not exist"
        raise NotFound(message)
    return found, seen[dataset]


def owner_of(zpool: Zpool, zvol: ZvolName) -> VolumeId:
    """Return the volume that a zvol of ours is, with the least that must be asked for it.

    :raises NotFound: it is proven absent.
    :raises NotPermitted: a dataset of that name lacks our mark.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    return require_ours(zpool.look(dataset), dataset)


def create_zvol(zpool: Zpool, wanted: Zvol, volblocksize: BlockSize | None = None) -> bool:
    """Create a zvol with its mark and its properties; return False where the very same exists.

    :raises AlreadyExists: the name is taken by another volume, or by one of another size or kind.
    :raises InvalidRequest: this SAN's OpenZFS knows no such value.
    :raises NoSpace: a thick one does not fit.
    :raises PoolUnavailable: the parent is not the one that was set up.
    """
    # A zvol in another zpool of that name would be "absent" once the right one is back.
    zpool.prove_once()
    dataset = zvol_dataset(wanted.parent, wanted.name)
    mark, numbers = {VOLUME_MARK: wanted.volume_id}, numbered(wanted.properties, volblocksize)
    try:
        if wanted.sparse:
            zpool.library.create_zvol(dataset, wanted.volsize_bytes, {**mark, **numbers})
        else:
            words = spelled(wanted.properties, volblocksize)
            zfs.create_thick_zvol(dataset, wanted.volsize_bytes, {**mark, **words})
    except ZfsError as err:
        if err.errno != errno.EEXIST:
            zpool.explain(err, needed_bytes=needed_to_create(wanted, volblocksize) if is_full(err) else 0)
    else:
        return True
    seen = zpool.look(dataset)
    existing = zvol_in(seen, wanted.parent, wanted.name)
    if existing is None:
        message = f"{dataset} was deleted and still has its name: delete it once more"
        raise AlreadyExists(message)
    if existing != wanted:
        message = f"{dataset} exists: volume {_described(existing)}; asked for was {_described(wanted)}"
        raise AlreadyExists(message)
    require_block_size(seen[dataset], dataset, volblocksize)
    return False


def _described(zvol: Zvol) -> str:
    words = [f"{name}={value}" for name, value in given(zvol.properties).items()]
    provisioning = "thin" if zvol.sparse else "thick"
    return " ".join([f"{zvol.volume_id}, {zvol.volsize_bytes} bytes, {provisioning}", *words])


def set_mark(zpool: Zpool, dataset: str, name: str, value: str | None) -> None:
    """Set a mark or a note of ours on a dataset or a snapshot, or take it away.

    :raises Error: ZFS refused it.
    """
    try:
        libzfs.library().set_property(dataset, name, value)
    except ZfsError as err:
        zpool.explain(err)


def shape_zvol(zpool: Zpool, now: Zvol, wanted: Zvol) -> None:
    """Bring a zvol's size and reservation to what is wanted; never smaller.

    :raises NoSpace: a thick one's growth does not fit; it stays as it was.
    """
    dataset = zvol_dataset(now.parent, now.name)
    try:
        if wanted.volsize_bytes > now.volsize_bytes:
            zfs.set_volsize(dataset, wanted.volsize_bytes)
        if now.sparse and not wanted.sparse:
            zfs.reserve(dataset)
    except ZfsError as err:
        zpool.explain(err, needed_bytes=needed_to_reserve(zpool, wanted) if is_full(err) else 0)


def destroy_zvol(
    zpool: Zpool, zvol: ZvolName, operation: Operation, *, release: Callable[[], object]
) -> bool:
    """Destroy a zvol that was found to be ours, waiting a bounded time for whoever holds it.

    :param release: called once where it is held by no snapshot: takes away what we hold it with ourselves.
    :return: False where it stays: clones need deleted snapshots of it, and nothing else is in the way.
    :raises Busy: snapshots (at once) or a device's users (after the wait) hold it, and are named.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    released = False

    def attempt() -> bool | None:
        nonlocal released
        try:
            zpool.library.destroy(dataset)
        except ZfsError as err:
            if err.errno not in {errno.EBUSY, errno.EEXIST}:
                zpool.explain(err)
            if _is_needed(zpool, zvol):
                return False
            if not released:
                release()
                released = True
            return None
        return True

    announce = f"{dataset} is busy: waiting up to {BUSY_SECONDS} s for its holders"
    destroyed = operation.wait_for(attempt, seconds=BUSY_SECONDS, announce=announce)
    if destroyed is None:
        holders = list(zpool.privileged.read_holders(zpool.parent, zvol))
        message = f"{dataset} is held by {', '.join(holders) or 'somebody who cannot be named'}"
        raise Busy(message, holders=holders)
    return destroyed


def _is_needed(zpool: Zpool, zvol: ZvolName) -> bool:
    """Say whether deleted snapshots hold a zvol.

    :raises Busy: it has other snapshots: Cinder's own, or somebody else's.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    remove_own_snapshots(zpool, dataset)
    alive = alive_snapshots(dataset)
    if alive:
        message = f"{dataset} has snapshots that must go first: {', '.join(alive[:8])}"
        raise Busy(message, holders=alive)
    return bool(libzfs.library().snapshots(dataset))


def remove_own_snapshots(zpool: Zpool, dataset: str, *, but: str = "") -> None:
    """Remove what clones and moves of a zvol that were cut short left behind, or let it go with its clone.

    :param but: the whole name of one that stays.
    """
    for name, found in libzfs.library().snapshots(dataset).items():
        mark = local(found, SNAPSHOT_MARK, name)
        ours = is_own_snapshot(name) and mark == name.partition("@")[2] and name != but
        if ours and not is_deferred(found):
            try:
                zpool.library.destroy_snapshot(name)
            except ZfsError as err:
                zpool.explain(err)


def held_by_deleted(dataset: str) -> bool:
    """Say whether a zvol has deleted snapshots and no others: then clones, or holds, need it."""
    return bool(libzfs.library().snapshots(dataset)) and not alive_snapshots(dataset)


def alive_snapshots(dataset: str) -> list[str]:
    """Return a zvol's snapshots but for those that were deleted through us and wait for clones, sorted."""
    each = libzfs.library().snapshots(dataset)
    return sorted(
        name
        for name, found in each.items()
        if not (is_deferred(found) and local(found, SNAPSHOT_MARK, name) is not None)
    )
