from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.kept_san import (
    ALICE,
    BOB,
    CHAP,
    DATASET,
    FAST,
    PARENT,
    POLICY,
    PORTALS,
    ROUTE,
    ZVOL,
    KeptSan,
    access,
    attachment,
)
from tests.unit.kernel_tree import Killed
from zolder.errors import AlreadyExists, BackendError, Busy, Error, NotFound, NotPermitted
from zolder.model import Access, Change, Chap, Export, Route
from zolder.names import LIO, NVMET, TGT, InitiatorName, Portal, TargetPrefix, ZvolName, export_target
from zolder.san.attachments import Attachments
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, VOLUME_MARK, Property
from zolder.san.root import Root
from zolder.wish import Grant, Wish

TARGET = f"{ROUTE.prefix}{ZVOL}"


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that nobody may reach."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    return kept


def attachments(san: KeptSan, privileged: Root | None = None) -> Attachments:
    """Return those of the zvol, for one request."""
    return Attachments(POLICY, san.zpool(privileged), ZVOL)


def test_open_and_close(san: KeptSan) -> None:
    """An attachment is recorded and opened, asked again it changes nothing, and closed it leaves nothing."""
    export = Export(ZVOL, LIO, TARGET, PORTALS, 0, (ALICE,))
    assert attachments(san).open(access(), ROUTE) == Change(changed=True, value=export)
    assert san.record() == Wish(ROUTE, (Grant(ALICE, (attachment(1),), unnamed=False, chap=False),))
    assert san.reached_by() == {DATASET: (ALICE,)}
    assert attachments(san).open(access(), ROUTE) == Change(changed=False, value=export)
    assert attachments(san).close(access()) == Change(changed=True, value=())
    assert attachments(san).close(access()) == Change(changed=False, value=())
    assert EXPORT_RECORD not in san.zfs.datasets[DATASET]
    assert san.reached_by() == {}


def test_the_record_comes_first(san: KeptSan) -> None:
    """It is written before anything is opened and cleared before anything is closed."""
    attachments(san).open(access(), ROUTE)
    assert san.steps.taken == [f"set {EXPORT_RECORD}", "make", "let in"]
    san.steps.start()
    attachments(san).close(access())
    assert san.steps.taken == [f"inherit {EXPORT_RECORD}", "shut out", "remove"]


def test_an_initiator_goes_with_its_last_attachment(san: KeptSan) -> None:
    """Of two attachments, and the one without an id, each may end first; the last shuts the initiator out."""
    for number in (1, 2, None):
        attachments(san).open(access(number=number), ROUTE)
    assert attachments(san).close(access(number=1)) == Change(changed=True, value=(ALICE,))
    assert attachments(san).close(access(number=1)) == Change(changed=False, value=(ALICE,))
    assert attachments(san).close(access(number=None)) == Change(changed=True, value=(ALICE,))
    assert san.reached_by() == {DATASET: (ALICE,)}
    assert attachments(san).close(access(number=2)) == Change(changed=True, value=())
    assert san.reached_by() == {}


def test_a_stranger_takes_nothing(san: KeptSan) -> None:
    """Closing for somebody who never had it leaves those who have."""
    attachments(san).open(access(), ROUTE)
    assert attachments(san).close(access(BOB)) == Change(changed=False, value=(ALICE,))
    assert san.agrees()


def test_another_exporter_is_busy(san: KeptSan) -> None:
    """While somebody has it over one exporter or under one prefix it cannot be had over another."""
    attachments(san).open(access(), ROUTE)
    before = san.record()
    for route in (replace(ROUTE, exporter=TGT), replace(ROUTE, prefix=FAST)):
        with pytest.raises(Busy, match="once they have detached"):
            attachments(san).open(access(BOB), route)
    assert (san.record(), san.reached_by()) == (before, {DATASET: (ALICE,)})


def test_nvmet_names_each_initiators_own_subsystem(san: KeptSan) -> None:
    """Over NVMe-oF the answer is the initiator's own subsystem, and names no other initiator."""
    one, two = (InitiatorName(f"nqn.2014-08.org.nvmexpress:uuid:{number}") for number in (1, 2))
    route = replace(ROUTE, exporter=NVMET)
    for initiator in (one, two):
        export = attachments(san).open(access(initiator), route).value
        target = export_target(NVMET, route.prefix, ZVOL, initiator)
        assert (export.target, export.lun, export.initiators) == (target, 1, (initiator,))
    assert attachments(san).close(access(one)).value == (two,)
    assert san.agrees()


