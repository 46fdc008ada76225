from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.tgt_daemon import Daemon, serve
from zolder.errors import BackendError
from zolder.san.tgtd import REQUEST, Mode, Op, Refusal, Request, Tgtd

# What the tgtadm of tgt 1.0.85-1.3 (amd64) sent for
# `tgtadm --lld iscsi --op bind --mode account --tid 5 --user ab`, which leaves the LUN at -1.
RECORDED = (
    b"\x07\0\0\0\x03\0\0\0iscsi"
    + bytes(59)
    + b"\x80\0\0\0\x05\0\0\0"
    + bytes(8)
    + b"\xff" * 8
    + bytes(24)
    + b"user=ab\0"
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """Return a daemon that listens at tmp_path/socket."""
    with serve(tmp_path / "socket", Daemon()) as daemon:
        yield daemon


def test_a_request_is_laid_out_as_tgtadm_lays_it_out() -> None:
    """A request is tgtadm's 120 bytes, its length, and the parameters with a NUL."""
    assert REQUEST.size == 120
    assert Request(Mode.ACCOUNT, Op.BIND, 5, lun=2**64 - 1, parameters="user=ab").encode() == RECORDED


def test_a_refusal_is_an_answer_only_to_who_expects_it(tmp_path: Path, daemon: Daemon) -> None:
    """An expected refusal is returned; any other is an error with its name and number."""
    tgtd = Tgtd(tmp_path / "socket")
    request = Request(Mode.TARGET, Op.SHOW, 7)
    assert tgtd.ask(request, Refusal.NO_TARGET).refusal is Refusal.NO_TARGET
    with pytest.raises(BackendError, match="NO_TARGET") as caught:
        tgtd.ask(request, Refusal.NO_LUN)
    assert caught.value.details["tgtd_error"] == 4
    assert daemon.asked == ["SHOW TARGET"] * 2


def test_a_text_comes_without_its_nul(tmp_path: Path, daemon: Daemon) -> None:
    """The NUL behind what tgtd shows is not part of it."""
    daemon.portals = ["192.0.2.1:3261", "[::]:3261"]
    shown = Tgtd(tmp_path / "socket").ask(Request(Mode.PORTAL, Op.SHOW))
    assert shown.done
    assert shown.text == "Portal: 192.0.2.1:3261,1\nPortal: [::]:3261,1\n"


def test_an_absent_daemon_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Without a socket, or with one that nobody listens at, the error says how to start tgtd."""
    with pytest.raises(BackendError, match="systemctl start tgt"):
        Tgtd(tmp_path / "absent").ask(Request(Mode.PORTAL, Op.SHOW))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    with pytest.raises(BackendError, match="systemctl start tgt"):
        Tgtd(tmp_path / "left").ask(Request(Mode.PORTAL, Op.SHOW))


def test_a_silent_daemon_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A daemon that accepts and says nothing is given up when the time is over."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        with pytest.raises(BackendError, match=r"did not answer within 0\.2 s"):
            Tgtd(tmp_path / "silent", answer_seconds=0.2).ask(Request(Mode.PORTAL, Op.SHOW))


@pytest.mark.parametrize("said", [b"", b"\0\0\0", b"\0\0\0\0\x20\0\0\0short"])
def test_half_an_answer_is_no_answer(tmp_path: Path, said: bytes) -> None:
    """A daemon that hangs up before its answer is whole, as one that dies does, is an error."""

    def hang_up() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "dying"))
        listener.listen()
        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(BackendError, match="hung up"):
            Tgtd(tmp_path / "dying").ask(Request(Mode.PORTAL, Op.SHOW))
        thread.join()


def test_secrets_show_nowhere(tmp_path: Path, daemon: Daemon) -> None:
    """Neither a request's repr nor the error of a refused one shows its parameters."""
    request = Request(Mode.ACCOUNT, Op.NEW, parameters="user=ann,password=not-for-any-log")
    Tgtd(tmp_path / "socket").ask(request)
    with pytest.raises(BackendError) as caught:
        Tgtd(tmp_path / "socket").ask(request)
    assert daemon.accounts == {"ann": "not-for-any-log"}
    assert "not-for-any-log" not in f"{request!r} {caught.value!r} {caught.value.details}"


def test_what_tgtd_would_cut_off_is_not_sent(tmp_path: Path, daemon: Daemon) -> None:
    """Parameters with a NUL, or more than tgtd reads, are refused here."""
    for parameters in ("user=a\0b", "x" * 8192):
        with pytest.raises(BackendError, match="too long or hold a NUL"):
            Tgtd(tmp_path / "socket").ask(Request(Mode.ACCOUNT, Op.BIND, parameters=parameters))
    assert daemon.asked == []
