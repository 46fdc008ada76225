"""A stand-in for the kernel's side of ``/sys/kernel/config/nvmet``, on a plain folder.

It models what differs from a plain folder tree: mkdir brings default children and attributes, rmdir takes
them away and refuses what is linked, links open ports, and a few attributes act or refuse when written. What
it claims was seen on Linux 6.12. State is in the folder alone, so another instance goes on with it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from tests.unit.kernel_tree import KernelTree
from zolder.san.configfs import _naming

# See ``KernelTree.KINDS``.
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
        r"ports/(?!65536$)\d+",
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


class NvmetTree(KernelTree):
    """An nvmet tree that remembers its calls and can be killed or refuse at a chosen step."""

    KINDS = _KINDS
    LINKS = ("ports/*/subsystems/*", "subsystems/*/allowed_hosts/*")
    NO_KIND = errno.EINVAL

    def __init__(self, root: Path, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """See ``KernelTree``.

        ``held`` are addresses that another program listens at, ``foreign`` those of other machines,
        ``read_only`` devices. ``before`` is called ahead of each step: what another process does meanwhile.
        """
        super().__init__(root, kill_at=kill_at, refuse_at=refuse_at)
        self.held: set[str] = set()
        self.foreign: set[str] = set()
        self.read_only: set[str] = set()
        self.before: Callable[[str], object] | None = None

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
            if host and self._peek(f"{subsystem}/attr_allow_any_host") == "1":
                raise OSError(errno.EINVAL, "can't add hosts when allow_any_host is set!")
        return super().make_link(path, to)

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
            if opens and self._peek(f"{folder}/device_path") in self.read_only:
                raise OSError(errno.EROFS, "failed to open block device")
            if attribute == "revalidate_size" and self._peek(f"{folder}/enable") != "1":
                raise OSError(errno.EINVAL, "enable ns before revalidate.")
        super().write(path, value)

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
        if self._peek(f"{folder}/enable") == "1":
            raise OSError(errno.EBUSY, "the namespace is enabled")

    def _step(self, step: str) -> None:
        if self.before:
            self.before(step)
        super()._step(step)


def _address(port: Path) -> str:
    return " ".join((port / f"addr_{name}").read_text() for name in ("traddr", "trsvcid"))
