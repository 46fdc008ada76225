"""One subsystem of nvmet: a zvol's device as namespace 1, for one initiator.

It is built closed and whole before any port shows it. Whatever in it Zolder never makes says that it is
somebody else's, and then nothing of it is changed. Serial, UUID and NGUID follow from the volume's id, so
they are equal on every SAN, and the kernel lets none of them change later. nvmet opens a device beside
whoever claims it (seen on 6.12), so it is asked first whether it is claimed. Not locked here: the caller
holds a lock for the zvol's name.
Source: drivers/nvme/target/configfs.c, core.c and io-cmd-bdev.c in the Linux tree.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, BackendError, Busy
from zolder.names import VolumeId
from zolder.san.configfs import Build, ConfigFs
from zolder.san.device import read_zvol_name

_NODE: Final = re.compile(r"zd[0-9]+", re.ASCII)
_MODEL: Final = "Zolder"
# NVMe base specification, Identify Controller: the serial number has 20 bytes.
_SERIAL_LETTERS: Final = 20
# How the kernel shows a path that was never set.
_NO_PATH: Final = frozenset({None, "", "(null)"})
_GONE: Final = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})


def ensure_subsystem(build: Build, nqn: str, *, device: Path, volume_id: VolumeId) -> None:
    """Have a closed subsystem with a device as its namespace 1, enabled.

    :raises AlreadyExists: its namespace is another device's or another volume's.
    :raises Busy: the device is claimed by somebody else.
    :raises BackendError: the kernel refuses a step.
    """
    subsystem, namespace = f"subsystems/{nqn}", _namespace(nqn)
    identity = {"device_uuid": str(volume_id), "device_nguid": str(volume_id)}
    serial = volume_id.replace("-", "")[:_SERIAL_LETTERS]
    build.folder(subsystem)
    enabled = _check_same(build.tree, nqn, device, identity, serial)
    build.attribute(f"{subsystem}/attr_allow_any_host", "0")
    build.attribute(f"{subsystem}/attr_serial", serial)
    if not enabled:
        build.attribute(f"{subsystem}/attr_model", _MODEL)
        build.folder(namespace)
        for attribute, value in identity.items():
            build.attribute(f"{namespace}/{attribute}", value)
        # Straight to the zvol: a flush must reach the ZIL, not a page cache in between.
        build.attribute(f"{namespace}/buffered_io", "0")
        build.attribute(f"{namespace}/device_path", str(device))
        _enable(build, f"{namespace}/enable", device)


def check_closed(tree: ConfigFs, nqn: str, is_allowed: Callable[[str], bool]) -> None:
    """Make sure that a subsystem, if it stands, has nothing that Zolder never makes.

    :param is_allowed: whether an initiator of this name is one that this subsystem is for.
    :raises AlreadyExists: it has; the message says what.
    :raises BackendError: the tree cannot be read.
    """
    subsystem = f"subsystems/{nqn}"
    if not tree.exists(subsystem):
        return
    strange = [f"namespace {name}" for name in tree.folders(f"{subsystem}/namespaces") if name != "1"]
    strange += [f"allowed host {name}" for name in allowed_hosts(tree, nqn) if not is_allowed(name)]
    if tree.find(f"{subsystem}/attr_allow_any_host") not in {None, "0"}:
        strange.append("attr_allow_any_host")
    if tree.find(f"{subsystem}/passthru/enable") not in {None, "0"}:
        strange.append("passthru")
    if strange:
        message = f"subsystem {nqn} has what Zolder never makes: {', '.join(strange)}"
        raise AlreadyExists(message, target=nqn)


def check_device(tree: ConfigFs, nqn: str, dataset: str, dev: Path) -> None:
    """Make sure that a subsystem, if it stands, exports a zvol, or nothing yet.

    :param dataset: the zvol's whole name.
    :raises AlreadyExists: its namespace is another device's.
    :raises BackendError: the tree or the device cannot be read.
    """
    path = find_device(tree, nqn)
    if path is None:
        return
    if is_enabled(tree, nqn):
        carried = find_zvol(Path(path), dev)
        ours, what = carried == dataset, carried or path
    else:
        # The node's number may have come to mean another zvol since: only an open device proves anything.
        ours, what = _is_node(Path(path), dev), path
    if not ours:
        message = f"subsystem {nqn} exists and exports {what}, not our {dataset}"
        raise AlreadyExists(message, target=nqn)


def allowed_hosts(tree: ConfigFs, nqn: str) -> tuple[str, ...]:
    """Return the names of the initiators that may connect to a subsystem, sorted; none where it is absent.

    :raises BackendError: the tree cannot be read.
    """
    return tree.links(f"subsystems/{nqn}/allowed_hosts")


def is_enabled(tree: ConfigFs, nqn: str) -> bool:
    """Say whether a subsystem's namespace has its device open.

    :raises BackendError: the tree cannot be read.
    """
    return tree.find(f"{_namespace(nqn)}/enable") == "1"


def find_device(tree: ConfigFs, nqn: str) -> str | None:
    """Return the path that a subsystem's namespace is set to; None where there is none.

    :raises BackendError: the tree cannot be read.
    """
    path = tree.find(f"{_namespace(nqn)}/device_path")
    return None if path in _NO_PATH else path


def find_zvol(path: Path, dev: Path) -> str | None:
    """Return the dataset name of the zvol whose whole disk this is; None where it is none of a zvol.

    :raises BackendError: that cannot be told.
    """
    if not _is_node(path, dev):
        return None  # never opened: it is somebody else's
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_zvol_name(descriptor)
        finally:
            os.close(descriptor)
    except OSError as err:
        if err.errno in _GONE:
            return None
        message = f"cannot tell which zvol {path} is: {err.strerror}"
        raise BackendError(message, path=str(path), errno=err.errno or 0) from err


def show_size(tree: ConfigFs, nqn: str) -> None:
    """Have a subsystem's initiator told of its device's present size; nothing happens where it is the same.

    :raises BackendError: the kernel refuses it.
    """
    tree.write(f"{_namespace(nqn)}/revalidate_size", "1")


def remove_subsystem(tree: ConfigFs, nqn: str) -> bool:
    """Close a subsystem's device and remove it; no port and no host may be linked any more.

    :return: False where it is absent.
    :raises BackendError: the kernel refuses a step.
    """
    namespace = _namespace(nqn)
    if is_enabled(tree, nqn):
        # Waits for the I/O under way (nvmet_ns_disable); afterwards the zvol can be destroyed.
        tree.write(f"{namespace}/enable", "0")
    changed = tree.remove_folder(namespace)
    return tree.remove_folder(f"subsystems/{nqn}") or changed


def _namespace(nqn: str) -> str:
    return f"subsystems/{nqn}/namespaces/1"


def _is_node(path: Path, dev: Path) -> bool:
    return path.parent == dev and _NODE.fullmatch(path.name) is not None


def _check_same(tree: ConfigFs, nqn: str, device: Path, identity: dict[str, str], serial: str) -> bool:
    """Return whether the namespace is enabled, and then just as it is asked for."""
    path, enabled = find_device(tree, nqn), is_enabled(tree, nqn)
    if path is None:
        return False
    standing = {attribute: tree.find(f"{_namespace(nqn)}/{attribute}") for attribute in identity}
    # A half of ours got its UUID before its path, and the node's number may have changed since.
    if path != str(device) and (enabled or standing != identity):
        message = f"subsystem {nqn} exists and exports {path}, not {device}"
        raise AlreadyExists(message, target=nqn)
    held = tree.find(f"subsystems/{nqn}/attr_serial")
    if enabled and (standing != identity or held != serial):
        # The kernel refuses to change them as well: initiators know the disk by them.
        message = f"subsystem {nqn} is exported under the serial {held} and UUID {standing['device_uuid']}"
        raise AlreadyExists(message, target=nqn)
    return enabled


def _enable(build: Build, path: str, device: Path) -> None:
    try:
        # O_EXCL without O_CREAT asks the kernel for a claim, and fails where there is one (open(2)).
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        build.tree.write(path, "1")
    except OSError as err:
        if err.errno == errno.EBUSY:
            message = f"{device} is claimed by somebody else"
            raise Busy(message) from err
        message = f"cannot open {device}: {err.strerror}"
        raise BackendError(message, path=str(device), errno=err.errno or 0) from err
    except BackendError as err:
        if err.details["errno"] == errno.EROFS:
            message = f"{device} is read-only, and nvmet exports no such device: is its zvol's readonly off?"
            raise BackendError(message, path=path, errno=errno.EROFS) from err
        raise
    build.changed = True
