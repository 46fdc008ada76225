"""The driver's options: its own, and the names that the 2012 draft had and Cinder no longer knows.

All others are Cinder's own and are reused as Cinder defines them (``san_ip``, ``san_login``, ``target_port``
and so on: cinder/volume/drivers/san/san.py, cinder/volume/driver.py). zolder.cinder.settings reads them.
"""

from __future__ import annotations

from typing import Any, Final

from cinder.volume import configuration
from oslo_config import cfg

DRAFT_SINCE: Final = "0.1.0"

zolder_opts: Final = [
    cfg.StrOpt(
        "san_zfs_volume_base",
        default="data/volumes",
        help="The parent: the dataset on the SAN below which this back end's zvols live. It must exist, and"
        " the SAN's policy must list it. A trailing slash, as in 2012, does no harm. Several, separated by"
        " commas and perhaps on several zpools, are a Cinder pool each, by which the scheduler places.",
    ),
    cfg.IntOpt(
        "zolder_deadline",
        default=55,
        min=10,
        max=3600,
        help="Seconds that one operation may take in all, waiting for the SAN and repeating a request whose"
        " connection was lost included. What is not done by then fails in Cinder. Keep it below"
        " rpc_response_timeout (60): attaching and detaching are waited for by Cinder's API, which would"
        " otherwise give up first and could not say why.",
    ),
    cfg.StrOpt(
        "zolder_identity",
        default="cinder",
        help="With san_is_local: the identity in the SAN's policy under which the agent is started. Over SSH"
        " the forced command of the key says it.",
    ),
    cfg.StrOpt(
        "zolder_image_transfer",
        default="channel",
        choices=("channel", "attach"),
        help="How images get into volumes and out of them. With channel their data goes over SSH to the"
        " agent, and this control node needs neither root nor an initiator; with attach the volume is"
        " attached here, which needs both, as with Cinder's other drivers.",
    ),
    cfg.StrOpt(
        "zolder_ssh_config",
        help="An ssh_config file for the way to the SAN, in place of the user's and the system's own: jump"
        " hosts (ProxyJump), ciphers, source address. It names the known_hosts file of a jump host, too.",
    ),
    cfg.StrOpt(
        "san_zfs_command",
        deprecated_for_removal=True,
        deprecated_since=DRAFT_SINCE,
        deprecated_reason="The agent on the SAN chooses what it runs. The value is ignored.",
        help="Of the 2012 draft; ignored.",
    ),
    cfg.StrOpt(
        "iscsi_ip_address",
        deprecated_for_removal=True,
        deprecated_since=DRAFT_SINCE,
        deprecated_reason="Use target_ip_address, which need not be set where it equals san_ip.",
        help="The 2012 name of target_ip_address; counts where that is not set.",
    ),
    cfg.StrOpt(
        "iscsi_helper",
        deprecated_for_removal=True,
        deprecated_since=DRAFT_SINCE,
        deprecated_reason="Use target_helper.",
        help="The 2012 name of target_helper; counts where that is not set.",
    ),
    cfg.StrOpt(
        "iscsi_target_prefix",
        deprecated_for_removal=True,
        deprecated_since=DRAFT_SINCE,
        deprecated_reason="Use target_prefix.",
        help="The 2012 name of target_prefix; counts where that is not set.",
    ),
]


def list_opts() -> list[tuple[str, list[Any]]]:
    """Return the options for oslo-config-generator (entry point ``oslo.config.opts``)."""
    return [(configuration.SHARED_CONF_GROUP, list(zolder_opts))]
