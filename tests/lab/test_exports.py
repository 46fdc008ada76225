"""Every kind of export, one body over three exporters: who gets in, and who does not any more.

Each test's id names the exporter that it ran on. Real initiators log in: open-iscsi and nvme-cli.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.conversation import Conversation
from tests.contract.ground import MIB, PARENT, PREFIX
from tests.support.exported import (
    ADDRESS6,
    Volume,
    dhchap_key,
    make_volume,
    new_attachment,
    portal_of,
    route_of,
    secret_at,
    secret_for,
    wait_for_blocks,
)
from tests.support.reach import Reach, compute_reach
from zolder.errors import Busy
from zolder.model import Chap
from zolder.names import LIO, NVMET, TGT, SnapshotName, VolumeId, ZvolName, target_name, view_name

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

INSIDE = Path(__file__).parents[2] / "lab/inside"
# A closed session ends at once; what is still under way in the initiator then fails within its own times.
ENDS_SECONDS = 60
READ = "dd if={} of=/dev/null bs=4k count=1 iflag=direct status=none"


def wait_for_the_end(initiator: Reach, volume: Volume) -> None:
    """Wait until an initiator's session is gone and its disk answers no more."""
    (export, *_) = [export for user, export in volume.users if user is initiator]
    initiator.machine.wait_until(
        lambda: not initiator.is_logged_in(export), ENDS_SECONDS, f"the session of {initiator.name} to end"
    )


# Access


def test_what_was_written_is_read_back_at_the_next_attachment(
    lab: Lab, volume: Volume, compute: Reach
) -> None:
    """Attached, written to, detached, and attached once more: every byte is there."""
    first = volume.open(compute)
    disk = volume.use(compute, first)
    lab.compute.succeed(
        f"head -c 32M /dev/urandom | tee /run/what | dd of={disk} bs=1M oflag=direct iflag=fullblock"
        " conv=fsync status=none"
    )
    compute.log_out(first)
    assert volume.close(compute) == ()
    disk = volume.use(compute, volume.open(compute))
    lab.compute.succeed(f"cmp -n {32 * MIB} /run/what {disk}")


def test_it_is_shut_before_the_first_and_after_the_last_attachment(
    volume: Volume, compute: Reach, second: Reach
) -> None:
    """Who was not initialized is refused, and so is who was terminated; while it is open, only the named."""
    opened = volume.open(compute)
    assert not second.log_in(opened, secret_for(volume, second.name))
    volume.use(compute, opened)
    compute.log_out(opened)
    volume.close(compute)
    assert not compute.log_in(opened, secret_for(volume, compute.name))
    theirs = volume.open(second)
    assert not compute.log_in(opened, secret_for(volume, compute.name))
    assert second.log_in(theirs, secret_for(volume, second.name))


def test_closing_ends_a_session_that_writes(
    lab: Lab, volume: Volume, compute: Reach, writer: Conversation
) -> None:
    """A session held open over the end of its attachment: its writer fails, and the zvol is free at once."""
    opened = volume.open(compute)
    writer.ask("start", device=volume.use(compute, opened))
    wait_for_blocks(lab, writer, 8)
    assert volume.close(compute) == ()
    assert volume.standing() == []
    volume.storage.delete_zvol(PARENT, volume.name)
    wait_for_the_end(compute, volume)
    if volume.exporter == NVMET:
        # With the last export its port is shut, and a host that is told to try for ever does so: its writer
        # waits, and fails once the host lets go.
        compute.log_out(opened)
    lab.compute.wait_until(lambda: writer.ask("progress")["error"], ENDS_SECONDS, "the writer to fail")
    compute.log_out(opened)
    assert not compute.log_in(opened, secret_for(volume, compute.name))


def test_a_withdrawal_without_a_name_closes_it_to_all(volume: Volume, compute: Reach, second: Reach) -> None:
    """As for a connector of None: every attachment of every initiator ends, with its session."""
    for initiator in (compute, second):
        volume.use(initiator, volume.open(initiator, new_attachment()))
    volume.open(compute, new_attachment())
    assert volume.close(None) == ()
    assert volume.standing() == []
    for initiator in (compute, second):
        wait_for_the_end(initiator, volume)
    assert volume.storage.list_attachments(PARENT) == ()


def test_discovery_shows_an_initiator_only_its_own(
    storage: RemoteStorage, volume: Volume, compute: Reach, second: Reach
) -> None:
    """Each of two initiators is shown what it may attach, and of the other's volume nothing."""
    other = make_volume(storage, volume.exporter)
    try:
        mine, theirs = volume.open(compute), other.open(second)
        portal = portal_of(volume.exporter)
        assert compute.discover(portal) == [mine.target]
        assert second.discover(portal) == [theirs.target]
        volume.close(compute)
        assert compute.discover(portal) == []
    finally:
        other.remove()


