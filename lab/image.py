"""The root image: the tree of packages made into the lab's guests, with kernel and RAM disk.

What is added here is quick to change: files of `lab/guest`, keys, compiled modules. The tree of packages in
the cache is never written to.
"""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from lab.cache import content_key, recipe_digest, tree_digest
from lab.command import build_environment, run_logged
from lab.debian import Versions
from lab.initrd import extract_kernel, make_initrd
from lab.keys import CLIENT_KEYS, MACHINE_KEYS, public_key
from lab.sanfiles import add_user, san_files, san_links
from lab.zfsmodule import MODULES

GUEST_FILES = Path(__file__).parent / "guest"
# What an operator puts on machines that attach volumes.
INITIATOR_RULES = Path(__file__).parents[1] / "deploy/udev/10-zolder-nvme-initiator.rules"
SIZE_BYTES = 3 * 2**30
NEEDS_BYTES = 2 * 2**30

# Nothing may wake up in the middle of a measurement, and a restored clock jumps over many timers at once.
MASKED = [
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
    "systemd-tmpfiles-clean.timer", "e2scrub_reap.service", "sshd-keygen.service", "systemd-pstore.service",
    "getty@tty1.service", "serial-getty@ttyS0.service",
    "nvmf-autoconnect.service", "nvmefc-boot-connections.service",
    "systemd-networkd.service", "fio.service", "systemd-logind.service", "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount", "modprobe@drm.service", "modprobe@fuse.service", "tmp.mount",
    "dev-hugepages.mount", "dev-mqueue.mount", "lvm2-monitor.service", "blk-availability.service",
    "systemd-udev-load-credentials.service", "systemd-hwdb-update.service", "ldconfig.service",
    "systemd-journal-catalog-update.service", "sys-fs-fuse-connections.mount",
]  # fmt: skip
ENABLED = ["zolder-lab-role.service"]


def image_key(rootfs: str, modules: str, keys: Path) -> str:
    """Return the key of an image made of these."""
    here = Path(__file__).parent
    public = [
        public_key(keys, name) for name in (*CLIENT_KEYS, *(f"{machine}_host" for machine in MACHINE_KEYS))
    ]
    own = recipe_digest(here / "image.py", here / "initrd.py", here / "keys.py", here / "sanfiles.py")
    files = tree_digest(GUEST_FILES), INITIATOR_RULES.read_text(), san_files(keys), san_links()
    return content_key(rootfs, modules, public, files, own)


def make_image(
    folder: Path, *, rootfs: Path, modules: Path, keys: Path, versions: Versions, log: Path
) -> None:
    """Make root.img, vmlinux and initrd in a folder."""
    tree = folder / "tree"
    # Hard links: quick, and safe because below files are replaced, never written into.
    run_logged(["cp", "-al", str(rootfs / "tree"), str(tree)], log)
    boot = tree / f"boot/vmlinuz-{versions.kernel}"
    extract_kernel(boot, folder / "vmlinux")
    shutil.rmtree(tree / "boot")
    (tree / "boot").mkdir()
    unpack_modules(tree, versions)
    make_initrd(tree, versions.kernel, folder / "initrd")
    add_modules(tree, modules, versions, log)
    for path in sorted(GUEST_FILES.rglob("*")):
        if path.is_file():
            put(tree, str(path.relative_to(GUEST_FILES)), path.read_bytes(), path.stat().st_mode & 0o777)
    for name, text in san_files(keys).items():
        put(tree, name, text.encode(), 0o644)
    put(tree, f"etc/udev/rules.d/{INITIATOR_RULES.name}", INITIATOR_RULES.read_bytes(), 0o644)
    add_user(tree)
    for machine in MACHINE_KEYS:
        private = (keys / f"{machine}_host").read_bytes()
        put(tree, f"etc/ssh/zolder-lab/{machine}", private, 0o600)
    put(tree, "root/.ssh/authorized_keys", f"{public_key(keys, 'admin')}\n".encode(), 0o600)
    (tree / "root/.ssh").chmod(0o700)
    for unit in MASKED:
        link(tree, f"etc/systemd/system/{unit}", "/dev/null")
    for unit in ENABLED:
        link(tree, f"etc/systemd/system/multi-user.target.wants/{unit}", f"/etc/systemd/system/{unit}")
    for name, target in san_links().items():
        link(tree, name, target)
    image = folder / "root.img"
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    run_logged(
        # All tables are written now: else the guest's kernel writes them in the background at its first boot.
        ["mkfs.ext4", "-q", "-F", "-L", "zolder-lab", "-m", "0", "-N", "120000",
         "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", str(tree), str(image)],
        log, env=build_environment(),
    )  # fmt: skip
    shutil.rmtree(tree)


def unpack_modules(tree: Path, versions: Versions) -> None:
    """Unpack the kernel's modules: under emulation that takes longer at each boot than it takes here once."""
    for packed in (tree / f"usr/lib/modules/{versions.kernel}").rglob("*.ko.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def add_modules(tree: Path, modules: Path, versions: Versions, log: Path) -> None:
    """Put the compiled modules into a tree and index all modules anew."""
    place = f"usr/lib/modules/{versions.kernel}/updates/zfs"
    for name in MODULES:
        put(tree, f"{place}/{name}", (modules / name).read_bytes(), 0o644)
    run_logged(["chroot", str(tree), "/usr/sbin/depmod", versions.kernel], log, env=build_environment())


def put(tree: Path, name: str, content: bytes, mode: int) -> None:
    """Write a file into a tree as a new one, so that what it was linked to stays as it is."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def link(tree: Path, name: str, target: str) -> None:
    """Make a symbolic link in a tree, in place of what is there."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
