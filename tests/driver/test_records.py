"""What Cinder itself saves of an attachment: its own API, manager and database around the driver."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from cinder import context, coordination, exception, objects
from cinder.db import api as db_api
from cinder.db import models
from cinder.objects import base
from cinder.volume import api as volume_api
from cinder.volume import manager as volume_manager
from oslo_config import cfg
from oslo_messaging import opts as messaging
from sqlalchemy.pool import StaticPool

from tests.driver.conftest import PARENT, Taken, connector_of, lose_exports, secrets_of
from tests.support.waiting import wait_until
from zolder.cinder.attachments import KEY
from zolder.cinder.driver import ZolderDriver
from zolder.fake import FakeStorage

ONE = connector_of("one")
TWO = connector_of("two")
BACKEND = "control@zolder"


class Database:
    """Cinder's schema in memory, and the statements that were sent to it."""

    def __init__(self, engine: sqlalchemy.Engine) -> None:
        """Note what ``engine`` executes."""
        self.statements: list[str] = []
        self._engine = engine
        sqlalchemy.event.listen(engine, "before_cursor_execute", self._note)

    def drop(self) -> None:
        """Take all tables away."""
        models.BASE.metadata.drop_all(self._engine)

    def _note(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)


@pytest.fixture
def database(make_driver: Callable[..., ZolderDriver], tmp_path: Path) -> Iterator[Database]:  # noqa: ARG001 - it reads cinder.conf first
    """A database of Cinder's own, and the locks of its API."""
    for group, options in messaging.list_opts():
        if group == "oslo_messaging_notifications":
            cfg.CONF.register_opts(options, group)
    cfg.CONF.set_override("connection", "sqlite://", group="database")
    cfg.CONF.set_override("backend_url", f"file://{tmp_path}", group="coordination")
    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    models.BASE.metadata.create_all(engine)
    restore = db_api.main_context_manager.patch_engine(engine)
    coordination.COORDINATOR.start()
    yield Database(engine)
    coordination.COORDINATOR.stop()
    restore()
    engine.dispose()
    cfg.CONF.clear_override("connection", group="database")
    cfg.CONF.clear_override("backend_url", group="coordination")


class Wire:
    """Cinder's RPC between API and manager: everything that is passed is a copy."""

    def __init__(self, manager: volume_manager.VolumeManager) -> None:
        """Call ``manager``."""
        self._manager = manager
        self._serializer = base.CinderObjectSerializer()

    def attachment_update(self, ctxt: Any, volume: Any, connector: Any, attachment_id: str) -> Any:  # noqa: ANN401 - Cinder's
        return self._copied(
            ctxt, self._manager.attachment_update(*self._copied(ctxt, ctxt, volume, connector, attachment_id))
        )[0]

    def attachment_delete(self, ctxt: Any, attachment_id: str, volume: Any) -> None:  # noqa: ANN401 - Cinder's
        self._manager.attachment_delete(*self._copied(ctxt, ctxt, attachment_id, volume))

    def initialize_connection(self, ctxt: Any, volume: Any, connector: Any) -> Any:  # noqa: ANN401 - Cinder's
        return self._copied(
            ctxt, self._manager.initialize_connection(*self._copied(ctxt, ctxt, volume, connector))
        )[0]

    def terminate_connection(self, ctxt: Any, volume: Any, connector: Any, *, force: bool = False) -> None:  # noqa: ANN401 - Cinder's
        self._manager.terminate_connection(*self._copied(ctxt, ctxt, volume.id, connector), force=force)

    def _copied(self, ctxt: Any, *values: Any) -> list[Any]:  # noqa: ANN401 - Cinder's
        return [
            value
            if isinstance(value, context.RequestContext)
            else self._serializer.deserialize_entity(
                ctxt, json.loads(json.dumps(self._serializer.serialize_entity(ctxt, value)))
            )
            for value in values
        ]


