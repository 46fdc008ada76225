"""Glance: images, in files of this machine, and where an arrangement wants it in volumes of Cinder's."""

from __future__ import annotations

from pathlib import Path

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

# Images that are volumes: what is read last counts. A hash would be taken of a volume attached to this
# machine, all of it. Whose volumes are whose, Glance finds by their type alone.
VOLUMES = """\
[DEFAULT]
enabled_backends = files:file, volumes:cinder
do_secure_hash = false
[volumes]
cinder_volume_type = {kind}
cinder_store_auth_address = {identity}
cinder_store_user_name = glance
cinder_store_password = {glance_secret}
cinder_store_project_name = service
"""


def url_of(ground: Ground, address: str = LOOPBACK) -> str:
    """Return where it is."""
    return f"http://{address}:{ground.ports['glance']}"


def configure(ground: Ground, image_type: str = "") -> Path:
    """Write its configuration, and return where it is.

    :param image_type: the volume type of which it takes volumes for images, if any.
    """
    return ground.write(
        "glance-api.conf",
        CONFIGURATION + (VOLUMES if image_type else ""),
        database=database.url_of(ground, "glance"),
        url=url_of(ground),
        package=str(ground.environments["glance"].etc / "glance"),
        authentication=keystone.authentication(ground, "glance"),
        kind=image_type,
        identity=keystone.url_of(ground),
    )


def start_glance(ground: Ground, services: Services, image_type: str = "") -> None:
    """Fill its database and start it; see `configure`."""
    environment = ground.environments["glance"]
    for name in ("images", "staging", "tasks", "cache"):
        (ground.data / "glance" / name).mkdir(parents=True)
    settings = configure(ground, image_type)
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


def status_of(ground: Ground, session: Session, image: str) -> str:
    """Return an image's status."""
    return str(session.get(f"{url_of(ground)}/v2/images/{image}").json()["status"])


def locations_of(ground: Ground, session: Session, image: str) -> list[str]:
    """Return where Glance has an image's data, as its administrator and Cinder's own user may know."""
    found = session.get(f"{url_of(ground)}/v2/images/{image}/locations").json()
    return [str(location["url"]) for location in found]


def delete_image(ground: Ground, session: Session, image: str) -> None:
    """Delete an image, and all that Glance has of it."""
    session.delete(f"{url_of(ground)}/v2/images/{image}")
