"""Fuzz target for the root helper: whatever a taken agent sends, up to where root would touch the kernel.

The loop, the policy's check, Root and the names of its exports are the real ones. ZFS, LIO, the devices and
the processes are a model that keeps nothing: it holds each thing that it is asked for to the policy of the
identity that the connection introduced, in words of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.fuzz.predicates import is_initiator, is_portal, is_zvol
from tests.fuzz.requests import ID, converse, spelled
from zolder import __version__
from zolder.errors import AlreadyExists, BackendError, PoolSuspended
from zolder.model import Chap
from zolder.names import DatasetName, Identity, InitiatorName, Portal, TargetPrefix
from zolder.san import exports, libzfs, root
from zolder.san.audit import format_line
from zolder.san.device import ZvolDevice
from zolder.san.helper import Helper
from zolder.san.libzfs import Properties, Property
from zolder.san.lio import LioExport
from zolder.san.locks import Locks
from zolder.san.policy import Policy, PolicyError
from zolder.san.privileged import VERBS
from zolder.wire import Request

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
_CLOSED: Final = ("absent", "foreign", "files", "suspended")


class Kernel:
    """Everything that root may touch, for one connection; a fault is kept, since the loop answers it."""

    def __init__(self) -> None:
        """Begin without a policy, as the connection does."""
        self._policy: Policy | None = None
        self._faults: list[str] = []
        self._open: str | None = None

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
        found = {"zolder:volume": Property(ID, dataset.removesuffix("foreign")), "volsize": Property(1, None)}
        return {"zolder:volume": found["zolder:volume"]} if dataset.endswith("files") else found

    def holders_of(self, dataset: str, node: Path | None) -> list[str]:
        """Be zolder.san.holders."""
        self._hold_zvol(dataset)
        self._hold(node is None, f"the node {node!a}")
        return []

    @contextmanager
    def open_zvol(self, dataset: str, *, timeout_seconds: float) -> Iterator[ZvolDevice]:
        """Be zolder.san.device: every zvol has its node, and nobody opens that of a foreign one."""
        self._hold_changing()
        self._hold_zvol(dataset)
        self._hold(not dataset.endswith(_CLOSED), f"{dataset} is opened unmarked")
        self._hold(timeout_seconds <= exports.DEVICE_SECONDS, f"it waits {timeout_seconds} s")
        if dataset.endswith("nodeless"):
            message = "no block device came"
            raise BackendError(message)
        self._open = dataset
        try:
            yield ZvolDevice(Path("/dev/zd0"), -1)
        finally:
            self._open = None

    def ensure_export(
        self,
        target: str,
        *,
        backstore: str,
        device: Path,
        serial: str,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
    ) -> bool:
        """Be zolder.san.lio, as are the next five."""
        self._hold_export(target, backstore)
        self._hold(backstore == (self._open or "").replace("/", ":"), f"{backstore} is not the open zvol")
        self._hold(device == Path("/dev/zd0"), f"the device {device}")
        self._hold(serial == ID.replace("-", ""), f"the serial {serial}")
        self._hold(bool(portals) and all(is_portal(portal) for portal in portals), f"portals {portals!a}")
        self._hold(set(portals) <= set(self._held().portals), f"portals {portals!a}")
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")
        self._hold(chap is None or (chap.user + chap.secret).isprintable(), "CHAP")
        if target.endswith("others"):
            message = "the target is somebody else's"
            raise AlreadyExists(message)
        return True

    def initiators_of(self, target: str) -> tuple[InitiatorName, ...]:
        self._hold_target(target)
        return (InitiatorName("iqn.2004-10.org.zolder:compute"),)

    def remove_initiator(
        self, target: str, *, backstore: str, initiator: InitiatorName
    ) -> tuple[bool, tuple[InitiatorName, ...]]:
        self._hold_export(target, backstore)
        self._hold(is_initiator(initiator), f"the initiator {initiator!a}")
        return True, ()

    def remove_export(self, target: str, *, backstore: str) -> bool:
        self._hold_export(target, backstore)
        return True

    def has_backstore(self, backstore: str) -> bool:
        self._hold_changing()
        self._hold_zvol(backstore.replace(":", "/"))
        return backstore.endswith("left")

    def list_exports(self, prefix: str) -> tuple[LioExport, ...]:
        self._hold(prefix in self._held().target_prefixes, f"the prefix {prefix!a}")
        return ()

    def _hold_export(self, target: str, backstore: str) -> None:
        self._hold_changing()
        self._hold_target(target)
        dataset = backstore.replace(":", "/")
        self._hold_zvol(dataset)
        self._hold(target.endswith(f":{dataset.rpartition('/')[2]}"), f"{target} for {dataset}")

    def _hold_target(self, target: str) -> None:
        leaves = [
            target[len(prefix) :] for prefix in self._held().target_prefixes if target.startswith(prefix)
        ]
        self._hold(any(is_zvol(leaf) for leaf in leaves), f"the target {target!a}")
        self._hold(is_initiator(target), f"{target!a} is no IQN")

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


def check_helper(data: bytes) -> None:
    """Whatever a taken agent sends, root touches only what the policy gives to the identity that it named.

    The first byte is the identity of a ``hello`` without parameters; the lines are as those of a channel.
    """
    identity = {b"r": "reader", b"o": "other", b"s": "stranger"}.get(data[:1], "lab")
    kernel = Kernel()
    # An empty line ends the channel, and until it is read the agent is still there.
    lines = [*spelled(data[1:], VERBS, _HELLO.format(identity).encode()), b"", b""]
    with (
        tempfile.TemporaryFile() as locked,
        patch.object(libzfs, "library", lambda: kernel),
        patch.object(root, "require_active", lambda *_: None),
        patch.object(root, "holders_of", kernel.holders_of),
        patch.object(exports, "open_zvol", kernel.open_zvol),
        patch.object(exports, "Lio", lambda: kernel),
    ):
        locks = Locks(Path(f"/proc/self/fd/{locked.fileno()}"))
        converse(Helper(locks, kernel.introduce), lines, record=kernel.record)
