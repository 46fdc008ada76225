from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.unit.test_locks import operation
from zolder.errors import Busy, DeadlineExceeded
from zolder.san.locks import Locks


def test_others_are_told_at_once(tmp_path: Path) -> None:
    """Who wants what is held for long does not wait for it, and is told what it is."""
    locks = Locks(tmp_path / "locks")
    with locks.hold_for_long(operation(), "a"):
        began = time.monotonic()
        with pytest.raises(Busy, match="a is being written to"), locks.hold(operation(60), "a"):
            pass
        with pytest.raises(Busy, match="a is being written to"), locks.hold(operation(60), "b", "a"):
            pass
        assert time.monotonic() - began < 5
        with locks.hold(operation(), "b"):
            pass
    with locks.hold(operation(), "a"):
        pass


def test_the_same_waits(tmp_path: Path) -> None:
    """Who wants it for long waits: it may be the same operation, whose former line was lost."""
    locks = Locks(tmp_path / "locks")
    order: list[str] = []
    held = threading.Event()

    def first() -> None:
        with locks.hold_for_long(operation(), "a"):
            held.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with locks.hold_for_long(operation(), "a"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_for_long_waits_for_the_others(tmp_path: Path) -> None:
    """It is taken as the others are, and until the deadline alone."""
    locks = Locks(tmp_path / "locks")
    with (
        locks.hold(operation(), "a"),
        pytest.raises((Busy, DeadlineExceeded)),
        locks.hold_for_long(operation(0.1), "a"),
    ):
        pass
