"""The web server in front of Keystone and Glance: uwsgi, one process with threads.

Each option was found to matter (clients that keep connections, large uploads, services that start threads).
"""

from __future__ import annotations

from lab.cloud.service import LOOPBACK
from lab.cloud.venvs import Environment

COMMON = (
    "--master", "--die-on-term", "--processes", "1", "--enable-threads", "--lazy-apps", "--need-app",
    "--add-header", "Connection: close", "--socket-timeout", "60", "--disable-logging",
    "--buffer-size", "65535",
)  # fmt: skip
# The whole request is read before the application sees it.
BUFFERED = ("--post-buffering", "65536")
# The application reads an image's data as they come.
STREAMED = ("--http-raw-body", "--chunked-input-limit", "67108864")


def web_command(
    environment: Environment, module: str, port: int, *, threads: int, streamed: bool
) -> list[str]:
    """Return the command that serves an application on the loopback.

    :param module: as uwsgi names it: ``package.module:callable``.
    """
    place = ["--virtualenv", str(environment.folder), "--module", module]
    how = [*COMMON, *(STREAMED if streamed else BUFFERED), "--threads", str(threads)]
    return [environment.program("uwsgi"), "--http-socket", f"{LOOPBACK}:{port}", *how, *place]
