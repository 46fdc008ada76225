"""Counts a parent's zvols and their sizes, within an identity's limits; all verbs but exports stand on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from zolder.names import DatasetName, ZvolName
from zolder.san.exporting import ZfsExports
from zolder.san.index import Index
from zolder.san.libzfs import Properties
from zolder.san.parents import recorded_guid
from zolder.san.zpool import zvols_in


class ZfsCounting(ZfsExports):
    """What the verbs that make, grow or delete have in common."""

    @contextmanager
    def _counting(self, parent: DatasetName, zvol: ZvolName, volsize_bytes: int) -> Iterator[None]:
        """Count a zvol with its new size while it is made or grown, within the policy's limits.

        Two at once each count the other: at the edge of a limit both may be refused, never both let in.
        """
        if self._policy.limits_sum:
            self._sum(parent)  # renewed here if it is too old: it would forget what ZFS does not have yet
        with self._index(parent).changing(zvol, volsize_bytes):
            if self._policy.limits_sum:
                provisioned, count = self._sum(parent)
                self._policy.check_sum(count, provisioned)
            yield

    def _sum(self, parent: DatasetName) -> tuple[int, int]:
        return self._index(parent).sum(lambda: sizes_in(self._zpool(parent).children(), parent))

    def _index(self, parent: DatasetName) -> Index:
        return Index(self._site.run, parent, recorded_guid(self._site, parent))


def sizes_in(children: Mapping[str, Properties], parent: DatasetName) -> dict[ZvolName, int]:
    """Return the volsizes of the zvols of ours among a parent's datasets, in bytes."""
    return {zvol.name: zvol.volsize_bytes for zvol in zvols_in(children, parent)}
