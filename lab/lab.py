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
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from lab.build import EXPECTED, build_image, find_image
from lab.bytecode import Bytecode
from lab.cache import Cache, read_json, write_json
from lab.command import capture
from lab.errors import LabError
from lab.golden import Golden, ensure_golden, find_golden, restore
from lab.install import code_digest, install_code
from lab.keys import known_hosts
from lab.machine import Machine, Place
from lab.ports import free_ports
from lab.progress import Progress
from lab.qemu import COMPUTE, SAN, SPECS, Hardware, Process, Spec, find_stray

ADDRESSES = {"san": "192.168.77.1", "compute": "192.168.77.2"}
SECOND_ADDRESSES = {"san": "192.168.78.1", "compute": "192.168.78.2"}
INITIATOR = "iqn.2004-10.org.zolder:compute"
START_ATTEMPTS = 3
# They take 2 to 5; a machine that is busy with other things may take many times that.
READY_SECONDS = 120.0


class Lab:
    """The guests of one name; several names may run side by side."""

    def __init__(self, name: str, cache: Cache | None = None, output: TextIO = sys.stderr) -> None:
        """Take hold of a lab, running or not.

        :param output: where progress is shown.
        """
        self.name = name
        self.cache = cache or Cache()
        self.folder = self.cache.run_folder(name)
        self._output = output
        self._machines: dict[str, Machine] = {}
        self._taken_from: tuple[int, int] = (0, 0)

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
            raise LabError(f"the lab {self.name!r} is not up; start it with `python -m lab up`")
        if name not in machines:
            raise LabError(f"there is no machine {name!r}; there are {', '.join(machines)}")
        return machines[name]

    def machines(self) -> dict[str, Machine]:
        """Return the machines by name; none when the lab is not up."""
        path = self.folder / "state.json"
        try:
            status = path.stat()
        except FileNotFoundError:
            self._machines = {}
            return {}
        # Another process may have restarted the lab since we looked.
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._taken_from:
            self._machines = self._take_hold()
            self._taken_from = stamp
        return self._machines

    def is_up(self) -> bool:
        """Say whether all machines run."""
        machines = self.machines()
        return bool(machines) and all(machine.is_running() for machine in machines.values())

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
        if (image := find_image(self.cache)) and (golden := find_golden(self.cache, image)):
            return golden
        with Progress("build", EXPECTED, self.cache.root / "timings.json", self._output) as progress:
            image = build_image(self.cache, progress)
            golden = ensure_golden(self.cache, image, progress)
        self.cache.prune({*image.entries, golden.folder})
        return golden

    def up(self) -> None:
        """Make both machines run, from the golden state, with the working tree's code on the SAN.

        What runs already is left as it is.
        """
        golden = self.build()
        with self.cache.locked(f"run-{self.name}"):
            if not self.is_up():
                self._stop()
                self._start(golden)
            self._install()

    def reset(self) -> None:
        """Bring both machines back to the golden state, with the working tree's code on the SAN."""
        with self.cache.locked(f"run-{self.name}"):
            machines = list(self.machines().values())
            if not machines:
                raise LabError(f"the lab {self.name!r} is not up; start it with `python -m lab up`")
            for machine in machines:
                machine.remote.close()
                if not machine.is_running():
                    machine.start(paused=True)
            self._write_state(installed="")
            restore(machines)
            self._wait_until_ready()
            self._install()

    def down(self) -> None:
        """End the machines of this lab, and forget their disks."""
        with self.cache.locked(f"run-{self.name}"):
            self._stop()

    def install(self) -> bool:
        """Put the working tree's code on the SAN, and say whether it was not there yet."""
        with self.cache.locked(f"run-{self.name}"):
            return self._install()

    # How

    def _start(self, golden: Golden) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        image = golden.hardware.image
        keys = self._keys()
        for attempt in range(1, START_ATTEMPTS + 1):
            ports = free_ports([spec.name for spec in SPECS])
            (self.folder / "known_hosts").write_text(known_hosts(keys, ports))
            # Sparse, and shared with the golden file where the file system can.
            names = [str(golden.folder / spec.name) for spec in SPECS]
            capture(["cp", "-r", "--sparse=auto", "--reflink=auto", *names, str(self.folder)])
            self._machines = {
                spec.name: Machine(spec, self._place(spec), golden.hardware, ports[spec.name], None)
                for spec in SPECS
            }
            try:
                for machine in self._machines.values():
                    machine.start(paused=True)
            except LabError:
                self._stop()
                if attempt == START_ATTEMPTS:  # else a port may have been taken under us
                    raise
                continue
            break
        self._write_state(
            golden=str(golden.folder),
            image=str(image),
            accelerator=golden.hardware.accelerator,
            installed="",
            entries=[str(golden.folder), str(image)],
        )
        restore(list(self._machines.values()))
        self._wait_until_ready()

    def _stop(self) -> None:
        for machine in self.machines().values():
            machine.power_off_hard()
        # Those of a run that was killed, or failed, before it could write down what it had started.
        for spec in SPECS:
            if process := find_stray(self.folder / spec.name):
                process.kill()
        self._machines = {}
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _wait_until_ready(self) -> None:
        def ready(machine: Machine) -> None:
            machine.wait_until_ready(READY_SECONDS)

        machines = list(self.machines().values())
        with ThreadPoolExecutor(max_workers=len(machines)) as workers:
            list(workers.map(ready, machines))
        self.compute.wait_until(f"ping -c 1 -W 1 {ADDRESSES['san']}", READY_SECONDS, "the private link")

    def _install(self) -> bool:
        digest = code_digest()
        if self._state().get("installed") == digest:
            return False
        install_code(self.san, Bytecode(self.cache, Path(str(self._state()["image"])).name))
        self._write_state(installed=digest)
        return True

    def _keys(self) -> Path:
        keys = self.cache.find("keys", "1")
        if keys is None:
            raise LabError("the lab has not been built yet; `python -m lab build`")
        return keys

    def _place(self, spec: Spec) -> Place:
        return Place(self.folder / spec.name, self.folder, self._keys(), self.folder / "known_hosts")

    def _state(self) -> dict[str, object]:
        path = self.folder / "state.json"
        return read_json(path) if path.exists() else {}

    def _write_state(self, **changes: object) -> None:
        """Write down what runs, for whoever comes next."""
        machines = {
            name: {
                "ssh_port": machine.ssh_port,
                "pid": machine.process.pid if machine.process else 0,
                "start_time": machine.process.start_time if machine.process else 0,
            }
            for name, machine in self._machines.items()
        }
        write_json(self.folder / "state.json", self._state() | {"machines": machines} | changes)
        status = (self.folder / "state.json").stat()
        self._taken_from = (status.st_mtime_ns, status.st_ino)

    def _take_hold(self) -> dict[str, Machine]:
        state = self._state()
        hardware = Hardware(Path(str(state["image"])), str(state["accelerator"]))
        running = state["machines"]
        if not isinstance(running, dict):
            raise LabError(f"{self.folder / 'state.json'} is not the lab's; `python -m lab down` clears up")
        found = {}
        for spec in SPECS:
            entry = running[spec.name]
            process = Process(entry["pid"], entry["start_time"]) if entry["pid"] else None
            found[spec.name] = Machine(spec, self._place(spec), hardware, entry["ssh_port"], process)
        return found
