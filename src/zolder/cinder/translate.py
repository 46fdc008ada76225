"""Between Cinder's words and ours: objects to checked names, GiB to bytes, our errors to Cinder's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from cinder import exception

from zolder.cinder.objects import Connector, Snapshot, Volume
from zolder.errors import BackendError, Error, InvalidRequest
from zolder.names import InitiatorName, SnapshotName, VolumeId, ZvolName

LOG = logging.getLogger(__name__)

GIB: Final = 2**30


def zvol_of(volume: Volume) -> ZvolName:
    """Return the zvol's name: Cinder's template filled with ``name_id``, which survives a migration."""
    return ZvolName(volume.name)


def volume_id_of(volume: Volume) -> VolumeId:
    """Return the id that the zvol is marked with and that its serial derives from."""
    return VolumeId(volume.name_id)


def snapshot_of(snapshot: Snapshot) -> SnapshotName:
    """Return the name of the ZFS snapshot, the part behind the ``@``."""
    return SnapshotName(snapshot.name)


def size_bytes(size_gib: int) -> int:
    """Return Cinder's size, always whole GiB, in bytes."""
    return int(size_gib) * GIB


def initiator_of(connector: Connector) -> InitiatorName:
    """Return the connector's initiator in lower case, as RFC 3722 folds it and LIO compares it.

    :raises InvalidConnectorException: there is none, or it is no iSCSI name.
    """
    name = connector.get("initiator")
    if not name:
        raise exception.InvalidConnectorException(missing="initiator")
    try:
        return InitiatorName(str(name).lower())
    except InvalidRequest as err:
        raise exception.InvalidConnectorException(missing=f"initiator ({err.message})") from err


def attached_initiators(volume: Volume) -> list[InitiatorName]:
    """Return the initiator of each attachment that Cinder has on record; one may appear several times."""
    connectors = (attachment.connector for attachment in volume.volume_attachment or ())
    return [initiator_of(connector) for connector in connectors if connector and connector.get("initiator")]


def attachments_of(volume: Volume) -> dict[InitiatorName, Mapping[str, Any] | None]:
    """Return each attached initiator with what it was told of the connection, where Cinder has that."""
    return {
        initiator_of(attachment.connector): attachment.connection_info or None
        for attachment in volume.volume_attachment or ()
        if attachment.connector and attachment.connector.get("initiator")
    }


@contextmanager
def translated(*kinds: type[Error], to: Callable[[Error], Exception] | None = None) -> Iterator[None]:
    """Raise what Cinder understands in place of each of our errors.

    :param kinds: what this verb has an exception of its own for, and ``to`` builds that.
    :raises VolumeBackendAPIException: for all others, with our sentence as its whole text.
    """
    try:
        yield
    except Error as err:
        if to is not None and isinstance(err, kinds):
            raise to(err) from err
        LOG.debug("%s: %s %s", type(err).__name__, err.message, err.details)
        raise exception.VolumeBackendAPIException(message=_sentence(err)) from err


def _sentence(err: Error) -> str:
    # What nobody recognised is of no use without what the SAN said; the others' sentences say it all.
    if isinstance(err, BackendError) and err.details:
        details = ", ".join(f"{name}: {value}" for name, value in sorted(err.details.items()))
        return f"{err.message} ({details})"
    return err.message
