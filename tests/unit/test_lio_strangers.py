"""What somebody else has in LIO, by our names or beside ours: it is refused, shared or left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import lio_export
from tests.unit.kernel_tree import picture
from tests.unit.lio_export import (
    ALICE,
    DEVICE,
    HBA,
    PORTALS,
    PREFIX,
    SERIAL,
    STORE,
    SUBJECT,
    TARGET,
    TPG,
    ensure,
    exported,
)
from tests.unit.target_tree import TargetTree
from zolder.errors import AlreadyExists
from zolder.names import TargetPrefix
from zolder.san.exporter import Exported
from zolder.san.lio import Lio

root = lio_export.root


@pytest.mark.parametrize(
    ("kind", "name", "device"),
    [("iblock", "other", DEVICE), ("fileio", STORE, DEVICE), ("iblock", STORE, Path("/dev/zd32"))],
)
def test_a_target_of_somebody_else_is_never_touched(root: Path, kind: str, name: str, device: Path) -> None:
    """A target of our name on another backstore, kind or device is refused by name and left as it is."""
    store = f"core/{kind}_0/{name}"
    foreign = TargetTree(root)
    for folder in (f"core/{kind}_0", store, f"iscsi/{TARGET}", TPG, f"{TPG}/lun/lun_0"):
        foreign.make_folder(folder)
    foreign.write(f"{store}/control", f"udev_path={device}")
    foreign.write(f"{store}/enable", "1")
    foreign.make_link(f"{TPG}/lun/lun_0/theirs", store)
    before = picture(root)
    with pytest.raises(AlreadyExists, match=store) as caught:
        ensure(root)
    # A restore (zolder.san.rebuild) takes away only what is open on another device.
    assert caught.value.details.get("device") == (str(device) if device != DEVICE else None)
    assert picture(root) == before
    if name != STORE or kind != "iblock":
        with pytest.raises(AlreadyExists, match=TARGET):
            Lio(tree=TargetTree(root)).remove_export(SUBJECT)
        with pytest.raises(AlreadyExists, match=TARGET):
            Lio(tree=TargetTree(root)).remove_initiator(SUBJECT, ALICE)
        assert picture(root) == before


@pytest.mark.parametrize("strange", [f"iscsi/{TARGET}/tpgt_2", f"{TPG}/lun/lun_1"])
def test_a_target_with_more_than_ours_is_never_touched(root: Path, strange: str) -> None:
    """A second TPG or LUN in a target of our name is somebody else's work."""
    ensure(root)
    TargetTree(root).make_folder(strange)
    before = picture(root)
    with pytest.raises(AlreadyExists, match=strange.rpartition("/")[2]):
        ensure(root)
    with pytest.raises(AlreadyExists, match=strange.rpartition("/")[2]):
        Lio(tree=TargetTree(root)).remove_export(SUBJECT)
    assert picture(root) == before


def test_what_targetcli_restored_of_ours_is_adopted(root: Path) -> None:
    """A LUN is followed to its backstore, so one of our name in another HBA is used and removed too."""
    pristine = picture(root)
    store = f"core/iblock_7/{STORE}"
    restored = TargetTree(root)
    for folder in ("core/iblock_7", store, f"iscsi/{TARGET}", TPG, f"{TPG}/lun/lun_0"):
        restored.make_folder(folder)
    restored.write(f"{store}/control", f"udev_path={DEVICE}")
    restored.write(f"{store}/enable", "1")
    restored.write(f"{store}/wwn/vpd_unit_serial", SERIAL)
    restored.make_link(f"{TPG}/lun/lun_0/1a2b3c4d5e", store)
    assert ensure(root) is True
    assert exported(root) == Exported(TARGET, "data/volumes/volume-1", (ALICE,), PORTALS)
    assert Lio(tree=TargetTree(root)).remove_export(SUBJECT) is True
    assert picture(root) == pristine


def test_an_hba_with_another_backstore_is_shared_and_left(root: Path) -> None:
    """Should two ever meet in one HBA both work, and each removal leaves the other's."""
    other = TargetTree(root)
    other.make_folder(HBA)
    other.make_folder(f"{HBA}/other")
    before = picture(root)
    assert ensure(root) is True
    assert Lio(tree=TargetTree(root)).remove_export(SUBJECT) is True
    assert picture(root) == before


def test_a_backstore_that_another_target_exports_stays(root: Path) -> None:
    """Removing what was never exported under one prefix leaves the export of the same zvol under another."""
    ensure(root)
    before = picture(root)
    lio = Lio(tree=TargetTree(root))
    elsewhere = replace(SUBJECT, prefix=TargetPrefix("iqn.2012-12.org.elsewhere:"))
    assert lio.remove_export(elsewhere) is False
    assert lio.remove_initiator(elsewhere, ALICE) is False
    assert lio.is_open(elsewhere), "the zvol's device is open, whatever the prefix"
    assert picture(root) == before


@pytest.mark.parametrize("store", ["core/iblock_3/data:volumes:volume-2", f"core/fileio_0/{STORE}"])
def test_a_target_on_a_backstore_that_is_not_ours_is_not_listed(root: Path, store: str) -> None:
    """A target of our name on another zvol's backstore, or on another kind, is no export of ours."""
    foreign = TargetTree(root)
    for folder in (store.rpartition("/")[0], store, f"iscsi/{TARGET}", TPG, f"{TPG}/lun/lun_0"):
        foreign.make_folder(folder)
    foreign.write(f"{store}/control", f"udev_path={DEVICE}")
    foreign.write(f"{store}/enable", "1")
    foreign.make_link(f"{TPG}/lun/lun_0/theirs", store)
    assert Lio(tree=TargetTree(root)).list_exports(PREFIX) == ()


def test_a_stranger_among_the_acls_is_shown_to_nobody_and_leaves_with_the_target(root: Path) -> None:
    """An ACL or portal with a name that Zolder never makes does not break a listing or a removal."""
    pristine = picture(root)
    ensure(root)
    stranger = TargetTree(root)
    stranger.make_folder(f"{TPG}/acls/IQN.1991-05.com.microsoft:UPPER")
    stranger.make_folder(f"{TPG}/np/[fe80::1%eth0]:3260")
    lio = Lio(tree=TargetTree(root))
    assert exported(root) == Exported(TARGET, SUBJECT.dataset, (ALICE,), PORTALS)
    assert lio.remove_initiator(SUBJECT, ALICE) is True
    assert picture(root) == pristine
