"""An export over tgt: what its target and LUN are made of, whose it is, and which are listed."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest

from tests.unit import tgt_san
from tests.unit.tgt_daemon import Lun, Target
from tests.unit.tgt_san import (
    ALICE,
    BOB,
    GUARD,
    PORTAL,
    SECOND_TID,
    SUBJECT,
    TARGET,
    TID,
    VOLUME_ID,
    San,
    chap_of,
)
from zolder.errors import AlreadyExists, BackendError
from zolder.model import Chap
from zolder.names import DatasetName, Portal, TargetPrefix, ZvolName, chap_user
from zolder.san.exporter import Exported
from zolder.san.tgt import Tgt
from zolder.san.tgtd import Tgtd
from zolder.san.tgtrecord import Progress, parse_record

san = tgt_san.san


def test_an_export_is_a_closed_target_with_one_lun(san: San) -> None:
    """An export has one LUN with the volume's serial, one IQN, its account, and never an address."""
    assert san.ensure() is True
    target = san.daemon.targets[TID]
    assert (target.name, target.state) == (TARGET, "ready")
    assert (target.iqns, target.addresses) == ([ALICE], [])
    assert target.accounts == [GUARD, chap_of(ALICE).user]
    assert target.luns[1] == Lun(
        str(san.device),
        {
            "size": "4096",
            "scsi_id": "60014053f0c6a1e8d2b4c5fa7e09b1d2",
            "scsi_sn": "3f0c6a1e8d2b4c5fa7e09b1d2c3f4a5b",
            "vendor_id": "Zolder",
            "product_id": "zvol",
            "lbppbe": "5",
            "thin_provisioning": "0",
            "readonly": "0",
        },
    )
    assert san.tgt.initiators_of(SUBJECT) == (ALICE,)
    assert san.tgt.is_open(SUBJECT)
    assert san.log_in(ALICE) == "in"


def test_a_repeated_export_asks_and_changes_nothing(san: San) -> None:
    """The same request again answers that nothing changed, behind two requests that change nothing."""
    san.ensure()
    before, asked = san.picture(), len(san.daemon.asked)
    assert san.ensure() is False
    assert san.daemon.asked[asked:] == ["SHOW TARGET", "SHOW PORTAL"]
    assert san.picture() == before


def test_no_other_target_is_looked_at(san: San) -> None:
    """However many targets there are, none of an export's requests lists them."""
    requests = []
    for others in (0, 300):
        for number in range(others):
            san.daemon.targets[number + 1] = Target(f"iqn.2012-12.org.example:other-{number}")
        san.daemon.asked.clear()
        san.ensure()
        san.ensure(BOB)
        san.tgt.remove_initiator(SUBJECT, ALICE)
        san.tgt.initiators_of(SUBJECT)
        san.tgt.is_open(SUBJECT)
        san.grow()
        san.tgt.remove_export(SUBJECT)
        requests.append(list(san.daemon.asked))
    assert requests[0] == requests[1]


def test_a_read_only_export_says_so_and_discards_follow_the_device(san: San) -> None:
    """The LUN is read-only where asked, and offers discards where the device can write zeroes."""
    (san.queue / "write_zeroes_max_bytes").write_text("1048576\n")
    san.ensure(read_only=True)
    attributes = san.daemon.targets[TID].luns[1].attributes
    assert (attributes["readonly"], attributes["thin_provisioning"]) == ("1", "1")
    with pytest.raises(AlreadyExists, match="read_only True, not False"):
        san.ensure(BOB)


def test_io_that_is_left_is_waited_for(san: San) -> None:
    """A LUN that says that it is busy is asked again, never forced."""
    san.ensure()
    san.daemon.targets[TID].luns[1].active = 3
    san.grow()
    san.daemon.targets[TID].luns[1].active = 3
    assert san.tgt.remove_export(SUBJECT) is True
    assert san.daemon.targets == {}


def test_growth_reopens_the_device_under_the_same_names(san: San) -> None:
    """Growth shows the new size with the same serial, closes sessions, and lets the same ones in again."""
    san.ensure()
    san.ensure(BOB)
    assert san.log_in(ALICE) == "in"
    before = san.picture()
    san.device.write_bytes(bytes(8192))
    san.grow()
    target = san.daemon.targets[TID]
    assert (target.luns[1].attributes.pop("size"), target.sessions, target.state) == ("8192", {}, "ready")
    assert target.luns[1].attributes["scsi_sn"] == VOLUME_ID.replace("-", "")
    assert (san.log_in(ALICE), san.log_in(BOB)) == ("in", "in")
    target.luns[1].attributes["size"] = "4096"
    target.sessions = {1: ALICE}
    assert san.picture() == before


def test_growth_waits_for_who_does_not_return_within_its_time(san: San) -> None:
    """An initiator that stays away delays growth by no more than the operation has left."""
    san.ensure()
    san.log_in(ALICE)
    began = time.monotonic()
    san.grow(Tgt(Tgtd(san.socket), block_devices=san.blocks, return_seconds=600), seconds=1)
    assert 1 <= time.monotonic() - began < 60
    assert san.daemon.targets[TID].sessions == {}


def test_growing_what_is_not_exported_does_nothing(san: San) -> None:
    """Without an export there is nothing to grow."""
    san.grow()
    assert san.daemon.targets == {}


