"""The machine itself: its clock, its memory, and the command that sshd starts."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from zolder import __version__
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.keys import PATH as KEYS_FILE
from zolder.san.check.keys import parse_line
from zolder.san.check.machine import Machine

CLOCK: Final = Check("clock")
MEMORY: Final = Check("memory")
COMMAND: Final = Check("command")
_GIB: Final = 2**30
# What sshd gives a session for PATH, and the place that the documentation gives the command.
_SSHD_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_USUAL: Final = "/usr/local/bin/zolder-san"
_AS_ROOT: Final = "sudo zolder-san check"
_MOST_LINKS: Final = 40


def check_clock(machine: Machine) -> Iterator[Finding]:
    """Look at whether the clock is kept right: requests carry deadlines, and the audit times."""
    if machine.find_status("/run/systemd/timesync/synchronized") is not None:
        yield CLOCK.ok("clock", "is synchronised by systemd-timesyncd")
        return
    finished = machine.ask("timedatectl", "show", "--property=NTPSynchronized", "--value")
    said = finished.stdout.strip() if finished is not None and finished.exit_status == 0 else ""
    remedy = "timedatectl status\nsudo apt install chrony"
    if said == "yes":
        yield CLOCK.ok("clock", "is synchronised")
    elif said == "no":
        yield CLOCK.warning("clock", "is not synchronised: the audit's times cannot be compared", remedy)
    else:
        yield CLOCK.note("clock", "nobody here says whether it is synchronised", remedy)


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Look at what ZFS's cache may take of the memory."""
    total = _numbers(machine.text("/proc/meminfo"), "MemTotal:") * 1024
    largest = _numbers(machine.text("/proc/spl/kstat/zfs/arcstats"), "c_max")
    figures = f"ZFS's cache (ARC) may take {largest / _GIB:.1f} of {total / _GIB:.1f} GiB"
    if total - largest < _GIB:
        message = f"{figures}: less than 1 GiB is left for everything else until it shrinks"
        remedy = f"echo {max(total // 2, total - 4 * _GIB)} | sudo tee /sys/module/zfs/parameters/zfs_arc_max"
        yield MEMORY.note("ARC", message, remedy)
    else:
        yield MEMORY.ok("ARC", figures)


def _numbers(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [name]:
            # meminfo: name, number, kB; kstat: name, type, number.
            return int(words[1] if name.endswith(":") else words[-1])
    message = f"{name.strip(':')} is not in {text[:40]!a}..."
    raise NotChecked(message)


def check_command(machine: Machine) -> Iterator[Finding]:
    """Look at the command of each key: there, and to be run by a user who is not root."""
    for program in _programs(machine):
        reason = _unreachable(machine, program)
        # Its path first, which says better what is wrong; but only running it shows all that it needs.
        if reason is None:
            yield _try(machine, program)
        else:
            yield COMMAND.failure(program, f"cannot be run by the agent's user: {reason}", _by_hand(program))


def _try(machine: Machine, program: str) -> Finding:
    as_agent = ("setpriv", "--reuid=zolder", "--regid=zolder", "--clear-groups")
    finished = machine.ask(*as_agent, program, "--version")
    if finished is None or finished.stderr.startswith("setpriv: "):
        return COMMAND.unknown(program, "whether the agent's user can run it is only seen as root", _AS_ROOT)
    if finished.exit_status:
        said = finished.stderr.strip()[-200:] or finished.exit_status
        return COMMAND.failure(program, f"cannot be run by the agent's user: {said}", _by_hand(program))
    version = finished.stdout.strip().removeprefix("zolder-san ")
    if version != __version__:
        message = f"is zolder-san {version[:40]}, and this is {__version__}: two are installed"
        return COMMAND.warning(program, message, f"type -a zolder-san\nls -l {program}")
    return COMMAND.ok(program, "can be run by the agent's user")


def _by_hand(program: str) -> str:
    return f"sudo -u zolder {program} --version\nnamei -l {program}"


def _programs(machine: Machine) -> list[str]:
    found = set()
    for line in (machine.find_text(KEYS_FILE) or "").splitlines():
        key = parse_line(0, line)
        if key and key.forced:
            found.add(key.forced[0])
    programs = set()
    for name in found or {_USUAL}:
        places = [f"{folder}/{name}" for folder in _SSHD_PATH]
        there = (place for place in places if machine.find_status(place) is not None)
        programs.add(name if name.startswith("/") else next(there, places[0]))
    return sorted(programs)


def _unreachable(machine: Machine, program: str) -> str | None:
    """Return why a program cannot be run by everybody, its interpreter included; None where it can."""
    resolved = _resolve(machine, program)
    if isinstance(resolved, NotChecked):
        return str(resolved)
    first = machine.path(resolved).read_bytes()[:256].splitlines()[:1]
    if first and first[0].startswith(b"#!"):
        interpreter = first[0][2:].decode(errors="replace").split()[:1]
        through = (
            _resolve(machine, interpreter[0]) if interpreter else NotChecked("its first line names nothing")
        )
        if isinstance(through, NotChecked):
            return f"its interpreter: {through}"
    return None


def _resolve(machine: Machine, path: str) -> str | NotChecked:
    """Return a path without links, or why everybody cannot run what is there."""
    todo = list(PurePosixPath(path).parts[1:])
    at, links = PurePosixPath("/"), 0
    while todo:
        part = todo.pop(0)
        at = at.parent if part == ".." else at / part
        status = machine.find_status(str(at))
        if status is None:
            return NotChecked(f"{at} is not there")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            to = PurePosixPath(machine.find_link(str(at)) or "")
            if links > _MOST_LINKS:
                return NotChecked(f"{path} is a circle of links")
            at = PurePosixPath("/") if to.is_absolute() else at.parent
            todo = [item for item in to.parts if item != "/"] + todo
        elif not status.st_mode & stat.S_IXOTH:
            return NotChecked(f"{at} has mode {stat.S_IMODE(status.st_mode):04o}")
    return str(at)
