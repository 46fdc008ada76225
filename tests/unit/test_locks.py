from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zolder.errors import Busy, ConnectionLost, DeadlineExceeded
from zolder.names import OperationId
from zolder.san.locks import Locks
from zolder.san.operation import Operation

ID = OperationId("00000000-0000-4000-8000-000000000001")


def operation(seconds: float = 5, *, peer: bool = True, notices: list[str] | None = None) -> Operation:
    """Return an operation with so many seconds to go."""
    said = [] if notices is None else notices
    return Operation(ID, seconds=seconds, peer_is_there=lambda: peer, notify=said.append)


def test_one_at_a_time(tmp_path: Path) -> None:
    """Of many threads that want one name, one at a time has it."""
    locks = Locks(tmp_path / "locks")
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        with locks.hold(operation(), "data/volumes/a"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.005)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_other_names_do_not_wait(tmp_path: Path) -> None:
    """Different names are held side by side."""
    locks = Locks(tmp_path / "locks")
    with locks.hold(operation(), "a"), locks.hold(operation(0.05), "b"):
        pass


def test_busy_at_the_deadline(tmp_path: Path) -> None:
    """Who waits until the deadline in vain is told so, once before and then as an error."""
    locks = Locks(tmp_path / "locks")
    notices: list[str] = []
    with (
        locks.hold(operation(), "a"),
        pytest.raises((Busy, DeadlineExceeded)),
        locks.hold(operation(0.4, notices=notices), "a"),
    ):
        raise AssertionError
    assert notices == ["waiting for another operation on a"]


def test_orphan_does_not_act(tmp_path: Path) -> None:
    """An operation whose client is gone when it gets its lock does not begin."""
    locks = Locks(tmp_path / "locks")
    with pytest.raises(ConnectionLost), locks.hold(operation(peer=False), "a"):
        raise AssertionError
    with locks.hold(operation(0.5), "a"):
        pass


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    """A process that is killed while it holds a lock leaves it free."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from tests.unit.test_locks import Locks, operation\n"
        "with Locks(Path(sys.argv[1])).hold(operation(), 'a'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "locks")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        locks = Locks(tmp_path / "locks")
        with pytest.raises((Busy, DeadlineExceeded)), locks.hold(operation(0.1), "a"):
            raise AssertionError
        holder.kill()
        holder.wait()
        with locks.hold(operation(), "a"):
            pass


def test_the_lock_without_a_name(tmp_path: Path) -> None:
    """One at a time has it, whoever holds names meanwhile, and the names are as free as without it."""
    locks, order = Locks(tmp_path / "locks"), list[str]()
    begun = threading.Event()

    def other() -> None:
        with locks.hold(operation(), "b"):
            begun.set()
            with locks.hold_briefly():
                order.append("second")

    thread = threading.Thread(target=other)
    with locks.hold(operation(), "a"), locks.hold_briefly():
        thread.start()
        assert begun.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_what_goes_on_unheard(tmp_path: Path) -> None:
    """A lock is had for a block that needs no listener and no deadline, and behind it by nobody again."""
    locks = Locks(tmp_path / "locks")
    late = operation(-1, peer=False)
    with late.unheard(5), locks.hold(late, "a"):
        pass
    with pytest.raises((DeadlineExceeded, ConnectionLost)), locks.hold(late, "a"):
        pass
