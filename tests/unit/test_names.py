from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.strategies import HOSTILE, zvol_names
from zolder import names
from zolder.errors import InvalidRequest
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    AttachmentId,
    DatasetName,
    ExporterName,
    Identity,
    InitiatorName,
    Name,
    OperationId,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
)

KINDS = (
    DatasetName,
    ZvolName,
    SnapshotName,
    VolumeId,
    OperationId,
    AttachmentId,
    ExporterName,
    InitiatorName,
    TargetPrefix,
    Portal,
    Identity,
)
ID = "3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"
GOOD = (
    (DatasetName, "data"),
    (DatasetName, "data/openstack/volumes"),
    (DatasetName, "Tank_1/a.b-c"),
    (ZvolName, f"volume-{ID}"),
    (SnapshotName, f"snapshot-{ID}"),
    (SnapshotName, "zolder"),
    (VolumeId, ID),
    (OperationId, ID),
    (AttachmentId, ID),
    (ExporterName, "lio"),
    (ExporterName, "tgt"),
    (ExporterName, "nvmet"),
    (InitiatorName, "iqn.1993-08.org.debian:01:8f1a75836ca6"),
    (InitiatorName, "eui.0123456789abcdef"),
    (InitiatorName, "naa.0123456789abcdef0123456789abcdef"),
    (InitiatorName, "nqn.2014-08.org.nvmexpress:uuid:" + ID),
    (InitiatorName, "nqn.2014-08.org.nvmexpress:uuid:" + ID.upper()),
    (TargetPrefix, "iqn.2010-10.org.openstack:"),
    (Portal, "192.0.2.1:3260"),
    (Portal, "[2001:db8::1]:3261"),
    (Identity, "cinder-1"),
)
BAD = (
    (DatasetName, "data/.hidden"),
    (DatasetName, "data/-o"),
    (DatasetName, "1data"),
    (DatasetName, "data/a:b"),
    (DatasetName, "data/" + "x" * 60),
    (ZvolName, "Volume-1"),
    (ZvolName, "volume_1"),
    (ZvolName, ".volume"),
    (ZvolName, "x" * 97),
    (SnapshotName, "zolder-clone-1"),
    (VolumeId, ID.upper()),
    (VolumeId, ID.replace("-", "")),
    (VolumeId, "{" + ID + "}"),
    (InitiatorName, "IQN.1993-08.org.debian:01"),
    (InitiatorName, "iqn.93-08.org.debian"),
    (InitiatorName, "eui.0123"),
    (InitiatorName, "nqn.2014-08.org.nvmexpress"),
    (InitiatorName, "nqn.2014-08.org.nvmexpress:"),
    (InitiatorName, "nqn.2014-08.org.nvmexpress:uuid/" + ID),
    (InitiatorName, "nqn.2014-08.ORG.nvmexpress:uuid:" + ID),
    (InitiatorName, "NQN.2014-08.org.nvmexpress:uuid:" + ID),
    (InitiatorName, "nqn.2014-08.org.nvmexpress:" + "x" * 197),
    (AttachmentId, ID.upper()),
    (ExporterName, "LIO"),
    (ExporterName, "lio tgt"),
    (ExporterName, "scst"),
    (TargetPrefix, "iqn.2010-10.org.openstack"),
    (TargetPrefix, "nqn.2010-10.org.openstack:"),
    (TargetPrefix, "iqn.2010-10.org.openstack:".ljust(111, "p")),
    (Portal, "192.0.2.1"),
    (Portal, "san.example.org:3260"),
    (Portal, "999.0.2.1:3260"),
    (Portal, "192.0.2.1:65536"),
    (Portal, "192.0.2.1:0"),
    (Portal, "192.0.2.1:03260"),
    (Portal, "[::0001]:3260"),
    (Portal, "2001:db8::1:3260"),
    (Portal, "[192.0.2.1]:3260"),
    (Identity, "root;"),
    (Identity, "_x"),
)


@pytest.mark.parametrize(("kind", "text"), GOOD)
def test_good(kind: type[Name], text: str) -> None:
    """A name of ours is kept letter by letter."""
    assert kind(text) == text


