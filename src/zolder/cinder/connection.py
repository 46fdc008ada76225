"""What Cinder and os-brick are told of an export: ``provider_location`` and connection_properties.

The forms are Cinder's (cinder/volume/driver.py, ISCSIDriver; volume/targets/nvmeof.py) and os-brick's
(initiator/connectors/iscsi.py; nvmeof.py, NVMeOFConnProps). Pure, no I/O; a secret is only passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from zolder.cinder.settings import Settings
from zolder.errors import InvalidRequest
from zolder.model import Chap, Export, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    ExporterName,
    Portal,
    VolumeId,
    ZvolName,
    subsystems_begin,
    target_name,
    unit_number,
)

AccessMode: TypeAlias = Literal["rw", "ro"]

# The one target of a zvol has one TPG (docs/design.md, 8).
_TPG: Final = 1
_ISCSI: Final = "iscsi"
_NVMEOF: Final = "nvmeof"
_TCP: Final = "tcp"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is connected to: the id that users know, and the one that its serial derives from."""

    known_as: str
    serial_of: VolumeId
    access_mode: AccessMode = "rw"


def provider_location(settings: Settings, zvol: ZvolName) -> str:
    """Return where a zvol is exported once it is: ``portal[;portal],tpg iqn lun``.

    For NVMe it is ``portal[;portal] tcp nqn namespace``, and the NQN is what those of the zvol's subsystems
    have in common: each initiator has one of its own, so no single name would be true.
    """
    route = settings.route
    portals, unit = ";".join(route.portals), unit_number(route.exporter)
    if route.exporter == NVMET:
        return f"{portals} {_TCP} {subsystems_begin(route.prefix, zvol).removesuffix(':')} {unit}"
    return f"{portals},{_TPG} {target_name(route.prefix, zvol)} {unit}"


def connection_properties(export: Export, chap: Chap | None, unit: Unit) -> dict[str, Any]:
    """Return what os-brick needs to connect to an export.

    ``discard``: a zvol frees what is unmapped, and its target says so. All portals are named, for multipath
    and for trying the next where one is down.
    """
    data: dict[str, Any] = {
        "volume_id": unit.known_as,
        "access_mode": unit.access_mode,
        # tgtd discards by writing zeroes into a hole, which zvols refuse (zolder.san.tgt).
        "discard": export.exporter != TGT,
    }
    if export.exporter == NVMET:
        return {"driver_volume_type": _NVMEOF, "data": data | _nvme(export, unit.serial_of)}
    return {"driver_volume_type": _ISCSI, "data": data | _iscsi(export, chap)}


def exporter_told(connection: Mapping[str, Any] | None, route: Route) -> ExporterName:
    """Return what an attachment's connection_info is of: the route's exporter, or one of the other protocol.

    They differ where target_protocol was changed while somebody was attached.
    """
    told = (connection or {}).get("driver_volume_type")
    if told == _NVMEOF:
        return NVMET
    return LIO if told == _ISCSI and route.exporter == NVMET else route.exporter


def told_of(connection: Mapping[str, Any] | None, route: Route) -> bool:
    """Say whether an attachment's connection_info is of the protocol that a route is of, or of none yet."""
    return exporter_told(connection, route) == route.exporter


def chap_of(connection: Mapping[str, Any]) -> Chap | None:
    """Return what an initiator was told to log in with, from an attachment's connection_info.

    :raises InvalidRequest: it names a method and not the rest.
    """
    if connection.get("auth_method") is None:
        return None
    try:
        return Chap(str(connection["auth_username"]), str(connection["auth_password"]))
    except KeyError as err:
        message = f"connection_info has an auth_method and no {err.args[0]}"
        raise InvalidRequest(message) from err


def _iscsi(export: Export, chap: Chap | None) -> dict[str, Any]:
    data: dict[str, Any] = {
        "target_discovered": False,
        "target_iqn": export.target,
        "target_portal": str(export.portals[0]),
        "target_lun": export.lun,
    }
    if len(export.portals) > 1:
        data["target_portals"] = [str(portal) for portal in export.portals]
        data["target_iqns"] = [export.target] * len(export.portals)
        data["target_luns"] = [export.lun] * len(export.portals)
    if chap is not None:
        data |= {"auth_method": "CHAP", "auth_username": chap.user, "auth_password": chap.secret}
    return data


def _nvme(export: Export, volume_id: VolumeId) -> dict[str, Any]:
    # The second form, whatever nvmeof_conn_info_version says: the first knows one portal and no UUID.
    # os-brick finds the namespace by its UUID, and looks at a namespace's id only where there is none.
    return {
        "target_nqn": export.target,
        "vol_uuid": str(volume_id),
        "portals": [_nvme_portal(portal) for portal in export.portals],
    }


def _nvme_portal(portal: Portal) -> tuple[str, str, str]:
    # Bare, as `nvme connect --traddr` takes it and as sysfs shows it, with which os-brick compares it.
    address, _, port = portal.rpartition(":")
    return address.strip("[]"), port, _TCP
