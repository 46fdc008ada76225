"""A back end's configuration, read once, checked, and in the words of this project.

Whatever is wrong in cinder.conf is said here, in one sentence that names the option and what would do. It
does no I/O.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

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
from zolder.model import Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    DatasetName,
    ExporterName,
    Identity,
    Name,
    Portal,
    SnapshotName,
    TargetPrefix,
    ZvolName,
)

CONF = cfg.CONF
LOG = logging.getLogger(__name__)
N = TypeVar("N", bound=Name)

_SOME_UUID: Final = "00000000-0000-4000-8000-000000000000"
_ISCSI: Final = "iscsi"
_NVME: Final = "nvmet_tcp"
# Of each target_protocol, what target_helper may be and what then exports; None is where it is not written.
_EXPORTERS: Final[dict[str, dict[str | None, ExporterName]]] = {
    _ISCSI: {None: LIO, "lioadm": LIO, "tgtadm": TGT},
    _NVME: {None: NVMET, "nvmet": NVMET},
}
_DRIVERS: Final = "zolder."
# IANA's port of NVMe over Fabrics. Cinder's own default is that of iSCSI, whatever the protocol.
_NVME_PORT: Final = 4420


@dataclass(frozen=True, slots=True)
class Settings:
    """What one back end's section of cinder.conf comes to.

    ``way`` is how requests get to the SAN, ``route`` how initiators get to the volumes.
    """

    backend_name: str
    parents: tuple[DatasetName, ...]
    sparse: bool
    way: SshTarget | LocalAgent
    min_channels: int
    max_channels: int
    deadline_seconds: int
    route: Route
    use_chap: bool
    reserved_percentage: int
    max_over_subscription_ratio: float | str
    image_transfer: str = "channel"

    def parent_of(self, host: str | None) -> DatasetName:
        """Return the parent of a volume, by the pool in its host (``host@backend#pool``).

        :raises InvalidRequest: it is in a pool that is none of this back end's, or in none where there are
            several: then nothing about it would be true.
        """
        pool = (host or "").partition("#")[2]
        if not pool and len(self.parents) == 1:
            return self.parents[0]
        if pool not in self.parents:
            listed = ", ".join(self.parents)
            message = (
                f"Cinder has the volume at {host}, and san_zfs_volume_base is {listed}: put its parent"
                " back into it, or migrate the volume"
            )
            raise InvalidRequest(message)
        return DatasetName(pool)

    @property
    def san_address(self) -> str:
        """The SAN's address as cinder.conf has it, or ``local``."""
        return self.way.address if isinstance(self.way, SshTarget) else "local"


def append_options(configuration: Configuration) -> None:
    """Make all options that a back end may have known to oslo.config for its section."""
    for options in (san.san_opts, driver.volume_opts, zolder_opts):
        configuration.append_config_values(options)


def is_ours(section: str) -> bool:
    """Say whether a section's ``volume_driver`` is of this project."""
    # Importing the manager, which defines it, would start more of Cinder than is needed to read one word.
    read = cinder_configuration.Configuration([cfg.StrOpt("volume_driver")], config_group=section)
    return str(read.safe_get("volume_driver") or "").startswith(_DRIVERS)


def read_settings(configuration: Configuration) -> Settings:
    """Read and check a back end's section.

    :raises InvalidConfigurationValue: an option is missing or will not do; the message says what would.
    """
    exporter = _exporter(configuration)
    _check_templates()
    if configuration.san_zfs_command:
        LOG.warning("san_zfs_command is ignored: the agent on the SAN chooses what it runs.")
    return Settings(
        backend_name=configuration.safe_get("volume_backend_name") or "zolder",
        parents=_parents(configuration),
        sparse=configuration.san_thin_provision,
        way=_way(configuration),
        min_channels=configuration.ssh_min_pool_conn,
        max_channels=max(1, configuration.ssh_max_pool_conn),
        deadline_seconds=configuration.zolder_deadline,
        route=Route(exporter, _prefix(configuration, exporter), _portals(configuration, exporter)),
        use_chap=configuration.use_chap_auth,
        reserved_percentage=configuration.reserved_percentage,
        max_over_subscription_ratio=volume_utils.get_max_over_subscription_ratio(
            configuration.max_over_subscription_ratio, supports_auto=True
        ),
        image_transfer=configuration.zolder_image_transfer,
    )


def _parents(configuration: Configuration) -> tuple[DatasetName, ...]:
    option = "san_zfs_volume_base"
    written = [word.strip().rstrip("/") for word in configuration.san_zfs_volume_base.split(",")]
    parents = tuple(_checked(DatasetName, option, word) for word in written)
    if len(set(parents)) < len(parents):
        _refuse(f"{option} = {configuration.san_zfs_volume_base} will not do: it names a parent twice.")
    return parents


def _way(configuration: Configuration) -> SshTarget | LocalAgent:
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


def _exporter(configuration: Configuration) -> ExporterName:
    # Cinder's own default of target_helper is tgtadm, so only what the operator wrote counts.
    helper = _chosen(configuration, "target_helper", "iscsi_helper")
    protocol = configuration.target_protocol
    helpers = _EXPORTERS.get(protocol)
    if helpers is None:
        _refuse(
            f"target_protocol = {protocol} will not do: set it to {_ISCSI}, or leave it out, for iSCSI, and"
            f" to {_NVME} for NVMe over TCP."
        )
    exporter = helpers.get(helper)
    if exporter is None:
        written = " or ".join(f"target_helper = {name}" for name in helpers if name)
        _refuse(
            f"target_helper = {helper} will not do with target_protocol = {protocol}: set {written}, or leave"
            " it out."
        )
    if exporter == NVMET and configuration.use_chap_auth:
        # os-brick 7.1.1 hands nvme-cli neither --dhchap-secret nor --dhchap-ctrl-secret.
        _refuse(
            f"use_chap_auth = true will not do with target_protocol = {_NVME}: os-brick cannot log in by"
            " DH-HMAC-CHAP; leave it out, or export by iSCSI."
        )
    return exporter


def _prefix(configuration: Configuration, exporter: ExporterName) -> TargetPrefix:
    written = _chosen(configuration, "target_prefix", "iscsi_target_prefix") or configuration.target_prefix
    # One prefix makes both names (zolder.names.subsystems_begin), and is kept in the form of iSCSI.
    spelled = f"iqn.{written[4:]}" if exporter == NVMET and written.startswith("nqn.") else written
    try:
        return TargetPrefix(spelled)
    except InvalidRequest as err:
        _refuse(f"target_prefix = {written} will not do: {err.message}.", cause=err)


def _portals(configuration: Configuration, exporter: ExporterName) -> tuple[Portal, ...]:
    # Cinder's default is $my_ip, this control node's own address, which is never the SAN's: hence san_ip.
    first = _chosen(configuration, "target_ip_address", "iscsi_ip_address") or configuration.san_ip
    if not first:
        _refuse("target_ip_address is not set: it is the SAN's address that initiators connect to.")
    addresses = [first, *configuration.target_secondary_ip_addresses]
    usual = _NVME_PORT if exporter == NVMET else configuration.target_port
    port = _chosen(configuration, "target_port") or usual
    return tuple(dict.fromkeys(_portal(address, port) for address in addresses))


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


def _check_templates() -> None:
    for option, kind in (("volume_name_template", ZvolName), ("snapshot_name_template", SnapshotName)):
        try:
            kind(getattr(CONF, option) % _SOME_UUID)
        except (InvalidRequest, TypeError, ValueError) as err:
            _refuse(f"{option} = {getattr(CONF, option)} will not do: {err}.", cause=err)


def _chosen(configuration: Configuration, *names: str) -> Any:  # noqa: ANN401 - of each option's own type
    """Return what the operator wrote under one of these names, the first counting most; None for defaults."""
    for name in names:
        for group in (configuration.config_group, cinder_configuration.SHARED_CONF_GROUP):
            location = CONF.get_location(name, group)
            if location and location.location not in {cfg.Locations.opt_default, cfg.Locations.set_default}:
                return getattr(CONF[group] if group else CONF, name)
    return None


def _checked(kind: type[N], option: str, value: str) -> N:
    try:
        return kind(value)
    except InvalidRequest as err:
        _refuse(f"{option} = {value} will not do: {err.message}.", cause=err)


def _refuse(message: str, *, cause: Exception | None = None) -> NoReturn:
    raise exception.InvalidConfigurationValue(message) from cause