class Cinder:
    """The API and the manager of a Cinder whose back end is ``driver``."""

    def __init__(self, driver: ZolderDriver) -> None:
        """Leave out what they start around themselves."""
        self.context = context.get_admin_context()
        self.context.project_id = uuid.uuid4().hex
        self.manager = volume_manager.VolumeManager.__new__(volume_manager.VolumeManager)
        self.manager.driver = driver
        self.manager.db = db_api
        self.manager.configuration = driver.configuration
        self.manager.host, self.manager.cluster = BACKEND, None
        self.manager._notify_about_volume_usage = lambda *_, **__: None
        self.api = volume_api.API.__new__(volume_api.API)
        self.api.db = db_api
        self.api.is_service_request = lambda _: True  # it is Nova that asks
        self.wire = self.api.volume_rpcapi = Wire(self.manager)
        driver.set_initialized()

    def new_type(self, specs: dict[str, str]) -> str:
        """Create a volume type, and return its id."""
        kind = db_api.volume_type_create(self.context, {"name": uuid.uuid4().hex, "extra_specs": specs})
        return str(kind["id"])

    def new_volume(self, type_id: str | None = None) -> objects.Volume:
        """Create a volume as the manager does, of a type with nothing in it or of another."""
        volume = objects.Volume(
            self.context,
            size=1,
            host=f"{BACKEND}#{PARENT}",
            status="available",
            attach_status="detached",
            project_id=self.context.project_id,
            user_id=uuid.uuid4().hex,
            volume_type_id=type_id or self.new_type({}),
            multiattach=True,
        )
        volume.create()
        volume.update(self.manager.driver.create_volume(volume))
        volume.save()
        return volume

    def attach(
        self,
        volume: objects.Volume,
        connector: dict[str, str],
        *,
        instance: str | None = None,
        at_once: bool = False,
    ) -> objects.VolumeAttachment:
        """Attach as Nova does, a row and then its connector; or ``at_once`` with the row."""
        volume.refresh()
        if at_once:
            row = self.api.attachment_create(self.context, volume, instance, dict(connector))
        else:
            row = self.api.attachment_create(self.context, volume, instance)
            self.api.attachment_update(self.context, row, dict(connector))
        # AttachmentsController.complete
        row.update({"attach_status": "attached"})
        row.save()
        volume.update({"status": "in-use", "attach_status": "attached"})
        volume.save()
        return row

    def detach(self, row: objects.VolumeAttachment) -> None:
        """End an attachment."""
        self.api.attachment_delete(self.context, objects.VolumeAttachment.get_by_id(self.context, row.id))

    def connector_of(self, row: objects.VolumeAttachment) -> dict[str, str]:
        """Return the connector that the row now has."""
        found: dict[str, str] = objects.VolumeAttachment.get_by_id(self.context, row.id).connector
        return found


@pytest.fixture
def cinder(make_driver: Callable[..., ZolderDriver], database: Database) -> Cinder:  # noqa: ARG001 - it stands below
    """A Cinder with nothing but ``san_ip`` configured."""
    return Cinder(make_driver())


def accesses(san: FakeStorage) -> list[tuple[str, str | None]]:
    """Return who has something, and under which id."""
    return [
        (access.initiator.rpartition(":")[2], access.attachment) for access in san.list_attachments(PARENT)
    ]


def test_cinder_saves_the_id_with_the_row(cinder: Cinder, san: FakeStorage) -> None:
    """The connector comes back as the driver left it, and ends exactly that attachment."""
    volume = cinder.new_volume()
    row = cinder.attach(volume, ONE)
    assert accesses(san) == [("one", cinder.connector_of(row)[KEY])]
    cinder.detach(row)
    assert accesses(san) == []


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_same_machine_twice(
    cinder: Cinder, san: FakeStorage, order: tuple[int, int], *, at_once: bool
) -> None:
    """Two instances of one machine: whichever goes first, the other stays, by whichever call they came."""
    volume = cinder.new_volume()
    rows = [cinder.attach(volume, ONE, at_once=at_once) for _ in range(2)]
    assert len(set(accesses(san))) == 2
    first, second = (rows[number] for number in order)
    cinder.detach(first)
    assert accesses(san) == [("one", cinder.connector_of(second)[KEY])]
    cinder.detach(second)
    assert accesses(san) == []


def test_a_live_migration(cinder: Cinder, san: FakeStorage) -> None:
    """The destination attaches, at once as Nova asks, then the source detaches, or it gives up."""
    volume, instance = cinder.new_volume(), str(uuid.uuid4())
    volume.multiattach = False
    volume.save()
    source = cinder.attach(volume, ONE, instance=instance)
    given_up = cinder.attach(volume, TWO, instance=instance, at_once=True)
    cinder.detach(given_up)
    assert [name for name, _ in accesses(san)] == ["one"]
    destination = cinder.attach(volume, TWO, instance=instance, at_once=True)
    cinder.detach(source)
    assert accesses(san) == [("two", cinder.connector_of(destination)[KEY])]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_row_that_is_updated_twice_keeps_its_id(cinder: Cinder, san: FakeStorage, *, at_once: bool) -> None:
    """A second id would take the first's place in the row, and the first would never be ended."""
    row = cinder.attach(cinder.new_volume(), ONE, at_once=at_once)
    before = accesses(san)
    cinder.api.attachment_update(cinder.context, row, dict(ONE))
    assert accesses(san) == before
    cinder.detach(row)
    assert accesses(san) == []


def test_an_attachment_over_rpc_is_unnamed(cinder: Cinder, san: FakeStorage) -> None:
    """A backup's connector is a copy that nobody saves: what the driver wrote into it would be lost."""
    volume = cinder.new_volume()
    cinder.wire.initialize_connection(cinder.context, volume, ONE)
    assert accesses(san) == [("one", None)]
    cinder.wire.terminate_connection(cinder.context, volume, ONE)
    assert accesses(san) == []


