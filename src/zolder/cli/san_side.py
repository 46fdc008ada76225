"""Asks the SAN for all that it has below one parent, and a second time for what seemed to differ.

Listing costs with what is listed: 10,000 zvols take a slow SAN minutes. So the second look asks for single
zvols where they are few, and only for the lists that a finding came from. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from zolder.api import Storage
from zolder.cli.finding import Finding, Kind
from zolder.cli.sides import SanSide
from zolder.errors import NotFound, NotPermitted
from zolder.model import Zvol
from zolder.names import DatasetName, ZvolName

_ZVOLS: Final = frozenset({
    Kind.ZVOL_ONLY_ON_SAN, Kind.VOLUME_ONLY_IN_CINDER, Kind.SIZE_DIFFERS, Kind.MARK_DIFFERS,
})  # fmt: skip
_SNAPSHOTS: Final = frozenset({Kind.SNAPSHOT_ONLY_ON_SAN, Kind.SNAPSHOT_ONLY_IN_CINDER})
# From here on one list is less trouble for a SAN than as many requests.
_FEW: Final = 100


class Said(Protocol):
    """Says to whoever waits what is being done."""

    def __call__(self, what: str) -> AbstractContextManager[None]:
        """Return what lasts as long as it is being done."""


@dataclass(frozen=True, slots=True)
class SanReader:
    """One parent on one SAN."""

    storage: Storage
    parent: DatasetName
    said: Said

    def read(self) -> SanSide:
        """Return what the SAN has.

        :raises Error: as Storage's methods.
        """
        with self.said(f"listing the zvols of {self.parent}"):
            zvols = {zvol.name: zvol for zvol in self.storage.list_zvols(self.parent)}
        side = self._with_snapshots(SanSide(zvols))
        return self._with_exports(side)

    def read_again(self, side: SanSide, findings: Collection[Finding]) -> SanSide:
        """Return what the SAN has now, as far as the findings are about it.

        :raises Error: as Storage's methods.
        """
        kinds = {finding.kind for finding in findings}
        if kinds & _ZVOLS:
            side = self._with_zvols(side, [found.thing for found in findings if found.kind in _ZVOLS])
        if kinds & _SNAPSHOTS:
            side = self._with_snapshots(side)
        if kinds - _ZVOLS - _SNAPSHOTS:
            side = self._with_exports(side)
        return side

    def _with_zvols(self, side: SanSide, datasets: Collection[str]) -> SanSide:
        if len(datasets) > _FEW:
            with self.said(f"listing the zvols of {self.parent} again"):
                return replace(side, zvols={zvol.name: zvol for zvol in self.storage.list_zvols(self.parent)})
        zvols = dict(side.zvols)
        with self.said(f"asking again for {len(datasets)} zvols of {self.parent}"):
            for name in (ZvolName(dataset.rpartition("/")[2]) for dataset in datasets):
                zvol = self._find(name)
                if zvol is None:
                    zvols.pop(name, None)
                else:
                    zvols[name] = zvol
        return replace(side, zvols=zvols)

    def _find(self, name: ZvolName) -> Zvol | None:
        try:
            return self.storage.get_zvol(self.parent, name)
        except (NotFound, NotPermitted):
            return None  # proven absent, or there without our mark: either way it is in no list of ours

    def _with_snapshots(self, side: SanSide) -> SanSide:
        with self.said(f"listing the snapshots of {self.parent}"):
            found = self.storage.list_snapshots(self.parent)
        return replace(side, snapshots=frozenset((snapshot.zvol, snapshot.name) for snapshot in found))

    def _with_exports(self, side: SanSide) -> SanSide:
        with self.said(f"listing the exports of {self.parent}"):
            # What is on record first: what is opened in between then stands without a record at the worst.
            attachments = self.storage.list_attachments(self.parent)
            views = self.storage.list_views(self.parent)
            exports = self.storage.list_exports(self.parent)
            missing = self.storage.get_figures(self.parent).secrets_missing
        return replace(side, exports=exports, attachments=attachments, views=views, secrets_missing=missing)
