"""open-iscsi in the lab's compute machine, and pieces of Python beside the installed agent in its SAN."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zolder.model import Chap

if TYPE_CHECKING:
    from lab import Lab, Machine

PORTAL = "192.168.77.1:3260"

_BESIDE_THE_AGENT = """
import json, os, sys, time
sys.path.insert(0, "/usr/local/lib/zolder")
from pathlib import Path
from zolder.errors import Error
from zolder.model import Chap
from zolder.names import InitiatorName, Portal
from zolder.san import configfs, device, holders, lio
given = json.load(sys.stdin)
def answer(value):
    print(json.dumps(value, default=str))
"""


def run_in_san(lab: Lab, program: str, **given: object) -> Any:  # noqa: ANN401 - whatever the program answers
    """Run a piece of Python in the SAN: it finds ``given`` and says ``answer(value)`` once."""
    command = ["python3", "-I", "-S", "-c", _BESIDE_THE_AGENT + program]
    return json.loads(lab.san.succeed(command, input=json.dumps(given), timeout_seconds=300))


class Initiator:
    """One iSCSI initiator in the compute machine: its own name, or another over an interface record."""

    def __init__(self, compute: Machine, name: str | None = None) -> None:
        """Use the machine's own initiator name, or make a record for another."""
        self._compute = compute
        self._record = name.rpartition(":")[2] if name else "default"
        if name:
            iface = f"iscsiadm -m iface -I {self._record}"
            compute.succeed(f"{iface} -o new && {iface} -o update -n iface.initiatorname -v {name}")

    def discover(self) -> list[str]:
        """Return the targets that SendTargets shows to this initiator."""
        command = f"iscsiadm -m discovery -t sendtargets -p {PORTAL} -I {self._record} -o nonpersistent"
        done = self._compute.run(command)
        # 21: "no records found", which is how open-iscsi says that nothing was shown.
        if done.exit_status not in {0, 21}:
            raise AssertionError(done.stderr)
        return sorted(line.split()[-1] for line in done.stdout.splitlines())

    def login(self, target: str, chap: Chap | None) -> int:
        """Log in once and return the exit status of iscsiadm: 0, or 24 for a refused login."""
        node = self._node(target)
        settings = {
            "node.session.initial_login_retry_max": "1",
            "node.session.timeo.replacement_timeout": "2",
        }
        if chap:
            settings |= {
                "node.session.auth.authmethod": "CHAP",
                "node.session.auth.username": chap.user,
                "node.session.auth.password": chap.secret,
            }
        updates = [f"{node} -o update -n {name} -v '{value}'" for name, value in settings.items()]
        self._compute.succeed(" && ".join([f"{node} -o new >/dev/null", *updates]))
        return self._compute.run(f"{node} --login").exit_status

    def logout(self, target: str) -> None:
        """Log out and forget the target, whatever became of it."""
        node = self._node(target)
        self._compute.run(f"{node} --logout; {node} -o delete")

    def disk(self, target: str) -> str:
        """Wait for the disk behind a session and return its kernel name, such as ``sda``."""
        sessions = "/sys/class/iscsi_session/session*"
        find = (
            f"for s in {sessions}; do"
            f' [ "$(cat $s/targetname)" = {target} ] && [ "$(cat $s/ifacename)" = {self._record} ]'
            " && ls -d $s/device/target*/*/block/*; done 2>/dev/null | grep ."
        )
        self._compute.wait_until(find, 30, f"a disk of {target}")
        return self._compute.succeed(find).split()[0].rpartition("/")[2]

    def is_logged_in(self, target: str) -> bool:
        """Return whether a session to the target is up."""
        sessions = "/sys/class/iscsi_session/session*"
        command = (
            f"for s in {sessions}; do"
            f' [ "$(cat $s/targetname)" = {target} ] && [ "$(cat $s/ifacename)" = {self._record} ]'
            ' && [ "$(cat $s/state)" = LOGGED_IN ] && exit 0; done; exit 1'
        )
        return self._compute.run(command).exit_status == 0

    def _node(self, target: str) -> str:
        return f"iscsiadm -m node -T {target} -p {PORTAL} -I {self._record}"
