"""PostgreSQL from Debian's package, with data, port and secret of its own; the system's is left alone.

It will not run as root; in a user namespace it is nobody, and its files are ours all the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Services
from lab.command import build_environment, capture
from lab.errors import LabError

PACKAGE = "postgresql"
PROGRAMS = "usr/lib/postgresql/*/bin/postgres"
USER = "zolder"
AS_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")

CONFIGURATION = """\
# The lab's own PostgreSQL. What it holds is thrown away with the cloud, so nothing waits for a disk.
listen_addresses = '127.0.0.1'
port = {postgresql_port}
unix_socket_directories = ''
max_connections = 300
fsync = off
synchronous_commit = off
full_page_writes = off
password_encryption = 'scram-sha-256'
"""


def find_programs() -> Path:
    """Return the folder of the newest PostgreSQL's programs.

    :raises LabError: there is none.
    """
    found = sorted(Path("/").glob(PROGRAMS), key=lambda path: float(path.parts[-3]))
    if not found:
        raise LabError(f"there is no /{PROGRAMS}; apt-get install {PACKAGE}")
    return found[-1].parent


def start_database(ground: Ground, services: Services, names: list[str]) -> None:
    """Start it with an empty database for each name, all of one user."""
    programs, data = find_programs(), ground.data / "postgresql"
    data.mkdir()
    password = ground.write_secret("postgresql.secret", f"{ground.secrets['database']}\n")
    capture(
        [
            *AS_NOBODY, str(programs / "initdb"), "--pgdata", str(data), "--username", USER, "--no-sync",
            "--auth=scram-sha-256", "--pwfile", str(password), "--encoding=UTF8", "--no-locale",
        ],
        env=build_environment(),
    )  # fmt: skip
    settings = ground.write("postgresql.conf", CONFIGURATION)
    words = [*AS_NOBODY, str(programs / "postgres"), "-D", str(data), "-c", f"config_file={settings}"]
    words += ["-c", f"hba_file={data}/pg_hba.conf", "-c", f"ident_file={data}/pg_ident.conf"]
    port = str(ground.ports["postgresql"])
    service = services.start("postgresql", words)
    # The client reads where to go, and the secret, from the environment.
    client = {"PGHOST": LOOPBACK, "PGPORT": port, "PGUSER": USER, "PGPASSWORD": ground.secrets["database"]}
    ready = [str(programs / "pg_isready"), "--quiet", "--host", LOOPBACK, "--port", port]
    service.wait_until_ready(lambda: os.spawnv(os.P_WAIT, ready[0], ready) == 0)  # noqa: S606 - no shell is wanted
    for name in names:
        capture([str(programs / "createdb"), name], env=build_environment(**client))


def url_of(ground: Ground, name: str, address: str = LOOPBACK) -> str:
    """Return how SQLAlchemy reaches a database.

    :param address: where this machine's loopback is seen.
    """
    secret, port = ground.secrets["database"], ground.ports["postgresql"]
    return f"postgresql+psycopg2://{USER}:{secret}@{address}:{port}/{name}"
