"""Adopting what an administrator made on real ZFS: what is cut short, what is in use, what is as it was."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.ground import LET_ADOPT, MIB, PARENT
from tests.support.san import connected
from zolder.client.remote import RemoteStorage
from zolder.errors import BackendError, Busy, InvalidRequest, NotPermitted
from zolder.model import Change, Zvol
from zolder.names import SnapshotName, VolumeId, ZvolName
from zolder.san.delegation import USER

if TYPE_CHECKING:
    from lab import Lab

SIZE: Final = 24 * MIB
LARGER: Final = 32 * MIB
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """A pristine SAN whose policy lets the identity adopt; the first test sees it without."""
    lab.reset()
    with connected(lab) as found:
        yield found


@pytest.fixture
def allowed(lab: Lab) -> None:
    """Let the identity adopt below the first parent."""
    lab.san.succeed(f"grep -q adopt_from /etc/zolder/san.toml || {LET_ADOPT}")


def by_hand(lab: Lab, name: str = "", *, options: str = "-s") -> str:
    """Make a zvol as an administrator does, with random data in it, and return its leaf."""
    leaf = name or f"old-disk-{next(_numbers)}"
    node = f"/dev/zvol/{PARENT}/{leaf}"
    lab.san.succeed(f"zfs create {options} -V {SIZE} {PARENT}/{leaf}")
    lab.san.wait_until(f"test -e {node}", 20, node)
    lab.san.succeed(f"dd if=/dev/urandom of={node} bs=1M count=8 oflag=direct conv=fsync status=none")
    return leaf


def checksum(lab: Lab, leaf: str) -> str:
    """Return the checksum of a zvol's first 24 MiB."""
    node = f"/dev/zvol/{PARENT}/{leaf}"
    lab.san.wait_until(f"test -e {node}", 20, node)
    return lab.san.succeed(f"head -c {SIZE} {node} | sha256sum").split()[0]


def adopt(storage: RemoteStorage, source: str, *, size: int = LARGER, as_id: str = "") -> Change[Zvol]:
    """Adopt a zvol as Cinder's driver does."""
    volume_id = VolumeId(as_id or str(uuid.uuid4()))
    return storage.adopt_zvol(
        PARENT,
        ZvolName(source),
        ZvolName(f"volume-{volume_id}"),
        volume_id=volume_id,
        former=None,
        volsize_bytes=size,
    )


def test_not_without_the_policys_word(lab: Lab, storage: RemoteStorage) -> None:
    """What an administrator made is found by any key of the parent and adopted by none that may not."""
    leaf = by_hand(lab)
    found = storage.find_zvol(PARENT, ZvolName(leaf))
    assert found is not None
    assert found.obstacle is None
    with pytest.raises(
        NotPermitted, match=f"place to adopt from {PARENT} is not among those of identity lab"
    ):
        adopt(storage, leaf)
    assert lab.san.succeed(f"zfs get -Ho value zolder:volume {PARENT}/{leaf}").strip() == "-"


