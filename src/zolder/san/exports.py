"""The export that one zvol has or may have, whichever exporter it is with, and all that there are.

Names are derived, never stored: the target's from the identity's prefix and the zvol, the backstore's from
the whole dataset, serial and UUID from the volume's id. A withdraw looks at every prefix of the policy, so an
export is found again after the client's options have changed. The caller holds the zvol's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from zolder.errors import BackendError, Busy, Error, InvalidRequest, StateError
from zolder.model import Chap, Export, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    DatasetName,
    ExporterName,
    InitiatorName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    unit_number,
)
from zolder.san.device import open_zvol
from zolder.san.exporter import Exporter, Subject
from zolder.san.lio import Lio
from zolder.san.locks import Locks
from zolder.san.nvmet import Nvmet
from zolder.san.policy import Policy
from zolder.san.rootplaces import RootPlaces
from zolder.san.tgt import Tgt

LOG = logging.getLogger(__name__)

# A zvol's node comes some milliseconds after the zvol, seconds on a machine under load.
DEVICE_SECONDS: Final = 20

# The daemon comes last: where it does not answer, the kernel's have been closed by then.
EXPORTERS: Final[dict[ExporterName, Callable[[], Exporter]]] = {
    LIO: Lio,
    NVMET: partial(Nvmet, hosts_lock=Locks(RootPlaces().locks).hold_briefly),
    TGT: Tgt,
}


class ZvolExport:
    """The export that one zvol has or may have."""

    def __init__(self, policy: Policy, parent: DatasetName, zvol: ZvolName) -> None:
        """Name it; nothing is looked at yet."""
        self._policy = policy
        self._parent = parent
        self._zvol = zvol

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
        """Open it to an initiator beside those that reach it already; return whether that changed anything.

        :param seconds: the longest wait for the zvol's device node.
        :raises AlreadyExists: a target of that name is somebody else's.
        :raises Busy: the device is claimed by somebody else.
        """
        subject = self._subject(route.prefix)
        with open_zvol(subject.dataset, timeout_seconds=min(seconds, DEVICE_SECONDS)) as device:
            return EXPORTERS[route.exporter]().ensure_export(
                subject,
                device=device.path,
                volume_id=volume_id,
                portals=route.portals,
                initiator=initiator,
                chap=chap,
                read_only=read_only,
            )

    def withdraw_others(self, route: Route, initiator: InitiatorName) -> bool:
        """Close it to all but one initiator over one route; return whether it was open otherwise.

        An exporter that cannot be asked keeps nobody from another.

        :raises Busy: a target that is not this identity's exports it still.
        """
        closed = []
        for name in EXPORTERS:
            try:
                closed.append(name != route.exporter and self.withdraw_all(name))
            except BackendError as err:
                LOG.warning("cannot see whether %s exports %s: %s", name, self._zvol, err.message)
        for prefix in self._policy.target_prefixes:
            subject, each = self._subject(prefix), EXPORTERS[route.exporter]()
            closed += [
                each.remove_initiator(subject, other)
                for other in each.initiators_of(subject)
                if (prefix, other) != (route.prefix, initiator)
            ]
        return any(closed)

    def grow(self, route: Route, *, seconds: float) -> None:
        """Have its target show the zvol's present size.

        :param seconds: the longest that it may take, the wait for the zvol's device node included.
        """
        end = time.monotonic() + seconds
        subject = self._subject(route.prefix)
        with open_zvol(subject.dataset, timeout_seconds=min(seconds, DEVICE_SECONDS)) as device:
            left = end - time.monotonic()
            EXPORTERS[route.exporter]().grow_export(subject, device=device.path, seconds=left)

    def withdraw(
        self, initiator: InitiatorName, exporter: ExporterName | None, prefix: TargetPrefix | None = None
    ) -> bool:
        """Close it to one initiator; the target goes with the last. Return whether it was open to that.

        :param exporter: where it is open; None looks at every one.
        :param prefix: under which name; None looks at each of the policy's.
        :raises Error: one of them failed; the others were closed all the same.
        """
        subjects = [self._subject(one) for one in self._policy.target_prefixes if prefix in {None, one}]
        return self._close(
            exporter, lambda each: [partial(each.remove_initiator, one, initiator) for one in subjects]
        )

    def withdraw_all(self, exporter: ExporterName | None) -> bool:
        """Close it to everybody; return whether it was there at all.

        :param exporter: where it is open; None looks at every one.
        :raises Busy: a target that is not this identity's exports it still.
        :raises Error: one of them failed; the others were closed all the same.
        """
        subjects = [self._subject(prefix) for prefix in self._policy.target_prefixes]
        return self._close(
            exporter,
            lambda each: [
                *(partial(each.remove_export, one) for one in subjects),
                *(partial(self._require_closed, each, one) for one in subjects[:1]),  # it knows of any prefix
            ],
        )

    def _close(
        self, exporter: ExporterName | None, steps: Callable[[Exporter], Iterable[Callable[[], bool]]]
    ) -> bool:
        """Take an exporter's steps, and go on behind one that failed; return whether any changed something.

        :raises Error: the first failure, when all else is closed.
        """
        closed, failures = False, list[tuple[ExporterName, Error]]()
        for each in _those(exporter):
            for step in steps(each):
                try:
                    closed |= step()
                except StateError as err:
                    # A name that is somebody else's says nothing of the next prefix.
                    failures.append((each.name, err))
                except BackendError as err:
                    failures.append((each.name, err))
                    break  # a tgtd that is silent would be waited for once more
        if failures:
            (name, first), *others = failures
            for other, failure in others:
                LOG.warning("%s may still export %s/%s: %s", other, self._parent, self._zvol, failure.message)
            if not isinstance(first, BackendError):
                raise first
            message = f"{self._parent}/{self._zvol} may still be exported by {name}: {first.message}"
            raise BackendError(message, **first.details) from first
        return closed

    def _require_closed(self, each: Exporter, subject: Subject) -> bool:
        """Return that there was nothing to close.

        :raises Busy: it is open under a prefix that is none of this identity's.
        """
        if each.is_open(subject):
            message = (
                f"{subject.dataset} is exported by a target of none of this identity's"
                " prefixes: was one taken out of this SAN's policy? Remove that target, or put the prefix"
                " back and ask again"
            )
            raise Busy(message, holders=[f"a target of {each.name}"])
        return False

    def _subject(self, prefix: TargetPrefix) -> Subject:
        return Subject(self._parent, self._zvol, prefix)


def list_exports(policy: Policy, parent: DatasetName) -> tuple[Export, ...]:
    """Return the exports of a parent's zvols, sorted by zvol and target; the cost grows with all exports."""
    # A set: one export is seen under each prefix that its target's name begins with.
    found = set()
    for each in _those(None):
        for prefix in policy.target_prefixes:
            for export in each.list_exports(prefix):
                above, _, leaf = export.dataset.rpartition("/")
                # A name that no request can say is not ours to tell of.
                with suppress(InvalidRequest):
                    if above == parent:
                        found.add(
                            Export(
                                zvol=ZvolName(leaf),
                                exporter=each.name,
                                target=export.target,
                                portals=export.portals,
                                lun=unit_number(each.name),
                                initiators=export.initiators,
                            )
                        )
    return tuple(sorted(found, key=lambda export: (export.zvol, export.target)))


def _those(exporter: ExporterName | None) -> Iterable[Exporter]:
    return [kind() for name, kind in EXPORTERS.items() if exporter in {None, name}]
