"""A SAN on a plain folder for the tests of ``zolder-san check``: all is well until a test breaks something.

What ``zolder-san install`` writes is taken from there, so that what one writes is what the other wants.
Programs are answered from ``answers``; what sshd, multipath, lvmconfig and ip print was recorded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from zolder import __version__
from zolder.errors import BackendError
from zolder.names import DatasetName
from zolder.san import confinement
from zolder.san.check.finding import Finding, Level
from zolder.san.check.machine import Machine
from zolder.san.delegation import PERMISSIONS
from zolder.san.run import Finished
from zolder.san.setup.texts import LATE_RULES, MODULES_LOAD, early_rules

RECORDED = Path(__file__).parent / "recorded"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB cinder"
OTHER_KEY = KEY.replace("EBAQ", "ICAg")
LINE = f'restrict,command="/usr/local/bin/zolder-san serve --identity cinder" {KEY}\n'
POLICY = """
[identity.cinder]
parents = ["data/volumes"]
portals = ["192.0.2.2:3260", "[fd00::2]:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]
max_channels = 8
"""
STATUS = """\
  pool: data
 state: ONLINE
  scan: scrub repaired 0B in 00:00:12 with 0 errors on Sun Nov  8 00:24:13 2026
config:

\tNAME                                          STATE     READ WRITE CKSUM
\tdata                                          ONLINE       0     0     0
\t  raidz2-0                                    ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-data00-part1       ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-data01-part1       ONLINE       0     0     0
\t    replacing-2                               ONLINE       0     0     0
\t      /dev/disk/by-id/virtio-data02-part1     ONLINE       0     0     0
\t      /dev/disk/by-id/virtio-data12-part1     ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-data03-part1       ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-data04-part1       ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-data05-part1       ONLINE       0     0     0
\tlogs\t
\t  mirror-1                                    ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-log00-part1        ONLINE       0     0     0
\t    /dev/disk/by-id/virtio-log01-part1        ONLINE       0     0     0

errors: No known data errors
"""
PROPERTIES = {
    "type": "filesystem",
    "guid": "4611",
    "volmode": "dev",
    "snapdev": "hidden",
    "mountpoint": "none",
    "canmount": "on",
    "mounted": "no",
    "readonly": "off",
    "keystatus": "-",
}
# Of the programs, the words by which a test names them.
SSHD = f"sshd -T -C {confinement.question('zolder', '127.0.0.1')}"
LVMCONFIG = "lvmconfig --typeconfig full devices/global_filter devices/use_devicesfile devices/devicesfile"
MULTIPATH = "multipath -t"
HEALTH = "zpool status -x data"
LAYOUT = "zpool status -P data"
POOL = "zpool get -Hp -o property,value capacity,multihost,autotrim data"
ASHIFT = "zpool get -Hp -o name,value ashift data all-vdevs"
PARENT = f"zfs get -Hp -o property,value {','.join(PROPERTIES)} data/volumes"
ALLOW = "zfs allow data/volumes"
ZVOLS = "zfs get -Hp -r -t volume -o name,value,source zolder:volume data/volumes"
RECORDS = "zfs get -Hp -r -d 1 -t volume -o name,value,source zolder:export data/volumes"
NFT_TABLES = "nft -j list tables inet"
NFT_TABLE = "nft -j list table inet zolder"
TGT_TARGETS = "tgtadm --lld iscsi --op show --mode target"
TIMEDATECTL = "timedatectl show --property=NTPSynchronized --value"
ADDRESSES = "ip -j addr"
SYSTEMCTL = (
    "systemctl show --timestamp=unix --property=LoadState,ActiveState,UnitFileState,ExecMainStartTimestamp {}"
)
RUN_IT = "setpriv --reuid=zolder --regid=zolder --clear-groups /usr/local/bin/zolder-san --version"
NOT_INSTALLED = None


def recorded(name: str) -> str:
    """Return what a program was seen to print."""
    return (RECORDED / name).read_text()


def sshd_answers(name: str, answer: str) -> dict[str, str]:
    """Return what sshd says of a user, whose settings are the same wherever it comes from."""
    return {f"sshd -T -C {confinement.question(name, address)}": answer for address in confinement.ADDRESSES}


def unit(active: str = "active", enabled: str = "enabled", started: str = "") -> str:
    """Return what ``systemctl show`` prints of a unit."""
    return (
        f"LoadState=loaded\nActiveState={active}\nUnitFileState={enabled}\nExecMainStartTimestamp={started}\n"
    )


def permissions() -> str:
    """Return what ``zfs allow`` prints of a parent whose delegation is complete."""
    local = ",".join(item.name for item in PERMISSIONS if not item.below)
    below = ",".join(item.name for item in PERMISSIONS if item.below)
    return (
        "---- Permissions on data/volumes ----------------------------------\n"
        f"Local permissions:\n\tuser zolder {local}\nDescendent permissions:\n\tuser zolder {below}\n"
    )


class CheckedSan:
    """A SAN that is well; ``answers`` has what each program prints, or how else it ends."""

    def __init__(self, root: Path) -> None:
        """Build it below ``root``."""
        self.root = root / "san"
        self.asked: list[str] = []
        self.answers: dict[str, str | tuple[int, str, str] | BackendError | None] = {}
        self.code = self.root / "opt/zolder/lib/zolder"
        self.machine = self.anew()
        self._write_accounts()
        self._write_system()
        self._answer()

    def anew(self) -> Machine:
        """Return the machine, which no program has been asked of yet."""
        return Machine(self.root, self._run, os.getuid(), self.code)

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        """Write a file and the folders above it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def folder(self, path: str, mode: int = 0o755) -> Path:
        """Make a folder."""
        folder = self.root / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        return folder

    def remove(self, path: str) -> None:
        """Remove a file."""
        (self.root / path.lstrip("/")).unlink()

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that a file has."""
        file = self.root / path.lstrip("/")
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def _run(self, argv: Sequence[str]) -> Finished:
        line = " ".join(argv)
        self.asked.append(line)
        answer = self.answers[line]
        if isinstance(answer, BackendError):
            raise answer
        if answer is None:
            message = f"cannot run {argv[0]}"
            raise BackendError(message) from FileNotFoundError()
        status, stdout, stderr = (0, answer, "") if isinstance(answer, str) else answer
        return Finished(tuple(argv), status, stdout, stderr)

    def _write_accounts(self) -> None:
        # What is the agent's is ours here: a test need not be root. But the agent must not be.
        uid, gid = os.getuid() or 990, os.getgid()
        self.write("/etc/passwd", f"daemon:x:1:1::/:/bin/sh\nzolder:x:{uid}:{gid}::/var/lib/zolder:/bin/sh\n")
        self.write("/etc/group", f"daemon:x:1:\nzolder:x:{gid}:\n")
        self.write("/etc/shadow", "daemon:*:1::::::\nzolder:*:1::::::\n")
        self.write("/bin/sh", "", 0o755)
        for path in ("/var/lib/zolder", "/run/zolder"):
            os.chown(self.folder(path, 0o700), uid, gid)
        self.folder("/etc/zolder")
        self.write("/etc/zolder/san.toml", POLICY)
        self.write("/etc/zolder/authorized_keys", f"# keys\n\n{LINE}")
        self.write("/opt/zolder/bin/zolder-san", "#!/opt/zolder/bin/python\n", 0o755)
        self.write("/opt/zolder/bin/python", "", 0o755)
        self.folder("/usr/local/bin")
        (self.root / "usr/local/bin/zolder-san").symlink_to("/opt/zolder/bin/zolder-san")

    def _write_system(self) -> None:
        self.write("/etc/tmpfiles.d/zolder.conf", "d /run/zolder 0700 zolder zolder\n")
        self.write("/etc/modules-load.d/zolder.conf", MODULES_LOAD)
        self.write("/etc/udev/rules.d/10-zolder.rules", early_rules([DatasetName("data/volumes")]))
        self.write("/etc/udev/rules.d/90-zolder.rules", LATE_RULES)
        self.write("/etc/hostid", "\x01\x02\x03\x04")
        self.write("/proc/sys/kernel/osrelease", "6.12.117+deb13-cloud-amd64\n")
        self.write(
            "/proc/modules",
            "iscsi_target_mod 1 0 - Live 0x0\ntarget_core_mod 1 1 - Live 0x0\nnvmet_tcp 1 0 - Live 0x0\n",
        )
        self.write(
            "/lib/modules/6.12.117+deb13-cloud-amd64/modules.builtin",
            "kernel/drivers/target_core_iblock.ko\n",
        )
        self.write("/sys/module/zfs/version", "2.3.9-0+deb13u1\n")
        self.write("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree:  1 kB\n")
        self.write("/proc/spl/kstat/zfs/arcstats", "12 1 0x01\nname type data\nc_max   4    8321499136\n")
        self.write("/proc/spl/kstat/zfs/data/state", "ONLINE\n")
        self.write("/proc/net/tcp", "  sl  local_address rem_address   st\n")
        self.write("/run/systemd/timesync/synchronized", "")
        self.folder("/run/systemd/system")
        self.folder("/sys/kernel/config/target/iscsi")
        self.folder("/dev/zvol/data/volumes")
        self.write("/dev/zvol/data/volumes/volume-1", "")
        os.mknod(self.root / "run/zolder-helper.socket", stat.S_IFSOCK | 0o660)
        (self.root / "run/zolder-helper.socket").chmod(0o660)
        code = self.code / "module.py"
        code.parent.mkdir(parents=True)
        code.write_text("")
        os.utime(code, (1000, 1000))

    def _answer(self) -> None:
        self.answers |= {
            **sshd_answers("zolder", recorded("openssh-9.2/sshd-T-zolder.txt")),
            LVMCONFIG: NOT_INSTALLED,
            MULTIPATH: recorded("multipath-tools-0.9.4/multipath-t.txt"),
            ADDRESSES: recorded("iproute2-6.1/ip-j-addr.txt"),
            "zfs version": "zfs-2.3.9-0+deb13u1\nzfs-kmod-2.3.9-0+deb13u1\n",
            HEALTH: "pool 'data' is healthy\n",
            LAYOUT: STATUS,
            POOL: "capacity\t12\nmultihost\ton\nautotrim\ton\n",
            ASHIFT: "root-0\t0\nraidz2-0\t12\n/dev/disk/by-id/virtio-data00-part1\t9\nmirror-1\t12\n",
            PARENT: "".join(f"{name}\t{value}\n" for name, value in PROPERTIES.items()),
            ALLOW: permissions(),
            ZVOLS: "data/volumes/volume-1\t11111111-1111-4111-8111-111111111111\tlocal\n",
            RUN_IT: f"zolder-san {__version__}\n",
            RECORDS: "data/volumes/volume-1\t-\t-\n",
            NFT_TABLES: recorded("nftables-1.1.3/list-tables-none.json"),
            SYSTEMCTL.format("zolder-portals.service"): unit(),
            SYSTEMCTL.format("zolder-restore.service"): unit(),
            SYSTEMCTL.format("zolder-helper.socket"): unit(),
            SYSTEMCTL.format("zolder-helper.service"): unit(enabled="static", started="@2000"),
            SYSTEMCTL.format("zfs-import-cache.service"): unit(active="inactive"),
            SYSTEMCTL.format("zfs-import-scan.service"): "LoadState=not-found\nActiveState=inactive\n",
            SYSTEMCTL.format("zfs-zed.service"): unit(),
            SYSTEMCTL.format("rtslib-fb-targetctl.service"): "LoadState=not-found\n",
            SYSTEMCTL.format("target.service"): "LoadState=not-found\n",
        }


def not_ok(findings: Sequence[Finding]) -> list[Finding]:
    """Return what is worth a look."""
    return [finding for finding in findings if finding.level is not Level.OK]
