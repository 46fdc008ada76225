"""Names that were checked once and can be trusted from then on.

Each class is a ``str`` that cannot exist unless it is well formed, so what builds a dataset name, a device
path or an IQN takes only these types. They are stricter than ZFS and iSCSI: lower case (initiators fold
IQNs), no leading dash (an option), no ``@ # % : /`` in a leaf, nothing that is not ASCII.
Sources: zfs(8) "Dataset naming", RFC 7143 section 4.2.7, RFC 3722. No I/O.
"""

from __future__ import annotations

import hashlib
import re
import socket
from typing import ClassVar, Final, Self

from zolder.errors import InvalidRequest

# zfs(8): a whole name has at most 255 bytes, the snapshot part included.
MAX_DATASET_BYTES = 255
MAX_LEAF_BYTES = 96
MAX_PORT = 65535
# Of a SHA-256 in hexadecimal: 64 bits tell the initiators of one zvol apart.
_DIGEST_CHARACTERS = 16
# No SnapshotName begins like this.
_CLONE_ORIGIN = "zolder-clone-"
_VIEW = "zolder-view-"
_PUT_ASIDE = "zolder-deleted-"
_REVERTED = "zolder-reverted-"
_ARRIVING = "zolder-arriving-"
_SENT = "zolder-move-"
# These two are the driver's, to the agent they are volumes like others.
_COPYING = "copying-"
_COPIED = "copied-"


class Name(str):
    """A string that matches its class's pattern; the base of all checked names."""

    __slots__ = ()
    what: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    max_length: ClassVar[int]

    def __new__(cls, value: str) -> Self:
        """Check and keep ``value``.

        :raises InvalidRequest: it is no string, too long, or has a character that is not allowed.
        """
        if not isinstance(value, str):
            message = f"{cls.what}: a string is needed, not {type(value).__name__}"
            raise InvalidRequest(message)
        if len(value) > cls.max_length:
            message = f"{cls.what}: {len(value)} characters are more than {cls.max_length}"
            raise InvalidRequest(message)
        if not cls.pattern.fullmatch(value):
            message = f"{cls.what}: {value[:80]!a} is not of the form {cls.pattern.pattern}"
            raise InvalidRequest(message)
        return super().__new__(cls, value)


class DatasetName(Name):
    """A whole dataset without a snapshot part, such as ``data/openstack/volumes``."""

    __slots__ = ()
    what = "dataset"
    pattern = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*", re.ASCII)
    max_length = MAX_DATASET_BYTES - 2 * MAX_LEAF_BYTES - 2

    @property
    def zpool(self) -> str:
        """The zpool that this dataset lies in."""
        return self.partition("/")[0]


class ZvolName(Name):
    """The leaf of a zvol below its parent, such as ``volume-3f0c…``; part of its IQN too."""

    __slots__ = ()
    what = "zvol"
    pattern = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)
    max_length = MAX_LEAF_BYTES


class SnapshotName(Name):
    """The part behind the ``@`` of a ZFS snapshot; ``zolder-`` begins the agent's own."""

    __slots__ = ()
    what = "snapshot"
    pattern = re.compile(r"(?!zolder-)[a-z0-9][a-z0-9_.-]*", re.ASCII)
    max_length = MAX_LEAF_BYTES


class VolumeId(Name):
    """The UUID of a volume in its canonical lower-case form; serial and WWN derive from it."""

    __slots__ = ()
    what = "volume id"
    pattern = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
    max_length = 36


class OperationId(VolumeId):
    """The UUID that a client gives to one operation; a repeat carries the same one."""

    __slots__ = ()
    what = "operation id"


class AttachmentId(VolumeId):
    """The UUID of one attachment: one use that an initiator makes of a volume."""

    __slots__ = ()
    what = "attachment id"


class ExporterName(Name):
    """What exports on the SAN: the kernel's LIO, the daemon tgtd, or the kernel's nvmet."""

    __slots__ = ()
    what = "exporter"
    pattern = re.compile(r"lio|tgt|nvmet", re.ASCII)
    max_length = 5


LIO: Final = ExporterName("lio")
TGT: Final = ExporterName("tgt")
NVMET: Final = ExporterName("nvmet")


