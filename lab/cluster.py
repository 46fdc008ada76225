"""A cluster of two cinder-volumes on the lab's SAN: ``python -m lab cluster``. See docs/cluster.md.

Clients work at once through Cinder's API while the two services are killed in turn and started again; then
what Cinder has and what the SAN has are held against each other. Before that, two smaller looks at the same
cloud: which pool the scheduler places volumes in, and what a second volume of an image costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from lab.cloud import cinder
from lab.cloud.agreement import compare, read_sides
from lab.cloud.arrangement import CLUSTER, DATA, FAST
from lab.cloud.cloud import EXPECTED, Cloud, running_cloud
from lab.cloud.crowd import Worker
from lab.cloud.imaging import image
from lab.cloud.ledger import Ledger, unexpected
from lab.cloud.operator import find_orphans
from lab.cloud.placing import place
from lab.cloud.repair import delete_all, find_unsettled, leave_nothing, repair
from lab.cloud.volume_images import upload_and_clone
from lab.errors import LabError
from lab.lab import Lab
from lab.progress import Progress
from lab.tempest import interrupt, stay
from lab.waiting import wait_until

OPERATIONS, CLIENTS, KILLS, SEED = 500, 6, 4, 1
STEPS = ("place", "image", "crowd")
# Cinder's own clean-up behind a start, and what waits in the broker.
SETTLE_SECONDS = 150.0
CROWD_SECONDS = 7200.0
PARENTS = (DATA, FAST)


def main(argv: list[str]) -> int:
    """Run the steps and return the exit status: 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m lab cluster", description=__doc__)
    parser.add_argument("--operations", type=int, default=OPERATIONS, help=f"in all ({OPERATIONS})")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"at once ({CLIENTS})")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"of the two services in turn ({KILLS})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of what each client draws ({SEED})")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="only some of them")
    parser.add_argument("--threads", choices=["eventlet", "native"], default="eventlet", help="Cinder's")
    parser.add_argument("--keep", action="store_true", help="leave all up afterwards until Ctrl-C")
    arguments = parser.parse_args(argv)
    lab = Lab(os.environ.get("ZOLDER_LAB") or "cluster")
    folder = lab.cache.root / "cloud" / lab.name
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    started, faults = time.monotonic(), []
    try:
        with ExitStack() as stack:
            with Progress("cloud", EXPECTED, lab.cache.root / "timings.json") as progress:
                cloud = stack.enter_context(
                    running_cloud(
                        lab, folder, progress, native=arguments.threads == "native", arrangement=CLUSTER
                    )
                )
            api = cinder.api_client(cloud.identity)
            if "place" in arguments.steps:
                tell("Two pools of one back end", place(api, lab.san))
            if "image" in arguments.steps:
                tell("Volumes of an image", image(cloud))
                tell("An image that is a volume", upload_and_clone(cloud))
                tell("After the images", [leave_nothing(api, lab.san, PARENTS)])
            if "crowd" in arguments.steps:
                faults = run_crowd(cloud, arguments)
            if arguments.keep:
                stay(cloud)
    finally:
        if not lab.keep:
            lab.down()
        shutil.rmtree(folder / "data", ignore_errors=True)
        print(f"(logs: {folder / 'logs'}; {time.monotonic() - started:.0f} s in all)", flush=True)
    tell("Faults", faults or ["none"])
    return 1 if faults else 0


