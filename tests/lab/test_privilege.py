"""What the agent and the root helper may do on a real SAN, and that neither has more than it needs."""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.ground import INITIATOR, LET_ADOPT, MIB, OTHER_PARENT, PARENT, ROUTE
from tests.contract.test_properties import FAST
from tests.support.san import connected, ssh_target
from tests.support.waiting import wait_until
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.errors import BackendError, Busy
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName
from zolder.properties import KINDS, ZvolProperties, given
from zolder.san.delegation import PERMISSIONS, USER, Permission, allow_commands, missing, superfluous

if TYPE_CHECKING:
    from lab import Lab

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
CUT: Final = 9
OTHER_ZPOOL = DatasetName("fast/volumes")
A, B, CLONE = ZvolName("volume-a"), ZvolName("volume-b"), ZvolName("volume-clone")
ADOPTED = ZvolName("volume-adopted")
SNAPSHOT, ADOPTED_SNAPSHOT = SnapshotName("snapshot-a"), SnapshotName("snapshot-adopted")
# capabilities(7): CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE and CAP_SYS_ADMIN.
HELPER_CAPABILITIES: Final = 1 << 2 | 1 << 19 | 1 << 21
# What systemd-analyze calls "OK", and what the helper has: a change for the worse needs a reason.
MOST_EXPOSURE: Final = 2.6


@pytest.fixture(scope="module", autouse=True)
def pristine(lab: Lab) -> None:
    """A SAN that nobody has used, whose identity may adopt."""
    lab.reset()
    lab.san.succeed(LET_ADOPT)


@pytest.fixture
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """The SAN, with whatever a test left of its zvols removed behind it."""
    with connected(lab, channels=1) as found:
        found.get_figures(OTHER_ZPOOL)
        yield found
    lab.san.run(f"zfs list -Hr -d 1 -t volume -o name {PARENT} {OTHER_ZPOOL} | xargs -rn 1 zfs destroy -R")


def steps(storage: RemoteStorage) -> dict[str, Callable[[], object]]:
    """Return the requests that between them need every permission, in an order in which each can be done."""

    def create(name: ZvolName, *, sparse: bool) -> object:
        volume_id = VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
        return storage.create_zvol(PARENT, name, volume_id=volume_id, volsize_bytes=MIB, sparse=sparse)

    def clone() -> object:
        return storage.clone_zvol(
            PARENT,
            A,
            SNAPSHOT,
            CLONE,
            volume_id=VolumeId(str(uuid.uuid4())),
            volsize_bytes=MIB,
            sparse=True,
        )

    def revert() -> object:
        return storage.revert_zvol(PARENT, A, ADOPTED_SNAPSHOT, volsize_bytes=2 * MIB)

    def copy() -> object:
        return storage.clone_zvol(
            PARENT, A, None, CLONE, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=2 * MIB, sparse=True
        )

    def give(name: str, value: str) -> object:
        properties = ZvolProperties(**{name: KINDS[name](value)})  # type: ignore[arg-type]  # each its own kind
        return storage.set_zvol_properties(PARENT, A, sparse=True, properties=properties, volblocksize=None)

    def adopt() -> object:
        storage.release_zvol(PARENT, B)
        return storage.adopt_zvol(
            PARENT,
            B,
            ADOPTED,
            volume_id=VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, ADOPTED))),
            former=None,
            volsize_bytes=MIB,
        )

    def adopt_snapshot() -> object:
        storage.release_snapshot(PARENT, A, SNAPSHOT)
        return storage.adopt_snapshot(PARENT, A, SNAPSHOT, ADOPTED_SNAPSHOT)

    def move(parent: DatasetName, to: DatasetName) -> object:
        volume_id = VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, ADOPTED)))
        return storage.move_zvol(parent, ADOPTED, to=to, name=ADOPTED, volume_id=volume_id)

    return {
        "create": lambda: create(A, sparse=True),
        "create thick": lambda: create(B, sparse=False),
        "snapshot": lambda: storage.create_snapshot(PARENT, A, SNAPSHOT),
        "clone": clone,
        **{f"set {name}": functools.partial(give, name, value) for name, value in given(FAST).items()},
        "grow": lambda: storage.grow_zvol(PARENT, A, volsize_bytes=2 * MIB),
        "adopt": adopt,
        "move away": lambda: move(PARENT, OTHER_ZPOOL),
        "move back": lambda: move(OTHER_ZPOOL, PARENT),
        "adopt snapshot": adopt_snapshot,
        "delete clone": lambda: storage.delete_zvol(PARENT, CLONE),
        "revert": revert,
        "copy": copy,
        "revert past the copy": revert,
        "put aside": lambda: storage.delete_zvol(PARENT, CLONE),
        "delete snapshot": lambda: storage.delete_snapshot(PARENT, A, ADOPTED_SNAPSHOT),
        "delete": lambda: storage.delete_zvol(PARENT, A),
    }


