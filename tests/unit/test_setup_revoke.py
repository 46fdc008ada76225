from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.setup_machine import Machine, make_key
from zolder.names import Identity
from zolder.san.setup.channels import EndChannels, count_channels, processes, tell
from zolder.san.setup.host import SetupError

Capture = pytest.CaptureFixture[str]

# The first argument is the user; this Python may be out of that user's reach, so it is taken on last, as sshd
# does. What then says a line is ready for a signal.
BECOME = "uid = int(sys.argv[1]); os.setgroups([]); os.setgid(uid); os.setuid(uid)"
UP = f"{BECOME}; print('up', flush=True); sys.stdin.read()"
OBEDIENT = f"import os, sys; {UP}"
BUSY = f"import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: None); {UP}"
# As sshd's process for a connection: named so, and parent of the agent if it has one.
SESSION = f"""
import os, pathlib, subprocess, sys
pathlib.Path("/proc/self/comm").write_text("sshd-session")
if len(sys.argv) > 2:
    agent = subprocess.Popen(
        [sys.executable, "-c", sys.argv[2], sys.argv[1], *sys.argv[3:-1]], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    agent.stdout.readline()
{UP}
"""


class Processes:
    """Processes of the agent's user, for the time of a test."""

    def __init__(self, uid: int) -> None:
        """Start them as this user."""
        self._uid = uid
        self._stack = ExitStack()

    def start(self, piece: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a piece of Python and wait until it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-c", piece, str(self._uid), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    def agent(self, identity: str, piece: str = OBEDIENT) -> subprocess.Popen[bytes]:
        """Start what looks like an agent."""
        return self.start(piece, "serve", "--identity", identity)

    def session(self, identity: str | None = None) -> subprocess.Popen[bytes]:
        """Start what looks like sshd's process, with an agent below it or none."""
        return self.start(
            SESSION, *([OBEDIENT, "serve", "--identity", identity, "(end)"] if identity else [])
        )

    def close(self) -> None:
        """End all of them."""
        self._stack.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and close its pipes."""
    process.kill()
    process.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with the identities cinder and other."""
    made = Machine(tmp_path / "root")
    assert made.zolder_san("install") == 0
    for name, parent in (("cinder", "data/volumes"), ("other", "data/other")):
        key = str(make_key(tmp_path, name))
        prefix = f"iqn.2010-10.org.{name}:"
        arguments = ("--key", key, "--parent", parent, "--target-prefix", prefix)
        assert made.zolder_san("authorize", name, *arguments) == 0
    made.ran = []
    return made


@pytest.fixture
def running(machine: Machine) -> Iterator[Processes]:
    """Return what starts processes of the agent's user."""
    user = machine.host.find_account()
    assert user is not None
    started = Processes(user.uid)
    yield started
    started.close()


def test_all(machine: Machine, capsys: Capture) -> None:
    """An identity's key, table, rights and rules go, the other's stay, and what stays is said."""
    capsys.readouterr()
    assert machine.zolder_san("revoke", "cinder") == 0
    assert "Volumes, snapshots and exports stay as they are." in capsys.readouterr().out
    assert "cinder" not in machine.text("etc/zolder/authorized_keys")
    assert "[identity.cinder]\n" not in machine.text("etc/zolder/san.toml").replace("# [identity.cinder]", "")
    assert machine.allowed["data/volumes"] == []
    assert machine.allowed["data/other"]
    assert "data/volumes" not in machine.text("etc/udev/rules.d/10-zolder.rules")
    assert machine.zolder_san("install") == 0
    assert "Nothing to change." in capsys.readouterr().out


def test_there_and_back(machine: Machine, tmp_path: Path) -> None:
    """An identity that came last and goes leaves both files as they were before it came."""
    names = ("etc/zolder/san.toml", "etc/zolder/authorized_keys", "etc/udev/rules.d/10-zolder.rules")
    before = [machine.text(name) for name in names]
    machine.datasets["data/third"] = "filesystem"
    key = str(make_key(tmp_path, "third"))
    assert machine.zolder_san("authorize", "third", "--key", key, "--parent", "data/third", "--password") == 0
    assert [machine.text(name) for name in names] != before
    assert machine.zolder_san("revoke", "third") == 0
    assert [machine.text(name) for name in names] == before
    assert machine.host.find_account("zolder-third") is None


@pytest.mark.parametrize("name", ["cinder", "nobody"])
def test_not_there(machine: Machine, capsys: Capture, name: str) -> None:
    """Revoking what is not there, or not there any more, changes nothing and is no fault."""
    if name == "cinder":
        assert machine.zolder_san("revoke", name, "--all") == 0
    before, machine.ran = machine.snapshot(), []
    capsys.readouterr()
    assert machine.zolder_san("revoke", name) == 0
    assert capsys.readouterr().out == "Nothing to change.\n"
    assert (machine.snapshot(), machine.ran) == (before, [])


def test_broken_policy(machine: Machine, capsys: Capture) -> None:
    """With a policy that cannot be read the way in is shut all the same, and the rest is said to be left."""
    path = machine.root / "etc/zolder/san.toml"
    path.write_text(path.read_text() + "x = 1\n")
    before = path.read_text()
    assert machine.zolder_san("revoke", "cinder") == 1
    assert "[identity.other] 'x' is no key of an identity" in capsys.readouterr().err
    assert "cinder" not in machine.text("etc/zolder/authorized_keys")
    assert path.read_text() == before


def test_not_installed(tmp_path: Path, capsys: Capture) -> None:
    """On a machine that was never set up there is nothing to change either."""
    bare = Machine(tmp_path / "bare")
    before = bare.snapshot()
    assert bare.zolder_san("revoke", "cinder") == 0
    assert capsys.readouterr().out == "Nothing to change.\n"
    assert bare.snapshot() == before


def test_dry_run(machine: Machine, capsys: Capture) -> None:
    """A dry run says what the run then says, and leaves the machine as it was."""
    before = machine.snapshot()
    capsys.readouterr()
    assert machine.zolder_san("revoke", "cinder", "--dry-run") == 0
    said = capsys.readouterr().out
    assert (machine.snapshot(), machine.ran) == (before, [])
    assert machine.zolder_san("revoke", "cinder") == 0
    assert capsys.readouterr().out == said


def test_shared_parent_stays(machine: Machine) -> None:
    """A parent that another identity has keeps its rights."""
    path = machine.root / "etc/zolder/san.toml"
    shared = 'shared_parents = ["data/volumes"]\n'
    text = path.read_text().replace(
        'parents = ["data/volumes"]\n', f'parents = ["data/volumes"]\n{shared}', 2
    )
    # The comment's example is the first; the table of cinder the second.
    path.write_text(f'{text}\n[identity.eye]\nrole = "read-only"\nparents = ["data/volumes"]\n{shared}')
    assert machine.zolder_san("revoke", "cinder") == 0
    assert machine.allowed["data/volumes"]


def test_one_key(machine: Machine, tmp_path: Path, capsys: Capture) -> None:
    """One of two keys goes; the table and the other key stay. With the last, what is left is said."""
    second = str(make_key(tmp_path, "second"))
    assert machine.zolder_san("authorize", "cinder", "--key", second) == 0
    table = machine.text("etc/zolder/san.toml")
    assert machine.zolder_san("revoke", "cinder", "--key", str(tmp_path / "cinder.pub")) == 0
    keys = machine.text("etc/zolder/authorized_keys")
    assert Path(second).read_text().split()[1] in keys
    assert (tmp_path / "cinder.pub").read_text().split()[1] not in keys
    assert "has no way in any more" not in capsys.readouterr().out
    assert machine.zolder_san("revoke", "cinder", "--key", second) == 0
    assert "'zolder-san revoke cinder' removes the rest" in capsys.readouterr().out
    assert machine.text("etc/zolder/san.toml") == table


def test_another_s_key(machine: Machine, tmp_path: Path, capsys: Capture) -> None:
    """A key of another identity stays where it is."""
    before = machine.snapshot()
    assert machine.zolder_san("revoke", "cinder", "--key", str(tmp_path / "other.pub")) == 0
    assert "is not cinder's" in capsys.readouterr().out
    assert machine.snapshot() == before


def test_password_login(machine: Machine) -> None:
    """The login's name goes before the block that confines it."""
    assert machine.zolder_san("authorize", "cinder", "--password") == 0
    machine.ran = []
    assert machine.zolder_san("revoke", "cinder") == 0
    assert machine.ran[:2] == [
        "userdel --force zolder-cinder",
        "systemctl try-reload-or-restart ssh.service",
    ]
    assert machine.host.find_account("zolder-cinder") is None
    assert machine.host.find_account() is not None
    assert "zolder-cinder" not in machine.text("etc/ssh/sshd_config.d/00-zolder.conf")


def test_channels(machine: Machine, running: Processes, capsys: Capture) -> None:
    """An identity's agents and their connections end, idle connections too; others' stay, and root's."""
    agent, session, idle = running.agent("cinder"), running.session("cinder"), running.session()
    others = [
        running.agent("other"),
        running.session("other"),
        running.agent("cinder2"),
        running.start(OBEDIENT),
    ]
    assert count_channels(machine.host) == {"cinder": 2, "cinder2": 1, "other": 2}
    assert machine.zolder_san("revoke", "cinder") == 0
    assert "2 channels of cinder, 2 connections" in capsys.readouterr().out
    assert [process.wait(5) for process in (agent, session, idle)] == [-signal.SIGTERM] * 3
    assert [process.poll() for process in others] == [None] * 4
    assert count_channels(machine.host) == {"cinder2": 1, "other": 2}


def test_still_finishing(machine: Machine, running: Processes) -> None:
    """Who is still finishing is not killed but counted, and a second run does the rest."""
    agent = running.agent("cinder", BUSY)
    impatient = replace(machine.host, patience_seconds=0.2)
    step = EndChannels(impatient, Identity("cinder"), [])
    assert step.needed() is not None
    with pytest.raises(SetupError, match="1 channels of cinder are still finishing"):
        step.apply()
    assert agent.poll() is None
    end(agent)
    assert step.needed() is None


def test_what_hangs_keeps_nothing(machine: Machine, running: Processes, capsys: Capture) -> None:
    """With a channel that does not end all else is taken away; it is reported last, with what to do."""
    assert machine.zolder_san("authorize", "cinder", "--password") == 0
    agent = running.agent("cinder", BUSY)
    machine.patience_seconds, machine.ran = 0.2, []
    capsys.readouterr()
    assert machine.zolder_san("revoke", "cinder") == 1
    said = capsys.readouterr().err
    assert said.count("1 channels of cinder are still finishing what they began, or hang") == 1
    assert f"'ps -fp {agent.pid}', end one that hangs with 'kill -KILL NUMBER'" in said
    assert "Volumes, snapshots and exports stay as they are." in said
    assert machine.allowed["data/volumes"] == []
    assert "iqn.2010-10.org.cinder:" not in machine.text("etc/zolder/san.toml")
    assert "data/volumes" not in machine.text("etc/udev/rules.d/10-zolder.rules")
    assert machine.ran[-1] == "systemctl try-restart zolder-helper.service"
    assert agent.poll() is None


def test_a_fault_of_sshd_s_keeps_nobody_in(machine: Machine, running: Processes, capsys: Capture) -> None:
    """Where sshd's files have a fault, all but the block of a login that is gone is taken away."""
    assert machine.zolder_san("authorize", "cinder", "--password") == 0
    agent = running.agent("cinder")
    main = machine.root / "etc/ssh/sshd_config"
    main.write_text(main.read_text() + "Nonsense yes\n")
    assert machine.zolder_san("revoke", "cinder") == 1
    assert "Nonsense" in capsys.readouterr().err
    assert agent.wait(5) == -signal.SIGTERM
    assert machine.host.find_account("zolder-cinder") is None
    assert machine.allowed["data/volumes"] == []


def test_the_helper_is_restarted_last(machine: Machine) -> None:
    """No connection of the helper's keeps the old policy: it is restarted behind all else, and only once."""
    assert machine.zolder_san("revoke", "cinder") == 0
    assert machine.ran[-1] == "systemctl try-restart zolder-helper.service"
    machine.ran = []
    assert machine.zolder_san("revoke", "cinder") == 0
    assert machine.ran == []


def test_a_number_of_another_process(machine: Machine, running: Processes) -> None:
    """A process that is not the one that was looked at, though it has its number, is told nothing."""
    agent = running.agent("other")
    seen = processes(machine.host)[agent.pid]
    argv = (*seen.argv[:-1], "cinder")
    assert tell(machine.host, [replace(seen, argv=argv), replace(seen, pid=os.getpid())]) == set()
    assert agent.poll() is None
    assert tell(machine.host, [seen]) == {agent.pid}
    assert agent.wait(5) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--identity cinder", "--identity=cinder"),
        ("command=", "Command="),
        ('identity cinder"', 'identity cinder "'),
    ],
)
def test_other_spellings(machine: Machine, old: str, new: str) -> None:
    """A line that sshd and the agent take for the identity's goes, however it is written."""
    path = machine.root / "etc/zolder/authorized_keys"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert machine.zolder_san("revoke", "cinder") == 0
    assert (machine.root.parent / "cinder.pub").read_text().split()[1] not in path.read_text()


