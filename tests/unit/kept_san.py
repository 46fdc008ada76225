"""A SAN without ZFS and without targets, for what is between: records, attachments, views, root's part.

``KeptZfs`` has datasets with properties and what they inherit, ``KeptExporter`` who may reach which; both
keep that beyond a request, so that the next one meets what a killed one left. Each change is a step: from
``kill_at`` on none is done any more, and the one at ``refuse_at`` fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.kernel_tree import Killed
from zolder.errors import AlreadyExists, BackendError
from zolder.model import Access, Chap, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    AttachmentId,
    DatasetName,
    ExporterName,
    Identity,
    InitiatorName,
    OperationId,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    export_target,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.san import exports, libzfs, lzc, zfs, zvols
from zolder.san.device import ZvolDevice
from zolder.san.exporter import Exported, Exporter, Subject
from zolder.san.libzfs import EXPORT_RECORD, SNAPSHOT_MARK, VOLUME_MARK, Property
from zolder.san.locks import Locks
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.privileged import Privileged
from zolder.san.root import Root
from zolder.san.secrets import Secrets
from zolder.san.storage import ZfsStorage
from zolder.san.zpool import Zpool
from zolder.wish import Wish, read_wish

PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1")
DATASET = zvol_dataset(PARENT, ZVOL)
ID = VolumeId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
SNAPSHOT = SnapshotName("snapshot-1")
VIEW_ID = VolumeId("4f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
PORTALS = (Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260"))
PREFIX = TargetPrefix("iqn.2010-10.org.openstack:")
FAST = TargetPrefix("iqn.2010-10.org.openstack:fast:")
ROUTE = Route(LIO, PREFIX, PORTALS)
ALICE = InitiatorName("iqn.2004-10.org.zolder:alice")
BOB = InitiatorName("iqn.2004-10.org.zolder:bob")
POLICY = Policy(Identity("lab"), (PARENT,), PORTALS, (PREFIX, FAST))
CHAP = Chap("volume", "correct-horse-battery")
_GUID = 7


def attachment(number: int) -> AttachmentId:
    """Return an attachment's id."""
    return AttachmentId(f"00000000-0000-4000-8000-{number:012x}")


def operation(*, peer_is_there: bool = True) -> Operation:
    """Return an operation with time to go."""
    return Operation(
        OperationId("00000000-0000-4000-8000-000000000001"),
        seconds=20,
        peer_is_there=lambda: peer_is_there,
        notify=lambda _: None,
    )


@dataclass
class Steps:
    """The changes that were made since the last start."""

    taken: list[str] = field(default_factory=list)
    kill_at: int | None = None
    refuse_at: int | None = None

    def start(self, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """Count from 0 again."""
        self.taken.clear()
        self.kill_at, self.refuse_at = kill_at, refuse_at

    def take(self, step: str) -> bool:
        """Take a step; return whether it is refused."""
        if self.kill_at is not None and len(self.taken) >= self.kill_at:
            raise Killed
        self.taken.append(step)
        return self.refuse_at == len(self.taken) - 1


class KeptZfs:
    """Both of ZFS's libraries, as far as exports need them."""

    def __init__(self, steps: Steps) -> None:
        """Have a parent and one zvol of ours with one snapshot of ours."""
        self._steps = steps
        self.datasets: dict[str, dict[str, Property]] = {}
        self.busy: set[str] = set()
        self.add(PARENT, {"guid": _GUID})
        self.add(DATASET, {"volsize": 2**20, VOLUME_MARK: ID})
        self.add(snapshot_dataset(PARENT, ZVOL, SNAPSHOT), {SNAPSHOT_MARK: SNAPSHOT})

    def add(self, dataset: str, properties: Mapping[str, str | int]) -> None:
        """Have a dataset with properties of its own."""
        self.datasets[dataset] = {name: Property(value, dataset) for name, value in properties.items()}

    def read(self, dataset: str) -> dict[str, Property] | None:
        """Be libzfs; a user property of the parent's shows in the children as one that came from there."""
        if dataset not in self.datasets:
            return None
        above = self.datasets.get(dataset.replace("@", "/").rpartition("/")[0], {})
        inherited = {name: held for name, held in above.items() if name.startswith("zolder:")}
        return {**inherited, **self.datasets[dataset]}

    def children(self, parent: str) -> dict[str, dict[str, Property]]:
        """Be libzfs."""
        names = [name for name in self.datasets if name.rpartition("/")[0] == parent and "@" not in name]
        return {name: self.read(name) or {} for name in names}

    def snapshots(self, zvol: str) -> dict[str, dict[str, Property]]:
        """Be libzfs."""
        names = [name for name in self.datasets if name.startswith(f"{zvol}@")]
        return {name: self.read(name) or {} for name in names}

    def set_property(self, dataset: str, name: str, text: str | None) -> None:
        """Be libzfs."""
        if self._steps.take(f"set {name}" if text else f"inherit {name}"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), dataset)
        if dataset not in self.datasets:
            raise ZfsError(errno.ENOENT, os.strerror(errno.ENOENT), dataset)
        self.datasets[dataset].pop(name, None)
        if text is not None:
            self.datasets[dataset][name] = Property(text, dataset)

    def clone(self, dataset: str, origin: str, properties: dict[str, str]) -> None:
        """Be libzfs_core."""
        if self._steps.take("clone"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), dataset)
        self.add(dataset, {"volsize": 2**20, "origin": origin, **properties})

    def destroy(self, dataset: str) -> None:
        """Be libzfs_core."""
        if self._steps.take("destroy"):
            raise ZfsError(errno.EIO, os.strerror(errno.EIO), dataset)
        if dataset in self.busy:
            raise ZfsError(errno.EBUSY, os.strerror(errno.EBUSY), dataset)
        del self.datasets[dataset]


