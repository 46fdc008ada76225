"""Many attachments in one request, where some zvols cannot be had: the others are done, and in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit import kept_san
from tests.unit.kept_san import ALICE, BOB, DATASET, ID, PARENT, POLICY, ROUTE, ZVOL, KeptSan, access
from zolder.errors import BackendError, ConnectionLost
from zolder.names import ZvolName, zvol_dataset
from zolder.san import exporting, exports
from zolder.san.device import ZvolDevice
from zolder.san.libzfs import VOLUME_MARK
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.root import Root
from zolder.san.storage import ZfsStorage

OTHERS = tuple(ZvolName(f"volume-{number}") for number in range(2, 5))
ALL = tuple(access(zvol=zvol) for zvol in (ZVOL, *OTHERS))


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with some zvols that nobody may reach, where a share of the time is short."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    for zvol in OTHERS:
        kept.zfs.add(zvol_dataset(PARENT, zvol), {"volsize": 1, VOLUME_MARK: ID})
    monkeypatch.setattr(exporting, "_LEAST_SECONDS", 0.1)
    monkeypatch.setattr(exporting, "_SHARES", 100)
    return kept


class Noting(Root):
    """Root, which notes how much time it was given and what it was asked to close."""

    given: list[float]
    closed: list[str]

    def open_export(self, *args: object, **kwargs: object) -> bool:
        """Note it, and open."""
        self.given.append(self._operation.remaining_seconds)
        return super().open_export(*args, **kwargs)  # type: ignore[arg-type]  # whatever it was asked

    def close_export(self, *args: object, **kwargs: object) -> bool:
        """Note it, and close."""
        self.closed.append(str(args[1]))
        return super().close_export(*args, **kwargs)  # type: ignore[arg-type]  # whatever it was asked


def storage(
    san: KeptSan, *, peer_is_there: Callable[[], bool] = lambda: True, locks: Locks | None = None
) -> tuple[ZfsStorage, Noting]:
    """Return the agent's verbs, and root's that they ask, for one operation with 20 seconds to go."""
    operation = Operation(
        kept_san.operation().id, seconds=20, peer_is_there=peer_is_there, notify=lambda _: None
    )
    root = Noting(POLICY, operation, locks or san._locks, site=san.site, secrets=san.secrets)
    root.given, root.closed = [], []
    return ZfsStorage(POLICY, operation, root, san.site), root


@pytest.mark.parametrize("whose", ["agent", "root"])
def test_a_zvol_that_is_held_keeps_no_other(san: KeptSan, tmp_path: Path, whose: str) -> None:
    """What another operation holds is refused as busy after a share of the time, and the others are done."""
    roots = Locks(tmp_path / "roots")
    held, name = (Locks(san.site.run / "locks"), DATASET) if whose == "agent" else (roots, ZVOL)
    verbs, root = storage(san, locks=roots)
    with held.hold(kept_san.operation(), name):
        done = verbs.ensure_exports(PARENT, ALL, route=ROUTE)
    assert done.changed
    assert [(refusal.zvol, refusal.code) for refusal in done.value] == [(ZVOL, "busy")]
    assert "another operation on volume-1 did not end in time" in done.value[0].message
    assert san.reached_by() == {zvol_dataset(PARENT, zvol): (ALICE,) for zvol in OTHERS}
    assert san.agrees()
    assert root.closed == [], "what root has not begun needs no closing, which would wait for that lock again"


def test_a_device_that_does_not_come_keeps_no_other(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """No zvol's device is waited for longer than a share of the time."""
    waited: list[float] = []

    @contextmanager
    def open_zvol(dataset: str, *, timeout_seconds: float) -> Iterator[ZvolDevice]:
        waited.append(timeout_seconds)
        if dataset == DATASET:
            message = f"no block device of {dataset} came"
            raise BackendError(message)
        yield ZvolDevice(Path("/dev/zd0"), -1)

    monkeypatch.setattr(exports, "open_zvol", open_zvol)
    done = storage(san)[0].ensure_exports(PARENT, ALL, route=ROUTE)
    assert [(refusal.zvol, refusal.code) for refusal in done.value] == [(ZVOL, "backend")]
    assert len(waited) == len(ALL)
    assert max(waited) <= 20 / 100


def test_each_gets_a_share_of_what_is_left(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never less than what a healthy one needs, and one alone has all its time."""
    monkeypatch.setattr(exporting, "_LEAST_SECONDS", 3)
    verbs, root = storage(san)
    verbs.ensure_exports(PARENT, ALL, route=ROUTE)
    assert all(2 < seconds <= 3 for seconds in root.given)
    verbs.export_zvol(PARENT, ZVOL, BOB, route=ROUTE, attachment=None, chap=None)
    assert root.given[-1] > 10


def test_a_client_that_goes_ends_it(san: KeptSan) -> None:
    """What nobody waits for any more is not gone on with."""
    verbs, _ = storage(san, peer_is_there=lambda: "let in" not in san.steps.taken)
    with pytest.raises(ConnectionLost):
        verbs.ensure_exports(PARENT, ALL, route=ROUTE)
    assert san.reached_by() == {DATASET: (ALICE,)}
    assert san.agrees()
