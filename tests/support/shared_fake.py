"""One SAN in memory behind many channels: ``shared_fake.py SOCKET [BYTES]`` is the line of one of them.

The agents are threads of the test's own process, so all channels see one SAN, and the test sees it, too. A
line that is given a number of bytes is cut when so many have gone over it, once for each folder.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.contract.ground import PARENTS, PORTALS, PREFIX
from zolder.fake import FakeStorage
from zolder.names import Identity
from zolder.san.agent import Agent
from zolder.san.channel import Channel
from zolder.san.policy import Policy
from zolder.san.serve import serve
from zolder.wire import Request

POLICY = Policy(Identity("lab"), parents=PARENTS, portals=PORTALS, target_prefixes=(PREFIX,))


def nobody(request: Request, outcome: str, seconds: float) -> None:
    """Write nothing down: this machine's log is not the SAN's."""


@contextmanager
def shared(storage: FakeStorage, folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the command of a line to a SAN."""
    path = folder / "agents.socket"
    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threads.append(threading.Thread(target=answer, args=(storage, connection)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield (sys.executable, "-m", "tests.support.shared_fake", str(path))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join()


def answer(storage: FakeStorage, connection: socket.socket) -> None:
    """Be the agent of one channel."""
    with connection, suppress(BrokenPipeError, ConnectionResetError):
        agent = Agent(lambda: POLICY, storage_for=lambda _, __: storage, zfs_version=lambda: "fake")
        serve(Channel(connection.fileno(), connection.fileno()), agent, record=nobody)


def main(path: str, *cut: str) -> None:
    """Be the line of one channel, in a process of its own."""
    cut_at = int(cut[0]) if cut else None
    if cut_at is not None:
        try:
            Path(path + ".cut").touch(exist_ok=False)
        except FileExistsError:
            cut_at = None
    with socket.socket(socket.AF_UNIX) as agent, ExitStack() as ends:
        agent.connect(path)
        ends.callback(os._exit, 0)
        sent = 0
        while True:
            ready, _, _ = select.select([0, agent.fileno()], [], [])
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    agent.shutdown(socket.SHUT_WR)
                    return
                sent += len(data)
                agent.sendall(data)
                if cut_at is not None and sent > cut_at:
                    return
            if agent.fileno() in ready:
                data = agent.recv(65536)
                if not data:
                    return
                _write(data)
                sent += len(data)
                if cut_at is not None and sent > cut_at:
                    return


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
