"""The command that sshd starts for the agent and systemd for root: there, to be run, and root's alone."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from typing import Final

from zolder import __version__
from zolder.san.check.finding import Check, Finding
from zolder.san.check.machine import Machine
from zolder.san.keylines import PATH, parse_lines
from zolder.san.placement import HEAD_BYTES, Lost, describe_stranger, find_stranger, interpreters, way

COMMAND: Final = Check("command")
# What sshd gives a session for PATH, and the place that the documentation gives the command.
_SSHD_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_USUAL: Final = "/usr/local/bin/zolder-san"
_AS_ROOT: Final = "sudo zolder-san check"
_HELPER: Final = "/etc/systemd/system/zolder-helper.service"
_START: Final = re.compile(r"^ExecStart=(/\S+)", re.MULTILINE)


def check_command(machine: Machine) -> Iterator[Finding]:
    """Look at the command of each key and of the helper: it can be run by all, and changed by root alone."""
    for program in _programs(machine):
        # Its path first, which says better what is wrong; but only running it shows all that it needs.
        if reason := _unreachable(machine, program):
            message = f"cannot be run by the agent's user: {reason}"
            yield COMMAND.failure(program, message, _by_hand(program))
        elif stranger := _find_stranger(machine, program):
            message = f"root runs it, and {stranger}"
            remedy = f"namei -l {program}\nls -ldn $(dirname {program}) {machine.code}"
            yield COMMAND.failure(program, message, remedy)
        else:
            yield _try(machine, program)


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
    keys = parse_lines(machine.find_text(PATH) or "")
    found = {key.forced[0] for _, key in keys if key and key.forced} or {_USUAL}
    found.update(_START.findall(machine.find_text(_HELPER) or ""))
    programs = set()
    for name in found:
        places = [f"{folder}/{name}" for folder in _SSHD_PATH]
        there = (place for place in places if machine.find_status(place) is not None)
        programs.add(name if name.startswith("/") else next(there, places[0]))
    return sorted(programs)


def _unreachable(machine: Machine, program: str) -> str | None:
    """Return why a program cannot be run by everybody, its interpreter included; None where it can."""
    try:
        resolved = _resolve(machine, program)
    except Lost as err:
        return str(err)
    try:
        for interpreter in _interpreters(machine, resolved):
            _resolve(machine, interpreter)
    except Lost as err:
        return f"its interpreter: {err}"
    return None


def _resolve(machine: Machine, path: str) -> str:
    """Return a path without links.

    :raises Lost: not everybody can run what is there.
    """
    at = path
    for at, status in way(path, machine.find_status, machine.find_link):
        if not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_IXOTH:
            message = f"{at} has mode {stat.S_IMODE(status.st_mode):04o}"
            raise Lost(message)
    return at


def _interpreters(machine: Machine, resolved: str) -> list[str]:
    with machine.path(resolved).open("rb") as file:
        return interpreters(file.read(HEAD_BYTES), machine.find_status)


def _find_stranger(machine: Machine, program: str) -> str | None:
    """Return how somebody but root can change a program, its interpreter or our code; None where nobody."""
    owner, code = machine.root_uid, f"/{machine.code.relative_to(machine.root)}"
    try:
        for path in (program, *_interpreters(machine, _resolve(machine, program)), code):
            if found := find_stranger(path, machine.find_status, machine.find_link, owner=owner):
                return found
    except Lost as err:
        return str(err)
    for below in sorted(machine.code.rglob("*")):
        if fault := describe_stranger(below.lstat(), owner=owner):
            return f"{below} {fault}"
    return None
