from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.unit.checked_san import (
    ADDRESSES,
    LVMCONFIG,
    MULTIPATH,
    NOT_INSTALLED,
    SYSTEMCTL,
    TIMEDATECTL,
    CheckedSan,
    not_ok,
    recorded,
    unit,
)
from zolder.san.check.devices import check_holders, check_lvm, check_multipath, check_udev, is_rejected
from zolder.san.check.finding import Finding, NotChecked
from zolder.san.check.services import check_helper, check_services
from zolder.san.check.system import check_clock, check_memory
from zolder.san.check.targets import check_portals, check_targets

OPEN = "/sys/kernel/config/target/iscsi/iqn.2010-10.org.openstack:volume-1/tpgt_1/attrib"
# tgtd listening on every address: state 0A, port 0CBC, inode 4711.
LISTENER = (
    "   0: 00000000:0CBC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
)


@pytest.fixture
def san(tmp_path: Path) -> CheckedSan:
    """A SAN on which all is well."""
    return CheckedSan(tmp_path)


def told(findings: list[Finding]) -> list[str]:
    """Return the findings that are not ok as level and message."""
    return [f"{found.level}: {found.message}" for found in not_ok(findings)]


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("zolder-helper.socket", "LoadState=not-found\n", "failure: zolder-helper.socket and .service"),
        ("zolder-helper.service", "LoadState=not-found\n", "failure: zolder-helper.socket and .service"),
        ("zolder-helper.socket", unit(active="inactive"), "failure: is inactive"),
        ("zolder-helper.socket", unit(enabled="disabled"), "failure: does not come back"),
        ("zolder-helper.service", unit(active="failed"), "failure: has failed"),
        ("zolder-helper.service", unit(active="inactive"), None),
        ("zolder-helper.service", unit(started="@999"), "warning: was started before the installed release"),
        ("zolder-helper.service", unit(started="@1000"), None),
        ("zolder-helper.service", unit(started="n/a"), "unknown: systemd does not say when"),
    ],
)
def test_helper(san: CheckedSan, name: str, answer: str, said: str | None) -> None:
    """The helper's units are there and run; a service older than its code is a warning."""
    san.answers[SYSTEMCTL.format(name)] = answer
    found = told(list(check_helper(san.machine)))
    assert len(found) == (said is not None)
    assert not found or found[0].startswith(str(said))


def test_the_helper_s_socket(san: CheckedSan) -> None:
    """A socket that others may write to, or that is no socket, is a failure."""
    path = san.root / "run/zolder-helper.socket"
    path.chmod(0o666)
    assert told(list(check_helper(san.machine))) == ["failure: has mode 0666, not 0660"]
    path.unlink()
    path.write_text("")
    assert told(list(check_helper(san.machine)))[0].startswith("failure: is something else: -rw")


def test_without_systemd(san: CheckedSan) -> None:
    """Where systemd does not run, its units are not known, which is never called well."""
    (san.root / "run/systemd/system").rmdir()
    with pytest.raises(NotChecked, match="systemd does not run this machine"):
        list(check_services(san.machine))


def test_services(san: CheckedSan) -> None:
    """That nothing imports zpools at boot, or nobody watches their devices, is a note each."""
    assert told(list(check_services(san.anew()))) == []
    san.answers[SYSTEMCTL.format("zfs-import-cache.service")] = unit(enabled="disabled")
    san.answers[SYSTEMCTL.format("zfs-zed.service")] = "LoadState=not-found\n"
    assert [line.partition(":")[0] for line in told(list(check_services(san.anew())))] == ["note", "note"]


@pytest.mark.parametrize(
    ("filters", "rejected"),
    [
        (["a|.*|"], False),
        (["r|^/dev/zd|", "r|^/dev/zvol/|", "a|.*|"], True),
        (["r|^/dev/zd|", "a|.*|"], False),
        (["r|/dev/zd.*|"], True),
        (["a|.*|", "r|^/dev/zd|"], False),
        (["a(^/dev/sd)", "r{.*}"], True),
        (["a|^/dev/zvol/|", "r|.*|"], False),
        ([], False),
    ],
)
def test_filters(filters: list[str], *, rejected: bool) -> None:
    """A device is kept off where one of its names is rejected and none accepted (lvm.conf(5))."""
    assert is_rejected(filters) is rejected


@pytest.mark.parametrize("pattern", ["", "x|a|", "a|b", "r|(|", "a"])
def test_filters_that_are_none(pattern: str) -> None:
    """A pattern that LVM would not take either is not guessed at."""
    with pytest.raises(NotChecked):
        is_rejected([pattern])


