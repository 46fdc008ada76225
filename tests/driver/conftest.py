"""A driver on the fake SAN, configured by a real cinder.conf, and Cinder's own objects without a database.

``cloud`` is a Cinder with a database, for ``zolder orphans``.
"""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cinder import context, objects
from cinder.db import api as database
from cinder.db import models
from cinder.volume import configuration
from oslo_config import cfg
from oslo_db.sqlalchemy import enginefacade

from tests.driver.cloud import CONFIGURATION, Cloud, OpenedSan
from tests.support.backend import read_section
from zolder.api import Storage
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.storage import San
from zolder.fake import FakeStorage
from zolder.model import Chap, PoolFigures
from zolder.names import DatasetName, InitiatorName

objects.register_all()

PARENT = DatasetName("data/volumes")
Configure = Callable[[str], configuration.Configuration]


@pytest.fixture
def configure(tmp_path: Path) -> Iterator[Configure]:
    """A function that reads the lines of a back end's section as cinder-volume does."""
    yield partial(read_section, tmp_path)
    cfg.CONF.reset()


@pytest.fixture
def san() -> FakeStorage:
    """The SAN in memory that the driver of a test works on."""
    return FakeStorage((PARENT,), capacity_bytes=100 * 2**30)


@pytest.fixture
def make_driver(configure: Configure, san: FakeStorage) -> Callable[..., ZolderDriver]:
    """A function that sets up a driver with the given lines in its section."""

    def make(lines: str = "", *, storage: Storage = san) -> ZolderDriver:
        driver = ZolderDriver(
            configuration=configure(f"san_ip = 192.0.2.1\n{lines}"),
            host="control@zolder",
            connect=lambda _: San(storage, storage),
        )
        driver.do_setup(None)
        driver.check_for_setup_error()
        return driver

    return make


@pytest.fixture
def driver(make_driver: Callable[..., ZolderDriver]) -> ZolderDriver:
    """A driver with nothing but ``san_ip`` configured."""
    return make_driver()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Cinder's tables and nothing in them."""
    path = tmp_path_factory.mktemp("empty") / "cinder.sqlite"
    facade = enginefacade.transaction_context()
    facade.configure(connection=f"sqlite:///{path}")
    models.BASE.metadata.create_all(facade.writer.get_engine())
    facade.dispose_pool()
    return path


@pytest.fixture
def cloud(empty_database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cloud]:
    """A Cinder with an empty database of its own, and an empty SAN."""
    path = tmp_path / "cinder.conf"
    path.write_text(CONFIGURATION.format(folder=tmp_path, enabled="other, one, two"))
    cfg.CONF([], project="cinder", default_config_files=[str(path)])
    shutil.copy(empty_database, tmp_path)
    facade = enginefacade.transaction_context()
    facade.configure(connection=f"sqlite:///{tmp_path}/cinder.sqlite")
    restore = database.main_context_manager.patch_factory(facade)
    yield Cloud(path, capsys)
    restore()
    assert not OpenedSan.left
    facade.dispose_pool()
    cfg.CONF.reset()


def new_volume(size: int = 1, *connectors: dict[str, str] | None, **fields: object) -> objects.Volume:
    """Return a volume as Cinder's manager has it, attached to ``connectors``."""
    attachments = [
        objects.VolumeAttachment(
            id=str(uuid.uuid4()),
            attach_status="attached",
            attach_mode="rw",
            connector=connector,
            connection_info=None,
        )
        for connector in connectors
    ]
    values = {
        "id": str(uuid.uuid4()),
        "size": size,
        "status": "in-use" if connectors else "available",
        "_name_id": None,
        "provider_auth": None,
        "provider_location": None,
        "host": f"control@zolder#{PARENT}",
        "volume_type_id": None,
        "group_id": None,
        "volume_attachment": objects.VolumeAttachmentList(objects=attachments),
    }
    return objects.Volume(context.get_admin_context(), **(values | fields))


def new_snapshot(volume: objects.Volume) -> objects.Snapshot:
    """Return a snapshot of a volume as Cinder's manager has it."""
    return objects.Snapshot(
        context.get_admin_context(),
        id=str(uuid.uuid4()),
        volume_id=volume.id,
        volume=volume,
        volume_size=volume.size,
        provider_auth=None,
        provider_location=None,
    )


def connector_of(name: str) -> dict[str, str]:
    """Return what os-brick says of a machine."""
    return {
        "initiator": f"iqn.2004-10.org.example:{name}",
        "nqn": f"nqn.2014-08.org.nvmexpress:uuid:{name}",
        "host": name,
        "ip": "192.0.2.50",
    }


def secrets_of(san: FakeStorage, volume: objects.Volume) -> dict[InitiatorName, Chap | None]:
    """Return what each initiator of a volume has to log in with; what is put into it counts."""
    return san._exports._exports[f"{PARENT}/{volume.name}"].secrets


def lose_exports(san: FakeStorage) -> None:
    """Make a SAN forget all that it exported."""
    san._exports._exports.clear()


class Taken(FakeStorage):
    """A SAN whose zpool can be taken over by another, which has no secrets."""

    def take_over(self) -> None:
        """Leave the secrets behind."""
        for export in self._exports._exports.values():
            export.secrets.update(dict.fromkeys(export.secrets))

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        shut = [
            export
            for export in self._exports._exports.values()
            if any(grant.chap and export.secrets[grant.initiator] is None for grant in export.wish.grants)
        ]
        return dataclasses.replace(super().get_figures(parent), secrets_missing=len(shut))
