from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import EllipsisType

import pytest

from tests.unit.tgt_daemon import Daemon, Lun, Target, serve
from zolder.errors import AlreadyExists, BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName, chap_user
from zolder.san.exporter import Exported, Subject
from zolder.san.tgt import Tgt, _tids
from zolder.san.tgtd import Answer, Refusal, Request, Tgtd
from zolder.san.tgtrecord import LONGEST_BYTES, Progress, parse_record

SUBJECT = Subject(DatasetName("data/volumes"), ZvolName("volume-1"), TargetPrefix("iqn.2012-12.org.example:"))
TARGET = "iqn.2012-12.org.example:volume-1"
VOLUME_ID = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
ALICE = InitiatorName("iqn.1993-08.org.debian:alice")
BOB = InitiatorName("iqn.1993-08.org.debian:bob")
CAROL = InitiatorName("iqn.1993-08.org.debian:carol")
PORTAL = Portal("192.0.2.1:3261")
TID, SECOND_TID = _tids(SUBJECT.dataset)
# Stands before the accounts of a target, that it never lacks one.
GUARD = f"zolder-guard-{TID}"


def chap_of(initiator: InitiatorName) -> Chap:
    """Return an account that only this initiator has."""
    return Chap(chap_user(TARGET, initiator), f"not-for-any-log-{initiator[-5:]}")


class Killed(BaseException):
    """What a process that was killed would have gone on to do; no handler may catch it."""


class Flaky(Tgtd):
    """A way to tgtd on which one request meets what it must not."""

    def __init__(self, path: Path, at: int, failure: Callable[[], BaseException]) -> None:
        """Fail at the request of that number, counted from 0."""
        super().__init__(path)
        self._left = at
        self._failure = failure

    def ask(self, request: Request, *expected: Refusal) -> Answer:
        self._left -= 1
        if self._left == -1:
            raise self._failure()
        return super().ask(request, *expected)