def run_crowd(cloud: Cloud, wanted: argparse.Namespace) -> list[str]:
    """Have clients work while services are killed and started again; return what was not as it should be."""
    ledger, api, clients = Ledger(wanted.operations), cinder.api_client(cloud.identity), wanted.clients
    kinds = make_types(cloud)
    workers = [
        Worker(number, cinder.api_client(cloud.identity), kinds, ledger, wanted.seed)
        for number in range(clients)
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as threads:
        working = [threads.submit(worker.work) for worker in workers]
        try:
            killed_at = kill_in_the_middle(cloud, ledger, wanted.kills)
        except BaseException:
            # Else the clients would go on, and be waited for.
            ledger.stop()
            raise
        for one in working:
            one.result()
    seconds = time.monotonic() - began
    tell(f"{len(ledger.entries)} operations of {clients} clients in {seconds:.0f} s", ledger.lines())
    faults = [f"not done without a cause: {entry.line()}" for entry in unexpected(ledger.entries, killed_at)]
    faults += check_both_worked(cloud)
    unsettled = settle(cloud)
    at_work = [entry for entry in ledger.entries if entry.was_at_work(killed_at)]
    tell(
        f"At work when a service was killed: {len(at_work)}",
        [
            f"  {entry.kind} of {entry.subject}: {entry.end}{f' ({entry.why})' if entry.why else ''}"
            for entry in at_work
        ],
    )
    subjects = {entry.subject for entry in at_work}
    tell("Left for an operator", [f"  {what}" for what in unsettled.values()] or ["  nothing"])
    sides = read_sides(api, cloud.lab.san, PARENTS)
    differences = compare(sides, unsettled=set(unsettled))
    tell("Cinder and the SAN", [f"  {line}" for line in [sides.line(), *(differences or ["no difference"])]])
    faults += differences
    orphans = find_orphans(cloud)
    tell("zolder orphans", [f"  {line}" for line in orphans.lines])
    faults += [line for line in orphans.found if not any(name in line for name in {*unsettled, *subjects})]
    repair(api, unsettled)
    after = compare(read_sides(api, cloud.lab.san, PARENTS))
    orphans = find_orphans(cloud)
    tell(f"After the repair of {len(unsettled)}", [f"  {line}" for line in after or ["no difference"]])
    tell("zolder orphans", [f"  {line}" for line in orphans.lines])
    faults += [f"after the repair: {line}" for line in (*after, *orphans.found)]
    delete_all(api)
    left = read_sides(api, cloud.lab.san, PARENTS)
    exports = cloud.lab.san.succeed("find /sys/kernel/config/target/iscsi -maxdepth 1 -name 'iqn*'").split()
    faults += [f"left after all was deleted: {zvol}" for zvol in (*left.zvols, *exports)]
    tell("After all was deleted", [f"  {len(left.zvols)} zvols, {len(exports)} targets"])
    return faults


def kill_in_the_middle(cloud: Cloud, ledger: Ledger, kills: int) -> list[float]:
    """Kill the services in turn, evenly over the operations, start each again, and return when that was.

    In the main thread, which everything that runs is tied to (lab.cloud.service).
    """
    moments = []
    for number in range(kills):
        enough = ledger.wanted * (number + 1) // (kills + 1)
        wait_until(
            lambda enough=enough: len(ledger.entries) >= enough,  # type: ignore[misc]
            CROWD_SECONDS,
            f"{enough} operations",
            interval_seconds=0.1,
        )
        name = CLUSTER.members[number % len(CLUSTER.members)]
        moments.append(time.monotonic())
        cloud.cinder.kill_member(name)
        print(f"killed {name} behind {len(ledger.entries)} operations", flush=True)
        cloud.cinder.start_member(name, cloud.settings, cloud.identity)
        print(f"{name} works again, {time.monotonic() - moments[-1]:.0f} s later", flush=True)
    return moments


def make_types(cloud: Cloud) -> tuple[str, str]:
    """Make two volume types that a volume may be retyped between in place."""
    api, made = cinder.api_client(cloud.identity), []
    for compression in ("lz4", "off"):
        kind = api.volume_types.create(f"compression {compression}")
        kind.set_keys({"zolder:compression": compression})
        made.append(str(kind.id))
    return made[0], made[1]


def check_both_worked(cloud: Cloud) -> list[str]:
    """Return what shows that one of the two services had nothing to do."""
    counts = {
        name: (cloud.ground.logs / f"cinder-volume-{name}.log")
        .read_text(errors="replace")
        .count(" successfully")
        for name in CLUSTER.members
    }
    tell(
        "Operations that each service's log tells of",
        [f"  {name}: {count}" for name, count in counts.items()],
    )
    return [f"{name} did nothing" for name, count in counts.items() if count < 2]  # noqa: PLR2004 - its start is one


def settle(cloud: Cloud) -> dict[str, str]:
    """Give Cinder time for what it cleans up by itself; return what is in no status of rest behind that."""
    api, found = cinder.api_client(cloud.identity), {}

    def is_settled() -> bool:
        nonlocal found
        found = find_unsettled(api)
        return all(what.endswith(" error") for what in found.values())

    try:
        wait_until(is_settled, SETTLE_SECONDS, "Cinder to settle", interval_seconds=2)
    except LabError:
        return found
    return found


def tell(heading: str, lines: list[str]) -> None:
    """Print some lines below a heading."""
    print("\n".join(["", f"{heading}:", *lines]), flush=True)
