"""How much room a thick zvol lacks, in ZFS's own arithmetic: asked for only where ZFS has refused one.

The kernel says that something does not fit and not what was needed. Sources: zvol_volsize_to_reservation in
libzfs_dataset.c; dsl_dataset_set_refreservation_check, dsl_dataset_snapshot_reserve_space in dsl_dataset.c.
"""

from __future__ import annotations

from zolder.model import Zvol
from zolder.names import zvol_dataset
from zolder.properties import BlockSize
from zolder.san import libzfs
from zolder.san.zpool import Zpool, number


def needed_to_create(wanted: Zvol, volblocksize: BlockSize | None) -> int:
    """Return what a new zvol needs at once, in bytes: a sparse one its size in the end."""
    if wanted.sparse:
        return wanted.volsize_bytes
    size_bytes = volblocksize.size_bytes if volblocksize else None
    return libzfs.library().reservation_for(wanted.parent, wanted.volsize_bytes, size_bytes)


def needed_to_reserve(zpool: Zpool, wanted: Zvol) -> int:
    """Return what a zvol that stands needs beside what it has, to be of another size or thick, in bytes."""
    dataset = zvol_dataset(wanted.parent, wanted.name)
    found = zpool.glance(dataset)[dataset]
    reserved = libzfs.library().reservation_for(dataset, wanted.volsize_bytes, number(found, "volblocksize"))
    return max(0, reserved - max(number(found, "usedbydataset"), number(found, "refreservation")))


def needed_to_snapshot(zpool: Zpool, dataset: str) -> int:
    """Return what a snapshot of a zvol needs at once, in bytes.

    What a thick zvol has written since its last one is reserved a second time, at most its reservation.
    """
    found = zpool.glance(dataset)[dataset]
    return min(number(found, "usedbydataset"), number(found, "refreservation"))
