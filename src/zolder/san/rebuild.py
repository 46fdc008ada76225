"""One zvol's exports made as its record says, for a restore (zolder.san.restore).

The caller holds root's lock for the zvol. A record is hostile input: it must be the zvol's own, well formed,
and within a policy of its parent; one that is not withdraws nothing and opens nothing. What is exported under
our names and stands in no record is withdrawn. What stands already stays as it is, sessions included, even
where its secret was lost here: that is asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeAlias

from zolder.errors import AlreadyExists, BackendError, Busy, Error, InvalidRequest, NotPermitted
from zolder.model import Chap, Export, Route
from zolder.names import (
    DatasetName,
    ExporterName,
    InitiatorName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    export_target,
    zvol_dataset,
)
from zolder.san import libzfs
from zolder.san.exports import DEVICE_SECONDS, ZvolExport, list_exports
from zolder.san.libzfs import Properties
from zolder.san.missing import note_missing, note_supplied
from zolder.san.packetfilter import PacketFilter
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.records import exported_id, find_record
from zolder.san.rootplaces import RootPlaces
from zolder.san.secrets import Secrets
from zolder.san.tally import Tally
from zolder.wish import Grant, Wish

# Where one zvol's node did not come, those of its parent are not waited for as long, one after the other.
HASTY_SECONDS: Final = 1


# What is exported, and within which policy it was found.
Standing: TypeAlias = tuple[Policy, Export]


class OneExport(Protocol):
    """What is done with one zvol's export: `zolder.san.exports.ZvolExport`."""

    def ensure(
        self,
        volume_id: VolumeId,
        initiator: InitiatorName,
        *,
        route: Route,
        chap: Chap | None,
        read_only: bool,
        seconds: float,
    ) -> bool:
        """Open it to an initiator; return whether that changed anything."""

    def withdraw(
        self, initiator: InitiatorName, exporter: ExporterName | None, prefix: TargetPrefix | None = None
    ) -> bool:
        """Close it to an initiator."""

    def withdraw_all(self, exporter: ExporterName | None) -> bool:
        """Close it to everybody."""


class Zfs(Protocol):
    """What is asked of ZFS: `zolder.san.libzfs.Libzfs`."""

    def read(self, dataset: str) -> Properties | None:
        """Return a dataset's properties; None where there is none."""

    def children(self, parent: str) -> Mapping[str, Properties]:
        """Return all datasets directly below a parent."""


@dataclass(frozen=True, slots=True)
class San:
    """This SAN's parts."""

    places: RootPlaces = field(default_factory=RootPlaces)
    site: Site = field(default_factory=Site)
    packet_filter: PacketFilter = field(default_factory=PacketFilter)
    zfs: Callable[[], Zfs] = libzfs.library
    export: Callable[[Policy, DatasetName, ZvolName], OneExport] = ZvolExport
    list_exports: Callable[[Policy, DatasetName], tuple[Export, ...]] = list_exports
    pause: Callable[[float], object] = time.sleep


