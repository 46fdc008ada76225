"""NVMe-oF over TCP by the kernel's nvmet: one subsystem a zvol and initiator, closed but for that initiator.

The kernel ends an initiator's controllers when a subsystem leaves the ports, not when the initiator leaves
the allowed ones (seen on 6.12); so each has a subsystem of its own, and shutting one out disturbs no other.
It is built closed (zolder.san.nvmet_subsystem), with its initiator's host entry (zolder.san.nvmet_host), and
linked into the ports last (zolder.san.nvmet_port). What a killed process left behind is adopted by the next
`ensure_export` and removed by `remove_initiator` and `remove_export`. To let one in or shut one out, nothing
else is listed. The caller holds a lock for the zvol's name; what all exports share is locked here for as long
as it is changed (host entries), or made so that no lock is needed (ports).
Source: drivers/nvme/target/configfs.c in the Linux tree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from zolder.errors import BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import (
    ExporterName,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    subsystem_name,
    subsystems_begin,
)
from zolder.san.configfs import Build, ConfigFs
from zolder.san.exporter import Exported, Exporter, Subject
from zolder.san.nvmet_host import check_key, ensure_host, remove_host
from zolder.san.nvmet_port import ensure_listening, portals_by_port, stop_listening
from zolder.san.nvmet_subsystem import (
    allowed_hosts,
    check_closed,
    check_device,
    ensure_subsystem,
    find_device,
    find_zvol,
    is_enabled,
    remove_subsystem,
    show_size,
)
from zolder.san.run import run

NVMET_ROOT: Final = Path("/sys/kernel/config/nvmet")
_DEV: Final = Path("/dev")
_MODULES: Final = ("nvmet", "nvmet-tcp")

_DIGEST: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


class Nvmet(Exporter):
    """The kernel's NVMe subsystems below one configfs folder."""

    name = ExporterName("nvmet")

    def __init__(
        self,
        root: Path = NVMET_ROOT,
        *,
        dev: Path = _DEV,
        tree: ConfigFs | None = None,
        hosts_lock: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Speak to the nvmet at ``root``; ``tree`` replaces the way there, for failure injection.

        :param hosts_lock: keeps all others of ours from the entries of hosts meanwhile.
        """
        self._tree = tree or ConfigFs(root)
        self._dev = dev
        self._hosts_lock = hosts_lock

    def ensure_export(
        self,
        subject: Subject,
        *,
        device: Path,
        volume_id: VolumeId,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
        read_only: bool,  # noqa: ARG002 - see below
    ) -> bool:
        """Let an initiator reach a device; return whether that changed anything.

        nvmet has no read-only namespaces: it opens each device for writing, and refuses one that is read-only
        (EROFS, seen on 6.12). ``read_only`` is asked for only with temporary clones of snapshots, and what is
        written to such a clone is thrown away with it; so it is exported writable.

        :param chap: its secret is the initiator's DH-HMAC-CHAP key, one for all its subsystems here; its user
            is not sent in NVMe.
        :raises AlreadyExists: that subsystem is somebody else's, or the initiator has another key already.
        :raises Busy: the device is claimed by somebody else.
        :raises InvalidRequest: the initiator's name is no NQN, or such CHAP cannot be had here.
        :raises BackendError: nvmet is not loaded, or the kernel refuses a step.
        """
        _check_nqn(initiator)
        if chap:
            check_key(chap)
        self._load()
        nqn = subsystem_name(subject.prefix, subject.zvol, initiator)
        check_closed(self._tree, nqn, lambda host: host == initiator)
        with Build(self._tree) as build:
            ensure_subsystem(build, nqn, device=device, volume_id=volume_id)
            with self._hosts_lock():
                ensure_host(build, nqn, initiator, chap)
            ensure_listening(build, nqn, portals)
        return build.changed

    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        """Shut an initiator out and end its controllers; its subsystem is all that it had.

        :raises AlreadyExists: the subsystem of that name belongs to somebody else.
        :raises BackendError: the kernel refuses a step.
        """
        nqn = subsystem_name(subject.prefix, subject.zvol, initiator)
        if not self._tree.exists(f"subsystems/{nqn}"):
            return False
        self._check_ours(subject, nqn)
        return self._remove(nqn, initiator)

    def remove_export(self, subject: Subject) -> bool:
        """Remove all subsystems of a zvol, whoever is connected; return False where there was none.

        :raises AlreadyExists: one of those names belongs to somebody else; none is removed then.
        :raises BackendError: the kernel refuses a step.
        """
        standing = self._subsystems(subject)
        for nqn in standing:
            self._check_ours(subject, nqn)
        changed = [self._remove(nqn, *self._left_behind(subject, nqn)) for nqn in standing]
        return any(changed)

    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        """Return who may connect, sorted; none where it is absent.

        :raises BackendError: the tree cannot be read.
        """
        hosts = (host for nqn in self._subsystems(subject) for host in allowed_hosts(self._tree, nqn))
        return tuple(sorted({found for host in hosts if (found := _initiator(host))}))

    def is_open(self, subject: Subject) -> bool:
        """Say whether a subsystem of one of our names, whatever the prefix, has the zvol's device open.

        :raises BackendError: the tree or a device cannot be read.
        """
        return any(
            self._find_dataset(nqn) == subject.dataset
            for nqn in self._tree.folders("subsystems")
            if nqn.rpartition(":")[0].endswith(subject.zvol) and _DIGEST.fullmatch(nqn.rpartition(":")[2])
        )

    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:  # noqa: ARG002 - nothing to wait for
        """Have each initiator told of the device's present size: its kernel takes it at once, under I/O.

        :raises BackendError: the kernel refuses it.
        """
        for nqn in self._subsystems(subject):
            if is_enabled(self._tree, nqn) and find_device(self._tree, nqn) == str(device):
                show_size(self._tree, nqn)

    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        """Return the subsystems of ours with an open device, sorted; the cost grows with them.

        nvmet knows no dataset's name: the device itself tells it.

        :raises BackendError: the tree or a device cannot be read.
        """
        portals = portals_by_port(self._tree)
        linked = {number: set(self._tree.links(f"ports/{number}/subsystems")) for number in portals}
        return tuple(
            Exported(
                target=nqn,
                dataset=dataset,
                initiators=(initiator,),
                portals=tuple(sorted(portals[number] for number in portals if nqn in linked[number])),
            )
            for nqn, dataset, initiator in self._ours_of(prefix)
        )

    def _load(self) -> None:
        """Have nvmet in the kernel; it loads its TCP side itself for a port that needs it."""
        if not self._tree.root.is_dir():
            finished = run(["modprobe", "-a", *_MODULES])
            if not self._tree.root.is_dir():
                message = f"nvmet is not in the kernel: as root, run `modprobe -a {' '.join(_MODULES)}`"
                raise BackendError(message, stderr=finished.stderr)

    def _subsystems(self, subject: Subject) -> list[str]:
        """Return the standing subsystems that bear the zvol's name."""
        begin = subsystems_begin(subject.prefix, subject.zvol)
        names = (name for name in self._tree.folders("subsystems") if name.startswith(begin))
        return [name for name in names if _DIGEST.fullmatch(name.removeprefix(begin))]

    def _ours_of(self, prefix: TargetPrefix) -> Iterator[tuple[str, str, InitiatorName]]:
        """Yield subsystems whose names their own zvols and initiators lead to, and those."""
        begin = f"nqn{prefix.removeprefix('iqn')}"
        for nqn in self._tree.folders("subsystems"):
            hosts = allowed_hosts(self._tree, nqn) if nqn.startswith(begin) else ()
            initiator = _initiator(hosts[0]) if len(hosts) == 1 else None
            dataset = self._find_dataset(nqn) if initiator else None
            if initiator and dataset and _named(prefix, dataset, initiator) == nqn:
                yield nqn, dataset, initiator

    def _find_dataset(self, nqn: str) -> str | None:
        """Return the zvol that a subsystem has open; None where it has none."""
        path = find_device(self._tree, nqn) if is_enabled(self._tree, nqn) else None
        return find_zvol(Path(path), self._dev) if path else None

    def _check_ours(self, subject: Subject, nqn: str) -> None:
        def is_its_initiator(host: str) -> bool:
            initiator = _initiator(host)
            return initiator is not None and subsystem_name(subject.prefix, subject.zvol, initiator) == nqn

        check_closed(self._tree, nqn, is_its_initiator)
        check_device(self._tree, nqn, subject.dataset, self._dev)

    def _left_behind(self, subject: Subject, nqn: str) -> tuple[str, ...]:
        """Return the initiator whose entry a killed process left without a link, or had not linked yet."""
        if allowed_hosts(self._tree, nqn):
            return ()
        initiators = (found for host in self._tree.folders("hosts") if (found := _initiator(host)))
        return tuple(
            initiator
            for initiator in initiators
            if subsystem_name(subject.prefix, subject.zvol, initiator) == nqn
        )

    def _remove(self, nqn: str, *initiators: str) -> bool:
        """Remove a subsystem of ours, the folder that everything else is found by last."""
        changed = stop_listening(self._tree, nqn)
        hosts = allowed_hosts(self._tree, nqn)
        for host in hosts:
            self._tree.remove_link(f"subsystems/{nqn}/allowed_hosts/{host}")
        with self._hosts_lock():
            for host in {*hosts, *initiators}:
                remove_host(self._tree, host)
        return remove_subsystem(self._tree, nqn) or changed


def _check_nqn(initiator: InitiatorName) -> None:
    if not initiator.is_nqn:
        message = f"initiator: {initiator} is no NQN, which is what NVMe-oF needs"
        raise InvalidRequest(message)


def _named(prefix: TargetPrefix, dataset: str, initiator: InitiatorName) -> str | None:
    try:
        return subsystem_name(prefix, ZvolName(dataset.rpartition("/")[2]), initiator)
    except InvalidRequest:
        return None  # a zvol that Zolder did not name


def _initiator(name: str) -> InitiatorName | None:
    try:
        return InitiatorName(name)
    except InvalidRequest:
        return None  # made by somebody else: Zolder lets in checked names only
