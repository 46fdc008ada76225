"""What Nova does on a compute machine, without Nova: os-brick attaches, and a file system is used.

Runs as root in the compute guest with os-brick's Python. Connection properties carry CHAP secrets, so they
come by standard input and are never printed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import os_brick
from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest
from os_brick import privileged
from os_brick.initiator import connector
from oslo_concurrency import lockutils
from oslo_config import cfg

MOUNTS = Path("/run/zolder-lab/mounts")


def prepare() -> None:
    """Let os-brick act in this process, which is root's, instead of in a daemon behind sudo."""
    lockutils.set_defaults("/run/zolder-lab")
    os_brick.setup(cfg.CONF)
    for context in (privileged.default, privileged.brick_privsep_hide_output):
        context.set_client_mode(False)


def properties(*, multipath: bool = False) -> dict[str, Any]:
    """Return the connector, as Nova sends it to Cinder.

    :param multipath: over all paths of a volume, or not at all where multipath cannot be had; here and below.
    """
    found: dict[str, Any] = connector.get_connector_properties(
        "", "192.168.77.2", multipath, multipath, host="compute"
    )
    return found


def connect(connection: dict[str, Any], *, multipath: bool = False) -> str:
    """Attach a volume and return its device.

    :param connection: the connection_info of a Cinder attachment; here and below.
    """
    device: str = os.path.realpath(_brick(connection, multipath).connect_volume(connection)["path"])
    return device


def grow(connection: dict[str, Any], *, multipath: bool = False) -> int:
    """Have the initiator look again at a volume's size, and return it in bytes."""
    size: int = _brick(connection, multipath).extend_volume(connection)
    return size


def disconnect(
    connection: dict[str, Any], device: str, *, multipath: bool = False, force: bool = False
) -> None:
    """Detach a volume; what is mounted from it is unmounted first.

    :param force: even where its target has gone already.
    """
    if _mount_point(device).is_mount():
        _run("umount", str(_mount_point(device)))
    brick, information = _brick(connection, multipath), {"type": "block", "path": device}
    brick.disconnect_volume(connection, information, force=force, ignore_errors=force)


def trim(device: str) -> int:
    """Delete all files of a mounted file system, trim it, and return how many bytes that gave back."""
    folder = _mount_point(device)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    _run("sync", "--file-system", str(folder))
    # It says: "/mnt: 1 GiB (1073741824 bytes) trimmed".
    said = subprocess.run(["fstrim", "--verbose", str(folder)], check=True, capture_output=True, text=True)
    return int(said.stdout.partition("(")[2].split()[0])


def make_file_system(device: str) -> None:
    """Make an ext4 file system on a device and mount it."""
    _run("mkfs.ext4", "-q", device)
    _mount(device)


def grow_file_system(device: str) -> int:
    """Let a mounted file system fill its device, and return its size in bytes."""
    _run("resize2fs", device)
    status = os.statvfs(_mount_point(device))
    return status.f_blocks * status.f_frsize


def write_files(device: str, name: str, count: int, size_bytes: int) -> dict[str, str]:
    """Write files of random content, flush them to the volume, and return their checksums."""
    folder = _mount_point(device)
    sums = {}
    for number in range(count):
        content = os.urandom(size_bytes)
        path = folder / f"{name}-{number}"
        path.write_bytes(content)
        sums[path.name] = hashlib.sha256(content).hexdigest()
    _run("sync", "--file-system", str(folder))
    return sums


def read_files(device: str) -> dict[str, str]:
    """Return the checksums of all files on a device, which is mounted for that."""
    _mount(device)
    files = sorted(path for path in _mount_point(device).iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _brick(connection: dict[str, Any], multipath: bool) -> Any:  # noqa: ANN401, FBT001 - os-brick has no types; private
    protocol = connection["driver_volume_type"].upper()
    return connector.InitiatorConnector.factory(protocol, "", use_multipath=multipath)


def _mount_point(device: str) -> Path:
    return MOUNTS / Path(device).name


def _mount(device: str) -> None:
    folder = _mount_point(device)
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", device, str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    prepare()
    answer_all(
        properties,
        connect,
        grow,
        disconnect,
        trim,
        make_file_system,
        grow_file_system,
        write_files,
        read_files,
    )