@dataclass
class Standing:
    """One target: the zvol that it exports, and to whom."""

    dataset: str
    volume_id: VolumeId
    portals: tuple[Portal, ...]
    read_only: bool
    secrets: dict[InitiatorName, Chap | None] = field(default_factory=dict)


class KeptExporter(Exporter):
    """One of the ways to export; ``standing`` are its targets, ``foreign`` names that others have taken."""

    def __init__(self, steps: Steps) -> None:
        """Export nothing yet."""
        self._steps = steps
        self.standing: dict[str, Standing] = {}
        self.foreign: set[str] = set()
        self.grown: list[str] = []

    def ensure_export(
        self,
        subject: Subject,
        *,
        device: Path,
        volume_id: VolumeId,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
        read_only: bool,
    ) -> bool:
        """See ``Exporter``: the target is one step, letting the initiator in another."""
        assert device == Path("/dev/zd0")
        target = self._own(subject, initiator)
        wanted = Standing(subject.dataset, volume_id, portals, read_only)
        standing = self.standing.get(target)
        made = standing is None
        if standing is None:
            self._step("make")
            standing = self.standing.setdefault(target, wanted)
        changed = made or standing.portals != portals
        standing.portals = portals
        if initiator not in standing.secrets or standing.secrets[initiator] != chap:
            try:
                self._step("let in")
            except BackendError:
                if made:
                    del self.standing[target]
                raise
            standing.secrets[initiator] = chap
            changed = True
        return changed

    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        """See ``Exporter``."""
        target = self._own(subject, initiator)
        standing = self.standing.get(target)
        if standing is None:
            return False
        changed = initiator in standing.secrets
        if changed:
            self._step("shut out")
            del standing.secrets[initiator]
        if not standing.secrets:
            self._step("remove")
            del self.standing[target]
            changed = True
        return changed

    def remove_export(self, subject: Subject) -> bool:
        """See ``Exporter``."""
        targets = [target for target in self.standing if self._is_of(target, subject)]
        for target in targets:
            self._own(subject, next(iter(self.standing[target].secrets), ALICE))
            self._step("remove")
            del self.standing[target]
        return bool(targets)

    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        """See ``Exporter``."""
        found = [held for target, held in self.standing.items() if self._is_of(target, subject)]
        return tuple(sorted(initiator for standing in found for initiator in standing.secrets))

    def is_open(self, subject: Subject) -> bool:
        """See ``Exporter``."""
        return any(standing.dataset == subject.dataset for standing in self.standing.values())

    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:
        """See ``Exporter``; what the operation has left is at most all of it."""
        assert device == Path("/dev/zd0")
        assert 0 < seconds <= 20
        self.grown.append(f"{subject.prefix}{subject.zvol}")

    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        """See ``Exporter``; like tgt's it takes whatever begins so."""
        return tuple(
            Exported(target, standing.dataset, tuple(sorted(standing.secrets)), standing.portals)
            for target, standing in sorted(self.standing.items())
            if target.startswith((prefix, f"nqn{prefix[3:]}"))
        )

    def _own(self, subject: Subject, initiator: InitiatorName) -> str:
        target = export_target(self.name, subject.prefix, subject.zvol, initiator)
        standing = self.standing.get(target)
        if target in self.foreign or (standing is not None and standing.dataset != subject.dataset):
            message = f"target {target} exists and is somebody else's"
            raise AlreadyExists(message)
        return target

    def _is_of(self, target: str, subject: Subject) -> bool:
        whole = f"{subject.prefix}{subject.zvol}"
        return target == whole or target.startswith(f"nqn{whole[3:]}:")

    def _step(self, step: str) -> None:
        if self._steps.take(step):
            message = f"the kernel refuses to {step}"
            raise BackendError(message)


