"""The driver as cinder-volume has it, on the lab's SAN, and a volume as Cinder's manager has it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cinder.privsep
from cinder import context, objects
from oslo_config import cfg

from tests.contract.ground import PARENT
from tests.support.backend import read_section
from tests.support.san import ssh_target
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.storage import open_san

if TYPE_CHECKING:
    from lab import Lab

objects.register_all()
ADMIN = context.get_admin_context()


@contextmanager
def lab_driver(lab: Lab, folder: Path) -> Iterator[ZolderDriver]:
    """Yield a driver that is set up; Cinder looks at formats in this process and not in one of root's.

    :param folder: for its cinder.conf and its temporary images.
    """
    cinder.privsep.sys_admin_pctxt.set_client_mode(False)
    driver = ZolderDriver(
        configuration=read_section(folder, "san_ip = 127.0.0.1"),
        host="control@zolder",
        connect=lambda settings: open_san(dataclasses.replace(settings, way=ssh_target(lab))),
    )
    try:
        driver.do_setup(None)
        driver.check_for_setup_error()
        yield driver
        driver._san.close()
    finally:
        cfg.CONF.reset()
        cinder.privsep.sys_admin_pctxt.set_client_mode(True)


def new_volume() -> objects.Volume:
    """Return a volume of 1 GiB."""
    return objects.Volume(
        ADMIN,
        id=str(uuid.uuid4()),
        size=1,
        host=f"control@zolder#{PARENT}",
        status="downloading",
        _name_id=None,
        provider_auth=None,
        provider_location=None,
        volume_attachment=objects.VolumeAttachmentList(objects=[]),
        volume_type_id=None,
        group_id=None,
        volume_type=objects.VolumeType(extra_specs={}),
        glance_metadata={},
    )