@pytest.mark.parametrize(("kind", "text"), BAD)
def test_bad(kind: type[Name], text: str) -> None:
    """What is nearly a name of ours is refused."""
    with pytest.raises(InvalidRequest):
        kind(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile(kind: type[Name], text: str) -> None:
    """No class of names takes a path, an option, an ``@``, a control character or a look-alike."""
    with pytest.raises(InvalidRequest) as caught:
        kind(text)
    assert caught.value.message.isprintable()
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 1, True, b"data", ["data"], {"data": 1}])
def test_not_a_string(kind: type[Name], value: object) -> None:
    """What is no string is refused by its type's name alone, so a secret passed by mistake never shows."""
    with pytest.raises(InvalidRequest, match="a string is needed, not"):
        kind(value)  # type: ignore[arg-type]  # the wire brings any JSON value here


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=400))
def test_any_text(kind: type[Name], text: str) -> None:
    """Any text is either kept as it is or refused with InvalidRequest."""
    try:
        name = kind(text)
    except InvalidRequest:
        return
    assert name == text
    assert name.isascii()
    assert not name.startswith("-")
    assert not set(name) & set("@#% \t\n\0;|&$`'\"\\")


@given(name=zvol_names)
def test_dataset_of_a_zvol(name: str) -> None:
    """The longest parent, zvol and snapshot together fit what zfs(8) allows, one level below the parent."""
    parent = DatasetName("d" * DatasetName.max_length)
    snapshot = SnapshotName("s" * SnapshotName.max_length)
    whole = names.snapshot_dataset(parent, ZvolName(name), snapshot)
    assert len(whole) <= names.MAX_DATASET_BYTES
    assert whole.count("/") == 1
    assert whole.count("@") == 1
    assert whole.startswith(names.zvol_dataset(parent, ZvolName(name)))


@given(name=zvol_names)
def test_target_of_a_zvol(name: str) -> None:
    """The longest prefix and zvol together are an iSCSI name of RFC 7143, at most 223 bytes."""
    prefix = TargetPrefix("iqn.2010-10.org.openstack:".ljust(TargetPrefix.max_length, "p"))
    assert InitiatorName(names.target_name(prefix, ZvolName(name)))


@given(name=zvol_names, initiator=st.from_regex(InitiatorName.pattern, fullmatch=True))
def test_subsystem_of_a_zvol(name: str, initiator: str) -> None:
    """The longest prefix and zvol make an NQN of at most 223 bytes for any initiator, and for it alone."""
    assume(len(initiator) <= InitiatorName.max_length)
    prefix = TargetPrefix("iqn.2010-10.org.openstack:".ljust(TargetPrefix.max_length, "p"))
    zvol, other = ZvolName(name), InitiatorName("nqn.2014-08.org.nvmexpress:uuid:another")
    found = names.subsystem_name(prefix, zvol, InitiatorName(initiator))
    assert InitiatorName(found).is_nqn
    assert found.startswith(names.subsystems_begin(prefix, zvol))
    assert (found == names.subsystem_name(prefix, zvol, other)) == (initiator == other)


def test_targets_by_exporter() -> None:
    """An iSCSI exporter has one target for all of a zvol's initiators, NVMe-oF a subsystem for each."""
    prefix, zvol = TargetPrefix("iqn.2010-10.org.openstack:"), ZvolName("volume-1")
    one, two = (InitiatorName(f"nqn.2014-08.org.nvmexpress:uuid:{number}") for number in (1, 2))
    for exporter in (LIO, TGT):
        assert {names.export_target(exporter, prefix, zvol, each) for each in (one, two)} == {
            "iqn.2010-10.org.openstack:volume-1"
        }
    of_both = {names.export_target(NVMET, prefix, zvol, each) for each in (one, two)}
    assert len(of_both) == 2
    assert all(target.startswith("nqn.2010-10.org.openstack:volume-1:") for target in of_both)
    assert [names.unit_number(exporter) for exporter in (LIO, TGT, NVMET)] == [0, 1, 1]


def test_only_a_host_nqn_is_one() -> None:
    """What begins with ``nqn.`` is NVMe-oF's kind of initiator, and no other is."""
    nqn = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:" + ID)
    iscsi = ("iqn.1993-08.org.debian:01:8f1a75836ca6", "eui.0123456789abcdef", "iqn.2010-10.nqn.org:nqn.x")
    assert nqn.is_nqn
    assert not any(InitiatorName(text).is_nqn for text in iscsi)


def test_a_views_name_follows_from_its_snapshot() -> None:
    """The view of a snapshot has a zvol's name with the snapshot's own id in it."""
    assert names.view_name(VolumeId(ID)) == ZvolName(f"zolder-view-{ID}")


def test_unit_serial() -> None:
    """A volume's serial is its id without dashes, so it is the same on every SAN."""
    assert names.unit_serial(VolumeId(ID)) == "3f0c1b6e5a524c1e9a0b0123456789ab"


def test_zpool() -> None:
    """A dataset's zpool is its first part."""
    assert DatasetName("data/openstack/volumes").zpool == "data"
    assert DatasetName("data").zpool == "data"
