"""Snapshots of several zvols at one moment, on a SAN in memory."""

from __future__ import annotations

from zolder.api import check_members
from zolder.errors import AlreadyExists, NotPermitted
from zolder.fake_exporting import FakeExporting
from zolder.fake_state import verb
from zolder.model import Change, ZvolSnapshot
from zolder.names import DatasetName, snapshot_dataset


class FakeGroups(FakeExporting):
    """What is done to several zvols at once."""

    @verb
    def create_snapshots(
        self, parent: DatasetName, members: tuple[ZvolSnapshot, ...]
    ) -> Change[tuple[ZvolSnapshot, ...]]:
        """See ``Storage``."""
        for member in members:
            if member.parent not in self._parents:
                message = f"parent {member.parent} is not this identity's"
                raise NotPermitted(message)
        check_members(parent, members)
        zvols = [self.get_zvol(member.parent, member.zvol) for member in members]
        names = [snapshot_dataset(member.parent, member.zvol, member.name) for member in members]
        existing = {name: self._snapshots[name] for name in names if name in self._snapshots}
        if not existing:
            moment = object()
            for name, zvol in zip(names, zvols, strict=True):
                self._snapshots[name] = self._take(zvol)
                self._snapshots[name].moment = moment
            return Change(changed=True, value=members)
        standing = [found for found in existing.values() if found.ours and not found.deferred]
        if len(standing) < len(names) or len({id(found.moment) for found in standing}) > 1:
            message = f"these were not taken together with the others: {', '.join(existing)}"
            raise AlreadyExists(message)
        return Change(changed=False, value=members)