class Rebuild:
    """One zvol's exports."""

    def __init__(self, san: San, parent: DatasetName, zvol: ZvolName, tally: Tally) -> None:
        """Look at nothing yet.

        :param tally: where it is noted what came of it.
        """
        self._san = san
        self._secrets = Secrets(san.places.secrets)
        self._parent = parent
        self._zvol = zvol
        self._dataset = zvol_dataset(parent, zvol)
        self._tally = tally

    def restore(self, policies: Collection[Policy], standing: Collection[Standing]) -> None:
        """Have the exports be those on record.

        :param policies: those whose parent it is.
        :param standing: what was exported before the lock was taken.
        :raises Error: the record is not to be believed, or something stands in the way.
        """
        found = self._san.zfs().read(self._dataset)
        # A record is looked at whole before anything is withdrawn.
        wish = None if found is None else find_record(found, self._dataset)
        if found is None or wish is None or not wish.grants:
            self._withdraw_all(standing)
            self._secrets.prune(self._parent, self._zvol, ())
            return
        self._tally.exports = (self._tally.exports or 0) + len(wish.grants)
        policy, route = _policy_for(wish.route, self._parent, policies)
        volume_id, is_view = exported_id(found, self._dataset)
        self._withdraw_others(standing, wish)
        for grant in wish.grants:
            try:
                self._ensure(policy, route, grant, volume_id, read_only=is_view)
            except (Error, OSError) as err:
                self._tally.faults.append(f"{self._dataset} for {grant.initiator}: {err}")
        keep = [grant.initiator for grant in wish.grants if grant.chap]
        self._secrets.prune(self._parent, self._zvol, keep)

    def _ensure(
        self, policy: Policy, route: Route, grant: Grant, volume_id: VolumeId, *, read_only: bool
    ) -> None:
        initiator, missing = grant.initiator, self._san.places.missing
        chap = self._secrets.find(self._parent, self._zvol, initiator) if grant.chap else None
        if grant.chap and chap is None:
            note_missing(self._dataset, initiator, file=missing)
            self._tally.waiting[self._dataset, initiator] = route.portals
            return
        started = time.monotonic()
        export = self._san.export(policy, self._parent, self._zvol)

        def ensure(sound: Route) -> bool:
            return export.ensure(
                volume_id,
                initiator,
                route=sound,
                chap=chap,
                read_only=read_only,
                seconds=HASTY_SECONDS if self._tally.hasty else DEVICE_SECONDS,
            )

        try:
            try:
                self._reach(route, ensure)
            except AlreadyExists as err:
                if "device" not in err.details:
                    raise
                # What targetcli restores of ours is open on the device of that number, which after a boot is
                # another zvol's (seen): all its initiators reach that one.
                self._tally.withdrawn += export.withdraw_all(route.exporter)
                self._reach(route, ensure)
        except Error:
            self._tally.hasty |= time.monotonic() - started > HASTY_SECONDS
            raise
        note_supplied(self._dataset, initiator, file=missing)

    def _reach(self, route: Route, ensure: Callable[[Route], bool]) -> None:
        """Open an export at those of its portals that can be had, and note each that cannot."""
        lost = self._tally.lost
        while True:
            sound = tuple(one for one in route.portals if (route.exporter, one) not in lost)
            # At none all are tried: what stands wrongly is found, whatever can be reached.
            part = replace(route, portals=sound or route.portals)
            try:
                self._tally.built += ensure(part)
            except BackendError as err:
                portal = next((one for one in part.portals if one == err.details.get("portal")), None)
                if portal is None:
                    raise
                lost[route.exporter, portal] = (
                    f"{err.message}; exports lack that path: run 'zolder-san restore' again once it can be"
                    " had, which completes them"
                )
                if len(sound) > 1:
                    continue
            return

    def _withdraw_all(self, standing: Collection[Standing]) -> None:
        left = {(policy, export.exporter) for policy, export in standing}
        while left:
            busy: dict[tuple[Policy, ExporterName], Busy] = {}
            for policy, exporter in left:
                try:
                    export = self._san.export(policy, self._parent, self._zvol)
                    self._tally.withdrawn += export.withdraw_all(exporter)
                except Busy as err:
                    # Where identities share a parent, another's target may have to go first.
                    busy[policy, exporter] = err
            if len(busy) == len(left):
                raise next(iter(busy.values()))
            left = set(busy)

    def _withdraw_others(self, standing: Collection[Standing], wish: Wish) -> None:
        # LIO and tgt know a zvol by one IQN: the name alone tells nothing.
        self._withdraw_all([one for one in standing if one[1].exporter != wish.route.exporter])
        for policy, export in standing:
            if export.exporter != wish.route.exporter:
                continue
            for initiator in export.initiators:
                target = export_target(wish.route.exporter, wish.route.prefix, self._zvol, initiator)
                if wish.find(initiator) is None or target != export.target:
                    one = self._san.export(policy, self._parent, self._zvol)
                    for prefix in policy.target_prefixes:
                        if export.target == export_target(export.exporter, prefix, self._zvol, initiator):
                            self._tally.withdrawn += one.withdraw(initiator, export.exporter, prefix)


def _policy_for(asked: Route, parent: DatasetName, policies: Collection[Policy]) -> tuple[Policy, Route]:
    """Return the policy within which a parent's zvol may be exported so, and what of the route it allows.

    :raises NotPermitted, InvalidRequest: there is none; as the last that was asked says it.
    """
    refusal: NotPermitted | InvalidRequest | None = None
    for policy in policies:
        # A portal that the policy has lost since keeps nobody out who comes by another.
        route = replace(asked, portals=tuple(one for one in asked.portals if one in policy.portals))
        try:
            policy.check("export_zvol", {"parent": parent, "route": route if route.portals else asked})
        except (NotPermitted, InvalidRequest) as err:
            refusal = err
        else:
            return policy, route
    message = f"{parent} is no identity's"
    raise refusal or NotPermitted(message)