class San:
    """A daemon, a disk and the exporter between them."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        """Lay a disk into a folder where the daemon listens."""
        self.daemon = daemon
        self.socket = folder / "socket"
        self.device = folder / "zd16"
        self.device.write_bytes(bytes(4096))
        self.blocks = folder / "block"
        self.queue = self.blocks / "zd16" / "queue"
        self.queue.mkdir(parents=True)
        (self.queue / "physical_block_size").write_text("16384\n")
        (self.queue / "write_zeroes_max_bytes").write_text("0\n")
        self.tgt = self.over(Tgtd(self.socket))

    def over(self, tgtd: Tgtd) -> Tgt:
        """Return an exporter that takes another way to the daemon."""
        return Tgt(tgtd, block_devices=self.blocks, return_seconds=0)

    def ensure(
        self,
        initiator: InitiatorName = ALICE,
        *,
        tgt: Tgt | None = None,
        subject: Subject = SUBJECT,
        portals: tuple[Portal, ...] = (PORTAL,),
        chap: Chap | EllipsisType | None = ...,
        read_only: bool = False,
    ) -> bool:
        """Ask for the export of these tests, with what differs."""
        return (tgt or self.tgt).ensure_export(
            subject,
            device=self.device,
            volume_id=VOLUME_ID,
            portals=portals,
            initiator=initiator,
            chap=chap_of(initiator) if chap is ... else chap,
            read_only=read_only,
        )

    def log_in(self, initiator: InitiatorName, account_of: InitiatorName | None = None) -> str:
        """Log in with one's own or with another's account."""
        chap = chap_of(account_of or initiator)
        return self.daemon.log_in(TARGET, initiator, chap.user, chap.secret)

    def picture(self) -> object:
        """Return all that the daemon keeps, but for the order of what has none."""
        targets = copy.deepcopy(self.daemon.targets)
        accounts = {user: secret for user, secret in self.daemon.accounts.items() if user != GUARD}
        for target in targets.values():
            target.accounts = [user for user in target.accounts if user]
            target.iqns.sort()
        return targets, accounts, GUARD in self.daemon.accounts, list(self.daemon.portals)


@pytest.fixture
def san(tmp_path: Path) -> Iterator[San]:
    """Return a SAN whose daemon was not killed in the end."""
    with serve(tmp_path / "socket", Daemon()) as daemon:
        yield San(tmp_path, daemon)
    assert not daemon.dead


def no_gap(daemon: Daemon) -> bool:
    """Whether listing all targets leaves the daemon alive."""
    return all(None not in target.accounts[: target.account_count] for target in daemon.targets.values())


def steps_of(san: San, act: Callable[[Tgt], object]) -> int:
    """Return how many requests something takes."""
    before = len(san.daemon.asked)
    act(san.tgt)
    return len(san.daemon.asked) - before


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
        san.tgt.grow_export(SUBJECT, device=san.device)
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


def test_only_who_was_let_in_gets_in_with_its_own_secret(san: San) -> None:
    """An unknown IQN, no secret, a wrong one, and that of who was shut out: none of them gets in."""
    san.ensure()
    san.ensure(BOB)
    assert san.log_in(BOB) == "in"
    assert san.log_in(CAROL, ALICE) == "not found"
    assert san.daemon.log_in(TARGET, ALICE) == "not authorized"
    assert san.daemon.log_in(TARGET, ALICE, chap_of(ALICE).user, "wrong") == "not authorized"
    assert san.tgt.remove_initiator(SUBJECT, ALICE) is True
    assert san.log_in(BOB, ALICE) == "not authorized"
    assert san.log_in(ALICE) == "not found"


def test_shutting_out_ends_sessions_and_leaves_the_others(san: San) -> None:
    """Who is shut out loses its sessions and account; the others keep session, account and access."""
    for initiator in (ALICE, BOB, CAROL):
        san.ensure(initiator)
        assert san.log_in(initiator) == "in"
    assert san.tgt.remove_initiator(SUBJECT, ALICE) is True
    target = san.daemon.targets[TID]
    assert sorted(target.sessions.values()) == [BOB, CAROL]
    assert sorted(san.daemon.accounts) == sorted((GUARD, chap_of(BOB).user, chap_of(CAROL).user))
    assert san.tgt.remove_initiator(SUBJECT, ALICE) is False
    assert (san.log_in(BOB), san.log_in(CAROL)) == ("in", "in")
    assert san.tgt.initiators_of(SUBJECT) == (BOB, CAROL)


def test_the_commands_of_a_session_that_stays_are_never_lost(san: San) -> None:
    """While others come, change their secret, and go, the target of a session is not offline for a moment."""
    san.ensure()
    san.ensure(BOB)
    assert san.log_in(BOB) == "in"
    san.ensure(CAROL)
    san.ensure(chap=replace(chap_of(ALICE), secret="another-secret"))
    san.ensure(BOB, chap=replace(chap_of(BOB), secret="another-secret"))
    for initiator in (ALICE, CAROL):
        assert san.tgt.remove_initiator(SUBJECT, initiator) is True
    target = san.daemon.targets[TID]
    assert list(target.sessions.values()) == [BOB]
    assert target.stalled == set()


def test_nobody_else_is_disturbed_by_one_more(san: San) -> None:
    """To let in one more takes no account away, so that others may log in at any moment of it."""
    san.ensure()
    before = len(san.daemon.asked)
    san.ensure(BOB)
    assert "UNBIND ACCOUNT" not in san.daemon.asked[before:]


def test_the_guard_lets_nobody_in(san: San) -> None:
    """The account that stands before the others has a long secret, of each target another."""
    san.ensure()
    first = san.daemon.accounts[GUARD]
    assert san.daemon.log_in(TARGET, ALICE, GUARD, "") == "not authorized"
    san.tgt.remove_export(SUBJECT)
    san.ensure()
    assert len(first) == 32
    assert san.daemon.accounts[GUARD] != first


def test_the_last_one_takes_the_export_along(san: San) -> None:
    """With the last initiator target, LUN and account go, whoever is logged in."""
    san.ensure()
    assert san.log_in(ALICE) == "in"
    assert san.tgt.remove_initiator(SUBJECT, BOB) is False
    assert san.tgt.remove_initiator(SUBJECT, ALICE) is True
    assert (san.daemon.targets, san.daemon.accounts) == ({}, {})
    assert san.tgt.remove_export(SUBJECT) is False
    assert not san.tgt.is_open(SUBJECT)
    assert san.tgt.initiators_of(SUBJECT) == ()


def test_io_that_is_left_is_waited_for(san: San) -> None:
    """A LUN that says that it is busy is asked again, never forced."""
    san.ensure()
    san.daemon.targets[TID].luns[1].active = 3
    san.tgt.grow_export(SUBJECT, device=san.device)
    san.daemon.targets[TID].luns[1].active = 3
    assert san.tgt.remove_export(SUBJECT) is True
    assert san.daemon.targets == {}


def test_a_new_secret_replaces_the_old_one_and_no_other(san: San) -> None:
    """One initiator's new secret holds at once; another's session and secret stay."""
    san.ensure()
    san.ensure(BOB)
    assert san.log_in(BOB) == "in"
    fresh = replace(chap_of(ALICE), secret="another-secret")
    assert san.ensure(chap=fresh) is True
    assert san.ensure(chap=fresh) is False
    assert san.log_in(ALICE) == "not authorized"
    assert san.daemon.log_in(TARGET, ALICE, fresh.user, fresh.secret) == "in"
    assert BOB in san.daemon.targets[TID].sessions.values()
    assert san.log_in(BOB) == "in"


def test_without_chap_the_account_goes(san: San) -> None:
    """Where no secret is asked for any more the account is gone, and the guard with the last of them."""
    san.ensure()
    assert san.ensure(chap=None) is True
    assert san.daemon.accounts == {}
    assert san.daemon.log_in(TARGET, ALICE) == "in"


def test_what_tgtd_cannot_keep_apart_is_refused(san: San) -> None:
    """CHAP for some only, one user for two, a user of another form, an NQN: each is refused untouched."""
    san.ensure()
    before = san.picture()
    refused = (
        (BOB, None),
        (BOB, chap_of(ALICE)),
        (BOB, Chap("volume-1", "secret")),
        (BOB, Chap("zolder-0123456789abcdef", "secret")),
        (BOB, Chap(chap_of(BOB).user, "x" * 224)),
        (InitiatorName("nqn.2014-08.org.nvmexpress:bob"), None),
    )
    for initiator, chap in refused:
        with pytest.raises(InvalidRequest):
            san.ensure(initiator, chap=chap)
    assert san.picture() == before


def test_more_initiators_than_fit_are_refused_before_anything_changes(san: San) -> None:
    """The initiator that does not fit is refused with a sentence; those before it are not disturbed."""
    names = [InitiatorName(f"iqn.1993-08.org.debian:01:{'a' * 20}{number:03}") for number in range(99)]
    let_in = 0
    while let_in < 8 or len(san.daemon.targets[TID].redirect) + 80 < LONGEST_BYTES:
        san.ensure(names[let_in], chap=chap_of(names[let_in]))
        let_in += 1
    before = san.picture()
    with pytest.raises(InvalidRequest, match="use lio"):
        san.ensure(names[-1], chap=chap_of(names[-1]))
    assert san.picture() == before
    assert len(san.tgt.initiators_of(SUBJECT)) == let_in
    assert len(san.daemon.targets[TID].redirect) <= LONGEST_BYTES


def test_growth_reopens_the_device_under_the_same_names(san: San) -> None:
    """Growth shows the new size with the same serial, closes sessions, and lets the same ones in again."""
    san.ensure()
    san.ensure(BOB)
    assert san.log_in(ALICE) == "in"
    before = san.picture()
    san.device.write_bytes(bytes(8192))
    san.tgt.grow_export(SUBJECT, device=san.device)
    target = san.daemon.targets[TID]
    assert (target.luns[1].attributes.pop("size"), target.sessions, target.state) == ("8192", {}, "ready")
    assert target.luns[1].attributes["scsi_sn"] == VOLUME_ID.replace("-", "")
    assert (san.log_in(ALICE), san.log_in(BOB)) == ("in", "in")
    target.luns[1].attributes["size"] = "4096"
    target.sessions = {1: ALICE}
    assert san.picture() == before


def test_growing_what_is_not_exported_does_nothing(san: San) -> None:
    """Without an export there is nothing to grow."""
    san.tgt.grow_export(SUBJECT, device=san.device)
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
    with pytest.raises(BackendError, match=r"cannot listen at 192\.0\.2\.1:3260"):
        san.ensure(portals=(Portal("192.0.2.1:3260"),))
    assert san.daemon.targets == {}


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


ACTS: dict[str, Callable[[San, Tgt], object]] = {
    "first export": lambda san, tgt: san.ensure(CAROL, tgt=tgt),
    "further export": lambda san, tgt: san.ensure(CAROL, tgt=tgt),
    "new secret": lambda san, tgt: san.ensure(BOB, tgt=tgt, chap=replace(chap_of(BOB), secret="new")),
    "shut out": lambda _, tgt: tgt.remove_initiator(SUBJECT, ALICE),
    "removal": lambda _, tgt: tgt.remove_export(SUBJECT),
    "growth": lambda san, tgt: tgt.grow_export(SUBJECT, device=san.device),
}


def prepare(san: San, act: str) -> None:
    """Remove what there is, and export to two initiators unless the act is the first export."""
    san.tgt.remove_export(SUBJECT)
    assert (san.daemon.targets, san.daemon.accounts) == ({}, {})
    if act != "first export":
        san.ensure(ALICE)
        san.ensure(BOB)


@pytest.mark.parametrize("act", list(ACTS))
def test_what_was_killed_at_any_step_is_completed_by_a_repeat(san: San, act: str) -> None:
    """After a kill at every single request, nobody gets in who must not, and a repeat ends as if whole."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    whole = san.picture()
    assert steps > 5
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(Killed):
            ACTS[act](san, san.over(Flaky(san.socket, step, Killed)))
        assert no_gap(san.daemon), f"killed at step {step}"
        assert san.daemon.log_in(TARGET, ALICE) != "in", f"killed at step {step}: in without a secret"
        ACTS[act](san, san.tgt)
        assert san.picture() == whole, f"killed at step {step}"