def test_portals_are_added_where_tgtd_does_not_listen_yet(san: San) -> None:
    """0.0.0.0 covers an IPv4 portal of its port; others are added once and stay."""
    six = Portal("[2001:db8::1]:3261")
    san.ensure(portals=(PORTAL, six))
    assert san.daemon.portals == [six, "0.0.0.0:3261"]
    assert san.ensure(portals=(PORTAL, six)) is False
    assert san.ensure(portals=(Portal("192.0.2.1:3262"),)) is True
    san.tgt.remove_export(SUBJECT)
    assert san.daemon.portals == ["192.0.2.1:3262", six, "0.0.0.0:3261"]


def test_a_portal_that_cannot_be_had_is_told(san: San) -> None:
    """A port that another program holds is an error that says so, before a target is made."""
    san.daemon.refused_portals.add("192.0.2.1:3260")
    with pytest.raises(BackendError, match=r"cannot listen at 192\.0\.2\.1:3260") as caught:
        san.ensure(portals=(Portal("192.0.2.1:3260"),))
    assert caught.value.details["portal"] == "192.0.2.1:3260"
    assert san.daemon.targets == {}


def test_an_export_of_another_device_says_so(san: San) -> None:
    """Where a target is open on another device, a restore (zolder.san.rebuild) learns that by the error."""
    san.ensure()
    san.device = san.device.with_name("zd32")
    with pytest.raises(AlreadyExists, match="is exported with device") as caught:
        san.ensure(BOB)
    assert caught.value.details["device"] == str(san.device.with_name("zd16"))


def test_a_zvol_whose_number_is_taken_gets_its_second(san: San) -> None:
    """A stranger at the first number stays as it is, and both numbers taken is an error."""
    stranger = Target("iqn.2001-01.org.stranger:x", luns={0: Lun("None"), 1: Lun("/dev/sda")})
    san.daemon.targets[TID] = copy.deepcopy(stranger)
    san.ensure()
    assert san.daemon.targets[SECOND_TID].name == TARGET
    assert san.ensure() is False
    san.tgt.remove_export(SUBJECT)
    assert san.daemon.targets == {TID: stranger}
    san.daemon.targets[SECOND_TID] = Target("iqn.2001-01.org.stranger:y")
    with pytest.raises(BackendError, match="other targets at all numbers"):
        san.ensure()


@pytest.mark.parametrize("tid", [TID, 7])
def test_a_strangers_target_of_our_name_is_not_touched(san: San, tid: int) -> None:
    """A target of our name that we did not make is refused, wherever it is, and stays as it is."""
    san.daemon.targets[tid] = Target(TARGET, luns={0: Lun("None"), 1: Lun("/dev/sda")}, addresses=["ALL"])
    before = san.picture()
    with pytest.raises(AlreadyExists):
        san.ensure()
    if tid == TID:
        with pytest.raises(AlreadyExists):
            san.tgt.remove_export(SUBJECT)
        with pytest.raises(AlreadyExists):
            san.tgt.remove_initiator(SUBJECT, ALICE)
    else:
        assert san.tgt.remove_export(SUBJECT) is False
    assert san.picture() == before


def test_another_parents_zvol_of_the_same_name_is_not_touched(san: San) -> None:
    """Of two zvols that would have the same IQN, the second is refused and cannot remove the first."""
    san.ensure()
    before = san.picture()
    other = replace(SUBJECT, parent=DatasetName("fast/volumes"))
    with pytest.raises(AlreadyExists):
        san.ensure(BOB, subject=other)
    assert san.tgt.remove_export(other) is False
    assert san.tgt.remove_initiator(other, ALICE) is False
    assert not san.tgt.is_open(other)
    assert san.picture() == before


def test_a_zvol_is_open_under_any_prefix(san: San) -> None:
    """A prefix that is no longer asked for does not hide that tgtd has the zvol open."""
    san.ensure()
    other = replace(SUBJECT, prefix=TargetPrefix("iqn.2020-01.org.example:"))
    assert san.tgt.is_open(other)
    assert san.tgt.remove_export(other) is False


def test_exports_are_listed_by_prefix(san: San) -> None:
    """A list has our targets below the prefix, sorted, and no one else's."""
    second = replace(SUBJECT, zvol=ZvolName("volume-0"))
    san.ensure(BOB)
    san.ensure()
    san.ensure(subject=second, chap=Chap(chap_user(f"{SUBJECT.prefix}volume-0", ALICE), "secret"))
    san.daemon.targets[7] = Target("iqn.2012-12.org.example:volume-2", luns={0: Lun("None")})
    listening = (Portal("0.0.0.0:3261"),)
    assert san.tgt.list_exports(SUBJECT.prefix) == (
        Exported("iqn.2012-12.org.example:volume-0", second.dataset, (ALICE,), listening),
        Exported(TARGET, SUBJECT.dataset, (ALICE, BOB), listening),
    )
    assert san.tgt.list_exports(TargetPrefix("iqn.2012-12.org.other:")) == ()


def test_a_record_that_somebody_wrote_over_is_none(san: San) -> None:
    """A record is read back as it was written; anything else on a target is not taken for one."""
    san.ensure()
    shown = f"RedirectAddress={san.daemon.targets[TID].redirect}\nRedirectPort=\n"
    record = parse_record(shown)
    assert record is not None
    assert (record.progress, record.initiators, record.device) == (Progress.WHOLE, (ALICE,), san.device)
    assert "not-for-any-log" not in shown
    for other in (
        "RedirectAddress=192.0.2.1\n",
        shown.replace("whole", "other"),
        shown.replace(",", ";"),
        "",
    ):
        assert parse_record(other) is None
