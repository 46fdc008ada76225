"""Exports of one identity's zvols: which target, backstore and serial each has.

The names are derived, never stored: the IQN from the identity's prefix and the zvol, the backstore from the
whole dataset, the serial from the volume's id. A withdraw looks at every prefix of the policy, so an export
is found again after the client's options have changed. The caller holds the zvol's lock.
"""

from __future__ import annotations

from zolder.model import Change, Chap, Export, Zvol
from zolder.names import (
    DatasetName,
    InitiatorName,
    Portal,
    TargetPrefix,
    ZvolName,
    target_name,
    unit_serial,
    zvol_dataset,
)
from zolder.san.device import open_zvol
from zolder.san.lio import Lio
from zolder.san.operation import Operation
from zolder.san.policy import Policy

# A zvol's node comes some milliseconds after the zvol, seconds on a machine under load.
DEVICE_SECONDS = 20
_LUN = 0


class Exports:
    """The exports that one identity may make and close."""

    def __init__(self, policy: Policy) -> None:
        """Use the kernel's targets."""
        self._prefixes = policy.target_prefixes
        self._lio = Lio()

    def ensure(
        self,
        zvol: Zvol,
        initiator: InitiatorName,
        prefix: TargetPrefix,
        portals: tuple[Portal, ...],
        chap: Chap | None,
        operation: Operation,
    ) -> Change[Export]:
        """Export a zvol to an initiator beside those that reach it already."""
        target = target_name(prefix, zvol.name)
        seconds = min(DEVICE_SECONDS, operation.remaining_seconds)
        with open_zvol(zvol_dataset(zvol.parent, zvol.name), timeout_seconds=seconds) as device:
            changed = self._lio.ensure_export(
                target,
                backstore=_backstore(zvol.parent, zvol.name),
                device=device.path,
                serial=unit_serial(zvol.volume_id),
                portals=portals,
                initiator=initiator,
                chap=chap,
            )
        return Change(changed, Export(zvol.name, target, portals, _LUN, self._lio.initiators_of(target)))

    def withdraw(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName
    ) -> Change[tuple[InitiatorName, ...]]:
        """Close a zvol to one initiator; its target goes with the last."""
        backstore = _backstore(parent, zvol)
        changed, remaining = False, set[InitiatorName]()
        for prefix in self._prefixes:
            removed, left = self._lio.remove_initiator(
                target_name(prefix, zvol), backstore=backstore, initiator=initiator
            )
            changed |= removed
            remaining.update(left)
        return Change(changed, tuple(sorted(remaining)))

    def withdraw_all(self, parent: DatasetName, zvol: ZvolName) -> bool:
        """Close a zvol to everybody; return whether it was open at all."""
        backstore = _backstore(parent, zvol)
        removed = [
            self._lio.remove_export(target_name(prefix, zvol), backstore=backstore)
            for prefix in self._prefixes
        ]
        return any(removed)

    def list(self, parent: DatasetName) -> tuple[Export, ...]:
        """Return the exports of a parent's zvols, sorted by zvol."""
        found = []
        for prefix in self._prefixes:
            for export in self._lio.list_exports(prefix):
                zvol = ZvolName(export.target.removeprefix(prefix))
                if export.backstore == _backstore(parent, zvol):
                    found.append(Export(zvol, export.target, export.portals, _LUN, export.initiators))
        return tuple(sorted(found, key=lambda export: export.zvol))


def _backstore(parent: DatasetName, zvol: ZvolName) -> str:
    """Return the name of a zvol's backstore: its dataset, whose names have no colon of their own."""
    return zvol_dataset(parent, zvol).replace("/", ":")
