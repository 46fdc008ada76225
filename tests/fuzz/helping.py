"""Fuzz target for the root helper: whatever a taken agent sends, up to where root would touch the kernel.

The loop, the policy's check, Root, the reading of a zvol's record and the names of its exports are the real
ones. ZFS, the exporters, the devices, the secrets and the processes are a model that keeps nothing but what
the agent's user wrote on its zvols: it holds each thing that it is asked for to the policy of the identity
that the connection introduced, in words of its own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.fuzz.predicates import is_initiator, is_portal, is_zvol
from tests.fuzz.requests import ID, converse, spelled
from zolder import __version__
from zolder.errors import AlreadyExists, BackendError, PoolSuspended
from zolder.model import Chap
from zolder.names import (
    DatasetName,
    ExporterName,
    Identity,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
)
from zolder.san import exports, libzfs, root
from zolder.san.audit import format_line
from zolder.san.device import ZvolDevice
from zolder.san.exporter import Exported, Subject
from zolder.san.helper import Helper
from zolder.san.libzfs import Properties, Property
from zolder.san.locks import Locks
from zolder.san.policies import PolicyError
from zolder.san.policy import Policy
from zolder.san.privileged import VERBS
from zolder.san.requestline import RequestLine
from zolder.wire import Answer, Reply, Request

LAB: Final = Policy(
    Identity("lab"),
    (DatasetName("data/volumes"), DatasetName("data/volumes-2")),
    (Portal("192.168.77.1:3260"), Portal("[2001:db8::1]:3260")),
    (TargetPrefix("iqn.2010-10.org.openstack:"), TargetPrefix("iqn.2010-10.org.openstack:fast:")),
)
OTHER: Final = Policy(
    Identity("other"),
    (DatasetName("data/other"),),
    (Portal("192.168.77.2:3260"),),
    (TargetPrefix("iqn.2010-10.org.other:"),),
)
READER: Final = Policy(Identity("reader"), (DatasetName("data/volumes"),), role="read-only")
POLICIES: Final = {policy.identity: policy for policy in (LAB, OTHER, READER)}
_HELLO: Final = '{{"identity":"{}","version":"' + __version__ + '"}}'
# How the name of a zvol ends that root must not open.
_CLOSED: Final = ("absent", "foreign", "files", "suspended", "inherited")


# The nodes that somebody has open, and the parents of their zvols; one has just gone.
_IN_USE: Final = {
    "zd0": "data/volumes",
    "zd16": "data/other",
    "zd32": "data/volumes-2",
    "zd48": "data/secret",
    "zd64": "",
}


class Kernel:
    """Everything that root may touch, for one connection; a fault is kept, since the loop answers it."""

    def __init__(self, record: str) -> None:
        """Begin without a policy, as the connection does.

        :param record: what the agent's user has written on each of its zvols.
        """
        self._policy: Policy | None = None
        self._faults: list[str] = []
        self._open: str | None = None
        self._record = record

    def introduce(self, identity: Identity) -> Callable[[], Policy]:
        """Return what reads an identity's policy, to which everything is held from now on."""
        assert self._policy is None, "introduced twice"
        self._policy = POLICIES.get(identity)

        def read() -> Policy:
            if self._policy is None:
                message = f"there is no table [identity.{identity}]"
                raise PolicyError(message)
            return self._policy

        return read

    def record(self, request: Request, outcome: str, seconds: float) -> None:
        """Write down nothing, and refuse an internal error, which no agent may cause."""
        line = format_line(LAB.identity, "helper", request, outcome, seconds)
        assert line.isascii()
        assert line.isprintable()
        assert not self._faults, self._faults
        assert outcome != "internal", f"an internal error in {request.method}"

    def read(self, dataset: str) -> Properties | None:
        """Be libzfs: what a dataset is shows in its name."""
        self._hold_changing()  # only what is to be exported is looked at
        self._hold_zvol(dataset)
        if dataset.endswith("suspended"):
            message = "the zpool has suspended its I/O"
            raise PoolSuspended(message)
        if dataset.endswith("absent"):
            return None
        mark = "zolder:view" if dataset.endswith("view") else "zolder:volume"
        found: dict[str, Property] = {
            mark: Property(ID, dataset.removesuffix("foreign")),
            "volsize": Property(1, None),
            "zolder:export": Property(self._record, dataset.removesuffix("inherited")),
        }
        if dataset.endswith("files"):
            del found["volsize"]
        return found

    def holders_of(self, dataset: str, node: Path | None) -> list[str]:
        """Be zolder.san.holders."""
        self._hold_zvol(dataset)
        self._hold(node is None, f"the node {node!a}")
        return []

    def all_holders(self) -> dict[str, list[str]]:
        """Be zolder.san.holders: of each parent of anybody's, and of none, a zvol is in use."""
        return {
            **{node: [dataset] for node, dataset in _IN_USE.items()},
            "data/other/volume-9": ["data/other"],
        }

    def find_zvol_name(self, node: Path) -> str | None:
        """Be zolder.san.device, which opens what is in use and nothing else."""
        self._hold(node.parent == Path("/dev") and node.name in _IN_USE, f"{node} is opened")
        return f"{_IN_USE[node.name]}/volume-1" if _IN_USE[node.name] else None

    def hold_answers(self, replies: Iterable[Reply]) -> None:
        """Hold what was said of zvols in use to the policy."""
        values = [reply.value for reply in replies if isinstance(reply, Answer)]
        for held in (one for value in values if isinstance(value, list) for one in value):
            told = held["holders"] if isinstance(held, dict) and "holders" in held else []
            assert isinstance(told, list)
            assert set(told) <= {*self._held().parents}, "who uses a zvol beyond the policy is told"

    @contextmanager
    def open_zvol(self, dataset: str, *, timeout_seconds: float) -> Iterator[ZvolDevice]:
        """Be zolder.san.device: every zvol has its node, and nobody opens that of a foreign one."""
        self._hold_changing()
        self._hold_zvol(dataset)
        self._hold(not dataset.endswith(_CLOSED), f"{dataset} is opened unmarked or without a record")
        self._hold(timeout_seconds <= exports.DEVICE_SECONDS, f"it waits {timeout_seconds} s")
        if dataset.endswith("nodeless"):
            message = "no block device came"
            raise BackendError(message)
        self._open = dataset
        try:
            yield ZvolDevice(Path("/dev/zd0"), -1)
        finally:
            self._open = None

    @contextmanager
    def open_zvol_device(self, dataset: str, *, to_write: bool) -> Iterator[int]:
        """Be zolder.san.descriptors: a volume's, and to be written only where nobody reaches it."""
        self._hold_changing()
        self._hold_zvol(dataset)
        self._hold(not dataset.endswith((*_CLOSED, "view")) or dataset.endswith("inherited"), dataset)
        if to_write and self._record and not dataset.endswith("inherited"):
            self._hold(not json.loads(self._record)["grants"], f"{dataset} is in use")
        if dataset.endswith("nodeless"):
            message = "no block device came"
            raise BackendError(message)
        self._open = dataset
        try:
            yield -1
        finally:
            self._open = None

    def hand_over(self, descriptor: int) -> None:
        """Be zolder.san.requestline: only what was opened just now goes to the agent."""
        self._hold(descriptor == -1 and self._open is not None, f"the descriptor {descriptor}")

    def find(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName) -> Chap | None:
        """Be zolder.san.secrets, as are the next two."""
        self._hold_changing()
        self._hold_zvol(f"{parent}/{zvol}")
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")
        return None

    def put(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, chap: Chap) -> None:
        self._hold_changing()
        self._hold_zvol(f"{parent}/{zvol}")
        self._hold(not zvol.endswith(_CLOSED), f"a secret for {zvol}")
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")
        self._hold((chap.user + chap.secret).isprintable(), "CHAP")

    def remove(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None) -> None:
        self._hold_changing()
        self._hold_zvol(f"{parent}/{zvol}")
        self._hold(initiator is None or is_initiator(initiator), f"the initiator {initiator!a}")

    def note_supplied(self, dataset: str, initiator: InitiatorName | None) -> None:
        """Be zolder.san.missing."""
        self._hold_changing()
        self._hold_zvol(dataset)
        self._hold(initiator is None or is_initiator(initiator), f"the initiator {initiator!a}")

    def hold_ensured(
        self, exporter: str, subject: Subject, device: Path, volume_id: str, portals: tuple[Portal, ...]
    ) -> None:
        """Hold what is exported to the open zvol, and its route to the policy and the zvol's own record."""
        self.hold_subject(subject)
        self._hold(subject.dataset == self._open, f"{subject.dataset} is not the open zvol")
        self._hold(device == Path("/dev/zd0"), f"the device {device}")
        self._hold(volume_id == ID, f"the id {volume_id}")
        self._hold(bool(portals) and all(is_portal(portal) for portal in portals), f"portals {portals!a}")
        self._hold(set(portals) <= set(self._held().portals), f"portals {portals!a}")
        self._hold(len(portals) == len(set(portals)), f"portals {portals!a} twice")
        route = {"exporter": exporter, "prefix": subject.prefix, "portals": list(portals)}
        self._hold(json.loads(self._record)["route"] == route, f"a route {route} that is not on record")

    def hold_granted(self, subject: Subject, initiator: str, *, chap: bool, read_only: bool) -> None:
        """Hold who is let in to the zvol's own record."""
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")
        granted = {(grant["initiator"], grant["chap"]) for grant in json.loads(self._record)["grants"]}
        self._hold((initiator, chap) in granted, f"{initiator} is let in and not on record so")
        self._hold(read_only == subject.dataset.endswith("view"), "a view is written to, or a volume is not")

    def hold_grown(self, subject: Subject, device: Path) -> None:
        """Hold what is grown to the open zvol."""
        self.hold_subject(subject)
        self._hold(subject.dataset == self._open and device == Path("/dev/zd0"), f"the device {device}")

    def hold_subject(self, subject: Subject) -> None:
        """Hold what is opened, closed or grown to the policy."""
        self._hold_changing()
        self._hold_zvol(subject.dataset)
        self.hold_prefix(subject.prefix)

    def hold_initiator(self, initiator: str) -> None:
        """Hold who is shut out to what an initiator is."""
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")

    def hold_prefix(self, prefix: str) -> None:
        """Hold a prefix to the policy."""
        self._hold(prefix in self._held().target_prefixes, f"the prefix {prefix!a}")

    def _hold_zvol(self, dataset: str) -> None:
        parent, _, leaf = dataset.rpartition("/")
        self._hold(parent in self._held().parents and is_zvol(leaf), f"the zvol {dataset!a}")

    def _hold_changing(self) -> None:
        self._hold(self._held().role == "volumes", "beyond the role")

    def _held(self) -> Policy:
        self._hold(self._policy is not None, "root acts for nobody")
        return self._policy or READER

    def _hold(self, holds: bool, what: str) -> None:  # noqa: FBT001 - a condition, as that of an assertion
        if not holds:
            self._faults.append(what)
            raise AssertionError(what)


