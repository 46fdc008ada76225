"""open-iscsi in the lab's compute machine: one initiator, with what tests want to know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zolder.model import Chap

if TYPE_CHECKING:
    from lab import Machine

PORTAL = "192.168.77.1:3260"

# Refused once is refused, and what a closed session had under way fails soon: tests wait for both.
_SETTINGS = {
    "node.session.initial_login_retry_max": "1",
    "node.session.timeo.replacement_timeout": "1",
    # How long it knocks where nobody listens: 15 s, if it is not told.
    "node.conn[0].timeo.login_timeout": "8",
}


class Initiator:
    """One iSCSI initiator in the compute machine: its own name, or another over an interface record."""

    def __init__(self, compute: Machine, name: str | None = None, *, portal: str = PORTAL) -> None:
        """Use the machine's own initiator name, or make a record for another.

        :param portal: where it looks for targets.
        """
        self._compute = compute
        self._portal = portal
        self._record = name.rpartition(":")[2] if name else "default"
        if name:
            iface = f"iscsiadm -m iface -I {self._record}"
            compute.succeed(
                f"{iface} >/dev/null 2>&1 || {iface} -o new;"
                f" {iface} -o update -n iface.initiatorname -v {name}"
            )

    def discover(self) -> list[str]:
        """Return the targets that SendTargets shows to this initiator."""
        command = f"iscsiadm -m discovery -t sendtargets -p {self._portal} -I {self._record} -o nonpersistent"
        done = self._compute.run(command)
        # 21: "no records found", which is how open-iscsi says that nothing was shown.
        if done.exit_status not in {0, 21}:
            raise AssertionError(done.stderr)
        return sorted(line.split()[-1] for line in done.stdout.splitlines())

    def login(self, target: str, chap: Chap | None) -> int:
        """Log in once and return the exit status of iscsiadm: 0, or 24 for a refused login."""
        settings = dict(_SETTINGS)
        if chap:
            settings |= {
                "node.session.auth.authmethod": "CHAP",
                "node.session.auth.username": chap.user,
                "node.session.auth.password": chap.secret,
            }
        if chap and chap.target_user and chap.target_secret:
            settings |= {
                "node.session.auth.username_in": chap.target_user,
                "node.session.auth.password_in": chap.target_secret,
            }
        node = self._node(target)
        update = " ".join(f"-n {name} -v '{value}'" for name, value in settings.items())
        prepare = f"{node} -o new >/dev/null && {node} -o update {update}"
        return self._compute.run(f"{{ {prepare}; }} || exit 99; exec {node} --login").exit_status

    def logout(self, target: str) -> None:
        """Log out and forget the target, whatever became of it."""
        node = self._node(target)
        self._compute.run(f"{node} --logout; {node} -o delete")

    def disk(self, target: str) -> str:
        """Wait for the disk behind a session and return its kernel name, such as ``sda``."""
        find = self._for_each_session(target, "ls -d $s/device/target*/*/block/* 2>/dev/null")

        def found() -> str:
            return self._compute.run(find).stdout.strip().rpartition("/")[2]

        return str(self._compute.wait_until(found, 60, f"a disk of {target}"))

    def is_logged_in(self, target: str) -> bool:
        """Return whether a session to the target is up."""
        show = self._for_each_session(target, "cat $s/state")
        return self._compute.run(show).stdout.strip() == "LOGGED_IN"

    def _for_each_session(self, target: str, command: str) -> str:
        ours = f'[ "$(cat $s/targetname)" = {target} ] && [ "$(cat $s/ifacename)" = {self._record} ]'
        return f"for s in /sys/class/iscsi_session/session*; do {ours} && {command}; done 2>/dev/null"

    def _node(self, target: str) -> str:
        return f"iscsiadm -m node -T {target} -p {self._portal} -I {self._record}"
