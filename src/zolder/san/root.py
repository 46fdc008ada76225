"""Root's part of one identity's requests, with checks of its own: the agent's word proves nothing here.

What is exported is a zvol below a parent of the policy that bears our mark, found again by its device's own
name; what is closed is a target that links to that zvol's own backstore. The policy's own check
(zolder.san.serve) comes before each verb. Nothing that the agent's user can write is read: neither its
folders nor its locks; two that meet at one target's name wait for each other here.
"""

from __future__ import annotations

from zolder.model import Change, Chap, Export
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, ZvolName, zvol_dataset
from zolder.san import libzfs
from zolder.san.exports import ZvolExport, list_exports
from zolder.san.holders import holders_of
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.parents import Site, require_active
from zolder.san.policy import Policy
from zolder.san.privileged import Privileged
from zolder.san.zpool import require_zvol


class Root(Privileged):
    """What root does for one operation, within one policy."""

    def __init__(
        self, policy: Policy, operation: Operation, locks: Locks, *, site: Site | None = None
    ) -> None:
        """Act within ``policy``, which has been checked already.

        :param locks: root's own, which the agents cannot hold.
        """
        self._policy = policy
        self._operation = operation
        self._locks = locks
        self._site = site or Site()

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
        # A target's name is a prefix and this leaf, whatever parent the zvol is in.
        with self._locks.hold(self._operation, zvol):
            require_active(self._site, parent.zpool)
            found = libzfs.library().read(dataset)
            volume_id = require_zvol({} if found is None else {dataset: found}, dataset)
            return ZvolExport(self._policy, parent, zvol).ensure(
                volume_id,
                initiator,
                prefix=prefix,
                portals=portals,
                chap=chap,
                seconds=self._operation.remaining_seconds,
            )

    def close_export(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Privileged``; needs no zpool: a target is closed whatever became of its zvol."""
        export = ZvolExport(self._policy, parent, zvol)
        with self._locks.hold(self._operation, zvol):
            if initiator is None:
                return Change(export.withdraw_all(), ())
            return export.withdraw(initiator)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Privileged``."""
        return list_exports(self._policy, parent)
