"""Asks the agent's own code on the SAN for one thing, and ends the process right before one of its changes.

Runs as the agent's user and imports zolder as the agent does. Changes are counted over all ways into ZFS, so
each step of an operation can be the one that never came. With ``sending`` for a number it ends in the middle
of a stream, with ``late`` the deadline passes meanwhile, and with ``unheard`` the client goes away when
something has been destroyed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, "/usr/local/lib/zolder")

from zolder import shapes
from zolder.api import Storage
from zolder.names import Identity, OperationId
from zolder.san import libzfs, lzc, sending, streams, zfs
from zolder.san.asking import Asking, HelperLine
from zolder.san.operation import Operation
from zolder.san.policies import CurrentPolicy
from zolder.san.storage import ZfsStorage

CUT = 9
# How much of a stream goes before it ends in the middle.
SENT_BYTES = 24 * 2**20
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


def end_within_a_stream() -> None:
    """Let the process end when so much of a stream has gone."""
    real = streams.send_snapshot

    def cut(*args: Any, sent: Callable[[int], None], **kwargs: Any) -> None:  # noqa: ANN401 - as the real one
        def count(sent_bytes: int) -> None:
            if sent_bytes > SENT_BYTES:
                os._exit(CUT)
            sent(sent_bytes)

        real(*args, sent=count, **kwargs)

    setattr(sending, "send_snapshot", cut)  # noqa: B010 - as it was imported there


def be_late_behind_a_stream(operation: Operation) -> None:
    """Let an operation's deadline have passed when a stream has ended."""
    real = streams.send_snapshot

    def send(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the real one
        real(*args, **kwargs)
        operation._deadline = time.monotonic() - 1  # noqa: SLF001 - as if hours had passed

    setattr(sending, "send_snapshot", send)  # noqa: B010 - as it was imported there


def be_left_behind_a_destroy(operation: Operation) -> None:
    """Let the client have gone away when a dataset has been destroyed."""
    real = lzc.ZfsLibrary.destroy

    def destroy(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as the real one
        real(*args, **kwargs)
        operation._peer_is_there = lambda: False  # noqa: SLF001 - as if its line were closed

    setattr(lzc.ZfsLibrary, "destroy", destroy)  # noqa: B010 - as above


def main(verb: str, at: str, arguments: str) -> None:
    """Ask for a verb and print what was changed on the way."""
    countdown = Countdown(int(at) if at.isdecimal() else -1)
    for name in _CHANGES:
        countdown.watch(lzc.ZfsLibrary, name)
    countdown.watch(libzfs.Libzfs, "set_property")
    countdown.watch(libzfs.Libzfs, "set_properties")
    countdown.watch(sending, "send_snapshot")
    countdown.watch(zfs, "_zfs")
    identity = Identity("lab")
    operation = Operation(
        OperationId("00000000-0000-4000-8000-00000000c071"),
        seconds=60,
        peer_is_there=lambda: True,
        notify=lambda _: None,
    )
    storage = ZfsStorage(CurrentPolicy(identity)(), operation, Asking(HelperLine(identity), operation))
    if at == "sending":
        end_within_a_stream()
    if at == "late":
        be_late_behind_a_stream(operation)
    if at == "unheard":
        be_left_behind_a_destroy(operation)
    typed = shapes.parameters(getattr(Storage, verb))(json.loads(arguments))
    getattr(storage, verb)(**typed)
    print(json.dumps(countdown.taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
