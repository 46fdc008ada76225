"""Cinder as a site runs it: API, scheduler and volume service, each its own, over PostgreSQL and RabbitMQ.

The driver comes from the working tree. Which back ends and volume services there are, an arrangement says.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import requests
from cinderclient import client, exceptions
from keystoneauth1.exceptions import ClientException

from lab.cloud import broker, database, glance, keystone
from lab.cloud.arrangement import SINGLE, Arrangement
from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Service, Services
from lab.cloud.web import web_command
from lab.command import build_environment, run_logged
from lab.errors import LabError
from lab.waiting import wait_until

SOURCES = Path(__file__).parents[2] / "src"
THREADS = 8
# A SAN that is emulated beside everything else may take minutes to let the first line in.
BACKENDS_SECONDS = 300.0
MICROVERSION = "3.71"
# Cinder's services with native threads, not green ones.
NATIVE = {"OS_CINDER_DISABLE_EVENTLET_PATCHING": "1"}

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
# Who owns the volumes of the image-volume cache.
cinder_internal_tenant_project_id = {project}
cinder_internal_tenant_user_id = {user}
{options}
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

# What one of a cluster's services has for itself, read after the rest.
MEMBER = """\
[DEFAULT]
host = {member}
cluster = {cluster}
# At its start each clears what its back end left there, and in a cluster they are one back end.
image_conversion_dir = {data}/cinder/{member}/conversion
"""


class CinderServices:
    """Cinder's services of one cloud."""

    def __init__(
        self, ground: Ground, services: Services, *, native: bool, arrangement: Arrangement = SINGLE
    ) -> None:
        """Start nothing yet.

        :param native: with the machine's threads instead of eventlet's.
        """
        self.arrangement = arrangement
        self._members: dict[str, Service] = {}
        self._ground = ground
        self._services = services
        self._environment = ground.environments["cinder"]
        self._variables = {"PYTHONPATH": str(SOURCES), **(NATIVE if native else {})}

    def configure(self, san: Mapping[str, str], tenant: keystone.Tenant) -> Path:
        """Write cinder.conf, and a file for each of a cluster's services.

        :param san: how the lab's SAN is reached: `Lab.environment`.
        :param tenant: who owns what Cinder keeps for itself.
        """
        ground = self._ground
        for name in ("locks", "coordination"):
            (ground.data / "cinder" / name).mkdir(parents=True, exist_ok=True)
        for name in self.arrangement.members:
            (ground.data / "cinder" / name / "conversion").mkdir(parents=True, exist_ok=True)
            ground.write(f"{name}.conf", MEMBER, member=name, cluster=self.arrangement.cluster)
        sections = "".join(backend.write(san) for backend in self.arrangement.backends)
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
                    "enabled": ",".join(backend.name for backend in self.arrangement.backends),
                    "options": self.arrangement.options,
                    "project": tenant.project,
                    "user": tenant.user,
                    "host": "lab",
                    "helper": shlex.join(self._environment.command("privsep-helper")),
                    "known_hosts": san["known_hosts"],
                }
            )
            # As its own user it may tell Glance that an image is a volume, and ask where an image is.
            + (keystone.credentials(ground, "glance", "cinder") if self.arrangement.image_type else "")
            + self.arrangement.sections
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
        """Start the volume service, or a cluster's, and wait until the scheduler knows all back ends."""
        wanted = {backend.name for backend in self.arrangement.backends}
        api = api_client(identity)
        if not self.arrangement.members:
            self._start("cinder-volume", settings).wait_until_ready(lambda: backends_up(api) >= wanted)
        for name in self.arrangement.members:
            self.start_member(name, settings, identity)
        if self.arrangement.members:
            wait_until(
                lambda: backends_up(api) >= wanted,
                BACKENDS_SECONDS,
                "the scheduler to know the back ends",
                interval_seconds=0.5,
            )

    def start_member(self, name: str, settings: Path, identity: keystone.Identity) -> None:
        """Start one of a cluster's services, and wait until it works.

        A service reports once it has done with its start, and of one that was killed the last report stands.
        """
        api, begun = api_client(identity), datetime.now(UTC).replace(tzinfo=None)
        own = self._ground.etc / f"{name}.conf"
        service = self._start("cinder-volume", settings, own, name=f"cinder-volume-{name}")
        self._members[name] = service
        service.wait_until_ready(lambda: has_reported(api, name, begun))

    def kill_member(self, name: str) -> None:
        """End one of a cluster's services, and all that it started, by SIGKILL."""
        self._members[name].stop()

    def _start(self, program: str, *settings: Path, name: str | None = None) -> Service:
        name = name or program
        files = [word for path in settings for word in ("--config-file", str(path))]
        log = self._ground.logs / f"{name}.log"
        words = self._environment.command(program, *files, "--log-file", str(log))
        return self._services.start(f"{name}-output", words, env=self._variables)


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


def has_reported(cinder: client.Client, host: str, since: datetime) -> bool:
    """Say whether a host's volume service has reported since a moment, in UTC without a zone as Cinder's."""
    return any(
        service.host.partition("@")[0] == host
        and service.updated_at is not None
        and datetime.fromisoformat(service.updated_at) > since
        for service in cinder.services.list(binary="cinder-volume")
    )


def services_up(cinder: client.Client) -> set[str]:
    """Return the programs of which Cinder knows one that lives."""
    return {service.binary for service in cinder.services.list() if service.state == "up"}
