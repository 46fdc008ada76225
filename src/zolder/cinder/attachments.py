"""Which use of a volume an attachment is: the id under which the SAN counts it.

Cinder's manager (29) tells a driver of no attachment's id. It does save the connector into the attachment's
row *after* initialize_connection, as the driver left it, and hands what it saved to terminate_connection. So
the id is a fresh one that is put into the connector. Not all who call the driver save the connector:

=======================================  ======================================  ===========================
who calls initialize_connection          what becomes of the connector           how it is told
=======================================  ======================================  ===========================
attachment_update, from the API's        saved in the row                        the row came with the
attachment_update                                                                volume: reserved, empty
attachment_update, from the API's        saved in the row, which is younger      ``mode``, which only
attachment_create with a connector       than the volume that came along         attachment_update writes
attachment_update of a row that has      saved in the row, in place of the old   ``mode``, which the first
a connector already                      one and its id                          update left in the row; none
                                                                                 where attachment_create made
                                                                                 the row with a connector: it
                                                                                 leaves the word "null" there
initialize_connection over RPC (backup,  a copy is changed and dropped           neither
migration from afar, the old REST call)
driver and manager on this machine       the same dict comes back, so either     either
(images, migration)                      would do
=======================================  ======================================  ===========================

Hence an id is made where Cinder has a reserved row without a connector, or the connector says a ``mode``; all
others share the unnamed attachment of their initiator, of which there is one: Cinder's own status of a volume
(backing-up, uploading, migrating) lets only one of them at it. A guess for the other side would be worse: an
id that nobody saved is never ended, and an id taken from another row ends that row's access with this one.

A limit: where a row that has a connector is updated from another machine, or beside other rows (multiattach),
nothing says which row it is. The update has an id of its own, and the first's access outlasts the detachment.
It is not withdrawn here: os-initialize_connection can look the same, and would cut an instance off. ``zolder
orphans`` shows it and ends it; delete_volume and a force-detach without a connector end it, too.

Pure, no I/O.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from cinder import exception
from cinder.objects import fields

from zolder.cinder.objects import Attachment, Connector, Volume
from zolder.errors import InvalidRequest
from zolder.names import AttachmentId

# The connector's entry. Cinder and os-brick pass on what they do not know.
KEY: Final = "zolder_attachment"
_MODE: Final = "mode"
_NO_MODE: Final = "null"
# An attachment's row is updated in these; in all others Cinder attaches the volume for itself.
_UPDATED_IN: Final = frozenset({
    fields.VolumeStatus.ATTACHING, fields.VolumeStatus.IN_USE, fields.VolumeStatus.RESERVED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a volume. ``fresh`` says that nobody else can have it, so it may be taken back."""

    attachment: AttachmentId | None
    fresh: bool


def attachment_of(connector: Connector) -> AttachmentId | None:
    """Return the id that a connector was given, or None for the unnamed attachment.

    :raises InvalidConnectorException: it has one that is no UUID: somebody else wrote it.
    """
    written = connector.get(KEY)
    if written is None:
        return None
    try:
        return AttachmentId(written)
    except InvalidRequest as err:
        raise exception.InvalidConnectorException(missing=f"{KEY} ({err.message})") from err


def name_use(volume: Volume, connector: Connector) -> Use:
    """Return which use of a volume a connector is for, and write a new one's id into the connector.

    :raises InvalidConnectorException: as `attachment_of`.
    """
    if (attachment := attachment_of(connector)) is not None:
        return Use(attachment, fresh=False)
    rows = list(volume.volume_attachment or ())
    if (attachment := _updated_again(volume, rows, connector)) is not None:
        connector[KEY] = str(attachment)
        return Use(attachment, fresh=False)
    if _MODE in connector or any(_is_open(row) for row in rows):
        attachment = AttachmentId(str(uuid.uuid4()))
        connector[KEY] = str(attachment)
        return Use(attachment, fresh=True)
    # The old calls leave a row that is attached and has no connector: that machine may be this one.
    return Use(None, fresh=not any(not row.connector for row in rows))


def _is_open(row: Attachment) -> bool:
    return not row.connector and row.attach_status == fields.VolumeAttachStatus.RESERVED


def _updated_again(volume: Volume, rows: list[Attachment], connector: Connector) -> AttachmentId | None:
    """Return the id of the row that is being updated a second time, where it can be no other.

    It is the volume's only one and has a connector, of the same machine. A mode with a value comes from a row
    that was there before this call. (attachment_create, whose row is not in the list yet, writes None.) No
    mode at all comes from a row that says "null", unless Cinder attaches the volume for itself, which its
    status then says. The old id would be lost with the old connector, and its access never ended.
    """
    if len(rows) != 1 or not (saved := rows[0].connector):
        return None
    if any(saved.get(name) != connector.get(name) for name in ("initiator", "nqn")):
        return None
    if (attachment := attachment_of(saved)) is None:
        return None
    if _MODE not in connector:
        known = rows[0].attach_mode == _NO_MODE and volume.status in _UPDATED_IN
    else:
        known = connector[_MODE] is not None
    return attachment if known else None
