"""The way from ``zfs send`` to ``zfs receive``, with programs of the test's in their place."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zolder.errors import BackendError, ConnectionLost
from zolder.san import streams
from zolder.san.lzc import ZfsError
from zolder.san.streams import Unfinished, estimate_bytes, find_unfinished, send_snapshot

SNAPSHOT, DATASET = "data/volumes/v@zolder-move-1", "fast/volumes/zolder-arriving-1"
LENGTH = 5 * 2**20 + 17
MARK = {"zolder:move": "arriving 1 data/volumes/v"}
# What it sends is the same byte over and over; what it receives it counts and sums up.
PROGRAM = f"""\
#!{sys.executable}
import hashlib, os, sys
from pathlib import Path
here, words = Path(__file__).parent, sys.argv[1:]
with (here / "asked").open("a") as asked:
    print(*words, file=asked)
said = here / words[0]
if words[0] == "send" and "-nvP" not in words:
    for _ in range({LENGTH} // 4096):
        os.write(1, b"x" * 4096)
    os.write(1, b"x" * ({LENGTH} % 4096))
elif words[0] == "receive":
    if said.exists():
        print(said.read_text(), file=sys.stderr)
        sys.exit(1)
    whole = hashlib.sha256()
    while data := os.read(0, 65536):
        whole.update(data)
    (here / "received").write_text(whole.hexdigest())
    sys.exit(0)
if said.exists():
    status, _, text = said.read_text().partition(" ")
    print(text, file=sys.stderr)
    sys.exit(int(status))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program is, what it shall say lies beside it, and what it was asked and got."""
    program = tmp_path / "zfs"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    monkeypatch.setattr(streams, "ZFS", str(program))
    return tmp_path


@pytest.fixture
def held() -> Iterator[int]:
    """An open file, as the locks are one."""
    descriptor = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def asked(place: Path) -> list[str]:
    """Return what the program was asked, a line each."""
    return (place / "asked").read_text().splitlines()


def test_all_of_it(place: Path, held: int) -> None:
    """Each byte goes from one program to the other, in order, and is counted."""
    told: list[int] = []
    send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=told.append)
    assert (place / "received").read_text() == hashlib.sha256(b"x" * LENGTH).hexdigest()
    assert told[-1] == LENGTH
    assert told == sorted(told)
    assert sorted(asked(place)) == [
        f"receive -s -u -o zolder:move=arriving 1 data/volumes/v {DATASET}",
        f"send -Lec {SNAPSHOT}",
    ]


def test_it_goes_on_from_a_token(place: Path, held: int) -> None:
    """What is unfinished goes on by its token, and bears its mark already."""
    send_snapshot(
        SNAPSHOT, DATASET, MARK, unfinished=Unfinished("1-ab", SNAPSHOT), held=held, sent=lambda _: None
    )
    assert sorted(asked(place)) == [f"receive -s -u {DATASET}", "send -t 1-ab"]


def test_nobody_listens(place: Path, held: int) -> None:
    """What the caller raises ends both programs, and only then it reaches the caller."""

    def leave(sent_bytes: int) -> None:
        if sent_bytes > 2**20:
            message = "gone"
            raise ConnectionLost(message)

    with pytest.raises(ConnectionLost):
        send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=leave)
    # The receiver came to its end: it has summed up a part, which is not the whole.
    assert (place / "received").read_text() != hashlib.sha256(b"x" * LENGTH).hexdigest()


@pytest.mark.parametrize("kind", ["new filesystem", "resume"])
@pytest.mark.parametrize(
    ("text", "number"),
    [
        (f"destination {DATASET} space quota exceeded.", errno.ENOSPC),
        ("out of space", errno.ENOSPC),
        ("permission denied", errno.EPERM),
    ],
)
def test_the_receiver_refuses(place: Path, held: int, kind: str, text: str, number: int) -> None:
    """A sentence that is known has its number, although the sender was cut off by it."""
    (place / "receive").write_text(f"cannot receive {kind} stream: {text}\nand more")
    with pytest.raises(ZfsError) as refused:
        send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=lambda _: None)
    assert (refused.value.errno, refused.value.filename) == (number, DATASET)


@pytest.mark.parametrize(
    "text",
    [
        "cannot receive new filesystem stream: destination data/other space quota exceeded.",
        "cannot receive new filesystem stream: out of space at last",
        "out of space",
        "",
    ],
)
def test_it_refuses_in_other_words(place: Path, held: int, text: str) -> None:
    """Any other sentence is shown as it is, and means nothing."""
    (place / "receive").write_text(f"{text}\na token: 1-abcdef")
    with pytest.raises(BackendError) as refused:
        send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=lambda _: None)
    assert text in refused.value.message
    assert "1-abcdef" not in refused.value.message


def test_the_sender_may_not(place: Path, held: int) -> None:
    """A sender without the permission is known by the snapshot that it names."""
    (place / "send").write_text(f"1 warning: cannot send '{SNAPSHOT}': permission denied")
    with pytest.raises(ZfsError) as refused:
        send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=lambda _: None)
    assert (refused.value.errno, refused.value.filename) == (errno.EPERM, SNAPSHOT)


def test_the_sender_fails(place: Path, held: int) -> None:
    """A stream that ended early is no whole copy, whatever the receiver thinks of it."""
    (place / "send").write_text("1 warning: I/O error")
    with pytest.raises(BackendError, match="I/O error"):
        send_snapshot(SNAPSHOT, DATASET, MARK, unfinished=None, held=held, sent=lambda _: None)


def test_what_is_unfinished(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """The token says whose part it is; without one there is none, and one whose snapshot is gone is told."""
    (place / "send").write_text("0 resume token contents:\n\ttoname = data/volumes/v@zolder-move-1\nsize\t7")
    for token, found in (("-", None), ("1-ab", Unfinished("1-ab", "data/volumes/v@zolder-move-1"))):
        monkeypatch.setattr(streams, "_get", lambda *_, token=token: token)
        assert find_unfinished(DATASET) == found
    (place / "send").write_text("255 \ttoname = data/volumes/v@zolder-move-1\nno longer exists")
    assert find_unfinished(DATASET) == Unfinished("1-ab", None)


def test_estimate(place: Path) -> None:
    """The size is what a dry run says, of the whole or of what is left."""
    (place / "send").write_text("0 full\tdata/volumes/v@x\t99\nsize\t4711")
    assert estimate_bytes(SNAPSHOT, None) == estimate_bytes(SNAPSHOT, Unfinished("1-ab", SNAPSHOT)) == 4711
    assert asked(place) == [f"send -nvP -Lec {SNAPSHOT}", "send -nvP -t 1-ab"]
    (place / "send").write_text("1 permission denied")
    with pytest.raises(BackendError, match="permission denied"):
        estimate_bytes(SNAPSHOT, None)
