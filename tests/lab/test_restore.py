"""Exports outlive the SAN: its plug is pulled, its agent is killed, others restore what they once saved.

All three exporters at once where the SAN boots, one after the other elsewhere; the ids name them.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.conversation import Conversation
from lab.holdings import compare, dump_holdings
from tests.contract.ground import PARENT
from tests.support.disks import ask_identity
from tests.support.exported import (
    Volume,
    make_volume,
    new_attachment,
    secret_for,
    wait_for_blocks,
)
from tests.support.reach import Reach, compute_reach, second_reach
from zolder.client import remote
from zolder.errors import Error, TransportError
from zolder.names import LIO, NVMET, TGT, ExporterName

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

INSIDE = Path(__file__).parents[2] / "lab/inside"

# Longer than a boot under emulation takes; open-iscsi's own is 120 s, and the docs say what to set.
PATIENCE = "for s in /sys/class/iscsi_session/session*; do echo 3600 > $s/recovery_tmo; done"

# Not ours: a target of each kind with somebody let in, each as its own tool makes it.
FOREIGN = """set -e
truncate -s 32M /root/foreign-lio /root/foreign-tgt /root/foreign-nvme
targetcli set global auto_add_default_portal=false > /dev/null
targetcli /backstores/fileio create foreign /root/foreign-lio > /dev/null
targetcli /iscsi create iqn.2004-10.org.foreign:lio > /dev/null
targetcli /iscsi/iqn.2004-10.org.foreign:lio/tpg1/luns create /backstores/fileio/foreign > /dev/null
targetcli /iscsi/iqn.2004-10.org.foreign:lio/tpg1/portals create 192.168.77.1 3260 > /dev/null
targetcli /iscsi/iqn.2004-10.org.foreign:lio/tpg1/acls create iqn.2004-10.org.foreign:initiator > /dev/null
tgtadm --lld iscsi --op new --mode target --tid 7 -T iqn.2004-10.org.foreign:tgt
tgtadm --lld iscsi --op new --mode logicalunit --tid 7 --lun 1 -b /root/foreign-tgt
tgtadm --lld iscsi --op bind --mode target --tid 7 -Q iqn.2004-10.org.foreign:initiator
cd /sys/kernel/config/nvmet
mkdir hosts/nqn.2004-10.org.foreign:host subsystems/nqn.2004-10.org.foreign:nvme
cd subsystems/nqn.2004-10.org.foreign:nvme
mkdir namespaces/1
losetup /dev/loop7 /root/foreign-nvme
printf /dev/loop7 > namespaces/1/device_path
echo 1 > namespaces/1/enable
ln -s ../../hosts/nqn.2004-10.org.foreign:host allowed_hosts/
"""
REMOVE_FOREIGN = """
targetcli /iscsi delete iqn.2004-10.org.foreign:lio
targetcli /backstores/fileio delete foreign
tgtadm --lld iscsi --op delete --force --mode target --tid 7
cd /sys/kernel/config/nvmet/subsystems/nqn.2004-10.org.foreign:nvme
rm -f allowed_hosts/*
rmdir namespaces/1
rmdir /sys/kernel/config/nvmet/subsystems/nqn.2004-10.org.foreign:nvme
rmdir /sys/kernel/config/nvmet/hosts/nqn.2004-10.org.foreign:host
losetup -d /dev/loop7
rm -f /root/foreign-* /etc/rtslib-fb-target/saveconfig.json
true
"""


@pytest.fixture
def foreign(lab: Lab, storage: RemoteStorage) -> Iterator[None]:  # noqa: ARG001 - after the reset that it begins with
    """Targets of somebody else's beside ours."""
    lab.san.succeed(FOREIGN)
    yield
    lab.san.run(REMOVE_FOREIGN)


@pytest.fixture
def volumes(storage: RemoteStorage) -> Iterator[dict[ExporterName, Volume]]:
    """A zvol for each exporter."""
    made = {exporter: make_volume(storage, exporter) for exporter in (LIO, TGT, NVMET)}
    yield made
    for volume in made.values():
        volume.remove()


def restore(lab: Lab) -> str:
    """Run the administrator's command, and return what it said."""
    return lab.san.succeed(["zolder-san", "restore"], timeout_seconds=300)


def restore_without_waiting(lab: Lab) -> set[str]:
    """Run it and return those whose secrets are not there; nothing else may be amiss."""
    said = lab.san.run(["zolder-san", "restore", "--json", "--wait", "0"], timeout_seconds=300)
    report = json.loads(said.stdout)
    waiting = {initiator for parent in report["parents"] for _, initiator in parent["waiting"]}
    assert report["complete"] is not bool(waiting), report
    assert said.exit_status == bool(waiting)
    return waiting


def standing(volumes: dict[ExporterName, Volume]) -> dict[ExporterName, list[str]]:
    """Return who can reach each volume, as the kernel and the daemon have it now."""
    return {exporter: [str(name) for name in volume.standing()] for exporter, volume in volumes.items()}


@pytest.mark.timeout(1500)  # a cold boot under emulation, on a machine that may be busy
def test_a_pulled_plug(
    lab: Lab,
    volumes: dict[ExporterName, Volume],
    foreign: None,  # noqa: ARG001 - there it is
    note: Callable[[str], None],
) -> None:
    """The SAN dies while three machines' disks are written to; it boots, all go on, no byte is wrong.

    What was shut stays shut, though targetcli had saved it and restores it at boot; no disk is another's.
    """
    # What the lab itself installed is to be there after the plug was pulled; nothing of ours is made yet.
    lab.san.succeed("sync")
    with ExitStack() as stack:
        writers, names = {}, {}
        for exporter, volume in volumes.items():
            script = [INSIDE / "writer.py"]
            writer = stack.enter_context(closing(Conversation(lab.compute, script, "python3 -S writer.py")))
            initiator = compute_reach(lab, exporter)
            device = volume.use(initiator, volume.open(initiator, new_attachment()))
            names[device] = ask_identity(lab.compute, device)
            writer.ask("start", device=device)
            writers[exporter] = writer
        # Open when targetcli saves, and shut before the plug is pulled.
        stale = make_volume(volumes[LIO].storage, LIO)
        stack.callback(stale.remove)
        closed = stale.open(second_reach(lab, LIO))
        lab.san.succeed("targetcli saveconfig && sync")
        stale.close(None)
        lab.compute.succeed(PATIENCE)
        expected = standing(volumes)
        for writer in writers.values():
            wait_for_blocks(lab, writer, 8)
        lab.san.power_off_hard()
        began = time.monotonic()
        lab.san.boot()
        booted = time.monotonic() - began
        ends = "systemctl show -P ActiveState zolder-restore | grep -v activating"
        lab.san.wait_until(ends, 300, "the end of the restore at boot")
        lab.san.succeed("systemctl is-active zolder-restore || { journalctl -u zolder-restore >&2; false; }")
        pauses = {}
        for exporter, writer in writers.items():
            wait_for_blocks(lab, writer, 8)
            after = writer.ask("stop")
            assert not after["error"], f"{exporter}: {after['error']}"
            assert writer.ask("count_wrong") == 0, exporter
            pauses[str(exporter)] = after["longest_seconds"]
        note(f"booted after {booted:.1f} s; the longest write took {pauses} s")
        assert all(names.values())
        assert {device: ask_identity(lab.compute, device) for device in names} == names
        # The filter stood before the network did.
        shut, network = (
            int(lab.san.succeed(["systemctl", "show", "-P", when, unit]))
            for unit, when in (
                ("zolder-portals.service", "ExecMainExitTimestampMonotonic"),
                ("network-pre.target", "ActiveEnterTimestampMonotonic"),
            )
        )
        assert 0 < shut <= network
        assert standing(volumes) == expected
        assert stale.standing() == []
        assert not second_reach(lab, LIO).log_in(closed, secret_for(stale, second_reach(lab, LIO).name))
        assert "org.foreign:lio" in lab.san.succeed("ls /sys/kernel/config/target/iscsi")
        restored = dump_holdings(lab.san)
        restore(lab)
        assert compare(restored, dump_holdings(lab.san)) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mends", ["the same request", "restore"])
def test_a_killed_agent(
    lab: Lab,
    storage: RemoteStorage,
    volume: Volume,
    foreign: None,  # noqa: ARG001 - there it is
    compute: Reach,
    second: Reach,
    mends: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed in the middle of an export or a withdrawal, what it left is completed and nobody else cut."""
    volume.open(second)
    before = dump_holdings(lab.san)
    attachment = new_attachment()
    chance = random.Random(f"{volume.exporter}")  # noqa: S311 - which moment is met, repeatably
    met = 0
    for _ in range(4):
        for ask in (
            partial(volume.open, compute, attachment),
            partial(volume.close, compute, attachment),
        ):
            with monkeypatch.context() as once:
                # Or the client itself would ask again and mend what it left.
                once.setattr(remote, "_MAX_LOSSES", 1)
                met += kill_during(lab, ask, chance)
            if mends == "restore":
                waiting = restore_without_waiting(lab)
                assert waiting <= {compute.name}
                # What is on record is what stands; but for one whose secret ended with the agent.
                recorded = {
                    access.initiator
                    for access in storage.list_attachments(PARENT)
                    if access.zvol == volume.name
                }
                assert volume.standing() == sorted(recorded - waiting)
            ask()
        assert compare(before, dump_holdings(lab.san)) == []
    assert met, "no kill met a request under way"
    assert volume.standing() == [second.name]


def kill_during(lab: Lab, ask: Callable[[], object], chance: random.Random) -> bool:
    """Begin a request and kill root's half or the agent at some moment; say whether that disturbed it."""
    disturbed: list[Error] = []

    def attempt() -> None:
        try:
            ask()
        except Error as err:
            disturbed.append(err)

    thread = threading.Thread(target=attempt)
    thread.start()
    # Not a wait for something: the moment is what varies.
    time.sleep(chance.uniform(0, 0.4))
    lab.san.run("systemctl kill -s KILL zolder-helper.service; pkill -9 -f '[s]erve --identity lab'")
    thread.join()
    return bool(disturbed)


def without_numbers(holdings: list[str]) -> list[str]:
    """Return a dump without the numbers that the kernel's backstores count by."""
    return sorted(re.sub(r"^core/([a-z]+)_[0-9]+", r"core/\1", line) for line in holdings)


def test_what_targetcli_restores_beside_us(
    lab: Lab,
    volumes: dict[ExporterName, Volume],
    foreign: None,  # noqa: ARG001 - there it is
) -> None:
    """A save of before brings back what has been shut since; restore shuts it again and leaves the rest."""
    first, second = compute_reach(lab, LIO), second_reach(lab, LIO)
    volume = volumes[LIO]
    volume.open(first)
    lab.san.succeed("targetcli saveconfig /root/foreign-save.json")
    volume.close(first)
    volume.open(second)
    before = without_numbers(dump_holdings(lab.san))
    lab.san.succeed("targetcli restoreconfig /root/foreign-save.json clear_existing=true")
    assert volume.standing() == [first.name], "targetcli restored nothing that could do harm"
    restore(lab)
    assert volume.standing() == [second.name]
    assert compare(before, without_numbers(dump_holdings(lab.san))) == []


def test_restoring_twice_changes_nothing(
    lab: Lab,
    volumes: dict[ExporterName, Volume],
    foreign: None,  # noqa: ARG001 - there it is
) -> None:
    """Whoever is attached is not disturbed, nothing is made or lost, and it says so."""
    for exporter, volume in volumes.items():
        initiator = compute_reach(lab, exporter)
        volume.use(initiator, volume.open(initiator))
    before = dump_holdings(lab.san)
    restore(lab)
    said = json.loads(lab.san.succeed(["zolder-san", "restore", "--json"], timeout_seconds=300))
    assert said
    assert compare(before, dump_holdings(lab.san)) == []
    for volume in volumes.values():
        initiator, export = volume.users[0]
        assert initiator.is_logged_in(export)
        lab.compute.succeed(
            f"dd if=/dev/{initiator.disk(export)} of=/dev/null bs=4k count=1 iflag=direct status=none"
        )


def test_a_restarted_tgtd_has_its_targets_again(
    lab: Lab, volumes: dict[ExporterName, Volume], note: Callable[[str], None]
) -> None:
    """Tgtd forgets all when it ends; restore makes its targets again, and the initiator goes on."""
    volume, initiator = volumes[TGT], compute_reach(lab, TGT)
    with contextlib.closing(
        Conversation(lab.compute, [INSIDE / "writer.py"], "python3 -S writer.py")
    ) as writer:
        writer.ask("start", device=volume.use(initiator, volume.open(initiator)))
        wait_for_blocks(lab, writer, 8)
        lab.compute.succeed(PATIENCE)
        # Behind the filter, as at boot: a target that is not there yet is a final answer.
        lab.san.succeed("zolder-san restore --shut-only && systemctl restart tgt")
        restore(lab)
        wait_for_blocks(lab, writer, 8)
        after = writer.ask("stop")
        assert not after["error"]
        assert writer.ask("count_wrong") == 0
        note(f"the longest write took {after['longest_seconds']} s")


def test_a_dropped_line_is_no_excuse(lab: Lab, volume: Volume, compute: Reach) -> None:
    """The agent dies behind a withdrawal that was asked for: asked again, it is shut, its session ended."""
    opened = volume.open(compute)
    volume.use(compute, opened)
    with contextlib.suppress(TransportError):
        kill_during(lab, partial(volume.close, compute), random.Random(1))  # noqa: S311 - a moment, repeatably
    assert volume.close(compute) == ()
    assert volume.standing() == []
    compute.machine.wait_until(lambda: not compute.is_logged_in(opened), 60, "the session to end")
