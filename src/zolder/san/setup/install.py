"""``zolder-san install``: all of a SAN's set-up but for who may come in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Final

from zolder import __version__
from zolder.names import DatasetName
from zolder.san.setup import texts, units
from zolder.san.setup.accounts import account_steps, password_identities
from zolder.san.setup.datasets import delegation_steps, parents_of, udev_steps
from zolder.san.setup.host import FOLDER, USER, Host
from zolder.san.setup.policyfile import parse, read_text
from zolder.san.setup.sshd import sshd_steps
from zolder.san.setup.steps import After, Argv, Commands, Step
from zolder.san.setup.tree import HEADING, File, Folder

NO_SYSTEMD: Final = (
    "This machine does not run systemd: have its own service manager run "
    "'zolder-san helper --socket /run/zolder-helper.socket' as root (docs/security.md), and have sshd read "
    "its files again. At boot, have it run 'zolder-san restore --shut-only' before the network is up and "
    "'zolder-san restore' once the zpools are imported."
)


def folder_steps(host: Host) -> list[Step]:
    """Return the step that makes the folder in which the lock lies."""
    return [Folder(host, FOLDER, 0o755)]


def install_steps(host: Host) -> list[Step]:
    """Return all steps, in an order in which each finds what it needs.

    :raises SetupError, PolicyError: the policy file that is there cannot be trusted or read.
    """
    policy = read_text(host)
    parents = parents_of(parse(policy or "").values())
    return [
        *account_steps(host),
        Folder(host, texts.STATE_FOLDER, 0o700, USER),
        Folder(host, texts.RUN_FOLDER, 0o700, USER),
        File(host, texts.TMPFILES_FILE, texts.TMPFILES),
        # What is in these two is the administrator's.
        File(host, texts.POLICY_FILE, texts.POLICY if policy is None else policy, shared=True),
        File(host, texts.KEYS_FILE, _keys(host), shared=True),
        *sshd_steps(host, password_identities(host)),
        *_kernel_steps(host, parents),
        *_helper_steps(host),
        # Last: it needs zpools that are imported, and nothing else needs it to be done.
        *delegation_steps(host, parents),
    ]


def _keys(host: Host) -> str:
    content = host.read(texts.KEYS_FILE)
    return content.text if content else texts.KEYS


def _kernel_steps(host: Host, parents: Iterable[DatasetName]) -> list[Step]:
    return [
        File(host, texts.MODULES_FILE, texts.MODULES_LOAD),
        Commands(host, partial(_load_modules, host)),
        *udev_steps(host, parents),
    ]


def _load_modules(host: Host) -> list[Argv]:
    folder = f"lib/modules/{os.uname().release}"
    built_in = host.read(f"{folder}/modules.builtin")
    loadable = host.read(f"{folder}/modules.dep")
    more = [name for name in texts.MORE_MODULES if loadable and f"/{name}.ko" in loadable.text]
    absent = [
        module
        for module in (*texts.MODULES, *more)
        if not host.path(f"sys/module/{module.replace('-', '_')}").is_dir()
        and not (built_in and f"/{module}.ko\n" in built_in.text)
    ]
    return [["modprobe", "--all", *absent]] if absent else []


def _helper_steps(host: Host) -> list[Step]:
    """Return the steps for what root runs; without systemd it is somebody else's to run."""
    version = File(host, texts.VERSION_FILE, f"{HEADING}\n{__version__}\n")
    if not host.has_systemd:
        return [version]
    socket = File(host, units.SOCKET_FILE, units.SOCKET_UNIT)
    service = File(host, units.SERVICE_FILE, units.service_unit(host.executable))
    portals = File(host, units.PORTALS_FILE, units.portals_unit(host.executable))
    restore = File(host, units.RESTORE_FILE, units.restore_unit(host.executable))
    # A socket is bound anew only while its service does not run; stopping the socket stops that, too.
    unbind = Commands(
        host, lambda: [["systemctl", "stop", units.SOCKET]] if socket.changing and _is_active(host) else []
    )
    return [
        socket,
        service,
        portals,
        restore,
        version,
        After(host, ["systemctl", "daemon-reload"], [socket, service, portals, restore]),
        unbind,
        Commands(host, lambda: _enable(host, stopped=unbind.changing)),
        # For the next boot: what is exported now is left alone.
        Commands(host, lambda: _enable_for_boot(host)),
        After(host, ["systemctl", "try-restart", units.SERVICE], [service, version]),
    ]


def _is_active(host: Host) -> bool:
    return host.run(["systemctl", "is-active", "--quiet", units.SOCKET]).exit_status == 0


def _enable(host: Host, *, stopped: bool) -> list[Argv]:
    link = host.path(units.ENABLED_LINK)
    done = link.is_symlink() and not stopped and _is_active(host)
    return [] if done else [["systemctl", "enable", "--now", units.SOCKET]]


def _enable_for_boot(host: Host) -> list[Argv]:
    absent = [unit for unit, link in units.BOOT_LINKS.items() if not host.path(link).is_symlink()]
    return [["systemctl", "enable", *absent]] if absent else []
