"""Between Cinder's words and ours: objects to checked names, GiB to bytes, our errors to Cinder's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from cinder import exception

from zolder.cinder.objects import Connector, Snapshot, Volume
from zolder.errors import BackendError, Error, InvalidRequest
from zolder.names import NVMET, ExporterName, InitiatorName, SnapshotName, VolumeId, ZvolName

LOG = logging.getLogger(__name__)

GIB: Final = 2**30

# The connector's entry, and what the machine lacks where os-brick leaves it out.
_ISCSI: Final = ("initiator", "open-iscsi has to be installed there, with a name in initiatorname.iscsi")
_NVME: Final = ("nqn", "nvme-cli has to be installed there, with a name in /etc/nvme/hostnqn")


def zvol_of(volume: Volume) -> ZvolName:
    """Return the zvol's name: Cinder's template filled with ``name_id``, which survives a migration."""
    return ZvolName(volume.name)


def volume_id_of(volume: Volume) -> VolumeId:
    """Return the id that the zvol is marked with and that its serial derives from."""
    return VolumeId(volume.name_id)


def snapshot_of(snapshot: Snapshot) -> SnapshotName:
    """Return the name of the ZFS snapshot, the part behind the ``@``."""
    return SnapshotName(snapshot.name)


def view_id_of(snapshot: Snapshot) -> VolumeId:
    """Return the id of the clone through which a snapshot is read: its own."""
    return VolumeId(snapshot.id)


def size_bytes(size_gib: int) -> int:
    """Return Cinder's size, always whole GiB, in bytes."""
    return int(size_gib) * GIB


def initiator_of(connector: Connector, exporter: ExporterName) -> InitiatorName:
    """Return the name that the connector's machine has for an exporter's protocol.

    An iSCSI name is given in lower case, as RFC 3722 folds it and LIO compares it; an NQN as it is, for
    nothing folds those.

    :raises InvalidConnectorException: there is none, or it is of no use; what to do on that machine is said.
    """
    entry, remedy = _NVME if exporter == NVMET else _ISCSI
    written = connector.get(entry)
    if not written:
        raise exception.InvalidConnectorException(missing=f"{entry}: {remedy}")
    try:
        name = InitiatorName(str(written) if exporter == NVMET else str(written).lower())
    except InvalidRequest as err:
        raise exception.InvalidConnectorException(missing=f"{entry} ({err.message})") from err
    if name.is_nqn != (exporter == NVMET):
        raise exception.InvalidConnectorException(missing=f"{entry}, which {name} is not: {remedy}")
    return name


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
