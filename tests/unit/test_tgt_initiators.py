"""Who may log in to an export over tgt, with which secret, and that nobody else is disturbed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit import tgt_san
from tests.unit.tgt_san import ALICE, BOB, CAROL, GUARD, SUBJECT, TARGET, TID, San, chap_of
from zolder.errors import InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName
from zolder.san.tgtrecord import LONGEST_BYTES

san = tgt_san.san


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