def test_an_internal_attachment_beside_an_instance(cinder: Cinder, san: FakeStorage) -> None:
    """The control node computes, too: neither end of its own attachment touches the instance's."""
    volume = cinder.new_volume()
    row = cinder.attach(volume, ONE)
    instances = accesses(san)
    volume.refresh()
    connector = dict(ONE)
    cinder.manager.initialize_connection(cinder.context, volume, connector)
    assert accesses(san) == [("one", None), *instances]
    cinder.manager.terminate_connection(cinder.context, volume.id, connector, force=True)
    cinder.manager.remove_export(cinder.context, volume.id)
    assert accesses(san) == instances
    cinder.manager.initialize_connection(cinder.context, volume, connector)
    cinder.detach(row)
    assert accesses(san) == [("one", None)]


@pytest.mark.parametrize("imported", [True, False])
def test_a_failed_second_attachment_takes_nothing(
    cinder: Cinder, san: FakeStorage, *, imported: bool
) -> None:
    """Cinder's manager removes the export of the whole volume then; the first stays as it was."""
    volume = cinder.new_volume()
    cinder.attach(volume, ONE)
    before = accesses(san)
    san.imported = imported
    with pytest.raises(exception.CinderException, match="initiatorname" if imported else "not imported"):
        cinder.attach(volume, {"host": "two"} if imported else TWO)
    san.imported = True
    assert accesses(san) == before


def test_a_forced_detachment_closes_all(cinder: Cinder, san: FakeStorage) -> None:
    """Without a connector (os-force_detach) nobody is left, with an id or without."""
    volume = cinder.new_volume()
    cinder.attach(volume, ONE)
    cinder.attach(volume, TWO)
    cinder.wire.initialize_connection(cinder.context, volume, TWO)
    cinder.wire.terminate_connection(cinder.context, volume, None, force=True)
    assert accesses(san) == []


def test_a_start_asks_the_database_nothing_for_a_volume(
    cinder: Cinder, san: FakeStorage, database: Database
) -> None:
    """The rows come with the volumes; the manager's own round over them is all there is."""
    rows = [cinder.attach(cinder.new_volume(), ONE) for _ in range(5)]
    cinder.new_volume()
    volumes = cinder.manager._get_my_volumes(cinder.context)
    assert len(volumes) == 6
    lose_exports(san)
    database.statements.clear()
    cinder.manager._sync_provider_info(cinder.context, volumes, objects.SnapshotList())
    for volume in volumes:
        cinder.manager.driver.ensure_export(cinder.context, volume)
    assert database.statements == []
    assert sorted(accesses(san)) == sorted(("one", cinder.connector_of(row)[KEY]) for row in rows)


def test_another_head_gets_the_secrets_at_once(
    make_driver: Callable[..., ZolderDriver], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The same ones, to the volumes in use, from Cinder's record, with the next figures; one line says so."""
    taken = Taken((PARENT,))
    cinder = Cinder(make_driver("use_chap_auth = true", storage=taken))
    driver = cinder.manager.driver
    volumes = [cinder.new_volume() for _ in range(3)]
    rows = [cinder.attach(volume, machine) for volume in volumes[:2] for machine in (ONE, TWO)]
    before = [dict(secrets_of(taken, volume)) for volume in volumes[:2]]
    database.statements.clear()
    assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
    assert database.statements == [], "nothing is asked while nothing is missing"
    taken.take_over()
    assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
    wait_until(lambda: "lacked their CHAP secrets" in caplog.text, 10, "the secrets were sent")
    assert [dict(secrets_of(taken, volume)) for volume in volumes[:2]] == before
    said = f"2 exports below {PARENT} lacked their CHAP secrets: back end zolder sent those of 4 attachments"
    assert caplog.text.count(said) == 1
    assert taken.get_figures(PARENT).secrets_missing == 0
    for row in rows:
        cinder.detach(row)
    assert taken.list_exports(PARENT) == ()


def test_secrets_that_cannot_be_sent_do_not_fail_the_stats(
    make_driver: Callable[..., ZolderDriver], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is away is Cinder's trouble; the figures are the SAN's."""
    taken = Taken((PARENT,))
    cinder = Cinder(make_driver("use_chap_auth = true", storage=taken))
    cinder.attach(cinder.new_volume(), ONE)
    taken.take_over()
    database.drop()
    driver = cinder.manager.driver
    assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
    wait_until(lambda: "could not be looked at" in caplog.text, 10, "the log says why none were sent")
    wait_until(lambda: not driver._missing_secrets[PARENT]._sending, 10, "the round has ended")
    assert "lacked their CHAP secrets" not in caplog.text
    assert taken.get_figures(PARENT).secrets_missing == 1
