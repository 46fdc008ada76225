"""cinder-backup, in the machine that has an initiator: the lab's compute.

This machine's kernel need not have iSCSI or NVMe over TCP, and a backup is read and written through an
attachment. The guest reaches the database, the broker and Keystone at this machine's loopback, which it sees
as 10.0.2.2 (QEMU's user networking). Backups are files in the guest, and go with it.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from lab.cache import content_key
from lab.chroot import remove_placeholders, would_create
from lab.cloud import broker, cinder, database, keystone
from lab.cloud.ground import Ground
from lab.cloud.venvs import DATABASE_DRIVER
from lab.command import build_environment, run_contained, run_logged
from lab.errors import LabError, TimedOut, indent
from lab.lab import Lab
from lab.machine import Machine
from lab.pipconf import pip_environment
from lab.rootfs import rootfs_key
from lab.waiting import wait_until

GATEWAY = "10.0.2.2"
PLACE = "/opt/cinder"
ARCHIVE = "cinder.tar"
REQUIREMENTS = ("cinder==29.0.0", "os-brick==7.1.1", DATABASE_DRIVER)
NEEDS_BYTES = 3 * 2**30
START_SECONDS = 300.0
LOG = "/var/log/cinder-backup.log"

CONFIGURATION = """\
[DEFAULT]
transport_url = {broker}
host = compute
my_ip = 192.168.77.2
state_path = /var/lib/cinder
api_paste_config = {place}/etc/cinder/api-paste.ini
resource_query_filters_file = {place}/etc/cinder/resource_filters.json
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_posix_path = /var/lib/cinder/backups
# Emulated: zlib packs 13 MiB a second, and this many times that.
backup_compression_algorithm = zstd
# Little to keep in memory; and nvmet takes such a write before udev has limited them: docs/exports.md.
backup_file_size = 4194304
backup_sha_block_size_bytes = 32768
backup_workers = 1
rootwrap_config = {place}/etc/cinder/rootwrap.conf
[database]
connection = {database}
[oslo_concurrency]
lock_path = /var/lib/cinder/locks
[coordination]
backend_url = file:///var/lib/cinder/coordination
# It is root there, so nothing is to be asked of sudo.
[cinder_sys_admin]
helper_command = {place}/bin/privsep-helper --config-file /etc/cinder/cinder.conf
[privsep_osbrick]
helper_command = {place}/bin/privsep-helper --config-file /etc/cinder/cinder.conf
{authentication}
"""


def find_archive(lab: Lab) -> Path | None:
    """Return the archive if it is in the cache."""
    rootfs = lab.cache.find("rootfs", rootfs_key())
    folder = lab.cache.find("cinder", key_of(rootfs)) if rootfs else None
    return folder / ARCHIVE if folder else None


def key_of(rootfs: Path) -> str:
    """Return the cache's key of an archive for the tree that the guest boots from."""
    return content_key(REQUIREMENTS, PLACE, rootfs.name)


def ensure_archive(lab: Lab) -> Path:
    """Return an archive of Cinder's environment for the guest's Python, made first where it is absent.

    :raises LabError: the lab has not been built.
    """
    rootfs = lab.cache.find("rootfs", rootfs_key())
    if rootfs is None:
        raise LabError("the lab has not been built yet; `python -m lab build`")
    fill = partial(make, rootfs=rootfs, log=lab.cache.logs / "guest-cinder.log")
    return lab.cache.ensure("cinder", key_of(rootfs), fill, needs_bytes=NEEDS_BYTES) / ARCHIVE


def make(folder: Path, rootfs: Path, log: Path) -> None:
    """Make the archive, by the guest's Python in a copy of its tree, with this machine's pip settings.

    :param rootfs: the cache's entry of that tree, which is not written to.
    """
    tree = folder / "tree"
    # Hard links: pip makes new files and changes none.
    run_logged(["cp", "-al", str(rootfs / "tree"), str(tree)], log)
    settings, paths = pip_environment()
    paths.append(Path("/etc/resolv.conf"))
    own = {name: value for name, value in build_environment().items() if not name.startswith("PIP_")}
    environment = own | {"PATH": "/usr/sbin:/usr/bin", "HOME": "/root", **settings}
    placeholders = would_create(tree, paths)
    for command in (
        ["python3", "-m", "venv", PLACE],
        [f"{PLACE}/bin/python", "-m", "pip", "install", "--no-cache-dir", "--quiet", *REQUIREMENTS],
    ):
        binds = [f"--bind={path}" for path in paths if path.exists()]
        run_contained(
            [sys.executable, "-m", "lab.chroot", str(tree), *binds, "--", *command],
            log, env=environment, cwd=Path(__file__).parents[2], nice=5,
        )  # fmt: skip
    remove_placeholders(placeholders)
    archive = ["tar", "--exclude=*/tests", "--exclude=*/locale", "-C", str(tree), "-cf"]
    run_logged([*archive, str(folder / ARCHIVE), PLACE.lstrip("/")], log)
    shutil.rmtree(tree)


def configuration(ground: Ground) -> str:
    """Return the guest's cinder.conf."""
    return CONFIGURATION.format(
        broker=broker.url_of(ground, GATEWAY),
        database=database.url_of(ground, "cinder", GATEWAY),
        place=PLACE,
        authentication=keystone.authentication(ground, "cinder", GATEWAY),
    )


def start_backup(ground: Ground, lab: Lab, identity: keystone.Identity) -> None:
    """Bring the service into the guest, start it, and wait until Cinder knows it as up.

    :raises LabError: it does not come up; the error shows its log's end.
    """
    guest = lab.compute
    guest.succeed("tar -C / -x", input=ensure_archive(lab).read_bytes(), timeout_seconds=600)
    guest.succeed("mkdir -p /etc/cinder /var/lib/cinder/locks /var/lib/cinder/backups")
    guest.write_file("/etc/cinder/cinder.conf", configuration(ground).encode(), mode=0o600)
    command = [f"{PLACE}/bin/cinder-backup", "--config-file", "/etc/cinder/cinder.conf", "--log-file", LOG]
    path = f"--setenv=PATH={PLACE}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    guest.succeed(shlex.join(["systemd-run", "--unit=cinder-backup", path, *command]))
    api = cinder.api_client(identity)
    try:
        wait_until(
            lambda: "cinder-backup" in cinder.services_up(api),
            START_SECONDS,
            "cinder-backup to be up",
            interval_seconds=1,
        )
    except TimedOut as err:
        said = guest.run(f"tail -n 25 {LOG}; systemctl status --no-pager cinder-backup").stdout
        raise LabError("\n".join([str(err), *indent(said, last=40)])) from err


def fetch_log(ground: Ground, guest: Machine) -> None:
    """Keep what it logged."""
    (ground.logs / "cinder-backup.log").write_text(guest.run(f"cat {LOG}").stdout)
