"""The view of a snapshot: a temporary clone through which an initiator reads it.

A snapshot's own device would show with all others of its zvol (``snapdev``), so a clone is exported in its
place. It bears a mark of its own and none of a volume, so no other request can name it, and it goes with its
last attachment. The caller holds the view's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from zolder.errors import AlreadyExists, Error, NotFound
from zolder.names import VolumeId, view_name, viewed_id, zvol_dataset
from zolder.san import zfs
from zolder.san.libzfs import SNAPSHOT_MARK, VIEW_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.zpool import Zpool, find_mark, is_deferred, local, refuse_foreign, text
from zolder.san.zvols import destroy_zvol

LOG = logging.getLogger(__name__)


@contextmanager
def ensure_view(zpool: Zpool, view_id: VolumeId, origin: str) -> Iterator[None]:
    """Have the view of a snapshot of ours for the block; one that was made for it goes if the block fails.

    :param origin: the snapshot's whole name.
    :raises NotFound: the snapshot is proven absent, or deleted to its clients.
    :raises NotPermitted: the snapshot is not ours, or something else has the view's name.
    :raises AlreadyExists: the view shows another snapshot.
    """
    dataset = zvol_dataset(zpool.parent, view_name(view_id))
    found = zpool.glance(dataset, origin)
    if dataset in found:
        if find_mark(dataset, found[dataset], VIEW_MARK) is None:
            refuse_foreign(dataset)
        if text(found[dataset], "origin") != origin:
            message = f"{dataset} exists and shows another snapshot than {origin}"
            raise AlreadyExists(message)
        yield
        return
    if origin not in found or is_deferred(found[origin]):
        zpool.prove()
        message = f"{origin} does not exist"
        raise NotFound(message)
    if local(found[origin], SNAPSHOT_MARK, origin) is None:
        refuse_foreign(origin)
    try:
        zpool.library.clone(dataset, origin, {VIEW_MARK: view_id})
    except ZfsError as err:
        zpool.explain(err)
    try:
        yield
    except Error:
        try:
            zpool.library.destroy(dataset)
        except ZfsError:
            # The error that led here must reach the caller; a repeat uses the view, a withdraw removes it.
            LOG.exception("could not take back %s", dataset)
        raise


def views_of(zpool: Zpool, snapshot: str) -> list[VolumeId]:
    """Return the ids of the views that show a snapshot; its cost grows with its zvol's snapshots and clones.

    The command cuts the clones of one snapshot off behind 4 KiB (ZFS_MAXPROPLEN in sys/fs/zfs.h): of some 70
    a view may be missed, and stays until `zolder orphans` finds it.

    :param snapshot: its whole name.
    """
    clones = [clone.rpartition("/") for clone in zfs.clones_of(snapshot.partition("@")[0]).get(snapshot, ())]
    named = (leaf for above, _, leaf in clones if above == zpool.parent and viewed_id(leaf))
    return views_in(zpool.glance(*(f"{zpool.parent}/{leaf}" for leaf in named)))


def views_in(found: Mapping[str, Properties]) -> list[VolumeId]:
    """Return the ids of the views among datasets that a look has shown, sorted."""
    marked = ((dataset, find_mark(dataset, found[dataset], VIEW_MARK)) for dataset in found)
    return sorted(mark for dataset, mark in marked if mark and viewed_id(dataset.rpartition("/")[2]) == mark)


def remove_view(
    zpool: Zpool, view_id: VolumeId, operation: Operation, *, release: Callable[[], object]
) -> bool:
    """Destroy the view of a snapshot that nobody is to reach any more; return False where there is none.

    :param release: see `destroy_zvol`.
    :raises NotPermitted: something else has its name.
    """
    view = view_name(view_id)
    dataset = zvol_dataset(zpool.parent, view)
    found = zpool.look(dataset)
    if not found:
        return False
    if find_mark(dataset, found[dataset], VIEW_MARK) is None:
        refuse_foreign(dataset)
    destroy_zvol(zpool, view, operation, release=release)
    return True
