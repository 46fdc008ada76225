"""Moving to another zpool on real ZFS: whatever cuts it, there is one volume with all its contents."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lab.conversation import Conversation
from lab.inside.blocks import checksum_of
from tests.contract.ground import FAST, MIB, PARENT, PARENTS
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create
from tests.support.san import connected
from zolder.model import Zvol
from zolder.names import DatasetName, arriving_name

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
CUT: Final = 9
# What the agent does in a move, of which each is cut before.
STEPS: Final = {"snapshot", "send_snapshot", "destroy_snapshot", "set_properties", "rename", "destroy"}


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """A SAN that nobody has used."""
    lab.reset()
    lab.san.write_file("/run/zolder-lab/cut.py", (INSIDE / "cut.py").read_bytes())
    with connected(lab, channels=1) as found:
        for parent in PARENTS:
            found.get_figures(parent)
        yield found


@pytest.fixture(scope="module")
def disks(lab: Lab, storage: RemoteStorage) -> Iterator[Conversation]:  # noqa: ARG001 - after its reset
    """What writes and reads the SAN's zvols."""
    with Conversation(lab.san, [INSIDE / "blocks.py"], "python3 -S blocks.py") as program:
        yield program


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """What a test that failed has left is not the next one's."""
    yield
    lab.san.run(f"zfs list -Hr -t volume -o name {PARENT} {FAST} | xargs -rn 1 zfs destroy -R")


def move(lab: Lab, zvol: Zvol, at: int | str) -> list[str] | None:
    """Move with the agent's own code, cut before a step; return all steps where it came to its end."""
    asked = {
        "parent": zvol.parent, "zvol": zvol.name, "to": FAST, "name": zvol.name, "volume_id": zvol.volume_id,
    }  # fmt: skip
    program = "runuser -u zolder -- python3 -I -S /run/zolder-lab/cut.py"
    done = lab.san.run(f"{program} move_zvol {at} {shlex.quote(json.dumps(asked))}")
    if done.exit_status == CUT:
        # What was started for the stream ends with it, and has the locks until then.
        lab.san.wait_until("! pgrep -u zolder -x zfs", 60, "the end of what was cut")
        return None
    assert done.exit_status == 0, done.stderr
    steps: list[str] = json.loads(done.stdout)
    return steps


def datasets(lab: Lab, parent: DatasetName) -> list[str]:
    """Return all that lies below a parent, snapshots too, sorted."""
    return sorted(lab.san.succeed(f"zfs list -Hr -t volume,snapshot -o name {parent}").split())


def holds(disks: Conversation, dataset: str) -> dict[str, str]:
    """Return what a zvol holds."""
    found: dict[str, str] = disks.ask("read", dataset=dataset)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("repeated", [True, False], ids=["asked again", "begun anew"])
def test_cut_at_every_step(lab: Lab, storage: RemoteStorage, disks: Conversation, *, repeated: bool) -> None:
    """Cut before each step, the volume is where it was or where it goes, and the next move ends it."""
    steps = None
    for step in range(30):
        made = create(storage, sparse=repeated)
        disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="here")
        steps = move(lab, made, step)
        here = [zvol for zvol in storage.list_zvols(PARENT) if zvol.name == made.name]
        there = [zvol for zvol in storage.list_zvols(FAST) if zvol.name == made.name]
        assert here or there
        for zvol in (*here, *there):
            assert holds(disks, f"{zvol.parent}/{zvol.name}") == {"3": checksum_of("here")}
        if repeated:
            assert move(lab, made, 999) is not None
        else:
            storage.move_zvol(PARENT, made.name, to=FAST, name=made.name, volume_id=made.volume_id)
        assert datasets(lab, PARENT) == []
        assert datasets(lab, FAST) == [f"{FAST}/{made.name}"]
        moved = storage.get_zvol(FAST, made.name)
        assert (moved.volume_id, moved.sparse) == (made.volume_id, made.sparse)
        assert holds(disks, f"{FAST}/{made.name}") == {"3": checksum_of("here")}
        storage.delete_zvol(FAST, made.name)
        if steps is not None:
            break
    assert steps is not None
    assert set(steps) >= STEPS, "it was cut around each of these"
    assert step == len(steps)


