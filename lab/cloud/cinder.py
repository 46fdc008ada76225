"""Cinder as a site runs it: API, scheduler and volume service, each its own, over PostgreSQL and RabbitMQ.

The driver comes from the working tree. Its two back ends are one SAN: LIO on one zpool, NVMe/TCP on another.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import requests
from cinderclient import client, exceptions
from keystoneauth1.exceptions import ClientException

from lab.backends import Backend
from lab.cloud import broker, database, glance, keystone
from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Service, Services
from lab.cloud.web import web_command
from lab.command import build_environment, run_logged
from lab.errors import LabError

SOURCES = Path(__file__).parents[2] / "src"
THREADS = 8
MICROVERSION = "3.71"
# Cinder's services with native threads, not green ones.
NATIVE = {"OS_CINDER_DISABLE_EVENTLET_PATCHING": "1"}

BACKENDS = (
    Backend("lio", ("target_helper = lioadm", "use_chap_auth = true")),
    Backend(
        "nvmet",
        ("target_protocol = nvmet_tcp", "target_helper = nvmet", "target_port = 4420"),
        parent="fast/volumes",
    ),
)

CONFIGURATION = """\
[DEFAULT]
transport_url = {broker}
auth_strategy = keystone
host = {host}
my_ip = 127.0.0.1
state_path = {data}/cinder
api_paste_config = {package}/api-paste.ini
resource_query_filters_file = {package}/resource_filters.json
enabled_backends = {enabled}
glance_api_servers = {images}
ssh_hosts_key_file = {known_hosts}
# A back end's figures are asked for often, for a test may wait for them.
periodic_interval = 5
periodic_fuzzy_delay = 0
backend_stats_polling_interval = 5
# Cinder looks into every image's format in a process of its own, and starts it by sudo if not told otherwise.
[cinder_sys_admin]
helper_command = {helper} --config-file {etc}/cinder.conf
[privsep_osbrick]
helper_command = {helper} --config-file {etc}/cinder.conf
[database]
connection = {database}
[oslo_concurrency]
lock_path = {data}/cinder/locks
[coordination]
backend_url = file://{data}/cinder/coordination
{authentication}
"""


class CinderServices:
    """Cinder's services of one cloud."""

    def __init__(self, ground: Ground, services: Services, *, native: bool) -> None:
        """Start nothing yet.

        :param native: with the machine's threads instead of eventlet's.
        """
        self._ground = ground
        self._services = services
        self._environment = ground.environments["cinder"]
        self._variables = {"PYTHONPATH": str(SOURCES), **(NATIVE if native else {})}

    def configure(self, san: Mapping[str, str]) -> Path:
        """Write cinder.conf.

        :param san: how the lab's SAN is reached: `Lab.environment`.
        """
        ground = self._ground
        for name in ("locks", "coordination"):
            (ground.data / "cinder" / name).mkdir(parents=True, exist_ok=True)
        sections = "".join(backend.write(san) for backend in BACKENDS)
        return ground.write_secret(
            "cinder.conf",
            CONFIGURATION.format_map(
                ground.values()
                | {
                    "broker": broker.url_of(ground),
                    "database": database.url_of(ground, "cinder"),
                    "images": glance.url_of(ground),
                    "authentication": keystone.authentication(ground, "cinder"),
                    "package": str(self._environment.etc / "cinder"),
                    "enabled": ",".join(backend.name for backend in BACKENDS),
                    "host": "lab",
                    "helper": shlex.join(self._environment.command("privsep-helper")),
                    "known_hosts": san["known_hosts"],
                }
            )
            + sections,
        )

    def start_control(self, settings: Path) -> None:
        """Fill the database; start the API, and the scheduler before any volume service reports to it."""
        ground = self._ground
        sync = self._environment.command("cinder-manage", "--config-file", str(settings), "db", "sync")
        run_logged(sync, ground.logs / "cinder-manage.log", env=build_environment(PYTHONPATH=str(SOURCES)))
        port = ground.ports["cinder"]
        web = web_command(
            self._environment, "cinder.wsgi.api:application", port, threads=THREADS, streamed=False
        )
        words = f"--config-file {settings} --log-file {ground.logs}/cinder-api.log"
        # Its services have threads of their own; under a web server Cinder's API always has.
        variables = {"PYTHONPATH": str(SOURCES)}
        api = self._services.start("cinder-api-web", [*web, "--pyargv", words], env=variables)
        self._start("cinder-scheduler", settings)
        api.wait_until_ready(lambda: is_cinder_ready(ground))

    def start_volume(self, settings: Path, identity: keystone.Identity) -> None:
        """Start the volume service and wait until the scheduler knows every back end as up."""
        wanted = {backend.name for backend in BACKENDS}
        cinder = api_client(identity)
        self._start("cinder-volume", settings).wait_until_ready(lambda: backends_up(cinder) >= wanted)

    def _start(self, program: str, settings: Path) -> Service:
        log = self._ground.logs / f"{program}.log"
        words = self._environment.command(program, "--config-file", str(settings), "--log-file", str(log))
        return self._services.start(f"{program}-output", words, env=self._variables)


def url_of(ground: Ground) -> str:
    """Return where its API is."""
    return f"http://{LOOPBACK}:{ground.ports['cinder']}/v3"


def is_cinder_ready(ground: Ground) -> bool:
    """Say whether its API answers."""
    try:
        return (
            requests.get(f"{url_of(ground)[:-3]}/", timeout=30).status_code == requests.codes.multiple_choices
        )
    except requests.ConnectionError:
        return False


def api_client(identity: keystone.Identity) -> client.Client:
    """Return python-cinderclient for its API."""
    return client.Client(MICROVERSION, session=identity.session, service_type="block-storage")


def backends_up(cinder: client.Client) -> set[str]:
    """Return the names of the back ends that the scheduler knows as up."""
    try:
        pools = [pool.to_dict()["capabilities"] for pool in cinder.pools.list(detailed=True)]
    except (ClientException, exceptions.ClientException) as err:
        raise LabError(f"Cinder does not say which back ends it has: {err}") from err
    return {pool["volume_backend_name"] for pool in pools if pool.get("backend_state") == "up"}


def services_up(cinder: client.Client) -> set[str]:
    """Return the programs of which Cinder knows one that lives."""
    return {service.binary for service in cinder.services.list() if service.state == "up"}
