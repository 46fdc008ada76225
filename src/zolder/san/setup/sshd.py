"""sshd's drop-in: checked by sshd itself, with all else that it reads, before it is put in place."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

from zolder.names import Identity
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.steps import After, Step
from zolder.san.setup.texts import SSHD_FILE, sshd_config
from zolder.san.setup.tree import File

_MAIN: Final = "etc/ssh/sshd_config"
_INCLUDE: Final = re.compile(r"^\s*Include\s.*\bsshd_config\.d/\*\.conf\b", re.MULTILINE | re.IGNORECASE)
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/bin"
# sshd makes it when it starts, and refuses to check a file without it where it never did (socket activation).
_SEPARATION_FOLDER: Final = Path("/run/sshd")
_UNIT_FOLDERS: Final = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


def sshd_steps(host: Host, passwords: Iterable[Identity]) -> list[Step]:
    """Return the steps that write the drop-in and have sshd read it.

    :param passwords: the identities that may log in with a password.
    """
    text = sshd_config(host.executable, passwords)
    dropin = File(host, SSHD_FILE, text, verify=partial(_verify, host))
    if not host.has_systemd:
        return [dropin]
    # It leaves an sshd alone that does not run: one started by a socket reads its files at each connection.
    reload = ["systemctl", "try-reload-or-restart", f"{_unit(host)}.service"]
    return [dropin, After(host, reload, [dropin])]


def _unit(host: Host) -> str:
    """Return sshd's unit: ``ssh`` on Debian and its relatives, ``sshd`` elsewhere."""
    found = any(host.path(f"{folder}/ssh.service").is_file() for folder in _UNIT_FOLDERS)
    return "ssh" if found else "sshd"


def _verify(host: Host, text: str) -> None:
    """Have sshd read the text behind all that it reads now.

    :raises SetupError: it finds a fault, or would not read the drop-in at all.
    """
    main = host.read(_MAIN)
    if main is None or not _INCLUDE.search(main.text):
        message = (
            f"/{_MAIN} does not read the files in sshd_config.d: put the line "
            "'Include /etc/ssh/sshd_config.d/*.conf' at its top"
        )
        raise SetupError(message)
    program = shutil.which("sshd", path=_PLACES)
    if program is None:
        message = "there is no sshd on this machine: install openssh-server"
        raise SetupError(message)
    _SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zolder-") as folder:
        candidate = Path(folder, "sshd_config")
        candidate.write_text(f"Include {host.path(_MAIN)}\n{text}", encoding="utf-8")
        done = host.run([program, "-t", "-f", str(candidate)])
    if done.exit_status:
        message = f"sshd refuses its configuration with /{SSHD_FILE}: {done.stderr.strip()[-1000:]}"
        raise SetupError(message)