def filled(lab: Lab, storage: RemoteStorage) -> tuple[Zvol, str]:
    """Return a zvol of 64 MiB that is full, and its checksum."""
    made = create(storage, size=64 * MIB)
    device = f"/dev/zvol/{PARENT}/{made.name}"
    lab.san.succeed(f"udevadm settle && dd if=/dev/urandom of={device} bs=1M count=64 && sync")
    return made, checksum(lab, f"{PARENT}/{made.name}")


def checksum(lab: Lab, dataset: str, size_mib: int = 64) -> str:
    """Return the checksum of a zvol's beginning."""
    program = f"udevadm settle && head -c {size_mib}M /dev/zvol/{dataset} | sha256sum"
    return lab.san.succeed(program).split()[0]


def test_it_goes_on(lab: Lab, storage: RemoteStorage) -> None:
    """Cut in the middle of its stream, the same operation sends the rest to the same zvol."""
    made, before = filled(lab, storage)
    assert move(lab, made, "sending") is None
    arriving = f"{FAST}/{arriving_name(made.name)}"
    guid, used = lab.san.succeed(f"zfs get -Hpo value guid,used {arriving}").split()
    assert int(used) > MIB
    assert storage.get_zvol(PARENT, made.name) == made
    assert move(lab, made, 999) is not None
    assert lab.san.succeed(f"zfs get -Hpo value guid {FAST}/{made.name}").strip() == guid
    assert checksum(lab, f"{FAST}/{made.name}") == before
    storage.delete_zvol(FAST, made.name)
    assert datasets(lab, PARENT) == datasets(lab, FAST) == []


def test_it_takes_longer_than_its_deadline(lab: Lab, storage: RemoteStorage) -> None:
    """A deadline that passes while the data go is that for the beginning: the end has its time."""
    made = create(storage)
    assert move(lab, made, "late") is not None
    assert storage.get_zvol(FAST, made.name).volume_id == made.volume_id
    storage.delete_zvol(FAST, made.name)
    assert datasets(lab, PARENT) == datasets(lab, FAST) == []


def test_another_begins_anew(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """What was written since the cut goes along where another operation moves it."""
    made, _ = filled(lab, storage)
    assert move(lab, made, "sending") is None
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="since")
    before = checksum(lab, f"{PARENT}/{made.name}")
    storage.move_zvol(PARENT, made.name, to=FAST, name=made.name, volume_id=made.volume_id)
    assert checksum(lab, f"{FAST}/{made.name}") == before
    storage.delete_zvol(FAST, made.name)
    assert datasets(lab, PARENT) == datasets(lab, FAST) == []


def test_written_to_meanwhile(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """A copy of what was written to since the cut is not taken for the volume by who goes on with it."""
    made, _ = filled(lab, storage)
    assert move(lab, made, "sending") is None
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="since")
    with pytest.raises(AssertionError, match="was written to while it was copied"):
        move(lab, made, 999)
    assert storage.get_zvol(PARENT, made.name) == made
    assert datasets(lab, FAST) == []
    assert datasets(lab, PARENT) == [f"{PARENT}/{made.name}"]
    storage.delete_zvol(PARENT, made.name)


def test_written_behind_a_newer_snapshot(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """What was written since is seen, although a snapshot was taken behind it."""
    made, _ = filled(lab, storage)
    assert move(lab, made, "sending") is None
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="since")
    cloned = clone(storage, made, None, size=64 * MIB)
    with pytest.raises(AssertionError, match="was written to while it was copied"):
        move(lab, made, 999)
    assert storage.get_zvol(PARENT, made.name) == made
    assert datasets(lab, FAST) == []
    storage.delete_zvol(PARENT, cloned.name)
    storage.delete_zvol(PARENT, made.name)
    assert datasets(lab, PARENT) == []


def test_written_behind_a_whole_copy(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """A copy that has the volume's name already is not believed where the volume was written to since."""
    made = create(storage)
    steps = move(lab, made, 999)
    assert steps is not None
    # The zvol is put back as if it had been cut right before its end.
    arrived = len(steps) - 1 - steps[::-1].index("destroy")
    storage.delete_zvol(FAST, made.name)
    made = create(storage)
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="before")
    assert move(lab, made, arrived) is None
    assert datasets(lab, FAST) == [f"{FAST}/{made.name}"]
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=3, text="since")
    assert move(lab, made, 999) is not None
    assert holds(disks, f"{FAST}/{made.name}") == {"3": checksum_of("since")}
    storage.delete_zvol(FAST, made.name)
    assert datasets(lab, PARENT) == datasets(lab, FAST) == []


