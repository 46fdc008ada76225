"""ZFS as one request sees it: what is there, whose it is, and what the kernel's errors mean.

Between the storage verbs and the two modules that speak to ZFS. A dataset is ours only by a mark that is
``local``: snapshots, children and received copies inherit user properties. "Absent" is said only after the
parent has been proven to be the one that was set up (zolder.san.parents).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final, NoReturn

from zolder.errors import BackendError, Error, InvalidRequest, NoSpace, NotFound, NotPermitted, PoolSuspended
from zolder.model import Zvol
from zolder.names import DatasetName, VolumeId, ZvolName, zvol_dataset
from zolder.san import libzfs, lzc
from zolder.san.libzfs import ARRIVING, DELETED_MARK, MOVE_MARK, REVERT_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.parents import Site, import_stamp, record_parent, require_active, require_recorded
from zolder.san.privileged import Privileged
from zolder.san.properties import own_properties

# The import of its zpool in which a parent was proven last.
_PROVEN: Final[dict[DatasetName, str | None]] = {}


class Zpool:
    """One parent of one zpool, for the time of one request."""

    def __init__(self, site: Site, parent: DatasetName, privileged: Privileged) -> None:
        """Make sure that the zpool can be asked.

        :param privileged: knows who holds a zvol's device.
        :raises PoolUnavailable, PoolSuspended: it cannot.
        """
        require_active(site, parent.zpool)
        self._site = site
        self.parent = parent
        self.library = lzc.library()
        self.privileged = privileged

    def look(self, *datasets: str) -> dict[str, Properties]:
        """Return those of the datasets that exist; what is missing is proven absent.

        :raises PoolUnavailable: something is missing and the parent is not the one that was set up.
        """
        found = self.glance(*datasets)
        if len(found) < len(datasets):
            self.prove()
        return found

    def glance(self, *datasets: str) -> dict[str, Properties]:
        """Return the same without the proof: what is missing here may only be out of sight."""
        return {name: found for name in datasets if (found := libzfs.library().read(name)) is not None}

    def prove(self) -> None:
        """Make sure that what this zpool calls absent is absent.

        :raises PoolUnavailable: the parent is not the one that was set up.
        """
        found = self.glance(self.parent)
        require_recorded(self._site, self.parent, _guid(found.get(self.parent)))

    def prove_once(self) -> None:
        """Prove the parent unless this process did since the zpool's import: enough for what only adds to it.

        :raises PoolUnavailable: the parent is not the one that was set up.
        """
        stamp = import_stamp(self._site, self.parent.zpool)
        if stamp is None or _PROVEN.get(self.parent) != stamp:
            self.prove()
            _PROVEN[self.parent] = stamp

    def set_up(self) -> Properties:
        """Return the parent's own properties, and record its guid the first time.

        :raises NotFound: the zpool has no such dataset and never had.
        """
        found = self.glance(self.parent)
        record_parent(self._site, self.parent, _guid(found.get(self.parent)))
        return found[self.parent]

    def children(self) -> Mapping[str, Properties]:
        """Return all datasets directly below the parent."""
        self.prove()
        return libzfs.library().children(self.parent)

    def explain(self, error: ZfsError, *, needed_bytes: int = 0) -> NoReturn:
        """Raise what the kernel's answer means to a caller.

        :raises Error: always.
        """
        raise self._meaning(error, needed_bytes) from error

    def _meaning(self, error: ZfsError, needed_bytes: int) -> Error:
        require_active(self._site, self.parent.zpool)
        if error.errno == lzc.SUSPENDED_ERRNO:
            return PoolSuspended(f"zpool {self.parent.zpool} has suspended its I/O", zpool=self.parent.zpool)
        if is_full(error):
            available = number(self.glance(self.parent)[self.parent], "available")
            message = f"{error.filename}: {needed_bytes} bytes are needed and {available} available"
            return NoSpace(message, needed_bytes=needed_bytes, available_bytes=available)
        if error.errno == errno.ENOENT:
            self.prove()
            return NotFound(f"{error.filename} does not exist", dataset=str(error.filename))
        if error.errno in {errno.EPERM, errno.EACCES}:
            message = (
                f"ZFS lets the agent's user not change {error.filename}: run 'zolder-san install' as root"
            )
            return BackendError(message, errno=error.errno)
        if error.errno == errno.ENOTSUP:
            message = (
                f"ZFS does not support what was asked of {error.filename}: a property may want a feature that"
                f" zpool {self.parent.zpool} lacks: see zpool-features(7) and 'zpool upgrade'"
            )
            return BackendError(message, errno=error.errno)
        message = f"ZFS refused {error.filename}: {error.strerror}"
        return BackendError(message, errno=error.errno or 0)


def is_full(error: ZfsError) -> bool:
    """Say whether what was asked of the kernel did not fit."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def zvol_in(found: Mapping[str, Properties], parent: DatasetName, name: ZvolName) -> Zvol | None:
    """Return the zvol of ours that a look has shown; None where it showed none, or one that was deleted.

    :raises NotPermitted: a dataset of that name bears no mark of ours, or is no zvol.
    """
    dataset = zvol_dataset(parent, name)
    if dataset not in found or is_hidden(found[dataset], dataset):
        return None
    return describe_zvol(parent, name, require_zvol(found, dataset), found[dataset])