class KeptLio(KeptExporter):
    """LIO."""

    name = LIO


class KeptTgt(KeptExporter):
    """Tgtd."""

    name = TGT


class KeptNvmet(KeptExporter):
    """Nvmet."""

    name = NVMET


class KeptSan:
    """One SAN, for a test."""

    def __init__(self, folder: Path) -> None:
        """Keep what has to be in files below a folder."""
        self.steps = Steps()
        self.zfs = KeptZfs(self.steps)
        kinds = (KeptLio, KeptTgt, KeptNvmet)
        self.exporters: dict[ExporterName, KeptExporter] = {kind.name: kind(self.steps) for kind in kinds}
        self.site = Site(folder / "state", folder / "run", folder / "kstat")
        self.secrets = Secrets(folder / "secrets")
        self._locks = Locks(folder / "roots-locks")
        for path, text in (
            (self.site.kernel_statistics / "data" / "state", "ONLINE\n"),
            (self.site.state / "parents" / "data:volumes", f"{_GUID}\n"),
        ):
            path.parent.mkdir(parents=True)
            path.write_text(text)
        self.site.run.mkdir()

    @property
    def lio(self) -> KeptExporter:
        """The exporter that most tests use."""
        return self.exporters[LIO]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand where ZFS, the exporters and the devices are looked for."""
        patch.setattr(libzfs, "library", lambda: self.zfs)
        patch.setattr(lzc, "library", lambda: self.zfs)
        patch.setattr(
            exports, "EXPORTERS", {name: lambda kept=kept: kept for name, kept in self.exporters.items()}
        )
        patch.setattr(exports, "open_zvol", self._open_zvol)
        patch.setattr(zfs, "clones_of", lambda _: {})
        patch.setattr(zvols, "BUSY_SECONDS", 0.1)

    def root(self, policy: Policy = POLICY) -> Root:
        """Return root's verbs for one operation."""
        return Root(policy, operation(), self._locks, site=self.site, secrets=self.secrets)

    def zpool(self, privileged: Privileged | None = None) -> Zpool:
        """Return ZFS as one request sees it."""
        return Zpool(self.site, PARENT, privileged or self.root())

    def storage(self, policy: Policy = POLICY, privileged: Privileged | None = None) -> ZfsStorage:
        """Return the agent's verbs for one operation."""
        return ZfsStorage(policy, operation(), privileged or self.root(policy), self.site)

    def record(self, dataset: str = DATASET) -> Wish | None:
        """Return what stands on a dataset."""
        found = self.zfs.datasets[dataset].get(EXPORT_RECORD)
        return read_wish(str(found.value)) if found else None

    def reached_by(self) -> dict[str, tuple[InitiatorName, ...]]:
        """Return each zvol that is exported, with who may reach it over whatever exporter."""
        reached: dict[str, set[InitiatorName]] = {}
        for exporter in self.exporters.values():
            for standing in exporter.standing.values():
                reached.setdefault(standing.dataset, set()).update(standing.secrets)
        return {dataset: tuple(sorted(initiators)) for dataset, initiators in reached.items()}

    def agrees(self, dataset: str = DATASET) -> bool:
        """Whether exactly those may reach a zvol who are on its record."""
        wish = self.record(dataset) if dataset in self.zfs.datasets else None
        return self.reached_by().get(dataset, ()) == (wish.initiators if wish else ())

    @contextmanager
    def _open_zvol(self, dataset: str, *, timeout_seconds: float) -> Iterator[ZvolDevice]:
        assert timeout_seconds <= exports.DEVICE_SECONDS
        if dataset not in self.zfs.datasets:
            message = f"no block device of {dataset} came"
            raise BackendError(message)
        yield ZvolDevice(Path("/dev/zd0"), -1)


def access(
    initiator: InitiatorName = ALICE,
    number: int | None = 1,
    *,
    chap: Chap | None = None,
    zvol: ZvolName = ZVOL,
) -> Access:
    """Return one attachment; the initiator's own without an id where there is no number."""
    return Access(zvol, initiator, None if number is None else attachment(number), chap)
