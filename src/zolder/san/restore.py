"""Exports come back as the zvols' own records say: after a reboot, an import, on another SAN.

While they are made the portals are shut (zolder.san.packetfilter). Each zvol is looked at once more under
root's lock for it, so requests may run at the same time; what is exported under our names and stands in no
record is withdrawn, what is not ours is not touched. A record is hostile input: it must be the zvol's own,
well formed, and within the policy. One failure stops nothing else; all are told at the end. Restoring twice
changes nothing. Nothing of the agent's user but its records is read: root notes the parents' guids itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from zolder.errors import BackendError, Error, InvalidRequest, PoolSuspended, PoolUnavailable
from zolder.names import DatasetName, OperationId, Portal, ZvolName, zvol_dataset
from zolder.san.libzfs import EXPORT_RECORD
from zolder.san.locks import Locks
from zolder.san.missing import keep_missing, list_missing
from zolder.san.operation import Operation
from zolder.san.parents import Site, record_parent, require_active
from zolder.san.policy import Policy
from zolder.san.rebuild import Rebuild, San, Standing
from zolder.san.secrets import Secrets
from zolder.san.tally import Report, Tally, describe
from zolder.san.zpool import local, number

# A request holds a zvol's lock for as long as its exporter needs; another restore for as long as it takes.
_LOCK_SECONDS: Final = 60
_RESTORE_SECONDS: Final = 3600
_LOOK_SECONDS: Final = 1.0


class Restore:
    """One restore of the parents of some policies."""

    def __init__(self, policies: Collection[Policy], san: San, say: Callable[[str], None]) -> None:
        """Change nothing yet.

        :param policies: those of all identities of this SAN.
        :param say: is told how it goes on, a sentence at a time.
        """
        self._policies = [policy for policy in policies if policy.portals]
        self._san = san
        self._say = say
        self._secrets = Secrets(san.places.secrets)
        self._locks = Locks(san.places.locks)

    def parents(self, zpool: str | None = None) -> tuple[DatasetName, ...]:
        """Return the parents whose exports can come back, sorted; those in one zpool where one is named."""
        found = {parent for policy in self._policies for parent in policy.parents}
        return tuple(sorted(parent for parent in found if zpool in {None, parent.zpool}))

    def shut(self, zpool: str | None = None) -> tuple[Portal, ...]:
        """Shut the portals of the parents, and return them.

        :raises BackendError: the packet filter cannot be had.
        """
        self._san.places.make_run()
        with self._alone():
            portals = self._portals_of(self.parents(zpool))
            self._san.packet_filter.shut(portals)
            return portals

    def run(self, zpool: str | None = None, *, wait_seconds: float) -> Report:
        """Have every export on record stand, and no other of ours; then open the portals.

        :param wait_seconds: how long portals stay shut for secrets that this SAN does not have.
        """
        report = Report()
        parents = self.parents(zpool)
        self._san.places.make_run()
        with self._alone():
            try:
                self._san.packet_filter.shut(self._portals_of(parents))
            except BackendError as err:
                # Without it an initiator may be told that its target is gone; without exports it always is.
                report.faults.append(err.message)
            for parent in parents:
                report.parents.append(tally := self._restore_parent(parent))
                self._say(describe(tally))
            self._open(report, waiting=bool(wait_seconds))
        if report.waiting and wait_seconds and not report.faults:
            self._wait(report, wait_seconds)
        return report

    def _restore_parent(self, parent: DatasetName) -> Tally:
        tally = Tally(parent)
        try:
            require_active(self._san.site, parent.zpool)
            found = self._san.zfs().read(parent)
            guid = None if found is None else number(found, "guid")
            record_parent(Site(state=self._san.places.state), parent, guid)
            standing = self._standing(parent, tally)
            children = self._san.zfs().children(parent)
            recorded = [name for name in children if local(children[name], EXPORT_RECORD, name)]
            tally.exports = 0
            zvols = sorted({*_zvols(recorded), *standing, *self._secrets.list_zvols(parent)})
            for once_more in (True, False):
                failed, tally.lost = [], {}
                for zvol in zvols:
                    one = Tally(parent, exports=0, hasty=tally.hasty, lost=tally.lost)
                    self._restore_zvol(parent, zvol, standing.get(zvol, []), one)
                    if once_more and (one.faults or tally.lost):
                        # Its device or a port may be held by what is withdrawn further down.
                        tally.add_tried(one)
                        failed.append(zvol)
                    else:
                        tally.add(one)
                zvols = failed
            tally.faults += tally.lost.values()
            keep_missing([parent], tally.waiting, file=self._san.places.missing)
        except (PoolUnavailable, PoolSuspended) as err:
            tally.exports = None
            tally.faults.append(f"{err.message}; then run 'zolder-san restore --pool {parent.zpool}'")
        except (Error, OSError) as err:
            tally.exports = None
            tally.faults.append(f"{parent}: {err}")
        return tally

    def _standing(self, parent: DatasetName, tally: Tally) -> dict[ZvolName, list[Standing]]:
        found: dict[ZvolName, list[Standing]] = {}
        for policy in self._policies_of(parent):
            try:
                for export in self._san.list_exports(policy, parent):
                    found.setdefault(export.zvol, []).append((policy, export))
            except (Error, OSError) as err:
                # What is on record comes back all the same.
                tally.faults.append(f"{parent}: what stands and should not cannot be told: {err}")
        return found

    def _restore_zvol(
        self, parent: DatasetName, zvol: ZvolName, standing: Collection[Standing], tally: Tally
    ) -> None:
        try:
            with self._locks.hold(self._operation(_LOCK_SECONDS), zvol):
                require_active(self._san.site, parent.zpool)
                Rebuild(self._san, parent, zvol, tally).restore(self._policies_of(parent), standing)
        except (PoolUnavailable, PoolSuspended):
            raise
        except (Error, OSError) as err:
            tally.faults.append(f"{zvol_dataset(parent, zvol)}: {err}")

    def _open(self, report: Report, *, waiting: bool) -> None:
        """Open what nothing keeps shut any more."""
        reached = [tally.parent for tally in report.parents if tally.exports is not None]
        waited_for = {portal for portals in report.waiting.values() for portal in portals}
        try:
            # What no policy names any more is nobody's to keep shut. A portal that a zpool which is away
            # shares with one that is here cannot stay shut for it.
            foreign = set(self._san.packet_filter.list_shut()) - set(self._portals_of(self.parents()))
            to_open = {*self._portals_of(reached), *foreign} - (waited_for if waiting else set())
            self._san.packet_filter.open(to_open)
            report.shut = self._san.packet_filter.list_shut()
        except BackendError as err:
            if err.message not in report.faults:
                report.faults.append(err.message)

    def _wait(self, report: Report, seconds: float) -> None:
        count = len(report.waiting)
        self._say(f"{count} exports wait for their secrets; their portals stay shut for up to {seconds:g} s")
        end = time.monotonic() + seconds
        while report.waiting and time.monotonic() < end:
            self._san.pause(_LOOK_SECONDS)
            missing = set(list_missing(file=self._san.places.missing))
            before = len(report.waiting)
            for tally in report.parents:
                tally.waiting = {
                    entry: portals for entry, portals in tally.waiting.items() if entry in missing
                }
            if report.waiting and len(report.waiting) != before:
                with self._alone():
                    self._open(report, waiting=True)
        with self._alone():
            self._open(report, waiting=False)

    def _policies_of(self, parent: DatasetName) -> list[Policy]:
        return [policy for policy in self._policies if parent in policy.parents]

    def _portals_of(self, parents: Collection[DatasetName]) -> tuple[Portal, ...]:
        found = {
            portal for parent in parents for policy in self._policies_of(parent) for portal in policy.portals
        }
        return tuple(sorted(found))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        locks = Locks(self._san.places.restore_lock)
        with locks.hold(self._operation(_RESTORE_SECONDS), "all exports"):
            yield

    def _operation(self, seconds: float) -> Operation:
        name = OperationId(str(uuid.uuid4()))
        return Operation(name, seconds=seconds, peer_is_there=lambda: True, notify=self._say)


def _zvols(datasets: Iterable[str]) -> Iterator[ZvolName]:
    for dataset in datasets:
        with suppress(InvalidRequest):  # renamed by hand to what no request can name
            yield ZvolName(dataset.rpartition("/")[2])