@pytest.mark.parametrize("act", list(ACTS))
def test_what_was_killed_at_any_step_is_removed_whole(san: San, act: str) -> None:
    """After a kill at every single request, removing the export leaves nothing of it."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(Killed):
            ACTS[act](san, san.over(Flaky(san.socket, step, Killed)))
        san.tgt.remove_export(SUBJECT)
        assert (san.daemon.targets, san.daemon.accounts) == ({}, {}), f"killed at step {step}"


@pytest.mark.parametrize("act", ["first export", "further export"])
def test_what_fails_at_any_step_is_taken_back(san: San, act: str) -> None:
    """After a failure of every single request of an export, all is as it was before."""
    prepare(san, act)
    before = san.picture()
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(BackendError, match="refused"):
            ACTS[act](san, san.over(Flaky(san.socket, step, lambda: BackendError("refused"))))
        assert san.picture() == before, f"failed at step {step}"


def test_a_restarted_daemon_is_filled_again(san: San) -> None:
    """After tgtd has forgotten everything, the same requests make the same target."""
    san.ensure()
    san.ensure(BOB)
    whole = san.picture()
    san.daemon.targets.clear()
    san.daemon.accounts.clear()
    san.ensure()
    san.ensure(BOB)
    assert san.picture() == whole


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
