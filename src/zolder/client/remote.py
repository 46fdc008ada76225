"""The storage contract, carried to an agent: one method is one request.

Every request is idempotent and keeps its operation id, so one whose line was lost is asked again over a new
line until its deadline. Nothing else is repeated. Safe between threads.
"""

# ruff: noqa: D102 - zolder.api has the words of each method

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

from zolder import shapes
from zolder.api import Storage
from zolder.client.channel import new_operation
from zolder.client.contents import Carrier
from zolder.client.deadline import Deadline
from zolder.client.pool import Pool
from zolder.errors import ConnectFailed, ConnectionLost, InvalidRequest, RemoteProtocolError
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
from zolder.properties import INHERITED, BlockSize, ZvolProperties
from zolder.wire import Welcome

T = TypeVar("T")
LOG = logging.getLogger(__name__)

# A line that is lost this often in one operation is cut by what the operation does.
_MAX_LOSSES: Final = 3


class RemoteStorage(Storage):
    """A SAN's storage, asked through a pool of channels."""

    def __init__(self, pool: Pool, *, deadline_seconds: float) -> None:
        """Ask through ``pool``, each request with a deadline of so many seconds."""
        self._pool = pool
        self._deadline_seconds = deadline_seconds
        self._carrier = Carrier(pool.route, deadline_seconds=deadline_seconds, most=pool.max_channels)

    def greet(self) -> Welcome:
        """Return who the agent is and what it can do, opening a channel if none is open.

        :raises TransportError: the SAN cannot be reached; the message says what to do.
        :raises VersionMismatch: the agent is of another protocol.
        """
        return self._pool.greet(Deadline.after(self._deadline_seconds))

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        return self._ask(Storage.get_figures, parent=parent)

    def get_guid(self, parent: DatasetName) -> str:
        return self._ask(Storage.get_guid, parent=parent)

    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        return self._ask(Storage.get_zvol, parent=parent, zvol=zvol)

    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        return self._ask(Storage.list_zvols, parent=parent)

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
        return self._ask(
            Storage.create_zvol,
            parent=parent,
            zvol=zvol,
            volume_id=volume_id,
            volsize_bytes=volsize_bytes,
            sparse=sparse,
            properties=properties,
            volblocksize=volblocksize,
        )

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
        return self._ask(
            Storage.clone_zvol,
            parent=parent,
            source=source,
            snapshot=snapshot,
            zvol=zvol,
            volume_id=volume_id,
            volsize_bytes=volsize_bytes,
            sparse=sparse,
            properties=properties,
            volblocksize=volblocksize,
        )

    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        return self._ask(Storage.grow_zvol, parent=parent, zvol=zvol, volsize_bytes=volsize_bytes)

    def set_zvol_properties(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        sparse: bool,
        properties: ZvolProperties,
        volblocksize: BlockSize | None,
    ) -> Change[Zvol]:
        return self._ask(
            Storage.set_zvol_properties,
            parent=parent,
            zvol=zvol,
            sparse=sparse,
            properties=properties,
            volblocksize=volblocksize,
        )

    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        return self._ask(Storage.delete_zvol, parent=parent, zvol=zvol)

    def revert_zvol(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName, *, volsize_bytes: int
    ) -> Change[Zvol]:
        return self._ask(
            Storage.revert_zvol, parent=parent, zvol=zvol, snapshot=snapshot, volsize_bytes=volsize_bytes
        )

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
        if to.zpool != parent.zpool:
            return self._carrier.move_zvol(parent, zvol, to=to, name=name, volume_id=volume_id, former=former)
        return self._ask(
            Storage.move_zvol,
            parent=parent,
            zvol=zvol,
            to=to,
            name=name,
            volume_id=volume_id,
            former=former,
        )

    def list_put_aside(self, parent: DatasetName) -> tuple[PutAside, ...]:
        return self._ask(Storage.list_put_aside, parent=parent)

    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        return self._ask(Storage.create_snapshot, parent=parent, zvol=zvol, snapshot=snapshot)

    def create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        return self._ask(Storage.create_snapshots, parent=parent, members=members)

    def clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], *, moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        return self._ask(Storage.clone_zvols, parent=parent, copies=copies, moment=moment)

    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        return self._ask(Storage.delete_snapshot, parent=parent, zvol=zvol, snapshot=snapshot)

    def list_snapshots(self, parent: DatasetName) -> tuple[ZvolSnapshot, ...]:
        return self._ask(Storage.list_snapshots, parent=parent)

    def find_zvol(self, parent: DatasetName, zvol: ZvolName) -> FoundZvol | None:
        return self._ask(Storage.find_zvol, parent=parent, zvol=zvol)

    def list_found_zvols(self, parent: DatasetName) -> tuple[FoundZvol, ...]:
        return self._ask(Storage.list_found_zvols, parent=parent)

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
        return self._ask(
            Storage.adopt_zvol,
            parent=parent,
            source=source,
            zvol=zvol,
            volume_id=volume_id,
            former=former,
            volsize_bytes=volsize_bytes,
        )

    def release_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        return self._ask(Storage.release_zvol, parent=parent, zvol=zvol)

    def list_found_snapshots(self, parent: DatasetName, zvol: ZvolName | None) -> tuple[FoundSnapshot, ...]:
        return self._ask(Storage.list_found_snapshots, parent=parent, zvol=zvol)

    def adopt_snapshot(
        self, parent: DatasetName, zvol: ZvolName, source: SnapshotName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        return self._ask(Storage.adopt_snapshot, parent=parent, zvol=zvol, source=source, snapshot=snapshot)

    def release_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        return self._ask(Storage.release_snapshot, parent=parent, zvol=zvol, snapshot=snapshot)

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
        return self._ask(
            Storage.export_zvol,
            parent=parent,
            zvol=zvol,
            initiator=initiator,
            route=route,
            attachment=attachment,
            chap=chap,
        )

    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        return self._ask(Storage.ensure_exports, parent=parent, wanted=wanted, route=route)

    def withdraw_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        return self._ask(
            Storage.withdraw_zvol, parent=parent, zvol=zvol, initiator=initiator, attachment=attachment
        )

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
        return self._ask(
            Storage.export_snapshot,
            parent=parent,
            zvol=zvol,
            snapshot=snapshot,
            initiator=initiator,
            view_id=view_id,
            route=route,
            attachment=attachment,
            chap=chap,
        )

    def withdraw_snapshot(
        self,
        parent: DatasetName,
        view_id: VolumeId,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        return self._ask(
            Storage.withdraw_snapshot,
            parent=parent,
            view_id=view_id,
            initiator=initiator,
            attachment=attachment,
        )

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        return self._ask(Storage.list_exports, parent=parent)

    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        return self._ask(Storage.list_attachments, parent=parent)

    def list_views(self, parent: DatasetName) -> tuple[VolumeId, ...]:
        return self._ask(Storage.list_views, parent=parent)

    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        return self._carrier.write_zvol(parent, zvol, source)

    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        return self._carrier.read_zvol(parent, zvol, sink)

    def _ask(self, method: Callable[..., T], **params: object) -> T:
        encoded = {name: shapes.encode(value) for name, value in params.items()}
        value = self._exchange(method.__name__, encoded)
        try:
            result: T = shapes.result(method)(value)
        except InvalidRequest as err:
            message = f"{self._pool.peer} answered {method.__name__} with {err.message}"
            raise RemoteProtocolError(message) from err
        return result

    def _exchange(self, method: str, params: dict[str, shapes.Json]) -> shapes.Json:
        deadline = Deadline.after(self._deadline_seconds)
        operation = new_operation()
        lost = ""
        for left in reversed(range(_MAX_LOSSES)):
            try:
                return self._pool.exchange(method, operation, params, deadline)
            except ConnectionLost as err:
                if not left or not deadline.remaining_seconds:
                    raise
                lost = err.message
            except ConnectFailed as err:
                if lost:  # what was sent may have been carried out behind the lost line
                    message = f"{lost} Asking again was in vain: {err.message}"
                    raise ConnectionLost(message) from err
                raise
            # Outside the handler: oslo.log would print the error behind the line once more.
            LOG.warning("%s Asking again: %s, operation %s.", lost, method, operation)
        raise AssertionError  # the last of them returned or raised
