"""An agent that serves the fake SAN on standard input and output: the real loop above a storage in memory.

Run as a program by the contract suite, as a child on a pipe and as a forced command of a real sshd.
"""

from __future__ import annotations

import sys

from tests.contract.ground import CAPACITY_BYTES, PARENT, PARENTS, PREFIX, ROUTES, prepare_fake
from zolder.fake import FakeStorage
from zolder.names import Identity
from zolder.san.agent import Agent
from zolder.san.channel import Channel
from zolder.san.policy import Policy
from zolder.san.serve import serve
from zolder.wire import Request


def nobody(request: Request, outcome: str, seconds: float) -> None:
    """Write nothing down: this machine's log is not the SAN's."""


def main() -> int:
    """Serve until standard input ends."""
    portals = tuple(portal for route, *_ in ROUTES.values() for portal in route.portals)
    policy = Policy(
        Identity("lab"), parents=PARENTS, portals=portals, target_prefixes=(PREFIX,), adopt_from=(PARENT,)
    )
    storage = FakeStorage(PARENTS, capacity_bytes=CAPACITY_BYTES)
    prepare_fake(storage)
    channel = Channel(sys.stdin.fileno(), sys.stdout.fileno())
    agent = Agent(lambda: policy, storage_for=lambda _, __: storage, zfs_version=lambda: "fake")
    serve(channel, agent, record=nobody)
    return 0


if __name__ == "__main__":
    sys.exit(main())
