"""Who may log in to an export over LIO, and with which secret."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import lio_export
from tests.unit.kernel_tree import picture
from tests.unit.lio_export import (
    ACL,
    ALICE,
    BOB,
    MUTUAL,
    PORTALS,
    SECRET,
    SUBJECT,
    TARGET,
    TPG,
    ensure,
    exported,
    steps_of_export,
)
from tests.unit.target_tree import TargetTree
from zolder.errors import BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName
from zolder.san.exporter import Exported
from zolder.san.lio import Lio

root = lio_export.root


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


def test_a_host_nqn_is_no_initiator_here(root: Path) -> None:
    """NVMe-oF's kind of initiator is refused before anything is made."""
    before = picture(root)
    with pytest.raises(InvalidRequest, match="is an NQN"):
        ensure(root, initiator=InitiatorName("nqn.2014-08.org.nvmexpress:uuid:1"))
    assert picture(root) == before


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
