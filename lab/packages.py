"""The Debian packages that the lab needs on this machine itself.

As root it installs what is missing; otherwise it names the exact command. On Debian 12 QEMU comes from
bookworm-backports, because 7.2 panicked one boot in two under TCG with two processors; that suite is used for
the one call and not left in the machine's sources.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from lab.aptconf import PrivateApt, debian_sources, os_release
from lab.command import build_environment, capture, run_logged
from lab.errors import LabError

BACKPORTS = "bookworm-backports"

QEMU = "qemu-system-x86_64"
# The first that takes `reconnect-ms` for a stream between guests.
MINIMUM_QEMU = (9, 2)

# What is asked of the package -> what shows that it is there.
TOOLS = {
    "qemu-system-x86": QEMU,
    "qemu-utils": "qemu-img",
    "openssh-client": "ssh",
}
BUILD_TOOLS = TOOLS | {
    "mmdebstrap": "mmdebstrap",
    "e2fsprogs": "mkfs.ext4",
    "fdisk": "sfdisk",
    "zstd": "zstd",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
}
FROM_BACKPORTS = ("qemu-system-x86", "qemu-utils")
ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


def is_present(tool: str) -> bool:
    """Say whether a command, or a file given by its path, is there, and new enough."""
    if tool.startswith("/"):
        return Path(tool).exists()
    if tool == QEMU:
        return shutil.which(QEMU) is not None and qemu_numbers(qemu_version()) >= MINIMUM_QEMU
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{ADMIN_PATH}") is not None


def missing_packages(tools: dict[str, str]) -> list[str]:
    """Return the packages whose tool is not there."""
    return [package for package, tool in tools.items() if not is_present(tool)]


def is_bookworm() -> bool:
    """Say whether this is Debian 12, whose own QEMU will not do."""
    return os_release().get("VERSION_CODENAME") == "bookworm"


def install_commands(packages: list[str]) -> list[list[str]]:
    """Return the apt-get calls that a person without the lab would type."""
    newer = [package for package in packages if package in FROM_BACKPORTS and is_bookworm()]
    plain = [package for package in packages if package not in newer]
    start = ["apt-get", "install", "-y", "--no-install-recommends"]
    commands = []
    if plain:
        commands.append([*start, *plain])
    if newer:
        commands.append([*start, "-t", BACKPORTS, *newer])
    return commands


def ensure_packages(tools: dict[str, str], folder: Path, log: Path) -> list[str]:
    """Install what is missing, and return it.

    :param folder: for apt's lists, where backports are needed.
    :raises LabError: naming the command to run, when we are not root or this is no Debian.
    """
    missing = missing_packages(tools)
    if not missing:
        return []
    if shutil.which("apt-get") is None:
        raise LabError(f"please install these Debian packages' equivalents: {' '.join(missing)}")
    commands = install_commands(missing)
    if os.geteuid() != 0:
        lines = [f"    sudo {' '.join(command)}" for command in commands]
        hint = f" ({BACKPORTS} must be among apt's sources)" if BACKPORTS in str(commands) else ""
        raise LabError("\n".join([f"packages are missing; run{hint}:", *lines]))
    environment = build_environment()
    run_logged(["apt-get", "update"], log, env=environment)
    for command in commands:
        options: list[str] = []
        if BACKPORTS in command:
            own, *updates = debian_sources("bookworm", ("main",))
            backports = type(own)(own.uri, BACKPORTS, own.components, own.signed_by)
            options = PrivateApt(folder, [own, *updates, backports]).options(own_status=False)
            run_logged(["apt-get", *options, "update"], log, env=environment)
        # The machine may be busy with its own upgrades.
        patient = ["-o", "DPkg::Lock::Timeout=300"]
        run_logged([command[0], *patient, *options, *command[1:]], log, env=environment)
    still = missing_packages(tools)
    if still:
        raise LabError(
            f"apt installed {' '.join(missing)}, yet {' '.join(still)} is not to be found, or too old "
            f"(QEMU must be {'.'.join(map(str, MINIMUM_QEMU))} or later); see {log}"
        )
    return missing


def qemu_version() -> str:
    """Return QEMU's version line.

    :raises LabError: when it is not there.
    """
    binary = shutil.which(QEMU)
    if binary is None:
        raise LabError(f"{QEMU} is missing; `python -m lab build` as root installs it")
    return capture([binary, "--version"]).splitlines()[0]


def qemu_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of QEMU's version line: (10, 0) of "QEMU emulator version 10.0.2 (Debian ...)"."""
    found = re.search(r"version (\d+)\.(\d+)", version)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
