"""What the agent's user may not do itself, on one page: what root does for it, one verb at a time.

``Privileged`` is implemented by root (zolder.san.root), behind the helper's socket (zolder.san.helper), and
by the agent's end of that socket (zolder.san.asking). The kernel keeps for root: the targets in configfs, the
zvols' device nodes, and looking into the processes of others. Each verb names one parent, which must be one
of the identity's that the connection is for.

Each may raise ``NotPermitted``, ``InvalidRequest``, ``PoolSuspended``, ``PoolUnavailable``, ``BackendError``;
``NotFound`` here is a look at ZFS and no proof that the parent is the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from zolder.model import Chap, Export
from zolder.names import DatasetName, ExporterName, Identity, InitiatorName, ZvolName


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the agent says first: whose request it is working on."""

    identity: Identity
    version: str


@dataclass(frozen=True, slots=True)
class Held:
    """A zvol whose device is in use, and by whom, in words."""

    zvol: ZvolName
    holders: tuple[str, ...]


class Privileged(ABC):
    """Root's part of one identity's requests."""

    @abstractmethod
    def read_holders(self, parent: DatasetName, zvol: ZvolName) -> tuple[str, ...]:
        """Return who uses a zvol's device, in words."""

    @abstractmethod
    def list_holders(self, parent: DatasetName) -> tuple[Held, ...]:
        """Return who uses the devices of zvols directly below a parent, by one look, sorted by zvol.

        Of a zvol whose name no request can carry nothing is said.
        """

    @abstractmethod
    def open_device(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> int:
        """Open a zvol's device, past the page cache; over the socket it comes with a notice (SCM_RIGHTS).

        :param to_write: by nobody else at the same time, and never to read.
        :return: the descriptor, which the caller closes; the number in root's answer means nothing to it.
        :raises NotPermitted: it is no volume of ours.
        :raises Busy: it is to be written and somebody may reach it, or holds it.
        """

    @abstractmethod
    def open_export(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, *, chap: Chap | None
    ) -> bool:
        """Open a zvol that bears our mark to an initiator, as the zvol's own record says (zolder.wish).

        :return: whether anything was not yet so.
        :raises NotPermitted: the record does not name that initiator, or a route beyond the policy.
        :raises Error: as ``Storage.export_zvol``.
        """

    @abstractmethod
    def close_export(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        exporter: ExporterName | None,
    ) -> bool:
        """Close a zvol's own target to one initiator or to all; return whether it was open.

        :param exporter: where it is open; None looks at every one.
        """

    @abstractmethod
    def grow_export(self, parent: DatasetName, zvol: ZvolName) -> None:
        """Have a zvol's target show the zvol's present size, as the zvol's own record says."""

    @abstractmethod
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """Return the exports of a parent's zvols as they stand, sorted by zvol and target."""


VERBS: Final = tuple(sorted(Privileged.__abstractmethods__))
