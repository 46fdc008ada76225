"""The exports of a SAN in memory: records and nothing else, for zolder.fake.

It decides as the SAN does (zolder.wish), and knows no targets: what is on record is open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from zolder import wish as wishes
from zolder.errors import InvalidRequest
from zolder.model import Access, Change, Chap, Export, Route
from zolder.names import (
    NVMET,
    AttachmentId,
    DatasetName,
    InitiatorName,
    ZvolName,
    export_target,
    unit_number,
    zvol_dataset,
)
from zolder.wish import Wish

# How a DH-HMAC-CHAP key is written; the SAN looks at all of it (zolder.san.nvmet_host.check_key).
_KEY_BEGINS: Final = "DHHC-1:"


@dataclass(frozen=True)
class _Export:
    wish: Wish
    secrets: dict[InitiatorName, Chap | None]


class FakeExports:
    """Who may reach which zvol. Not thread-safe: its storage is."""

    def __init__(self) -> None:
        """Start with none."""
        self._exports: dict[str, _Export] = {}

    def open(self, parent: DatasetName, access: Access, route: Route) -> Change[Export]:
        """Add an attachment; see ``Storage.export_zvol``."""
        if access.initiator.is_nqn != (route.exporter == NVMET):
            message = f"{access.initiator} is no initiator for {route.exporter}"
            raise InvalidRequest(message)
        dataset = zvol_dataset(parent, access.zvol)
        before = self._exports.get(dataset)
        wish = wishes.add(
            before.wish if before else None,
            route,
            access.initiator,
            access.attachment,
            chap=access.chap is not None,
        )
        if access.chap and route.exporter == NVMET and not access.chap.secret.startswith(_KEY_BEGINS):
            message = "CHAP secret: NVMe-oF needs a DH-HMAC-CHAP key"
            raise InvalidRequest(message)
        secrets = {**(before.secrets if before else {}), access.initiator: access.chap}
        after = _Export(wish, secrets)
        self._exports[dataset] = after
        (export,) = (
            export for export in _exports_of(access.zvol, wish) if access.initiator in export.initiators
        )
        return Change(after != before, replace(export, portals=route.portals))

    def close(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """End an attachment, or all; see ``Storage.withdraw_zvol``."""
        dataset = zvol_dataset(parent, zvol)
        before = self._exports.pop(dataset, None)
        if before is None:
            return Change(changed=False, value=())
        wish = Wish(before.wish.route)
        if initiator is not None:
            wish = wishes.remove(before.wish, initiator, attachment)
        if wish.grants:
            secrets = {name: before.secrets[name] for name in wish.initiators}
            self._exports[dataset] = _Export(wish, secrets)
        return Change(wish != before.wish, wish.initiators)

    def exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """Return them; see ``Storage.list_exports``."""
        found = (export for zvol, wish in self._below(parent) for export in _exports_of(zvol, wish))
        return tuple(sorted(found, key=lambda export: (export.zvol, export.target)))

    def attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        """Return them; see ``Storage.list_attachments``."""
        return tuple(
            access for zvol, wish in self._below(parent) for access in wishes.accesses_of(zvol, wish)
        )

    def _below(self, parent: DatasetName) -> list[tuple[ZvolName, Wish]]:
        found = []
        for dataset, export in sorted(self._exports.items()):
            above, _, leaf = dataset.rpartition("/")
            if above == parent:
                found.append((ZvolName(leaf), export.wish))
        return found


def _exports_of(zvol: ZvolName, wish: Wish) -> list[Export]:
    """Return a zvol's target, or its subsystems: one for each initiator."""
    route = wish.route
    shared: dict[str, list[InitiatorName]] = {}
    for initiator in wish.initiators:
        shared.setdefault(export_target(route.exporter, route.prefix, zvol, initiator), []).append(initiator)
    lun = unit_number(route.exporter)
    return [
        Export(zvol, route.exporter, target, route.portals, lun, tuple(initiators))
        for target, initiators in shared.items()
    ]
