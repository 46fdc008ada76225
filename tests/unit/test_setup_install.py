from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.setup_machine import Machine
from zolder.san.setup.host import EXECUTABLE, SetupError, running_executable
from zolder.san.setup.texts import MODULES, MORE_MODULES

Capture = pytest.CaptureFixture[str]

SAN = """\
# ours
[identity.cinder]
parents = ["data/volumes"]
portals = ["192.0.2.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which nothing of ours is."""
    return Machine(tmp_path / "root")


def place_policy(machine: Machine, text: str = SAN) -> Path:
    """Write a policy before the set-up."""
    path = machine.root / "etc/zolder/san.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_all_is_made(machine: Machine) -> None:
    """One run makes the user, the folders, every file with owner and mode, and the helper's socket."""
    assert machine.zolder_san("install") == 0
    user = machine.host.find_account()
    assert user is not None
    assert (user.home, user.shell, user.gid) == (
        "/var/lib/zolder",
        "/bin/sh",
        machine.host.group_id("zolder"),
    )
    assert "zolder:*:" in machine.text("etc/shadow")
    for name, mode, owner in (
        ("etc/zolder", 0o40755, 0),
        ("etc/zolder/san.toml", 0o100644, 0),
        ("etc/zolder/authorized_keys", 0o100644, 0),
        ("etc/ssh/sshd_config.d/00-zolder.conf", 0o100644, 0),
        ("etc/systemd/system/zolder-helper.service", 0o100644, 0),
        ("var/lib/zolder", 0o40700, user.uid),
        ("run/zolder", 0o40700, user.uid),
    ):
        status = (machine.root / name).lstat()
        assert (name, status.st_mode, status.st_uid, status.st_gid) == (name, mode, owner, owner)
    assert f"ExecStart={EXECUTABLE} helper\n" in machine.text("etc/systemd/system/zolder-helper.service")
    assert machine.text("etc/modules-load.d/zolder.conf").splitlines()[1:] == [
        *MODULES,
        *MORE_MODULES,
    ]
    assert [line for line in machine.ran if line.startswith(("systemctl", "udevadm", "modprobe"))] == [
        "systemctl try-reload-or-restart ssh.service",
        "modprobe --all target_core_mod target_core_iblock iscsi_target_mod",
        "udevadm control --reload",
        "udevadm trigger --action=change --subsystem-match=block --sysname-match=zd*",
        "systemctl daemon-reload",
        "systemctl enable --now zolder-helper.socket",
        "systemctl enable zolder-portals.service zolder-restore.service",
        "systemctl try-restart zolder-helper.service",
    ]


def test_twice(machine: Machine, capsys: Capture) -> None:
    """Done twice, the second changes nothing, runs nothing and says so."""
    assert machine.zolder_san("install") == 0
    before, machine.ran = machine.snapshot(), []
    capsys.readouterr()
    assert machine.zolder_san("install") == 0
    assert capsys.readouterr().out == "Nothing to change.\n"
    assert (machine.snapshot(), machine.ran) == (before, [])


def test_dry_run(machine: Machine, capsys: Capture) -> None:
    """A dry run says what the run then says, and leaves the machine as it was."""
    before = machine.snapshot()
    assert machine.zolder_san("install", "--dry-run") == 0
    said = capsys.readouterr().out
    assert (machine.snapshot(), machine.ran) == (before, [])
    assert machine.zolder_san("install") == 0
    assert capsys.readouterr().out == said
    assert "+++ /etc/ssh/sshd_config.d/00-zolder.conf\n" in said
    assert "useradd --system --gid zolder" in said


