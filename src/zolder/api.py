"""The whole storage contract on one page: what a SAN can be asked, whoever answers.

``Storage`` is implemented by the agent on the SAN (zolder.san.storage), by the client that carries the
requests there (zolder.client.remote) and by a model in memory for tests (zolder.fake); one contract suite
holds all three. Every mutation may be asked twice: the repeat answers ``Change(changed=False, ...)``.

Each method may raise, beside what it lists: ``NotPermitted`` (the parent is not this identity's),
``PoolUnavailable``, ``PoolSuspended``, ``BackendError``, ``DeadlineExceeded`` and, on the client's side,
``TransportError`` and ``ProtocolError``. "Absent" is never concluded from any of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from zolder.errors import InvalidRequest
from zolder.model import Change, Chap, Export, PoolFigures, Zvol, ZvolSnapshot
from zolder.names import DatasetName, InitiatorName, Portal, SnapshotName, TargetPrefix, VolumeId, ZvolName


class Storage(ABC):
    """Zvols, their snapshots and their exports below the parents of one identity."""

    @abstractmethod
    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """Return the space below a parent.

        :raises NotFound: the zpool is active and has no such parent.
        """

    @abstractmethod
    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """Return one zvol of ours.

        :raises NotFound: it is proven absent.
        :raises NotPermitted: a dataset of that name lacks our mark.
        """

    @abstractmethod
    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """Return all zvols of ours directly below a parent, sorted by name. Its cost grows with them."""

    @abstractmethod
    def create_zvol(
        self, parent: DatasetName, zvol: ZvolName, *, volume_id: VolumeId, volsize_bytes: int, sparse: bool
    ) -> Change[Zvol]:
        """Create a zvol that carries ``volume_id`` as its mark.

        :param volsize_bytes: a positive multiple of 1 MiB.
        :param sparse: without a reservation (zfs-create(8) ``-s``).
        :raises AlreadyExists: the name is taken by another volume, or by one of another size.
        :raises NoSpace: a thick zvol does not fit.
        :raises NotFound: the parent is proven absent.
        """

    @abstractmethod
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
    ) -> Change[Zvol]:
        """Clone a snapshot, or the source as it is now where ``snapshot`` is None.

        :param volsize_bytes: the clone's size; at least that of the snapshot, a multiple of 1 MiB.
        :raises InvalidRequest: the clone would be smaller than its origin.
        :raises AlreadyExists: the name is taken by another volume.
        :raises NotFound: the source or its snapshot is proven absent.
        :raises NoSpace: a thick clone does not fit.
        """

    @abstractmethod
    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        """Make a zvol larger; an equal size changes nothing.

        :raises InvalidRequest: it would shrink, or the size is no multiple of 1 MiB.
        :raises NotFound: it is proven absent.
        :raises NoSpace: a thick zvol's growth does not fit.
        """

    @abstractmethod
    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """Withdraw a zvol's export if it has one and destroy it; one proven absent changes nothing.

        :raises Busy: snapshots, clones or a process hold it; the holders are named.
        :raises NotPermitted: a dataset of that name lacks our mark.
        """

    @abstractmethod
    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """Snapshot a zvol.

        :raises AlreadyExists: a snapshot of that name exists that no client asked for.
        :raises NotFound: the zvol is proven absent.
        :raises NoSpace: a thick zvol's data cannot be reserved a second time.
        """

    @abstractmethod
    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """Destroy a snapshot; with clones it goes, by ZFS's own deferred destroy, with the last of them.

        :raises NotPermitted: a snapshot of that name was not made through Zolder.
        """

    @abstractmethod
    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        prefix: TargetPrefix,
        portals: tuple[Portal, ...],
        chap: Chap | None,
    ) -> Change[Export]:
        """Let one initiator reach a zvol through the zvol's own target, closed to all others.

        :param prefix: what the target's IQN begins with; the zvol's name follows.
        :param portals: where the target listens, the same for all its initiators.

        :raises NotFound: the zvol is proven absent.
        :raises AlreadyExists: a target of that name exists that is not ours.
        """

    @abstractmethod
    def withdraw_zvol(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None
    ) -> Change[tuple[InitiatorName, ...]]:
        """Close a zvol to one initiator, or to all where it is None, and end its live sessions.

        :return: the initiators that may still reach it; the target goes with the last.
        """

    @abstractmethod
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """Return the exports of this parent's zvols, sorted by zvol."""


METHODS: Final = tuple(sorted(Storage.__abstractmethods__))

MIB: Final = 1024 * 1024
MAX_VOLSIZE_BYTES: Final = 2**60


def check_volsize(volsize_bytes: int) -> None:
    """Check a zvol's size.

    :raises InvalidRequest: it is not a positive multiple of 1 MiB, or beyond 1 EiB.
    """
    if not 0 < volsize_bytes <= MAX_VOLSIZE_BYTES or volsize_bytes % MIB:
        message = f"a size must be a positive multiple of {MIB} bytes and at most {MAX_VOLSIZE_BYTES}"
        raise InvalidRequest(message)
