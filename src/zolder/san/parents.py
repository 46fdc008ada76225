"""Whether a parent is the dataset that was set up, in a zpool that is imported and active.

An exported zpool answers "does not exist" for everything in it, and another zpool may carry the same
names. So "absent" is believed only where the zpool is active and the parent has the guid recorded at
set-up (docs/design.md, 5). A suspended zpool hangs every call: its state is read first, from the kernel's
statistics, which never block.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zolder.errors import NotFound, PoolSuspended, PoolUnavailable
from zolder.names import DatasetName

_ACTIVE: Final = frozenset({"ONLINE", "DEGRADED"})

# While ZFS reopens a zpool's devices, just after its import for one, its state reads OFFLINE (seen with 2.3).
REOPEN_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where this SAN keeps what the agents share."""

    state: Path = Path("/var/lib/zolder")
    run: Path = Path("/run/zolder")
    kernel_statistics: Path = Path("/proc/spl/kstat/zfs")


def require_active(site: Site, zpool: str) -> None:
    """Make sure that asking ZFS about this zpool means something and cannot hang.

    :raises PoolUnavailable: it is not imported, or faulted.
    :raises PoolSuspended: its I/O is suspended.
    """
    end = time.monotonic() + REOPEN_SECONDS
    while (state := _state_of(site, zpool)) not in _ACTIVE:
        if state == "SUSPENDED":
            message = f"zpool {zpool} has suspended its I/O: repair its devices, then 'zpool clear {zpool}'"
            raise PoolSuspended(message, zpool=zpool)
        if time.monotonic() > end:
            message = f"zpool {zpool} is {state}: see 'zpool status {zpool}'"
            raise PoolUnavailable(message, zpool=zpool, state=state)
        time.sleep(REOPEN_SECONDS / 50)


def _state_of(site: Site, zpool: str) -> str:
    try:
        return (site.kernel_statistics / zpool / "state").read_text().strip()
    except FileNotFoundError as err:
        message = f"zpool {zpool} is not imported on this SAN: see 'zpool import', then 'zpool status'"
        raise PoolUnavailable(message, zpool=zpool) from err


def import_stamp(site: Site, zpool: str) -> str | None:
    """Return what differs for each import of a zpool since boot; None where the kernel does not tell.

    It is the time at which one of the zpool's statistics was made (struct kstat: ks_crtime, nanoseconds).
    """
    try:
        with (site.kernel_statistics / zpool / "iostats").open(encoding="ascii") as file:
            return file.readline().split()[5]
    except (FileNotFoundError, IndexError):
        return None


def record_parent(site: Site, parent: DatasetName, guid: int | None) -> None:
    """Record a parent's guid at its first set-up, and hold it to that record ever after.

    :param guid: what ZFS says now; None where the zpool has no such dataset.
    :raises NotFound: the parent does not exist and was never seen.
    :raises PoolUnavailable: as ``require_recorded`` says.
    """
    if _recorded(site, parent) is None and guid is not None:
        path = _path(site, parent)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(f"{guid}\n")
        fresh.replace(path)
    elif _recorded(site, parent) is None:
        message = f"this SAN has no dataset {parent}: make it with 'zfs create -p {parent}'"
        raise NotFound(message, dataset=str(parent))
    require_recorded(site, parent, guid)


def require_recorded(site: Site, parent: DatasetName, guid: int | None) -> None:
    """Make sure that what ZFS calls ``parent`` now is what was set up.

    :raises PoolUnavailable: it is gone, another one, or was never set up.
    """
    recorded = _recorded(site, parent)
    if recorded is None:
        message = f"{parent} was never set up here: start cinder-volume's back end once while it is there"
        raise PoolUnavailable(message, dataset=str(parent))
    if guid != recorded:
        now = "is gone" if guid is None else f"has guid {guid}, another dataset's"
        message = (
            f"{parent} {now}; set up was guid {recorded}: bring back the right zpool, "
            f"or remove {_path(site, parent)} if the change is meant"
        )
        raise PoolUnavailable(message, dataset=str(parent))


def recorded_guid(site: Site, parent: DatasetName) -> int:
    """Return the guid recorded for a parent; 0 before its set-up."""
    return _recorded(site, parent) or 0


def _recorded(site: Site, parent: DatasetName) -> int | None:
    try:
        return int(_path(site, parent).read_text())
    except FileNotFoundError:
        return None


def _path(site: Site, parent: DatasetName) -> Path:
    return site.state / "parents" / parent.replace("/", ":")
