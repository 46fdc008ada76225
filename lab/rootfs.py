"""The tree of packages that both guests boot from: Debian, the storage tools, os-brick.

One tree serves the SAN and the compute machine, since building one takes the time; `lab.image` adds what
makes them a lab. The code under test is never put here.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lab.cache import content_key, recipe_digest, write_json
from lab.chroot import remove_placeholders, would_create
from lab.command import build_environment, run_contained
from lab.debian import SUITE, Suite, Versions
from lab.pipconf import pip_environment

BASE = [
    "systemd", "systemd-sysv", "udev", "dbus", "openssh-server", "iproute2", "iputils-ping", "kmod",
    "busybox-static", "procps", "less", "ca-certificates", "python3", "e2fsprogs", "xfsprogs", "gdisk",
    "lvm2", "strace", "lsscsi", "sg3-utils",
]  # fmt: skip
SAN = ["zfsutils-linux", "zfs-zed", "tgt", "targetcli-fb", "python3-rtslib-fb", "nftables"]
COMPUTE = ["open-iscsi", "nvme-cli", "multipath-tools", "fio", "python3-venv"]
PACKAGES = BASE + SAN + COMPUTE

OS_BRICK = "os-brick==7.1.1"
OS_BRICK_FOLDER = "/opt/os-brick"

NEEDS_BYTES = 2 * 2**30


def rootfs_key() -> str:
    """Return the key of what this module and its inputs would build."""
    here = Path(__file__).parent
    return content_key(SUITE, PACKAGES, OS_BRICK, recipe_digest(here / "rootfs.py", here / "debian.py"))


def make_rootfs(folder: Path, suite: Suite, versions: Versions, log: Path) -> None:
    """Build the tree at `folder/tree`, with the kernel unpacked beside the packages."""
    tree = folder / "tree"
    # Behind the module build, which is on the longest path.
    run_contained(
        suite.bootstrap_command(tree, PACKAGES), log, env=build_environment(TMPDIR=str(folder)), nice=5
    )
    # Unpacked, not installed: its scripts would build an initramfs that nobody boots.
    suite.unpack(f"linux-image-{versions.kernel}", tree)
    install_os_brick(tree, log)
    for leftover in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list", "etc/resolv.conf"):
        (tree / leftover).unlink(missing_ok=True)
    for generated in (tree / "etc/ssh").glob("ssh_host_*"):
        generated.unlink()
    shutil.rmtree(tree / "root/.cache", ignore_errors=True)
    write_json(folder / "versions.json", {"kernel": versions.kernel, "zfs": versions.zfs})


def install_os_brick(tree: Path, log: Path) -> None:
    """Make the guest's os-brick environment with the guest's Python and this machine's pip settings."""
    settings, paths = pip_environment()
    paths.append(Path("/etc/resolv.conf"))
    environment = {
        name: value for name, value in build_environment().items() if not name.startswith("PIP_")
    } | {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", **settings}  # fmt: skip
    binds = [f"--bind={path}" for path in paths if path.exists()]
    placeholders = would_create(tree, paths)
    pip = [f"{OS_BRICK_FOLDER}/bin/python", "-m", "pip"]
    for command in (
        ["python3", "-m", "venv", OS_BRICK_FOLDER],
        [*pip, "install", "--no-cache-dir", "--quiet", OS_BRICK],
    ):
        run_contained(
            [sys.executable, "-m", "lab.chroot", str(tree), *binds, "--", *command],
            log, env=environment, cwd=Path(__file__).parent.parent, nice=5,
        )  # fmt: skip
    remove_placeholders(placeholders)