def test_what_is_told_is_where_was_asked_for(san: KeptSan) -> None:
    """An answer has the portals that were asked for; those that others were told of stay open as well."""
    attachments(san).open(access(), replace(ROUTE, portals=PORTALS[:1]))
    assert (
        attachments(san).open(access(BOB), replace(ROUTE, portals=PORTALS[1:])).value.portals == PORTALS[1:]
    )
    assert set(san.lio.standing[TARGET].portals) == set(PORTALS)


def test_a_portal_that_the_policy_has_lost_is_dropped(san: KeptSan) -> None:
    """A record from before the policy changed does not keep its zvol from being opened."""
    lost = Portal("198.51.100.9:3260")
    older = replace(POLICY, portals=(*PORTALS, lost))
    Attachments(older, san.zpool(san.root(older)), ZVOL).open(
        access(), replace(ROUTE, portals=(*PORTALS, lost))
    )
    attachments(san).open(access(BOB), ROUTE)
    assert san.lio.standing[TARGET].portals == PORTALS
    assert san.agrees()


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        (None, NotFound),
        ({}, NotPermitted),
        ({"volsize": Property(1, None)}, NotPermitted),
        ({"volsize": Property(1, None), VOLUME_MARK: Property("no id", DATASET)}, NotPermitted),
        ({"volsize": Property(1, None), VOLUME_MARK: Property(str(attachment(1)), PARENT)}, NotPermitted),
        ({"volsize": Property(1, None), VIEW_MARK: Property(str(attachment(1)), DATASET)}, NotPermitted),
        ({VOLUME_MARK: Property(str(attachment(1)), DATASET)}, NotPermitted),
    ],
)
def test_only_a_volume_of_ours_is_recorded(
    san: KeptSan, properties: dict[str, Property] | None, error: type[Error]
) -> None:
    """What is absent, unmarked, a snapshot's view or no zvol gets no record and no target."""
    if properties is None:
        del san.zfs.datasets[DATASET]
    else:
        san.zfs.datasets[DATASET] = properties
    with pytest.raises(error):
        attachments(san).open(access(), ROUTE)
    assert san.steps.taken == []


@pytest.mark.parametrize("text", ["{", "[]", '{"route":1}', "x" * 8191])
def test_a_record_of_somebody_else(san: KeptSan, text: str) -> None:
    """A record that Zolder did not write is told, never overwritten by one more, and goes with all."""
    san.zfs.datasets[DATASET][EXPORT_RECORD] = Property(text, DATASET)
    for attempt in (lambda: attachments(san).open(access(), ROUTE), lambda: attachments(san).close(access())):
        with pytest.raises(BackendError, match="zfs inherit zolder:export data/volumes/volume-1"):
            attempt()
    assert san.steps.taken == []
    assert attachments(san).close_all().changed
    assert attachments(san).open(access(), ROUTE).changed


def test_a_record_that_is_inherited_counts_for_nothing(san: KeptSan) -> None:
    """What the parent's record says lets nobody in, and closing by it changes nothing."""
    attachments(san).open(access(), ROUTE)
    record = san.zfs.datasets[DATASET].pop(EXPORT_RECORD)
    san.lio.standing.clear()
    san.zfs.datasets[PARENT][EXPORT_RECORD] = replace(record, source=PARENT)
    assert attachments(san).open(access(BOB), ROUTE).value.initiators == (BOB,)
    assert attachments(san).close(access(BOB)) == Change(changed=True, value=())


@pytest.mark.parametrize("before", [(), (access(),), (access(BOB), access(number=2))])
@pytest.mark.parametrize("refused", [1, 2])
def test_a_failed_open_leaves_the_record_as_it_was(
    san: KeptSan, before: tuple[Access, ...], refused: int
) -> None:
    """Whoever had it has it still, and who was refused is neither on record nor let in."""
    for held in before:
        attachments(san).open(held, ROUTE)
    recorded, reached = san.record(), san.reached_by()
    carol = access(InitiatorName("iqn.2004-10.org.zolder:carol"), 9)
    san.steps.start(refuse_at=refused)
    if before and refused == 2:
        assert attachments(san).open(carol, ROUTE).changed, "nothing but letting in is left to do"
        return
    with pytest.raises(BackendError, match="the kernel refuses"):
        attachments(san).open(carol, ROUTE)
    san.steps.start()
    assert (san.record(), san.reached_by()) == (recorded, reached)