def test_only_the_right_secret_opens_it(volume: Volume, compute: Reach, second: Reach) -> None:
    """No secret, a wrong one, another volume's and another initiator's are refused; the right one opens."""
    if volume.exporter == NVMET:
        key = dhchap_key(b"right")
        opened = volume.open(compute, chap=Chap("unused", key))
        refused: list[Chap | None] = [None, Chap("unused", dhchap_key(b"wrong"))]
        right = Chap("unused", key)
    else:
        opened = volume.open(compute)
        volume.open(second)
        found = secret_for(volume, compute.name)
        assert found is not None
        right = found
        others = secret_at(target_name(PREFIX, ZvolName("volume-another")), compute.name)
        wrong = ["wrong-secret-123", others.secret]
        refused = [None, *(Chap(right.user, secret) for secret in wrong), secret_for(volume, second.name)]
    if volume.exporter == TGT:
        # tgtd takes any secret of a target from any initiator of its: the docs say that this is weaker.
        refused.pop()
    for secret in refused:
        assert not compute.log_in(opened, secret), "a wrong secret opened it"
    assert compute.log_in(opened, right)


@pytest.mark.parametrize("exporter", [LIO, TGT], indirect=True, ids=str)
def test_a_changed_secret_counts_at_once_and_for_one_only(
    volume: Volume, compute: Reach, second: Reach
) -> None:
    """After a new secret the old one is refused; who was let in before, or is another, is not disturbed."""
    theirs = volume.open(second)
    volume.use(second, theirs)
    old = secret_for(volume, compute.name)
    assert old is not None
    new = Chap(old.user, "another-secret-123")
    volume.open(compute)
    opened = volume.open(compute, chap=new)
    assert not compute.log_in(opened, old)
    assert compute.log_in(opened, new)
    assert second.is_logged_in(theirs)


def test_no_secret_is_in_a_command_line_or_the_journal(
    lab: Lab, volume: Volume, compute: Reach, second: Reach
) -> None:
    """While exports come and go, no process of the SAN ever shows a secret, nor does a log."""
    secrets = [
        chap.secret for reach in (compute, second) if (chap := secret_for(volume, reach.name)) is not None
    ]
    if volume.exporter == NVMET:
        secrets = [dhchap_key(b"shown nowhere")]
    chap = Chap("unused", secrets[0]) if volume.exporter == NVMET else None
    with closing(Conversation(lab.san, [INSIDE / "cmdlines.py"], "python3 -S cmdlines.py")) as looking:
        looking.ask("watch", words=secrets)
        for _ in range(3):
            volume.open(compute, chap=chap)
            if volume.exporter != NVMET:
                volume.open(second)
            volume.close(None)
        # One whole look after the last request, so that what it started was seen.
        last = looking.ask("rounds") + 2
        lab.san.wait_until(lambda: looking.ask("rounds") >= last, 30, "two more looks at all processes")
        seen = looking.ask("stop")
        # And it does see one that is there.
        looking.ask("watch", words=["a-word-on-show"])
        lab.san.succeed("systemd-run --unit show --collect sh -c 'sleep 600; true' a-word-on-show")
        lab.san.wait_until(lambda: looking.ask("rounds") > 1, 30, "a look at all processes")
        shown = looking.ask("stop")
    lab.san.run("systemctl stop show")
    assert seen["found"] == []
    assert seen["rounds"] > 2
    assert seen["seen"] > 5
    assert any("a-word-on-show" in line for line in shown["found"])
    for secret in secrets:
        # By standard input: grep's own command line would be found.
        lab.san.fail(["sh", "-c", f"journalctl --no-pager | grep -F -f - <<'END'\n{secret}\nEND"])


def test_ipv6_is_a_way_like_any_other(lab: Lab, volume: Volume, compute: Reach) -> None:
    """A volume exported over IPv6 is attached over IPv6 and answers."""
    opened = volume.open(compute, addresses=(ADDRESS6,))
    assert opened.portals == (portal_of(volume.exporter, ADDRESS6),)
    disk = volume.use(compute, opened)
    lab.compute.succeed(READ.format(disk))
    port = opened.portals[0].rpartition(":")[2]
    assert ADDRESS6.rstrip("1") in lab.compute.succeed(f"ss -Htn6 state established dport = :{port}")


# Many attachments


def test_a_live_migration_never_stops_its_writer(
    lab: Lab, volume: Volume, compute: Reach, second: Reach, writer: Conversation
) -> None:
    """The second machine attaches before the first detaches: the first writes on, the second sees it all."""
    source, target = new_attachment(), new_attachment()
    writer.ask("start", device=volume.use(compute, volume.open(compute, source)))
    wait_for_blocks(lab, writer, 8)
    theirs = volume.open(second, target)
    disk = volume.use(second, theirs)
    wait_for_blocks(lab, writer, 8)
    after = writer.ask("stop")
    assert not after["error"]
    assert writer.ask("count_wrong") == 0
    ours = volume.users[0][1]
    compute.log_out(ours)
    assert volume.close(compute, source) == (second.name,)
    assert volume.standing() == [second.name]
    assert not compute.log_in(ours, secret_for(volume, compute.name))
    if second.machine is compute.machine:
        assert writer.ask("count_wrong", device=disk) == 0
    second.machine.succeed(READ.format(disk))


