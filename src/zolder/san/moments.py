"""A zvol that is in use, as it is at one moment: a clone of the agent's own, through which it is read.

It bears the mark of a view and none of a volume, so no request can name it, and root opens it to be read
alone. It is named by the operation, so a line that was lost is taken up at the same moment; it goes with the
read. Where the agent was killed, or nobody came back, whoever counts the figures takes it away. The caller
holds the zvol's lock, and for as long as it reads the clone's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress

from zolder.errors import InvalidRequest
from zolder.names import (
    OperationId,
    ZvolName,
    clone_origin,
    is_clone_origin,
    is_read_name,
    read_name,
    zvol_dataset,
)
from zolder.san.libzfs import VIEW_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.snapshots import destroy_snapshots, remove_snapshot, take_back, take_snapshot
from zolder.san.zpool import Zpool, find_mark, refuse_foreign, text
from zolder.san.zvols import destroy_zvol


def ensure_moment(zpool: Zpool, zvol: ZvolName, operation: OperationId) -> bool:
    """Have the clone of a zvol of ours by which an operation reads it; return whether it was made now.

    :raises NoSpace: a thick zvol's data cannot be reserved a second time.
    :raises NotPermitted: something else has the clone's name.
    """
    dataset, origin = (
        zvol_dataset(zpool.parent, read_name(operation)),
        clone_origin(zpool.parent, zvol, operation),
    )
    found = zpool.glance(dataset)
    if dataset in found:
        if (
            find_mark(dataset, found[dataset], VIEW_MARK) != operation
            or text(found[dataset], "origin") != origin
        ):
            refuse_foreign(dataset)
        return False
    with ExitStack() as undo:
        take_snapshot(zpool, origin)
        undo.callback(take_back, zpool.library.destroy_snapshot, origin)
        try:
            zpool.library.clone(dataset, origin, {VIEW_MARK: operation})
        except ZfsError as err:
            zpool.explain(err)
        undo.pop_all()
    destroy_snapshots(zpool, origin)
    return True


def remove_moment(zpool: Zpool, clone: ZvolName, operation: Operation) -> None:
    """Destroy a clone that nobody reads any more, and what it was made from.

    :raises Busy: a process keeps its device open.
    """
    dataset = zvol_dataset(zpool.parent, clone)
    found = zpool.look(dataset)
    if not found:
        return
    if find_mark(dataset, found[dataset], VIEW_MARK) is None:
        refuse_foreign(dataset)
    origin = text(found[dataset], "origin")
    destroy_zvol(zpool, clone, operation, release=lambda: None)
    if origin and is_clone_origin(origin):
        remove_snapshot(zpool, origin)  # left where it was cut short


def has_moment(zpool: Zpool, operation: OperationId) -> bool:
    """Say whether an operation has begun to read a zvol through a clone."""
    return bool(zpool.glance(zvol_dataset(zpool.parent, read_name(operation))))


def moments_in(children: Mapping[str, Properties]) -> list[ZvolName]:
    """Return those among a parent's datasets through which zvols are, or were, read."""
    named = []
    for dataset, found in sorted(children.items()):
        leaf = dataset.rpartition("/")[2]
        with suppress(InvalidRequest):  # whoever named that, we did not
            if is_read_name(leaf) and find_mark(dataset, found, VIEW_MARK) is not None:
                named.append(ZvolName(leaf))
    return named