def describe_zvol(parent: DatasetName, name: ZvolName, mark: VolumeId, properties: Properties) -> Zvol:
    """Return what a look has shown of a zvol, whoever made it, as the volume that it is or is to be."""
    dataset = zvol_dataset(parent, name)
    return Zvol(
        parent=parent,
        name=name,
        volume_id=mark,
        volsize_bytes=number(properties, "volsize"),
        sparse=number(properties, "refreservation") == 0,
        origin=text(properties, "origin"),
        properties=own_properties(properties, dataset),
    )


def zvols_in(children: Mapping[str, Properties], parent: DatasetName) -> tuple[Zvol, ...]:
    """Return the zvols of ours among the datasets below a parent, sorted; the others are left alone."""
    found = []
    for dataset in sorted(children):
        if find_mark(dataset, children[dataset]) and "volsize" in children[dataset]:
            try:
                name = ZvolName(dataset.rpartition("/")[2])
            except InvalidRequest:
                continue  # renamed by hand to what no request can name
            found.append(zvol_in(children, parent, name))
    return tuple(zvol for zvol in found if zvol is not None)


def require_zvol(found: Mapping[str, Properties], dataset: str) -> VolumeId:
    """Return the volume that a dataset, seen in a look, is marked with, if it is a zvol.

    :raises NotFound: the look proved it absent.
    :raises NotPermitted: it bears no mark of ours, or is no zvol.
    """
    mark = require_ours(found, dataset)
    if "volsize" not in found[dataset]:
        refuse_foreign(dataset)
    return mark


def require_ours(found: Mapping[str, Properties], dataset: str) -> VolumeId:
    """Return the volume that a dataset, seen in a look, is marked with.

    :raises NotFound: the look proved it absent.
    :raises NotPermitted: it bears no mark of ours.
    """
    if dataset not in found or is_hidden(found[dataset], dataset):
        message = f"{dataset} does not exist"
        raise NotFound(message)
    mark = find_mark(dataset, found[dataset])
    if mark is None:
        refuse_foreign(dataset)
    return mark


def find_mark(dataset: str, found: Properties, name: str = VOLUME_MARK) -> VolumeId | None:
    """Return the volume (or the snapshot) that a dataset's own mark names; None without one of ours.

    What was deleted and put aside is no volume any more (zolder.san.aside), and what is to take a volume's
    place is none yet (zolder.san.reverting, zolder.san.sending).
    """
    mark = local(found, name, dataset)
    if mark is None or is_hidden(found, dataset):
        return None
    try:
        return VolumeId(mark)
    except InvalidRequest:
        return None  # whoever wrote that, we did not


def is_deleted(found: Properties, dataset: str) -> bool:
    """Say whether a zvol of ours was deleted and is kept for its snapshots' clones alone."""
    return local(found, DELETED_MARK, dataset) is not None and local(found, VOLUME_MARK, dataset) is not None


def is_hidden(found: Properties, dataset: str) -> bool:
    """Say whether a zvol of ours is no volume any more, or none yet."""
    arriving = (local(found, MOVE_MARK, dataset) or "").startswith(ARRIVING)
    return arriving or is_deleted(found, dataset) or local(found, REVERT_MARK, dataset) is not None


def is_deferred(found: Properties) -> bool:
    """Say whether a snapshot is deleted to its clients and waits for its last clone to go."""
    return number(found, "defer_destroy") == 1


def number(found: Properties, name: str) -> int:
    """Return a property that is a figure; one that is not set is 0."""
    value = found[name].value if name in found else 0
    return value if isinstance(value, int) else 0


def text(found: Properties, name: str) -> str | None:
    """Return a property that is text, or None where it is empty or not set."""
    value = found[name].value if name in found else ""
    return value if isinstance(value, str) and value else None


def local(found: Properties, name: str, dataset: str) -> str | None:
    """Return a user property's text only where the dataset itself carries it."""
    return text(found, name) if name in found and found[name].source == dataset else None


def refuse_foreign(dataset: str) -> NoReturn:
    """Raise that a dataset is not ours.

    :raises NotPermitted: always.
    """
    message = f"{dataset} exists and bears no mark of Zolder: it is left alone"
    raise NotPermitted(message, dataset=dataset)


def _guid(found: Properties | None) -> int | None:
    return None if found is None else number(found, "guid")
