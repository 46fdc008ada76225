"""Free ports on this machine's loopback."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(names: list[str]) -> dict[str, int]:
    """Return a port for each name that nobody listens on now.

    Another process may take one before it is used; QEMU then says so, and the caller asks again.
    """
    ports = {}
    with ExitStack() as stack:
        for name in names:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports[name] = probe.getsockname()[1]
    return ports
