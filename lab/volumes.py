"""Volumes through Cinder's REST API, as a person's tools use it, with every wait bounded and named.

    volumes = Volumes("http://127.0.0.1:8776/v3")
    volume = volumes.create(1)
    attachment, connection = volumes.attach(volume, connector)

The client is python-cinderclient with its noauth plugin; each call is one real HTTP request. A volume or
snapshot is named by its id.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cinderclient import client, exceptions
from cinderclient.contrib.noauth import CinderNoAuthPlugin
from keystoneauth1.session import Session

from lab.errors import LabError
from lab.waiting import wait_until

# Extending a volume in use needs 3.42, attachments 3.27, completing one 3.44.
MICROVERSION = "3.71"
USER = "lab"
# noauth takes any project whose id looks like one.
PROJECT = "0123456789abcdef0123456789abcdef"
WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.05


class Volumes:
    """The volumes of the lab's one project."""

    def __init__(self, url: str) -> None:
        """Talk to the API at ``url``, which ends with ``/v3``."""
        plugin = CinderNoAuthPlugin(USER, PROJECT, endpoint=url)
        self._cinder = client.Client(MICROVERSION, session=Session(auth=plugin))

    def create(
        self,
        size_gib: int,
        *,
        snapshot: str | None = None,
        source: str | None = None,
        multiattach: bool = False,
        backend: str | None = None,
        volume_type: str | None = None,
    ) -> str:
        """Create a volume, empty, from a snapshot or from another volume, and wait until it is available.

        :param backend: the volume_backend_name that it is to be at; None for any.
        :param volume_type: what `make_type` returned, in place of the two before.
        """
        if multiattach or backend:
            volume_type = self._type(backend, multiattach=multiattach)
        made = self._cinder.volumes.create(
            size_gib, snapshot_id=snapshot, source_volid=source, volume_type=volume_type
        )
        self.wait(made.id, "available")
        return str(made.id)

    def make_type(self, specs: Mapping[str, str]) -> str:
        """Create a volume type with these extra specs, and return its id."""
        made = self._cinder.volume_types.create(f"type-{uuid.uuid4()}")
        if specs:
            made.set_keys(dict(specs))
        return str(made.id)

    def retype(self, volume: str, volume_type: str, *, migrate: bool = False) -> bool:
        """Ask for another type, wait until that is over, and return whether the volume has it now."""
        before = self.show(volume)["status"]
        self._cinder.volumes.retype(volume, volume_type, "on-demand" if migrate else "never")
        self.wait(volume, before)
        has = self.show(volume)["volume_type"]
        return bool(has == self._cinder.volume_types.get(volume_type).name)

    def capabilities(self, host: str) -> dict[str, Any]:
        """Return what a back end says that it can do, as `cinder get-capabilities` shows it."""
        found: dict[str, Any] = self._cinder.capabilities.get(host).to_dict()
        return found

    def show(self, volume: str) -> dict[str, Any]:
        """Return what Cinder says of a volume.

        :raises LabError: Cinder has no such volume.
        """
        try:
            found: dict[str, Any] = self._cinder.volumes.get(volume).to_dict()
        except exceptions.NotFound as err:
            raise LabError(f"Cinder has no volume {volume}") from err
        return found

    def names(self) -> list[str]:
        """Return the ids of all volumes."""
        return sorted(volume.id for volume in self._cinder.volumes.list())

    def extend(self, volume: str, size_gib: int) -> None:
        """Grow a volume, in use or not, and wait until that is done."""
        before = self.show(volume)["status"]
        self._cinder.volumes.extend(volume, size_gib)
        self.wait(volume, before)
        if self.show(volume)["size"] != size_gib:
            raise LabError(f"volume {volume} is not of {size_gib} GiB after it was extended")

    def delete(self, volume: str) -> None:
        """Delete a volume and wait until Cinder has forgotten it."""
        self._cinder.volumes.delete(volume)
        _wait_until_gone(lambda: self._cinder.volumes.get(volume), f"volume {volume}")

    def reset_state(self, volume: str) -> None:
        """Have Cinder take a volume for available again, as an operator does behind a failed delete."""
        self._cinder.volumes.reset_state(volume, "available")

    def wait(self, volume: str, status: str) -> None:
        """Wait until a volume has a status.

        :raises LabError: it failed, or took too long.
        """
        _wait_for_status(lambda: self._cinder.volumes.get(volume), f"volume {volume}", status)

    def create_snapshot(self, volume: str) -> str:
        """Snapshot a volume, in use or not, and wait until it is available."""
        made = self._cinder.volume_snapshots.create(volume, force=True)
        _wait_for_status(
            lambda: self._cinder.volume_snapshots.get(made.id), f"snapshot {made.id}", "available"
        )
        return str(made.id)

    def delete_snapshot(self, snapshot: str) -> None:
        """Delete a snapshot and wait until Cinder has forgotten it."""
        self._cinder.volume_snapshots.delete(snapshot)
        _wait_until_gone(lambda: self._cinder.volume_snapshots.get(snapshot), f"snapshot {snapshot}")

    def attach(self, volume: str, connector: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Attach a volume as Nova does, and return the attachment and the connection_info for os-brick.

        :param connector: what os-brick says of the machine that attaches.
        """
        made = self._cinder.attachments.create(volume, dict(connector))
        return str(made["id"]), dict(made["connection_info"])

    def complete(self, attachment: str) -> None:
        """Say that the machine has the volume, and wait until Cinder shows it in use."""
        self._cinder.attachments.complete(attachment)
        self.wait(self._cinder.attachments.show(attachment).volume_id, "in-use")

    def attachments(self, volume: str) -> list[str]:
        """Return the ids of a volume's attachments."""
        found = self._cinder.attachments.list(search_opts={"volume_id": volume})
        return sorted(attachment.id for attachment in found)

    def detach(self, attachment: str) -> None:
        """End an attachment; the machine has let go of the volume."""
        self._cinder.attachments.delete(attachment)

    def force_detach(self, volume: str) -> None:
        """End a volume's one attachment without a connector, as for a machine that is gone."""
        self._cinder.volumes._action("os-force_detach", volume, {})  # noqa: SLF001 - it has no verb for that

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools that the scheduler knows: each pool's name and capabilities in one dict."""
        found = [pool.to_dict() for pool in self._cinder.pools.list(detailed=True)]
        return [pool["capabilities"] | {"name": pool["name"]} for pool in found]

    def services(self) -> list[dict[str, Any]]:
        """Return Cinder's services with their states."""
        return [service.to_dict() for service in self._cinder.services.list()]

    def _type(self, backend: str | None, *, multiattach: bool) -> str:
        """Return the id of the volume type for a back end, or for any, made when it is first asked for."""
        name = "-".join([backend or "any", *(["multiattach"] if multiattach else [])])
        for known in self._cinder.volume_types.list():
            if known.name == name:
                return str(known.id)
        keys = {"volume_backend_name": backend} if backend else {}
        made = self._cinder.volume_types.create(name)
        made.set_keys(keys | ({"multiattach": "<is> True"} if multiattach else {}))
        return str(made.id)


def _wait_for_status(get: Callable[[], Any], what: str, status: str) -> None:
    def reached() -> bool:
        found = get()
        if found.status.startswith("error"):
            raise LabError(
                f"{what} is in status {found.status!r} where {status!r} was waited for; see the log"
            )
        return bool(found.status == status)

    wait_until(reached, WAIT_SECONDS, f"{what} to be {status}", interval_seconds=_POLL_SECONDS)


def _wait_until_gone(get: Callable[[], Any], what: str) -> None:
    def gone() -> bool:
        try:
            found = get()
        except exceptions.NotFound:
            return True
        # A busy one is available again: it was not deleted.
        if found.status != "deleting":
            raise LabError(f"{what} was not deleted and is in status {found.status!r}; see the log")
        return False

    wait_until(gone, WAIT_SECONDS, f"{what} to be deleted", interval_seconds=_POLL_SECONDS)