# What only a move that was cut needs, and goes on with.
[GOING_ON] = [one for one in PERMISSIONS if (one.name, one.below) == ("receive", True)]
# The first request that a permission's absence refuses.
FIRST_REFUSED: Final = {
    ("create", False): "create",
    ("mount", False): "create",
    ("userprop", True): "create",
    ("refreservation", True): "create thick",
    ("snapshot", True): "snapshot",
    ("clone", True): "clone",
    **{(name, True): f"set {name}" for name in KINDS},
    ("volsize", True): "grow",
    ("rename", True): "adopt",
    ("create", True): "adopt snapshot",
    ("mount", True): "adopt",
    ("destroy", True): "move away",
    ("rollback", True): "revert",
    ("promote", True): "revert past the copy",
    ("send", True): "move away",
    ("receive", False): "move back",
}


def delegate(lab: Lab, permissions: tuple[Permission, ...]) -> None:
    """Give the agent's user these permissions on the parent, and no others."""
    commands = [["zfs", "unallow", "-u", USER, PARENT], *allow_commands(PARENT, permissions)]
    lab.san.succeed("; ".join(" ".join(argv) for argv in commands))


def test_the_installed_set(lab: Lab) -> None:
    """The lab's SAN gives the agent's user what the table says on each parent: no less and no more."""
    for parent in (PARENT, OTHER_PARENT, DatasetName("fast/volumes")):
        text = lab.san.succeed(f"zfs allow {parent}")
        assert (missing(parent, text), superfluous(parent, text)) == ([], [])


@pytest.mark.parametrize(
    "permission",
    [one for one in PERMISSIONS if one != GOING_ON],
    ids=lambda p: f"{p.name}-{'below' if p.below else 'on-it'}",
)
def test_each_permission_is_needed(lab: Lab, storage: RemoteStorage, permission: Permission) -> None:
    """Without it one request is refused with a sentence that says what to do; all before that one pass."""
    refused = FIRST_REFUSED[permission.name, permission.below]
    try:
        delegate(lab, tuple(one for one in PERMISSIONS if one != permission))
        for name, step in steps(storage).items():
            if name == refused:
                with pytest.raises(BackendError, match="run 'zolder-san install' as root"):
                    step()
                break
            step()
    finally:
        delegate(lab, PERMISSIONS)


def test_a_move_that_goes_on(lab: Lab, storage: RemoteStorage) -> None:
    """One that was cut in the middle goes on only with the permission to receive below the parent."""
    lab.san.write_file("/run/zolder-lab/cut.py", (INSIDE / "cut.py").read_bytes())
    volume_id = VolumeId(str(uuid.uuid4()))
    storage.create_zvol(OTHER_ZPOOL, B, volume_id=volume_id, volsize_bytes=64 * MIB, sparse=True)
    lab.san.succeed(
        f"udevadm settle && dd if=/dev/urandom of=/dev/zvol/{OTHER_ZPOOL}/{B} bs=1M count=64 && sync"
    )
    asked = {"parent": OTHER_ZPOOL, "zvol": B, "to": PARENT, "name": B, "volume_id": volume_id}

    def move(at: str) -> int:
        program = f"runuser -u {USER} -- python3 -I -S /run/zolder-lab/cut.py move_zvol {at}"
        return lab.san.run(f"{program} {shlex.quote(json.dumps(asked))}").exit_status

    assert move("sending") == CUT
    try:
        delegate(lab, tuple(one for one in PERMISSIONS if one != GOING_ON))
        assert move("999") not in {0, CUT}
        assert storage.get_zvol(OTHER_ZPOOL, B).volume_id == volume_id
    finally:
        delegate(lab, PERMISSIONS)
    assert move("999") == 0
    storage.delete_zvol(PARENT, B)


def test_all_of_them_are_enough(storage: RemoteStorage) -> None:
    """With the whole set each request passes."""
    for step in steps(storage).values():
        step()


def test_what_rename_lets_a_taken_agent_do(lab: Lab) -> None:
    """It can rename what is below a parent, within it and into another; neither out of both, nor a parent."""
    lab.san.succeed(
        f"zfs create -s -V 1M {PARENT}/theirs && zfs create -o mountpoint=none {PARENT}/files"
        " && zfs create -s -V 1M data/outside"
    )

    def tries(command: str) -> bool:
        return lab.san.run(f"runuser -u {USER} -- zfs {command}").exit_status == 0

    assert tries(f"rename {PARENT}/theirs {PARENT}/renamed")
    assert tries(f"rename {PARENT}/renamed {OTHER_PARENT}/moved")
    assert tries(f"rename {OTHER_PARENT}/moved {PARENT}/theirs")
    assert tries(f"create -s -V 1M {PARENT}/files/below")
    for command in (
        f"rename {PARENT}/theirs data/theirs",
        f"rename data/outside {PARENT}/inside",
        f"rename {PARENT} data/elsewhere",
        f"rename {PARENT} {OTHER_PARENT}/elsewhere",
        "create -s -V 1M data/more",
        "create -s -V 1M data/outside/more",
    ):
        assert not tries(command), command
    lab.san.succeed(
        f"zfs destroy -r {PARENT}/files && zfs destroy {PARENT}/theirs && zfs destroy data/outside"
    )


