"""What Cinder has deleted and clones still need: put aside, shown with what holds it, and gone with that.

Cinder may delete a volume whose deleted snapshots have clones. Nothing is promoted for it, since that would
move snapshots that Cinder knows by their place, and nothing is destroyed recursively. The zvol is hidden by a
mark of its own, brought back to its newest snapshot, left without a reservation and renamed, so that its name
is free (docs/design.md, 9). Each step may be repeated; the caller holds the zvol's lock.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from zolder.errors import Busy, InvalidRequest
from zolder.model import PutAside, Zvol
from zolder.names import DatasetName, VolumeId, ZvolName, put_aside_name, zvol_dataset
from zolder.san import libzfs, zfs
from zolder.san.libzfs import DELETED_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.zpool import Zpool, is_deleted, local, number, text
from zolder.san.zvols import BUSY_SECONDS, destroy_zvol, held_by_deleted

_REVERTED: Final = " reverted"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
# What a rollback answers where its snapshot has gone, or a newer one has come, since they were listed.
_MOVED_ON: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.EEXIST, errno.EXDEV})


def put_aside(
    zpool: Zpool, zvol: ZvolName, operation: Operation, *, release: Callable[[], object]
) -> ZvolName:
    """Put a zvol aside that was found to be ours and to be held by deleted snapshots alone.

    :param release: as `await_holders`.
    :return: its name now. Its last clone may have gone meanwhile, so it has to be collected.
    :raises Busy: a process keeps its device open; it stays as it was.
    """
    await_holders(zpool, zvol, operation, release=release)
    mark_deleted(zpool, zvol)
    return finish_putting_aside(zpool, zvol, operation)


def await_holders(
    zpool: Zpool, zvol: ZvolName, operation: Operation, *, release: Callable[[], object]
) -> None:
    """Wait a bounded time until nobody has a zvol's device open.

    :param release: called once where somebody has: takes away what we hold it with ourselves, as an export
        that was cut and stands on no record. Not before: a silent exporter must not be in everybody's way.
    :raises Busy: somebody still has, and is named.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    released = False

    def free() -> bool | None:
        nonlocal released
        if not zpool.privileged.read_holders(zpool.parent, zvol):
            return True
        if not released:
            release()
            released = True
        return None

    announce = f"{dataset} is busy: waiting up to {BUSY_SECONDS} s for its holders"
    if operation.wait_for(free, seconds=BUSY_SECONDS, announce=announce) is None:
        holders = list(zpool.privileged.read_holders(zpool.parent, zvol))
        message = f"{dataset} is in use: it is held by {', '.join(holders) or 'somebody who has just let go'}"
        raise Busy(message, holders=holders)


def mark_deleted(zpool: Zpool, zvol: ZvolName, *, reverted: bool = False) -> None:
    """Hide a zvol from all requests and give its reservation back.

    :param reverted: a clone of one of its snapshots takes its place (zolder.san.reverting).
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        libzfs.library().set_properties(
            zvol_dataset(zpool.parent, zvol),
            {DELETED_MARK: f"{now}{_REVERTED if reverted else ''}", "refreservation": "none"},
        )
    except ZfsError as err:
        zpool.explain(err)


def unmark_deleted(zpool: Zpool, before: Zvol) -> None:
    """Take `mark_deleted` back: what it hid is the volume again, with its reservation.

    :raises NoSpace: a thick one's reservation does not fit any more; it is sparse then.
    """
    try:
        libzfs.library().set_property(zvol_dataset(before.parent, before.name), DELETED_MARK, None)
        if not before.sparse:
            zfs.reserve(zvol_dataset(before.parent, before.name))
    except ZfsError as err:
        zpool.explain(err, needed_bytes=before.volsize_bytes)


def is_reverted(found: Properties, dataset: str) -> bool:
    """Say whether a zvol was hidden for a clone that takes its place, and not deleted by a client."""
    return is_deleted(found, dataset) and (local(found, DELETED_MARK, dataset) or "").endswith(_REVERTED)


def finish_putting_aside(zpool: Zpool, zvol: ZvolName, operation: Operation) -> ZvolName:
    """Do what is left to do for a zvol that bears the mark; it may have been cut anywhere behind that.

    :return: as `put_aside`.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    aside = put_aside_name(number(zpool.look(dataset)[dataset], "guid"))
    while snapshots := libzfs.library().snapshots(dataset):
        newest = max(snapshots, key=lambda name: number(snapshots[name], "createtxg"))
        try:
            zpool.library.rollback(dataset, newest)
        except ZfsError as err:
            if err.errno not in _MOVED_ON:
                zpool.explain(err)
            operation.check()
        else:
            break
    if zvol != aside:
        try:
            zpool.library.rename(dataset, zvol_dataset(zpool.parent, aside))
        except ZfsError as err:
            zpool.explain(err)
    return aside


def collect(zpool: Zpool, zvol: ZvolName, operation: Operation) -> str | None:
    """Destroy what was put aside if nothing needs it any more; return the snapshot that it was cloned from.

    :return: None where it stays, or is nothing that was put aside.
    :raises Busy: a snapshot was taken by somebody else, or a process keeps its device open.
    """
    dataset = zvol_dataset(zpool.parent, zvol)
    found = zpool.glance(dataset).get(dataset)
    if found is None or not is_deleted(found, dataset) or held_by_deleted(dataset):
        return None
    if is_reverted(found, dataset) and zvol != put_aside_name(number(found, "guid")):
        return None  # a revert is under way, or was cut: zolder.san.reverting ends it
    if not destroy_zvol(zpool, zvol, operation, release=lambda: None):
        return None
    return text(found, "origin")


def zvol_behind(parents: Iterable[DatasetName], origin: str | None) -> tuple[DatasetName, ZvolName] | None:
    """Return the zvol below one of these parents whose snapshot an origin is; None where it is another's."""
    above, _, leaf = (origin or "").partition("@")[0].rpartition("/")
    try:
        return next(((parent, ZvolName(leaf)) for parent in parents if parent == above), None)
    except InvalidRequest:
        return None


def put_aside_in(children: Mapping[str, Properties]) -> Iterable[str]:
    """Return the datasets among a parent's that were put aside, sorted."""
    return sorted(dataset for dataset, found in children.items() if is_deleted(found, dataset))


def describe(parent: DatasetName, dataset: str, children: Mapping[str, Properties]) -> PutAside | None:
    """Return what was put aside as `zolder trash` shows it; None where nobody could have asked for it.

    :param children: what lies below the parent; ZFS's own list of clones is cut off behind 4 KiB.
    """
    found = children[dataset]
    volume_id = local(found, VOLUME_MARK, dataset)
    snapshots = zfs.clones_of(dataset)
    clones = {clone for each in snapshots.values() for clone in each}
    clones |= {name for name, child in children.items() if text(child, "origin") in snapshots}
    bare = {name for name, each in snapshots.items() if not each}
    marked = (local(found, DELETED_MARK, dataset) or "").removesuffix(_REVERTED)
    try:
        return PutAside(
            parent,
            ZvolName(dataset.rpartition("/")[2]),
            VolumeId(volume_id or ""),
            deleted_at=marked if _TIME.fullmatch(marked) else "",
            used_bytes=number(found, "used"),
            holders=tuple(sorted(clones | bare)),
            reverted=is_reverted(found, dataset),
        )
    except InvalidRequest:
        return None  # renamed or marked by hand
