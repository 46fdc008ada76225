"""What a disk in the compute machine says of itself when it is asked, not what its kernel remembers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Machine

# Serial number and identifiers of a SCSI unit; of a namespace the two that outlive its controller.
_SCSI = "sg_inq --page=0x80 {0} && sg_inq --page=0x83 {0}"
_NVME = "nvme id-ns {0} && nvme ns-descs {0}"
_TELLING = re.compile(r"^.*(?:[0-9a-fA-F]{16}|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}).*$", re.MULTILINE)


def ask_identity(machine: Machine, device: str) -> list[str]:
    """Return the lines of a disk's own answer that have an identifier in them.

    :param device: such as ``/dev/sda`` or ``/dev/nvme0n1``.
    """
    said = machine.succeed((_NVME if "nvme" in device else _SCSI).format(device))
    return [line.strip() for line in _TELLING.findall(said)]
