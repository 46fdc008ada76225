"""What RAIDZ and dRAID make of a zvol: whole stripes and padding, on top of its parity.

The arithmetic is ZFS's own (vdev_raidz_psize_to_asize in vdev_raidz.c, vdev_draid_psize_to_asize in
vdev_draid.c, zvol_volsize_to_reservation in libzfs_dataset.c): ZFS counts space as if all were written in
blocks of 128 KiB, so smaller blocks appear larger than they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from zolder.properties import BlockSize
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.kernel import find_zfs_version
from zolder.san.check.machine import Machine
from zolder.san.check.policies import zpools
from zolder.san.check.zpools import require_answers

PADDING: Final = Check("padding")
_RAIDZ: Final = re.compile(r"raidz([123])-\d+", re.ASCII)
_DRAID: Final = re.compile(r"draid([123]):(\d+)d:(\d+)c:\d+s-\d+", re.ASCII)
# A vdev of several devices: what one of them says may be its own and not its vdev's.
_GROUP: Final = re.compile(r"(?:raidz|draid|mirror)\S*-\d+$", re.ASCII)
_REFERENCE_BYTES: Final = 128 * 1024
_GIB: Final = 2**30
_KIB: Final = 1024
# 16k on a usual RAIDZ costs a few percent; beyond a third more, another layout is worth its trouble.
_NOTABLE: Final = 1.10
_DEAR: Final = 1.34
_COMMON_ASHIFT: Final = 12


@dataclass(frozen=True, slots=True)
class Stripe:
    """A top-level vdev with parity; ``padded`` says that what is written fills whole rows of ``columns``."""

    name: str
    columns: int
    parity: int
    padded: bool = False

    def allocated(self, block_bytes: int, ashift: int) -> int:
        """Return the sectors that a block takes, parity and padding included."""
        data = self.columns - self.parity
        sectors = -(-block_bytes >> ashift) if block_bytes else 0
        rows = -(-sectors // data)
        if self.padded:
            return rows * self.columns
        taken = sectors + rows * self.parity
        return -(-taken // (self.parity + 1)) * (self.parity + 1)

    def cost(self, block_bytes: int, ashift: int) -> float:
        """Return how much space ZFS says a block takes, for each byte in it."""
        reference = self.allocated(_REFERENCE_BYTES, ashift) / _REFERENCE_BYTES
        return self.allocated(block_bytes, ashift) / block_bytes / reference


def check_padding(machine: Machine) -> Iterator[Finding]:
    """Look at what a zvol of the default block size costs on each zpool."""
    version = find_zfs_version(machine)
    if version is None:
        message = "the loaded OpenZFS tells no version, so its default volblocksize is not known"
        raise NotChecked(message, "sudo modprobe zfs")
    # openzfs pull request 12406, in 2.2.
    block_bytes = (16 if version[:2] >= (2, 2) else 8) * _KIB
    for zpool in zpools(machine):
        require_answers(machine, zpool)
        stripes = parse_stripes(machine.output("zpool", "status", "-P", zpool), zpool)
        ashifts = _ashifts(machine, zpool)
        if low := [
            name for name, ashift in ashifts.items() if ashift < _COMMON_ASHIFT and _GROUP.match(name)
        ]:
            message = (
                f"{', '.join(low[:4])} write sectors below 4 KiB: slow on disks with larger ones (ashift)"
            )
            yield PADDING.note(
                zpool, message, f"lsblk -o NAME,PHY-SEC\nsudo zpool add -o ashift=12 {zpool} ..."
            )
        if not stripes:
            yield PADDING.ok(zpool, "has no RAIDZ: a zvol of 1 GiB takes 1 GiB")
        for stripe in {(item.columns, item.parity, item.padded): item for item in stripes}.values():
            yield _cost(zpool, stripe, block_bytes, ashifts.get(stripe.name))


def _cost(zpool: str, stripe: Stripe, block_bytes: int, known: int | None) -> Finding:
    ashift = _COMMON_ASHIFT if known is None else known
    cost = stripe.cost(block_bytes, ashift)
    assumed = " (taken for it: this OpenZFS does not tell)" if known is None else ""
    each = ", ".join(
        f"{size} {stripe.cost(BlockSize(size).size_bytes, ashift):.2f}" for size in BlockSize.values
    )
    message = (
        f"a zvol of 1 GiB takes up to {cost:.2f} GiB: volblocksize {block_bytes // _KIB}k on {stripe.name}"
        f" of {stripe.columns} devices with ashift {ashift}{assumed}; by volblocksize: {each}; mirrors 1.00"
    )
    if cost <= _NOTABLE:
        return PADDING.ok(zpool, message)
    remedy = (
        "make a zpool of mirrors for volumes, give types a zolder:volblocksize (docs/volume-types.md), or"
        " reckon with it: zfs get used,logicalused DATASET"
    )
    return (PADDING.note if cost <= _DEAR else PADDING.warning)(zpool, message, remedy)


def parse_stripes(status: str, zpool: str) -> list[Stripe]:
    """Return the vdevs with parity that hold data, from what ``zpool status`` printed.

    :raises NotChecked: it has no configuration of this zpool.
    """
    found: dict[str, int] = {}
    inside, name = False, ""
    for line in status.splitlines():
        if not line.startswith("\t") or not line.strip():
            continue
        depth = len(line) - len(line.lstrip()) - 1
        word = line.split()[0]
        if depth == 0:
            inside = word == zpool  # then come logs, cache, spares, special, dedup
            if inside:
                found[zpool] = 0
        elif inside and depth == 2:  # noqa: PLR2004 - two spaces a level
            name = word
            found[name] = 0
        elif inside and depth == 4:  # noqa: PLR2004 - as above; a device being replaced counts once
            found[name] += 1
    if zpool not in found:
        message = f"zpool status {zpool} shows no configuration of it"
        raise NotChecked(message)
    return [stripe for name, width in found.items() if (stripe := _stripe(name, width))]


def _stripe(name: str, width: int) -> Stripe | None:
    if raidz := _RAIDZ.fullmatch(name):
        if width <= int(raidz[1]):
            message = f"{name} is shown with {width} devices, too few for its parity"
            raise NotChecked(message)
        return Stripe(name, width, int(raidz[1]))
    if draid := _DRAID.fullmatch(name):
        return Stripe(name, int(draid[1]) + int(draid[2]), int(draid[1]), padded=True)
    return None


def _ashifts(machine: Machine, zpool: str) -> dict[str, int]:
    """Return the ashift of each vdev that tells it; before OpenZFS 2.2 vdevs have no properties."""
    finished = machine.ask("zpool", "get", "-Hp", "-o", "name,value", "ashift", zpool, "all-vdevs")
    if finished is None or finished.exit_status:
        return {}
    rows = (line.split("\t") for line in finished.stdout.splitlines())
    # 0 where a vdev (root, or one that is away) has none.
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and int(row[1])}  # noqa: PLR2004
