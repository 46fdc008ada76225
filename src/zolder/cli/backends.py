"""The Zolder back ends that a cinder.conf enables, and the parents on SANs that they share.

Back ends over one parent are compared together: a zvol of one is no orphan of the other. It reads
configuration alone. The names of hosts and clusters are formed as cinder-volume does (cinder/cmd/volume.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cinder import exception, version
from cinder.common import config as cinder_config
from cinder.volume import configuration
from oslo_config import cfg

from zolder.cinder.settings import Settings, append_options, is_ours, read_settings
from zolder.names import DatasetName

CONF = cfg.CONF


class NoBackends(Exception):
    """cinder.conf does not say what was asked for; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class BackEnd:
    """One section of cinder.conf with one of its parents.

    Cinder calls it ``host@section``, and in a cluster ``cluster@section``.
    """

    section: str
    host: str
    cluster: str | None
    settings: Settings
    parent: DatasetName

    def has(self, host: str) -> bool:
        """Say whether a volume's host, which has the pool behind a #, is this back end with this parent."""
        return host.partition("#")[0].partition("@")[2] == self.section and self.has_pool(host)

    def has_pool(self, host: str) -> bool:
        """Say whether a volume's pool is this parent; one that is no parent any more counts to the first."""
        pool, parents = host.partition("#")[2], self.settings.parents
        return pool == self.parent or (pool not in parents and self.parent == parents[0])


@dataclass(frozen=True, slots=True)
class Ground:
    """One parent on one SAN, and the back ends that have their volumes there."""

    parent: DatasetName
    san: str
    back_ends: tuple[BackEnd, ...]

    @property
    def settings(self) -> Settings:
        """The settings by which the SAN is asked."""
        return self.back_ends[0].settings


def read_configuration(files: Sequence[str]) -> None:
    """Read cinder.conf as Cinder's own commands do.

    :param files: none for the places where Cinder looks for it.
    :raises NoBackends: there is none, or it cannot be read.
    """
    arguments = [word for path in files for word in ("--config-file", path)]
    try:
        CONF(arguments, project="cinder", version=version.version_string())
    except cfg.Error as err:
        message = f"cinder.conf cannot be read: {err}"
        raise NoBackends(message) from err
    if not CONF.config_file:
        message = "there is no cinder.conf where Cinder looks for it: name it with --config-file"
        raise NoBackends(message)


def read_grounds(only: Sequence[str]) -> list[Ground]:
    """Return the parents of all enabled back ends of ours, or those of some.

    :param only: the sections that matter; those over the same parent belong to them.
    :raises NoBackends: there is none, a named one is none of ours, or its settings will not do.
    """
    # Before it is parsed anew enabled_backends is what it was (cinder/common/config.py registers it).
    enabled = list(getattr(cinder_config.CONF, "enabled_backends", None) or ())
    ours = [section for section in enabled if section and is_ours(section)]
    unknown = [section for section in only if section not in ours]
    if unknown:
        message = (
            f"{', '.join(unknown)}: no back end of Zolder's in enabled_backends ({', '.join(ours) or 'none'})"
        )
        raise NoBackends(message)
    if not ours:
        message = "cinder.conf enables no back end with volume_driver = zolder.cinder.driver.ZolderDriver"
        raise NoBackends(message)
    shared: dict[tuple[str, DatasetName], list[BackEnd]] = {}
    for section in ours:
        for back_end in _back_ends(section):
            shared.setdefault((back_end.settings.san_address, back_end.parent), []).append(back_end)
    return [
        Ground(parent, san, tuple(back_ends))
        for (san, parent), back_ends in shared.items()
        if not only or any(back_end.section in only for back_end in back_ends)
    ]


def _back_ends(section: str) -> list[BackEnd]:
    read = configuration.Configuration([], config_group=section)
    append_options(read)
    try:
        settings = read_settings(read)
    except exception.InvalidConfigurationValue as err:
        message = f"[{section}]: {err.msg}"
        raise NoBackends(message) from err
    _register(cfg.StrOpt("cluster"))
    cluster = (CONF.cluster or "").strip()
    # From the section alone, as cinder-volume has it: one in [backend_defaults] does not count.
    _register(cfg.StrOpt("backend_host"), section)
    host = f"{CONF[section].backend_host or CONF.host}@{section}"
    return [
        BackEnd(section, host, f"{cluster}@{section}" if cluster else None, settings, parent)
        for parent in settings.parents
    ]


def _register(option: cfg.StrOpt, section: str | None = None) -> None:
    try:
        CONF.register_opt(option, group=section)
    except cfg.DuplicateOptError:
        return  # cinder-volume's own modules have been imported here