def test_unclear_lines(machine: Machine, capsys: Capture) -> None:
    """A line whose command is not understood stays, and both revoke and list say so."""
    path = machine.root / "etc/zolder/authorized_keys"
    path.write_text(path.read_text().replace("--identity cinder", "--ident cinder"))
    warning = "/etc/zolder/authorized_keys, line 2: what it runs is not understood, so it stays"
    capsys.readouterr()
    for arguments in (["list"], ["list", "--json"], ["revoke", "cinder"]):
        assert machine.zolder_san(*arguments) == 0
        said = capsys.readouterr()
        assert warning in (said.out if arguments[0] == "revoke" else said.err)
    assert "--ident cinder" in path.read_text()


def test_nobody_else_s_processes(machine: Machine) -> None:
    """What does not run as the agent's user is not looked at, whatever its command line says."""
    argv = [sys.executable, "-c", OBEDIENT, "0", "serve", "--identity", "cinder"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid not in processes(machine.host)
        assert os.getpid() not in processes(machine.host)
    finally:
        end(process)


def test_list(machine: Machine, running: Processes, capsys: Capture) -> None:
    """The list names role, parents, keys with fingerprints, logins and open channels."""
    assert machine.zolder_san("authorize", "cinder", "--password") == 0
    running.agent("other")
    capsys.readouterr()
    assert machine.zolder_san("list", "--json") == 0
    cinder, other = json.loads(capsys.readouterr().out)
    listed = machine.run(["ssh-keygen", "-l", "-f", str(machine.root.parent / "cinder.pub")]).stdout.split()
    assert cinder == {
        "identity": "cinder",
        "role": "volumes",
        "parents": ["data/volumes"],
        "keys": [{"fingerprint": listed[1], "kind": "ssh-ed25519", "from": []}],
        "password_login": {"user": "zolder-cinder", "password_set": False},
        "open_channels": 0,
    }
    assert (other["password_login"], other["open_channels"]) == (None, 1)
    assert machine.zolder_san("list") == 0
    said = capsys.readouterr().out
    assert (
        f"  key       {listed[1]} ssh-ed25519 from anywhere\n  password  zolder-cinder, not set yet\n" in said
    )
    assert "  channels  1 open\n" in said


def test_list_nobody(tmp_path: Path, capsys: Capture) -> None:
    """Where nobody may come in, the list says how somebody may."""
    assert Machine(tmp_path / "bare").zolder_san("list") == 0
    assert "'zolder-san authorize' adds one" in capsys.readouterr().out


def test_list_key_without_table(machine: Machine, capsys: Capture) -> None:
    """An identity that has a key and no table is listed as one that has none."""
    path = machine.root / "etc/zolder/san.toml"
    path.write_text("# nothing\n")
    capsys.readouterr()
    assert machine.zolder_san("list") == 0
    assert capsys.readouterr().out.count("none: it has no table in /etc/zolder/san.toml") == 2


def test_needs_root(machine: Machine, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the commands says in one sentence that it needs root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for arguments in (["install"], ["authorize", "x"], ["revoke", "x"], ["list"]):
        capsys.readouterr()
        assert machine.zolder_san(*arguments) == 1
        assert (
            capsys.readouterr().err
            == f"zolder-san: 'zolder-san {arguments[0]}' needs root: run it with sudo\n"
        )
