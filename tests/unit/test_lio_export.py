"""An export over LIO: what its target, LUN and backstore are made of, and which are listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import lio_export
from tests.unit.kernel_tree import picture
from tests.unit.lio_export import (
    ACL,
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
from zolder.names import Portal, TargetPrefix, VolumeId, ZvolName
from zolder.san.exporter import Exported
from zolder.san.iblock import backstore_path
from zolder.san.lio import Lio

root = lio_export.root


def test_an_export_is_a_closed_target_with_one_lun(root: Path) -> None:
    """An export has its LUN, portals, ACL and secret, demo mode off, and its own HBA."""
    assert ensure(root) is True
    seen = picture(root)
    assert {path: text for path, text in seen.items() if path.startswith(f"{TPG}/attrib/")} == {
        f"{TPG}/attrib/authentication": "1",
        f"{TPG}/attrib/generate_node_acls": "0",
        f"{TPG}/attrib/demo_mode_discovery": "0",
        f"{TPG}/attrib/cache_dynamic_acls": "0",
    }
    assert seen[f"{TPG}/enable"] == "1"
    assert seen[f"{TPG}/lun/lun_0/{STORE}"] == f"-> {HBA}/{STORE}"
    assert seen[f"{ACL}/lun_0/lun_0"] == f"-> {TPG}/lun/lun_0"
    assert (seen[f"{ACL}/auth/userid"], seen[f"{ACL}/auth/password"]) == ("zolder", "not-for-any-log-1")
    assert seen[f"{ACL}/attrib/authentication"] == "1"
    assert seen[f"{HBA}/{STORE}/wwn/vpd_unit_serial"].endswith(SERIAL)
    assert seen[f"{HBA}/{STORE}/udev_path"] == str(DEVICE)
    assert [seen[f"{HBA}/{STORE}/attrib/emulate_{name}"] for name in ("tpu", "tpws", "3pc")] == [
        "1",
        "1",
        "0",
    ]
    assert {path for path in seen if path.startswith(f"{TPG}/np/") and seen[path] == "/"} == {
        f"{TPG}/np/{portal}" for portal in PORTALS
    }


def test_a_repeated_export_changes_nothing(root: Path) -> None:
    """The same request again answers that nothing changed, and writes nothing."""
    ensure(root)
    before = picture(root)
    again = TargetTree(root)
    assert ensure(root, tree=again) is False
    assert [step for step in again.steps if step.startswith("write")] == []
    assert picture(root) == before


def test_the_serial_comes_before_the_lun_and_enabling_comes_last(root: Path) -> None:
    """An initiator can never see the LUN without its serial, nor a target that is not whole."""
    tree = TargetTree(root)
    ensure(root, tree=tree)
    assert tree.steps[-1] == f"write {TPG}/enable"
    assert tree.steps.index(f"write {HBA}/{STORE}/wwn/vpd_unit_serial") < tree.steps.index(
        f"link {TPG}/lun/lun_0/{STORE}"
    )
    assert tree.steps.index(f"write {ACL}/auth/password") < tree.steps.index(f"link {ACL}/lun_0/lun_0")


def test_an_exported_serial_is_never_changed(root: Path) -> None:
    """A backstore that is exported under another serial is refused: initiators know the disk by it."""
    ensure(root)
    with pytest.raises(AlreadyExists, match=SERIAL):
        ensure(root, volume_id=VolumeId("00000000-0000-4000-8000-000000000001"))


def test_the_number_of_an_hba_follows_from_the_name_and_fits_the_kernel() -> None:
    """Each name has a number of its own, below 2**64, which is what the kernel takes."""
    numbers = [int(backstore_path(f"volume-{n}").split("/")[1].removeprefix("iblock_")) for n in range(1000)]
    assert len(set(numbers)) == 1000
    assert max(numbers) < 1 << 64
    assert backstore_path(STORE) == backstore_path(STORE)


def test_the_cost_does_not_grow_with_the_exports_standing(root: Path) -> None:
    """Exporting and withdrawing look at the same few places whether none or many others stand."""
    alone = TargetTree(root)
    ensure(root, tree=alone)
    Lio(tree=alone).remove_export(SUBJECT)
    for number in range(30):
        ensure(
            root,
            subject=replace(SUBJECT, zvol=ZvolName(f"other-{number}")),
            device=Path(f"/dev/zd{32 + 16 * number}"),
            volume_id=VolumeId(f"00000000-0000-4000-8000-{number:012x}"),
            chap=None,
        )
    crowded = TargetTree(root)
    ensure(root, tree=crowded)
    Lio(tree=crowded).remove_export(SUBJECT)
    assert crowded.steps == alone.steps
    assert crowded.looks == alone.looks
    assert not {"ls iscsi", "ls core"} & set(crowded.looks)


def test_what_is_read_only_is_so_for_device_and_initiator(root: Path) -> None:
    """A snapshot's view is opened for reading alone, and each initiator's LUN refuses writes as well."""
    ensure(root, read_only=True)
    seen = picture(root)
    assert seen[f"{HBA}/{STORE}/info"].endswith("readonly: 1")
    assert seen[f"{ACL}/lun_0/write_protect"] == "1"
    assert ensure(root, read_only=True) is False


def test_what_is_not_read_only_may_be_written(root: Path) -> None:
    """A volume is opened for writing, and nobody's LUN refuses that."""
    ensure(root)
    seen = picture(root)
    assert seen[f"{HBA}/{STORE}/info"].endswith("readonly: 0")
    assert seen[f"{ACL}/lun_0/write_protect"] == "0"


