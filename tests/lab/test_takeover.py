"""Another SAN takes the zpool over: the first is dead, its disks and its addresses move to the second.

The second SAN exists in this test alone. Cinder, os-brick, CHAP on both kinds of iSCSI, and NVMe/TCP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.backends import EACH_EXPORTER
from lab.cinder import Cinder
from lab.conversation import Conversation
from lab.demo import INITIATOR, INITIATOR_COMMAND
from lab.second import second_san, take_links
from tests.support.disks import ask_identity
from tests.support.exported import wait_for_blocks
from zolder.names import LIO, NVMET, TGT

if TYPE_CHECKING:
    from lab import Lab, Machine
    from lab.volumes import Volumes

INSIDE = Path(__file__).parents[2] / "lab/inside"
SECRETS = "/var/lib/zolder-helper/secrets"
PATIENCE = "for s in /sys/class/iscsi_session/session*; do echo 3600 > $s/recovery_tmo; done"


@pytest.fixture
def volumes(lab: Lab) -> Iterator[Volumes]:
    """Cinder with a back end for each exporter, on a pristine SAN, which is pristine again afterwards."""
    lab.reset()
    cinder = Cinder(lab, EACH_EXPORTER)
    cinder.up(fresh=True)
    yield cinder.volumes()
    cinder.down()
    lab.reset()


@pytest.mark.timeout(1800)  # a cold boot under emulation, on a machine that may be busy
def test_another_san_takes_over(lab: Lab, volumes: Volumes, note: Callable[[str], None]) -> None:
    """Attached initiators go on without an I/O error, on the same disks; Cinder sends the secrets again."""
    with ExitStack() as stack:
        brick = stack.enter_context(closing(Conversation(lab.compute, [INITIATOR], INITIATOR_COMMAND)))
        connector = brick.ask("properties")
        attached, writers = {}, {}
        for exporter in (LIO, TGT, NVMET):
            volume = volumes.create(1, backend=exporter)
            attachment, connection = volumes.attach(volume, connector)
            device = brick.ask("connect", connection=connection)
            volumes.complete(attachment)
            attached[exporter] = (volume, attachment, connection, device)
            writer = Conversation(lab.compute, [INSIDE / "writer.py"], "python3 -S writer.py")
            writers[exporter] = stack.enter_context(closing(writer))
            writer.ask("start", device=device)
        names = {device: ask_identity(lab.compute, device) for *_, device in attached.values()}
        assert all(names.values())
        lab.compute.succeed(PATIENCE)
        for writer in writers.values():
            wait_for_blocks(lab, writer, 8)
        lab.san.power_off_hard()
        began = time.monotonic()
        second = stack.enter_context(second_san(lab))
        import_the_zpool(second)
        assert second.run(["ls", SECRETS]).stdout.split() == []
        # Nobody meets a portal whose target is not there yet, from the first packet on.
        second.succeed("zolder-san restore --pool data --shut-only")
        take_links(second)
        # Of this zpool: the first's other one has stayed behind.
        said = second.succeed("zolder-san restore --pool data 2>&1", timeout_seconds=600)
        restored = time.monotonic() - began
        pauses = {}
        for exporter, writer in writers.items():
            wait_for_blocks(lab, writer, 8)
            after = writer.ask("stop")
            assert not after["error"], f"{exporter}: {after['error']}"
            assert writer.ask("count_wrong") == 0, exporter
            pauses[str(exporter)] = after["longest_seconds"]
        note(f"restored {restored:.1f} s after the first was dead; the longest write took {pauses} s")
        note(said.strip().replace("\n", " | "))
        assert {device: ask_identity(lab.compute, device) for device in names} == names
        # The life goes on: what was attached at the first is detached and deleted at the second.
        for volume, attachment, connection, device in attached.values():
            brick.ask("disconnect", connection=connection, device=device)
            volumes.detach(attachment)
            volumes.wait(volume, "available")
            volumes.delete(volume)
        assert second.succeed("zfs list -Hro name data/volumes").split() == ["data/volumes"]


def import_the_zpool(second: Machine) -> None:
    """Import as the administrator who knows that the first machine is dead: nobody else may force it."""
    refused = second.fail(["zpool", "import", "data"])
    assert "previously in use from another system" in refused
    second.succeed(["zpool", "import", "-f", "data"], timeout_seconds=300)
