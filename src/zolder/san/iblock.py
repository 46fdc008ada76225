"""Block backstores of LIO: one zvol each, in an HBA folder (``core/iblock_N``) of its own.

A backstore is found without listing any other: its HBA's number follows from its name, and where a LUN links
to it the link is followed instead. A backstore of ours that is open on another device is never changed. Not
locked here: the caller holds the target's lock.
Source: drivers/target/target_core_configfs.c and target_core_iblock.c in the Linux tree.
"""

from __future__ import annotations

import errno
import re
import zlib
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, BackendError, Busy
from zolder.san.configfs import Build, ConfigFs

_UDEV_PATH = re.compile(r"UDEV PATH: (\S+)")
_SERIAL_LABEL: Final = "T10 VPD Unit Serial Number:"

# Set once the device is open: the kernel refuses both for a device that cannot discard.
# emulate_3pc off: EXTENDED COPY reaches other LUNs by name on kernels before 5.11 (CVE-2020-28374), and a
# target with one LUN has no use for it.
# The write cache is not set here: for a block device LIO reports what the device says (get_write_cache),
# and a zvol says that it has one, so initiators send their flushes.
_ATTRIBUTES: Final = (("emulate_tpu", "1"), ("emulate_tpws", "1"), ("emulate_3pc", "0"))


def backstore_path(name: str) -> str:
    """Return where a backstore lives.

    The kernel takes any number below 2**64 for an HBA. This one comes from the name, forwards and backwards
    (hashlib would cost each start of the agent more), so hardly ever do two names meet, or one of ours and
    one of rtslib's (targetcli), which counts from 0; where they do, they share the HBA.
    """
    name_bytes = name.encode()
    number = zlib.crc32(name_bytes) << 32 | zlib.crc32(name_bytes[::-1])
    return f"core/iblock_{number}/{name}"


def ensure_backstore(
    build: Build, name: str, *, device: Path, serial: str, linked: str | None, read_only: bool = False
) -> str:
    """Have a backstore that is open on a device and carries a serial; return its path.

    :param linked: where the target's LUN links to already, if it does.
    :param read_only: open the device for reading alone.
    :raises AlreadyExists: a backstore of that name is open on another device, which ``details["device"]``
        names, or exported under another serial.
    :raises Busy: the device is claimed by somebody else.
    :raises BackendError: the kernel refuses a step.
    """
    tree = build.tree
    path = linked or backstore_path(name)
    build.folder(_hba(path))
    build.folder(path)
    if tree.read(f"{path}/enable") != "1":
        _open_device(build, path, device, read_only=read_only)
    elif (held := find_device(tree, path)) != device:
        message = f"backstore {path} is open on {held}, not on {device}"
        raise AlreadyExists(message, backstore=path, device=str(held))
    for attribute, value in _ATTRIBUTES:
        build.attribute(f"{path}/attrib/{attribute}", value)
    _set_serial(build, path, serial, linked=linked is not None)
    return path


def find_device(tree: ConfigFs, path: str) -> Path | None:
    """Return the device that a block backstore is set to; None for any other or an absent one."""
    found = _UDEV_PATH.search(tree.find(f"{path}/info") or "")
    return Path(found[1]) if found else None


def find_serial(tree: ConfigFs, path: str) -> str | None:
    """Return the unit serial of a backstore; None where it has none or is absent."""
    text = tree.find(f"{path}/wwn/vpd_unit_serial") or ""
    return text.removeprefix(_SERIAL_LABEL).strip() or None


def remove_backstore(tree: ConfigFs, name: str, *, linked: str | None) -> bool:
    """Close and remove a backstore and its HBA, unless another target exports it; return whether any went.

    :param linked: where the target's LUN linked to, if there was one.
    :raises BackendError: the kernel refuses.
    """
    changed = False
    own = backstore_path(name)
    for path in dict.fromkeys((linked or own, own)):
        changed |= _remove_unless(errno.EBUSY, tree, path)
        changed |= _remove_unless(errno.ENOTEMPTY, tree, _hba(path))
    return changed


def _remove_unless(refusal: int, tree: ConfigFs, path: str) -> bool:
    """Remove a folder, unless the kernel says by ``refusal`` that somebody else needs it."""
    try:
        return tree.remove_folder(path)
    except BackendError as err:
        if err.details["errno"] == refusal:
            return False
        raise


def _hba(path: str) -> str:
    return path.rpartition("/")[0]


def _open_device(build: Build, path: str, device: Path, *, read_only: bool) -> None:
    build.tree.write(f"{path}/control", f"udev_path={device},readonly={int(read_only)}")
    # For targetcli's eyes only: the kernel opens what the line above named.
    build.tree.write(f"{path}/udev_path", str(device))
    try:
        build.tree.write(f"{path}/enable", "1")
    except BackendError as err:
        if err.details["errno"] == errno.EBUSY:
            message = f"{device} is claimed by somebody else"
            raise Busy(message) from err
        raise
    build.changed = True


def _set_serial(build: Build, path: str, serial: str, *, linked: bool) -> None:
    held = find_serial(build.tree, path)
    if held == serial:
        return
    if linked:
        # The kernel refuses as well: initiators know the disk by its serial.
        message = f"backstore {path} is exported under the serial {held}, not {serial}"
        raise AlreadyExists(message, backstore=path)
    build.tree.write(f"{path}/wwn/vpd_unit_serial", serial)
    build.changed = True