def test_who_runs_as_what(lab: Lab, storage: RemoteStorage) -> None:
    """The agent has no capability at all; the helper is root with three, and can gain none."""
    storage.list_exports(PARENT)
    serving = lab.san.succeed(f"pgrep -u {USER} -f 'serve --identity lab'").split()
    helping = lab.san.succeed("pgrep -u root -f 'import main.*helper$'").split()
    assert len(serving) >= 1
    assert len(helping) >= 2, "the daemon and the process of the agent's connection"
    for pid, uid, capabilities in [
        *((pid, 990, 0) for pid in serving),
        *((pid, 0, HELPER_CAPABILITIES) for pid in helping),
    ]:
        lines = lab.san.succeed(f"cat /proc/{pid}/status").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["Uid"].split() == [str(uid)] * 4
        assert int(status["CapEff"], 16) == capabilities
        assert uid != 0 or (int(status["CapBnd"], 16), status["NoNewPrivs"]) == (capabilities, "1")


def test_hardening(lab: Lab) -> None:
    """The helper's exposure, as systemd counts it, is no worse than when each open door got its reason."""
    text = lab.san.succeed("systemd-analyze security --no-pager zolder-helper.service")
    figure = float(text.strip().splitlines()[-1].split(": ")[1].split()[0])
    assert figure <= MOST_EXPOSURE, text


def test_the_helper_starts_anew(lab: Lab, storage: RemoteStorage) -> None:
    """A request on an open channel passes after the helper was restarted under it."""
    steps(storage)["create"]()
    lab.san.succeed("systemctl restart zolder-helper.service")
    storage.export_zvol(PARENT, A, INITIATOR, route=ROUTE, attachment=None, chap=None)
    lab.san.succeed("systemctl kill zolder-helper.service --signal=KILL")
    lab.san.wait_until("systemctl start zolder-helper.socket", 20, "the socket")
    assert [export.zvol for export in storage.list_exports(PARENT)] == [A]
    storage.delete_zvol(PARENT, A)


def test_without_the_helper(lab: Lab, storage: RemoteStorage) -> None:
    """Where the helper is stopped what needs root fails with what to do; what needs none goes on."""
    steps(storage)["create"]()
    lab.san.succeed("systemctl stop zolder-helper.socket zolder-helper.service")
    try:
        assert storage.get_zvol(PARENT, A).name == A
        for request in (
            lambda: storage.export_zvol(PARENT, A, INITIATOR, route=ROUTE, attachment=None, chap=None),
            lambda: storage.list_exports(PARENT),
        ):
            with pytest.raises(BackendError, match=r"root helper does not answer .* 'zolder-san install'"):
                request()
        assert storage.list_attachments(PARENT) == (), "what could not be opened is not on record either"
        assert storage.delete_zvol(PARENT, A).changed
    finally:
        lab.san.succeed("systemctl start zolder-helper.socket")
    assert storage.list_exports(PARENT) == ()


def test_channels_of_an_identity(lab: Lab) -> None:
    """More channels at once than the policy gives are refused with a reason; a closed one makes room."""
    lab.san.succeed("cp -a /etc/zolder/san.toml /run/san.toml")
    lab.san.succeed("sed -i '/identity.lab/a max_channels = 2' /etc/zolder/san.toml")
    target = dataclasses.replace(ssh_target(lab))
    try:
        with ExitStack() as stack:
            pools = [Pool(target, max_channels=1) for _ in range(3)]
            for pool in pools:
                stack.callback(pool.close)
            first, second, third = (RemoteStorage(pool, deadline_seconds=30) for pool in pools)
            first.greet()
            second.greet()
            with pytest.raises(Busy, match="identity lab has 2 channels open"):
                third.greet()
            pools[0].close()

            def let_in() -> bool:
                try:
                    return third.greet().identity == "lab"
                except Busy:
                    return False  # the first one's agent is still on its way out

            wait_until(let_in, 20, "a channel is free")
    finally:
        lab.san.succeed("mv /run/san.toml /etc/zolder/san.toml")


def test_a_parent_that_is_gone_has_no_empty_list(lab: Lab) -> None:
    """Asked for what lies below a dataset that is not there, the reader fails and lists nothing."""
    look = (
        "import sys; sys.path.insert(0, '/usr/local/lib/zolder')\n"
        "from zolder.errors import BackendError\n"
        "from zolder.san.libzfs import library\n"
        "print(library().children('data/other'))\n"
        "try:\n    print(library().children('data/gone'))\n"
        "except BackendError as err:\n    print(err.message)\n"
    )
    said = lab.san.succeed("python3 -I -S -", input=look.encode()).splitlines()
    assert said[0] == "{}"
    assert said[1].startswith("ZFS cannot say anything of data/gone: ")
