"""What Cinder's manager and API (29) do around the driver for an attachment, on objects without a database.

tests/driver/test_records.py holds this against Cinder's own manager and a database.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from cinder import objects

from zolder.cinder.driver import ZolderDriver

Connector = dict[str, Any]


def reserve(volume: objects.Volume) -> objects.VolumeAttachment:
    """Make the row that an attachment begins with (API._attachment_reserve)."""
    row = objects.VolumeAttachment(
        id=str(uuid.uuid4()),
        attach_status="reserved",
        attach_mode="null",
        connector=None,
        connection_info=None,
    )
    volume.volume_attachment.objects.append(row)
    return row


def connect(
    driver: ZolderDriver, volume: objects.Volume, row: objects.VolumeAttachment, connector: Connector
) -> dict[str, Any]:
    """Connect a row that is reserved (VolumeManager.attachment_update, then the API): return the data."""
    passed = json.loads(json.dumps(connector))  # it came over RPC
    driver.validate_connector(passed)
    volume.update(driver.create_export(None, volume, passed))
    try:
        connection = driver.initialize_connection(volume, passed)
    except Exception:
        driver.remove_export(None, volume)
        raise
    data: dict[str, Any] = connection["data"]
    row.connector = json.loads(json.dumps(passed))
    row.attach_status = "attached"
    told = {**data, "driver_volume_type": connection["driver_volume_type"], "attachment_id": row.id}
    row.connection_info = json.loads(json.dumps(told))
    return data


def attach(driver: ZolderDriver, volume: objects.Volume, connector: Connector) -> dict[str, Any]:
    """Attach a volume as Nova does."""
    return connect(driver, volume, reserve(volume), connector)


def detach(driver: ZolderDriver, volume: objects.Volume, connector: Connector, *, which: int = 0) -> bool:
    """End one of a machine's attachments (VolumeManager.attachment_delete, then the API).

    :return: whether Cinder was told that somebody is left.
    """
    rows = volume.volume_attachment.objects
    row = [row for row in rows if row.connector and row.connector["host"] == connector["host"]][which]
    shared = driver.terminate_connection(volume, row.connector, force=False)
    if not shared:
        driver.remove_export(None, volume)
    rows.remove(row)
    return shared
