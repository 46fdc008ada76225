"""The lab's writer and its watch over command lines: what they say can be wrong, and then they say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.inside import cmdlines, writer
from tests.support.waiting import wait_until

BLOCKS = 8


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in place of a disk; where it lies may not know direct I/O."""
    monkeypatch.setattr(writer, "DIRECT", 0)
    path = tmp_path / "disk"
    path.write_bytes(bytes(BLOCKS * writer.BLOCK_BYTES))
    return str(path)


def write_rounds(disk: str, blocks: int) -> None:
    """Write until so many blocks were acknowledged, and stop."""
    writer.start(disk, BLOCKS)
    wait_until(lambda: writer.progress()["written"] >= blocks, 30, f"{blocks} blocks to be written")
    assert writer.stop()["error"] == ""


@pytest.mark.parametrize("blocks", [3, 3 * BLOCKS])
def test_what_was_written_is_there(disk: str, blocks: int) -> None:
    """In the first round and in later ones, every place holds what was acknowledged last."""
    write_rounds(disk, blocks)
    assert writer.count_wrong() == 0
    assert writer.progress()["longest_seconds"] >= 0


def test_a_wrong_byte_is_found(disk: str) -> None:
    """One byte that differs is one wrong place, and so is an older round's content."""
    write_rounds(disk, 3 * BLOCKS)
    content = bytearray(Path(disk).read_bytes())
    content[5] ^= 1
    content[3 * writer.BLOCK_BYTES : 4 * writer.BLOCK_BYTES] = writer.content(3, 0)
    Path(disk).write_bytes(content)
    assert writer.count_wrong() == 2
    Path(disk).write_bytes(bytes(len(content)))
    assert writer.count_wrong() == BLOCKS


def test_a_write_that_fails_is_told_and_may_have_arrived(tmp_path: Path, disk: str) -> None:
    """The first error is kept; the block that it met may hold the old content or the new."""
    writer.start(str(tmp_path / "nowhere"), BLOCKS)
    wait_until(lambda: writer.progress()["error"], 30, "the error")
    assert "No such file" in writer.stop()["error"]
    write_rounds(disk, BLOCKS)
    (running,) = writer._writers
    running.error, running.written = "made up", BLOCKS
    rest = b"".join(writer.content(place, 0) for place in range(2, BLOCKS))
    for turn in (0, 1):
        Path(disk).write_bytes(writer.content(0, turn) + writer.content(1, turn) + rest)
        # The first place is the one whose write failed; the second one's was never begun.
        assert writer.count_wrong() == turn


def test_a_checksum_is_of_the_first_blocks(disk: str) -> None:
    """Equal content has an equal checksum, and other content another."""
    before = writer.sum_of(disk, 2)
    write_rounds(disk, 1)
    assert writer.sum_of(disk, 2) != before


def test_a_word_in_a_command_line_is_seen() -> None:
    """A process that shows the word is found with its whole line, and none other is."""
    word = f"a-word-of-{os.getpid()}"
    waits = [sys.executable, "-S", "-c", "import time; time.sleep(60)", word]
    with subprocess.Popen(waits) as shown:
        try:
            cmdlines.watch([word])
            wait_until(lambda: cmdlines.rounds() > 1, 30, "two looks at all processes")
            seen = cmdlines.stop()
        finally:
            shown.kill()
    assert seen["found"] == [" ".join(waits)]
    assert seen["seen"] > 1
    cmdlines.watch([f"{word}-that-nobody-has"])
    wait_until(lambda: cmdlines.rounds() > 1, 30, "two looks at all processes")
    assert cmdlines.stop()["found"] == []
