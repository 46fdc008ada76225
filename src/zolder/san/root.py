"""Root's part of one identity's requests, with checks of its own: the agent's word proves nothing here.

What is exported is a zvol below a parent of the policy that bears our mark, found again by its device's own
name, to initiators and over a route that its own record names; what is closed is a target that links to that
zvol's own backstore. The policy's own check
(zolder.san.serve) comes before each verb. Nothing that the agent's user can write is read: neither its
folders nor its locks; two that meet at one target's name wait for each other here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from zolder.errors import (
    BackendError,
    Busy,
    Error,
    InvalidRequest,
    NotFound,
    NotPermitted,
    TransportError,
)
from zolder.model import Chap, Export, Route
from zolder.names import DatasetName, ExporterName, InitiatorName, ZvolName, zvol_dataset
from zolder.san import libzfs
from zolder.san.descriptors import open_zvol_device
from zolder.san.device import find_zvol_name, open_zvol
from zolder.san.exports import ZvolExport, list_exports
from zolder.san.holders import all_holders, holders_of
from zolder.san.libzfs import Properties
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.parents import Site, require_active
from zolder.san.policy import Policy
from zolder.san.privileged import Held, Privileged
from zolder.san.records import exported_id, find_record
from zolder.san.secrets import Secrets, note_supplied
from zolder.san.zpool import refuse_foreign

_DEVICES: Final = Path("/dev")


class Root(Privileged):
    """What root does for one operation, within one policy."""

    def __init__(
        self,
        policy: Policy,
        operation: Operation,
        locks: Locks,
        *,
        site: Site | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        """Act within ``policy``, which has been checked already.

        :param locks: root's own, which the agents cannot hold.
        :param secrets: where those of the exports are kept.
        """
        self._policy = policy
        self._operation = operation
        self._locks = locks
        self._site = site or Site()
        self._secrets = secrets or Secrets()

    def read_holders(self, parent: DatasetName, zvol: ZvolName) -> tuple[str, ...]:
        """See ``Privileged``; by the device's own name, for udev's link may lack or lead to another."""
        dataset, node = zvol_dataset(parent, zvol), None
        with suppress(BackendError), open_zvol(dataset, timeout_seconds=0) as device:
            node = device.path
        return tuple(holders_of(dataset, node))

    def list_holders(self, parent: DatasetName) -> tuple[Held, ...]:
        """See ``Privileged``; only devices that are in use are opened, to hear whose they are."""
        held: dict[ZvolName, list[str]] = {}
        for name, holders in all_holders().items():
            dataset = name if "/" in name else find_zvol_name(_DEVICES / name)
            above, _, leaf = (dataset or "").rpartition("/")
            with suppress(InvalidRequest):
                if above == parent:
                    held.setdefault(ZvolName(leaf), []).extend(holders)
        return tuple(Held(zvol, tuple(holders)) for zvol, holders in sorted(held.items()))

    def open_device(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> int:
        """See ``Privileged``."""
        with self._locks.hold(self._operation, zvol):
            found, dataset = self._read(parent, zvol)
            if exported_id(found, dataset)[1]:
                refuse_foreign(dataset)
            if to_write:
                self._require_unused(found, dataset)
            with open_zvol_device(dataset, to_write=to_write) as descriptor:
                self._operation.check()
                self._operation.line.hand_over(descriptor)
                return descriptor

    def open_export(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, *, chap: Chap | None
    ) -> bool:
        """See ``Privileged``."""
        # A target's name is a prefix and this leaf, whatever parent the zvol is in.
        with self._locks.hold(self._operation, zvol):
            found, dataset = self._read(parent, zvol)
            volume_id, is_view = exported_id(found, dataset)
            wish = find_record(found, dataset)
            grant = wish.find(initiator) if wish else None
            if wish is None or grant is None or grant.chap != (chap is not None):
                message = f"{dataset} has no record that {initiator} is to reach it so"
                raise NotPermitted(message)
            self._policy.check_route(wish.route)
            export = ZvolExport(self._policy, parent, zvol)
            changed = False
            if len(wish.grants) == 1:
                # Left open where an agent was killed between its record and us, and nobody asked again.
                changed = export.withdraw_others(wish.route, initiator)
            with self._keeping(parent, zvol, initiator, chap):
                changed |= export.ensure(
                    volume_id,
                    initiator,
                    route=wish.route,
                    chap=chap,
                    read_only=is_view,
                    seconds=self._operation.remaining_seconds,
                )
                self._require_wanted(export, dataset, initiator, wish.route)
            note_supplied(dataset, initiator)
            return changed

    def close_export(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        exporter: ExporterName | None,
    ) -> bool:
        """See ``Privileged``; needs no zpool: a target is closed whatever became of its zvol."""
        export = ZvolExport(self._policy, parent, zvol)
        with self._locks.hold(self._operation, zvol):
            if initiator is None:
                closed = export.withdraw_all(exporter)
            else:
                closed = export.withdraw(initiator, exporter)
            self._secrets.remove(parent, zvol, initiator)
            note_supplied(zvol_dataset(parent, zvol), initiator)
            return closed

    def grow_export(self, parent: DatasetName, zvol: ZvolName) -> None:
        """See ``Privileged``."""
        with self._locks.hold(self._operation, zvol):
            found, dataset = self._read(parent, zvol)
            exported_id(found, dataset)
            wish = find_record(found, dataset)
            if wish is not None and wish.grants:
                # Its portals are not looked at: one that the policy has lost since is no reason.
                self._policy.check_prefix(wish.route.prefix)
                export = ZvolExport(self._policy, parent, zvol)
                export.grow(wish.route, seconds=self._operation.remaining_seconds)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Privileged``."""
        return list_exports(self._policy, parent)

    @contextmanager
    def _keeping(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, chap: Chap | None
    ) -> Iterator[None]:
        """Have an initiator's secret kept before it is let in; if that fails, the former one again."""
        kept = self._secrets.find(parent, zvol, initiator)

        def keep(secret: Chap | None) -> None:
            if secret is not None:
                self._secrets.put(parent, zvol, initiator, secret)
            elif kept is not None or chap is not None:
                self._secrets.remove(parent, zvol, initiator)

        if chap is not None:
            keep(chap)
        try:
            yield
        except Error:
            if kept != chap:
                keep(kept)
            raise
        if chap is None:
            keep(None)

    def _require_wanted(
        self, export: ZvolExport, dataset: str, initiator: InitiatorName, route: Route
    ) -> None:
        """Shut an initiator out again where this took so long that its agent has given it up.

        :raises DeadlineExceeded, ConnectionLost: it did, and took it from the record.
        """
        try:
            self._operation.check()
        except TransportError:
            wish = find_record(libzfs.library().read(dataset) or {}, dataset)
            if wish is None or wish.find(initiator) is None:
                export.withdraw(initiator, route.exporter, route.prefix)
                raise

    @staticmethod
    def _require_unused(found: Properties, dataset: str) -> None:
        wish = find_record(found, dataset)
        holders = list(wish.initiators) if wish else holders_of(dataset, None)
        if holders:
            message = f"{dataset} is not written: it is in use by {', '.join(holders)}"
            raise Busy(message, holders=[str(holder) for holder in holders])

    def _read(self, parent: DatasetName, zvol: ZvolName) -> tuple[Properties, str]:
        dataset = zvol_dataset(parent, zvol)
        require_active(self._site, parent.zpool)
        found = libzfs.library().read(dataset)
        if found is None:
            message = f"{dataset} does not exist"
            raise NotFound(message)
        return found, dataset
