"""A stand-in for the kernel's side of ``/sys/kernel/config/nvmet``, on a plain folder.

It models what differs from a plain folder tree: mkdir brings default children and attributes, rmdir takes
them away and refuses what is linked, links open ports, and a few attributes act or refuse when written. What
it claims was seen on Linux 6.12. State is in the folder alone, so another instance goes on with it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.unit.target_tree import Killed
from zolder.san.configfs import ConfigFs, _naming

# What can be made: its path, and the attributes and default folders (with a slash) that come with it.
_KINDS: tuple[tuple[str, dict[str, str]], ...] = (
    (r"hosts/[^/]+", {"dhchap_key": "", "dhchap_hash": "hmac(sha256)"}),
    (
        r"subsystems/[^/]+",
        {
            "attr_allow_any_host": "0",
            "attr_model": "Linux",
            "attr_serial": "32f83c9a62b8007a942b",
            "allowed_hosts/": "",
            "namespaces/": "",
            "passthru/enable": "0",
        },
    ),
    (
        r"subsystems/[^/]+/namespaces/\d+",
        {
            "buffered_io": "0",
            "device_nguid": "00000000-0000-0000-0000-000000000000",
            "device_path": "(null)",
            "device_uuid": "24545b2b-3197-4dec-9dc9-c7c849a129d7",
            "enable": "0",
            "revalidate_size": "",
        },
    ),
    (
        r"ports/\d+",
        {
            "addr_adrfam": "",
            "addr_traddr": "",
            "addr_trsvcid": "",
            "addr_trtype": "",
            "ana_groups/1/ana_state": "optimized",
            "referrals/": "",
            "subsystems/": "",
        },
    ),
)


class NvmetTree(ConfigFs):
    """An nvmet tree that remembers its calls and can be killed or refuse at a chosen step."""

    def __init__(self, root: Path, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """Count the steps that change something from 0: from ``kill_at`` on none is done any more.

        ``held`` are addresses that another program listens at, ``foreign`` those of other machines,
        ``read_only`` devices. ``before`` is called ahead of each step: what another process does meanwhile.
        """
        super().__init__(root)
        self.steps: list[str] = []
        self.looks: list[str] = []
        self.held: set[str] = set()
        self.foreign: set[str] = set()
        self.read_only: set[str] = set()
        self.before: Callable[[str], object] | None = None
        self._kill_at = kill_at
        self._refuse_at = refuse_at

    def make_folder(self, path: str) -> bool:
        """Create an object with its default children, of a kind that can be made here."""
        self._step(f"mkdir {path}")
        with _naming("create", path):
            defaults = _defaults(path)
            if defaults is None or path == "ports/65536":
                raise OSError(errno.EINVAL, "nothing of the kind can be made here")
        if not super().make_folder(path):
            return False
        for name, value in defaults.items():
            attribute = self.root / path / name
            if name.endswith("/"):
                attribute.mkdir()
            else:
                attribute.parent.mkdir(parents=True, exist_ok=True)
                attribute.write_text(value)
        return True

    def remove_folder(self, path: str) -> bool:
        """Remove an object with its default children, unless something is linked to it or into it."""
        self._step(f"rmdir {path}")
        folder = self.root / path
        with _naming("remove", path):
            if not folder.exists():
                return False
            below = list(folder.rglob("*"))
            made = [path for path in below if path.is_dir() and _defaults(str(path.relative_to(self.root)))]
            if made or any(path.is_symlink() for path in below):
                raise OSError(errno.ENOTEMPTY, "something made here is left")
            if any(link.readlink() == folder for link in self._links()):
                raise OSError(errno.EBUSY, "something links to it")
            shutil.rmtree(folder)
        return True

    def make_link(self, path: str, to: str) -> bool:
        """Link to an object that exists; the first link into a port opens its socket."""
        self._step(f"link {path}")
        with _naming("link", path):
            parent = (self.root / path).parent
            if not (self.root / to).is_dir() or not parent.is_dir():
                raise OSError(errno.ENOENT, "no such object")
            if path.startswith("ports/") and not any(parent.iterdir()):
                self._open_port(parent.parent)
            subsystem, _, host = path.partition("/allowed_hosts/")
            if host and super().read(f"{subsystem}/attr_allow_any_host") == "1":
                raise OSError(errno.EINVAL, "can't add hosts when allow_any_host is set!")
        return super().make_link(path, to)

    def remove_link(self, path: str) -> bool:
        """Remove a link."""
        self._step(f"unlink {path}")
        return super().remove_link(path)

    def write(self, path: str, value: str) -> None:
        """Write an attribute that exists; some act on it, or refuse."""
        self._step(f"write {path}")
        folder, _, attribute = path.rpartition("/")
        with _naming("write", path):
            if attribute.startswith("addr_") and any((self.root / folder / "subsystems").iterdir()):
                raise OSError(errno.EACCES, "Disable the port before changing attribute")
            if attribute in {"device_uuid", "device_nguid", "device_path", "buffered_io"}:
                self._refuse_while_enabled(folder)
            if attribute == "dhchap_key" and not value.startswith("DHHC-1:"):
                raise OSError(errno.EINVAL, "no key")
            if attribute == "attr_serial" and not 0 < len(value) <= 20:
                raise OSError(errno.EINVAL, "Serial Number can not be empty or exceed 20 Bytes")
            opens = attribute == "enable" and value == "1" and "/namespaces/" in folder
            if opens and super().read(f"{folder}/device_path") in self.read_only:
                raise OSError(errno.EROFS, "failed to open block device")
            if attribute == "revalidate_size" and super().read(f"{folder}/enable") != "1":
                raise OSError(errno.EINVAL, "enable ns before revalidate.")
        super().write(path, value)

    def exists(self, path: str) -> bool:
        """Look, and remember where."""
        self.looks.append(path)
        return super().exists(path)

    def read(self, path: str) -> str:
        """Read, and remember what."""
        self.looks.append(path)
        return super().read(path)

    def find_link(self, path: str) -> str | None:
        """Follow a link, and remember which."""
        self.looks.append(path)
        return super().find_link(path)

    def _list(self, path: str, wanted: Callable[[os.DirEntry[str]], bool]) -> tuple[str, ...]:
        self.looks.append(f"ls {path}")
        return super()._list(path, wanted)

    def _links(self) -> list[Path]:
        folders = ("ports/*/subsystems/*", "subsystems/*/allowed_hosts/*")
        return [path for pattern in folders for path in self.root.glob(pattern) if path.is_symlink()]

    def _open_port(self, port: Path) -> None:
        """Refuse an address that is not here, or that somebody listens at."""
        address = _address(port)
        if address in self.foreign:
            raise OSError(errno.EADDRNOTAVAIL, "failed to bind port socket -99")
        others = [other for other in port.parent.iterdir() if other != port]
        taken = {_address(other) for other in others if any((other / "subsystems").iterdir())}
        if address in self.held | taken:
            raise OSError(errno.EADDRINUSE, "failed to bind port socket -98")

    def _refuse_while_enabled(self, folder: str) -> None:
        if super().read(f"{folder}/enable") == "1":
            raise OSError(errno.EBUSY, "the namespace is enabled")

    def _step(self, step: str) -> None:
        if self.before:
            self.before(step)
        if self._kill_at is not None and len(self.steps) >= self._kill_at:
            raise Killed
        self.steps.append(step)
        if self._refuse_at is not None and len(self.steps) - 1 == self._refuse_at:
            with _naming(*step.split(" ", 1)):
                raise OSError(errno.ENOMEM, "refused for the test")


def _address(port: Path) -> str:
    return " ".join((port / f"addr_{name}").read_text() for name in ("traddr", "trsvcid"))


def _defaults(path: str) -> dict[str, str] | None:
    """Return what comes with an object of this path; None where none can be made."""
    return next((defaults for pattern, defaults in _KINDS if re.fullmatch(pattern, path)), None)