class InitiatorName(Name):
    """Who connects: an iSCSI name (``iqn.``, ``eui.``, ``naa.``), or the host NQN (``nqn.``) of NVMe-oF.

    The kernel compares NQNs letter by letter and makes a folder of each (NVMe base specification, 4.5).
    """

    __slots__ = ()
    what = "initiator"
    pattern = re.compile(
        r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9][a-z0-9.-]*(?::[a-z0-9.:_-]+)?"
        r"|eui\.[0-9a-f]{16}|naa\.[0-9a-f]{16}(?:[0-9a-f]{16})?"
        r"|nqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9][a-z0-9.-]*:[A-Za-z0-9._:-]+",
        re.ASCII,
    )
    max_length = 223

    @property
    def is_nqn(self) -> bool:
        """Whether it is NVMe-oF's kind."""
        return self.startswith("nqn.")


class TargetPrefix(Name):
    """What every IQN of an identity begins with; the zvol's leaf follows."""

    __slots__ = ()
    what = "target prefix"
    pattern = re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9][a-z0-9.-]*:(?:[a-z0-9.:-]*)", re.ASCII)
    # The longest name that follows: a zvol's leaf, and for NVMe-oF a colon and an initiator's digest.
    max_length = 223 - MAX_LEAF_BYTES - 1 - _DIGEST_CHARACTERS


class Portal(Name):
    """Where a target listens: ``192.0.2.1:3260`` or ``[2001:db8::1]:3260``, each in one spelling only."""

    __slots__ = ()
    what = "portal"
    pattern = re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-f:]{2,45}\]):[1-9][0-9]{0,4}", re.ASCII)
    max_length = 54

    def __new__(cls, value: str) -> Self:
        """Check the form, then that the address and the port exist.

        :raises InvalidRequest: it is no address in its canonical form with a port.
        """
        portal = super().__new__(cls, value)
        address, _, port = portal.rpartition(":")
        bare = address.strip("[]")
        family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
        try:
            canonical = socket.inet_ntop(family, socket.inet_pton(family, bare))
        except OSError:
            canonical = ""
        if bare != canonical or int(port) > MAX_PORT:
            message = f"{cls.what}: {value} is no shortest form of an address with a port up to {MAX_PORT}"
            raise InvalidRequest(message)
        return portal


class Identity(Name):
    """Who a key is, as the administrator wrote it into the forced command."""

    __slots__ = ()
    what = "identity"
    pattern = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)
    max_length = 32


def zvol_dataset(parent: DatasetName, zvol: ZvolName) -> str:
    """Return the whole dataset name of a zvol."""
    return f"{parent}/{zvol}"