def test_json(machine: Machine, capsys: Capture) -> None:
    """With --json one object says whether anything changed, and what."""
    for changed in (True, False):
        assert machine.zolder_san("install", "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report.pop("changed") is changed
        assert bool(report.pop("changes")) is changed
        assert report == {"dry_run": False, "notes": []}


def test_policy_is_kept(machine: Machine) -> None:
    """A policy that is there keeps every byte; zolder may read it, and gets its rights on the parents."""
    path = place_policy(machine)
    assert machine.zolder_san("install") == 0
    assert (path.read_text(), path.stat().st_mode & 0o777) == (SAN, 0o644)
    assert [line for line in machine.ran if line.startswith("zfs allow")]
    assert machine.allowed["data/volumes"]
    rules = machine.text("etc/udev/rules.d/10-zolder.rules")
    assert 'RESULT=="data/volumes/*", ENV{ZOLDER}="1"\n' in rules


def writable(path: Path) -> None:
    """Let everybody write the policy."""
    path.chmod(0o666)


def not_roots(path: Path) -> None:
    """Give the policy to somebody else."""
    os.chown(path, 1000, 1000)


def a_link(path: Path) -> None:
    """Put a symbolic link in the policy's place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def wrong(path: Path) -> None:
    """Write what the loader refuses."""
    path.write_text(SAN + "more = 1\n")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (writable, "others than root can write /etc/zolder/san.toml"),
        (not_roots, "others than root can write /etc/zolder/san.toml"),
        (a_link, "/etc/zolder/san.toml is a symbolic link"),
        (wrong, "/etc/zolder/san.toml, line 6: [identity.cinder] 'more' is no key"),
    ],
)
def test_untrusted_policy(
    machine: Machine, capsys: Capture, spoil: Callable[[Path], None], says: str
) -> None:
    """A policy that somebody else may have written, or that is wrong, stops the set-up before it begins."""
    spoil(place_policy(machine))
    assert machine.zolder_san("install") == 1
    assert says in capsys.readouterr().err
    assert machine.ran == []


def test_parent_is_missing(machine: Machine, capsys: Capture) -> None:
    """A parent that is not there is named with the command that makes it; all else is done by then."""
    place_policy(machine)
    del machine.datasets["data/volumes"]
    assert machine.zolder_san("install") == 1
    assert "zfs create -p -o mountpoint=none -o volmode=dev -o snapdev=hidden data/volumes" in (
        capsys.readouterr().err
    )
    assert "zolder-helper.socket" in machine.active


def test_foreign_file(machine: Machine, capsys: Capture) -> None:
    """A file of somebody else's at the place of one of ours is left alone and named."""
    path = machine.root / "etc/udev/rules.d/10-zolder.rules"
    path.parent.mkdir(parents=True)
    path.write_text("# mine\n")
    assert machine.zolder_san("install") == 1
    assert "/etc/udev/rules.d/10-zolder.rules was not written by zolder-san" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"


def test_foreign_user(machine: Machine, capsys: Capture) -> None:
    """A person who happens to be called zolder is not turned into the agent's user."""
    passwd = machine.root / "etc/passwd"
    passwd.write_text(passwd.read_text() + "zolder:x:1001:1001::/home/zolder:/bin/bash\n")
    assert machine.zolder_san("install") == 1
    assert "it is not ours" in capsys.readouterr().err


def test_locked_user(machine: Machine) -> None:
    """A user whose password is locked, whom sshd would keep out, is put right."""
    assert machine.zolder_san("install") == 0
    shadow = machine.root / "etc/shadow"
    shadow.write_text(shadow.read_text().replace("zolder:*:", "zolder:!:"))
    assert machine.zolder_san("install") == 0
    assert "zolder:*:" in shadow.read_text()


def test_what_root_left(machine: Machine) -> None:
    """What an agent that ran as root left behind becomes zolder's once, but for files with a second name."""
    state = machine.root / "var/lib/zolder"
    (state / "parents").mkdir(parents=True)
    (state / "parents" / "data:volumes").write_text("1\n")
    (state / "secret").hardlink_to(machine.root / "etc/shadow")
    assert machine.zolder_san("install") == 0
    user = machine.host.find_account()
    assert user is not None
    assert (state / "parents" / "data:volumes").stat().st_uid == user.uid
    assert (machine.root / "etc/shadow").stat().st_uid == 0
    (state / "planted").write_text("root's\n")
    assert machine.zolder_san("install") == 0
    assert (state / "planted").stat().st_uid == 0


def test_cut_short(machine: Machine) -> None:
    """A set-up that failed between a file and its daemon's reload does that reload the next time."""
    reload = "systemctl try-reload-or-restart ssh.service"
    machine.failing.add(reload)
    assert machine.zolder_san("install") == 1
    machine.failing.clear()
    assert reload not in machine.ran
    assert machine.zolder_san("install") == 0
    assert machine.ran.count(reload) == 1
    assert not (machine.root / "etc/zolder/.pending").exists()


def test_new_release(machine: Machine) -> None:
    """Another release restarts the helper, and nothing else."""
    assert machine.zolder_san("install") == 0
    (machine.root / "etc/zolder/version").write_text("# Written by zolder-san\n0.0.1\n")
    machine.ran = []
    assert machine.zolder_san("install") == 0
    assert machine.ran == ["systemctl try-restart zolder-helper.service"]


def test_changed_socket(machine: Machine) -> None:
    """A socket's unit that changed is bound anew: stopped, and enabled again."""
    assert machine.zolder_san("install") == 0
    unit = machine.root / "etc/systemd/system/zolder-helper.socket"
    unit.write_text(unit.read_text().replace("0660", "0666"))
    machine.ran = []
    assert machine.zolder_san("install") == 0
    assert machine.ran == [
        "systemctl daemon-reload",
        "systemctl stop zolder-helper.socket",
        "systemctl enable --now zolder-helper.socket",
    ]


def test_built_in_module(machine: Machine) -> None:
    """What is built into the kernel is not asked for at every run."""
    path = machine.root / "lib/modules" / os.uname().release / "modules.builtin"
    path.parent.mkdir(parents=True)
    path.write_text("kernel/drivers/target/target_core_mod.ko\nkernel/fs/ext4/ext4.ko\n")
    assert machine.zolder_san("install") == 0
    assert "modprobe --all target_core_iblock iscsi_target_mod" in machine.ran


def test_nvme_where_the_kernel_has_it(machine: Machine) -> None:
    """A kernel's NVMe target is loaded where there is one, and once."""
    path = machine.root / "lib/modules" / os.uname().release / "modules.dep"
    path.parent.mkdir(parents=True)
    path.write_text("kernel/drivers/nvme/target/nvmet-tcp.ko.xz: kernel/drivers/nvme/target/nvmet.ko.xz\n")
    assert machine.zolder_san("install") == 0
    modules = "target_core_mod target_core_iblock iscsi_target_mod nvmet nvmet-tcp"
    assert f"modprobe --all {modules}" in machine.ran
    machine.ran = []
    assert machine.zolder_san("install") == 0
    assert machine.ran == []


def test_boot_units(machine: Machine) -> None:
    """Both units of the boot are enabled and not started; one that was switched off is enabled again."""
    assert machine.zolder_san("install") == 0
    assert "zolder-restore.service" not in machine.active
    for name, words in (("portals", "restore --shut-only"), ("restore", "restore")):
        text = machine.text(f"etc/systemd/system/zolder-{name}.service")
        assert f"ExecStart={EXECUTABLE} {words}\n" in text
    (machine.root / "etc/systemd/system/multi-user.target.wants/zolder-restore.service").unlink()
    machine.ran = []
    assert machine.zolder_san("install") == 0
    assert machine.ran == ["systemctl enable zolder-restore.service"]


def test_without_systemd(machine: Machine, capsys: Capture) -> None:
    """Without systemd no unit is written, and what to run instead is said."""
    (machine.root / "run/systemd/system").rmdir()
    assert machine.zolder_san("install") == 0
    assert "zolder-san helper --socket /run/zolder-helper.socket" in capsys.readouterr().out
    assert not (machine.root / "etc/systemd").exists()
    assert not [line for line in machine.ran if line.startswith("systemctl")]


def test_executable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that was called is taken as it is, links and all; one that sshd could misread is refused."""
    program = tmp_path / "real" / "zolder-san"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin").symlink_to("real")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert running_executable("zolder-san") == str(tmp_path / "bin/zolder-san")
    assert running_executable("/usr/lib/python3/cli.py") == EXECUTABLE
    program.parent.rename(tmp_path / 'a "b')
    with pytest.raises(SetupError, match="cannot stand in sshd's files"):
        running_executable(str(tmp_path / 'a "b' / "zolder-san"))
