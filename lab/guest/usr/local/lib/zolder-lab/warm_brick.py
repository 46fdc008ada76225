"""Runs scripts in children of a process that has imported os-brick already: 14 seconds under emulation.

A state of the guest that is saved with this process in it has os-brick at hand. with_brick.py is the way
here: it hands over its standard streams, its folder and a script, and ends when the script does.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys

# What scripts import: they find it loaded.
from os_brick import privileged  # noqa: F401
from os_brick.initiator import connector

SOCKET = "/run/zolder-lab/brick.sock"


def serve() -> None:
    """Run a script for each connection, for ever."""
    # All connectors are imported by name when the first one is made.
    connector.InitiatorConnector.factory("ISCSI", "")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(SOCKET)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    run_script(connection)
                    return


def run_script(connection: socket.socket) -> None:
    """Become the script that the other end names, on its standard streams."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(connection, 4096, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    folder, script = json.loads(message)
    os.chdir(folder)
    sys.argv, sys.path[0] = [script], folder
    runpy.run_path(script, run_name="__main__")
    connection.send(b"\0")  # it came to its end


if __name__ == "__main__":
    serve()
