"""The daemon is a real child process on a socket of its own: this file starts itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import wait_until
from zolder import __version__
from zolder.errors import BackendError
from zolder.san import daemon as daemons
from zolder.san import helper
from zolder.san.account import Account
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.policies import CurrentPolicy
from zolder.san.policy import Policy
from zolder.san.root import Root

ROOT = Path(__file__).parents[2]
# No user of this machine; the kernel asks for numbers alone.
AGENT = Account("zolder", 54321, 54321)
NOBODY = 65534
POLICY = """
[identity.lab]
parents = ["data/volumes"]
shared_parents = ["data/volumes"]
portals = ["192.0.2.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]

[identity.reader]
role = "read-only"
parents = ["data/volumes"]
shared_parents = ["data/volumes"]
"""
HOLDERS = ("read_holders", {"parent": "data/volumes", "zvol": "volume-1"})


@dataclass(frozen=True)
class Ground:
    """The folder of one daemon: its socket, its policy, and the marks that its root leaves and heeds."""

    folder: Path

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.folder / "helper.socket"

    @property
    def policy(self) -> Path:
        """The policy that it reads."""
        return self.folder / "san.toml"

    @property
    def ready(self) -> Path:
        """What is there once the daemon listens."""
        return self.folder / "ready"

    @property
    def acted(self) -> Path:
        """What is there once root has begun to act."""
        return self.folder / "acted"

    @property
    def hold(self) -> Path:
        """What keeps root from going on for as long as it is there."""
        return self.folder / "hold"


def main(folder: str, most: str) -> None:
    """Be the daemon."""
    ground = Ground(Path(folder))

    def make_root(policy: Policy, operation: Operation, locks: Locks) -> Root:
        ground.acted.touch()
        wait_until(lambda: not ground.hold.exists(), 30, "the test lets go")
        return Root(policy, operation, locks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daemons, "MAX_CONNECTIONS", int(most))
        patch.setattr(helper, "Root", make_root)
        policy_for = partial(CurrentPolicy, path=ground.policy)
        patch.setattr(daemons, "Helper", partial(helper.Helper, policy_for=policy_for))
        listening = daemons.listen(ground.socket, AGENT)
        ground.ready.touch()
        daemons.run_daemon(listening, AGENT, Locks(ground.folder / "locks"))


class Line:
    """A connection to the daemon, in frames."""

    def __init__(self, path: Path) -> None:
        """Connect as the user that this process is now."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._incoming = self.socket.makefile("rb")

    def send(self, method: str, params: dict[str, Any]) -> None:
        """Send a request."""
        frame = {
            "id": 7,
            "operation": str(uuid.uuid4()),
            "method": method,
            "deadline_ms": 5000,
            "params": params,
        }
        with suppress(BrokenPipeError):  # whoever is refused may be so before it has asked
            self.socket.sendall(json.dumps(frame).encode() + b"\n")

    def reply(self) -> dict[str, Any]:
        """Return the next frame; an empty one at the end of the stream."""
        line = b""
        with suppress(ConnectionResetError):  # the daemon closed without having read all
            line = self._incoming.readline()
        frame: dict[str, Any] = json.loads(line) if line else {}
        return frame

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the reply's frame."""
        self.send(method, params)
        return self.reply()

    def hello(self, identity: str = "lab", version: str = __version__) -> dict[str, Any]:
        """Introduce an identity."""
        return self.ask("hello", {"identity": identity, "version": version})

    def close(self) -> None:
        """Hang up."""
        self._incoming.close()
        self.socket.close()


class Daemon:
    """The daemon from outside."""

    def __init__(self, ground: Ground, process: subprocess.Popen[bytes], undo: ExitStack) -> None:
        """Know its process; what is opened is closed with ``undo``."""
        self.ground = ground
        self.process = process
        self._undo = undo

    def connect(self, user: int = AGENT.uid) -> Line:
        """Connect as that user, in the group of the same number."""
        with being(user):
            line = Line(self.ground.socket)
        self._undo.callback(line.close)
        return line

    def children(self) -> list[int]:
        """Return the processes that serve a connection, those that ended but were not waited for left out."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if _state(child) != "Z"]

    def goes_on(self) -> bool:
        """Whether the daemon serves somebody who comes now."""
        line = self.connect()
        served = line.hello() == {"id": 7, "value": __version__}
        line.close()
        return served and self.process.poll() is None


def _state(pid: str) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


@contextmanager
def being(user: int) -> Iterator[None]:
    """Be another user, as the kernel writes it down with a connection, for the block."""
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def start() -> Iterator[Callable[..., Daemon]]:
    """What starts a daemon; at the end it is killed with all its children."""
    with ExitStack() as undo:

        def begin(most: int = 8) -> Daemon:
            # Other users must get as far as the socket, which pytest's own folders would not let them.
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="zolder-helper-")))
            folder.chmod(0o755)
            ground = Ground(folder)
            ground.policy.write_text(POLICY)
            argv = [sys.executable, "-m", "tests.unit.test_helper", str(folder), str(most)]
            process = subprocess.Popen(argv, cwd=ROOT, process_group=0)
            undo.callback(process.wait)
            undo.callback(os.killpg, process.pid, signal.SIGKILL)
            daemon = Daemon(ground, process, undo)
            wait_until(ground.ready.exists, 20, "the daemon listens")
            return daemon

        yield begin


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    """A daemon with room for eight connections."""
    return start()


@pytest.mark.parametrize("user", [0, AGENT.uid])
def test_root_and_the_agent_are_served(daemon: Daemon, user: int) -> None:
    """The agent's user and root are greeted with the version, and their verbs answered."""
    line = daemon.connect(user)
    assert line.hello() == {"id": 7, "value": __version__}
    assert line.ask(*HOLDERS) == {"id": 7, "value": []}


def test_the_socket_lets_in_nobody_else(daemon: Daemon) -> None:
    """The socket belongs to root and the agent's group, and another user cannot even connect."""
    status = daemon.ground.socket.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, AGENT.gid, 0o660)
    with pytest.raises(PermissionError):
        daemon.connect(NOBODY)


