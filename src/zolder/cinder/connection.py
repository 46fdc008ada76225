"""What Cinder and os-brick are told of an export: ``provider_location`` and connection_properties.

The forms are Cinder's (cinder/volume/driver.py, ISCSIDriver) and os-brick's (initiator/connectors/iscsi.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from zolder.cinder.settings import Settings
from zolder.model import Chap, Export
from zolder.names import VolumeId, ZvolName, target_name

# The one target of a zvol has one TPG and one LUN (docs/design.md, 8).
_TPG: Final = 1
_LUN: Final = 0


def provider_location(settings: Settings, zvol: ZvolName) -> str:
    """Return where a zvol is exported once it is: ``portal[;portal],tpg iqn lun``."""
    return f"{';'.join(settings.portals)},{_TPG} {target_name(settings.prefix, zvol)} {_LUN}"


def connection_properties(export: Export, chap: Chap | None, volume_id: VolumeId) -> dict[str, Any]:
    """Return what os-brick needs to connect to an export.

    ``discard``: a zvol frees what is unmapped, and its target says so. The lists name every portal, for
    multipath and for trying the next where one is down.
    """
    data: dict[str, Any] = {
        "target_discovered": False,
        "target_iqn": export.target,
        "target_portal": str(export.portals[0]),
        "target_lun": export.lun,
        "volume_id": str(volume_id),
        "access_mode": "rw",
        "discard": True,
    }
    if len(export.portals) > 1:
        data["target_portals"] = [str(portal) for portal in export.portals]
        data["target_iqns"] = [export.target] * len(export.portals)
        data["target_luns"] = [export.lun] * len(export.portals)
    if chap is not None:
        data |= {"auth_method": "CHAP", "auth_username": chap.user, "auth_password": chap.secret}
    return {"driver_volume_type": "iscsi", "data": data}


def chap_of(connection: Mapping[str, Any]) -> Chap | None:
    """Return what an initiator was told to log in with, from an attachment's connection_info."""
    if connection.get("auth_method") is None:
        return None
    return Chap(str(connection["auth_username"]), str(connection["auth_password"]))
