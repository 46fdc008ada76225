from __future__ import annotations

import argparse
import errno
import json
import re
from pathlib import Path

import pytest

from tests.unit.checked_san import ALLOW, ASHIFT, HEALTH, LVMCONFIG, RECORDS, SSHD, ZVOLS, CheckedSan, not_ok
from zolder import __version__
from zolder.errors import BackendError
from zolder.san.check.catalogue import CHECKS, look_at
from zolder.san.check.command import add_parser, as_text, run
from zolder.san.check.finding import EXIT_STATUS, Check, Finding, Level, NotChecked, worst
from zolder.san.check.machine import Hangs, Machine, run_bounded

SUBJECT = Check("subject")


@pytest.fixture
def san(tmp_path: Path) -> CheckedSan:
    """A SAN on which all is well."""
    return CheckedSan(tmp_path)


def options(*words: str) -> argparse.Namespace:
    """Return the options as the command line has them."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["check", *words])


def test_all_is_well(san: CheckedSan, capsys: pytest.CaptureFixture[str]) -> None:
    """On a SAN that is as `install` and `authorize` leave it, every check is made and nothing is to do."""
    findings = list(look_at(san.machine))
    assert not_ok(findings) == []
    assert {finding.check for finding in findings} == CHECKS.keys()
    assert run(options("--quiet"), san.machine) == 0
    assert capsys.readouterr().out == ""


def test_nothing_is_changed(san: CheckedSan) -> None:
    """No file is written, made or removed, and no program is asked to change anything."""

    def tree() -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in san.root.rglob("*")}
        return {path: (status.st_mtime_ns, status.st_mode) for path, status in found.items()}

    before = tree()
    list(look_at(san.machine))
    assert tree() == before
    verbs = {
        " ".join(line.split()[:2]) for line in san.asked if line.startswith(("zfs", "zpool", "systemctl"))
    }
    assert verbs == {"zfs allow", "zfs get", "zfs version", "zpool get", "zpool status", "systemctl show"}
    assert len(san.asked) == len(set(san.asked))


@pytest.mark.parametrize("name", CHECKS)
def test_an_empty_machine(tmp_path: Path, name: str) -> None:
    """Where nothing at all is there, no check breaks, and none that needs something says that all is well."""

    def absent(argv: object) -> None:
        raise BackendError(str(argv)) from FileNotFoundError()

    machine = Machine(tmp_path, absent)  # type: ignore[arg-type] # it never returns
    findings = [finding for finding in look_at(machine) if finding.check == name]
    assert findings
    assert name in {"lvm", "multipath", "holders"} or worst(findings) is not Level.OK


@pytest.mark.parametrize(
    "garbage", ["", "\0\x1b[2J", "a\tb\tc\td\te\n", "{}", "[1]", "=", "\t\t\n", "9" * 5000]
)
def test_garbage_is_never_well(san: CheckedSan, garbage: str) -> None:
    """Whatever a program prints instead of what it should, its check fails or could not be made."""
    for line in [line for line in san.answers if not line.startswith("systemctl")]:
        # No zvols are there, or vdevs tell no ashift: answers. LVM's own defaults hold where it prints none.
        if line in {ASHIFT, f"{ZVOLS}{garbage}", f"{RECORDS}{garbage}"} or (
            line == LVMCONFIG and garbage == "{}"
        ):
            continue
        kept, san.answers[line] = san.answers[line], garbage
        assert not_ok(list(look_at(san.anew()))), (line, garbage)
        san.answers[line] = kept


@pytest.mark.parametrize("program", [SSHD, HEALTH, ALLOW])
def test_a_program_that_fails(san: CheckedSan, program: str) -> None:
    """A program's failure is told in its own words, and never taken for an answer."""
    san.answers[program] = (1, "", "it said no\n")
    found = [finding for finding in look_at(san.machine) if finding.level is Level.UNKNOWN]
    assert any("it said no" in finding.message for finding in found)


