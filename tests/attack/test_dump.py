"""The dump: a change of each kind is told, and what moves by itself is not. No machines are needed."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.attack import dump
from tests.attack.dump import changes, facts_of, is_restless
from tests.attack.inside import observing

TREE: Final = "/sys/kernel/config/target"
TARGET: Final = f"{TREE}/iscsi/iqn.2010-10.org.openstack:volume-taken"
RECORDED: Final = (
    '2026-11-23.02:47:29 [txg:605] set data/volumes/volume-taken (159) zolder:export={"route":{}} [on san]\n'
    "2026-11-23.02:47:30 [txg:606] inherit data/volumes/volume-taken (159) zolder:export= [on san]\n"
)
GATHERED: Final[dict[str, Any]] = {
    "datasets": "data/volumes/a\tvolsize\t1048576\tlocal\ndata/volumes/a\tused\t8192\t-\n"
    "data/volumes/a@s\tguid\t77\t-\ndata/volumes/a@s\twritten@x\t1\t-\n",
    "zpools": "data\tguid\t5\t-\ndata\tfree\t1000\t-\n",
    "allow data/volumes": "---- Permissions on data/volumes ----\nLocal permissions:\n\tuser zolder create\n",
    "history data": "2026-11-23.01:19:34 [txg:4] set data (54) mountpoint=none [on san]\n",
    "files": "/etc/zolder/san.toml\tf644\t0:0\t10\t1.5 1.5\t\0/etc/link\tl777\t0:0\t3\t1.0 1.0\tabc\0"
    "/dev/zd0\tb660\t0:6\t0\t9.0 9.0\t\0/run/zolder/index/p.1/@complete\tf600\t9:9\t0\t1.0 1.0\t\0",
    "targets": f"{TARGET}\td755\t\0{TARGET}/tpgt_1/lun/lun_0/x\tl777\t../../core/y\0",
    "attributes": f"{TARGET}/tpgt_1/attrib/generate_node_acls:0\n{TARGET}/tpgt_1/enable:1\n",
    "processes": "1 0 0 systemd /sbin/init\n50 1 0 sshd sshd: /usr/sbin/sshd -D [listener] 0 of 10-100\n"
    "60 50 0 sshd-session sshd-session: zolder@notty\n70 1 0 cron /usr/sbin/cron -f\n"
    "80 60 990 python3 /usr/bin/python3 -I -S -E -c import sys serve --identity lab\n"
    "81 1 0 python3 /usr/bin/python3 -I -S -E -c import sys helper\n"
    "90 60 0 python3 python3 -I -S observing.py\n91 90 0 ps ps -ww\n92 1 0 kmod modprobe x\n"
    "93 81 0 python3 [python3] <defunct>\n",
    "/proc/net/tcp": "head\n 0: 00000000:0016 00000000:0000 0A 00000000:0 00:00 0 0 0 1 1\n"
    " 1: 0100007F:0016 0100007F:9999 01 00000000:0 00:00 0 0 0 1 1\n",
    "/proc/net/unix": "head\nffff: 00000002 00000000 00010000 0001 01 100 /run/zolder-helper.socket\n"
    "ffff: 00000003 00000000 00000000 0001 03 101 /run/x\n",
    "/proc/modules": "zfs 1000 6 - Live 0x0\n",
    "/proc/1/mounts": "/dev/vda / ext4 rw 0 0\n",
    "digests": {"/etc/zolder/san.toml": "abc"},
    "pid": 90,
}


@pytest.mark.parametrize(
    ("section", "old", "new", "change"),
    [
        ("datasets", "1048576", "2097152", "~ datasets data/volumes/a volsize"),
        ("datasets", "1048576\tlocal", "1048576\treceived", "~ datasets data/volumes/a volsize"),
        ("datasets", "data/volumes/a@s\tguid\t77\t-\n", "", "- datasets data/volumes/a@s guid"),
        ("zpools", "guid\t5", "guid\t6", "~ zpools data guid"),
        ("allow data/volumes", "create", "create,destroy", "~ allow data/volumes"),
        ("history data", "\n", f"\n{RECORDED.replace('taken', 'own')}", "~ history data"),
        ("history data", "\n", f"\n{RECORDED.replace('export', 'volume')}", "~ history data"),
        ("history data", "mountpoint=none", "mountpoint=/", "~ history data"),
        ("files", "f644", "f666", "~ file /etc/zolder/san.toml"),
        ("files", "f644\t0:0", "f644\t9:0", "~ file /etc/zolder/san.toml"),
        ("files", "\t10\t", "\t11\t", "~ file /etc/zolder/san.toml"),
        ("files", "1.5 1.5", "1.5 1.6", "~ file /etc/zolder/san.toml"),
        ("files", "\tabc\0", "\tabd\0", "~ file /etc/link"),
        ("files", "b660", "b666", "~ file /dev/zd0"),
        ("files", "/run/zolder/index/p.1/@complete\tf600\t9:9\t0", "/x\tf600\t9:9\t0", "+ file /x"),
        ("files", "9:9\t0\t1.0", "9:9\t5\t1.0", "~ file /run/zolder/index/p.1/@complete"),
        ("targets", "core/y", "core/z", f"~ target {TARGET}/tpgt_1/lun/lun_0/x"),
        ("targets", f"{TARGET}\td755\t\0", "", f"- target {TARGET}"),
        ("attributes", "generate_node_acls:0", "generate_node_acls:1", "~ attribute"),
        ("processes", "70 1 0 cron", "71 1 990 sh sh -c evil\n70 1 0 cron", "+ process 990 sh"),
        ("processes", "70 1 0 cron", "71 80 990 sh sh -c evil\n70 1 0 cron", "+ process 990 sh"),
        ("processes", "70 1 0 cron", "71 1 990 kmod modprobe x\n70 1 0 cron", "+ process 990 kmod"),
        ("processes", "70 1 0 cron /usr/sbin/cron -f\n", "", "- process 0 cron"),
        ("processes", "70 1 0", "71 1 0 cron /usr/sbin/cron -f\n70 1 0", "~ process 0 cron"),
        ("processes", "81 1 0 python3 /usr/bin", "81 1 0 python3 /usr/no", "- process 0 helper"),
        (
            "processes",
            "--identity lab\n",
            "--identity lab\n82 60 990 python3 x serve --identity lab\n",
            "~ agents",
        ),
        ("/proc/net/tcp", ":0016 00000000:0000 0A", ":0017 00000000:0000 0A", "+ socket 00000000:0017"),
        ("/proc/net/unix", "zolder-helper.socket", "evil", "+ socket /run/evil"),
        ("/proc/modules", "zfs", "evil", "+ module evil"),
        ("/proc/1/mounts", "rw", "ro", "~ mount 0"),
    ],
)
def test_a_change_is_told(section: str, old: str, new: str, change: str) -> None:
    """A property, a source, a permission, a mode, a time, a link, a process, a socket: each shows."""
    assert old in GATHERED[section]
    after = {**GATHERED, section: GATHERED[section].replace(old, new, 1)}
    found = changes(facts_of(GATHERED), facts_of(after))
    assert any(line.startswith(change) for line in found), found


def test_a_changed_content_is_told() -> None:
    """A file of the same size and times and another content shows."""
    after = {**GATHERED, "digests": {"/etc/zolder/san.toml": "abd"}}
    assert changes(facts_of(GATHERED), facts_of(after)) == ["~ content /etc/zolder/san.toml: abc -> abd"]


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("datasets", "used\t8192", "used\t16384"),
        ("zpools", "free\t1000", "free\t900"),
        ("history data", "\n", f"\n{RECORDED}"),
        ("files", "9.0 9.0", "9.5 9.5"),
        ("files", "9:9\t0\t1.0 1.0", "9:9\t0\t2.0 2.0"),
        ("processes", "60 50 0 sshd-session sshd-session: zolder@notty\n", ""),
        ("processes", "0 of 10-100", "3 of 10-100"),
        ("processes", "92 1 0 kmod modprobe x\n", ""),
        ("processes", "93 81 0 python3 [python3] <defunct>\n", ""),
        ("processes", "91 90 0 ps ps -ww\n", "91 90 0 ps ps -ww\n95 91 0 find find /\n"),
        ("/proc/net/tcp", "9999", "8888"),
    ],
)
def test_what_moves_by_itself_is_not_told(section: str, old: str, new: str) -> None:
    """Space, the times of nodes and noted sizes, sessions, the observer's processes, a record put back."""
    assert old in GATHERED[section]
    after = {**GATHERED, section: GATHERED[section].replace(old, new, 1)}
    assert changes(facts_of(GATHERED), facts_of(after)) == []