@pytest.mark.usefixtures("allowed")
class TestAllowed:
    """With the policy's word."""

    @pytest.mark.parametrize("options", ["-s", ""], ids=["sparse", "thick"])
    def test_contents(self, lab: Lab, storage: RemoteStorage, options: str) -> None:
        """The data is the same when adopted, when given back and when adopted again; the size grows once."""
        leaf = by_hand(lab, options=options)
        before = checksum(lab, leaf)
        adopted = adopt(storage, leaf).value
        assert (adopted.volsize_bytes, adopted.sparse) == (LARGER, options == "-s")
        assert storage.get_zvol(PARENT, adopted.name) == adopted
        assert checksum(lab, adopted.name) == before
        storage.release_zvol(PARENT, adopted.name)
        marks = lab.san.succeed(f"zfs get -Ho property,value -s local all {PARENT}/{adopted.name}")
        assert "zolder" not in marks
        again = adopt(storage, adopted.name).value
        assert checksum(lab, again.name) == before

    @pytest.mark.parametrize("grown", [False, True])
    def test_cut_before_the_mark(self, lab: Lab, storage: RemoteStorage, *, grown: bool) -> None:
        """What is renamed, or grown too, and not marked is no volume; the same request finishes it."""
        leaf, volume_id = by_hand(lab), str(uuid.uuid4())
        before = checksum(lab, leaf)
        half = ZvolName(f"volume-{volume_id}")
        lab.san.succeed(f"zfs rename {PARENT}/{leaf} {PARENT}/{half}")
        if grown:
            lab.san.succeed(f"zfs set volsize={LARGER} {PARENT}/{half}")
        with pytest.raises(NotPermitted):
            storage.delete_zvol(PARENT, half)
        assert half not in {zvol.name for zvol in storage.list_zvols(PARENT)}
        done = adopt(storage, leaf, as_id=volume_id)
        assert done.changed
        assert not adopt(storage, leaf, as_id=volume_id).changed
        assert storage.get_zvol(PARENT, half).volsize_bytes == LARGER
        assert checksum(lab, half) == before

    def test_what_fails_is_named_as_before(self, lab: Lab, storage: RemoteStorage) -> None:
        """Where ZFS refuses the mark, the name is the old one and nothing counts."""
        leaf = by_hand(lab)
        before = storage.get_figures(PARENT)
        lab.san.succeed(f"zfs unallow -d -u {USER} userprop {PARENT}")
        try:
            with pytest.raises(BackendError):
                adopt(storage, leaf)
        finally:
            lab.san.succeed(f"zfs allow -d -u {USER} userprop {PARENT}")
        assert storage.find_zvol(PARENT, ZvolName(leaf)) is not None
        assert storage.get_figures(PARENT).zvol_count == before.zvol_count
        assert adopt(storage, leaf).changed

    def test_what_a_process_holds(self, lab: Lab, storage: RemoteStorage) -> None:
        """A zvol that somebody has open is not adopted, and who has it is named, in the list too."""
        leaf = by_hand(lab)
        lab.san.succeed(
            f"setsid tail -f /dev/null 3< /dev/zvol/{PARENT}/{leaf} > /dev/null 2>&1 < /dev/null &"
            " echo $! > /run/holder.pid"
        )
        try:
            with pytest.raises(Busy, match=r"in use: it is held by process \d+ \(tail\)"):
                adopt(storage, leaf)
            [found] = [one for one in storage.list_found_zvols(PARENT) if one.name == leaf]
            assert "(tail)" in str(found.obstacle)
        finally:
            lab.san.succeed("kill $(cat /run/holder.pid)")
        lab.san.wait_until("! kill -0 $(cat /run/holder.pid) 2> /dev/null", 20, "the holder's end")
        assert adopt(storage, leaf).changed

    def test_what_would_be_parsed(self, lab: Lab, storage: RemoteStorage) -> None:
        """One whose own volmode shows a guest's partitions to this SAN is refused until that is set."""
        leaf = by_hand(lab, options="-s -o volmode=full")
        with pytest.raises(InvalidRequest, match=f"'zfs set volmode=dev {PARENT}/{leaf}' first"):
            adopt(storage, leaf)
        lab.san.succeed(f"zfs set volmode=dev {PARENT}/{leaf}")
        assert adopt(storage, leaf).changed

    def test_names_that_no_request_carries(self, lab: Lab, storage: RemoteStorage) -> None:
        """They are in the lists with what to do about it."""
        leaf = by_hand(lab, "Old_Disk")
        [found] = [one for one in storage.list_found_zvols(PARENT) if one.name == leaf]
        assert f"'zfs rename {PARENT}/{leaf}' to such a name first" in str(found.obstacle)
        adopted = adopt(storage, by_hand(lab)).value
        lab.san.succeed(f"zfs snapshot {PARENT}/{adopted.name}@autosnap_00:00:01")
        [snapshot] = storage.list_found_snapshots(PARENT, adopted.name)
        assert (snapshot.name, snapshot.volsize_bytes) == ("autosnap_00:00:01", LARGER)
        assert "to such a name first" in str(snapshot.obstacle)

    def test_a_snapshots_contents(self, lab: Lab, storage: RemoteStorage) -> None:
        """An adopted snapshot has what it had, whatever was written since, and can be cloned."""
        leaf = by_hand(lab)
        before = checksum(lab, leaf)
        lab.san.succeed(f"zfs snapshot {PARENT}/{leaf}@before")
        adopted = adopt(storage, leaf).value
        lab.san.succeed(
            f"dd if=/dev/urandom of=/dev/zvol/{PARENT}/{adopted.name} bs=1M count=8 oflag=direct status=none"
        )
        snapshot = SnapshotName("snapshot-adopted")
        assert storage.adopt_snapshot(PARENT, adopted.name, SnapshotName("before"), snapshot).changed
        clone = ZvolName(f"volume-{uuid.uuid4()}")
        storage.clone_zvol(
            PARENT,
            adopted.name,
            snapshot,
            clone,
            volume_id=VolumeId(str(uuid.uuid4())),
            volsize_bytes=LARGER,
            sparse=True,
        )
        assert checksum(lab, clone) == before != checksum(lab, adopted.name)

    def test_what_is_no_zvol(self, lab: Lab, storage: RemoteStorage) -> None:
        """A file system is neither found nor adopted; a received copy's marks are not its own."""
        lab.san.succeed(f"zfs create -o mountpoint=none {PARENT}/files")
        assert "files" not in {one.name for one in storage.list_found_zvols(PARENT)}
        with pytest.raises(NotPermitted, match="is no zvol"):
            adopt(storage, "files")
        lab.san.succeed(
            f"zfs create -s -V {SIZE} -o zolder:volume={uuid.uuid4()} {PARENT}/sent"
            f" && zfs snapshot {PARENT}/sent@x"
            f" && zfs send -p {PARENT}/sent@x | zfs receive {PARENT}/received"
        )
        found = storage.find_zvol(PARENT, ZvolName("received"))
        assert found is not None
        assert (found.volume_id, found.obstacle) == (None, None)
        assert adopt(storage, "received").changed
