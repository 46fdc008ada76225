"""RabbitMQ from Debian's package, with data, ports and secrets of its own; the system's is left alone."""

from __future__ import annotations

from pathlib import Path

from lab.cloud.ground import Ground
from lab.cloud.service import LOOPBACK, Service, Services, answers
from lab.errors import LabError

PACKAGE = "rabbitmq-server"
PROGRAMS = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"

CONFIGURATION = """\
# The lab's own RabbitMQ, on this machine's loopback alone.
listeners.tcp.1 = 127.0.0.1:{rabbitmq_port}
default_user = zolder
default_pass = {broker_secret}
log.file = false
log.console = true
log.console.level = warning
# The lab's machine has other work; a full disk shows elsewhere first.
disk_free_limit.absolute = 100MB
"""


def find_program() -> Path:
    """Return RabbitMQ's own start script: Debian's around it changes to the service's user.

    :raises LabError: it is not installed.
    """
    found = sorted(Path("/").glob(PROGRAMS))
    if not found:
        raise LabError(f"there is no /{PROGRAMS}; apt-get install {PACKAGE}")
    return found[-1]


def start_broker(ground: Ground, services: Services) -> Service:
    """Start it; it takes some seconds until `is_broker_ready`."""
    home = ground.data / "rabbitmq"
    home.mkdir()
    cookie = home / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(ground.secrets["cookie"])
    cookie.chmod(0o400)  # else Erlang refuses it
    environment = {
        "HOME": str(home),
        "RABBITMQ_NODENAME": "zolder@localhost",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(ground.write("rabbitmq.conf", CONFIGURATION)),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(ground.logs),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_DIST_PORT": str(ground.ports["distribution"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(ground.ports["epmd"]),
    }
    return services.start("rabbitmq", [str(find_program())], env=environment)


def is_broker_ready(ground: Ground) -> bool:
    """Say whether it takes connections."""
    return answers(ground.ports["rabbitmq"])


def url_of(ground: Ground, address: str = LOOPBACK) -> str:
    """Return how oslo.messaging reaches it."""
    return f"rabbit://zolder:{ground.secrets['broker']}@{address}:{ground.ports['rabbitmq']}/"
