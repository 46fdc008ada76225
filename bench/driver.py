"""The driver's whole path: from the call of its method to its return, as Cinder's manager calls it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from cinder.volume import configuration
from cinder.volume.driver import volume_opts
from oslo_config import cfg

from bench.ways import PARENT, SIZE_GIB, Runner, Step, Way
from lab import Lab
from lab.lab import ADDRESSES
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage

BACKEND: Final = "bench"
CONFIGURATION: Final = """
[DEFAULT]
ssh_hosts_key_file = {known_hosts}

[bench]
san_ip = 127.0.0.1
san_ssh_port = {san_ssh_port}
san_login = zolder
san_private_key = {agent_key}
san_zfs_volume_base = {parent}
target_ip_address = {portal}
use_chap_auth = true
"""


class DriverWay(Way):
    """Zolder's driver on the lab's SAN, over real ssh."""

    name = "driver"

    def __init__(self, lab: Lab, runner: Runner, folder: Path) -> None:
        """Set a back end up.

        :param folder: for its cinder.conf.
        """
        self._runner = runner
        environment = lab.environment()
        self._connector = {"initiator": environment["initiator"], "host": "compute"}
        path = folder / "cinder.conf"
        path.write_text(CONFIGURATION.format(parent=PARENT, portal=ADDRESSES["san"], **environment))
        cfg.CONF(["--config-file", str(path)], project="cinder")
        self.driver = ZolderDriver(
            configuration=configuration.Configuration(volume_opts, config_group=BACKEND),
            connect=self._connect,
        )
        self.driver.do_setup(None)
        self.driver.check_for_setup_error()

    def do(self, verb: str, zvol: str) -> Step:
        """See `Way`."""
        volume = volume_of(zvol)
        return self.watch(lambda: self._act(verb, volume))

    def settle(self) -> None:
        """Wait until udev is through with what was done before."""
        self._runner.settle()

    def watch(self, act: Callable[[], object]) -> Step:
        """Measure a call of the driver's."""

        def counted() -> int:
            before = self._pool.requests
            act()
            return self._pool.requests - before

        return self._runner.watch(counted)

    def close(self) -> None:
        """End its channels."""
        self._pool.close()

    def _connect(self, settings: Settings) -> San:
        self._pool = Pool(settings.way)
        storage = RemoteStorage(self._pool, deadline_seconds=settings.deadline_seconds)
        return San(storage, storage)

    def _act(self, verb: str, volume: Any) -> None:  # noqa: ANN401 - Cinder's objects have no types
        driver, snapshot, clone = self.driver, snapshot_of(volume), volume_of(f"{volume.name}-clone")
        match verb:
            case "create":
                driver.create_volume(volume)
            case "snapshot":
                driver.create_snapshot(snapshot)
            case "clone":
                driver.create_volume_from_snapshot(clone, snapshot)
            case "delete clone":
                driver.delete_volume(clone)
            case "delete snapshot":
                driver.delete_snapshot(snapshot)
            case "delete":
                driver.delete_volume(volume)
            case "create + export":
                driver.create_volume(volume)
                volume.provider_auth = driver.create_export(None, volume, self._connector)["provider_auth"]
                driver.initialize_connection(volume, self._connector)
            case "withdraw + delete":
                driver.terminate_connection(volume, self._connector)
                driver.remove_export(None, volume)
                driver.delete_volume(volume)
            case _:
                raise ValueError(verb)


def volume_of(name: str) -> Any:  # noqa: ANN401 - as above
    """Return a volume as Cinder's manager has it."""
    return SimpleNamespace(
        name=name,
        name_id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
        size=SIZE_GIB,
        host=f"control@{BACKEND}#{PARENT}",
        status="available",
        group_id=None,
        volume_type_id=None,
        provider_auth=None,
        provider_location=None,
        volume_attachment=[],
    )


def snapshot_of(volume: Any, name: str = "s") -> Any:  # noqa: ANN401 - as above
    """Return a snapshot as Cinder's manager has it."""
    return SimpleNamespace(id=volume.id, name=name, volume_name=volume.name, volume=volume)
