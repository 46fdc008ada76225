"""OpenZFS in this process, through its committed library libzfs_core.

Speaks to the library and to nothing else; answers by errno, so nothing is read from text. It takes whole
dataset names that others built from checked parts. Never uses ``lzc_exists``: that reads every failure as
"no". Sources: libzfs_core.h, pyzfs ``_error_translation.py``.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Final

from zolder.errors import BackendError
from zolder.san.nvlist import Nvpair

_LIBRARY: Final = "libzfs_core.so.3"
_ZVOL: Final = 3  # enum lzc_dataset_type in libzfs_core.h


class ZfsError(OSError):
    """What the kernel answered: ``errno`` of the object in ``filename``. Never leaves zolder.san."""


class ZfsLibrary:
    """A loaded libzfs_core. Each method is one request to the kernel and waits for it.

    :raises BackendError: OpenZFS is not installed or its module is not loaded.
    """

    def __init__(self) -> None:
        """Load the library and open /dev/zfs."""
        try:
            self._nvpair = Nvpair()
            self._lib = ctypes.CDLL(_LIBRARY, use_errno=True)
        except OSError as err:
            message = "this SAN has no OpenZFS library: install zfsutils-linux (2.1 or newer) on it"
            raise BackendError(message, said=str(err)) from err
        failure = self._lib.libzfs_core_init()
        if failure:
            message = "this SAN's ZFS module does not answer: load it with 'modprobe zfs' and see dmesg"
            raise BackendError(message, said=os.strerror(failure))

    def create_zvol(self, dataset: str, volsize_bytes: int, properties: Mapping[str, str | int]) -> None:
        """Create a sparse zvol with properties, which cost a second transaction group.

        The kernel sets them when the zvol stands (zfs_ioc_create: "it would be nice to do this atomically").
        """
        with self._nvpair.packed({"volsize": volsize_bytes, **properties}) as props:
            self._check(self._lib.lzc_create(dataset.encode(), _ZVOL, props, None, 0), dataset)

    def clone(self, dataset: str, origin: str, properties: Mapping[str, str | int]) -> None:
        """Clone a snapshot with properties; they cost a second transaction group, as with `create_zvol`."""
        with self._nvpair.packed(properties) as props:
            self._check(self._lib.lzc_clone(dataset.encode(), origin.encode(), props), dataset)

    def snapshot(self, snapshots: Sequence[str], properties: Mapping[str, str]) -> None:
        """Take snapshots of one zpool, all or none, with user properties."""
        names = dict.fromkeys(snapshots, True)
        with (
            self._nvpair.packed(names) as snaps,
            self._nvpair.packed(properties) as props,
            self._nvpair.returned() as errors,
        ):
            failure = self._lib.lzc_snapshot(snaps, props, ctypes.byref(errors))
            self._check_each(failure, errors, snapshots[0])

    def destroy(self, dataset: str) -> None:
        """Destroy one dataset that has neither snapshots nor children."""
        self._check(self._lib.lzc_destroy(dataset.encode()), dataset)

    def destroy_snapshot(self, snapshot: str, *others: str, defer: bool = True) -> None:
        """Destroy a snapshot now, or mark it to go with its last clone or hold; absent is success.

        :param others: of the same zpool, for the price of one.
        :param defer: False refuses one that has clones (EEXIST) or holds (EBUSY).
        """
        names = dict.fromkeys((snapshot, *others), True)
        with self._nvpair.packed(names) as snaps, self._nvpair.returned() as errors:
            failure = self._lib.lzc_destroy_snaps(snaps, defer, ctypes.byref(errors))
            self._check_each(failure, errors, snapshot)

    def rollback(self, dataset: str, snapshot: str) -> None:
        """Bring a zvol back to its newest snapshot (EEXIST: it has a newer one), in use or not."""
        self._check(self._lib.lzc_rollback_to(dataset.encode(), snapshot.encode()), dataset)

    def rename(self, dataset: str, new_name: str) -> None:
        """Rename a zvol within its zpool, or a snapshot within its zvol; clones and open devices follow."""
        self._check(self._lib.lzc_rename(dataset.encode(), new_name.encode()), dataset)

    def promote(self, clone: str) -> None:
        """Let a clone take its origin, and what is older, over from the zvol that it was cloned from."""
        self._check(self._lib.lzc_promote(clone.encode(), None, 0), clone)

    def sync(self, zpool: str) -> None:
        """Wait until all that was written to a zpool before is in its transaction groups."""
        with self._nvpair.packed({"force": False}) as options:
            self._check(self._lib.lzc_sync(zpool.encode(), options, None), zpool)

    def _check_each(self, failure: int, errors: ctypes.c_void_p, name: str) -> None:
        if failure:
            for which, code in self._nvpair.unpack(errors).items():
                if isinstance(code, int) and code:
                    self._check(code, which)
            self._check(failure, name)

    @staticmethod
    def _check(failure: int, name: str) -> None:
        if failure:
            raise ZfsError(failure, os.strerror(failure), name)


@functools.cache
def library() -> ZfsLibrary:
    """Return this process's one libzfs_core."""
    return ZfsLibrary()


# What the kernel answers to any request on a zpool that has suspended its I/O (zfs_ioctl.c).
SUSPENDED_ERRNO: Final = errno.EAGAIN
