"""sshd's drop-in: proven by sshd itself before it is put in place, and read by sshd once it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from zolder.names import Identity
from zolder.san.setup.host import Host
from zolder.san.setup.proof import prove
from zolder.san.setup.steps import After, Step
from zolder.san.setup.texts import SSHD_FILE, login_name, sshd_config
from zolder.san.setup.tree import File

_UNIT_FOLDERS: Final = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


def sshd_steps(host: Host, passwords: Sequence[Identity]) -> list[Step]:
    """Return the steps that write the drop-in and have sshd read it.

    :param passwords: the identities that may log in with a password.
    """
    text = sshd_config(host.executable, passwords)
    dropin = File(host, SSHD_FILE, text, verify=partial(prove, host, passwords))
    if not host.has_systemd:
        return [dropin]
    # It leaves an sshd alone that does not run: one started by a socket reads its files at each connection.
    reload = ["systemctl", "try-reload-or-restart", f"{_unit(host)}.service"]
    return [dropin, After(host, reload, [dropin])]


class Proof(Step):
    """A login that was just made is confined: what sshd does for its groups shows only now."""

    def __init__(self, host: Host, identity: Identity, login: Step) -> None:
        """Prove it where the step ``login`` made the identity's own name."""
        self._host = host
        self._identity = identity
        self._login = login

    def needed(self) -> None:
        """Ask sshd; there is never anything to do.

        :raises SetupError: the login is not confined. Nobody can use it before it is given a password.
        """
        content = self._host.read(SSHD_FILE)
        if content and self._login.changing and self._host.find_account(login_name(self._identity)):
            prove(self._host, [self._identity], content.text)

    def apply(self) -> None:
        """Do nothing: this is never reached."""


def _unit(host: Host) -> str:
    """Return sshd's unit: ``ssh`` on Debian and its relatives, ``sshd`` elsewhere."""
    found = any(host.path(f"{folder}/ssh.service").is_file() for folder in _UNIT_FOLDERS)
    return "ssh" if found else "sshd"
