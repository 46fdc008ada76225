"""Glance: images, in files of this machine."""

from __future__ import annotations

import requests
from keystoneauth1.session import Session

from lab.cloud import database, keystone
from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Services
from lab.cloud.web import web_command
from lab.command import build_environment, run_logged
from lab.errors import LabError

THREADS = 8

CONFIGURATION = """\
[DEFAULT]
log_file = {logs}/glance.log
use_stderr = false
enabled_backends = files:file
node_staging_uri = file://{data}/glance/staging
worker_self_reference_url = {url}
# Cinder shows the URL of an image's data only where it may clone from it.
show_image_direct_url = false
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = {data}/glance/images
[os_glance_staging_store]
filesystem_store_datadir = {data}/glance/staging
[os_glance_tasks_store]
filesystem_store_datadir = {data}/glance/tasks
[image_cache]
image_cache_dir = {data}/glance/cache
[database]
connection = {database}
[paste_deploy]
flavor = keystone
config_file = {package}/glance-api-paste.ini
{authentication}
"""


def url_of(ground: Ground, address: str = LOOPBACK) -> str:
    """Return where it is."""
    return f"http://{address}:{ground.ports['glance']}"


def start_glance(ground: Ground, services: Services) -> None:
    """Fill its database and start it."""
    environment = ground.environments["glance"]
    for name in ("images", "staging", "tasks", "cache"):
        (ground.data / "glance" / name).mkdir(parents=True)
    settings = ground.write(
        "glance-api.conf",
        CONFIGURATION,
        database=database.url_of(ground, "glance"),
        url=url_of(ground),
        package=str(environment.etc / "glance"),
        authentication=keystone.authentication(ground, "glance"),
    )
    sync = environment.command("glance-manage", "--config-file", str(settings), "db_sync")
    run_logged(sync, ground.logs / "glance-manage.log", env=build_environment())
    port = ground.ports["glance"]
    web = web_command(environment, "glance.wsgi.api:application", port, threads=THREADS, streamed=True)
    variables = {"OS_GLANCE_CONFIG_DIR": str(settings.parent)}
    service = services.start("glance-web", web, env=variables)
    service.wait_until_ready(lambda: is_glance_ready(ground))


def is_glance_ready(ground: Ground) -> bool:
    """Say whether it answers."""
    try:
        return requests.get(f"{url_of(ground)}/healthcheck", timeout=30).ok
    except requests.ConnectionError:
        return False


def upload_image(ground: Ground, session: Session, data: bytes) -> str:
    """Put a raw image that everybody may see into Glance, and return its id.

    :raises LabError: Glance did not take it.
    """
    url = f"{url_of(ground)}/v2/images"
    described = {
        "name": "random",
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "public",
    }
    image = session.post(url, json=described).json()["id"]
    stream = {"Content-Type": "application/octet-stream", "X-Auth-Token": session.get_token()}
    answer = requests.put(f"{url}/{image}/file", data=data, headers=stream, timeout=60)
    if not answer.ok:
        raise LabError(f"Glance did not take an image: {answer.status_code} {answer.text}")
    return str(image)
