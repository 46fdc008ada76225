"""Two machines as os-brick describes them to Cinder, and who of them can reach a volume on the SAN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.contract.ground import PARENT
from tests.support.reach import COMPUTE_IQN, COMPUTE_NQN, SECOND_IQN, SECOND_NQN
from zolder.names import NVMET, ExporterName

if TYPE_CHECKING:
    from zolder.api import Storage


def connector_of(*, second: bool = False) -> dict[str, Any]:
    """Return what os-brick would say of a machine."""
    iqn, nqn = (SECOND_IQN, SECOND_NQN) if second else (COMPUTE_IQN, COMPUTE_NQN)
    name = "second" if second else "compute"
    return {"initiator": str(iqn), "nqn": str(nqn), "host": name, "ip": "192.168.77.2", "multipath": False}


def initiator_of(exporter: ExporterName, *, second: bool = False) -> str:
    """Return by which name an exporter knows that machine."""
    return str(connector_of(second=second)["nqn" if exporter == NVMET else "initiator"])


def standing(storage: Storage, volume: str) -> list[str]:
    """Return who can reach a volume as the kernel or the daemon has it now."""
    exports = [export for export in storage.list_exports(PARENT) if export.zvol == f"volume-{volume}"]
    return sorted(initiator for export in exports for initiator in export.initiators)
