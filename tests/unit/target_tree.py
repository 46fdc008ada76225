"""A stand-in for the kernel's side of ``/sys/kernel/config/target``, on a plain folder.

It models what differs from a plain folder tree: mkdir brings default children and attributes, rmdir takes
them away and refuses what somebody made or linked, and a few attributes act when written. What it claims was
seen on Linux 6.12 (tests/lab/test_lio.py). State is in the folder alone, so another instance goes on with it.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from tests.unit.kernel_tree import KernelTree
from zolder.san.configfs import _naming

_ACL = r"iscsi/[^/]+/tpgt_1/acls/[^/]+"

# See ``KernelTree.KINDS``.
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


class TargetTree(KernelTree):
    """A target tree that remembers its calls and can be killed or refuse at a chosen step."""

    KINDS = _KINDS
    LINKS = ("iscsi/*/tpgt_1/lun/*/*", "iscsi/*/tpgt_1/acls/*/lun_*/*")
    NO_KIND = errno.EPERM

    def __init__(self, root: Path, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """See ``KernelTree``.

        What ``claimed`` names is a busy device; ``closing`` says how often a portal is refused.
        """
        super().__init__(root, kill_at=kill_at, refuse_at=refuse_at)
        self.claimed: set[str] = set()
        self.closing: dict[str, int] = {}

    def make_link(self, path: str, to: str) -> bool:
        """Link to an object that exists and, for a backstore, is enabled."""
        self._step(f"link {path}")
        with _naming("link", path):
            if not (self.root / to).is_dir():
                raise OSError(errno.ENOENT, "no such object")
            if to.startswith("core/") and self._peek(f"{to}/enable") != "1":
                raise OSError(errno.ENODEV, "the backstore is not enabled")
        return super().make_link(path, to)

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
            if attribute in {"emulate_tpu", "emulate_tpws"} and "DEACTIVATED" in self._peek(
                f"{folder}/../info"
            ):
                raise OSError(errno.ENOSYS, "Generic Block Discard not supported")
            if attribute == "vpd_unit_serial":
                if self._is_linked((self.root / folder).parent):
                    raise OSError(errno.EINVAL, "active exports exist")
                value = f"T10 VPD Unit Serial Number: {value}"
        super().write(path, value)

    def _brought(self, path: str) -> dict[str, str]:
        portal = path.rpartition("/")[2]
        if self.closing.get(portal, 0) > 0:
            self.closing[portal] -= 1
            raise OSError(errno.EINVAL, "kernel_bind() failed: -98")
        return super()._brought(path)

    def _defaults(self, path: str) -> dict[str, str] | None:
        default_folder = path.rpartition("/")[2] in {"fabric_statistics", "discovery_auth", "attrib", "wwn"}
        return None if default_folder else super()._defaults(path)

    def _open(self, info: Path) -> None:
        text = info.read_text()
        device = re.search(r"UDEV PATH: (\S+)", text)
        if not device:
            raise OSError(errno.EINVAL, "Missing udev_path= parameters for IBLOCK")
        if device[1] in self.claimed:
            raise OSError(errno.EBUSY, "claimed")
        info.write_text(text.replace("DEACTIVATED", "ACTIVATED"))
