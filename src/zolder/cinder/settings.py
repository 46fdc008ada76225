"""A back end's configuration, read once, checked, and in the words of this project.

Whatever is wrong in cinder.conf is said here, in one sentence that names the option and what would do. It
does no I/O.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from cinder import exception
from cinder.volume import configuration as cinder_configuration
from cinder.volume import driver, volume_utils
from cinder.volume.drivers.san import san
from oslo_config import cfg

from zolder.cinder.objects import Configuration
from zolder.cinder.options import zolder_opts
from zolder.client.local import LocalAgent
from zolder.client.ssh import SshTarget
from zolder.errors import InvalidRequest
from zolder.names import DatasetName, Identity, Name, Portal, SnapshotName, TargetPrefix, ZvolName

CONF = cfg.CONF
LOG = logging.getLogger(__name__)
N = TypeVar("N", bound=Name)

_SOME_UUID: Final = "00000000-0000-4000-8000-000000000000"
_HELPER: Final = "lioadm"
_PROTOCOL: Final = "iscsi"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one back end's section of cinder.conf comes to."""

    backend_name: str
    parent: DatasetName
    sparse: bool
    route: SshTarget | LocalAgent
    min_channels: int
    max_channels: int
    deadline_seconds: int
    prefix: TargetPrefix
    portals: tuple[Portal, ...]
    use_chap: bool
    reserved_percentage: int
    max_over_subscription_ratio: float | str

    @property
    def san_address(self) -> str:
        """The SAN's address as cinder.conf has it, or ``local``."""
        return self.route.address if isinstance(self.route, SshTarget) else "local"


def append_options(configuration: Configuration) -> None:
    """Make all options that a back end may have known to oslo.config for its section."""
    for options in (san.san_opts, driver.volume_opts, zolder_opts):
        configuration.append_config_values(options)


def read_settings(configuration: Configuration) -> Settings:
    """Read and check a back end's section.

    :raises InvalidConfigurationValue: an option is missing or will not do; the message says what would.
    """
    _check_helper(configuration)
    _check_templates()
    if configuration.san_zfs_command:
        LOG.warning("san_zfs_command is ignored: the agent on the SAN chooses what it runs.")
    prefix = _chosen(configuration, "target_prefix", "iscsi_target_prefix") or configuration.target_prefix
    return Settings(
        backend_name=configuration.safe_get("volume_backend_name") or "zolder",
        parent=_checked(DatasetName, "san_zfs_volume_base", configuration.san_zfs_volume_base.rstrip("/")),
        sparse=configuration.san_thin_provision,
        route=_route(configuration),
        min_channels=configuration.ssh_min_pool_conn,
        max_channels=max(1, configuration.ssh_max_pool_conn),
        deadline_seconds=configuration.zolder_deadline,
        prefix=_checked(TargetPrefix, "target_prefix", prefix),
        portals=_portals(configuration),
        use_chap=configuration.use_chap_auth,
        reserved_percentage=configuration.reserved_percentage,
        max_over_subscription_ratio=volume_utils.get_max_over_subscription_ratio(
            configuration.max_over_subscription_ratio, supports_auto=True
        ),
    )


def _route(configuration: Configuration) -> SshTarget | LocalAgent:
    if configuration.san_is_local:
        return LocalAgent.of_identity(_checked(Identity, "zolder_identity", configuration.zolder_identity))
    if not configuration.san_ip:
        _refuse("san_ip is not set: it is the address of the SAN's sshd (or set san_is_local).")
    key = configuration.san_private_key
    try:
        return SshTarget(
            address=configuration.san_ip,
            login=configuration.san_login,
            port=configuration.san_ssh_port,
            private_key=str(Path(key).expanduser()) if key else None,
            password=configuration.san_password or None,
            config=configuration.zolder_ssh_config or None,
            known_hosts=tuple(path.strip() for path in CONF.ssh_hosts_key_file.split(",") if path.strip()),
            connect_timeout_seconds=configuration.ssh_conn_timeout,
        )
    except InvalidRequest as err:
        _refuse(f"san_ip, san_login or ssh_hosts_key_file will not do: {err.message}.", cause=err)


def _portals(configuration: Configuration) -> tuple[Portal, ...]:
    # Cinder's default is $my_ip, this control node's own address, which is never the SAN's: hence san_ip.
    first = _chosen(configuration, "target_ip_address", "iscsi_ip_address") or configuration.san_ip
    if not first:
        _refuse("target_ip_address is not set: it is the SAN's address that initiators connect to.")
    addresses = [first, *configuration.target_secondary_ip_addresses]
    return tuple(_portal(address, configuration.target_port) for address in addresses)


def _portal(address: str, port: int) -> Portal:
    try:
        parsed = ipaddress.ip_address(address.strip().strip("[]"))
    except ValueError as err:
        message = (
            f"{address} is no IP address: set target_ip_address, and target_secondary_ip_addresses for more"
            " paths, to addresses of the SAN that initiators can reach."
        )
        _refuse(message, cause=err)
    literal = f"[{parsed.compressed}]" if isinstance(parsed, ipaddress.IPv6Address) else str(parsed)
    return _checked(Portal, "target_ip_address", f"{literal}:{port}")


def _check_helper(configuration: Configuration) -> None:
    # Cinder's own default is tgtadm, so only what the operator wrote counts.
    helper = _chosen(configuration, "target_helper", "iscsi_helper")
    if helper not in {None, _HELPER}:
        _refuse(
            f"target_helper = {helper} will not do: Zolder exports through the SAN's LIO; set"
            f" target_helper = {_HELPER} or leave it out."
        )
    if configuration.target_protocol != _PROTOCOL:
        _refuse(
            f"target_protocol = {configuration.target_protocol} will not do: Zolder exports by iSCSI; set"
            f" target_protocol = {_PROTOCOL} or leave it out."
        )


def _check_templates() -> None:
    for option, kind in (("volume_name_template", ZvolName), ("snapshot_name_template", SnapshotName)):
        try:
            kind(getattr(CONF, option) % _SOME_UUID)
        except (InvalidRequest, TypeError, ValueError) as err:
            _refuse(f"{option} = {getattr(CONF, option)} will not do: {err}.", cause=err)


def _chosen(configuration: Configuration, *names: str) -> str | None:
    """Return what the operator wrote under one of these names, the first counting most; None for defaults."""
    for name in names:
        for group in (configuration.config_group, cinder_configuration.SHARED_CONF_GROUP):
            location = CONF.get_location(name, group)
            if location and location.location not in {cfg.Locations.opt_default, cfg.Locations.set_default}:
                value: str = getattr(CONF[group] if group else CONF, name)
                return value
    return None


def _checked(kind: type[N], option: str, value: str) -> N:
    try:
        return kind(value)
    except InvalidRequest as err:
        _refuse(f"{option} = {value} will not do: {err.message}.", cause=err)


def _refuse(message: str, *, cause: Exception | None = None) -> NoReturn:
    raise exception.InvalidConfigurationValue(message) from cause
