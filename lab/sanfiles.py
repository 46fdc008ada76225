"""What `zolder-san install` and `authorize` make on a SAN, made into the lab's image.

The texts are theirs, and a test holds that `install` finds nothing to change in the lab; so a lab comes up as
an installed SAN without waiting for an installation under emulation. Without the code itself, which is put in
later, nothing of it does anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab.keys import IDENTITIES, public_key
from lab.policy import parents
from zolder import __version__
from zolder.names import Identity
from zolder.san.setup import texts, units
from zolder.san.setup.authorized import key_line
from zolder.san.setup.host import EXECUTABLE, USER
from zolder.san.setup.keys import PublicKey
from zolder.san.setup.tree import HEADING

# The compute machine boots from the same image.
_ON_THE_SAN = "[Unit]\nConditionKernelCommandLine=zolder.role=san\n"
# At the first boot there is no code yet.
_WITH_CODE = f"{_ON_THE_SAN}ConditionFileIsExecutable={EXECUTABLE}\n"
# What brings the network up here is a unit of the lab's own.
_BEFORE_THE_NETWORK = f"[Unit]\nAfter={units.PORTALS}\n"
_UID = 990


def san_files(keys: Path) -> dict[str, str]:
    """Return the files of an installed SAN by their paths without the leading slash."""
    return {
        texts.SSHD_FILE: texts.sshd_config(EXECUTABLE, ()),
        texts.TMPFILES_FILE: texts.TMPFILES,
        texts.MODULES_FILE: texts.MODULES_LOAD,
        texts.EARLY_RULES_FILE: texts.early_rules(parents()),
        texts.LATE_RULES_FILE: texts.LATE_RULES,
        texts.KEYS_FILE: texts.KEYS + "".join(key_lines(keys)),
        texts.VERSION_FILE: f"{HEADING}\n{__version__}\n",
        units.SOCKET_FILE: units.SOCKET_UNIT,
        units.SERVICE_FILE: units.service_unit(EXECUTABLE),
        units.PORTALS_FILE: units.portals_unit(EXECUTABLE),
        units.RESTORE_FILE: units.restore_unit(EXECUTABLE),
        f"{units.SOCKET_FILE}.d/zolder-lab.conf": _ON_THE_SAN,
        f"{units.PORTALS_FILE}.d/zolder-lab.conf": _WITH_CODE,
        f"{units.RESTORE_FILE}.d/zolder-lab.conf": _WITH_CODE,
        "etc/systemd/system/zolder-lab-role.service.d/zolder-portals.conf": _BEFORE_THE_NETWORK,
    }


def san_links() -> dict[str, str]:
    """Return the links by which systemd starts the units, and where each leads."""
    links = {units.ENABLED_LINK: f"/{units.SOCKET_FILE}"}
    return links | {link: f"/etc/systemd/system/{unit}" for unit, link in units.BOOT_LINKS.items()}


def key_lines(keys: Path) -> list[str]:
    """Return the line of each identity's key."""
    lines = []
    for identity, name in IDENTITIES.items():
        kind, blob, *_ = public_key(keys, name).split()
        lines.append(key_line(EXECUTABLE, Identity(identity), PublicKey(kind, blob), ()))
    return lines


def add_user(tree: Path) -> None:
    """Add the agent's user to a tree's accounts."""
    lines = {
        "etc/passwd": f"{USER}:x:{_UID}:{_UID}:Zolder's agent:/{texts.STATE_FOLDER}:/bin/sh\n",
        "etc/group": f"{USER}:x:{_UID}:\n",
        "etc/shadow": f"{USER}:*:20000::::::\n",
        "etc/gshadow": f"{USER}:!::\n",
    }
    for name, line in lines.items():
        path = tree / name
        text, status = path.read_text(), path.stat()
        # A new file in its place: what this one is linked to stays as it is.
        path.unlink()
        path.write_text(text + line)
        path.chmod(status.st_mode & 0o777)
        os.chown(path, status.st_uid, status.st_gid)
