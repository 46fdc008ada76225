"""Who may connect over NVMe: the kernel's host entries, each shared by all subsystems of an initiator.

An entry holds the initiator's DH-HMAC-CHAP key, so one that others use is never changed. An entry of ours is
marked by its mode, 0700, which also keeps its key from every other user of the SAN (the kernel makes it
readable to all, and configfs keeps a mode as long as the entry lives). An entry without that mark was made
by somebody else, or by a process that was killed before it could mark it: it is used as it is, where it asks
of the initiator what was asked for, and stays; only one without key and links, which gives nobody anything,
makes way for a key. Keys pass through here into configfs, never into an error or a log. The caller holds a
lock for all entries, but administrators do not, nor does who takes back what it made: rmdir(2) refuses an
entry that is linked, and what vanishes is made again.
Source: drivers/nvme/target/configfs.c and auth.c in the Linux tree; NVMe base specification 2.0, 8.13.5.8.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import zlib
from typing import Final

from zolder.errors import AlreadyExists, BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName
from zolder.san.configfs import Build, ConfigFs

_KEY: Final = re.compile(r"DHHC-1:0([0-3]):([A-Za-z0-9+/]+=*):", re.ASCII)
# By what the key says of itself: any of them, or made with SHA-256, SHA-384, SHA-512.
_KEY_BYTES: Final = {"0": (32, 48, 64), "1": (32,), "2": (48,), "3": (64,)}
_CHECKSUM_BYTES: Final = 4

_OURS: Final = 0o700

# Somebody took the entry away, or linked to it just now.
_RACES: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.EBUSY})
_ATTEMPTS: Final = 20


def check_key(chap: Chap) -> None:
    """Make sure that a secret is a whole DH-HMAC-CHAP key: the kernel takes any text (seen on 6.12).

    :raises InvalidRequest: it is none; the message does not show it.
    """
    if chap.is_mutual:
        message = "DH-HMAC-CHAP is one-way here: a controller has no key of its own"
        raise InvalidRequest(message)
    match = _KEY.fullmatch(chap.secret)
    try:
        content = base64.b64decode(match[2], validate=True) if match else b""
    except binascii.Error:
        content = b""
    key, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    whole = match and len(key) in _KEY_BYTES[match[1]]
    if not whole or zlib.crc32(key).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        message = (
            "CHAP secret: NVMe-oF needs a DH-HMAC-CHAP key, DHHC-1:00: with base64 of the key and"
            " its checksum, as `nvme gen-dhchap-key` makes it"
        )
        raise InvalidRequest(message)


def ensure_host(build: Build, nqn: str, host: InitiatorName, chap: Chap | None) -> None:
    """Let an initiator connect to a subsystem, showing a key or none.

    :raises AlreadyExists: its entry asks for something else, and may not be changed.
    :raises InvalidRequest: the kernel knows no keys.
    :raises BackendError: the kernel refuses a step.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _ensure_entry(build, nqn, host, chap.secret if chap else "")
            build.link(f"subsystems/{nqn}/allowed_hosts/{host}", f"hosts/{host}")
        except BackendError as err:
            if err.details["errno"] not in _RACES or attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


def remove_host(tree: ConfigFs, host: str) -> bool:
    """Remove an initiator's entry if we made it and no subsystem links to it; return whether it went.

    :raises BackendError: the kernel refuses it for another reason.
    """
    if not _is_ours(tree, f"hosts/{host}"):
        return False
    try:
        return tree.remove_folder(f"hosts/{host}")
    except BackendError as err:
        if err.details["errno"] == errno.EBUSY:
            return False
        raise


def _ensure_entry(build: Build, nqn: str, host: InitiatorName, key: str) -> None:
    """Have an entry with a key, or without one where ``key`` is empty."""
    tree, entry, attribute = build.tree, f"hosts/{host}", f"hosts/{host}/dhchap_key"
    if build.folder(entry):
        _mark(tree, entry)
    if not tree.exists(attribute) and tree.exists(entry):
        if not key:
            return
        message = "CHAP: this kernel's nvmet knows no DH-HMAC-CHAP (CONFIG_NVME_TARGET_AUTH)"
        raise InvalidRequest(message)
    standing = tree.read(attribute)
    if standing == key:
        return
    users, ours = _users(tree, host), _is_ours(tree, entry)
    if not users and (ours or not standing):
        # A new one: the kernel takes no empty key (seen on 6.12), and the mark may be missing.
        tree.remove_folder(entry)
        build.folder(entry)
        _mark(tree, entry)
    elif not (ours and key and users == {nqn}):
        held = "none" if not standing else "another" if key else "one"
        message = (
            f"nvmet has one key for all that {host} connects to, and hosts/{host} has {held}:"
            " ask for the same with all its volumes, or detach them first"
        )
        raise AlreadyExists(message, initiator=host)
    if key:
        tree.write(attribute, key)
    build.changed = True


def _users(tree: ConfigFs, host: InitiatorName) -> set[str]:
    """Return the subsystems that an initiator may connect to; only a change of key is worth this listing."""
    return {
        nqn for nqn in tree.folders("subsystems") if tree.exists(f"subsystems/{nqn}/allowed_hosts/{host}")
    }


def _mark(tree: ConfigFs, entry: str) -> None:
    try:
        os.chmod(f"{tree.root}/{entry}", _OURS)  # noqa: PTH101 - pathlib is slow here, see configfs.py
    except OSError as err:
        message = f"configfs: cannot chmod {entry}: {err.strerror}"
        raise BackendError(message, path=entry, errno=err.errno or 0) from err


def _is_ours(tree: ConfigFs, entry: str) -> bool:
    try:
        return stat.S_IMODE(os.lstat(f"{tree.root}/{entry}").st_mode) == _OURS
    except FileNotFoundError:
        return False
    except OSError as err:
        message = f"configfs: cannot look at {entry}: {err.strerror}"
        raise BackendError(message, path=entry, errno=err.errno or 0) from err
