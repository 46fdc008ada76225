"""Keystone: users and tokens, and the catalog of where everything is."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from keystoneauth1.identity import V3Password
from keystoneauth1.session import Session

from lab.cloud import database
from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Services
from lab.cloud.web import web_command
from lab.command import build_environment, run_logged

REGION = "lab"
# Who checks tokens goes by the internal one.
INTERFACES = ("public", "internal")
THREADS = 8

CONFIGURATION = """\
[DEFAULT]
log_file = {logs}/keystone.log
use_stderr = false
[database]
connection = {database}
[token]
# A run is shorter than that.
expiration = 86400
[fernet_tokens]
key_repository = {data}/keystone/tokens
[fernet_receipts]
key_repository = {data}/keystone/receipts
[credential]
key_repository = {data}/keystone/credentials
[cache]
# Without it every check of a token asks the database many times: 1.5 s under load, where this takes 5 ms. In
# memory is right for one process.
enabled = true
backend = dogpile.cache.memory
"""


# By which a service logs in; its own user is named like it.
CREDENTIALS = """\
[{section}]
auth_url = {identity}
auth_type = password
username = {name}
password = {secret}
project_name = service
user_domain_id = default
project_domain_id = default
"""
# Of every service that checks tokens.
CHECKING = """\
www_authenticate_uri = {identity}
service_token_roles_required = true
service_token_roles = service
"""


def url_of(ground: Ground, address: str = LOOPBACK) -> str:
    """Return where it is."""
    return f"http://{address}:{ground.ports['keystone']}/v3"


def authentication(ground: Ground, name: str, address: str = LOOPBACK) -> str:
    """Return the part of a configuration by which a service checks tokens.

    :param address: where the service sees this machine's loopback.
    """
    checking = CHECKING.format(identity=url_of(ground, address))
    return credentials(ground, "keystone_authtoken", name, address) + checking


def credentials(ground: Ground, section: str, name: str, address: str = LOOPBACK) -> str:
    """Return a section of a configuration by which a service logs in as its own user."""
    identity, secret = url_of(ground, address), ground.secrets[name]
    return CREDENTIALS.format(section=section, identity=identity, name=name, secret=secret)


def start_keystone(ground: Ground, services: Services) -> None:
    """Fill its database and start it."""
    environment = ground.environments["keystone"]
    settings = ground.write("keystone.conf", CONFIGURATION, database=database.url_of(ground, "keystone"))
    for name in ("tokens", "receipts", "credentials"):
        write_keys(ground.data / "keystone" / name)
    log = ground.logs / "keystone-manage.log"
    endpoints = [f"--bootstrap-{interface}-url={url_of(ground)}" for interface in INTERFACES]
    for words in (["db_sync"], ["bootstrap", "--bootstrap-region-id", REGION, *endpoints]):
        command = environment.command("keystone-manage", "--config-file", str(settings), *words)
        # Not on the command line, where everybody may read it.
        run_logged(command, log, env=build_environment(OS_BOOTSTRAP_PASSWORD=ground.secrets["admin"]))
    port = ground.ports["keystone"]
    web = web_command(environment, "keystone.wsgi.api:application", port, threads=THREADS, streamed=False)
    service = services.start("keystone-web", web, env={"OS_KEYSTONE_CONFIG_FILES": str(settings)})
    service.wait_until_ready(lambda: is_keystone_ready(ground))


def write_keys(folder: Path) -> None:
    """Make a repository of keys: the staged one and the primary (Keystone's guide, "Fernet tokens").

    `keystone-manage` would do so in two seconds for each.
    """
    folder.mkdir(parents=True, mode=0o700)
    for name in ("0", "1"):
        key = folder / name
        key.touch(mode=0o600)
        key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))


def is_keystone_ready(ground: Ground) -> bool:
    """Say whether it answers."""
    try:
        return requests.get(url_of(ground), timeout=30).ok
    except requests.ConnectionError:
        return False


@dataclass(frozen=True)
class Tenant:
    """A project and a user of it, by their ids."""

    project: str
    user: str


class Identity:
    """Keystone as its administrator uses it."""

    def __init__(self, ground: Ground) -> None:
        """Log in; nothing is asked yet."""
        plugin = V3Password(
            auth_url=url_of(ground),
            username="admin",
            password=ground.secrets["admin"],
            project_name="admin",
            user_domain_id="default",
            project_domain_id="default",
        )
        self.session = Session(auth=plugin)
        self._url = url_of(ground)

    def add_service(self, kind: str, name: str, url: str) -> None:
        """Put a service into the catalog."""
        made = self._create("services", "service", type=kind, name=name)
        place = {"service_id": made["id"], "url": url, "region_id": REGION}
        for interface in INTERFACES:
            self._create("endpoints", "endpoint", interface=interface, **place)

    def add_service_users(self, secrets: dict[str, str]) -> None:
        """Make a project for services, with a user for each, who are its administrators."""
        project = self._create("projects", "project", name="service", domain_id="default")
        roles = {role["name"]: role["id"] for role in self._get("roles")["roles"]}
        for name, secret in secrets.items():
            user = self._create("users", "user", name=name, password=secret, domain_id="default")
            for role in ("admin", "service"):
                path = f"projects/{project['id']}/users/{user['id']}/roles/{roles[role]}"
                self.session.put(f"{self._url}/{path}")

    def find_tenant(self, project: str, user: str) -> Tenant:
        """Return a project and a user by their names."""
        (found,) = self._get(f"projects?name={project}")["projects"]
        (named,) = self._get(f"users?name={user}")["users"]
        return Tenant(found["id"], named["id"])

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.session.get(f"{self._url}/{path}").json()
        return found

    def _create(self, path: str, kind: str, **fields: str) -> dict[str, Any]:
        made: dict[str, Any] = self.session.post(f"{self._url}/{path}", json={kind: fields}).json()[kind]
        return made
