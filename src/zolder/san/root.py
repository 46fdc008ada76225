"""Root's part of one identity's requests, with checks of its own: the agent's word proves nothing here.

What is read lies below one parent of the policy and is one of a few properties; what is exported is a zvol
there that bears our mark, found again by its device's own name; what is closed is a target that links to that
zvol's own backstore. The policy's own check (zolder.san.serve) comes before each verb. Nothing that the
agent's user can write is read: neither its folders nor its locks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from zolder.errors import BackendError, InvalidRequest, NotPermitted, PoolSuspended
from zolder.model import Change, Chap, Export
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, ZvolName, zvol_dataset
from zolder.san import lzc, programs
from zolder.san.exports import ZvolExport, list_exports
from zolder.san.holders import holders_of
from zolder.san.lzc import ZfsError
from zolder.san.parents import Site, require_active
from zolder.san.policy import Policy
from zolder.san.privileged import Look, Privileged, Properties
from zolder.san.zpool import OWNERSHIP, READABLE, require_ours

T = TypeVar("T")

# A listing needs four; nobody has a use for more datasets in one look than a clone's three.
_MOST_LOOKS: Final = 16


class Root(Privileged):
    """What root does within one policy."""

    def __init__(self, policy: Policy, *, seconds: float, site: Site | None = None) -> None:
        """Act within ``policy``, which has been checked already.

        :param seconds: the longest wait for a device node.
        """
        self._policy = policy
        self._seconds = seconds
        self._site = site or Site()

    def read_datasets(self, parent: DatasetName, looks: tuple[Look, ...]) -> Mapping[str, Properties]:
        """See ``Privileged``."""
        if len(looks) > _MOST_LOOKS:
            message = f"{len(looks)} datasets in one look are more than {_MOST_LOOKS}"
            raise InvalidRequest(message)
        for look in looks:
            _check_below(parent, look.dataset)
            _check_readable(look.properties)
        wanted = {look.dataset: look.properties for look in looks}
        return self._read(parent, lambda: programs.read(lzc.library(), parent.zpool, wanted))

    def read_children(self, parent: DatasetName, properties: tuple[str, ...]) -> Mapping[str, Properties]:
        """See ``Privileged``."""
        _check_readable(properties)
        return self._read(
            parent, lambda: programs.list_children(lzc.library(), parent.zpool, parent, properties)
        )

    def read_clones(self, parent: DatasetName, zvol: ZvolName) -> Mapping[str, tuple[str, ...]]:
        """See ``Privileged``."""
        dataset = zvol_dataset(parent, zvol)
        return self._read(parent, lambda: programs.list_clones(lzc.library(), parent.zpool, dataset))

    def read_holders(self, parent: DatasetName, zvol: ZvolName) -> tuple[str, ...]:
        """See ``Privileged``."""
        return tuple(holders_of(zvol_dataset(parent, zvol), None))

    def open_export(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        prefix: TargetPrefix,
        portals: tuple[Portal, ...],
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Privileged``."""
        dataset = zvol_dataset(parent, zvol)
        wanted = {dataset: OWNERSHIP}
        found = self._read(parent, lambda: programs.read(lzc.library(), parent.zpool, wanted))
        volume_id = require_ours(found, dataset)
        return self._export(parent, zvol).ensure(
            volume_id, initiator, prefix=prefix, portals=portals, chap=chap, seconds=self._seconds
        )

    def close_export(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Privileged``; needs no zpool: a target is closed whatever became of its zvol."""
        export = self._export(parent, zvol)
        if initiator is None:
            return Change(export.withdraw_all(), ())
        return export.withdraw(initiator)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Privileged``."""
        return list_exports(self._policy, parent)

    def _export(self, parent: DatasetName, zvol: ZvolName) -> ZvolExport:
        return ZvolExport(self._policy, parent, zvol)

    def _read(self, parent: DatasetName, look: Callable[[], T]) -> T:
        require_active(self._site, parent.zpool)
        try:
            return look()
        except ZfsError as err:
            if err.errno == lzc.SUSPENDED_ERRNO:
                message = f"zpool {parent.zpool} has suspended its I/O"
                raise PoolSuspended(message, zpool=parent.zpool) from err
            number = err.errno or errno.EIO
            message = f"ZFS could not be read at {err.filename}: {err.strerror}"
            raise BackendError(message, errno=number) from err


def _check_below(parent: DatasetName, dataset: str) -> None:
    """Make sure that a dataset or snapshot is the parent itself or lies directly below it.

    :raises NotPermitted: it lies elsewhere.
    """
    place, _, leaf = dataset.rpartition("/")
    if dataset != parent and (place != parent or not leaf):
        message = f"{dataset[:80]!a} does not lie directly below {parent}"
        raise NotPermitted(message)


def _check_readable(properties: tuple[str, ...]) -> None:
    for name in properties:
        if name not in READABLE:
            message = f"{name[:80]!a} is no property that the agent has a use for"
            raise NotPermitted(message)
