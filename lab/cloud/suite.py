"""Tempest, unmodified: its configuration for this cloud, a run of it, and its outcomes.

What it says goes to this command's output, a line a test, and to its log.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.cloud import cinder, keystone
from lab.cloud.arrangement import SINGLE
from lab.cloud.cloud import Cloud
from lab.cloud.ground import Ground
from lab.cloud.outcomes import Outcomes, read_outcomes
from lab.command import CONTAINED, build_environment, run_logged
from lab.errors import LabError

IMAGE_BYTES = 4 * 2**20

CONFIGURATION = """\
[DEFAULT]
log_file = {logs}/tempest.log
[oslo_concurrency]
lock_path = {data}/tempest/locks
[auth]
admin_username = admin
admin_project_name = admin
admin_domain_name = Default
admin_password = {admin_secret}
# Each class of tests gets a project of its own, without a network.
use_dynamic_credentials = true
create_isolated_networks = false
[identity]
auth_version = v3
uri_v3 = {identity}
region = {region}
[service_available]
cinder = true
glance = true
# Answered for by lab.cloud.network.
neutron = true
nova = false
swift = false
[compute]
image_ref = {image}
image_ref_alt = {image}
[compute-feature-enabled]
# What Cinder does of it: retype between such types.
volume_multiattach = true
[validation]
run_validation = false
[image]
region = {region}
[network]
region = {region}
[volume]
region = {region}
# A backup of 1 GiB takes half a minute in an emulated guest, and six minutes on an overloaded machine.
# Where something failed Tempest waits for all of this.
build_timeout = 600
vendor_name = Zolder
backend_names = {backends}
storage_protocol = iSCSI
manage_volume_ref = source-name,volume-%s
manage_snapshot_ref = source-name,snapshot-%s
max_microversion = {microversion}
[volume-feature-enabled]
multi_backend = true
snapshot = true
clone = true
backup = {backup}
manage_volume = true
manage_snapshot = true
extend_volume_with_snapshot = true
"""


def prepare_suite(cloud: Cloud, image: str, *, backup: bool) -> None:
    """Write Tempest's configuration.

    :param image: the id of the image that tests start from.
    :param backup: also test backups.
    """
    ground = cloud.ground
    workspace = ground.data / "tempest"
    for folder in (workspace / "locks", workspace / "home"):
        folder.mkdir(parents=True, exist_ok=True)
    settings = ground.write(
        "tempest.conf",
        CONFIGURATION,
        identity=keystone.url_of(ground),
        region=keystone.REGION,
        image=image,
        backends=",".join(backend.name for backend in SINGLE.backends),
        microversion=cinder.MICROVERSION,
        backup=str(backup).lower(),
    )
    init = ground.environments["tempest"].command("tempest", "init", str(workspace / "work"))
    run_logged(init, ground.logs / "tempest-init.log", env=variables(ground))
    (workspace / "work/etc/tempest.conf").unlink()
    (workspace / "work/etc/tempest.conf").symlink_to(settings)


def run_suite(ground: Ground, regex: str, concurrency: int) -> Outcomes:
    """Run the tests that a pattern selects, and return what became of them.

    :raises LabError: Tempest itself did not run.
    """
    tempest, work = ground.environments["tempest"], ground.data / "tempest/work"
    words = ["run", "--regex", regex, "--concurrency", str(concurrency)]
    with (ground.logs / "tempest-output.log").open("a") as log:
        process = subprocess.Popen(
            # Its workers end with it.
            [*CONTAINED, *tempest.command("tempest", *words)],
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=variables(ground),
            start_new_session=True,
        )
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            for line in process.stdout:
                log.write(line)
                if line.startswith("{"):
                    sys.stdout.write(line)
                    sys.stdout.flush()
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    outcomes = read_results(ground, work)
    if status and not outcomes.failed:
        message = f"Tempest ended with exit status {status} and without a failed test: some never began"
        raise LabError(message)
    return outcomes


def read_results(ground: Ground, work: Path) -> Outcomes:
    """Return what became of the last run's tests."""
    tempest = ground.environments["tempest"]
    stestr = tempest.command("stestr", "last", "--subunit")
    # Its exit status tells of failed tests, which the outcomes do as well.
    stream = subprocess.run(stestr, cwd=work, capture_output=True, env=variables(ground), check=False).stdout
    stored = ground.logs / "tempest.subunit"
    stored.write_bytes(stream)
    # -P: our modules beside it have names of the library's, `operator` for one.
    reader = [tempest.program("python"), "-P", str(Path(__file__).with_name("read_results.py"))]
    with stored.open("rb") as results:
        done = subprocess.run(reader, stdin=results, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"the results of Tempest in {stored} cannot be read: {done.stderr}")
    return read_outcomes(done.stdout.splitlines())


def variables(ground: Ground) -> dict[str, str]:
    """Return the environment that Tempest runs in: its workers are `python` of the PATH."""
    environment = build_environment(HOME=str(ground.data / "tempest/home"))
    environment["PATH"] = f"{ground.environments['tempest'].folder / 'bin'}:{environment['PATH']}"
    return environment
