"""Clones: of a snapshot, of a zvol as it is, and of several zvols as they are at one moment.

What is cloned as it is goes through snapshots of the agent's own, each of which goes with its clone by ZFS's
deferred destroy. A request that was cut leaves them whole; a repeat goes on from there, and whoever deletes
the source takes them away (zolder.san.zvols), so nothing that no client knows of is in anybody's way.
Those of one moment are taken by one call, have one ``createtxg``, and only what has that counts as them.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import ExitStack

from zolder.api import check_copies
from zolder.errors import AlreadyExists, NotFound
from zolder.model import Change, Zvol, ZvolCopy
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    clone_origin,
    clone_origin_leaf,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable
from zolder.san.counting import ZfsCounting
from zolder.san.libzfs import SNAPSHOT_MARK
from zolder.san.lzc import ZfsError
from zolder.san.properties import require_block_size, require_origin_blocks
from zolder.san.reservations import needed_to_snapshot
from zolder.san.settling import settling
from zolder.san.snapshots import (
    clone_snapshot,
    clone_zvol,
    complete_clone,
    destroy_snapshots,
    make_clone,
    remove_snapshot,
    remove_uncloned,
    take_back,
)
from zolder.san.zpool import Zpool, is_deferred, is_full, local, number, require_zvol, zvol_in


class ZfsCopies(ZfsCounting):
    """What one operation may do to make zvols from others; zolder.san.storage adds the rest."""

    @settling(of="source")
    def clone_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        snapshot: SnapshotName | None,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        volsize_bytes: int,
        sparse: bool,
        properties: ZvolProperties = INHERITED,
        volblocksize: BlockSize | None = None,
    ) -> Change[Zvol]:
        """See ``Storage``; without a snapshot one of our own is made, which goes with the clone."""
        check_reservable(properties, sparse=sparse)
        if snapshot is None:
            origin = clone_origin(parent, source, volume_id)
        else:
            origin = snapshot_dataset(parent, source, snapshot)
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, origin, properties)
        clone_dataset, source_dataset = zvol_dataset(parent, zvol), zvol_dataset(parent, source)
        with (
            self._locks.hold(self._operation, clone_dataset, source_dataset),
            self._counting(parent, zvol, volsize_bytes),
        ):
            zpool = self._zpool(parent)
            found = zpool.glance(clone_dataset, source_dataset if snapshot is None else origin)
            existing = zvol_in(found, parent, zvol)
            if existing is not None:
                complete_clone(zpool, existing, wanted)
                require_block_size(found[clone_dataset], clone_dataset, volblocksize)
                if existing.origin and existing.origin.endswith(f"@{clone_origin_leaf(volume_id)}"):
                    remove_snapshot(zpool, existing.origin)
            elif snapshot is not None:
                clone_snapshot(zpool, found.get(origin), wanted, volblocksize)
            else:
                if source_dataset not in found:
                    zpool.prove()
                require_zvol(found, source_dataset)
                require_origin_blocks(found[source_dataset], source_dataset, volblocksize)
                clone_zvol(zpool, number(found[source_dataset], "volsize"), wanted)
        return Change(existing is None, wanted)

    def clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], *, moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        """See ``Storage``."""
        check_copies(parent, copies)
        try:
            return self._clone_zvols(parent, copies, moment)
        except NotFound:
            for copy in copies:
                self.settle(copy.parent, copy.source)
        return self._clone_zvols(parent, copies, moment)

    def _clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        wanted = [_clone_of(copy, moment) for copy in copies]
        names = [zvol_dataset(copy.parent, name) for copy in copies for name in (copy.source, copy.zvol)]
        with ExitStack() as held:
            held.enter_context(self._locks.hold(self._operation, *names))
            for clone in wanted:
                held.enter_context(self._counting(clone.parent, clone.name, clone.volsize_bytes))
            zpools = {place: self._zpool(place) for place in {copy.parent for copy in copies}}
            missing = []
            for copy, clone in zip(copies, wanted, strict=True):
                source_bytes = _look_at(zpools[copy.parent], copy, clone)
                if source_bytes is not None:
                    missing.append((clone, source_bytes))
            clone_together(self._zpool(parent), wanted, missing)
        return Change(bool(missing), tuple(wanted))


def clone_together(zpool: Zpool, wanted: Sequence[Zvol], missing: Sequence[tuple[Zvol, int]]) -> None:
    """Make those clones of one moment that are missing, or none of them; their snapshots go with them.

    :param missing: each with its source's size in bytes.
    :raises Error: as ``Storage.clone_zvols``.
    """
    origins = [str(clone.origin) for clone in wanted]
    if not missing:
        for origin in origins:
            remove_snapshot(zpool, origin)
        return
    with ExitStack() as undo:
        if take_moment(zpool, origins, anew=len(missing) == len(wanted)):
            undo.callback(take_back, zpool.library.destroy_snapshot, *origins)
        for clone, source_bytes in missing:
            make_clone(zpool, source_bytes, clone)
            undo.callback(take_back, zpool.library.destroy, zvol_dataset(clone.parent, clone.name))
        undo.pop_all()
    destroy_snapshots(zpool, *origins)


def take_moment(zpool: Zpool, origins: Sequence[str], *, anew: bool) -> bool:
    """Have the snapshots of one moment, all in this zpool, from which several zvols are to be cloned.

    :param anew: no clone of the moment stands yet: what a cut attempt has left is taken once more.
    :return: whether they were taken now.
    :raises AlreadyExists: clones of another moment of that id stand, or somebody else has such a name.
    :raises NoSpace: a thick zvol's data cannot be reserved a second time.
    """
    if anew and _take(zpool, origins):
        return True
    leaf, found = origins[0].partition("@")[2], zpool.look(*origins)
    left = [
        name
        for name, seen in found.items()
        if local(seen, SNAPSHOT_MARK, name) == leaf and not is_deferred(seen)
    ]
    if anew:
        gone = [remove_uncloned(zpool, name) is not None for name in left]
        if all(gone) and _take(zpool, origins):
            return True
    elif len(left) == len(origins) and len({number(found[name], "createtxg") for name in left}) == 1:
        return False
    message = f"clones of this moment were made before, and not all: {', '.join(found)}"
    raise AlreadyExists(message)


def _take(zpool: Zpool, origins: Sequence[str]) -> bool:
    """Take the snapshots by one call; return False where one of the names is taken."""
    try:
        zpool.library.snapshot(origins, {SNAPSHOT_MARK: origins[0].partition("@")[2]})
    except ZfsError as err:
        if err.errno != errno.EEXIST:
            zvols = [name.partition("@")[0] for name in origins]
            needed = sum(needed_to_snapshot(zpool, zvol) for zvol in zvols) if is_full(err) else 0
            zpool.explain(err, needed_bytes=needed)
        return False
    return True


def _look_at(zpool: Zpool, copy: ZvolCopy, wanted: Zvol) -> int | None:
    """Return the size of a copy's source, in bytes; None where the clone stands, which is completed.

    :raises Error: as ``Storage.clone_zvols``: the source is absent or not ours, or the clone's name is taken.
    """
    clone, source = zvol_dataset(copy.parent, copy.zvol), zvol_dataset(copy.parent, copy.source)
    seen = zpool.look(clone, source)
    existing = zvol_in(seen, copy.parent, copy.zvol)
    if existing is None:
        require_zvol(seen, source)
        require_origin_blocks(seen[source], source, copy.volblocksize)
        return number(seen[source], "volsize")
    complete_clone(zpool, existing, wanted)
    require_block_size(seen[clone], clone, copy.volblocksize)
    return None


def _clone_of(copy: ZvolCopy, moment: VolumeId) -> Zvol:
    return Zvol(
        copy.parent,
        copy.zvol,
        copy.volume_id,
        copy.volsize_bytes,
        copy.sparse,
        clone_origin(copy.parent, copy.source, moment),
        copy.properties,
    )
