"""Cinder against the lab's SAN: ``python -m lab cinder up|down|status``.

One process (lab.cinder_service) with SQLite, without a broker and without authentication, on a port of this
machine's loopback. Its state is in the lab's run folder and goes with the lab; what it made on the SAN stays
there, so after `python -m lab reset` start it with ``--fresh``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cinderclient import exceptions
from keystoneauth1.exceptions import ClientException

from lab.backends import EACH_EXPORTER, ONE, Backend, write_configuration
from lab.cache import read_json, write_json
from lab.errors import LabError, TimedOut, indent
from lab.lab import Lab
from lab.ports import free_ports
from lab.process import Process
from lab.volumes import PROJECT, USER, Volumes
from lab.waiting import wait_until

START_SECONDS = 60.0
STOP_SECONDS = 5.0


class Cinder:
    """The lab's Cinder, running or not."""

    def __init__(self, lab: Lab, backends: tuple[Backend, ...] = ONE) -> None:
        """Take hold of the Cinder of a lab.

        :param backends: what it is configured with when it is started.
        """
        self._lab = lab
        self._backends = backends
        self.folder = lab.folder / "cinder"
        self.log = self.folder / "cinder.log"

    @property
    def url(self) -> str:
        """Where its API is.

        :raises LabError: it does not run.
        """
        if not self.is_up():
            raise LabError(
                f"Cinder of lab {self._lab.name!r} is not up; start it with `python -m lab cinder up`"
            )
        return f"http://127.0.0.1:{self._state()['port']}/v3"

    def volumes(self) -> Volumes:
        """Return a client of its API."""
        return Volumes(self.url)

    def is_up(self) -> bool:
        """Say whether its process runs."""
        process = self._process()
        return process is not None and process.is_alive()

    def up(self, *, fresh: bool = False) -> None:
        """Start it and wait until a volume could be created; what runs already is left as it is.

        :param fresh: begin with an empty database.
        :raises LabError: the lab is not up, or Cinder does not come up.
        """
        if not self._lab.is_up():
            raise LabError(f"the lab {self._lab.name!r} is not up; start it with `python -m lab up`")
        if fresh:
            self.down()
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.is_up():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        port = free_ports(["cinder"])["cinder"]
        self.log.unlink(missing_ok=True)
        process = self._start(self._write_configuration(port))
        write_json(
            self.folder / "process.json", {"pid": process.pid, "start_time": process.start_time, "port": port}
        )
        try:
            wait_until(lambda: self._is_ready(process), START_SECONDS, "Cinder to know its back ends as up")
        except TimedOut as err:
            self.down()
            raise LabError("\n".join([str(err), *indent(self.complaint(), last=25)])) from err

    def down(self) -> None:
        """End it, gently first. Its database stays for the next start."""
        process = self._process()
        if process is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except TimedOut:
                process.kill()
        (self.folder / "process.json").unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """Return whether it runs, where, and how it sees its back end."""
        if not self.is_up():
            return {"up": False, "log": str(self.log)}
        pool, *_ = self.volumes().pools() or [{}]
        return {
            "up": True,
            "url": self.url,
            "pid": self._state()["pid"],
            "pool": pool.get("name"),
            "backend_state": pool.get("backend_state"),
            "free_gib": pool.get("free_capacity_gb"),
            "log": str(self.log),
        }

    def command_line(self) -> str:
        """Return the words with which a person's `cinder` command reaches it."""
        program = Path(sys.executable).with_name("cinder")
        words = [str(program), "--os-auth-type", "noauth", "--os-endpoint", self.url, "--os-user-id", USER]
        return shlex.join([*words, "--os-project-id", PROJECT, "--os-volume-api-version", "3.71"])

    def complaint(self) -> str:
        """Return the warnings and errors of its log, and what it said beside it."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        telling = [line for line in lines if " ERROR " in line or " WARNING " in line]
        output = (self.folder / "output.log").read_text(errors="replace")
        return "\n".join([*telling, output.strip(), f"(log: {self.log})"])

    def _start(self, configuration: Path) -> Process:
        with (self.folder / "output.log").open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "lab.cinder_service", str(configuration)],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Process.of(started.pid)

    def _write_configuration(self, port: int) -> Path:
        # Cinder's wheel puts these beside the environment's programs.
        etc = Path(sys.prefix) / "etc/cinder"
        own = {"folder": str(self.folder), "log": str(self.log), "etc": str(etc), "port": str(port)}
        path = self.folder / "cinder.conf"
        path.write_text(write_configuration(self._backends, self._lab.environment() | own))
        return path

    def _is_ready(self, process: Process) -> bool:
        if not process.is_alive():
            raise TimedOut("Cinder ended while it started")
        try:
            pools = self.volumes().pools()
        except (ClientException, exceptions.ClientException, OSError):
            return False  # its API does not answer yet
        up = {pool.get("volume_backend_name") for pool in pools if pool.get("backend_state") == "up"}
        return up >= {backend.name for backend in self._backends}

    def _state(self) -> dict[str, Any]:
        path = self.folder / "process.json"
        return dict(read_json(path)) if path.exists() else {}

    def _process(self) -> Process | None:
        state = self._state()
        return Process(state["pid"], state["start_time"]) if state else None


def main(argv: list[str]) -> int:
    """Run one verb and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab cinder", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start Cinder and wait until it can create a volume")
    up.add_argument("--fresh", action="store_true", help="with an empty database")
    up.add_argument("--exporters", action="store_true", help="with a back end for each exporter of the SAN")
    verbs.add_parser("down", help="end it; its database stays")
    verbs.add_parser("status", help="say how it is").add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    every = arguments.verb == "up" and arguments.exporters
    cinder = Cinder(Lab.default(), EACH_EXPORTER if every else ONE)
    started = time.monotonic()
    match arguments.verb:
        case "up":
            cinder.up(fresh=arguments.fresh)
            print(f"Cinder answers at {cinder.url} ({time.monotonic() - started:.1f} s); log: {cinder.log}")
            print(f"  {cinder.command_line()} list")
        case "down":
            cinder.down()
        case "status":
            return show_status(cinder, as_json=arguments.json)
    return 0


def show_status(cinder: Cinder, *, as_json: bool) -> int:
    """Print how it is; exit status 0 if it is up, 3 if it is not."""
    status = cinder.status()
    if as_json:
        print(json.dumps(status))
    else:
        print("\n".join(f"{name}: {value}" for name, value in status.items()))
    return 0 if status["up"] else 3