def test_growth_writes_nothing(root: Path) -> None:
    """The kernel asks the device for its size itself, so an export that stands is left as it is."""
    ensure(root)
    tree = TargetTree(root)
    Lio(tree=tree).grow_export(SUBJECT, device=DEVICE, seconds=1)
    assert tree.steps == []


def test_portals_are_exactly_those_asked_for(root: Path) -> None:
    """A portal that is no longer asked for goes; a new one is added to a live target."""
    ensure(root)
    third = Portal("198.51.100.7:3260")
    assert ensure(root, portals=(PORTALS[0], third)) is True
    export = exported(root)
    assert export is not None
    assert export.portals == (PORTALS[0], third)


def test_exports_are_listed_by_prefix(root: Path) -> None:
    """A listing shows whole exports below the prefix: no leftovers, no other prefixes."""
    ensure(root)
    half_made = TargetTree(root)
    half_made.make_folder("iscsi/iqn.2012-12.org.example:volume-2")
    half_made.make_folder("iscsi/iqn.2012-12.org.elsewhere:volume-3")
    lio = Lio(tree=TargetTree(root))
    expected = Exported(TARGET, "data/volumes/volume-1", (ALICE,), PORTALS)
    assert lio.list_exports(PREFIX) == (expected,)
    assert lio.list_exports(TargetPrefix("iqn.2012-12.org.elsewhere:")) == ()
    assert lio.initiators_of(replace(SUBJECT, zvol=ZvolName("volume-2"))) == ()
    assert lio.initiators_of(replace(SUBJECT, zvol=ZvolName("volume-9"))) == ()


def test_an_export_is_listed_under_its_own_prefix_alone(root: Path) -> None:
    """Where one prefix begins with another, an export under the longer is not listed under both."""
    longer = TargetPrefix(f"{PREFIX}fast:")
    ensure(root, subject=replace(SUBJECT, prefix=longer))
    lio = Lio(tree=TargetTree(root))
    assert lio.list_exports(PREFIX) == ()
    assert [export.target for export in lio.list_exports(longer)] == [f"{longer}volume-1"]


def test_a_fresh_lio_gets_its_iscsi_fabric(tmp_path: Path) -> None:
    """The first export after the modules were loaded makes the iSCSI fabric's folder."""
    root = tmp_path / "target"
    (root / "core").mkdir(parents=True)
    assert ensure(root) is True
    assert (root / "iscsi" / TARGET).is_dir()