def test_nobody_is_refused(daemon: Daemon) -> None:
    """Behind the socket's mode stands the kernel's word: another user is told so, and the daemon goes on."""
    daemon.ground.socket.chmod(0o666)
    line = daemon.connect(NOBODY)
    assert line.reply() == {
        "id": 0,
        "error": {
            "code": "not_permitted",
            "message": f"the root helper serves the user zolder and not uid {NOBODY}",
            "details": {},
        },
    }
    assert line.reply() == {}
    assert daemon.goes_on()


def test_a_killed_child_ends_one_connection(daemon: Daemon) -> None:
    """A child that is killed takes its own connection along and no other."""
    one, other = daemon.connect(), daemon.connect()
    one.hello()
    (child,) = daemon.children()[:1]
    other.hello()
    os.kill(child, signal.SIGKILL)
    assert one.reply() == {}
    assert other.ask(*HOLDERS)["value"] == []
    assert daemon.goes_on()


def test_a_stop_ends_idle_children_at_once(daemon: Daemon) -> None:
    """SIGTERM to the whole unit ends the daemon and every child that has nothing to do, at once."""
    lines = [daemon.connect() for _ in range(3)]
    for line in lines:
        line.hello()
    began = time.monotonic()
    os.killpg(daemon.process.pid, signal.SIGTERM)
    assert [line.reply() for line in lines] == [{}] * 3
    assert daemon.process.wait(5) == -signal.SIGTERM
    assert time.monotonic() - began < 2


def test_a_stop_waits_for_a_request(daemon: Daemon) -> None:
    """A child that is at work when SIGTERM comes answers first, and ends behind that."""
    daemon.ground.hold.touch()
    line = daemon.connect()
    line.hello()
    line.send(*HOLDERS)
    wait_until(daemon.ground.acted.exists, 10, "root acts")
    (child,) = daemon.children()
    os.kill(child, signal.SIGTERM)
    daemon.ground.hold.unlink()
    assert line.reply() == {"id": 7, "value": []}
    assert line.reply() == {}
    wait_until(lambda: child not in daemon.children(), 5, "the child ends")


def test_too_many_connections(start: Callable[..., Daemon]) -> None:
    """Beyond the most connections one more is told so, and served as soon as another has ended."""
    daemon = start(most=2)
    lines = [daemon.connect() for _ in range(2)]
    assert all("value" in line.hello() for line in lines)
    refused = daemon.connect()
    error = refused.reply()["error"]
    assert (error["code"], error["details"]) == ("busy", {"holders": []})
    assert error["message"] == "the root helper has 2 connections open already"
    assert refused.reply() == {}
    lines[0].close()
    wait_until(daemon.goes_on, 10, "there is room again")
    assert lines[1].ask(*HOLDERS)["value"] == []


