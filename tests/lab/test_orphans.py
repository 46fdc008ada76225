"""`zolder orphans` beside a real Cinder and the real SAN, as an operator runs it; each exporter in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.ground import MIB, PARENT
from tests.support.connectors import connector_of, initiator_of, standing
from tests.support.exported import new_attachment, route_of, secret_at
from zolder.names import (
    LIO,
    NVMET,
    ExporterName,
    InitiatorName,
    SnapshotName,
    VolumeId,
    ZvolName,
    target_name,
)

if TYPE_CHECKING:
    from lab import Lab
    from lab.cinder import Cinder
    from lab.volumes import Volumes
    from zolder.client.remote import RemoteStorage

WELL, FOUND = 0, 1


def orphans(cinder: Cinder, *options: str) -> tuple[int, Any]:
    """Run the command on this control node; return its exit status and what it said to a script."""
    program = [sys.executable, "-W", "ignore", "-m", "zolder.cli.command", "orphans"]
    options = ("--config-file", str(cinder.folder / "cinder.conf"), "--settle", "0", "--json", *options)
    done = subprocess.run([*program, *options], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in {WELL, FOUND}, done.stderr
    return done.returncode, json.loads(done.stdout)


def found(said: Any) -> set[tuple[str, str]]:  # noqa: ANN401 - JSON
    """Return each finding's kind and what it is about."""
    [parent] = said["parents"]
    return {(finding["kind"], finding["object"]) for finding in parent["findings"]}


@pytest.fixture
def stack(volumes: Volumes) -> Iterator[ExitStack]:
    """What is to be undone when the test ends; then Cinder has no volume."""
    with ExitStack() as kept:
        yield kept
    assert volumes.names() == []


def test_where_all_agrees_nothing_is_found(
    cinder: Cinder, volumes: Volumes, stack: ExitStack, exporter: ExporterName
) -> None:
    """An attached volume, one with a snapshot, one that nobody has: well, and all three were compared."""
    made = [volumes.create(1, backend=exporter) for _ in range(3)]
    for volume in made:
        stack.callback(volumes.delete, volume)
    attachment, _ = volumes.attach(made[0], connector_of())
    stack.callback(volumes.detach, attachment)
    volumes.complete(attachment)
    stack.callback(volumes.delete_snapshot, volumes.create_snapshot(made[1]))
    status, said = orphans(cinder)
    assert (status, found(said), said["well"]) == (WELL, set(), True)
    assert (said["parents"][0]["volumes"], said["parents"][0]["zvols"]) == (3, 3)


def test_what_is_on_one_side_only_is_found_and_mended(
    lab: Lab,
    cinder: Cinder,
    volumes: Volumes,
    agent: RemoteStorage,
    stack: ExitStack,
    exporter: ExporterName,
) -> None:
    """Each kind has its name; told to, it shuts and opens what should be, and deletes nothing."""
    shut, lent, lost, kept = (volumes.create(1, backend=exporter) for _ in range(4))
    for volume in (shut, lent, lost, kept):
        stack.callback(volumes.delete, volume)
    zvols = {volume: ZvolName(f"volume-{volume}") for volume in (shut, lent, lost, kept)}
    # An instance has it in Cinder, and the SAN does not let it in.
    attachment, _ = volumes.attach(shut, connector_of())
    stack.callback(volumes.detach, attachment)
    volumes.complete(attachment)
    agent.withdraw_zvol(PARENT, zvols[shut], None, attachment=None)
    # Somebody may reach it, and has no attachment in Cinder.
    stranger = InitiatorName(initiator_of(exporter, second=True))
    route = route_of(exporter)
    chap = None if exporter == NVMET else secret_at(target_name(route.prefix, zvols[lent]), stranger)
    agent.export_zvol(PARENT, zvols[lent], stranger, route=route, attachment=new_attachment(), chap=chap)
    # What the administrator destroyed, what a lost database knew of, and another cloud's volume.
    lab.san.succeed(["zfs", "destroy", f"{PARENT}/{zvols[lost]}"])
    forgotten = SnapshotName(f"snapshot-{uuid.uuid4()}")
    agent.create_snapshot(PARENT, zvols[kept], forgotten)
    other = ZvolName(f"volume-left-{exporter}")
    agent.create_zvol(PARENT, other, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=MIB, sparse=True)
    stack.callback(agent.delete_zvol, PARENT, other)
    stack.callback(agent.delete_snapshot, PARENT, zvols[kept], forgotten)

    mendable = {
        ("attachment-only-in-cinder", f"{PARENT}/{zvols[shut]}"),
        ("attachment-only-on-san", f"{PARENT}/{zvols[lent]}"),
    }
    remaining = {
        ("volume-only-in-cinder", f"{PARENT}/{zvols[lost]}"),
        ("snapshot-only-on-san", f"{PARENT}/{zvols[kept]}@{forgotten}"),
        ("zvol-only-on-san", f"{PARENT}/{other}"),
    }
    status, said = orphans(cinder)
    assert (status, found(said)) == (FOUND, mendable | remaining)
    assert standing(agent, lent) == [stranger], "it was only asked, and changed something"
    status, said = orphans(cinder, "--repair", "--yes")
    assert (status, found(said)) == (FOUND, mendable | remaining)
    assert standing(agent, lent) == []
    assert standing(agent, shut) == [initiator_of(exporter)]
    assert found(orphans(cinder)[1]) == remaining
    assert {zvol.name for zvol in agent.list_zvols(PARENT)} >= {other, zvols[kept], zvols[shut], zvols[lent]}


def test_a_target_that_no_record_wants_is_told(
    lab: Lab, cinder: Cinder, volumes: Volumes, agent: RemoteStorage, stack: ExitStack
) -> None:
    """Its record is gone, its target stands: that is said, and what the SAN's own restore does about it."""
    volume = volumes.create(1, backend=LIO)
    stack.callback(volumes.delete, volume)
    attachment, _ = volumes.attach(volume, connector_of())
    lab.san.succeed(f"zfs inherit zolder:export {PARENT}/volume-{volume}")
    status, said = orphans(cinder, "--only", "export-only")
    assert (status, found(said)) == (FOUND, {("export-only", f"{PARENT}/volume-{volume}")})
    lab.san.succeed("zolder-san restore")
    assert orphans(cinder, "--only", "export-only")[0] == WELL
    assert standing(agent, volume) == []
    volumes.detach(attachment)
