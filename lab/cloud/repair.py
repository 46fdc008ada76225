"""What an operator does with rows that a killed service left, and with all volumes at a cloud's end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cinderclient import client, exceptions

from lab.cloud.agreement import WHOLE, read_sides
from lab.errors import LabError, TimedOut
from lab.machine import Machine
from lab.waiting import wait_until

GONE_SECONDS = 300.0
EVERYBODY = {"all_tenants": 1}


def find_unsettled(cinder: client.Client) -> dict[str, str]:
    """Return what is in no status of rest, volumes and snapshots: id -> what it is."""
    volumes = {
        one.id: f"volume {one.id} is {one.status}"
        for one in cinder.volumes.list(search_opts=EVERYBODY)
        if one.status not in WHOLE
    }
    snapshots = {
        one.id: f"snapshot {one.id} is {one.status}"
        for one in cinder.volume_snapshots.list(search_opts=EVERYBODY)
        if one.status != "available"
    }
    return volumes | snapshots


def repair(cinder: client.Client, unsettled: Iterable[str]) -> None:
    """Bring what is stuck to an end by what any administrator has: its status is reset, and it is deleted.

    :raises LabError: something is still there.
    """
    wanted = set(unsettled)
    snapshots = [one for one in cinder.volume_snapshots.list(search_opts=EVERYBODY) if one.id in wanted]
    volumes = {one.id for one in cinder.volumes.list(search_opts=EVERYBODY)} & wanted
    for one in snapshots:
        cinder.volume_snapshots.reset_state(one.id, "error")
    for volume in volumes:
        cinder.volumes.reset_state(volume, "error", attach_status="detached")
    delete_all(cinder, volumes, {one.id for one in snapshots})


def delete_all(
    cinder: client.Client, volumes: set[str] | None = None, snapshots: set[str] | None = None
) -> None:
    """Delete volumes with their snapshots and attachments, and snapshots; all there are where none are named.

    :raises LabError: something is still there.
    """
    everything = volumes is None and snapshots is None
    if everything:
        volumes = {one.id for one in cinder.volumes.list(search_opts=EVERYBODY)}
    for one in cinder.volume_snapshots.list(search_opts=EVERYBODY):
        if one.id in (snapshots or set()) or one.volume_id in (volumes or set()):
            cinder.volume_snapshots.delete(one.id)
    _wait_gone(cinder.volume_snapshots, snapshots or set(), volumes or set())
    for attachment in cinder.attachments.list(search_opts=EVERYBODY):
        if attachment.volume_id in (volumes or set()):
            cinder.attachments.delete(attachment.id)
    for volume in volumes or set():
        try:
            cinder.volumes.delete(volume)
        except exceptions.NotFound:
            continue
    _wait_gone(cinder.volumes, volumes or set(), set())


def leave_nothing(cinder: client.Client, san: Machine, parents: Sequence[str]) -> str:
    """Delete all there is, and return a line that says so.

    :raises LabError: Cinder or the SAN has something left.
    """
    delete_all(cinder)
    left = read_sides(cinder, san, parents)
    if left.volumes or left.zvols:
        raise LabError(f"after all was deleted there is {left}")
    return "all deleted, and nothing left in either pool"


def _wait_gone(those: Any, wanted: set[str], parents: set[str]) -> None:  # noqa: ANN401 - no types
    left: list[str] = []

    def gone() -> bool:
        found = those.list(search_opts=EVERYBODY)
        left[:] = [
            f"{one.id} ({one.status})"
            for one in found
            if one.id in wanted or getattr(one, "volume_id", None) in parents
        ]
        return not left

    try:
        wait_until(gone, GONE_SECONDS, "deletions", interval_seconds=1)
    except TimedOut as err:
        raise LabError(f"not deleted: {', '.join(left)}") from err
