"""Saved states of running machines: taken at one moment, and loaded again at one moment.

All stop, all are saved or loaded, and all go on, so that they always agree about each other. A state can be
loaded only into the devices that it was saved from (`lab.spec`).
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from lab.machine import Machine
from lab.qmp import Qmp
from lab.spec import node_names
from lab.together import run_together

TAG = "golden"


def save(machines: list[Machine]) -> None:
    """Save running machines, and end them.

    :raises LabError: when a machine refuses it.
    """
    with ExitStack() as stack:
        connections = {machine.name: stack.enter_context(machine.qmp()) for machine in machines}
        for connection in connections.values():
            connection.execute("stop")
        run_together([partial(run_on_all_disks, machine, connections, "save") for machine in machines])
        for machine in machines:
            process = machine.find_process()
            connections[machine.name].execute("quit")
            if process is not None:
                process.wait()


def restore(machines: list[Machine]) -> None:
    """Load the saved state into machines that run, paused or not.

    :raises LabError: when a machine refuses it.
    """
    with ExitStack() as stack:
        connections = {machine.name: stack.enter_context(machine.qmp()) for machine in machines}
        for connection in connections.values():
            connection.execute("stop")
        run_together([partial(run_on_all_disks, machine, connections, "load") for machine in machines])
        for connection in connections.values():
            connection.execute("cont")


def run_on_all_disks(machine: Machine, connections: dict[str, Qmp], verb: str) -> None:
    """Save or load one machine: the first disk holds the memory."""
    nodes = node_names(machine.spec)
    connections[machine.name].run_job(f"snapshot-{verb}", verb, tag=TAG, vmstate=nodes[0], devices=nodes)