class Way:
    """One of the ways to export; it keeps nothing."""

    def __init__(self, name: ExporterName, kernel: Kernel) -> None:
        """Hold everything by the kernel's words."""
        self.name = name
        self._kernel = kernel

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
        """Be zolder.san.lio or one of the others, as are the next six."""
        self._kernel.hold_ensured(self.name, subject, device, volume_id, portals)
        self._kernel.hold_granted(subject, initiator, chap=chap is not None, read_only=read_only)
        if subject.zvol.endswith("others"):
            message = "the target is somebody else's"
            raise AlreadyExists(message)
        return True

    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        self._kernel.hold_subject(subject)
        self._kernel.hold_initiator(initiator)
        return True

    def remove_export(self, subject: Subject) -> bool:
        self._kernel.hold_subject(subject)
        return True

    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        self._kernel.hold_subject(subject)
        return (InitiatorName("iqn.2004-10.org.zolder:left-behind"),)

    def is_open(self, subject: Subject) -> bool:
        self._kernel.hold_subject(subject)
        return subject.zvol.endswith("left")

    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:  # noqa: ARG002 - it takes none
        self._kernel.hold_grown(subject, device)

    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        self._kernel.hold_prefix(prefix)
        return ()


def check_helper(data: bytes) -> None:
    """Whatever a taken agent sends, root touches only what the policy gives to the identity that it named.

    The first byte is the identity of a ``hello`` without parameters. The rest of the first line, where there
    is any, is the record that the agent's user has put on each zvol beforehand; the other lines are as those
    of a channel.
    """
    identity = {b"r": "reader", b"o": "other", b"s": "stranger"}.get(data[:1], "lab")
    head, _, sent = data[1:].partition(b"\n")
    # libzfs gives what stands in a property as text.
    kernel = Kernel(head.decode("utf-8", "replace"))
    # An empty line ends the channel, and until it is read the agent is still there.
    lines = [*spelled(sent, VERBS, _HELLO.format(identity).encode()), b"", b""]
    ways: Mapping[ExporterName, Callable[[], Way]] = {
        name: lambda name=name: Way(name, kernel)  # type: ignore[misc]  # mypy knows no such default
        for name in exports.EXPORTERS
    }
    with (
        tempfile.TemporaryFile() as locked,
        patch.object(libzfs, "library", lambda: kernel),
        patch.object(root, "require_active", lambda *_: None),
        patch.object(root, "holders_of", kernel.holders_of),
        patch.object(root, "all_holders", kernel.all_holders),
        patch.object(root, "find_zvol_name", kernel.find_zvol_name),
        patch.object(root, "Secrets", lambda: kernel),
        patch.object(root, "note_supplied", kernel.note_supplied),
        patch.object(exports, "open_zvol", kernel.open_zvol),
        patch.object(root, "open_zvol_device", kernel.open_zvol_device),
        patch.object(RequestLine, "hand_over", lambda _, descriptor: kernel.hand_over(descriptor)),
        patch.object(exports, "EXPORTERS", ways),
    ):
        locks = Locks(Path(f"/proc/self/fd/{locked.fileno()}"))
        kernel.hold_answers(converse(Helper(locks, kernel.introduce), lines, record=kernel.record))
