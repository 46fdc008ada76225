"""Asks the agent's own code on the SAN for one thing, and ends the process right before one of its changes.

Runs as the agent's user and imports zolder as the agent does. Changes are counted over all ways into ZFS, so
each step of an operation can be the one that never came.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, "/usr/local/lib/zolder")

from zolder.names import DatasetName, Identity, OperationId, SnapshotName, ZvolName
from zolder.san import libzfs, lzc, zfs
from zolder.san.asking import Asking, HelperLine
from zolder.san.operation import Operation
from zolder.san.policies import CurrentPolicy
from zolder.san.storage import ZfsStorage

CUT = 9
_CHANGES = (
    "create_zvol",
    "clone",
    "snapshot",
    "destroy",
    "destroy_snapshot",
    "rollback",
    "rename",
    "promote",
)


class Countdown:
    """Ends the process before the change with that number; counts on where there are fewer."""

    def __init__(self, at: int) -> None:
        """Count from 0."""
        self.at = at
        self.taken: list[str] = []

    def watch(self, owner: Any, name: str) -> None:  # noqa: ANN401 - a class or a module
        """Count what an attribute of a class or a module does."""
        real: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the real one
            if len(self.taken) == self.at:
                os._exit(CUT)
            self.taken.append(name)
            return real(*args, **kwargs)

        setattr(owner, name, counted)


def main(verb: str, at: str, arguments: str) -> None:
    """Ask for a verb and print what was changed on the way."""
    countdown = Countdown(int(at))
    for name in _CHANGES:
        countdown.watch(lzc.ZfsLibrary, name)
    countdown.watch(libzfs.Libzfs, "set_property")
    countdown.watch(zfs, "_zfs")
    identity = Identity("lab")
    operation = Operation(
        OperationId("00000000-0000-4000-8000-00000000c071"),
        seconds=60,
        peer_is_there=lambda: True,
        notify=lambda _: None,
    )
    storage = ZfsStorage(CurrentPolicy(identity)(), operation, Asking(HelperLine(identity), operation))
    given = json.loads(arguments)
    kinds = {"parent": DatasetName, "zvol": ZvolName, "snapshot": SnapshotName}
    getattr(storage, verb)(**{name: kinds.get(name, lambda x: x)(value) for name, value in given.items()})
    print(json.dumps(countdown.taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