def test_a_refused_one_that_has_gone(start: Callable[..., Daemon]) -> None:
    """Who is refused and does not stay to hear it does not end the daemon."""
    daemon = start(most=1)
    line = daemon.connect()
    line.hello()
    os.kill(daemon.process.pid, signal.SIGSTOP)
    daemon.connect().close()
    os.kill(daemon.process.pid, signal.SIGCONT)
    refused = daemon.connect()
    assert refused.reply()["error"]["code"] == "busy"
    assert line.ask(*HOLDERS)["value"] == []


def test_hello_comes_first(daemon: Daemon) -> None:
    """A verb before hello is refused, ends the connection, and never reaches root."""
    line = daemon.connect()
    assert line.ask(*HOLDERS)["error"]["code"] == "remote_protocol"
    assert line.reply() == {}
    assert not daemon.ground.acted.exists()


def test_another_version(daemon: Daemon) -> None:
    """An agent of another installation is told both versions and what to do."""
    line = daemon.connect()
    error = line.hello(version="0.0.1")["error"]
    assert error["code"] == "version_mismatch"
    assert "0.0.1" in error["message"]
    assert __version__ in error["message"]
    assert "systemctl restart zolder-helper.service" in error["message"]
    assert line.reply() == {}


def test_an_unknown_identity(daemon: Daemon) -> None:
    """An identity without a table in the policy gets no verb."""
    line = daemon.connect()
    error = line.hello("stranger")["error"]
    assert error["code"] == "backend"
    assert "[identity.stranger]" in error["message"]
    assert line.ask(*HOLDERS)["error"]["code"] == "remote_protocol"
    assert not daemon.ground.acted.exists()


def test_the_policy_is_read_anew(daemon: Daemon) -> None:
    """Each request is held to the policy as it stands then, also on a connection that is open already."""
    line = daemon.connect()
    line.hello()
    assert line.ask(*HOLDERS)["value"] == []
    daemon.ground.policy.write_text(POLICY.replace("data/volumes", "data/moved"))
    assert line.ask(*HOLDERS)["error"]["code"] == "not_permitted"


@pytest.mark.parametrize(
    ("identity", "method", "changed", "code"),
    [
        ("lab", "read_holders", {"parent": "data/other"}, "not_permitted"),
        ("lab", "read_holders", {"parent": "data"}, "not_permitted"),
        ("lab", "read_holders", {"zvol": "../other/x"}, "invalid_request"),
        ("lab", "read_holders", {"node": "/dev/vda"}, "invalid_request"),
        ("lab", "list_holders", {"parent": "data/other", "zvol": None}, "invalid_request"),
        ("lab", "open_export", {"parent": "data/other"}, "not_permitted"),
        ("lab", "open_export", {"initiator": "*"}, "invalid_request"),
        ("lab", "open_export", {"portals": ["192.0.2.1:3260"]}, "invalid_request"),
        ("lab", "open_export", {"prefix": "iqn.2010-10.org.openstack:"}, "invalid_request"),
        ("lab", "open_export", {"route": {}}, "invalid_request"),
        ("lab", "close_export", {"parent": "data/other"}, "not_permitted"),
        ("lab", "close_export", {"exporter": "targetcli"}, "invalid_request"),
        ("lab", "grow_export", {"parent": "data/other"}, "not_permitted"),
        ("reader", "open_export", {}, "not_permitted"),
        ("reader", "close_export", {}, "not_permitted"),
        ("reader", "grow_export", {}, "not_permitted"),
        ("lab", "run_program", {}, "unknown_method"),
        ("lab", "_export", {}, "unknown_method"),
        ("lab", "hello", {}, "unknown_method"),
    ],
)
def test_beyond_the_policy(
    daemon: Daemon, identity: str, method: str, changed: dict[str, Any], code: str
) -> None:
    """What an identity may not ask is refused before root acts, and the connection goes on."""
    right: dict[str, dict[str, Any]] = {
        "close_export": {"initiator": None, "exporter": None},
        "open_export": {"initiator": "iqn.2004-10.org.zolder:compute", "chap": None},
    }
    line = daemon.connect()
    line.hello(identity)
    assert line.ask(method, {**HOLDERS[1], **right.get(method, {}), **changed})["error"]["code"] == code
    assert not daemon.ground.acted.exists()
    assert "value" in line.ask(*HOLDERS)
    assert daemon.ground.acted.exists()


def test_no_socket_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path and without systemd it says where a socket could come from."""
    for pid, passed in ((str(os.getpid()), "0"), ("1", "1")):
        monkeypatch.setenv("LISTEN_PID", pid)
        monkeypatch.setenv("LISTEN_FDS", passed)
        with pytest.raises(BackendError, match="--socket PATH"):
            daemons.listen(None, AGENT)


if __name__ == "__main__":
    main(*sys.argv[1:])
