from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zolder.names import DatasetName, ZvolName
from zolder.san.index import MAX_AGE_SECONDS, Index

PARENT = DatasetName("data/volumes")
MIB = 2**20
A, B, C = ZvolName("a"), ZvolName("b"), ZvolName("c")


class Zfs:
    """Counts how often it is asked for the sizes it knows."""

    def __init__(self, sizes: Mapping[ZvolName, int]) -> None:
        """Know these sizes."""
        self.sizes = sizes
        self.asked = 0

    def __call__(self) -> Mapping[ZvolName, int]:
        """Answer like a listing."""
        self.asked += 1
        return self.sizes


def test_built_once(tmp_path: Path) -> None:
    """ZFS is listed once; from then on changes are followed without it."""
    zfs = Zfs({A: 10 * MIB, B: 2**60})
    index = Index(tmp_path, PARENT, 1)
    assert index.sum(zfs) == (10 * MIB + 2**60, 2)
    index.put(C, 5 * MIB)
    index.put(C, 7 * MIB)
    index.remove(A)
    index.remove(A)
    assert index.sum(zfs) == (2**60 + 7 * MIB, 2)
    assert zfs.asked == 1


def test_a_change_that_failed(tmp_path: Path) -> None:
    """While a zvol is made or grown it counts with its new size, and with its old one if that failed."""
    zfs = Zfs({A: 10 * MIB})
    index = Index(tmp_path, PARENT, 1)
    index.sum(zfs)
    for zvol, size in ((A, 30 * MIB), (B, 5 * MIB)):
        with suppress(ZeroDivisionError), index.changing(zvol, size):
            assert index.sum(zfs)[0] == size + (0 if zvol == A else 10 * MIB)
            1 / 0  # noqa: B018 - something goes wrong
        assert index.sum(zfs) == (10 * MIB, 1)
    with index.changing(B, 5 * MIB):
        pass
    assert index.sum(zfs) == (15 * MIB, 2)
    assert zfs.asked == 1


def test_old(tmp_path: Path) -> None:
    """A sum that is too old is made anew."""
    zfs = Zfs({A: 10 * MIB})
    index = Index(tmp_path, PARENT, 1)
    index.sum(zfs)
    (marker,) = tmp_path.rglob("@complete")
    age = marker.stat().st_mtime - MAX_AGE_SECONDS - 1
    os.utime(marker, (age, age))
    index.sum(zfs)
    assert zfs.asked == 2


def test_newer_than_the_listing(tmp_path: Path) -> None:
    """What another agent noted while ZFS was being listed is kept."""
    index = Index(tmp_path, PARENT, 1)

    def listing() -> Mapping[ZvolName, int]:
        Index(tmp_path, PARENT, 1).put(C, 30 * MIB)
        return {A: 10 * MIB}

    assert index.sum(listing) == (40 * MIB, 2)


def test_another_parent(tmp_path: Path) -> None:
    """A parent of the same name with another guid starts from nothing."""
    Index(tmp_path, PARENT, 1).put(A, 10 * MIB)
    assert Index(tmp_path, PARENT, 2).sum(Zfs({})) == (0, 0)
