"""Tempest against Keystone, Glance and Cinder on the lab's SAN: ``python -m lab tempest``.

It brings all up, runs the volume tests of an unmodified Tempest, prints what became of them, and takes all
down again, also when a step fails or a person interrupts. What each part logged is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import time
from contextlib import ExitStack

from lab.cloud.cloud import EXPECTED, Cloud, running_cloud
from lab.cloud.contents import compare_contents
from lab.cloud.glance import upload_image
from lab.cloud.remains import find_remains
from lab.cloud.suite import IMAGE_BYTES, prepare_suite, run_suite
from lab.errors import LabError
from lab.lab import Lab
from lab.progress import Progress

ALL = r"^tempest\.api\.volume"
CONCURRENCY = 2
# The modules of tests for which cinder-backup has to run.
BACKUPS = ("tempest.api.volume.test_volumes_backup", "tempest.api.volume.admin.test_volumes_backup")


def main(argv: list[str]) -> int:
    """Run the tests and return the exit status: 0 if some passed, none failed and nothing is left."""
    parser = argparse.ArgumentParser(prog="python -m lab tempest", description=__doc__)
    parser.add_argument("--regex", default=ALL, help=f"which tests ({ALL})")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help=f"at once ({CONCURRENCY})")
    parser.add_argument("--threads", choices=["eventlet", "native"], default="eventlet", help="Cinder's")
    parser.add_argument(
        "--backup",
        action=argparse.BooleanOptionalAction,
        help="cinder-backup in the guest, or not (if the pattern selects its tests)",
    )
    parser.add_argument("--keep", action="store_true", help="leave all up afterwards until Ctrl-C")
    arguments = parser.parse_args(argv)
    lab = Lab(os.environ.get("ZOLDER_LAB") or "tempest")
    folder = lab.cache.root / "cloud" / lab.name
    # A terminal that closes and a `kill` end us as Ctrl-C does, so that all is taken down.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    native, backups = arguments.threads == "native", arguments.backup
    if backups is None:
        backups = selects_backups(arguments.regex)
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            with Progress("cloud", EXPECTED, lab.cache.root / "timings.json") as progress:
                cloud = stack.enter_context(
                    running_cloud(lab, folder, progress, native=native, backups=backups)
                )
                image = upload_image(cloud.ground, cloud.identity.session, os.urandom(IMAGE_BYTES))
                prepare_suite(cloud, image, backup=backups)
            print(f"all is up; Tempest runs {arguments.regex}", flush=True)
            outcomes = run_suite(cloud.ground, arguments.regex, arguments.concurrency)
            if dead := cloud.services.dead():
                raise LabError(f"ended before the tests did: {', '.join(dead)}; see {folder}/logs")
            seen, complaints = look_further(cloud, image, backups=backups)
            print("\n".join(["", *seen, *complaints, *outcomes.lines()]), flush=True)
            if arguments.keep:
                stay(cloud)
    finally:
        if not lab.keep:
            lab.down()
        shutil.rmtree(folder / "data", ignore_errors=True)
        print(f"(logs: {folder / 'logs'}; {time.monotonic() - started:.0f} s in all)", flush=True)
    return 0 if outcomes.is_good and not complaints else 1


def selects_backups(regex: str) -> bool:
    """Say whether a pattern selects tests for which cinder-backup has to run."""
    return any(re.search(regex, module) for module in BACKUPS)


def look_further(cloud: Cloud, image: str, *, backups: bool) -> tuple[list[str], list[str]]:
    """Look at what Tempest does not: the contents of backups, and what is left on the SAN.

    :return: what was seen, and what is wrong, a line each.
    """
    seen, complaints = [], []
    if backups:
        try:
            seen = compare_contents(cloud, image)
        except LabError as err:
            complaints.append(f"FAILED contents: {err}")
    complaints += [f"LEFT on the SAN: {name}" for name in find_remains(cloud.lab.san)]
    return seen, complaints


def interrupt(number: int, _frame: object) -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt(f"signal {number}")


def stay(cloud: Cloud) -> None:
    """Say how to talk to what is up, and wait for Ctrl-C."""
    ground = cloud.ground
    print(f"\nAll is up until Ctrl-C. Configuration and secrets: {ground.etc}")
    print(f"    Tempest   in {ground.data / 'tempest/work'}")
    print(f"    Keystone  http://127.0.0.1:{ground.ports['keystone']}/v3, user admin")
    print(f"    SAN       ZOLDER_LAB={cloud.lab.name} python -m lab ssh san", flush=True)
    signal.pause()