def test_lvm(san: CheckedSan) -> None:
    """LVM as Debian installs it looks into zvols; a filter or a devices file keeps it off."""
    text = recorded("lvm2-2.03.16/lvmconfig.txt")
    san.answers[LVMCONFIG] = text
    (found,) = not_ok(list(check_lvm(san.anew())))
    assert (found.level, found.message.partition(":")[0]) == ("warning", "looks into zvols")
    san.answers[LVMCONFIG] = text.replace('["a|.*|"]', '["r|^/dev/zd|","r|^/dev/zvol/|"]')
    assert told(list(check_lvm(san.anew()))) == []
    san.answers[LVMCONFIG] = text.replace("use_devicesfile=0", "use_devicesfile=1")
    assert told(list(check_lvm(san.anew())))[0].startswith("warning: looks into zvols")
    san.write(
        "/etc/lvm/devices/system.devices", "# x\nIDTYPE=sys_wwid IDNAME=naa.5 DEVNAME=/dev/sda3 PVID=a\n"
    )
    assert told(list(check_lvm(san.anew()))) == []
    san.write("/etc/lvm/devices/system.devices", "IDTYPE=devname IDNAME=/dev/zd16 DEVNAME=/dev/zd16 PVID=a\n")
    assert told(list(check_lvm(san.anew())))[0].startswith("failure: the devices file lists a zvol")
    san.answers[LVMCONFIG] = (4, "", "/etc/lvm: mkdir failed: Permission denied\n")
    with pytest.raises(NotChecked, match="Permission denied"):
        list(check_lvm(san.anew()))


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        ("", "", False),
        ('devnode "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"', 'devnode "^vd"', True),
        ('devnode "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"', 'devnode "^(zd|vd)[0-9]"', False),
        ('property "(SCSI_IDENT_|ID_WWN)"', 'devnode "^zd"', True),
    ],
)
def test_multipath(san: CheckedSan, old: str, new: str, *, taken: bool) -> None:
    """By its own defaults multipath leaves zvols alone; by a site's configuration it may not."""
    san.answers[MULTIPATH] = recorded("multipath-tools-0.9.4/multipath-t.txt").replace(old, new)
    assert bool(told(list(check_multipath(san.machine)))) is taken


def test_without_multipath(san: CheckedSan) -> None:
    """Where multipath is not installed, nothing is to do."""
    san.answers[MULTIPATH] = NOT_INSTALLED
    assert told(list(check_multipath(san.machine))) == []


def test_holders(san: CheckedSan) -> None:
    """A device-mapper device on a zvol or a partition of it is a failure that names it."""
    for folder in ("zd0/holders/dm-3", "zd16/zd16p1/holders/dm-4", "sda/holders/dm-5"):
        san.folder(f"/sys/block/{folder}")
    san.write("/sys/block/dm-3/dm/name", "guest-root\n")
    found = not_ok(list(check_holders(san.machine)))
    assert [(one.subject, one.message.split()[0], one.level) for one in found] == [
        ("/dev/zd0", "guest-root", "failure"),
        ("/dev/zd16", "dm-4", "failure"),
    ]


def test_udev(san: CheckedSan) -> None:
    """Our rules are there and name each parent; what udev found in a zvol nevertheless is a note."""
    san.replace("/etc/udev/rules.d/10-zolder.rules", "data/volumes", "data/other")
    assert told(list(check_udev(san.machine)))[0].startswith('failure: is missing or lacks "data/volumes/*"')
    san.remove("/etc/udev/rules.d/10-zolder.rules")
    san.replace("/etc/udev/rules.d/90-zolder.rules", "OPTIONS", "#OPTIONS")
    san.write("/sys/block/zd0/dev", "230:0\n")
    san.write("/run/udev/data/b230:0", "S:zvol/data/volumes/volume-1\nE:ID_FS_TYPE=LVM2_member\n")
    san.folder("/run/udev/watch")
    (san.root / "run/udev/watch/b230:0").symlink_to("17")
    assert [line.partition(":")[0] for line in told(list(check_udev(san.machine)))] == [
        "failure",
        "failure",
        "note",
        "note",
    ]


def test_open_targets(san: CheckedSan) -> None:
    """A target under our prefix that lets in whom no ACL names is a failure; others' targets are theirs."""
    for name, value in (("generate_node_acls", "1"), ("demo_mode_discovery", "0")):
        san.write(f"{OPEN}/{name}", f"{value}\n")
        san.write(f"{OPEN}/{name}".replace("openstack", "else"), "1\n")
    (found,) = not_ok(list(check_targets(san.machine)))
    assert (found.level, found.subject) == ("failure", "iqn.2010-10.org.openstack:volume-1")
    assert found.message.startswith("is open to everybody (generate_node_acls=1)")
    san.remove(f"{OPEN}/demo_mode_discovery")
    with pytest.raises(NotChecked, match="demo_mode_discovery is not there"):
        list(check_targets(san.machine))


