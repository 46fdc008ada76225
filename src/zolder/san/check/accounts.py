"""The user whom sshd lets in, further names of it, and the folders that are its own."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine

ACCOUNT: Final = Check("account")
FOLDERS: Final = Check("folders")
USER: Final = "zolder"
INSTALL: Final = "sudo zolder-san install"
_FIELDS: Final = 7
_NO_SHELLS: Final = frozenset({"nologin", "false"})


@dataclass(frozen=True, slots=True)
class Account:
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


def accounts(machine: Machine) -> list[Account]:
    """Return the local users.

    :raises NotChecked: they cannot be read.
    """
    found = []
    for line in machine.text("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) == _FIELDS and fields[2].isdigit() and fields[3].isdigit():
            found.append(Account(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6]))
    return found


def find_user(machine: Machine) -> Account | None:
    """Return the agent's user; None before it was set up."""
    return next((account for account in accounts(machine) if account.name == USER), None)


def user(machine: Machine) -> Account:
    """Return the agent's user.

    :raises NotChecked: there is none, which `check_account` says as a failure.
    """
    found = find_user(machine)
    if found is None:
        message = f"there is no user {USER}"
        raise NotChecked(message, INSTALL)
    return found


def check_account(machine: Machine) -> Iterator[Finding]:
    """Look at the agent's user: there, not root, a shell that can start the forced command, no password."""
    found = find_user(machine)
    if found is None:
        yield ACCOUNT.failure(USER, f"there is no user {USER}: nobody can log in", INSTALL)
        return
    if found.uid == 0:
        yield ACCOUNT.failure(USER, "is root: the agent must not be", f"sudo userdel {USER}\n{INSTALL}")
        return
    faults = list(_check_entry(machine, found))
    yield from faults or [ACCOUNT.ok(USER, f"is there, uid {found.uid}")]
    yield from _check_password(machine)


def _check_entry(machine: Machine, found: Account) -> Iterator[Finding]:
    shell = found.shell.rpartition("/")[2]
    if shell in _NO_SHELLS or machine.find_status(found.shell or "/bin/sh") is None:
        message = f"its shell {found.shell} cannot start the agent: sshd runs a forced command through it"
        yield ACCOUNT.failure(USER, message, f"sudo usermod --shell /bin/sh {USER}")
    if found.home != "/var/lib/zolder":
        message = f"its home is {found.home}, not /var/lib/zolder"
        yield ACCOUNT.warning(USER, message, f"sudo usermod --home /var/lib/zolder {USER}")
    if _group(machine) != found.gid:
        message = "its own group is not the group zolder: it cannot reach the helper"
        yield ACCOUNT.failure(USER, message, f"sudo usermod --gid zolder {USER}")
    for twin in accounts(machine):
        if twin.uid == found.uid and twin.name != USER and not twin.name.startswith(f"{USER}-"):
            message = f"{twin.name} has the same uid {found.uid}: whoever is {twin.name} is the agent, too"
            yield ACCOUNT.failure(USER, message, f"sudo usermod --uid NEWUID {shlex.quote(twin.name)}")


def _check_password(machine: Machine) -> Iterator[Finding]:
    for line in machine.text("/etc/shadow").splitlines():
        name, _, rest = line.partition(":")
        word = rest.partition(":")[0]
        if name == USER and word.startswith("!"):
            message = "is locked: sshd without PAM refuses even its keys"
            yield ACCOUNT.warning(USER, message, f"sudo usermod --password '*' {USER}")
        elif name == USER and word != "*":
            message = (
                "has a password: nobody needs to log in by it" if word else "needs no password to log in"
            )
            yield ACCOUNT.failure(USER, message, f"sudo usermod --password '*' {USER}")


def _group(machine: Machine) -> int | None:
    for line in machine.text("/etc/group").splitlines():
        fields = line.split(":")
        if fields[0] == USER and len(fields) > 2 and fields[2].isdigit():  # noqa: PLR2004 - name, password, gid
            return int(fields[2])
    return None


def check_folders(machine: Machine) -> Iterator[Finding]:
    """Look at the folders: the policy's is root's, the agent's own are its own alone."""
    yield from check_place(FOLDERS, machine, "/etc/zolder", uid=machine.root_uid, mode=0o755)
    agent = user(machine)
    for path in ("/var/lib/zolder", "/run/zolder"):
        yield from check_place(FOLDERS, machine, path, uid=agent.uid, gid=agent.gid, mode=0o700)
    for path, mode in (("/var/lib/zolder-helper", 0o700), ("/run/zolder-helper", 0o755)):
        # The helper's unit makes them when it starts.
        if machine.find_status(path) is not None:
            yield from check_place(FOLDERS, machine, path, uid=machine.root_uid, mode=mode)
    if machine.find_text("/etc/tmpfiles.d/zolder.conf") is None:
        message = "is not there: /run/zolder does not come back when this machine is restarted"
        yield FOLDERS.failure("/etc/tmpfiles.d/zolder.conf", message, INSTALL)


def check_place(
    check: Check,
    machine: Machine,
    path: str,
    *,
    uid: int,
    mode: int,
    gid: int | None = None,
    kind: int = stat.S_IFDIR,
) -> Iterator[Finding]:
    """Yield what is wrong with a file's or folder's kind, owner and mode, or that nothing is."""
    status = machine.find_status(path)
    if status is None:
        yield check.failure(path, "is not there", INSTALL)
        return
    if stat.S_IFMT(status.st_mode) != kind:
        yield check.failure(
            path, f"is something else: {stat.filemode(status.st_mode)}", f"ls -ld {path}\n{INSTALL}"
        )
        return
    wrong = []
    if status.st_uid != uid:
        wrong.append(f"belongs to uid {status.st_uid}, not {uid}")
    if gid is not None and status.st_gid != gid:
        wrong.append(f"has group {status.st_gid}, not {gid}")
    if (now := stat.S_IMODE(status.st_mode)) != mode:
        wrong.append(f"has mode {now:04o}, not {mode:04o}")
    if wrong:
        group = "" if gid is None else f":{gid}"
        yield check.failure(
            path, ", ".join(wrong), f"sudo chown {uid}{group} {path}\nsudo chmod {mode:04o} {path}"
        )
    else:
        yield check.ok(path, f"owner and mode {mode:04o} are right")