def test_over_a_foreign_target(san: KeptSan) -> None:
    """A target of our name that is somebody else's is told, and nothing stays on record."""
    san.lio.foreign.add(TARGET)
    with pytest.raises(AlreadyExists):
        attachments(san).open(access(), ROUTE)
    assert san.record() is None


class Forgetful(Root):
    """Root whose answer to an open is lost on its way."""

    def open_export(self, *args: object, **kwargs: object) -> bool:
        """Open, and fail then."""
        super().open_export(*args, **kwargs)  # type: ignore[arg-type]  # whatever it was asked
        message = "the root helper went away at open_export"
        raise BackendError(message)


@pytest.mark.parametrize("before", [(), (access(BOB),), (access(number=2),)])
def test_what_was_opened_and_failed_is_closed_again(san: KeptSan, before: tuple[Access, ...]) -> None:
    """Where root opened it and the request failed all the same, exactly those on record may reach it."""
    for held in before:
        attachments(san).open(held, ROUTE)
    recorded = san.record()
    root = san.root()
    root.__class__ = Forgetful
    with pytest.raises(BackendError, match="went away at open_export"):
        attachments(san, root).open(access(), ROUTE)
    assert san.record() == recorded
    assert san.agrees()


def test_an_error_in_undo_hides_nothing(san: KeptSan, caplog: pytest.LogCaptureFixture) -> None:
    """Where the record cannot be restored either, the first error reaches the caller and the log has both."""

    class Broken(Root):
        def open_export(self, *_: object, **__: object) -> bool:
            san.steps.start(refuse_at=0)
            message = "no block device came"
            raise BackendError(message)

    root = san.root()
    root.__class__ = Broken
    with pytest.raises(BackendError, match="no block device came"):
        attachments(san, root).open(access(), ROUTE)
    assert f"could not undo the record of {DATASET}" in caplog.text
    san.steps.start()
    assert attachments(san).close(access()).value == ()
    assert san.agrees()


OPENED = [(), (access(),), (access(BOB),), (access(), access(BOB), access(number=2))]


def ask_open(san: KeptSan) -> object:
    """Ask for one attachment."""
    return attachments(san).open(access(chap=CHAP), ROUTE)


def ask_close(san: KeptSan) -> object:
    """Ask for its end."""
    return attachments(san).close(access())


def ask_close_all(san: KeptSan) -> object:
    """Ask for the end of all."""
    return attachments(san).close_all()


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("killed", [ask_open, ask_close, ask_close_all])
@pytest.mark.parametrize("asked", [ask_open, ask_close, ask_close_all])
def test_a_request_killed_at_any_step_is_completed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: tuple[Access, ...],
    killed: Callable[[KeptSan], object],
    asked: Callable[[KeptSan], object],
) -> None:
    """After a kill at every single step the next request ends as without it, on record and in fact."""

    def begin(name: str) -> KeptSan:
        folder = tmp_path / name
        folder.mkdir()
        san = KeptSan(folder)
        san.install(monkeypatch)
        for held in opened:
            attachments(san).open(held, ROUTE)
        san.steps.start()
        return san

    counted = begin("counted")
    killed(counted)
    for step in range(len(counted.steps.taken)):
        san = begin(f"killed-{step}")
        san.steps.start(kill_at=step)
        with pytest.raises(Killed):
            killed(san)
        san.steps.start()
        killed(san)  # the client, which heard nothing, asks again
        asked(san)
        whole = begin(f"whole-{step}")
        killed(whole)
        asked(whole)
        assert san.record() == whole.record(), f"killed at step {step}"
        assert san.reached_by() == whole.reached_by(), f"killed at step {step}"
        assert san.agrees()