def snapshot_dataset(parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> str:
    """Return the whole name of a zvol's snapshot, ``parent/zvol@snapshot``."""
    return f"{parent}/{zvol}@{snapshot}"


def clone_origin(parent: DatasetName, source: ZvolName, volume_id: VolumeId) -> str:
    """Return the whole name of the agent's own snapshot, from which a volume is cloned directly."""
    return f"{parent}/{source}@{clone_origin_leaf(volume_id)}"


def clone_origin_leaf(volume_id: VolumeId) -> str:
    """Return the part of that name behind the ``@``; no SnapshotName can be equal to it.

    :param volume_id: the clone's, or that of the moment at which several zvols are cloned.
    """
    return f"{_CLONE_ORIGIN}{volume_id}"


def is_own_snapshot(snapshot: str) -> bool:
    """Say whether a snapshot's whole name is one of the agent's own: no SnapshotName begins like that."""
    return snapshot.partition("@")[2].startswith((_CLONE_ORIGIN, _SENT))


def is_clone_origin(snapshot: str) -> bool:
    """Say whether a snapshot's whole name is one that `clone_origin` gives, or has a moment's leaf."""
    return snapshot.partition("@")[2].startswith(_CLONE_ORIGIN)


def view_name(view_id: VolumeId) -> ZvolName:
    """Return the name of the temporary clone through which a snapshot is read."""
    return ZvolName(f"{_VIEW}{view_id}")


def viewed_id(zvol: str) -> VolumeId | None:
    """Return the id that a view's name has in it; None of any other name."""
    try:
        return VolumeId(zvol.removeprefix(_VIEW)) if zvol.startswith(_VIEW) else None
    except InvalidRequest:
        return None


def put_aside_name(guid: int) -> ZvolName:
    """Return the name of a zvol that was deleted and is kept for its snapshots' clones.

    :param guid: the zvol's own, so that no two ever meet and its former name is free.
    """
    return ZvolName(f"{_PUT_ASIDE}{guid:016x}")


def reverted_name(zvol: ZvolName) -> ZvolName:
    """Return the name of the clone that is to take a zvol's place, as long as it has not.

    A digest, for the zvol's own name may be as long as any.
    """
    return ZvolName(f"{_REVERTED}{hashlib.sha256(zvol.encode()).hexdigest()[:_DIGEST_CHARACTERS]}")


def arriving_name(zvol: ZvolName) -> ZvolName:
    """Return the name of the copy that a zvol is sent to in another zpool, as long as it is not whole."""
    return ZvolName(f"{_ARRIVING}{hashlib.sha256(zvol.encode()).hexdigest()[:_DIGEST_CHARACTERS]}")


def copying_name(volume_id: VolumeId) -> ZvolName:
    """Return the name of a volume's copy on another SAN, as long as it is not whole."""
    return ZvolName(f"{_COPYING}{volume_id}")


def copied_name(volume_id: VolumeId) -> ZvolName:
    """Return the name of what a volume was before it moved to another SAN, until that is deleted."""
    return ZvolName(f"{_COPIED}{volume_id}")


def migrating_id(zvol: str) -> VolumeId | None:
    """Return the id of the volume whose half, as it moves to another SAN, has such a name; None of others."""
    for begin in (_COPYING, _COPIED):
        if zvol.startswith(begin):
            try:
                return VolumeId(zvol.removeprefix(begin))
            except InvalidRequest:
                return None
    return None


def sent_leaf(operation: OperationId) -> str:
    """Return the part behind the ``@`` of the agent's own snapshot that an operation sends."""
    return f"{_SENT}{operation}"


def is_between(zvol: str) -> bool:
    """Say whether a name is one that the agent gives to what is no volume any more, or none yet."""
    return zvol.startswith((_PUT_ASIDE, _REVERTED, _ARRIVING))


def target_name(prefix: TargetPrefix, zvol: ZvolName) -> str:
    """Return the IQN of the one target that exports a zvol."""
    return f"{prefix}{zvol}"


def subsystem_name(prefix: TargetPrefix, zvol: ZvolName, initiator: InitiatorName) -> str:
    """Return the NQN of the one subsystem that exports a zvol to an initiator.

    Each initiator has a subsystem of its own, for the kernel ends an initiator's controllers only with the
    subsystem. The initiator's part is a digest of its name, for both whole would be longer than an NQN.
    """
    digest = hashlib.sha256(initiator.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{subsystems_begin(prefix, zvol)}{digest}"


def subsystems_begin(prefix: TargetPrefix, zvol: ZvolName) -> str:
    """Return what the NQNs of all subsystems of a zvol begin with; a digest of 16 letters follows."""
    return f"nqn{prefix.removeprefix('iqn')}{zvol}:"


def export_target(
    exporter: ExporterName, prefix: TargetPrefix, zvol: ZvolName, initiator: InitiatorName
) -> str:
    """Return the name of what exports a zvol to an initiator: an IQN, or a subsystem's NQN."""
    return subsystem_name(prefix, zvol, initiator) if exporter == NVMET else target_name(prefix, zvol)


def chap_user(target: str, initiator: InitiatorName) -> str:
    """Return the CHAP user of an initiator at a target.

    tgtd keeps users for all targets together and tells of none whose it is; so it follows from both names,
    and nobody can ask for another's.
    """
    digest = hashlib.sha256(f"{target} {initiator}".encode()).hexdigest()
    return f"zolder-{digest[:_DIGEST_CHARACTERS]}"


def unit_number(exporter: ExporterName) -> int:
    """Return the number of an export's one LUN, or its one namespace's id."""
    return 0 if exporter == LIO else 1


def unit_serial(volume_id: VolumeId) -> str:
    """Return the SCSI unit serial of a volume: its id's 32 hex digits, equal on every SAN."""
    return volume_id.replace("-", "")
