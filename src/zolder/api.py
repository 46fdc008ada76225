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
from collections.abc import Iterable
from typing import Final

from zolder.errors import InvalidRequest
from zolder.frames import Sink, Source
from zolder.model import (
    Access,
    Change,
    Chap,
    Export,
    FoundSnapshot,
    FoundZvol,
    PoolFigures,
    PutAside,
    Refusal,
    Route,
    Zvol,
    ZvolCopy,
    ZvolSnapshot,
)
from zolder.names import AttachmentId, DatasetName, InitiatorName, SnapshotName, VolumeId, ZvolName
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable


class Contents(ABC):
    """What is in a zvol, carried over a channel of its own for as long as that takes.

    A line that is lost meanwhile is taken up again behind what was acknowledged.
    """

    @abstractmethod
    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        """Make a zvol's contents those of the source; what that does not carry is zeros, whatever was there.

        :raises NotFound: it is proven absent.
        :raises Busy: somebody may reach it or holds it, another operation has it, or has written it since.
        :raises NoSpace: the zpool, or a quota, has no room for it.
        """

    @abstractmethod
    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        """Give a zvol's contents to the sink; return its size in bytes. Nothing is held but the zvol itself.

        Of one that is written to meanwhile they are of no one moment.

        :raises NotFound: it is proven absent.
        """


class ContentsRequests(ABC):
    """The same two as they go over the wire: frames follow, to the agent or from it (docs/protocol.md)."""

    @abstractmethod
    def write_zvol(self, parent: DatasetName, zvol: ZvolName, *, resumed: bool) -> Change[None]:
        """Make a zvol's contents those that the client sends; what it does not send is zeros.

        :param resumed: this operation was told before that it may send, and goes on behind what lies safe.
        :raises NotFound: it is proven absent.
        :raises Busy: somebody may reach it or holds it, another operation has it, or has written it since.
        :raises NoSpace: the zpool, or a quota, has no room for it.
        """

    @abstractmethod
    def read_zvol(self, parent: DatasetName, zvol: ZvolName) -> int:
        """Send a zvol's contents but for what is zeros; the value is the zvol's size in bytes.

        :raises NotFound: it is proven absent.
        """


