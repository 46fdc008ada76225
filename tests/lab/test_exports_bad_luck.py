"""Exports when something beside them fails: an address is missing, a port is taken, a daemon hangs.

What a test breaks it mends again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.ground import PARENT, PREFIX
from tests.support.exported import (
    ADDRESS,
    SECOND_ADDRESS,
    SIZE,
    Volume,
    make_volume,
    new_attachment,
    portal_of,
    secret_for,
    wait_for_blocks,
)
from tests.support.reach import Reach
from zolder.errors import BackendError, Busy, Error
from zolder.model import Route
from zolder.names import LIO, NVMET, TGT, Portal

if TYPE_CHECKING:
    from lab import Lab
    from lab.conversation import Conversation
    from zolder.client.remote import RemoteStorage

BOTH = (ADDRESS, SECOND_ADDRESS)

# Takes all targets of ours away, as a boot does.
LOSE = """
import sys
sys.path.insert(0, "/usr/local/lib/zolder")
from zolder.names import DatasetName, TargetPrefix, ZvolName
from zolder.san.exporter import Subject
from zolder.san.exports import EXPORTERS
subject = Subject(DatasetName(sys.argv[1]), ZvolName(sys.argv[2]), TargetPrefix("iqn.2010-10.org.openstack:"))
EXPORTERS[sys.argv[3]]().remove_export(subject)
"""


def lose(lab: Lab, volume: Volume) -> None:
    """Have a volume's targets gone, and its record not."""
    lab.san.succeed(["python3", "-", str(PARENT), str(volume.name), str(volume.exporter)], input=LOSE)
    assert volume.standing() == []


def portals(storage: RemoteStorage, volume: Volume) -> tuple[Portal, ...]:
    """Return where a volume is reached, as the kernel or the daemon has it now."""
    return tuple(
        sorted({p for e in storage.list_exports(PARENT) if e.zvol == volume.name for p in e.portals})
    )


@contextmanager
def without_an_address(lab: Lab) -> Iterator[None]:
    """Have the SAN be without its second address, as behind a link that came up without one."""
    lab.san.succeed(["ip", "address", "del", f"{SECOND_ADDRESS}/24", "dev", "eth2"])
    try:
        yield
    finally:
        lab.san.succeed(["ip", "address", "replace", f"{SECOND_ADDRESS}/24", "dev", "eth2"])


@pytest.mark.parametrize("exporter", [NVMET], indirect=True, ids=str)
def test_an_address_that_is_missing_takes_no_other_path_along(
    lab: Lab, storage: RemoteStorage, volume: Volume, compute: Reach, second: Reach
) -> None:
    """A restore builds on the paths that are there and names the other; done again it completes them."""
    opened = volume.open(compute, addresses=BOTH)
    both = tuple(sorted(portal_of(volume.exporter, address) for address in BOTH))
    assert portals(storage, volume) == both
    lose(lab, volume)
    with without_an_address(lab):
        said = lab.san.run(["zolder-san", "restore", "--json"])
        [fault] = {fault for parent in json.loads(said.stdout)["parents"] for fault in parent["faults"]}
        assert said.exit_status == 1
        assert (
            f"{portal_of(volume.exporter, SECOND_ADDRESS)}: this machine does not have that address" in fault
        )
        assert portals(storage, volume) == (portal_of(volume.exporter),)
        volume.use(compute, opened)
        # By root's confined helper: a new attachment would be told of a path that is none.
        with pytest.raises(BackendError, match="does not have that address"):
            volume.open(second, addresses=BOTH)
        assert volume.standing() == [compute.name]
    lab.san.succeed("zolder-san restore")
    assert portals(storage, volume) == both
    assert compute.is_logged_in(opened)


