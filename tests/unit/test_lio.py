from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.target_tree import Killed, TargetTree, picture
from zolder.errors import AlreadyExists, BackendError, Busy, InvalidRequest
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName
from zolder.san import lio as lio_module
from zolder.san.exporter import Exported, Subject
from zolder.san.iblock import backstore_path
from zolder.san.lio import Lio
from zolder.san.run import Finished

PREFIX = TargetPrefix("iqn.2012-12.org.example:")
SUBJECT = Subject(DatasetName("data/volumes"), ZvolName("volume-1"), PREFIX)
TARGET = "iqn.2012-12.org.example:volume-1"
STORE = "data:volumes:volume-1"
ID = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
SERIAL = "3f0c6a1e8d2b4c5fa7e09b1d2c3f4a5b"
DEVICE = Path("/dev/zd16")
PORTALS = (Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260"))
ALICE = InitiatorName("iqn.1993-08.org.debian:alice")
BOB = InitiatorName("iqn.1993-08.org.debian:bob")
SECRET = Chap("zolder", "not-for-any-log-1")
MUTUAL = Chap("zolder", "not-for-any-log-1", "san", "not-for-any-log-2")

HBA = backstore_path(STORE).rpartition("/")[0]
TPG = f"iscsi/{TARGET}/tpgt_1"
ACL = f"{TPG}/acls/{ALICE}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a target tree as the modules leave it."""
    root = tmp_path / "target"
    (root / "core").mkdir(parents=True)
    TargetTree(root).make_folder("iscsi")
    return root


def ensure(
    root: Path,
    *,
    tree: TargetTree | None = None,
    subject: Subject = SUBJECT,
    **changed: Any,  # noqa: ANN401 - any of ensure_export's own
) -> bool:
    """Ask for the export of these tests, with what differs."""
    wanted: dict[str, Any] = {
        "device": DEVICE,
        "volume_id": ID,
        "portals": PORTALS,
        "initiator": ALICE,
        "chap": SECRET,
        "read_only": False,
    }
    return Lio(tree=tree or TargetTree(root)).ensure_export(subject, **wanted | changed)


def exported(root: Path) -> Exported | None:
    """Return the one export of these tests as it stands."""
    found = {export.target: export for export in Lio(tree=TargetTree(root)).list_exports(PREFIX)}
    return found.get(TARGET)


def steps_of_export(tmp_path: Path) -> int:
    """Return how many steps a first export takes."""
    root = tmp_path / "counted"
    (root / "core").mkdir(parents=True)
    TargetTree(root).make_folder("iscsi")
    tree = TargetTree(root)
    ensure(root, tree=tree)
    return len(tree.steps)


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


def test_an_export_killed_at_any_step_is_completed_by_the_next(tmp_path: Path, root: Path) -> None:
    """After a kill at every single step, asking again gives the tree of an undisturbed export."""
    pristine = picture(root)
    ensure(root)
    whole = picture(root)
    Lio(tree=TargetTree(root)).remove_export(SUBJECT)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(Killed):
            ensure(root, tree=TargetTree(root, kill_at=step))
        assert ensure(root) is True, f"killed at step {step}"
        assert picture(root) == whole, f"killed at step {step}"
        Lio(tree=TargetTree(root)).remove_export(SUBJECT)
        assert picture(root) == pristine, f"killed at step {step}"


def test_an_export_killed_at_any_step_is_removed_whole(tmp_path: Path, root: Path) -> None:
    """After a kill at every single step, removing the export leaves nothing of it."""
    pristine = picture(root)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(Killed):
            ensure(root, tree=TargetTree(root, kill_at=step))
        Lio(tree=TargetTree(root)).remove_export(SUBJECT)
        assert picture(root) == pristine, f"killed at step {step}"


def test_a_removal_killed_at_any_step_is_completed_by_the_next(root: Path) -> None:
    """After a kill at every single step of a removal, removing again or exporting again ends well."""
    pristine = picture(root)
    ensure(root)
    whole = picture(root)
    tree = TargetTree(root)
    Lio(tree=tree).remove_export(SUBJECT)
    for step in range(len(tree.steps)):
        for ending in (pristine, whole):
            ensure(root)
            with pytest.raises(Killed):
                Lio(tree=TargetTree(root, kill_at=step)).remove_export(SUBJECT)
            if ending is whole:
                ensure(root)
            else:
                Lio(tree=TargetTree(root)).remove_export(SUBJECT)
            assert picture(root) == ending, f"killed at step {step}"


def test_an_export_refused_at_any_step_takes_back_what_it_made(tmp_path: Path, root: Path) -> None:
    """Whichever step the kernel refuses, the tree is afterwards as it was before."""
    pristine = picture(root)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(root, tree=TargetTree(root, refuse_at=step))
        assert picture(root) == pristine, f"refused at step {step}"


def test_a_second_initiator_refused_leaves_the_first(root: Path) -> None:
    """A failure for one more initiator takes back its ACL and nothing of the export that stood."""
    ensure(root)
    whole = picture(root)
    count = TargetTree(root)
    ensure(root, tree=count, initiator=BOB)
    Lio(tree=TargetTree(root)).remove_initiator(SUBJECT, BOB)
    for step in range(len(count.steps)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(root, tree=TargetTree(root, refuse_at=step), initiator=BOB)
        assert picture(root) == whole, f"refused at step {step}"


def test_an_error_on_the_way_back_is_logged_and_hides_nothing(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When undoing fails as well, the caller gets the first error and the log names what is left."""
    tree = TargetTree(root)

    def refuse(path: str) -> bool:
        message = f"configfs: cannot remove {path}: still in use"
        raise BackendError(message)

    monkeypatch.setattr(tree, "remove_folder", refuse)
    tree.claimed.add(str(DEVICE))
    with pytest.raises(Busy):
        ensure(root, tree=tree)
    assert f"left behind after a failure: configfs: cannot remove {HBA}/{STORE}" in caplog.text


def test_a_claimed_device_is_busy(root: Path) -> None:
    """A device that somebody else claims raises Busy, and leaves nothing behind."""
    pristine = picture(root)
    tree = TargetTree(root)
    tree.claimed.add(str(DEVICE))
    with pytest.raises(Busy, match="/dev/zd16 is claimed by somebody else"):
        ensure(root, tree=tree)
    assert picture(root) == pristine


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
    with pytest.raises(AlreadyExists, match=store):
        ensure(root)
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


def test_an_exported_serial_is_never_changed(root: Path) -> None:
    """A backstore that is exported under another serial is refused: initiators know the disk by it."""
    ensure(root)
    with pytest.raises(AlreadyExists, match=SERIAL):
        ensure(root, volume_id=VolumeId("00000000-0000-4000-8000-000000000001"))


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


def test_a_second_initiator_has_its_own_acl_and_secret(root: Path) -> None:
    """Initiators share the target and its LUN, never a secret, and go one by one."""
    ensure(root)
    assert ensure(root, initiator=BOB, chap=Chap("bob", "another-secret-22")) is True
    tree = TargetTree(root)
    assert tree.read(f"{ACL}/auth/password") == SECRET.secret
    assert tree.read(f"{TPG}/acls/{BOB}/auth/password") == "another-secret-22"
    lio = Lio(tree=tree)
    assert lio.initiators_of(SUBJECT) == (ALICE, BOB)
    assert lio.remove_initiator(SUBJECT, ALICE) is True
    assert lio.remove_initiator(SUBJECT, ALICE) is False
    assert lio.initiators_of(SUBJECT) == (BOB,)
    assert exported(root) == Exported(TARGET, SUBJECT.dataset, (BOB,), PORTALS)


def test_the_last_initiator_takes_the_export_along(root: Path) -> None:
    """Once nobody is left, target, backstore and HBA are gone; asking again changes nothing."""
    pristine = picture(root)
    ensure(root)
    lio = Lio(tree=TargetTree(root))
    assert lio.remove_initiator(SUBJECT, ALICE) is True
    assert picture(root) == pristine
    assert lio.remove_initiator(SUBJECT, ALICE) is False
    assert lio.remove_export(SUBJECT) is False
    assert lio.is_open(SUBJECT) is False


def test_a_removed_initiator_that_never_was_one_leaves_the_others(root: Path) -> None:
    """Shutting out somebody who was never let in changes nothing."""
    ensure(root)
    before = picture(root)
    assert Lio(tree=TargetTree(root)).remove_initiator(SUBJECT, BOB) is False
    assert picture(root) == before


def test_a_new_secret_replaces_the_old(root: Path) -> None:
    """An initiator's secret is what the last request said."""
    ensure(root)
    assert ensure(root, chap=Chap("zolder", "a-newer-secret-3")) is True
    assert TargetTree(root).read(f"{ACL}/auth/password") == "a-newer-secret-3"


def test_mutual_chap_has_both_pairs_and_goes_with_the_next_request(root: Path) -> None:
    """The target's own pair stands beside the initiator's, and is cleared where it is no longer asked for."""
    assert ensure(root, chap=MUTUAL) is True
    tree = TargetTree(root)
    shown = [tree.read(f"{ACL}/auth/{name}") for name in ("userid_mutual", "password_mutual")]
    assert shown == [MUTUAL.target_user, MUTUAL.target_secret]
    assert ensure(root, chap=MUTUAL) is False
    assert ensure(root, chap=SECRET) is True
    shown = [tree.read(f"{ACL}/auth/{name}") for name in ("userid_mutual", "password_mutual", "password")]
    assert shown == ["NULL", "NULL", SECRET.secret]


@pytest.mark.parametrize(
    "chap",
    [
        replace(MUTUAL, target_user=None),
        replace(MUTUAL, target_secret=None),
        replace(MUTUAL, target_secret=MUTUAL.secret),
        replace(MUTUAL, target_secret="NULLarbor"),
    ],
)
def test_half_of_mutual_chap_is_refused(root: Path, chap: Chap) -> None:
    """A target without user or secret, or with the initiator's own secret, is refused at once."""
    before = picture(root)
    with pytest.raises(InvalidRequest) as caught:
        ensure(root, chap=chap)
    assert chap.secret not in caught.value.message
    assert picture(root) == before


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


def test_a_host_nqn_is_no_initiator_here(root: Path) -> None:
    """NVMe-oF's kind of initiator is refused before anything is made."""
    before = picture(root)
    with pytest.raises(InvalidRequest, match="is an NQN"):
        ensure(root, initiator=InitiatorName("nqn.2014-08.org.nvmexpress:uuid:1"))
    assert picture(root) == before


def test_growth_writes_nothing(root: Path) -> None:
    """The kernel asks the device for its size itself, so an export that stands is left as it is."""
    ensure(root)
    tree = TargetTree(root)
    Lio(tree=tree).grow_export(SUBJECT, device=DEVICE)
    assert tree.steps == []


def test_without_chap_nothing_is_asked_for(root: Path) -> None:
    """Without CHAP the target asks for no secret, and an earlier one is cleared."""
    ensure(root)
    assert ensure(root, chap=None) is True
    tree = TargetTree(root)
    assert tree.read(f"{TPG}/attrib/authentication") == "0"
    assert tree.read(f"{ACL}/attrib/authentication") == "0"
    assert (tree.read(f"{ACL}/auth/userid"), tree.read(f"{ACL}/auth/password")) == ("NULL", "NULL")
    assert ensure(root, chap=None) is False


def test_one_initiator_without_chap_never_opens_the_target_of_one_with(root: Path) -> None:
    """While one initiator has a secret the TPG asks for one; the other's own ACL says that it needs none."""
    ensure(root)
    ensure(root, initiator=BOB, chap=None)
    tree = TargetTree(root)
    assert tree.read(f"{TPG}/attrib/authentication") == "1"
    assert tree.read(f"{ACL}/attrib/authentication") == "1"
    assert tree.read(f"{TPG}/acls/{BOB}/attrib/authentication") == "0"


def test_a_secret_shows_in_no_error_and_no_log(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever step fails, neither the error nor the log has the secret."""
    caplog.set_level("DEBUG")
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(BackendError) as caught:
            ensure(root, tree=TargetTree(root, refuse_at=step))
        shown = f"{caught.value!r} {caught.value.details} {caught.value.__cause__!r}"
        assert SECRET.secret not in shown
    assert SECRET.secret not in caplog.text


@pytest.mark.parametrize("value", ["", "NULL", "NULLarbor", "x" * 256, "line\nbreak", " spaced", "tab\t"])
def test_credentials_that_the_kernel_would_change_are_refused(root: Path, value: str) -> None:
    """A CHAP name or secret that would be cut, cleared or split is refused before anything is made."""
    before = picture(root)
    for chap in (Chap(value, "a-good-secret-12"), Chap("zolder", value)):
        with pytest.raises(InvalidRequest) as caught:
            ensure(root, chap=chap)
        assert not value or value not in caught.value.message.replace("not beginning with NULL", "")
    assert picture(root) == before


def test_portals_are_exactly_those_asked_for(root: Path) -> None:
    """A portal that is no longer asked for goes; a new one is added to a live target."""
    ensure(root)
    third = Portal("198.51.100.7:3260")
    assert ensure(root, portals=(PORTALS[0], third)) is True
    export = exported(root)
    assert export is not None
    assert export.portals == (PORTALS[0], third)


def test_a_portal_that_is_still_closing_is_asked_for_again(root: Path) -> None:
    """While the last target at a portal goes, the kernel refuses the next one there for a moment."""
    tree = TargetTree(root)
    tree.closing[PORTALS[0]] = 3
    assert ensure(root, tree=tree) is True
    export = exported(root)
    assert export is not None
    assert export.portals == PORTALS


def test_a_port_that_another_program_holds_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a portal stays refused, the error says at which address, and nothing is left behind."""
    monkeypatch.setattr(lio_module, "_LONGEST_PAUSE_SECONDS", 0.01)
    pristine = picture(root)
    tree = TargetTree(root)
    tree.closing[PORTALS[0]] = 99
    with pytest.raises(BackendError, match=r"LIO cannot listen at 192\.0\.2\.1:3260"):
        ensure(root, tree=tree)
    assert picture(root) == pristine


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


def test_a_kernel_without_lio_is_told_what_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where configfs has no target folder the modules are asked for once, and the error names them."""
    asked = []

    def modprobe(argv: list[str]) -> Finished:
        asked.append(argv)
        return Finished(tuple(argv), 1, "", "modprobe: FATAL: Module target_core_mod not found")

    monkeypatch.setattr(lio_module, "run", modprobe)
    with pytest.raises(BackendError, match="modprobe -a target_core_mod iscsi_target_mod"):
        ensure(tmp_path / "nothing", tree=TargetTree(tmp_path / "nothing"))
    assert asked == [["modprobe", "-a", "target_core_mod", "iscsi_target_mod"]]


def test_a_fresh_lio_gets_its_iscsi_fabric(tmp_path: Path) -> None:
    """The first export after the modules were loaded makes the iSCSI fabric's folder."""
    root = tmp_path / "target"
    (root / "core").mkdir(parents=True)
    assert ensure(root) is True
    assert (root / "iscsi" / TARGET).is_dir()
