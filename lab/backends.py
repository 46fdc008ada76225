"""What the lab's Cinder may be configured with: cinder.conf, a section for each back end.

One section is what most sites have. Three at once are one SAN over each of its exporters: all below the same
parent, so that what moves with its zpool moves for all three. Each has the second link's address as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COMMON = """\
[DEFAULT]
transport_url = fake:/
auth_strategy = noauth
host = lab
my_ip = 127.0.0.1
enabled_backends = {enabled}
state_path = {folder}
log_file = {log}
api_paste_config = {etc}/api-paste.ini
resource_query_filters_file = {etc}/resource_filters.json
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = {port}
osapi_volume_workers = 1
# What a failed test leaves must not fail the next.
quota_volumes = -1
quota_gigabytes = -1
quota_snapshots = -1
ssh_hosts_key_file = {known_hosts}
# The scheduler knows a back end by its reports; a minute is long where one waits for it.
periodic_interval = 5
periodic_fuzzy_delay = 0
backend_stats_polling_interval = 5
[database]
connection = sqlite:///{folder}/cinder.sqlite
[oslo_concurrency]
lock_path = {folder}/locks
[coordination]
backend_url = file://{folder}/coordination
"""

SECTION = """\
[{name}]
volume_driver = zolder.cinder.driver.ZolderDriver
volume_backend_name = {name}
san_ip = 127.0.0.1
san_ssh_port = {san_ssh_port}
san_login = zolder
san_private_key = {agent_key}
san_zfs_volume_base = {parent}
target_ip_address = {san_address}
"""


@dataclass(frozen=True)
class Backend:
    """One section: its name, which is its volume_backend_name too, and what it says beside the common."""

    name: str
    options: tuple[str, ...]
    parent: str = "data/volumes"

    def write(self, environment: Mapping[str, str]) -> str:
        """Return the section for a lab's environment."""
        text = SECTION + "".join(f"{option}\n" for option in self.options)
        return text.format_map({**environment, "name": self.name, "parent": self.parent})


_PATHS = "target_secondary_ip_addresses = {san_second_address}"

ONE = (Backend("zolder", ("target_helper = lioadm", "use_chap_auth = true")),)
EACH_EXPORTER = (
    Backend("lio", ("target_helper = lioadm", "target_port = 3260", "use_chap_auth = true", _PATHS)),
    Backend("tgt", ("target_helper = tgtadm", "target_port = 3261", "use_chap_auth = true", _PATHS)),
    Backend("nvmet", ("target_protocol = nvmet_tcp", "target_helper = nvmet", "target_port = 4420", _PATHS)),
)


def write_configuration(backends: tuple[Backend, ...], environment: Mapping[str, str]) -> str:
    """Return cinder.conf.

    :param environment: the lab's, and ``folder``, ``log``, ``etc`` and ``port`` of this Cinder.
    """
    enabled = ",".join(backend.name for backend in backends)
    common = COMMON.format_map({**environment, "enabled": enabled})
    return common + "".join(backend.write(environment) for backend in backends)
