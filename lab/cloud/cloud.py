"""All parts of the cloud in their order, for as long as a `with` lasts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.cloud import backup, broker, cinder, database, glance, keystone
from lab.cloud.arrangement import SINGLE, Arrangement
from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Services
from lab.cloud.venvs import BUILD_TOOLS, ensure_environments, find_missing
from lab.errors import LabError
from lab.lab import Lab
from lab.packages import ensure_packages, missing_packages
from lab.policy import CONFIGURATION
from lab.progress import Progress

# Seconds, where no run has shown others.
EXPECTED = {
    "cloud": 90.0,
    "Debian packages": 60.0,
    "Python packages of keystone": 100.0,
    "Python packages of glance": 60.0,
    "Python packages of cinder": 110.0,
    "Python packages of tempest": 25.0,
    "PostgreSQL and RabbitMQ": 8.0,
    "Keystone": 25.0,
    "Glance": 12.0,
    "Cinder's API and scheduler": 20.0,
    "machines": 15.0,
    "Cinder's volume service": 20.0,
    "Cinder for the guest": 60.0,
    "cinder-backup in the guest": 90.0,
}
# Package -> what shows that it is there, in any version.
PROGRAMS = {database.PACKAGE: database.PROGRAMS, broker.PACKAGE: broker.PROGRAMS}
DATABASES = ["keystone", "glance", "cinder"]


@dataclass(frozen=True)
class Cloud:
    """A cloud that runs."""

    ground: Ground
    lab: Lab
    identity: keystone.Identity
    services: Services
    cinder: cinder.CinderServices
    settings: Path


@contextmanager
def running_cloud(
    lab: Lab,
    folder: Path,
    progress: Progress,
    *,
    native: bool = False,
    backups: bool = False,
    arrangement: Arrangement = SINGLE,
) -> Iterator[Cloud]:
    """Bring all up on a lab's SAN; when the body ends, all has ended but the lab's machines.

    :param folder: for its configuration, data and logs; what an earlier cloud left there goes.
    :param native: Cinder's services use the machine's threads, not eventlet's.
    :param backups: with cinder-backup in the lab's compute.
    :param arrangement: which back ends and volume services there are.
    :raises LabError: a part did not come up; the error shows what it said.
    """
    require_root()
    ensure_programs(lab, progress)
    lab.build()
    if backups and not backup.find_archive(lab):
        with progress.step("Cinder for the guest"):
            backup.ensure_archive(lab)
    ground = Ground(folder, ensure_environments(lab.cache, progress))
    ground.prepare()
    with Services(ground.logs) as services:
        with progress.step("PostgreSQL and RabbitMQ"):
            waiting = broker.start_broker(ground, services)
            database.start_database(ground, services, DATABASES)
        with progress.step("Keystone"):
            keystone.start_keystone(ground, services)
            fill_catalog(ground, keystone.Identity(ground))
            # A new one, for a token's catalog is that of when it was given out.
            identity = keystone.Identity(ground)
        start_network(ground, services)
        # Last, for they take most of this machine.
        with progress.step("machines"):
            lab.up()
            lab.san.write_file("/etc/zolder/san.toml", adopting_policy().encode())
        parts = cinder.CinderServices(ground, services, native=native, arrangement=arrangement)
        settings = parts.configure(lab.environment(), identity.find_tenant("service", "cinder"))
        waiting.wait_until_ready(lambda: broker.is_broker_ready(ground))
        with progress.step("Cinder's API and scheduler"):
            parts.start_control(settings)
        # Where it has images in volumes, it ends at its start if Cinder's API does not answer.
        with progress.step("Glance"):
            glance.start_glance(ground, services, arrangement.image_type)
        with progress.step("Cinder's volume service"):
            parts.start_volume(settings, identity)
        if backups:
            with progress.step("cinder-backup in the guest"):
                backup.start_backup(ground, lab, identity)
        try:
            yield Cloud(ground, lab, identity, services, parts, settings)
        finally:
            if backups and lab.is_up():
                backup.fetch_log(ground, lab.compute)


def require_root() -> None:
    """Refuse early what only root can do.

    :raises LabError: we are not.
    """
    if os.geteuid() != 0:
        raise LabError("the cloud's programs run in namespaces of their own, which takes root: use sudo")


def ensure_programs(lab: Lab, progress: Progress) -> None:
    """Install the Debian packages that are missing, without starting their services.

    :raises LabError: naming the command, where we may not.
    """
    tools = {package: found_or_not(pattern) for package, pattern in PROGRAMS.items()}
    if find_missing(lab.cache):
        tools |= BUILD_TOOLS
    if not missing_packages(tools):
        return
    with progress.step("Debian packages"), services_stay_off():
        ensure_packages(tools, lab.cache.root / "apt", lab.cache.logs / "packages.log")


def found_or_not(pattern: str) -> str:
    """Return a path that a pattern below / finds, or one that is not there."""
    return str(next(Path("/").glob(pattern), "/nonexistent"))


@contextmanager
def services_stay_off(guard: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Keep Debian from starting the services that it installs meanwhile: invoke-rc.d(8).

    One that stands already is the administrator's, and is left to decide.
    """
    if guard.exists():
        yield
        return
    guard.write_text("#!/bin/sh\nexit 101\n")
    guard.chmod(0o755)
    try:
        yield
    finally:
        guard.unlink()


def fill_catalog(ground: Ground, identity: keystone.Identity) -> None:
    """Tell Keystone of the other services."""
    identity.add_service_users({name: ground.secrets[name] for name in ("cinder", "glance")})
    identity.add_service("image", "glance", glance.url_of(ground))
    identity.add_service("block-storage", "cinder", cinder.url_of(ground))
    identity.add_service("network", "nothing", f"http://{LOOPBACK}:{ground.ports['network']}")


def adopting_policy() -> str:
    """Return the SAN's policy as the lab has it, with what managing volumes needs: docs/manage.md."""
    places = json.dumps([backend.parent for backend in SINGLE.backends])
    table = "[identity.lab]\n"
    return CONFIGURATION.replace(table, f"{table}adopt_from = {places}\n")


def start_network(ground: Ground, services: Services) -> None:
    """Start what answers for Neutron."""
    root = str(Path(__file__).parents[2])
    words = [sys.executable, "-m", "lab.cloud.network", str(ground.ports["network"])]
    services.start("network", words, env={"PYTHONPATH": root})
