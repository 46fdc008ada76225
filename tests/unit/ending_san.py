"""A SAN without ZFS, for what deletes and reverts: a zvol whose snapshot was deleted and has a clone."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.kept_san import DATASET, PARENT, SNAPSHOT, KeptSan
from tests.unit.test_views_of_deleted import ZfsWithClones
from zolder.names import ZvolName, put_aside_name
from zolder.san import aside as asides
from zolder.san import zfs
from zolder.san.libzfs import VOLUME_MARK, Property
from zolder.san.lzc import ZfsError

ORIGIN = f"{DATASET}@{SNAPSHOT}"
GUID = 4711
ASIDE = f"{PARENT}/{put_aside_name(GUID)}"
COPY = ZvolName("volume-2")
COPY_ID = "5f0c1b6e-5a52-4c1e-9a0b-0123456789ab"


class ZfsThatRenames(ZfsWithClones):
    """ZFS that knows clones, and how to roll back, to rename and to mark."""

    def destroy(self, dataset: str) -> None:
        """Be libzfs_core: what has snapshots stays."""
        if self.snapshots(dataset):
            raise ZfsError(errno.EBUSY, os.strerror(errno.EBUSY), dataset)
        super().destroy(dataset)

    def rollback(self, dataset: str, snapshot: str) -> None:
        """Be libzfs_core."""
        self._steps.take("roll back")
        if snapshot not in self.datasets:
            raise ZfsError(errno.ESRCH, os.strerror(errno.ESRCH), dataset)

    def rename(self, dataset: str, new_name: str) -> None:
        """Be libzfs_core: snapshots move along, and the clones' origins follow."""
        self._steps.take("rename")
        for name in [name for name in self.datasets if name == dataset or name.startswith(f"{dataset}@")]:
            self._move(name, new_name + name.removeprefix(dataset))

    def _move(self, name: str, moved: str) -> None:
        held = self.datasets.pop(name)
        self.datasets[moved] = {
            key: Property(each.value, moved if each.source == name else each.source)
            for key, each in held.items()
        }
        for found in self.datasets.values():
            if "origin" in found and found["origin"].value == name:
                found["origin"] = Property(moved, None)

    def promote(self, clone: str) -> None:
        """Be libzfs_core: the origin and what is older move to the clone, which takes the other's origin."""
        if self._steps.take("promote"):
            raise ZfsError(errno.EPERM, os.strerror(errno.EPERM), clone)
        origin = str(self.datasets[clone]["origin"].value)
        source = origin.partition("@")[0]
        newest = self.datasets[origin]["createtxg"].value
        for name, held in self.snapshots(source).items():
            if int(held["createtxg"].value) <= int(newest):
                self._move(name, f"{clone}@{name.partition('@')[2]}")
        above = self.datasets[source].pop("origin", None)
        self.datasets[clone].pop("origin")
        if above:
            self.datasets[clone]["origin"] = above
        self.datasets[source]["origin"] = Property(f"{clone}@{origin.partition('@')[2]}", None)

    def set_properties(self, dataset: str, properties: Mapping[str, str]) -> None:
        """Be libzfs."""
        self._steps.take("mark")
        self.datasets[dataset] |= {name: Property(text, dataset) for name, text in properties.items()}


def begin(folder: Path, patch: pytest.MonkeyPatch) -> KeptSan:
    """Return a SAN with a zvol whose one snapshot was deleted and has a clone."""
    folder.mkdir(exist_ok=True)
    kept = KeptSan(folder)
    kept.zfs = ZfsThatRenames(kept.steps)
    kept.install(patch)
    patch.setattr(zfs, "clones_of", kept.zfs.clones_of)
    patch.setattr(asides, "BUSY_SECONDS", 0.1)
    kept.zfs.datasets[DATASET]["guid"] = Property(GUID, None)
    kept.zfs.datasets[ORIGIN] |= {"defer_destroy": Property(1, None), "createtxg": Property(5, None)}
    kept.zfs.add(f"{PARENT}/{COPY}", {"volsize": 2**20, VOLUME_MARK: COPY_ID, "origin": ORIGIN})
    return kept