@pytest.mark.parametrize("step", [1, 2])
def test_what_a_killed_close_left_goes_with_any_other(san: KeptSan, step: int) -> None:
    """Where the last attachment's end was cut short, whoever closes next closes what still stands."""
    attachments(san).open(access(), ROUTE)
    san.steps.start(kill_at=step)
    with pytest.raises(Killed):
        attachments(san).close(access())
    san.steps.start()
    assert attachments(san).close(access(BOB)).value == ()
    assert san.reached_by() == {}


def test_a_secret_is_kept_beside_and_goes_along(san: KeptSan) -> None:
    """The record says that there is a secret and never which; root's own store has it while it is needed."""
    attachments(san).open(access(chap=CHAP), ROUTE)
    record = san.record()
    assert record is not None
    assert record.grants[0].chap is True
    assert CHAP.secret not in str(san.zfs.datasets[DATASET][EXPORT_RECORD].value)
    assert san.secrets.find(PARENT, ZVOL, ALICE) == CHAP
    attachments(san).close(access())
    assert san.secrets.find(PARENT, ZVOL, ALICE) is None


def test_a_new_secret_replaces_the_old_one(san: KeptSan) -> None:
    """The last request's secret counts, in the store and at the target; asked without, none is asked for."""
    newer = Chap("volume", "a-newer-secret-3")
    for chap in (CHAP, newer, None):
        attachments(san).open(access(chap=chap), ROUTE)
        assert san.lio.standing[TARGET].secrets == {ALICE: chap}
        assert san.secrets.find(PARENT, ZVOL, ALICE) == chap


requests = st.lists(
    st.tuples(st.booleans(), st.sampled_from([ALICE, BOB]), st.sampled_from([None, 1, 2, 3])), max_size=12
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=requests)
def test_any_sequence(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[bool, InitiatorName, int]]
) -> None:
    """Whatever is opened and closed, exactly those that were opened and not closed reach it."""
    san = KeptSan(tmp_path_factory.mktemp("san"))
    held: set[tuple[InitiatorName, int | None]] = set()
    with pytest.MonkeyPatch.context() as patch:
        san.install(patch)
        for opens, initiator, number in asked:
            changed = (opens, (initiator, number) in held) in {(True, False), (False, True)}
            if opens:
                held.add((initiator, number))
                done = attachments(san).open(access(initiator, number), ROUTE).changed
            else:
                held.discard((initiator, number))
                closed = attachments(san).close(access(initiator, number))
                assert closed.value == tuple(sorted({each for each, _ in held}))
                done = closed.changed
            assert done == changed
            assert san.agrees()
            assert {each for each, _ in held} == set(san.reached_by().get(DATASET, ()))


def test_nothing_else_is_touched(san: KeptSan) -> None:
    """Another zvol's record and target stay whatever becomes of this one's."""
    other = ZvolName("volume-2")
    san.zfs.add(f"{PARENT}/{other}", {"volsize": 1, VOLUME_MARK: attachment(7)})
    Attachments(POLICY, san.zpool(), other).open(access(BOB, zvol=other), ROUTE)
    before = san.record(f"{PARENT}/{other}")
    attachments(san).open(access(), ROUTE)
    attachments(san).close_all()
    assert san.record(f"{PARENT}/{other}") == before
    assert san.reached_by() == {f"{PARENT}/{other}": (BOB,)}


def test_route_is_held_to_the_policy_by_root(san: KeptSan) -> None:
    """A route beyond the policy, which the agent let through, root refuses, and it is on no record."""
    with pytest.raises(NotPermitted, match="portal"):
        attachments(san).open(access(), Route(LIO, ROUTE.prefix, (Portal("198.51.100.9:3260"),)))
    assert san.record() is None
    assert san.reached_by() == {}


def test_a_prefix_that_the_policy_has_lost_closes_nothing_and_says_so(san: KeptSan) -> None:
    """What root cannot find again stays on record, so nobody takes it for closed."""
    attachments(san).open(access(), ROUTE)
    narrower = replace(POLICY, target_prefixes=(TargetPrefix("iqn.2003-01.org.elsewhere:"),))
    late = Attachments(narrower, san.zpool(san.root(narrower)), ZVOL)
    with pytest.raises(Busy, match="none of identity"):
        late.close(access())
    with pytest.raises(Busy, match="none of identity"):
        late.close_all()
    assert san.reached_by() == {DATASET: (ALICE,)}
    assert san.agrees()
