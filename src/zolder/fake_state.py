"""What a SAN in memory holds, and what its verbs have in common; zolder.fake has the verbs.

Thread-safe: each verb is one critical section.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from zolder.api import Storage, check_volsize
from zolder.errors import (
    AlreadyExists,
    InvalidRequest,
    NoSpace,
    NotFound,
    NotPermitted,
    PoolUnavailable,
)
from zolder.fake_exports import FakeExports
from zolder.model import Zvol
from zolder.names import (
    AttachmentId,
    DatasetName,
    VolumeId,
    ZvolName,
    is_between,
    put_aside_name,
    zvol_dataset,
)
from zolder.properties import BlockSize

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="FakeState")
TIB: Final = 2**40
BLOCK_BYTES: Final = 4096
# What OpenZFS takes by itself since 2.2.
DEFAULT_BLOCK_SIZE: Final = BlockSize("16k")
NO_VOLUME: Final = VolumeId("00000000-0000-0000-0000-000000000000")


# What is written, by the block's number; the rest is zeros.
Blocks: TypeAlias = dict[int, bytes]


@dataclass
class Snapshot:
    """A ZFS snapshot, whoever made it."""

    volsize_bytes: int
    ours: bool = True
    deferred: bool = False
    blocks: Blocks = field(default_factory=dict)
    taken: int = 0
    # What was taken in one go has this in common, as one transaction group in ZFS (createtxg).
    moment: object = field(default_factory=object)


# It asks the targets and not the zpool.
_TARGETS_ALONE: Final = frozenset({"list_exports"})


def verb(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method one critical section that checks its parent and size first."""
    signature = inspect.signature(method)

    def whole(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            given = signature.bind(self, *args, **kwargs).arguments
            parent: Any = given["parent"]
            for place in (parent, given.get("to", parent)):
                if place not in self._parents:
                    message = f"parent {place} is not this identity's"
                    raise NotPermitted(message)
            if not self.imported and method.__name__ not in _TARGETS_ALONE:
                message = f"zpool {parent.zpool} is not imported on this SAN"
                raise PoolUnavailable(message)
            for key in ("zvol", "source", "name"):
                name: Any = given.get(key)
                if isinstance(name, str) and is_between(name):
                    message = f"{name} is no volume: such names are the agent's own"
                    raise NotPermitted(message)
            size: Any = kwargs.get("volsize_bytes")
            if size is not None:
                check_volsize(size)
            return method(self, *args, **kwargs)

    return whole


class FakeState(Storage):
    """Zvols as records. ``imported`` set to False makes every zpool unavailable."""

    def __init__(
        self, parents: tuple[DatasetName, ...], *, capacity_bytes: int = TIB, san: str = "san"
    ) -> None:
        """Start empty, each parent with ``capacity_bytes`` of its own.

        :param san: by which two SANs in memory are told apart.
        """
        self._lock = threading.RLock()
        self._parents = parents
        self._capacity_bytes = capacity_bytes
        self.san = san
        self._zvols: dict[str, Zvol] = {}
        # By dataset, as `_zvols`.
        self._blocks: dict[str, Blocks] = {}
        self._block_sizes: dict[str, BlockSize] = {}
        # What was deleted and is needed by clones, by its dataset now.
        self._aside: dict[str, Zvol] = {}
        self._guid = 0
        self._before_revert: set[str] = set()
        self._taken = 0
        # What bears no mark; the volume's id means nothing.
        self._foreign: dict[str, Zvol] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._exports = FakeExports()
        self._ended: set[tuple[str, AttachmentId | None]] = set()
        self._views: dict[str, str] = {}
        self.imported = True

    def plant_foreign_zvol(
        self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int = 16 * 2**20, sparse: bool = True
    ) -> None:
        """Put there what Zolder did not make."""
        self._foreign[zvol_dataset(parent, zvol)] = Zvol(parent, zvol, NO_VOLUME, volsize_bytes, sparse)
        self._blocks[zvol_dataset(parent, zvol)] = {}

    def plant_foreign_snapshot(self, parent: DatasetName, zvol: ZvolName, name: str) -> None:
        """Take a snapshot as an administrator would."""
        dataset = zvol_dataset(parent, zvol)
        self._snapshots[f"{dataset}@{name}"] = replace(self._take(self._zvols[dataset]), ours=False)

    def write_block(self, dataset: str, number: int, data: bytes) -> None:
        """Write one block of a zvol, as an initiator would.

        :param dataset: the zvol's whole name.
        :param data: ``BLOCK_BYTES`` of them.
        """
        with self._lock:
            self._blocks[dataset][number] = data

    def read_blocks(self, dataset: str) -> Blocks:
        """Return what was written to a zvol and is in it now; the rest is zeros."""
        with self._lock:
            return dict(self._blocks[dataset])

    @verb
    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """See ``Storage``."""
        found = self._find(parent, zvol)
        if found is None:
            message = f"{zvol_dataset(parent, zvol)} does not exist"
            raise NotFound(message)
        return found

    def _find(self, parent: DatasetName, zvol: ZvolName) -> Zvol | None:
        dataset = zvol_dataset(parent, zvol)
        if dataset in self._foreign or dataset in self._views:
            message = f"{dataset} exists and bears no mark of Zolder: it is left alone"
            raise NotPermitted(message)
        return self._zvols.get(dataset)

    def _take(self, zvol: Zvol) -> Snapshot:
        blocks = self._blocks[zvol_dataset(zvol.parent, zvol.name)]
        self._taken += 1
        return Snapshot(zvol.volsize_bytes, blocks=dict(blocks), taken=self._taken)

    def _available(self, parent: DatasetName) -> int:
        every = (*self._zvols.values(), *self._foreign.values())
        thick = (zvol.volsize_bytes for zvol in every if zvol.parent == parent and not zvol.sparse)
        return self._capacity_bytes - sum(thick)

    def _reserve(self, zvol: Zvol, needed_bytes: int) -> None:
        available = self._available(zvol.parent)
        if not zvol.sparse and needed_bytes > available:
            message = f"{zvol.name}: {needed_bytes} bytes are needed and {available} available"
            raise NoSpace(message, needed_bytes=needed_bytes, available_bytes=available)

    def _clones(self, snapshot: str) -> list[str]:
        every = {**self._foreign, **self._zvols, **self._aside}
        clones = [dataset for dataset, zvol in every.items() if zvol.origin == snapshot]
        return sorted(clones + [view for view, origin in self._views.items() if origin == snapshot])

    def _own_snapshots(self, dataset: str) -> list[str]:
        return [name for name in self._snapshots if name.startswith(f"{dataset}@")]

    def _collect(self, snapshot: str | None) -> None:
        """Destroy a deleted snapshot that no clone needs any more, and what was put aside for it."""
        found = self._snapshots.get(snapshot) if snapshot else None
        if snapshot is None or found is None or not found.deferred or self._clones(snapshot):
            return
        del self._snapshots[snapshot]
        dataset = snapshot.partition("@")[0]
        if dataset in self._aside and not self._own_snapshots(dataset):
            self._collect(self._aside.pop(dataset).origin)

    def _put_aside(self, zvol: Zvol, *, only: list[str], origin: str | None, reverted: bool = False) -> None:
        """Keep some snapshots of a zvol for their clones, under another name."""
        self._guid += 1
        aside = replace(zvol, name=put_aside_name(self._guid), sparse=True, origin=origin)
        renamed = zvol_dataset(aside.parent, aside.name)
        for name in only:
            leaf = name.partition("@")[2]
            self._snapshots[f"{renamed}@{leaf}"] = self._snapshots.pop(name)
            for clones in (self._zvols, self._aside):
                for clone, each in clones.items():
                    if each.origin == name:
                        clones[clone] = replace(each, origin=f"{renamed}@{leaf}")
        self._aside[renamed] = aside
        if reverted:
            self._before_revert.add(renamed)

    def _block_size_of(self, zvol: Zvol) -> BlockSize:
        return self._block_sizes.get(zvol_dataset(zvol.parent, zvol.name), DEFAULT_BLOCK_SIZE)

    def _require_block_size(self, zvol: Zvol, asked: BlockSize | None) -> None:
        has = self._block_size_of(zvol)
        if asked not in {None, has}:
            message = f"{zvol.name} exists with volblocksize {has}, not {asked}"
            raise AlreadyExists(message, volblocksize_bytes=has.size_bytes)

    def _check_blocks(self, origin: str, source: Zvol, asked: BlockSize | None) -> None:
        has = self._block_size_of(source)
        if asked not in {None, has}:
            message = f"a clone of {origin} has its volblocksize, {has}, and not {asked}"
            raise InvalidRequest(message)

    @staticmethod
    def _check_larger(origin: str, least_bytes: int, asked_bytes: int) -> None:
        if asked_bytes < least_bytes:
            message = f"a clone of {origin} needs at least {least_bytes} bytes"
            raise InvalidRequest(message)
