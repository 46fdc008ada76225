"""nvme-cli in a machine of the lab: one NVMe/TCP initiator, with what tests want to know of it.

As os-brick it never gives up a lost controller (``--ctrl-loss-tmo=-1``), so that what ends is ended by the
target. Names are given at each call: all the lab's machines boot from one image and its /etc/nvme.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zolder.model import Chap, Export
from zolder.names import InitiatorName, Portal

if TYPE_CHECKING:
    from lab import Machine

RECONNECT_SECONDS = 1


class NvmeInitiator:
    """One host NQN in one machine."""

    def __init__(self, machine: Machine, name: InitiatorName) -> None:
        """Use a name that ends with a UUID, which is the host's id as well."""
        self.name = name
        self.machine = machine
        self._names = ["-q", str(name), "-I", name.rpartition(":")[2]]

    def discover(self, portal: Portal) -> list[str]:
        """Return the subsystems that a portal shows to it, sorted."""
        found = self.machine.succeed(["nvme", "discover", *_where(portal), *self._names, "-o", "json"])
        records = json.loads(found)["records"] if found.strip() else []
        return sorted(entry["subnqn"] for entry in records if entry["subtype"] == "nvme subsystem")

    def log_in(self, export: Export, chap: Chap | None = None, portal: Portal | None = None) -> bool:
        """Connect over one portal, the export's first if none is named; say whether it was let in."""
        words = ["nvme", "connect", *_where(portal or export.portals[0]), *self._names, "-n", export.target]
        # The key is a made-up one, and nvme-cli takes it in no other way.
        words += ["--dhchap-secret", chap.secret] if chap else []
        done = self.machine.run([*words, "-l", "-1", "-c", str(RECONNECT_SECONDS)])
        if done.exit_status == 0:
            return True
        said = done.stderr.lower()
        # A port without subsystems is gone itself; all else is the target's word.
        known = (
            "failed to write to nvme-fabrics",
            "could not add new controller",
            "connection refused",
            "rejected",
        )
        assert any(words in said for words in known), done.stderr
        return False

    def log_out(self, export: Export) -> None:
        """Let go of a subsystem, in whatever state it is."""
        self.machine.run(["nvme", "disconnect", "-n", export.target])

    def is_logged_in(self, export: Export) -> bool:
        """Say whether a controller of it is live."""
        return "live" in self.states(export)

    def states(self, export: Export) -> list[str]:
        """Return the states of all its controllers: live, connecting, deleting and so on."""
        return self.machine.run(_controllers(export, "cat $c/state")).stdout.split()

    def disk(self, export: Export) -> str:
        """Wait for the disk behind a subsystem and return its kernel name, such as ``nvme0n1``."""
        find = (
            f'for s in /sys/class/nvme-subsystem/*; do [ "$(cat $s/subsysnqn)" = {export.target} ] &&'
            " ls $s | grep -E '^nvme[0-9]+n[0-9]+$'; done 2>/dev/null"
        )

        def found() -> str:
            return self.machine.run(find).stdout.strip()

        return str(self.machine.wait_until(found, 60, f"a disk of {export.target}"))

    def rescan(self, export: Export) -> None:
        """Do nothing: the target says so itself when a namespace's size changes (NVMe base, 5.2: notices)."""

    def identity(self, export: Export) -> dict[str, str]:
        """Return what tells this disk from all others in the world, by the names that sysfs gives it."""
        folder = f"/sys/block/{self.disk(export)}"
        found = {
            name: self.machine.succeed(f"cat {folder}/{name}").strip() for name in ("uuid", "nguid", "wwid")
        }
        serials = self.machine.succeed(_controllers(export, "cat $c/serial")).split()
        return found | {"serial": serials[0]}


def _where(portal: Portal) -> list[str]:
    address, _, port = portal.rpartition(":")
    return ["-t", "tcp", "-a", address.strip("[]"), "-s", port]


def _controllers(export: Export, command: str) -> str:
    return (
        f'for c in /sys/class/nvme/nvme*; do [ "$(cat $c/subsysnqn)" = {export.target} ] && {command}; done'
        " 2>/dev/null"
    )
