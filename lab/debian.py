"""One Debian suite as the guests see it: which versions it has, and single packages out of it.

It uses a private apt (`lab.aptconf.PrivateApt`), so that the versions of the kernel and of ZFS are known
before anything is built, and the root image and the module build agree on them.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.aptconf import PrivateApt, Source, debian_sources, passed_on_options
from lab.command import build_environment, capture, run_logged
from lab.errors import LabError

SUITE = "trixie"
COMPONENTS = ("main", "contrib")
KERNEL = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class Versions:
    """What decides whether a compiled module fits: `6.12.107+deb13-cloud-amd64`, `2.3.9-0+deb13u1`."""

    kernel: str
    zfs: str

    @property
    def zfs_upstream(self) -> str:
        """Return the version as OpenZFS calls it."""
        return self.zfs.split("-")[0]


class Suite:
    """The suite of the guests, through a private apt in a temporary folder."""

    def __init__(self, folder: Path, log: Path) -> None:
        """Use a folder that the caller removes.

        :raises LabError: when this machine's apt knows no Debian mirror.
        """
        self.sources: list[Source] = debian_sources(SUITE, COMPONENTS)
        self.log = log
        self._environment = build_environment()
        self._apt = PrivateApt(folder, self.sources)
        self._options = self._apt.options(own_status=True)

    def update(self) -> None:
        """Fetch the package lists."""
        run_logged(["apt-get", *self._options, "update"], self.log, env=self._environment)

    def versions(self) -> Versions:
        """Return the versions that a build now would get.

        :raises LabError: when the suite does not have them.
        """
        depends = capture(["apt-cache", *self._options, "depends", KERNEL], env=self._environment)
        kernel = re.search(r"Depends: linux-image-(\d\S+)", depends)
        shown = capture(
            ["apt-cache", *self._options, "--no-all-versions", "show", "zfs-dkms"], env=self._environment
        )
        zfs = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
        if kernel is None or zfs is None:
            raise LabError(f"{KERNEL} or zfs-dkms is not in {SUITE} on this mirror; see {self.log}")
        return Versions(kernel.group(1), zfs.group(1))

    def unpack(self, package: str, tree: Path) -> None:
        """Unpack one package's files, without its dependencies and scripts."""
        with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
            run_logged(
                ["apt-get", *self._options, "-o", "APT::Sandbox::User=root", "download", package],
                self.log, env=self._environment, cwd=Path(folder),
            )  # fmt: skip
            (archive,) = Path(folder).glob("*.deb")
            run_logged(["dpkg-deb", "--extract", str(archive), str(tree)], self.log, env=self._environment)

    def bootstrap_command(self, tree: Path, packages: list[str]) -> list[str]:
        """Return the mmdebstrap call that makes a tree of packages."""
        options = [
            'Apt::Install-Recommends "false";',
            'Acquire::Languages "none";',
            *passed_on_options(),
        ]
        left_out = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
        return [
            "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory",
            *(f"--aptopt={option}" for option in options),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
            f"--include={','.join(packages)}",
            SUITE, str(tree),
            *(source.line() for source in self.sources),
        ]  # fmt: skip
