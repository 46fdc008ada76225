"""Exports of one identity's zvols: which target, backstore and serial each has.

The names are derived, never stored: the IQN from the identity's prefix and the zvol, the backstore from the
whole dataset, the serial from the volume's id. A withdraw looks at every prefix of the policy, so an export
is found again after the client's options have changed. The caller holds the zvol's lock.
"""

from __future__ import annotations

from typing import Final

from zolder.errors import Busy
from zolder.model import Change, Chap, Export
from zolder.names import (
    DatasetName,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    target_name,
    unit_serial,
    zvol_dataset,
)
from zolder.san.device import open_zvol
from zolder.san.lio import Lio
from zolder.san.policy import Policy

# A zvol's node comes some milliseconds after the zvol, seconds on a machine under load.
DEVICE_SECONDS: Final = 20
_LUN: Final = 0


class ZvolExport:
    """The export that one zvol has or may have."""

    def __init__(self, policy: Policy, parent: DatasetName, zvol: ZvolName) -> None:
        """Name it; nothing is looked at yet."""
        self._prefixes = policy.target_prefixes
        self._zvol = zvol
        self._dataset = zvol_dataset(parent, zvol)
        self._backstore = _backstore(parent, zvol)
        self._lio = Lio()

    def ensure(
        self,
        volume_id: VolumeId,
        initiator: InitiatorName,
        *,
        prefix: TargetPrefix,
        portals: tuple[Portal, ...],
        chap: Chap | None,
        seconds: float,
    ) -> Change[Export]:
        """Open it to an initiator beside those that reach it already.

        :param seconds: the longest wait for the zvol's device node.
        :raises AlreadyExists: a target of that name is somebody else's.
        :raises Busy: the device is claimed by somebody else.
        """
        target = target_name(prefix, self._zvol)
        with open_zvol(self._dataset, timeout_seconds=min(seconds, DEVICE_SECONDS)) as device:
            changed = self._lio.ensure_export(
                target,
                backstore=self._backstore,
                device=device.path,
                serial=unit_serial(volume_id),
                portals=portals,
                initiator=initiator,
                chap=chap,
            )
        initiators = self._lio.initiators_of(target)
        return Change(changed, Export(self._zvol, target, portals, _LUN, initiators))

    def withdraw(self, initiator: InitiatorName) -> Change[tuple[InitiatorName, ...]]:
        """Close it to one initiator; the target goes with the last.

        :raises Busy: a target that is not this identity's exports it still.
        """
        changed, remaining = False, set[InitiatorName]()
        for prefix in self._prefixes:
            removed, left = self._lio.remove_initiator(
                target_name(prefix, self._zvol), backstore=self._backstore, initiator=initiator
            )
            changed |= removed
            remaining.update(left)
        if not remaining:
            self._require_closed()
        return Change(changed, tuple(sorted(remaining)))

    def withdraw_all(self) -> bool:
        """Close it to everybody; return whether it was there at all.

        :raises Busy: a target that is not this identity's exports it still.
        """
        removed = [
            self._lio.remove_export(target_name(prefix, self._zvol), backstore=self._backstore)
            for prefix in self._prefixes
        ]
        self._require_closed()
        return any(removed)

    def _require_closed(self) -> None:
        if self._lio.has_backstore(self._backstore):
            message = (
                f"{self._dataset} is exported by a target of none of this identity's prefixes: was one taken"
                " out of this SAN's policy? Remove that target, or put the prefix back and ask again"
            )
            raise Busy(message, holders=[f"LIO backstore {self._backstore}"])


def list_exports(policy: Policy, parent: DatasetName) -> tuple[Export, ...]:
    """Return the exports of a parent's zvols, sorted by zvol; the cost grows with all targets."""
    found = []
    lio = Lio()
    for prefix in policy.target_prefixes:
        for export in lio.list_exports(prefix):
            # What others export under our prefix has no backstore named after a zvol of this parent.
            ours = parent.replace("/", ":") + ":"
            if export.backstore == ours + export.target.removeprefix(prefix):
                zvol = ZvolName(export.backstore.removeprefix(ours))
                found.append(Export(zvol, export.target, export.portals, _LUN, export.initiators))
    return tuple(sorted(found, key=lambda export: export.zvol))


def _backstore(parent: DatasetName, zvol: ZvolName) -> str:
    """Return the name of a zvol's backstore: its dataset, whose names have no colon of their own."""
    return zvol_dataset(parent, zvol).replace("/", ":")
