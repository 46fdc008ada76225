"""What the lab shows a person: progress, and errors that explain themselves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lab.__main__ import main
from lab.command import capture, run_logged
from lab.errors import CommandFailed, DiskFull, TimedOut
from lab.progress import Progress, clock
from lab.waiting import wait_until


class Terminal(io.StringIO):
    """A terminal that remembers what was drawn."""

    def isatty(self) -> bool:
        return True


def test_elsewhere_each_step_is_a_line(tmp_path: Path) -> None:
    """Start with the usual time, and end with the time it took."""
    output = io.StringIO()
    with Progress("build", {"compile": 290.0}, tmp_path / "memory", output) as progress:
        with progress.step("compile"):
            pass
        progress.note("a note")
    lines = [line.split("] ", 1)[1] for line in output.getvalue().splitlines()]
    assert lines == ["compile (usually 4:50) ...", "compile: done in 0.0 s", "a note"]


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    """One line is redrawn, with the steps at work, elapsed and expected time."""
    output = Terminal()
    expected = {"build": 540.0, "compile": 290.0}
    with Progress("build", expected, tmp_path / "memory", output) as progress, progress.step("compile"):
        wait_until(lambda: "compile 0:00 of ~4:50" in output.getvalue(), 10, "the line to be drawn")
    assert "\rbuild [........................] 0:00 of ~9:00" in output.getvalue().replace("\x1b[K", "")


def test_the_time_of_a_step_is_remembered(tmp_path: Path) -> None:
    """The next run expects what this one took, but not what a failed one took."""
    memory = tmp_path / "memory"
    for expected in ("usually 4:50", "..."):
        output = io.StringIO()
        with Progress("build", {"compile": 290.0}, memory, output) as progress, progress.step("compile"):
            assert expected in output.getvalue()
    memory.unlink()
    output = io.StringIO()
    with (
        pytest.raises(ZeroDivisionError),
        Progress("build", {}, memory, output) as progress,
        progress.step("compile"),
    ):
        _ = 1 / 0
    assert "compile: failed after" in output.getvalue()
    assert not memory.exists()


def test_a_failed_command_explains_itself(tmp_path: Path) -> None:
    """The error shows the command, its exit status, its complaint and where its log is."""
    argv = ["sh", "-c", "echo complaint >&2; exit 3"]
    with pytest.raises(CommandFailed, match=r"exit status 3:\n .*sh -c .*\n    complaint"):
        capture(argv)
    log = tmp_path / "log"
    log.write_text("of an earlier command\n")
    with pytest.raises(CommandFailed, match=r"log: .*/log") as failed:
        run_logged(argv, log)
    assert "earlier" not in str(failed.value)


def test_a_full_disk_is_told_from_other_failures(tmp_path: Path) -> None:
    """What a tool says in its log decides."""
    with pytest.raises(DiskFull, match="free some"):
        run_logged(["sh", "-c", "echo tar: x: No space left on device; exit 2"], tmp_path / "log")


def test_waiting_says_for_what() -> None:
    """A wait in vain names what did not happen."""
    with pytest.raises(TimedOut, match=r"waited 0\.01 s for the moon"):
        wait_until(lambda: False, 0.01, "the moon", interval_seconds=0.001)


def test_clock_shows_minutes() -> None:
    """Minutes and seconds."""
    assert [clock(seconds) for seconds in (0, 65.9, 600)] == ["0:00", "1:05", "10:00"]


def test_without_a_lab_the_commands_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status tells it by its exit status, too; down has nothing to do."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("ZOLDER_LAB", "absent")
    assert main(["down"]) == 0
    assert main(["status"]) == 3
    assert main(["status", "--json"]) == 3
    assert '"up": false' in capsys.readouterr().out
