"""Compiles zfs.ko and spl.ko for the guests' kernel, once for each pair of versions.

Only the kernel part of OpenZFS is configured and made, in a tree of headers and a compiler: half the time of
DKMS. The source is the zfs-dkms package's, so that modules and `zfs` command are of one version.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lab.command import build_environment, run_contained
from lab.debian import Suite, Versions
from lab.errors import LabError

MODULES = ("spl.ko", "zfs.ko")
NEEDS_BYTES = 3 * 2**30


def zfs_key(versions: Versions) -> str:
    """Return the cache key: nothing else decides what comes out."""
    return f"{versions.zfs}-{versions.kernel}"


class ModuleBuild:
    """The steps of one build, apart so that a progress display can name them."""

    def __init__(self, folder: Path, suite: Suite, versions: Versions, log: Path, processors: int) -> None:
        """Prepare; `folder` will hold the modules, and the builder's tree meanwhile."""
        self.folder = folder
        self.tree = folder / "builder"
        self.source = f"/usr/src/zfs-{versions.zfs_upstream}"
        self._suite = suite
        self._versions = versions
        self._log = log
        self._processors = processors

    def make_builder(self) -> None:
        """Make the tree with headers, compiler and source."""
        packages = [
            f"linux-headers-{self._versions.kernel}",
            "gcc",
            "libc6-dev",
            "make",
            "gawk",
            "bc",
            "kmod",
        ]
        run_contained(
            self._suite.bootstrap_command(self.tree, packages),
            self._log, env=build_environment(TMPDIR=str(self.folder)),
        )  # fmt: skip
        self._suite.unpack("zfs-dkms", self.tree)
        if not (self.tree / self.source.lstrip("/") / "configure").exists():
            raise LabError(f"the zfs-dkms package has no {self.source}/configure; see {self._log}")

    def configure(self) -> None:
        """Let OpenZFS find out what this kernel offers."""
        common = self._versions.kernel.replace("-cloud-amd64", "-common")
        self._run(
            "./configure", "--disable-dependency-tracking", "--with-config=kernel",
            f"--with-linux=/usr/src/linux-headers-{common}",
            f"--with-linux-obj=/usr/src/linux-headers-{self._versions.kernel}",
            f"TEST_JOBS={self._processors}",
        )  # fmt: skip

    def compile(self) -> None:
        """Compile, strip, and leave nothing but the modules in the folder."""
        # No type information for debuggers: it needs pahole and the kernel's own, and nobody debugs here.
        self._run("make", f"-j{self._processors}", "CONFIG_DEBUG_INFO_BTF_MODULES=")
        for name in MODULES:
            made = f"{self.source}/module/{name}"
            self._run("strip", "--strip-debug", made)
            shutil.copyfile(self.tree / made.lstrip("/"), self.folder / name)
        shutil.rmtree(self.tree)

    def _run(self, *command: str) -> None:
        """Run a command in the builder's tree, in the source folder."""
        run_contained(
            [
                sys.executable, "-m", "lab.chroot", str(self.tree), "--",
                "env", "-C", self.source, "PATH=/usr/sbin:/usr/bin", *command,
            ],
            self._log, env=build_environment(), cwd=Path(__file__).parent.parent,
        )  # fmt: skip
