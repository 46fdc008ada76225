"""``make demo``: a Cinder volume's whole life on real ZFS, told step by step as it happens.

Everything goes through Cinder's REST API and os-brick, as in a cloud. It ends with one line of verdict and
exits 0 only if all held; nothing is left running unless KEEP=1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.cinder import Cinder
from lab.conversation import Conversation
from lab.errors import LabError, indent
from lab.holdings import compare, dump_holdings
from lab.lab import Lab
from lab.machine import Machine
from lab.story import Step, Story
from lab.volumes import Volumes

INITIATOR = Path(__file__).parent / "inside/initiator.py"
INITIATOR_COMMAND = "python3 -I -S /usr/local/lib/zolder-lab/with_brick.py initiator.py"
GIB = 2**30
FILES = 6
FILE_BYTES = 2**20

Sums = dict[str, str]


@dataclass(frozen=True)
class Attached:
    """A volume that the compute machine has."""

    volume: str
    attachment: str
    connection: dict[str, Any]
    device: str


class Demo:
    """The life of a volume, on a lab and a Cinder that are up."""

    def __init__(self, story: Story, volumes: Volumes, compute: Conversation) -> None:
        """Tell of ``volumes`` in ``story``, attached in ``compute``."""
        self._story = story
        self._volumes = volumes
        self._compute = compute
        self._connector: dict[str, Any] = compute.ask("properties")

    def run(self) -> None:
        """Live it from the first volume to the last.

        :raises LabError: a step failed, or a checksum or a size is not what it has to be.
        """
        story, volumes = self._story, self._volumes
        with story.step("create a volume") as step:
            volume = volumes.create(1)
            self._tell(step, volume)
        with story.step("attach it in compute") as step:
            attached = self._attach(volume)
            self._tell(step, volume)
            step.say(attached.device)
        with story.step("make a file system, write files") as step:
            self._compute.ask("make_file_system", device=attached.device)
            first = self._write(step, attached, "first")
        with story.step("snapshot it") as step:
            snapshot = volumes.create_snapshot(volume)
            step.say("snapshot available")
        with story.step("write more files") as step:
            second = first | self._write(step, attached, "second")
        with story.step("clone the snapshot to a volume") as step:
            clone = volumes.create(1, snapshot=snapshot)
            self._tell(step, clone)
        with story.step("grow it while attached") as step:
            volumes.extend(volume, 2)
            self._see_growth(step, attached)
        with story.step("write into the new space") as step:
            third = second | self._write(step, attached, "third")
        with story.step("detach it") as step:
            self._detach(attached)
            self._tell(step, volume)
        for title, which, sums in (
            ("read the clone", clone, first),
            ("read the volume again", volume, third),
        ):
            with story.step(title) as step:
                self._compare(step, which, sums)
        with story.step("delete the snapshot first") as step:
            volumes.delete_snapshot(snapshot)
            step.say("snapshot gone")
        with story.step("delete all volumes") as step:
            for which in (clone, volume):
                volumes.delete(which)
            step.say(f"{len(volumes.names())} volumes")

    def _tell(self, step: Step, volume: str) -> None:
        found = self._volumes.show(volume)
        step.say(f"{found['status']}, {found['size']} GiB")

    def _attach(self, volume: str) -> Attached:
        attachment, connection = self._volumes.attach(volume, self._connector)
        device = self._compute.ask("connect", connection=connection)
        self._volumes.complete(attachment)
        return Attached(volume, attachment, connection, device)

    def _detach(self, attached: Attached) -> None:
        self._compute.ask("disconnect", connection=attached.connection, device=attached.device)
        self._volumes.detach(attached.attachment)
        self._volumes.wait(attached.volume, "available")

    def _write(self, step: Step, attached: Attached, name: str) -> Sums:
        sums: Sums = self._compute.ask(
            "write_files", device=attached.device, name=name, count=FILES, size_bytes=FILE_BYTES
        )
        step.say(f"{len(sums)} files of {FILE_BYTES // 2**20} MiB")
        return sums

    def _see_growth(self, step: Step, attached: Attached) -> None:
        size = self._compute.ask("grow", connection=attached.connection)
        if size != 2 * GIB:
            raise LabError(f"the initiator sees {size} bytes where the volume has {2 * GIB}")
        self._compute.ask("grow_file_system", device=attached.device)
        self._tell(step, attached.volume)
        step.say(f"initiator sees {size // GIB} GiB")

    def _compare(self, step: Step, volume: str, expected: Sums) -> None:
        attached = self._attach(volume)
        found: Sums = self._compute.ask("read_files", device=attached.device)
        if found != expected:
            wrong = sorted(name for name in found | expected if found.get(name) != expected.get(name))
            raise LabError(f"files of volume {volume} are not what was written: {', '.join(wrong)}")
        step.say(f"{len(found)} of {len(expected)} checksums equal")
        self._detach(attached)


def main(argv: list[str]) -> int:
    """Run the demo and return the exit status."""
    argparse.ArgumentParser(prog="python -m lab demo", description=__doc__).parse_args(argv)
    started = time.monotonic()
    lab = Lab(os.environ.get("ZOLDER_LAB") or "demo")
    cinder = Cinder(lab)
    try:
        steps = tell(lab, cinder)
    except LabError as err:
        print(f"FAILED after {time.monotonic() - started:.0f} s: {err}")
        if cinder.log.exists():
            print("\n".join(["  what Cinder's log says:", *indent(cinder.complaint(), last=15)]))
        return 1
    finally:
        leave(lab, cinder)
    print(
        f"All held: {steps} steps in {time.monotonic() - started:.0f} s; every checksum is equal,"
        " zpools and targets are as before."
    )
    return 0


def tell(lab: Lab, cinder: Cinder) -> int:
    """Bring all up and tell the story; return the number of its steps."""
    started = time.monotonic()
    if lab.is_up():
        cinder.down()
        lab.reset()
    else:
        lab.up()
    print(f"    san and compute are up ({time.monotonic() - started:.1f} s)")
    with ExitStack() as stack:
        # Each of these is some seconds of importing Python modules.
        with ThreadPoolExecutor() as workers:
            compute = workers.submit(Conversation, lab.compute, [INITIATOR], INITIATOR_COMMAND)
            story = workers.submit(Story, lab.san)
            before = workers.submit(dump_holdings, lab.san)
            cinder.up(fresh=True)
        conversation = stack.enter_context(closing(compute.result()))
        tale = stack.enter_context(closing(story.result()))
        demo = Demo(tale, cinder.volumes(), conversation)
        print(f"    Cinder answers and knows its back end ({time.monotonic() - started:.1f} s)")
        tale.begin()
        demo.run()
        with tale.step("see who did it on the SAN") as step:
            step.say(f"{require_unprivileged(lab.san)} agents, all without root")
        with tale.step("compare zpools and targets") as step:
            after = dump_holdings(lab.san)
            if changes := compare(before.result(), after):
                raise LabError("\n    ".join(["the SAN is not as before:", *changes]))
            step.say(f"{len(after)} lines of a dump equal")
        return tale.steps


def require_unprivileged(san: Machine) -> int:
    """Return how many processes of agents run on the SAN.

    :raises LabError: there is none, or one is root's or has a capability.
    """
    pids = "$(pgrep -f '[s]erve --identity')"
    look = f"for pid in {pids}; do grep -hsE '^(Uid|CapEff)' /proc/$pid/status; done; true"
    lines = san.succeed(look).split("\n")
    users = {line.split()[2] for line in lines if line.startswith("Uid")}
    rights = [line.split()[1] for line in lines if line.startswith("CapEff")]
    if not rights or "0" in users or any(int(right, 16) for right in rights):
        raise LabError(f"{len(rights)} agents run as uid {users} with capabilities {rights}")
    return len(rights)


def leave(lab: Lab, cinder: Cinder) -> None:
    """Take all down, or with KEEP=1 say how to talk to it."""
    if not lab.keep:
        cinder.down()
        lab.down()
        return
    if not lab.is_up():
        return
    python = f"ZOLDER_LAB={lab.name} {os.path.relpath(sys.executable)} -m lab"
    print("\nAll is left up. In this folder:")
    if cinder.is_up():
        print(f"    Cinder    {cinder.command_line()} list")
        print(f"    its log   {cinder.log}")
    print(f"    SAN       {python} ssh san")
    print(f"    compute   {python} ssh compute")
    print(f"    the end   {python} cinder down; {python} down")
