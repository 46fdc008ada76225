"""A lab: the two guests of one name, from nothing to ready and back.

    lab = Lab.default()
    lab.up()
    lab.san.succeed("zpool status")
    lab.reset()

What runs is written down in the lab's run folder, so any process can take hold of it. Changes of what runs
are made under a lock; it is safe to be killed at any point and to start again.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TextIO

from lab.build import EXPECTED, build_image, find_image
from lab.bytecode import Bytecode
from lab.cache import Cache
from lab.command import capture
from lab.errors import LabError
from lab.golden import Golden, ensure_golden, find_golden
from lab.install import code_digest, install_code
from lab.keys import known_hosts
from lab.machine import Machine, Place
from lab.packages import TOOLS, missing_packages
from lab.ports import free_ports
from lab.progress import Progress
from lab.qemu import find_qemu
from lab.runfile import RunFile, State
from lab.snapshot import restore
from lab.spec import COMPUTE, SAN, SECOND_SAN, SPECS, Hardware
from lab.together import run_together

ADDRESSES = {"san": "192.168.77.1", "compute": "192.168.77.2"}
SECOND_ADDRESSES = {"san": "192.168.78.1", "compute": "192.168.78.2"}
INITIATOR = "iqn.2004-10.org.zolder:compute"
# It becomes a folder, and part of the paths of sockets.
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
START_ATTEMPTS = 3
# They take 2 to 5; a machine that is busy with other things may take many times that.
READY_SECONDS = 120.0


class Lab:
    """The guests of one name; several names may run side by side."""

    def __init__(self, name: str, cache: Cache | None = None, output: TextIO = sys.stderr) -> None:
        """Take hold of a lab, running or not.

        :param output: where progress is shown.
        :raises LabError: when the name will not do for a folder.
        """
        if not NAME.fullmatch(name):
            raise LabError(f"{name!r} is no name for a lab: letters, digits, - and _ only, 32 at most")
        self.name = name
        self.cache = cache or Cache()
        self.folder = self.cache.run_folder(name)
        self._output = output
        self._run_file = RunFile(self.folder)
        self._machines: dict[str, Machine] = {}
        self._taken_from = (0, 0)

    @classmethod
    def default(cls) -> Lab:
        """Return the lab that the environment names: ZOLDER_LAB, else "default"."""
        return cls(os.environ.get("ZOLDER_LAB") or "default")

    @property
    def keep(self) -> bool:
        """Whether machines are to be left up after a failure: KEEP=1."""
        return os.environ.get("KEEP", "") not in ("", "0")

    # What runs

    @property
    def san(self) -> Machine:
        """The machine that owns the zpools."""
        return self.machine(SAN.name)

    @property
    def compute(self) -> Machine:
        """The initiator."""
        return self.machine(COMPUTE.name)

    def machine(self, name: str) -> Machine:
        """Return a machine by its name.

        :raises LabError: when the lab is not up.
        """
        machines = self.machines()
        if not machines:
            raise self._not_up()
        if name not in machines:
            raise LabError(f"there is no machine {name!r}; there are {', '.join(machines)}")
        return machines[name]

    def machines(self) -> dict[str, Machine]:
        """Return the machines by name; none when the lab was not started."""
        # Another process may have restarted the lab since we looked.
        stamp = self._run_file.stamp()
        if stamp != self._taken_from:
            state = self._run_file.read()
            self._machines = self._take_hold(state) if state else {}
            self._taken_from = stamp
        return self._machines

    def is_up(self) -> bool:
        """Say whether all machines run, and came to their pristine state once."""
        state = self._run_file.read()
        return state is not None and state.ready and all(m.is_running() for m in self.machines().values())

    def environment(self) -> dict[str, str]:
        """Return how to reach the lab, for tests and for `python -m lab env`."""
        keys = self._keys()
        return {
            "name": self.name,
            "san_ssh_port": str(self.san.ssh_port),
            "compute_ssh_port": str(self.compute.ssh_port),
            "san_address": ADDRESSES["san"],
            "san_second_address": SECOND_ADDRESSES["san"],
            "compute_address": ADDRESSES["compute"],
            "compute_second_address": SECOND_ADDRESSES["compute"],
            "agent_key": str(keys / "agent"),
            "other_key": str(keys / "other"),
            "admin_key": str(keys / "admin"),
            "known_hosts": str(self.folder / "known_hosts"),
            "initiator": INITIATOR,
        }

    # Verbs

    def build(self) -> Golden:
        """Build whatever is missing in the cache."""
        if not missing_packages(TOOLS):
            image = find_image(self.cache)
            golden = find_golden(self.cache, image) if image else None
            if golden:
                return golden
        with Progress("build", EXPECTED, self.cache.root / "timings.json", self._output) as progress:
            image = build_image(self.cache, progress)
            golden = ensure_golden(self.cache, image, progress)
        self.cache.prune()
        return golden

    def up(self) -> None:
        """Make both machines run, from the golden state, with the working tree's code on the SAN.

        What runs already is left as it is.
        """
        golden = self.build()
        with self._changing():
            if self.is_up():
                self._install()
            else:
                self._stop()
                self._start(golden)
                self._restore()

    def reset(self) -> None:
        """Bring both machines back to the golden state, with the working tree's code on the SAN."""
        with self._changing():
            if not self.machines():
                raise self._not_up()
            for machine in self.machines().values():
                machine.remote.close()
                if not machine.is_running():
                    machine.start(paused=True)
            self._run_file.change(ready=False, installed="")
            self._restore()

    def down(self) -> None:
        """End the machines of this lab, and forget their disks."""
        with self._changing():
            self._stop()

    def install(self) -> bool:
        """Put the working tree's code on the SAN, and say whether it was not there yet."""
        with self._changing():
            return self._install()

    # How

    def _changing(self) -> AbstractContextManager[None]:
        return self.cache.locked(f"run-{self.name}")

    def _start(self, golden: Golden) -> None:
        """Start both machines, stopped before their first instruction."""
        keys = self._keys()
        image, accelerator = golden.hardware.image, golden.hardware.accelerator
        for attempt in range(1, START_ATTEMPTS + 1):
            ports = free_ports([spec.name for spec in SPECS])
            state = State(str(image), str(golden.folder), accelerator, ports)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "known_hosts").write_text(known_hosts(keys, ports))
            # Sparse, and shared with the golden files where the file system can.
            names = [str(golden.folder / spec.name) for spec in SPECS]
            capture(["cp", "-r", "--sparse=auto", "--reflink=auto", *names, str(self.folder)])
            try:
                for machine in self._take_hold(state).values():
                    machine.start(paused=True)
            except LabError:
                self._stop()
                if attempt == START_ATTEMPTS:  # else somebody may have taken a port under us
                    raise
            else:
                self._run_file.write(state)
                return

    def _stop(self) -> None:
        self._run_file.remove()
        # By their own pid files: also those of a run that was killed before it could write anything down. Our
        # shared SSH connections end with the machines.
        for spec in (*SPECS, SECOND_SAN):
            if process := find_qemu(self.folder / spec.name):
                process.kill()
        while self.folder.exists():
            # An ssh that sees its machine gone removes its own socket, between our look and our hand.
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder)

    def _restore(self) -> None:
        """Load the golden state, set the clocks, and install the working tree's code."""
        restore(list(self.machines().values()))

        def bring_san() -> None:
            self.san.wait_until_ready(READY_SECONDS)
            self._install()

        def bring_compute() -> None:
            self.compute.wait_until_ready(READY_SECONDS)
            self.compute.wait_until(f"ping -c 1 -W 1 {ADDRESSES['san']}", READY_SECONDS, "the private link")

        run_together([bring_san, bring_compute])
        self._run_file.change(ready=True)

    def _install(self) -> bool:
        state = self._run_file.read()
        if state is None:
            raise self._not_up()
        digest = code_digest()
        if state.installed == digest:
            return False
        install_code(self.san, Bytecode(self.cache, Path(state.image).name))
        self._run_file.change(installed=digest)
        return True

    def _not_up(self) -> LabError:
        return LabError(f"the lab {self.name!r} is not up; start it with `python -m lab up`")

    def _keys(self) -> Path:
        keys = self.cache.find("keys", "1")
        if keys is None:
            raise LabError("the lab has not been built yet; `python -m lab build`")
        return keys

    def _take_hold(self, state: State) -> dict[str, Machine]:
        hardware = Hardware(Path(state.image), state.accelerator)
        keys, hosts = self._keys(), self.folder / "known_hosts"
        places = {spec.name: Place(self.folder / spec.name, self.folder, keys, hosts) for spec in SPECS}
        return {
            spec.name: Machine(spec, places[spec.name], hardware, state.ssh_ports[spec.name])
            for spec in SPECS
        }
