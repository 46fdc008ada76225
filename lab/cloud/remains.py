"""What a run left on the SAN, where every test has deleted what it made: nothing, or a fault.

The SAN itself is asked, not Cinder: what Cinder has forgotten and the SAN still has is what is looked for.
"""

from __future__ import annotations

from lab.cloud.arrangement import SINGLE
from lab.machine import Machine

# LIO's targets and nvmet's subsystems, as the kernel has them; no match is no error.
EXPORTS = "cd /sys/kernel/config && ls -d target/iscsi/iqn.* nvmet/subsystems/* 2>/dev/null; true"


def find_remains(san: Machine) -> list[str]:
    """Return the zvols, snapshots and exports that there are below the back ends' parents.

    :raises CommandFailed: ZFS did not answer, which says nothing of what there is.
    """
    parents = [backend.parent for backend in SINGLE.backends]
    datasets = san.succeed(["zfs", "list", "-H", "-r", "-o", "name", "-t", "volume,snapshot", *parents])
    return [*datasets.splitlines(), *san.succeed(EXPORTS).splitlines()]
