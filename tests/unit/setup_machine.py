"""A machine to set up: a folder, the real tools where they work on a folder, and models of those that do not.

useradd and its relatives, ssh-keygen and sshd are real. ZFS, systemd and udev are small models with state. It
runs as root, as the commands themselves do.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zolder.san.run import Finished, run
from zolder.san.setup import commands
from zolder.san.setup.host import Host
from zolder.san.setup.units import BOOT_LINKS

ADDRESSES = [
    {"addr_info": [{"local": "127.0.0.1", "scope": "host"}, {"local": "::1", "scope": "host"}]},
    {
        "addr_info": [
            {"local": "192.0.2.1", "scope": "global"},
            {"local": "2001:db8::1", "scope": "global"},
            {"local": "2001:db8::aaaa", "scope": "global", "temporary": True},
            {"local": "fe80::1", "scope": "link"},
        ]
    },
    {},
]
FOLDERS = ("etc/ssh/sshd_config.d", "run/systemd/system", "usr/lib/systemd/system", "var/lib", "sys/module")
PASSWD = "root:x:0:0:root:/root:/bin/sh\ncinder:x:1000:1000::/home/cinder:/bin/sh\n"


@dataclass
class Machine:
    """The machine, and what was run on it that changes something."""

    root: Path
    datasets: dict[str, str] = field(
        default_factory=lambda: {"data/volumes": "filesystem", "data/other": "filesystem", "data/z": "volume"}
    )
    allowed: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    code: tuple[str, ...] = ()
    patience_seconds: float = 5.0

    def __post_init__(self) -> None:
        """Make what every machine has."""
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True)
        (self.root / "usr/lib/systemd/system/ssh.service").touch()
        for name, text in (("passwd", PASSWD), ("group", "root:x:0:\n"), ("shadow", "root:*:1::::::\n")):
            (self.root / "etc" / name).write_text(text)
        shutil.copy("/etc/login.defs", self.root / "etc/login.defs")
        key = self.root / "etc/ssh/host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (self.root / "etc/ssh/sshd_config").write_text(
            f"Include {self.root}/etc/ssh/sshd_config.d/*.conf\nHostKey {key}\nUsePAM no\n"
            "X11Forwarding yes\nAcceptEnv LC_*\nSubsystem sftp internal-sftp\n"
        )
        (self.root / "proc").symlink_to("/proc")

    @property
    def host(self) -> Host:
        """The machine as the commands see it."""
        return Host(self.root, self.run, code=self.code, patience_seconds=self.patience_seconds)

    def text(self, name: str) -> str:
        """Return a file's text."""
        return (self.root / name).read_text()

    def snapshot(self) -> dict[str, tuple[str, int, int, int]]:
        """Return all files below etc and var: text, mode, owner, change of place."""
        return {
            str(path): (
                path.read_text() if path.is_file() else "",
                path.lstat().st_mode,
                path.lstat().st_uid,
                path.lstat().st_ino,
            )
            for folder in ("etc", "var", "run")
            for path in sorted((self.root / folder).rglob("*"))
        }

    def zolder_san(self, *arguments: str) -> int:
        """Run one of the commands."""
        parser = argparse.ArgumentParser()
        commands.add_parsers(parser.add_subparsers(dest="command", required=True))
        return commands.run(parser.parse_args(arguments), self.host)

    def run(self, argv: Sequence[str]) -> Finished:
        """Run a program here."""
        argv = [str(word) for word in argv]
        name = Path(argv[0]).name
        if name in self.failing or " ".join(argv) in self.failing:
            return Finished(tuple(argv), 1, "", f"{name} was made to fail")
        if name in {"ssh-keygen", "sshd"}:
            return run(argv)
        if name in {"groupadd", "useradd", "usermod", "userdel"}:
            self.ran.append(" ".join(argv))
            return run([argv[0], "--prefix", str(self.root), *argv[1:]])
        model = {"zfs": self._zfs, "systemctl": self._systemctl, "modprobe": self._modprobe, "ip": self._ip}
        status, stdout, stderr = model.get(name, self._nothing)(argv[1:])
        if argv[:2] not in (["zfs", "list"], ["zfs", "get"], ["systemctl", "is-active"], ["ip", "-j"]) and (
            argv[:2] != ["zfs", "allow"] or len(argv) > 3
        ):
            self.ran.append(" ".join(argv))
        return Finished(tuple(argv), status, stdout, stderr)

    @staticmethod
    def _nothing(_: list[str]) -> tuple[int, str, str]:
        return 0, "", ""

    @staticmethod
    def _ip(_: list[str]) -> tuple[int, str, str]:
        return 0, json.dumps(ADDRESSES), ""

    def _modprobe(self, words: list[str]) -> tuple[int, str, str]:
        for module in words[1:]:
            (self.root / "sys/module" / module.replace("-", "_")).mkdir()
        return 0, "", ""

    def _systemctl(self, words: list[str]) -> tuple[int, str, str]:
        match words:
            case ["is-active", "--quiet", unit]:
                return 0 if unit in self.active else 3, "", ""
            case ["enable", "--now", unit]:
                link = self.root / "etc/systemd/system/sockets.target.wants" / unit
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(f"../{unit}")
                self.active.add(unit)
            case ["enable", *names]:
                for unit in names:
                    link = self.root / BOOT_LINKS[unit]
                    link.parent.mkdir(exist_ok=True)
                    link.symlink_to(f"../{unit}")
            case ["stop", unit]:
                self.active.discard(unit)
        return 0, "", ""

    def _zfs(self, words: list[str]) -> tuple[int, str, str]:
        dataset = words[-1]
        if dataset not in self.datasets:
            return 1, "", f"cannot open '{dataset}': dataset does not exist\n"
        given = self.allowed.setdefault(dataset, [])
        match words:
            case ["get", *_]:
                return 0, f"{self.datasets[dataset]}\n", ""
            case ["allow", _]:
                return 0, self._permissions(dataset), ""
            case ["allow", scope, "-u", "zolder", names, _]:
                given += [(scope, name) for name in names.split(",")]
            case ["unallow", "-u", "zolder", _]:
                given.clear()
        return 0, f"{dataset}\n", ""

    def _permissions(self, dataset: str) -> str:
        """Return what OpenZFS 2.3 prints for one dataset."""
        lines = [f"---- Permissions on {dataset} {'-' * 40}"] if self.allowed[dataset] else []
        for scope, title in (("-l", "Local permissions:"), ("-d", "Descendent permissions:")):
            names = sorted(name for place, name in self.allowed[dataset] if place == scope)
            lines += [title, f"\tuser zolder {','.join(names)}"] if names else []
        return "".join(f"{line}\n" for line in lines)


def make_key(folder: Path, name: str = "key", *options: str) -> Path:
    """Make a key pair and return the path of its public half."""
    path = folder / name
    kind = options or ("-t", "ed25519")
    subprocess.run(["ssh-keygen", "-q", *kind, "-N", "", "-C", name, "-f", str(path)], check=True)
    return path.with_suffix(".pub")