class Storage(Contents):
    """Zvols, their snapshots and their exports below the parents of one identity."""

    @abstractmethod
    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """Return the space below a parent.

        :raises NotFound: the zpool is active and has no such parent.
        """

    @abstractmethod
    def get_guid(self, parent: DatasetName) -> str:
        """Return the guid of a parent, by which two SANs and two zpools are told apart, in 16 hex digits.

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
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        volsize_bytes: int,
        sparse: bool,
        properties: ZvolProperties = INHERITED,
        volblocksize: BlockSize | None = None,
    ) -> Change[Zvol]:
        """Create a zvol that carries ``volume_id`` as its mark.

        :param volsize_bytes: a positive multiple of 1 MiB.
        :param sparse: without a reservation (zfs-create(8) ``-s``).
        :param volblocksize: None is what ZFS takes by itself.
        :raises AlreadyExists: the name is taken by another volume, or by one of another size or kind.
        :raises InvalidRequest: it is thick and keeps its blocks more than once, or ZFS has no such value.
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
        properties: ZvolProperties = INHERITED,
        volblocksize: BlockSize | None = None,
    ) -> Change[Zvol]:
        """Clone a snapshot, or the source as it is now where ``snapshot`` is None.

        :param volsize_bytes: the clone's size; at least that of the snapshot, a multiple of 1 MiB.
        :param volblocksize: what the origin must have, for a clone's is its origin's; None is any.
        :raises InvalidRequest: the clone would be smaller than its origin, or of other blocks.
        :raises AlreadyExists: the name is taken by another volume, or by one of another kind.
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
    def set_zvol_properties(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        sparse: bool,
        properties: ZvolProperties,
        volblocksize: BlockSize | None,
    ) -> Change[Zvol]:
        """Make a zvol, in use or not, thin or thick, and have it these properties of its own and no others.

        What is written already stays as it was written. Where it fails the zvol stays as it was.

        :param volblocksize: what it must have already, for ZFS changes that no more; None is any.
        :raises AlreadyExists: it has another volblocksize.
        :raises InvalidRequest: as `create_zvol`, but for the size.
        :raises NotFound: it is proven absent.
        :raises NoSpace: what it lacks to be thick does not fit.
        """

    @abstractmethod
    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """Withdraw a zvol's export if it has one and destroy it; one proven absent changes nothing.

        Where clones need snapshots of it that were deleted before, it is put aside: it goes with the last of
        them, its name is free at once, and no request but `list_put_aside` knows it any more.

        :raises Busy: snapshots that were not deleted, or a process, hold it; the holders are named.
        :raises NotPermitted: a dataset of that name lacks our mark.
        """

    @abstractmethod
    def revert_zvol(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName, *, volsize_bytes: int
    ) -> Change[Zvol]:
        """Bring a zvol back to one of its snapshots; a repeat of the same operation changes nothing.

        Snapshots after it may only be such that were deleted and are needed by clones: then a clone of the
        snapshot takes the zvol's place, older snapshots move to it, and what the zvol was is put aside.

        :param volsize_bytes: the size that it has afterwards; at least that of the snapshot.
        :raises Busy: it is exported, a process holds it, or snapshots after it were not deleted; named.
        :raises NotFound: the zvol or its snapshot is proven absent.
        :raises InvalidRequest: it would be smaller than its snapshot.
        :raises NoSpace: a thick one does not fit; it stays as it was.
        """

    @abstractmethod
    def move_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        to: DatasetName,
        name: ZvolName,
        volume_id: VolumeId,
        former: VolumeId | None = None,
    ) -> Change[Zvol]:
        """Give a zvol that nobody uses another parent of this SAN, another name and its mark anew.

        Within a zpool it is renamed, and its snapshots go along. To another zpool its data is sent: until the
        copy is whole the zvol stays as it was, and then it ends as by `delete_zvol`. How far that is the
        client hears. What was cut is taken up by a repeat of the same operation; another one begins anew.

        :param volume_id: the mark that it bears afterwards.
        :param former: the mark that it must bear before; null is any of ours.
        :raises Busy: it or a snapshot of it is exported, a process holds it, or it is to go to another zpool
            and has snapshots that were not deleted; named.
        :raises AlreadyExists: the new name is taken, or it bears another mark than ``former``.
        :raises NotFound: it is proven absent.
        :raises NoSpace: there is no room for it; it stays as it was.
        """

    @abstractmethod
    def list_put_aside(self, parent: DatasetName) -> tuple[PutAside, ...]:
        """Return what was deleted and is still needed by clones, sorted. Its cost grows with all zvols."""

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
    def create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        """Snapshot several zvols of one zpool at one moment: all of them or none.

        :param members: each zvol once; their parents are this identity's, and in the zpool of ``parent``.
        :raises InvalidRequest: there is none, a zvol is named twice, or a parent is in another zpool.
        :raises AlreadyExists: some of the names are taken: by others, or by what was taken at other moments.
        :raises NotFound: a zvol is proven absent.
        :raises NoSpace: a thick zvol's data cannot be reserved a second time.
        """

    @abstractmethod
    def clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], *, moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        """Clone several zvols of one zpool as they are at one moment: all of them or none.

        :param copies: each source and each zvol once; their parents are as those of `create_snapshots`.
        :param moment: an id of this request's own, such as a group's: a repeat is known by it.
        :raises InvalidRequest: as `clone_zvol` and `create_snapshots`.
        :raises AlreadyExists: a name is taken by another volume, or by a clone of another moment.
        :raises NotFound: a source is proven absent.
        :raises NoSpace: a thick clone does not fit.
        """

    @abstractmethod
    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """Destroy a snapshot; with clones it goes, by ZFS's own deferred destroy, with the last of them.

        Its views go first, and whoever reads it through one is shut out: nobody will ask for that later.

        :raises Busy: a process on the SAN holds a view; the snapshot stays.
        :raises NotPermitted: a snapshot of that name was not made through Zolder.
        """

    @abstractmethod
    def list_snapshots(self, parent: DatasetName) -> tuple[ZvolSnapshot, ...]:
        """Return all snapshots that clients asked for, sorted. Its cost grows with all snapshots."""

    @abstractmethod
    def find_zvol(self, parent: DatasetName, zvol: ZvolName) -> FoundZvol | None:
        """Return what there is under a zvol's name, whoever made it; null where that is proven absent."""

    @abstractmethod
    def list_found_zvols(self, parent: DatasetName) -> tuple[FoundZvol, ...]:
        """Return all zvols directly below a parent, whoever made them, sorted. Its cost grows with them."""

    @abstractmethod
    def adopt_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        former: VolumeId | None,
        volsize_bytes: int,
    ) -> Change[Zvol]:
        """Make a zvol that others made one of ours: rename it, grow it to the size, and then mark it.

        :param former: the mark that it bears and is to lose; null of one without a mark.
        :param volsize_bytes: at least what it has, a multiple of 1 MiB.
        :raises NotPermitted: the policy does not let this identity adopt there, it bears another mark than
            ``former``, or it is the agent's own.
        :raises NotFound: it is proven absent.
        :raises AlreadyExists: the new name is taken.
        :raises Busy: it is exported, or a process holds it; the holders are named.
        :raises InvalidRequest: it would shrink.
        :raises NoSpace: a thick zvol's growth does not fit; the zvol is as it was.
        """

    @abstractmethod
    def release_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """Close a zvol to everybody and take our mark from it; it keeps its name and its data.

        One that is proven absent, or bears no mark, changes nothing.

        :raises Busy: it has snapshots that clients asked for.
        """

    @abstractmethod
    def list_found_snapshots(self, parent: DatasetName, zvol: ZvolName | None) -> tuple[FoundSnapshot, ...]:
        """Return all snapshots of a zvol of ours, or of all of them, whoever took them, sorted.

        The agent's own are left out.

        :raises NotFound: the zvol is proven absent.
        """

    @abstractmethod
    def adopt_snapshot(
        self, parent: DatasetName, zvol: ZvolName, source: SnapshotName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """Make a snapshot that others took one that a client asked for: rename it and then mark it.

        :raises NotPermitted: the policy does not let this identity adopt there, or it is a client's already.
        :raises NotFound: the zvol or the snapshot is proven absent.
        :raises AlreadyExists: the new name is taken.
        """

    @abstractmethod
    def release_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """Take our mark from a snapshot, which keeps its name; absent or without a mark changes nothing."""

    @abstractmethod
    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """Let one initiator reach a zvol through the zvol's own target, closed to all others.

        It is recorded on the zvol, so the export comes back after a reboot and on another SAN.

        :param attachment: which use of the zvol this is; the initiator is shut out with its last one.
        :raises NotFound: the zvol is proven absent.
        :raises AlreadyExists: a target of that name exists that is not ours.
        :raises Busy: it is in use over another route.
        :raises InvalidRequest: the exporter has no use for such an initiator, or such CHAP.
        """

    @abstractmethod
    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        """Have many attachments open: what is missing is added, the broken repaired, nothing is withdrawn.

        One that was withdrawn under its id stays closed, without a word: the list may be older than that.
        Whoever wants it open again names it to `export_zvol`.

        :return: what could not be done; one failure keeps none of the others from being done.
        :raises DeadlineExceeded, ConnectionLost: what was done until then stays.
        """

    @abstractmethod
    def withdraw_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """End one attachment, or all where the initiator is None; with its last an initiator is shut out.

        Live sessions of who is shut out are ended. One that is not on record changes nothing.

        :return: the initiators that may still reach it; the target goes with the last.
        """

    @abstractmethod
    def export_snapshot(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        snapshot: SnapshotName,
        initiator: InitiatorName,
        *,
        view_id: VolumeId,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """Let one initiator read a snapshot, through a clone that is made for it and goes with the export.

        :param view_id: the id that the clone is named after and its serial derives from; the snapshot's own.
        :raises NotFound: the snapshot is proven absent.
        :raises Error: as `export_zvol`.
        """

    @abstractmethod
    def withdraw_snapshot(
        self,
        parent: DatasetName,
        view_id: VolumeId,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """End one attachment of a snapshot, or all; the clone goes with the last.

        :return: the initiators that may still read it.
        """

    @abstractmethod
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """Return the exports of this parent's zvols as they stand, sorted by zvol and target."""

    @abstractmethod
    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        """Return the attachments on record for this parent's zvols, sorted; without secrets."""

    @abstractmethod
    def list_views(self, parent: DatasetName) -> tuple[VolumeId, ...]:
        """Return the ids of the clones through which snapshots are read, on record or left over, sorted.

        Its cost grows with the parent's zvols.
        """


def check_members(parent: DatasetName, members: tuple[ZvolSnapshot, ...]) -> None:
    """Check what is to be snapshotted at one moment.

    :raises InvalidRequest: there is none, a zvol is named twice, or a parent is in another zpool.
    """
    zvols = {(member.parent, member.zvol) for member in members}
    if not 0 < len(zvols) == len(members):
        message = "snapshots of one moment need at least one zvol, and each once"
        raise InvalidRequest(message)
    require_one_zpool(parent, [member.parent for member in members])


def check_copies(parent: DatasetName, copies: tuple[ZvolCopy, ...]) -> None:
    """Check what is to be cloned at one moment.

    :raises InvalidRequest: there is none, a zvol is named twice, a parent is in another zpool, or one can not
        be as it is asked for.
    """
    named = {(copy.parent, name) for copy in copies for name in (copy.source, copy.zvol)}
    if not 0 < len(named) == 2 * len(copies):
        message = "clones of one moment need at least one zvol, and each source and each clone once"
        raise InvalidRequest(message)
    require_one_zpool(parent, [copy.parent for copy in copies])
    for copy in copies:
        check_reservable(copy.properties, sparse=copy.sparse)


def require_one_zpool(parent: DatasetName, parents: Iterable[DatasetName]) -> None:
    """Make sure that parents are in one zpool.

    :raises InvalidRequest: one is in another.
    """
    apart = sorted({str(other) for other in parents if other.zpool != parent.zpool})
    if apart:
        message = f"ZFS takes snapshots of one moment in one zpool only: {', '.join(apart)} is in another"
        raise InvalidRequest(message)


CONTENTS_METHODS: Final = tuple(sorted(ContentsRequests.__abstractmethods__))
METHODS: Final = tuple(sorted(Storage.__abstractmethods__ - Contents.__abstractmethods__))

MIB: Final = 1024 * 1024
MAX_VOLSIZE_BYTES: Final = 2**60


def check_volsize(volsize_bytes: int) -> None:
    """Check a zvol's size.

    :raises InvalidRequest: it is not a positive multiple of 1 MiB, or beyond 1 EiB.
    """
    if not 0 < volsize_bytes <= MAX_VOLSIZE_BYTES or volsize_bytes % MIB:
        message = f"a size must be a positive multiple of {MIB} bytes and at most {MAX_VOLSIZE_BYTES}"
        raise InvalidRequest(message)