def test_what_is_left_of_a_volume_that_has_gone(lab: Lab, storage: RemoteStorage) -> None:
    """A part of a copy goes with the figures once its volume was deleted, and not before."""
    made, _ = filled(lab, storage)
    assert move(lab, made, "sending") is None
    for deleted in (False, True):
        if deleted:
            storage.delete_zvol(PARENT, made.name)
        lab.san.succeed("rm -rf /run/zolder/index")
        storage.get_figures(FAST)
        left = [] if deleted else [f"{FAST}/{arriving_name(made.name)}"]
        assert datasets(lab, FAST) == left
    assert datasets(lab, PARENT) == []


def test_a_clone_of_it_stays(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """What a clone needs of a zvol that moved stays until the clone goes, and the space comes back then."""
    made = create(storage)
    disks.ask("write", dataset=f"{PARENT}/{made.name}", number=1, text="both")
    cloned = clone(storage, made, None)
    storage.move_zvol(PARENT, made.name, to=FAST, name=made.name, volume_id=made.volume_id)
    for dataset in (f"{FAST}/{made.name}", f"{PARENT}/{cloned.name}"):
        assert holds(disks, dataset) == {"1": checksum_of("both")}
    storage.delete_zvol(PARENT, cloned.name)
    storage.delete_zvol(FAST, made.name)
    assert datasets(lab, PARENT) == datasets(lab, FAST) == []


def test_the_last_clone_goes_elsewhere(lab: Lab, storage: RemoteStorage) -> None:
    """A volume that was put aside goes with its last clone, in whatever parent of the zpool that is."""
    more = PARENTS[1]
    made = create(storage)
    storage.create_snapshot(PARENT, made.name, SNAPSHOT)
    cloned = clone(storage, made, SNAPSHOT)
    storage.delete_snapshot(PARENT, made.name, SNAPSHOT)
    storage.delete_zvol(PARENT, made.name)
    storage.move_zvol(PARENT, cloned.name, to=more, name=cloned.name, volume_id=cloned.volume_id)
    assert len(storage.list_put_aside(PARENT)) == 1
    storage.delete_zvol(more, cloned.name)
    assert datasets(lab, PARENT) == datasets(lab, more) == []


def test_what_a_stranger_left_there(lab: Lab, storage: RemoteStorage) -> None:
    """What has the name of the agent's own copy and is none is left alone, and the volume stays."""
    made = create(storage)
    stranger = f"{FAST}/{arriving_name(made.name)}"
    lab.san.succeed(f"zfs create -s -V {SIZE} {stranger}")
    with pytest.raises(AssertionError, match="bears no mark of Zolder"):
        move(lab, made, 999)
    assert storage.get_zvol(PARENT, made.name) == made
    assert datasets(lab, FAST) == [stranger]
    lab.san.succeed(f"zfs destroy {stranger}")
    storage.delete_zvol(PARENT, made.name)


def test_figures(lab: Lab, storage: RemoteStorage, note: Callable[[str], None]) -> None:
    """A copy of 64 MiB costs what is allocated, whatever the volume's size, and a rename nothing."""
    made, before = filled(lab, storage)
    storage.grow_zvol(PARENT, made.name, volsize_bytes=2**40)
    seconds = []
    for here, there in ((PARENT, PARENTS[1]), (PARENTS[1], FAST)):
        began = time.monotonic()
        storage.move_zvol(here, made.name, to=there, name=made.name, volume_id=made.volume_id)
        seconds.append(time.monotonic() - began)
    assert checksum(lab, f"{FAST}/{made.name}", 64) == before
    used = int(lab.san.succeed(f"zfs get -Hpo value used {FAST}/{made.name}"))
    assert 64 * MIB <= used < 70 * MIB
    note(f"of 1 TiB with 64 MiB in it: renamed in {seconds[0]:.2f} s, copied in {seconds[1]:.2f} s")
    storage.delete_zvol(FAST, made.name)
