"""What ZFS says of a dataset, and what it is told to keep with it, through libzfs in this process.

Speaks to the library and to nothing else; takes whole names built from checked parts. It uses the few
functions that have not changed since OpenZFS 2.0, and no structure of theirs. Why not a channel program: the
kernel lets root alone run one, and writes each, with its text, into the zpool's history (docs/design.md, 14).
Sources: libzfs.h, libzfs_dataset.c. One thread.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from zolder.errors import BackendError
from zolder.properties import KINDS
from zolder.san.lzc import ZfsError
from zolder.san.nvlist import Nvpair

VOLUME_MARK: Final = "zolder:volume"
SNAPSHOT_MARK: Final = "zolder:snapshot"
VIEW_MARK: Final = "zolder:view"
EXPORT_RECORD: Final = "zolder:export"
DELETED_MARK: Final = "zolder:deleted"
REVERT_MARK: Final = "zolder:revert"
REVERT_NOTE: Final = "zolder:reverted"
CONTENTS_NOTE: Final = "zolder:contents"
MOVE_MARK: Final = "zolder:move"
# How that begins on a copy that is not whole, or has not its name yet (zolder.san.sending).
ARRIVING: Final = "arriving"

_LIBRARIES: Final = ("libzfs.so.7", "libzfs.so.6", "libzfs.so.5", "libzfs.so.4")
# zfs_type_t: filesystem, snapshot, volume.
_FILESYSTEM: Final = 1
_ANY: Final = 1 | 2 | 4
_NO_SUCH: Final = 2009  # EZFS_NOENT in libzfs.h
_EACH: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


# Whose a dataset is and who is to reach it; what kind it is and how large; what it needs and who needs it;
# the space below a parent; what a volume's type decides.
PROPERTIES: Final = (
    VOLUME_MARK,
    SNAPSHOT_MARK,
    VIEW_MARK,
    EXPORT_RECORD,
    DELETED_MARK,
    REVERT_MARK,
    REVERT_NOTE,
    CONTENTS_NOTE,
    MOVE_MARK,
    "volsize",
    "refreservation",
    "origin",
    "defer_destroy",
    "createtxg",
    "volmode",
    "snapdev",
    "guid",
    "createtxg",
    "used",
    "available",
    "usedbydataset",
    "volblocksize",
    *KINDS,
)


@dataclass(frozen=True, slots=True)
class Property:
    """A property's value and where it comes from: the dataset's own name means ``local``."""

    value: str | int
    source: str | None


Properties: TypeAlias = Mapping[str, Property]


class Libzfs:
    """A loaded libzfs.

    :raises BackendError: OpenZFS is not installed or its module is not loaded.
    """

    def __init__(self) -> None:
        """Load the library and open /dev/zfs."""
        self._nvpair = Nvpair()
        self._lib = _load()
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        for name, result, arguments in (
            ("libzfs_init", pointer, []),
            ("libzfs_errno", ctypes.c_int, [pointer]),
            ("libzfs_error_description", text, [pointer]),
            ("zfs_open", pointer, [pointer, text, ctypes.c_int]),
            ("zfs_close", None, [pointer]),
            ("zfs_get_name", text, [pointer]),
            ("zfs_get_all_props", pointer, [pointer]),
            ("zfs_iter_filesystems", ctypes.c_int, [pointer, _EACH, pointer]),
            (
                "zfs_iter_snapshots",
                ctypes.c_int,
                [pointer, ctypes.c_int, _EACH, pointer, ctypes.c_uint64, ctypes.c_uint64],
            ),
            ("zfs_prop_set", ctypes.c_int, [pointer, text, text]),
            ("zfs_prop_set_list", ctypes.c_int, [pointer, pointer]),
            ("zfs_prop_inherit", ctypes.c_int, [pointer, text, ctypes.c_int]),
            ("zfs_get_pool_handle", pointer, [pointer]),
            ("zvol_volsize_to_reservation", ctypes.c_uint64, [pointer, ctypes.c_uint64, pointer]),
            ("zfs_name_to_prop", ctypes.c_int, [text]),
            ("zfs_prop_string_to_index", ctypes.c_int, [ctypes.c_int, text, pointer]),
            ("zfs_prop_index_to_string", ctypes.c_int, [ctypes.c_int, ctypes.c_uint64, pointer]),
        ):
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._lib.libzfs_init()
        if not self._handle:
            message = "this SAN's ZFS module does not answer: load it with 'modprobe zfs' and see dmesg"
            raise BackendError(message)

    def read(self, dataset: str) -> Properties | None:
        """Return those of ``PROPERTIES`` that a dataset or snapshot has; None where ZFS knows of none such.

        Its name absent here proves nothing yet (zolder.san.parents).

        :raises BackendError: ZFS cannot say.
        """
        with self._opened(dataset, _ANY) as found:
            return self._properties(found) if found else None

    def children(self, parent: str) -> dict[str, Properties]:
        """Return all datasets directly below a parent, each as `read` would.

        :raises BackendError: ZFS cannot say, or knows of no such parent: that is no empty list.
        """
        return self._each_of(
            parent, _FILESYSTEM, lambda found, note: self._lib.zfs_iter_filesystems(found, note, None)
        )

    def snapshots(self, zvol: str) -> dict[str, Properties]:
        """Return all snapshots of a zvol, each as `read` would.

        :raises BackendError: ZFS cannot say, or knows of no such zvol.
        """
        return self._each_of(
            zvol, _ANY, lambda found, note: self._lib.zfs_iter_snapshots(found, 0, note, None, 0, 0)
        )

    def set_property(self, dataset: str, name: str, text: str | None) -> None:
        """Give a dataset a property of its own, or take it away; waits for the transaction group.

        :raises ZfsError: the kernel refused it, or there is no such dataset.
        """
        with self._opened(dataset, _ANY) as found:
            if not found:
                raise ZfsError(errno.ENOENT, os.strerror(errno.ENOENT), dataset)
            ctypes.set_errno(0)
            if text is None:
                failure = self._lib.zfs_prop_inherit(found, name.encode(), 0)
            else:
                failure = self._lib.zfs_prop_set(found, name.encode(), text.encode())
            self._check_set(failure, dataset)

    def set_properties(self, dataset: str, values: Mapping[str, str]) -> None:
        """Give a dataset several properties of its own at once, for the price of one.

        :raises ZfsError: the kernel refused one, and may have set others; or there is no such dataset.
        """
        with self._opened(dataset, _ANY) as found, self._nvpair.packed(values) as table:
            if not found:
                raise ZfsError(errno.ENOENT, os.strerror(errno.ENOENT), dataset)
            ctypes.set_errno(0)
            self._check_set(self._lib.zfs_prop_set_list(found, table), dataset)

    def _check_set(self, failure: int, dataset: str) -> None:
        if failure:
            # The library keeps its own number and leaves the kernel's in errno (zfs_setprop_error).
            number = ctypes.get_errno() or errno.EIO
            raise ZfsError(number, str(self._error(dataset)), dataset)

    def number_of(self, name: str, value: str) -> int | None:
        """Return the number by which the kernel knows a property's value; None where this ZFS has none."""
        number = ctypes.c_uint64()
        which = self._lib.zfs_name_to_prop(name.encode())
        if self._lib.zfs_prop_string_to_index(which, value.encode(), ctypes.byref(number)):
            return None
        return number.value

    def reservation_for(self, dataset: str, volsize_bytes: int, volblocksize_bytes: int | None) -> int:
        """Return the reservation with which a zvol in a dataset's zpool would be thick, in bytes.

        :raises BackendError: ZFS cannot say, or knows of no such dataset.
        """
        with (
            self._opened(dataset, _ANY) as found,
            self._nvpair.packed({"volblocksize": volblocksize_bytes} if volblocksize_bytes else {}) as given,
        ):
            if not found:
                raise self._error(dataset)
            zpool = self._lib.zfs_get_pool_handle(found)
            return int(self._lib.zvol_volsize_to_reservation(zpool, volsize_bytes, given))

    def text_of(self, name: str, number: int) -> str | None:
        """Return the word for a property's value that the kernel gave as a number."""
        word = ctypes.c_char_p()
        which = self._lib.zfs_name_to_prop(name.encode())
        if self._lib.zfs_prop_index_to_string(which, number, ctypes.byref(word)):
            return None
        return (word.value or b"").decode()

    def _each_of(
        self, dataset: str, kind: int, iterate: Callable[[int, object], int]
    ) -> dict[str, Properties]:
        each: dict[str, Properties] = {}
        faults: list[Exception] = []

        def note(member: int, _: object) -> int:
            try:
                name = self._lib.zfs_get_name(member).decode()
                each[name] = self._properties(member)
            except Exception as err:  # noqa: BLE001 - ctypes would print it and go on
                faults.append(err)
            finally:
                self._lib.zfs_close(member)
            return len(faults)

        with self._opened(dataset, kind) as found:
            if not found:
                raise self._error(dataset)
            failure = iterate(found, _EACH(note))
        if faults:
            raise faults[0]
        if failure:
            raise self._error(dataset)
        return each

    @contextmanager
    def _opened(self, dataset: str, kinds: int) -> Iterator[int | None]:
        found = self._lib.zfs_open(self._handle, dataset.encode(), kinds)
        if not found and self._lib.libzfs_errno(self._handle) != _NO_SUCH:
            raise self._error(dataset)
        try:
            yield found
        finally:
            if found:
                self._lib.zfs_close(found)

    def _properties(self, opened: int) -> Properties:
        # The list is the handle's own and goes with it.
        table = self._lib.zfs_get_all_props(opened)
        found = {}
        for name in PROPERTIES:
            value, source = self._nvpair.look_up_property(table, name)
            if value is not None:
                found[name] = Property(value, source)
        return found

    def _error(self, dataset: str) -> BackendError:
        number = self._lib.libzfs_errno(self._handle)
        said = self._lib.libzfs_error_description(self._handle).decode(errors="replace")
        return BackendError(f"ZFS cannot say anything of {dataset}: {said}", libzfs=number)


def _load() -> ctypes.CDLL:
    for name in _LIBRARIES:
        with suppress(OSError):
            return ctypes.CDLL(name, use_errno=True)
    message = "this SAN has no OpenZFS library: install zfsutils-linux (2.1 or newer) on it"
    raise BackendError(message)


def preload() -> None:
    """Have the library in memory for processes that are forked off, without opening /dev/zfs."""
    with suppress(BackendError):
        _load()


@functools.cache
def library() -> Libzfs:
    """Return this process's one libzfs."""
    return Libzfs()
