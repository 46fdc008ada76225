"""Mends what may be mended without an administrator: who may reach a volume. Data it never touches.

It withdraws what has no attachment in Cinder and opens what has one. Cinder is asked again for that very
volume right before, since things move; where it now has an explanation, nothing is done. A zvol or a snapshot
is never deleted: that they are nobody's is more than two lists can prove.
"""

from __future__ import annotations

from dataclasses import dataclass

from zolder.api import Storage
from zolder.cli.accesses import is_being_attached, is_explained
from zolder.cli.cinder_side import CinderReader
from zolder.cli.finding import Finding, Kind
from zolder.errors import Error
from zolder.names import DatasetName, VolumeId


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one finding: whether it is mended, and a sentence."""

    mended: bool
    what: str


class Moved(Exception):
    """Cinder has an explanation by now; the message says which."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Repairs below one parent."""

    cinder: CinderReader
    storage: Storage
    parent: DatasetName

    def mend(self, finding: Finding) -> Outcome:
        """Mend one finding, if it still is one.

        :raises oslo_db.exception.DBError: Cinder's database cannot be asked.
        """
        try:
            match finding.kind:
                case Kind.ATTACHMENT_ONLY_ON_SAN:
                    return self._withdraw(finding)
                case Kind.VIEW_LEFT:
                    return self._withdraw_view(finding)
                case Kind.ATTACHMENT_ONLY_IN_CINDER:
                    return self._open(finding)
        except Moved as err:
            return Outcome(mended=True, what=f"left alone: {err}")
        except Error as err:
            return Outcome(mended=False, what=f"failed: {err.message}")
        return Outcome(mended=False, what="nothing that this command repairs")

    def _withdraw(self, finding: Finding) -> Outcome:
        access, identifier = finding.access, finding.volume_id
        if access is None or identifier is None:
            return Outcome(mended=False, what="nothing says whose it is")
        volume = self.cinder.find_volume(identifier)
        if volume is not None:
            if volume.zvol != access.zvol or is_explained(volume, access):
                message = f"volume {identifier} has moved on ({volume.status})"
                raise Moved(message)
            if is_being_attached(volume):
                return Outcome(mended=False, what="left alone: an attachment is reserved; look again later")
        left = self.storage.withdraw_zvol(
            self.parent, access.zvol, access.initiator, attachment=access.attachment
        )
        if access.initiator in left.value:
            return Outcome(
                mended=True, what=f"withdrawn; {access.initiator} has it by another attachment still"
            )
        return Outcome(mended=True, what=f"withdrawn: {access.initiator} is shut out")

    def _withdraw_view(self, finding: Finding) -> Outcome:
        identifier = finding.row or ""
        snapshot = self.cinder.find_snapshot(identifier)
        if snapshot is not None and not snapshot.at_rest:
            message = f"snapshot {identifier} is {snapshot.status} now"
            raise Moved(message)
        volume = self.cinder.find_volume(finding.volume_id) if finding.volume_id else None
        if volume is not None and not volume.at_rest:
            message = f"volume {volume.id} is {volume.status} now"
            raise Moved(message)
        self.storage.withdraw_snapshot(self.parent, VolumeId(identifier), None, attachment=None)
        return Outcome(mended=True, what="withdrawn: the snapshot is closed, and its temporary clone gone")

    def _open(self, finding: Finding) -> Outcome:
        found = self.cinder.opening(finding.volume_id or "", finding.row or "")
        if found is None:
            message = f"attachment {finding.row} is not attached any more"
            raise Moved(message)
        back_end, access = found
        # By its name: as one of a list it would stay closed where its end was asked for.
        self.storage.export_zvol(
            self.parent,
            access.zvol,
            access.initiator,
            route=back_end.settings.route,
            attachment=access.attachment,
            chap=access.chap,
        )
        if self.cinder.opening(finding.volume_id or "", finding.row or "") is None:
            # It was detached between the question and the request: what that closed is open again.
            self.storage.withdraw_zvol(
                self.parent, access.zvol, access.initiator, attachment=access.attachment
            )
            message = f"attachment {finding.row} was detached meanwhile"
            raise Moved(message)
        return Outcome(mended=True, what=f"opened to {access.initiator}")