def test_one_machine_has_a_volume_twice(lab: Lab, volume: Volume, compute: Reach) -> None:
    """Two attachments of one initiator share its session, which ends with the second of them."""
    one, other = new_attachment(), new_attachment()
    opened = volume.open(compute, one)
    assert volume.open(compute, other).target == opened.target
    disk = volume.use(compute, opened)
    assert volume.close(compute, one) == (compute.name,)
    # The same end once more is the same end.
    assert volume.close(compute, one) == (compute.name,)
    lab.compute.succeed(READ.format(disk))
    assert volume.close(compute, other) == ()
    wait_for_the_end(compute, volume)


def test_detached_in_any_order(volume: Volume, compute: Reach, second: Reach) -> None:
    """At each moment those reach it who were initialized and not yet terminated, unnamed uses included."""
    uses = [(compute, new_attachment()), (compute, None), (second, new_attachment())]
    for order in itertools.permutations(range(len(uses))):
        for initiator, attachment in uses:
            volume.open(initiator, attachment)
        for done in range(len(order)):
            initiator, attachment = uses[order[done]]
            expected = sorted({uses[place][0].name for place in order[done + 1 :]})
            assert list(volume.close(initiator, attachment)) == expected
            assert volume.standing() == expected


def test_two_that_detach_at_once_leave_nothing(volume: Volume, compute: Reach, second: Reach) -> None:
    """Two last attachments that end in the same moment, of one machine or of two, leave it shut."""
    for others in (second, compute):
        pairs = [(compute, new_attachment()), (others, new_attachment())]
        for initiator, attachment in pairs:
            volume.open(initiator, attachment)
        ends = [threading.Thread(target=volume.close, args=pair) for pair in pairs]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        assert volume.standing() == []
        assert volume.storage.list_attachments(PARENT) == ()


def test_a_second_attachment_that_fails_takes_nothing_from_the_first(
    lab: Lab, volume: Volume, compute: Reach
) -> None:
    """It is refused over another exporter while it is in use here, and the first goes on."""
    disk = volume.use(compute, volume.open(compute, new_attachment()))
    elsewhere = TGT if volume.exporter == LIO else LIO
    iqn = compute_reach(lab, elsewhere).name
    with pytest.raises(Busy, match=str(compute.name)):
        volume.storage.export_zvol(
            PARENT, volume.name, iqn, route=route_of(elsewhere), attachment=new_attachment(), chap=None
        )
    lab.compute.succeed(READ.format(disk))
    assert volume.standing() == [compute.name]


def test_a_snapshot_is_attached_as_it_was(
    lab: Lab, storage: RemoteStorage, volume: Volume, compute: Reach
) -> None:
    """A snapshot's disk shows what was there when it was taken, and leaves no trace when it goes."""
    snapshot = SnapshotName("snapshot-a")
    opened = volume.open(compute)
    disk = volume.use(compute, opened)
    lab.compute.succeed(f"printf before | dd of={disk} bs=4k conv=fsync,sync status=none")
    storage.create_snapshot(PARENT, volume.name, snapshot)
    lab.compute.succeed(f"printf after- | dd of={disk} bs=4k conv=fsync,sync status=none")
    view_id = VolumeId(str(uuid.uuid4()))
    held = lab.san.succeed(f"zfs list -Hro name -t all {PARENT}")
    secret = None
    if volume.exporter != NVMET:
        secret = secret_at(target_name(PREFIX, view_name(view_id)), compute.name)
    shown = storage.export_snapshot(
        PARENT,
        volume.name,
        snapshot,
        compute.name,
        view_id=view_id,
        route=route_of(volume.exporter),
        attachment=None,
        chap=secret,
    ).value
    with ExitStack() as undo:
        undo.callback(storage.withdraw_snapshot, PARENT, view_id, None, attachment=None)
        undo.callback(compute.log_out, shown)
        view = volume.use(compute, shown)
        before = lab.compute.succeed(f"dd if={view} bs=4k count=1 iflag=direct status=none")
        assert before.startswith("before")
        read_only = lab.compute.succeed(f"cat /sys/block/{view.removeprefix('/dev/')}/ro").strip()
        # The kernel's nvmet knows no read-only namespaces.
        assert read_only == ("0" if volume.exporter == NVMET else "1")
        lab.compute.run(f"printf broken | dd of={view} bs=4k conv=fsync,sync oflag=direct status=none")
    after = lab.compute.succeed(f"dd if={disk} bs=4k count=1 iflag=direct status=none")
    assert after.startswith("after-")
    assert lab.san.succeed(f"zfs list -Hro name -t all {PARENT}") == held
    compute.log_out(opened)
    volume.close(compute)
    storage.delete_snapshot(PARENT, volume.name, snapshot)