def test_what_may_not_be_read(san: CheckedSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only root may read is said to be unread, with the command that can."""

    def refuse(self: Path, **_: str) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    (finding, *_) = look_at(san.machine)
    assert finding == Check("account").unknown(
        "not looked at", "/etc/passwd cannot be read: Permission denied", "sudo zolder-san check"
    )


def test_a_program_that_hangs(san: CheckedSan) -> None:
    """A program that does not come back is left behind and not asked again; the other checks are made."""
    san.answers |= {line: Hangs("zfs does not end") for line in san.answers if line.startswith("zfs ")}
    findings = list(look_at(san.machine))
    assert {finding.check for finding in findings if "zfs does not end" in finding.message} == {
        "versions",
        "parent",
        "zvols",
        "exports",
    }
    assert sum(line.startswith("zfs ") for line in san.asked) == 1
    assert {finding.check for finding in findings} == CHECKS.keys()


def test_a_program_s_time_is_bounded() -> None:
    """A program that takes too long is told to end, and said to hang."""
    with pytest.raises(Hangs, match=r"sleep 60 did not end within 0.05 s"):
        run_bounded(["sleep", "60"], seconds=0.05)
    assert run_bounded(["true"]).exit_status == 0


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """A missing program is told from one that cannot be run."""
    assert Machine(tmp_path).ask("/nowhere/at-all") is None
    with pytest.raises(NotChecked, match="cannot run"):
        Machine(tmp_path).ask(str(tmp_path))


@pytest.mark.parametrize(
    ("findings", "level", "status"),
    [
        ([], Level.UNKNOWN, 3),
        ([SUBJECT.ok("a", "b"), SUBJECT.note("a", "b")], Level.NOTE, 0),
        ([SUBJECT.warning("a", "b", "c"), SUBJECT.note("a", "b")], Level.WARNING, 1),
        ([SUBJECT.unknown("a", "b"), SUBJECT.warning("a", "b", "c")], Level.UNKNOWN, 3),
        ([SUBJECT.failure("a", "b", "c"), SUBJECT.unknown("a", "b")], Level.FAILURE, 2),
    ],
)
def test_exit_status(findings: list[Finding], level: Level, status: int) -> None:
    """The worst finding gives the exit status; a failure that was seen stands above what was not."""
    assert worst(findings) is level
    assert EXIT_STATUS[level] == status


def test_text() -> None:
    """A finding is a line, its remedy indented below, and nothing of it can write over the terminal."""
    finding = Check("zpool").failure("data", "is \x1b[2J\nfull", "zfs list\nzpool add")
    indent = " " * 17
    assert as_text(finding) == (
        f"FAIL  zpool      data: is \\x1b[2J\\nfull\n{indent}zfs list\n{indent}zpool add\n"
    )


def test_json_and_quiet(san: CheckedSan, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one object: the release, the worst level, the findings; --quiet leaves out the ok."""
    san.write("/proc/spl/kstat/zfs/data/state", "SUSPENDED\n")
    assert run(options("--json", "--quiet"), san.machine) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == __version__
    assert report["level"] == "failure"
    assert "ok" not in {finding["level"] for finding in report["findings"]}
    assert {"check", "level", "subject", "message", "remedy"} == report["findings"][0].keys()
    assert run(options(), san.machine) == 2
    assert "ok    lvm" in capsys.readouterr().out


def test_every_fault_has_a_remedy(san: CheckedSan) -> None:
    """Warnings and failures say what to do."""
    san.remove("/etc/zolder/san.toml")
    for finding in look_at(san.machine):
        assert finding.remedy or finding.level not in {Level.WARNING, Level.FAILURE}


def test_every_check_is_explained() -> None:
    """docs/check.md says of every check, in their order, what it is for."""
    page = (Path(__file__).parents[2] / "docs/check.md").read_text()
    rows = re.findall(r"^\| (\w+) \|", page.partition("## What each check means")[2], re.MULTILINE)
    assert rows[1:] == list(CHECKS)
