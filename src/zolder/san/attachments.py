"""Opening and closing a zvol attachment by attachment: the record first, then root's part.

The record on the zvol decides who is to reach it (zolder.wish); targets follow it. So whatever is cut short
is completed by a repeat, or by ``zolder-san restore``. The caller holds the zvol's lock.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from zolder import wish as wishes
from zolder.errors import BackendError, Busy, DeadlineExceeded, Error, NotFound
from zolder.model import Access, Change, Export, Route
from zolder.names import (
    AttachmentId,
    ExporterName,
    InitiatorName,
    ZvolName,
    export_target,
    unit_number,
    zvol_dataset,
)
from zolder.san.libzfs import EXPORT_RECORD, Properties
from zolder.san.policy import Policy
from zolder.san.records import exported_id, find_record, write_record
from zolder.san.zpool import Zpool, is_hidden, local, refuse_foreign
from zolder.wish import Wish

LOG = logging.getLogger(__name__)


class Attachments:
    """The attachments of one zvol, or of a snapshot's view."""

    def __init__(self, policy: Policy, zpool: Zpool, zvol: ZvolName, *, is_view: bool = False) -> None:
        """Nothing is looked at yet.

        :param is_view: it has to be a snapshot's view, and no volume.
        """
        self._is_view = is_view
        self._policy = policy
        self._zpool = zpool
        self._zvol = zvol
        self._dataset = zvol_dataset(zpool.parent, zvol)

    def open(self, access: Access, route: Route) -> Change[Export]:
        """Add one to the record and open the zvol to its initiator.

        Where opening fails, the record is as it was before, and who is not on it is shut out: root may have
        let the initiator in before it failed.

        :raises NotFound: the zvol is proven absent.
        :raises Error: as ``Storage.export_zvol``.
        """
        found = self._look()
        if found is None:
            message = f"{self._dataset} does not exist"
            raise NotFound(message)
        before = find_record(found, self._dataset)
        wish = wishes.add(
            self._permitted(before), route, access.initiator, access.attachment, chap=access.chap is not None
        )
        if wish != before:
            write_record(self._zpool, self._dataset, wish)
        try:
            changed = self._zpool.privileged.open_export(
                self._zpool.parent, self._zvol, access.initiator, chap=access.chap
            )
        except Error as err:
            if wish != before:
                # Where the time was up root has let nobody in, and closing would wait for the same lock.
                self._restore(before, access, route, close=not isinstance(err, DeadlineExceeded))
            raise
        return Change(changed or wish != before, _export(self._zvol, wish, access.initiator, route))

    def close(self, access: Access) -> Change[tuple[InitiatorName, ...]]:
        """Take one from the record; close the zvol to its initiator if that was its last.

        :return: who may still reach it.
        """
        found = self._look()
        before = find_record(found, self._dataset) if found else None
        if before is None:
            # Nobody is to reach it: what may stand there is left of something that was cut short.
            return Change(self._shut(None), ())
        self._require_own(before)
        wish = wishes.remove(before, access.initiator, access.attachment)
        closed = False
        if wish != before:
            write_record(self._zpool, self._dataset, wish)
        if wish.find(access.initiator) is None:
            closed = self._zpool.privileged.close_export(
                self._zpool.parent, self._zvol, access.initiator, exporter=before.route.exporter
            )
        return Change(closed or wish != before, wish.initiators)

    def recorded(self) -> tuple[AttachmentId, ...]:
        """Return the ids on record; none where there is no record, or one that Zolder did not write."""
        found = self._look()
        wish = None
        with suppress(BackendError):
            wish = find_record(found, self._dataset) if found else None
        accesses = wishes.accesses_of(self._zvol, wish) if wish else ()
        return tuple(access.attachment for access in accesses if access.attachment)

    def close_all(self) -> Change[tuple[InitiatorName, ...]]:
        """Clear the record and close the zvol to everybody, at every exporter."""
        recorded, exporter = self._clear()
        closed = False
        try:
            if exporter is not None:
                # Before any that may not answer; what is left at others goes whatever came of it.
                closed = self._shut(exporter)
        finally:
            closed |= self._shut(None)
        return Change(closed or recorded, ())

    def close_recorded(self) -> Change[tuple[InitiatorName, ...]]:
        """Clear the record, where there is one, and close the zvol to everybody where it says.

        For a zvol that is to go: ZFS destroys none that another exporter has open.
        """
        recorded, exporter = self._clear()
        if recorded:
            self._shut(exporter)
        return Change(recorded, ())

    def _clear(self) -> tuple[bool, ExporterName | None]:
        """Clear the record; return whether there was one, and the exporter if it names one."""
        found = self._look()
        # Whatever it says: one that Zolder did not write goes as well.
        if found is None or local(found, EXPORT_RECORD, self._dataset) is None:
            return False, None
        wish = None
        with suppress(BackendError):  # one that Zolder did not write has no target's name
            wish = find_record(found, self._dataset)
            self._require_own(wish)
        write_record(self._zpool, self._dataset, None)
        return True, wish.route.exporter if wish else None

    def _shut(self, exporter: ExporterName | None) -> bool:
        return self._zpool.privileged.close_export(self._zpool.parent, self._zvol, None, exporter=exporter)

    def _look(self) -> Properties | None:
        """Return what is there; None where it is proven absent.

        :raises NotPermitted: it is not ours, or a view where a volume is asked for.
        """
        found = self._zpool.look(self._dataset).get(self._dataset)
        if found is not None and is_hidden(found, self._dataset):
            return None
        if found is not None and exported_id(found, self._dataset)[1] != self._is_view:
            refuse_foreign(self._dataset)
        return found

    def _require_own(self, wish: Wish | None) -> None:
        """Make sure that root can find the target that a record names.

        :raises Busy: its prefix is none of this identity's.
        """
        if wish is not None and wish.route.prefix not in self._policy.target_prefixes:
            message = (
                f"{self._dataset} is exported under {wish.route.prefix}, which is none of identity"
                f" {self._policy.identity}'s prefixes: was it taken out of this SAN's policy, or did another"
                " identity export it? Put the prefix back and ask again"
            )
            raise Busy(message, holders=list(wish.initiators))

    def _permitted(self, before: Wish | None) -> Wish | None:
        """Return the record without the portals that the policy has lost since."""
        if before is None:
            return None
        portals = tuple(portal for portal in before.route.portals if portal in self._policy.portals)
        return Wish(Route(before.route.exporter, before.route.prefix, portals), before.grants)

    def _restore(self, before: Wish | None, access: Access, route: Route, *, close: bool) -> None:
        try:
            write_record(self._zpool, self._dataset, before)
            if close and (before is None or before.find(access.initiator) is None):
                self._zpool.privileged.close_export(
                    self._zpool.parent, self._zvol, access.initiator, exporter=route.exporter
                )
        except Error as err:
            # The error that led here must reach the caller; a repeat or a withdraw clears the record.
            LOG.warning("could not undo the record of %s: %s", self._dataset, err.message)


def _export(zvol: ZvolName, wish: Wish, initiator: InitiatorName, route: Route) -> Export:
    target = export_target(route.exporter, route.prefix, zvol, initiator)
    sharing = tuple(
        other
        for other in wish.initiators
        if export_target(route.exporter, route.prefix, zvol, other) == target
    )
    return Export(zvol, route.exporter, target, route.portals, unit_number(route.exporter), sharing)