@pytest.mark.parametrize("exporter", [LIO], indirect=True, ids=str)
def test_lio_listens_before_an_address_is_there(
    lab: Lab, storage: RemoteStorage, volume: Volume, compute: Reach
) -> None:
    """Restored and attached without it, a target is reached there as soon as the address is."""
    both = tuple(sorted(portal_of(volume.exporter, address) for address in BOTH))
    with without_an_address(lab):
        opened = volume.open(compute, addresses=BOTH)
        lose(lab, volume)
        lab.san.succeed("zolder-san restore")
        assert portals(storage, volume) == both
    late = portal_of(volume.exporter, SECOND_ADDRESS)
    assert compute.log_in(opened, secret_for(volume, compute.name), portal=late)


@pytest.mark.parametrize("exporter", [LIO, TGT], indirect=True, ids=str)
def test_a_port_that_another_holds_is_told(storage: RemoteStorage, volume: Volume, compute: Reach) -> None:
    """LIO and tgtd never share a port: the error says that another holds it, and nothing is left."""
    other = make_volume(storage, TGT if volume.exporter == LIO else LIO)
    other.open(compute)
    taken = portal_of(other.exporter)
    with pytest.raises(BackendError, match=f"cannot listen at {taken}: another program"):
        storage.export_zvol(
            PARENT,
            volume.name,
            compute.name,
            route=Route(volume.exporter, PREFIX, (taken,)),
            attachment=new_attachment(),
            chap=None,
        )
    assert volume.standing() == []
    assert other.standing() == [compute.name]
    other.remove()


@contextmanager
def hanging_tgtd(lab: Lab) -> Iterator[None]:
    """Have tgtd answer nothing."""
    lab.san.succeed("pkill -STOP -x tgtd")
    try:
        yield
    finally:
        lab.san.succeed("pkill -CONT -x tgtd")


@pytest.mark.parametrize("exporter", [LIO, NVMET], indirect=True, ids=str)
def test_a_daemon_that_hangs_keeps_no_other_export_open(
    lab: Lab, storage: RemoteStorage, volume: Volume, compute: Reach
) -> None:
    """Withdrawn from all while tgtd hangs, a volume of another exporter is shut, and tgtd is named."""
    opened = volume.open(compute)
    volume.use(compute, opened)
    with hanging_tgtd(lab):
        with pytest.raises(Error, match="tgt"):
            volume.close(None)
        lab.compute.wait_until(lambda: not compute.is_logged_in(opened), 60, "the session to end")
        assert storage.delete_zvol(PARENT, volume.name).changed
    assert volume.standing() == []


@contextmanager
def claimed(lab: Lab, volume: Volume) -> Iterator[None]:
    """Have a program on the SAN hold a volume's device for itself alone."""
    hold = f"import os, time; os.open('/dev/zvol/{volume.dataset}', os.O_RDONLY | os.O_EXCL); time.sleep(77)"
    lab.san.succeed(f'setsid python3 -I -S -c "{hold}" > /dev/null 2>&1 < /dev/null &')
    lab.san.wait_until("ls -l /proc/$(pgrep -f 'time.sleep.77[)]')/fd | grep -q /dev/zd", 30, "the claim")
    try:
        yield
    finally:
        lab.san.succeed("pkill -f 'time.sleep.77[)]'")


@pytest.mark.parametrize("exporter", [TGT], indirect=True, ids=str)
def test_growth_that_is_refused_cuts_nobody(
    lab: Lab, volume: Volume, compute: Reach, writer: Conversation
) -> None:
    """While a program on the SAN has claimed the device, tgtd is not asked for it anew, and writers go on."""
    writer.ask("start", device=volume.use(compute, volume.open(compute)))
    wait_for_blocks(lab, writer, 8)
    with claimed(lab, volume), pytest.raises(Busy, match="claimed"):
        volume.storage.grow_zvol(PARENT, volume.name, volsize_bytes=2 * SIZE)
    wait_for_blocks(lab, writer, 8)
    after = writer.ask("stop")
    assert not after["error"]
    assert after["longest_seconds"] < 5, "its sessions were cut"
    assert writer.ask("count_wrong") == 0
