"""Whether cinder-backup brings back what was there: Tempest looks at states, never at contents.

A volume made from an image is backed up whole, changed in the middle, and backed up by what changed. Each
backup is restored onto one volume of the other back end, so one exporter is read from, the other written to.
The SAN compares the two zvols, byte for byte, and is seen to tell them apart before each restore.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from cinderclient import client, exceptions

from lab.cloud import cinder
from lab.cloud.arrangement import SINGLE
from lab.cloud.cloud import Cloud
from lab.errors import LabError
from lab.machine import Machine
from lab.waiting import wait_until

# Under emulation the guest reads and hashes, or writes, some 20 MiB a second.
WAIT_SECONDS = 900.0
CHANGE = "dd if=/dev/urandom of={node} bs=1M count=3 seek=700 oflag=direct conv=fsync,notrunc status=none"


def compare_contents(cloud: Cloud, image: str) -> list[str]:
    """Back up, restore and compare; return what was seen, a line each.

    :param image: the id of the image that the volume is made from.
    :raises LabError: a step failed, or what came back differs.
    """
    api, san = cinder.api_client(cloud.identity), cloud.lab.san
    source, target = make_volume(api, 0, imageRef=image), make_volume(api, 1)
    nodes = [node_of(0, source), node_of(1, target)]
    lines: list[str] = []
    backups: list[str] = []
    for kind in ("whole", "incremental"):
        if backups:
            san.succeed(CHANGE.format(node=nodes[0]))
        if are_equal(san, nodes):
            raise LabError(
                f"{nodes[0]} and {nodes[1]} are equal before the {kind} backup: nothing is compared"
            )
        backup = api.backups.create(source, incremental=bool(backups)).id
        backups.append(backup)
        wait_for_status(lambda made=backup: api.backups.get(made), f"{kind} backup {backup}")  # type: ignore[misc]
        api.restores.restore(backup, volume_id=target)
        wait_for_status(lambda: api.volumes.get(target), f"volume {target}, which a backup is restored to")
        if not are_equal(san, nodes):
            raise LabError(f"what the {kind} backup of {nodes[0]} brought into {nodes[1]} differs from it")
        lines.append(f"contents: {kind} backup of a volume at {name_of(0)}, restored at {name_of(1)}: equal")
    # An incremental one before what it stands on.
    for backup in reversed(backups):
        delete(api.backups, backup)
    for volume in (source, target):
        delete(api.volumes, volume)
    return lines


def name_of(number: int) -> str:
    """Return a back end's name."""
    return SINGLE.backends[number].name


def node_of(number: int, volume: str) -> str:
    """Return where the SAN has the zvol of a back end's volume."""
    return f"/dev/zvol/{SINGLE.backends[number].parent}/volume-{volume}"


def make_volume(api: client.Client, number: int, **source: str) -> str:
    """Create a volume of 1 GiB at a back end, and return its id."""
    kind = api.volume_types.create(f"contents-{name_of(number)}")
    kind.set_keys({"volume_backend_name": name_of(number)})
    made = api.volumes.create(1, volume_type=kind.id, **source).id
    wait_for_status(lambda: api.volumes.get(made), f"volume {made}")
    return str(made)


def are_equal(san: Machine, nodes: list[str]) -> bool:
    """Say whether two zvols hold the same, without what this SAN's kernel remembers of an earlier look.

    :raises LabError: they cannot be read.
    """
    san.succeed(["blockdev", "--flushbufs", *nodes])
    done = san.run(["cmp", "--silent", *nodes], timeout_seconds=WAIT_SECONDS)
    if done.exit_status not in (0, 1):
        raise LabError(f"the SAN cannot compare {shlex.join(nodes)}: {done.stderr}")
    return done.exit_status == 0


def wait_for_status(get: Callable[[], Any], what: str) -> None:
    """Wait until something is available again.

    :raises LabError: it failed, or took too long.
    """

    def is_available() -> bool:
        found = get()
        if found.status.startswith("error"):
            why = getattr(found, "fail_reason", None) or "see the logs"
            raise LabError(f"{what} is in status {found.status!r}: {why}")
        return bool(found.status == "available")

    wait_until(is_available, WAIT_SECONDS, f"{what} to be available", interval_seconds=0.5)


def delete(manager: Any, what: str) -> None:  # noqa: ANN401 - python-cinderclient has no types
    """Delete something, and wait until Cinder has forgotten it."""

    def is_gone() -> bool:
        try:
            manager.get(what)
        except exceptions.NotFound:
            return True
        return False

    manager.delete(what)
    wait_until(is_gone, WAIT_SECONDS, f"{what} to be deleted", interval_seconds=0.5)
