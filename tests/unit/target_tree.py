"""A stand-in for the kernel's side of ``/sys/kernel/config/target``, on a plain folder.

It models what differs from a plain folder tree: mkdir brings default children and attributes, rmdir takes
them away and refuses what somebody made or linked, and a few attributes act when written. What it claims was
seen on Linux 6.12 (tests/lab/test_lio.py). State is in the folder alone, so another instance goes on with it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from zolder.san.configfs import ConfigFs, _naming

_ACL = r"iscsi/[^/]+/tpgt_1/acls/[^/]+"

# What can be made: its path, and the attributes and default folders (with a slash) that come with it.
_KINDS: tuple[tuple[str, dict[str, str]], ...] = (
    (r"core/(?:iblock|fileio)_\d+", {"hba_info": "HBA Index: 1"}),
    (
        r"core/[a-z]+_\d+/[^/]+",
        {
            "enable": "0",
            "control": "",
            "info": "Status: DEACTIVATED",
            "udev_path": "",
            "wwn/vpd_unit_serial": "T10 VPD Unit Serial Number: ",
            "attrib/emulate_tpu": "0",
            "attrib/emulate_tpws": "0",
            "attrib/emulate_3pc": "1",
        },
    ),
    (r"iscsi", {"discovery_auth/userid": ""}),
    (r"iscsi/[^/]+", {"fabric_statistics/": ""}),
    (
        r"iscsi/[^/]+/tpgt_\d+",
        {
            "enable": "0",
            "attrib/authentication": "1",
            "attrib/generate_node_acls": "0",
            "attrib/demo_mode_discovery": "1",
            "attrib/cache_dynamic_acls": "0",
            "acls/": "",
            "lun/": "",
            "np/": "",
        },
    ),
    (r"iscsi/[^/]+/tpgt_\d+/lun/lun_\d+", {"statistics/": "", "alua_tg_pt_offline": "0"}),
    (r"iscsi/[^/]+/tpgt_1/np/[^/]+", {"iser": "0"}),
    (
        _ACL,
        {
            "info": "",
            "attrib/authentication": "-1",
            "auth/userid": "",
            "auth/password": "",
            "auth/userid_mutual": "",
            "auth/password_mutual": "",
        },
    ),
    (rf"{_ACL}/lun_\d+", {"write_protect": "0", "statistics/": ""}),
)


class Killed(BaseException):
    """What a process that was killed would have gone on to do; no handler may catch it."""


class TargetTree(ConfigFs):
    """A target tree that remembers its calls and can be killed or refuse at a chosen step."""

    def __init__(self, root: Path, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """Count the steps that change something from 0: from ``kill_at`` on none is done any more.

        What ``claimed`` names is a busy device; ``closing`` says how often a portal is refused.
        """
        super().__init__(root)
        self.steps: list[str] = []
        self.looks: list[str] = []
        self.claimed: set[str] = set()
        self.closing: dict[str, int] = {}
        self._kill_at = kill_at
        self._refuse_at = refuse_at

    def make_folder(self, path: str) -> bool:
        """Create an object with its default children, of a kind that can be made here."""
        self._step(f"mkdir {path}")
        with _naming("create", path):
            if self.closing.get(path.rpartition("/")[2], 0) > 0:
                self.closing[path.rpartition("/")[2]] -= 1
                raise OSError(errno.EINVAL, "kernel_bind() failed: -98")
            defaults = _defaults(path)
            if defaults is None:
                raise OSError(errno.EPERM, "nothing of the kind can be made here")
        if not super().make_folder(path):
            return False
        for name, value in defaults.items():
            attribute = self.root / path / name
            attribute.parent.mkdir(exist_ok=True)
            if name.endswith("/"):
                attribute.mkdir()
            else:
                attribute.write_text(value)
        return True

    def remove_folder(self, path: str) -> bool:
        """Remove an object with its default children, unless somebody uses it."""
        self._step(f"rmdir {path}")
        folder = self.root / path
        with _naming("remove", path):
            if not folder.exists():
                return False
            below = list(folder.rglob("*"))
            made = [path for path in below if path.is_dir() and _defaults(str(path.relative_to(self.root)))]
            if made or any(path.is_symlink() for path in below):
                raise OSError(errno.ENOTEMPTY, "something made here is left")
            if self._is_linked(folder):
                raise OSError(errno.EBUSY, "something links to it")
            shutil.rmtree(folder)
        return True

    def make_link(self, path: str, to: str) -> bool:
        """Link to an object that exists and, for a backstore, is enabled."""
        self._step(f"link {path}")
        with _naming("link", path):
            if not (self.root / to).is_dir():
                raise OSError(errno.ENOENT, "no such object")
            if to.startswith("core/") and super().read(f"{to}/enable") != "1":
                raise OSError(errno.ENODEV, "the backstore is not enabled")
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
            if attribute == "control":
                options = dict(option.split("=") for option in value.split(","))
                (self.root / folder / "info").write_text(
                    f"Status: DEACTIVATED  UDEV PATH: {options['udev_path']}"
                    f"  readonly: {options.get('readonly', '0')}"
                )
                return
            if re.fullmatch(r"core/[^/]+/[^/]+/enable", path):
                self._open(self.root / folder / "info")
            if attribute in {"emulate_tpu", "emulate_tpws"} and "DEACTIVATED" in super().read(
                f"{folder}/../info"
            ):
                raise OSError(errno.ENOSYS, "Generic Block Discard not supported")
            if attribute == "vpd_unit_serial":
                if self._is_linked((self.root / folder).parent):
                    raise OSError(errno.EINVAL, "active exports exist")
                value = f"T10 VPD Unit Serial Number: {value}"
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

    def _open(self, info: Path) -> None:
        text = info.read_text()
        device = re.search(r"UDEV PATH: (\S+)", text)
        if not device:
            raise OSError(errno.EINVAL, "Missing udev_path= parameters for IBLOCK")
        if device[1] in self.claimed:
            raise OSError(errno.EBUSY, "claimed")
        info.write_text(text.replace("DEACTIVATED", "ACTIVATED"))

    def _is_linked(self, folder: Path) -> bool:
        lun = ("iscsi/*/tpgt_1/lun/*/*", "iscsi/*/tpgt_1/acls/*/lun_*/*")
        links = (path for pattern in lun for path in self.root.glob(pattern) if path.is_symlink())
        return any(path.readlink() == folder for path in links)

    def _step(self, step: str) -> None:
        if self._kill_at is not None and len(self.steps) >= self._kill_at:
            raise Killed
        self.steps.append(step)
        if self._refuse_at is not None and len(self.steps) - 1 == self._refuse_at:
            with _naming(*step.split(" ", 1)):
                raise OSError(errno.ENOMEM, "refused for the test")


def picture(root: Path) -> dict[str, str]:
    """Return everything below a root: folders, attributes' texts and links' targets."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.path.relpath(path.readlink(), root)}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


def _defaults(path: str) -> dict[str, str] | None:
    """Return what comes with an object of this path; None where none can be made."""
    for pattern, defaults in _KINDS:
        default_folder = path.rpartition("/")[2] in {"fabric_statistics", "discovery_auth", "attrib", "wwn"}
        if re.fullmatch(pattern, path) and not default_folder:
            return defaults
    return None