def test_only_what_ends_by_itself_is_waited_for() -> None:
    """A process may still end; a file or a dataset that was made stays made."""
    assert is_restless("+ process 990 sh = 1")
    assert is_restless("~ agents: 1 -> 2")
    assert not is_restless("+ file /tmp/x = f644")
    assert not is_restless("+ datasets data/x volsize = 1")


def test_real_files_are_gathered(tmp_path: Path) -> None:
    """What the guest's side gathers of real files tells each change that was made to them."""

    def look() -> dict[str, str]:
        commands = {"files": ["find", f"glob:{tmp_path}/roo*", "-printf", dump._PRINTED]}
        return facts_of(observing.gather(commands, [], [f"{tmp_path}/root/f*"], ["files"]))

    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("before")
    (root / "hard\tname\nto read").write_text("x")
    before = look()
    os.utime(root / "file", ns=(1, 1))
    assert [line for line in changes(before, look()) if line.startswith("~ file")], "a time that was set"
    before = look()
    stamp = (root / "file").stat().st_mtime_ns
    (root / "file").write_text("behind")
    os.utime(root / "file", ns=(stamp, stamp))
    found = changes(before, look())
    assert {line.split(" ")[1] for line in found} == {"file", "content"}
    (root / "hard\tname\nto read").unlink()
    assert any(line.startswith(f"- file {root}/hard\tname") for line in changes(before, look()))


def test_real_processes_and_sockets_are_gathered() -> None:
    """A new process and a new listening socket of this machine are told."""

    def look() -> dict[str, str]:
        commands = {"processes": dump.COMMANDS["processes"]}
        return facts_of(observing.gather(commands, ["/proc/net/tcp"], [], ["processes"]))

    before = look()
    # Not ours: what we start ourselves is the observer's. A child of init's is nobody's.
    words = "setsid --fork sleep 7.77 > /dev/null 2>&1"
    subprocess.run(["sh", "-c", words], check=True)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        found = changes(before, look())
    assert any(line.startswith("+ process") and "sleep 7.77" in line for line in found), found
    assert any(line.startswith(f"+ socket 0100007F:{port:04X}") for line in found), found


def test_a_command_that_fails_is_no_empty_dump() -> None:
    """A tool that is missing or refuses ends the look: an empty text would be equal to the next one."""
    with pytest.raises(RuntimeError, match="datasets"):
        observing.gather({"datasets": ["sh", "-c", "echo no >&2; exit 1"]}, [], [], ["datasets"])
    with pytest.raises(FileNotFoundError):
        observing.gather({"files": ["no-such-tool"]}, [], [], [])
