"""All that a SAN holds, as text to be compared: datasets with their properties, targets and their disks.

Figures that move by themselves (space) are left out; whatever is made, changed or left behind shows.
"""

from __future__ import annotations

from lab.machine import Machine

# Identity and settings, set by anybody: nothing that ZFS counts.
_DATASETS = "zfs get -H -p -t all -r -s local,received,none -o name,property,value,source all {zpools}"
_COUNTED = {
    "available", "compressratio", "logicalreferenced", "logicalused", "refcompressratio",
    "referenced", "snapshots_changed", "used", "usedbychildren", "usedbydataset", "usedbyrefreservation",
    "usedbysnapshots", "written",
}  # fmt: skip

# Every object of the kernel's targets and backstores (not what their attributes say: secrets are among them),
# then tgt's, and the NVMe subsystems with the hosts that may connect and the ports they are at.
_TARGETS = """
cd /sys/kernel/config/target 2>/dev/null && find core/*_[0-9]* iscsi/iqn.* 2>/dev/null | sort
tgtadm --lld iscsi --op show --mode target
tgtadm --lld iscsi --op show --mode account
cd /sys/kernel/config/nvmet 2>/dev/null && find subsystems hosts ports -mindepth 1 2>/dev/null | sort
true
"""


def dump_holdings(san: Machine, zpools: str = "data fast") -> list[str]:
    """Return all that a SAN holds, a line each."""
    rows = [line.split("\t") for line in san.succeed(_DATASETS.format(zpools=zpools)).splitlines()]
    datasets = ["\t".join(row) for row in rows if row[1] not in _COUNTED]
    return datasets + san.succeed(_TARGETS).splitlines()


def compare(before: list[str], after: list[str]) -> list[str]:
    """Return what came and what went, a line each with a sign."""
    came = [f"+ {line}" for line in after if line not in before]
    return came + [f"- {line}" for line in before if line not in after]
