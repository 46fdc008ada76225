"""Deleting what copies still need, on real ZFS: their data stay, and the space comes back with the last."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.ground import MIB, PARENT
from tests.contract.test_storage import SNAPSHOT, clone, create
from tests.support.san import connected
from zolder.errors import Busy
from zolder.model import Zvol

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
SIZE: Final = 64 * MIB
WRITTEN: Final = 24 * MIB
# What the zpool's own records may differ by.
SLACK: Final = 2 * MIB


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """A SAN that nobody has used."""
    lab.reset()
    with connected(lab, channels=1) as found:
        found.get_figures(PARENT)
        yield found


def write(lab: Lab, zvol: Zvol) -> str:
    """Write random data to the begin of a zvol and return the checksum of all of it."""
    device = f"/dev/zvol/{PARENT}/{zvol.name}"
    lab.san.succeed(
        f"set -e; udevadm settle; dd if=/dev/urandom of={device} bs=1M count={WRITTEN // MIB} oflag=direct"
    )
    return checksum(lab, zvol)


def checksum(lab: Lab, zvol: Zvol) -> str:
    """Return the checksum of all of a zvol."""
    return lab.san.succeed(f"set -e; udevadm settle; sha256sum < /dev/zvol/{PARENT}/{zvol.name}").split()[0]


def used(lab: Lab) -> int:
    """Return what the parent takes, once ZFS has freed what is to be freed."""
    zpool = PARENT.zpool
    return int(
        lab.san.succeed(f"set -e; zpool sync {zpool}; zpool wait -t free {zpool}; zpool sync {zpool};"
                        f" zfs get -Hpo value used {PARENT}")
    )  # fmt: skip


def test_space_comes_back_with_the_last_clone(lab: Lab, storage: RemoteStorage) -> None:
    """A source's newest data go at once, what its clone needs stays, and all of it goes with the clone."""
    before = used(lab)
    source = create(storage, size=SIZE)
    first = write(lab, source)
    once = used(lab) - before
    assert once >= WRITTEN
    storage.create_snapshot(PARENT, source.name, SNAPSHOT)
    copy = clone(storage, source, SNAPSHOT, size=SIZE)
    write(lab, source)
    assert used(lab) - before > 2 * once - SLACK
    storage.delete_snapshot(PARENT, source.name, SNAPSHOT)
    storage.delete_zvol(PARENT, source.name)
    assert abs(used(lab) - before - once) < SLACK
    (kept,) = storage.list_put_aside(PARENT)
    assert kept.holders == (f"{PARENT}/{copy.name}",)
    assert abs(kept.used_bytes - once) < SLACK
    assert checksum(lab, copy) == first
    storage.delete_zvol(PARENT, copy.name)
    assert storage.list_put_aside(PARENT) == ()
    assert abs(used(lab) - before) < SLACK


def test_a_chain_that_is_deleted_from_its_beginning(lab: Lab, storage: RemoteStorage) -> None:
    """Copies of copies keep their data while everything before them is deleted, and leave nothing."""
    before = used(lab)
    chain = [create(storage, size=SIZE)]
    sums = [write(lab, chain[0])]
    for _ in range(3):
        chain.append(clone(storage, chain[-1], None, size=SIZE))
        sums.append(write(lab, chain[-1]))
    for position, zvol in enumerate(chain[:-1]):
        storage.delete_zvol(PARENT, zvol.name)
        assert [checksum(lab, later) for later in chain[position + 1 :]] == sums[position + 1 :]
    assert len(storage.list_put_aside(PARENT)) == 3
    storage.delete_zvol(PARENT, chain[-1].name)
    assert storage.list_put_aside(PARENT) == ()
    assert abs(used(lab) - before) < SLACK


def test_a_client_that_goes_away(lab: Lab, storage: RemoteStorage) -> None:
    """What was kept for a clone goes with it although nobody waits for that any more, or asks again."""
    lab.san.write_file("/run/zolder-lab/cut.py", (INSIDE / "cut.py").read_bytes())
    source = create(storage, size=SIZE)
    copy = clone(storage, source, None, size=SIZE)
    storage.delete_zvol(PARENT, source.name)
    asked = shlex.quote(json.dumps({"parent": PARENT, "zvol": copy.name}))
    lab.san.succeed(f"runuser -u zolder -- python3 -I -S /run/zolder-lab/cut.py delete_zvol unheard {asked}")
    assert lab.san.succeed(f"zfs list -Hr -d 1 -t all -o name {PARENT}").split() == [PARENT]


def test_who_holds_the_device(lab: Lab, storage: RemoteStorage) -> None:
    """A source that a process on the SAN has open is left as it is, and the process is named."""
    source = create(storage, size=SIZE)
    copy = clone(storage, source, None, size=SIZE)
    lab.san.succeed(
        f"set -e; udevadm settle; (exec 3</dev/zvol/{PARENT}/{source.name}; exec sleep 300) >/dev/null 2>&1 &"
        " echo $! >/tmp/holder; until ls -l /proc/$(cat /tmp/holder)/fd/3 >/dev/null 2>&1; do :; done"
    )
    try:
        with pytest.raises(Busy, match="sleep"):
            storage.delete_zvol(PARENT, source.name)
        assert storage.get_zvol(PARENT, source.name) == source
    finally:
        lab.san.succeed("kill $(cat /tmp/holder)")
    storage.delete_zvol(PARENT, source.name)
    storage.delete_zvol(PARENT, copy.name)
    assert storage.list_put_aside(PARENT) == ()


def test_a_hold_of_somebody_elses(lab: Lab, storage: RemoteStorage) -> None:
    """A deleted snapshot that an administrator holds keeps its volume until the figures after that."""
    source = create(storage, size=SIZE)
    storage.create_snapshot(PARENT, source.name, SNAPSHOT)
    lab.san.succeed(f"zfs hold mine {PARENT}/{source.name}@{SNAPSHOT}")
    storage.delete_snapshot(PARENT, source.name, SNAPSHOT)
    storage.delete_zvol(PARENT, source.name)
    (kept,) = storage.list_put_aside(PARENT)
    assert kept.holders == (f"{PARENT}/{kept.name}@{SNAPSHOT}",)
    lab.san.succeed(f"set -e; zfs release mine {PARENT}/{kept.name}@{SNAPSHOT}; rm -r /run/zolder/index")
    storage.get_figures(PARENT)
    assert storage.list_put_aside(PARENT) == ()