def test_who_restores_targets(san: CheckedSan) -> None:
    """The service of rtslib beside us, enabled, is a warning."""
    san.answers[SYSTEMCTL.format("rtslib-fb-targetctl.service")] = unit()
    (found,) = not_ok(list(check_targets(san.machine)))
    assert (found.level, found.remedy) == ("warning", "sudo systemctl disable rtslib-fb-targetctl.service")


def test_portals(san: CheckedSan) -> None:
    """A portal whose address is not on this machine is a failure, one on a dead interface a warning."""
    text = recorded("iproute2-6.1/ip-j-addr.txt")
    san.answers[ADDRESSES] = text.replace('"local": "192.0.2.2"', '"local": "192.0.2.3"')
    assert told(list(check_portals(san.anew())))[0].startswith("failure: is on no interface")
    san.answers[ADDRESSES] = text.replace('"operstate": "UP"', '"operstate": "DOWN"')
    assert len(told(list(check_portals(san.anew())))) == 2
    for wrong in ('[{"addr_info": [{}]}]', "[3]", '{"a": 1}', "7"):
        san.answers[ADDRESSES] = wrong
        with pytest.raises(NotChecked, match="ip -j addr printed"):
            list(check_portals(san.anew()))


def test_another_program_at_our_port(san: CheckedSan) -> None:
    """A process that listens at a portal is named; the kernel's own LIO has no process."""
    san.write("/proc/net/tcp", f"  sl  local_address rem_address   st\n{LISTENER}")
    assert told(list(check_portals(san.machine))) == []
    san.write("/proc/77/comm", "sshd\n")
    san.folder("/proc/77/fd")
    (san.root / "proc/77/fd/6").symlink_to("socket:[4711]")
    (found,) = not_ok(list(check_portals(san.machine)))
    assert (found.level, found.subject) == ("failure", "0.0.0.0 port 3260")
    assert found.message.startswith("sshd (process 77) listens there")
    san.write("/proc/77/comm", "tgtd\n")
    (found,) = not_ok(list(check_portals(san.anew())))
    assert (found.level, found.subject) == ("note", "0.0.0.0 port 3260")
    for other in (LISTENER.replace("0CBC", "0CBD"), LISTENER.replace(" 0A ", " 01 ")):
        san.write("/proc/net/tcp", f"  sl  local_address rem_address   st\n{other}")
        assert told(list(check_portals(san.machine))) == []


def test_a_real_listener(tmp_path: Path) -> None:
    """A socket of this very process is found in this machine's own /proc, by IPv4 and by IPv6."""
    found = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        san = CheckedSan(tmp_path / address.replace(":", "_"))
        (san.root / "proc").rename(san.root / "old")
        (san.root / "proc").symlink_to("/proc")
        with socket.socket(family) as server:
            server.bind((address, 0))
            server.listen()
            port = server.getsockname()[1]
            portal = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            san.replace("/etc/zolder/san.toml", '"192.0.2.2:3260", "[fd00::2]:3260"', f'"{portal}"')
            found += [one for one in told(list(check_portals(san.machine))) if one.startswith("failure")]
    assert len(found) == 2
    assert all(f"(process {os.getpid()}) listens there" in one for one in found)


def test_hidden_processes(san: CheckedSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not look into processes says so, where somebody listens at all."""
    san.write("/proc/net/tcp", f"  sl  local_address rem_address   st\n{LISTENER}")
    san.folder("/proc/77/fd")
    look = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "fd":
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert told(list(check_portals(san.machine)))[0].startswith("unknown: whether a process or the kernel")


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        ("yes\n", "ok"),
        ("no\n", "warning"),
        ("", "note"),
        ((1, "", "Failed to connect to bus\n"), "note"),
        (None, "note"),
    ],
)
def test_clock(san: CheckedSan, answer: str | tuple[int, str, str] | None, level: str) -> None:
    """A clock that is not kept right is a warning; where nobody tells, a note."""
    san.remove("/run/systemd/timesync/synchronized")
    san.answers[TIMEDATECTL] = answer
    assert [found.level for found in check_clock(san.machine)] == [level]


def test_memory(san: CheckedSan) -> None:
    """A cache that may take nearly all memory is a note, with a figure that leaves room."""
    assert told(list(check_memory(san.machine))) == []
    san.write("/proc/spl/kstat/zfs/arcstats", "c_max   4    16600000000\n")
    (found,) = not_ok(list(check_memory(san.machine)))
    assert (found.level, found.message[:41]) == ("note", "ZFS's cache (ARC) may take 15.5 of 15.6 G")
    san.write("/proc/meminfo", "nothing\n")
    with pytest.raises(NotChecked, match="MemTotal is not in"):
        list(check_memory(san.machine))
