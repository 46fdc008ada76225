"""cinder.conf: the names of 2012, what is Cinder's own, defaults, and what is refused with a sentence."""

from __future__ import annotations

import logging

import pytest
from cinder import exception
from cinder.volume import configuration

from tests.driver.conftest import Configure
from zolder.cinder import options
from zolder.cinder.settings import read_settings
from zolder.client.local import LocalAgent
from zolder.client.ssh import SshTarget
from zolder.model import Route
from zolder.names import LIO, NVMET, TGT, Portal, TargetPrefix

# The draft's configuration as its author published it.
DRAFT = """
volume_driver = zolder.cinder.driver.ZolderDriver
iscsi_ip_address = 172.17.1.7
iscsi_helper = tgtadm
san_thin_provision = false
san_ip = 172.17.1.7
san_private_key = /etc/nova/sankey
san_login = root
san_zfs_volume_base = data/openstack/volume/
san_is_local = false
"""


def test_the_drafts_configuration_goes_on_working(configure: Configure) -> None:
    """Every option of 2012 still means what it meant."""
    settings = read_settings(configure(DRAFT))
    assert isinstance(settings.way, SshTarget)
    assert (settings.way.address, settings.way.login) == ("172.17.1.7", "root")
    assert settings.way.private_key == "/etc/nova/sankey"
    assert settings.parents == ("data/openstack/volume",)
    assert settings.route == Route(
        TGT, TargetPrefix("iqn.2010-10.org.openstack:"), (Portal("172.17.1.7:3260"),)
    )
    assert settings.sparse is False


def test_san_zfs_command_is_ignored_and_said(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    """The agent on the SAN chooses what it runs; the option does no harm."""
    with caplog.at_level(logging.WARNING):
        read_settings(configure(DRAFT + "san_zfs_command = /sbin/zfs\n"))
    assert "san_zfs_command is ignored" in caplog.text


def test_todays_name_counts_before_that_of_2012(configure: Configure) -> None:
    """Where both are written, the one that Cinder documents wins."""
    settings = read_settings(
        configure(
            "san_ip = 192.0.2.1\ntarget_ip_address = 192.0.2.2\niscsi_ip_address = 192.0.2.3\n"
            "target_prefix = iqn.2012-04.org.example:\niscsi_target_prefix = iqn.1999-01.org.example:"
        )
    )
    assert settings.route.portals == ("192.0.2.2:3260",)
    assert settings.route.prefix == "iqn.2012-04.org.example:"


def test_the_old_target_prefix(configure: Configure) -> None:
    """It counts where today's is not written."""
    settings = read_settings(configure("san_ip = 192.0.2.1\niscsi_target_prefix = iqn.1999-01.org.example:"))
    assert settings.route.prefix == "iqn.1999-01.org.example:"


def test_defaults(configure: Configure) -> None:
    """With san_ip alone: targets at san_ip, thin, the data/volumes parent, Cinder's known_hosts file."""
    settings = read_settings(configure("san_ip = 192.0.2.1"))
    assert settings.route.portals == ("192.0.2.1:3260",)
    assert settings.parents == ("data/volumes",)
    assert settings.route.prefix == "iqn.2010-10.org.openstack:"
    assert (settings.sparse, settings.use_chap, settings.deadline_seconds) == (True, False, 55)
    assert (settings.min_channels, settings.max_channels) == (1, 5)
    assert isinstance(settings.way, SshTarget)
    assert settings.way.known_hosts[0].endswith("/ssh_known_hosts")
    assert (settings.way.port, settings.way.connect_timeout_seconds) == (22, 30)
    assert settings.way.private_key is None
    assert settings.way.password is None


def test_the_shared_section_counts(configure: Configure) -> None:
    """What stands in [backend_defaults] is the operator's choice as well."""
    settings = read_settings(configure("san_ip = 192.0.2.1\n[backend_defaults]\ntarget_helper = tgtadm"))
    assert settings.route.exporter == TGT


@pytest.mark.parametrize(
    ("lines", "exporter", "port"),
    [
        ("", LIO, 3260),
        ("target_helper = lioadm", LIO, 3260),
        ("target_helper = tgtadm", TGT, 3260),
        ("iscsi_helper = tgtadm", TGT, 3260),
        ("target_helper = lioadm\niscsi_helper = tgtadm", LIO, 3260),
        ("target_protocol = iscsi\ntarget_helper = tgtadm\ntarget_port = 3261", TGT, 3261),
        ("target_protocol = nvmet_tcp", NVMET, 4420),
        ("target_protocol = nvmet_tcp\ntarget_helper = nvmet", NVMET, 4420),
        ("target_protocol = nvmet_tcp\ntarget_port = 3260", NVMET, 3260),
        ("target_protocol = nvmet_tcp\n[backend_defaults]\ntarget_port = 4421", NVMET, 4421),
    ],
)
def test_what_exports(configure: Configure, lines: str, exporter: str, port: int) -> None:
    """Protocol and helper choose it, LIO where neither is written; the port is that of the protocol."""
    settings = read_settings(configure(f"san_ip = 192.0.2.1\n{lines}"))
    assert settings.route.exporter == exporter
    assert settings.route.portals == (f"192.0.2.1:{port}",)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "target_helper = nvmet",
            "^target_helper = nvmet will not do with target_protocol = iscsi: set target_he",
        ),
        (
            "target_helper = scstadmin",
            "set target_helper = lioadm or target_helper = tgtadm, or leave it out",
        ),
        ("target_protocol = nvmet_tcp\ntarget_helper = lioadm", "set target_helper = nvmet, or leave it out"),
        ("target_protocol = nvmet_tcp\niscsi_helper = tgtadm", "^target_helper = tgtadm will not do"),
        ("target_protocol = nvmet_rdma", "set it to iscsi, or leave it out, for iSCSI, and to nvmet_tcp for"),
        ("target_protocol = nvmet_tcp\nuse_chap_auth = true", "^use_chap_auth = true will not do with"),
        ("target_prefix = nqn.2014-08.org.example:", "^target_prefix = nqn.2014-08.org.example: will not do"),
    ],
)
def test_what_cannot_export(configure: Configure, lines: str, sentence: str) -> None:
    """What does not go together is refused, and the sentence says what would."""
    with pytest.raises(exception.InvalidConfigurationValue, match=sentence) as raised:
        read_settings(configure(f"san_ip = 192.0.2.1\n{lines}"))
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("prefix", ["iqn.2014-08.org.example:", "nqn.2014-08.org.example:"])
def test_a_prefix_for_nvme(configure: Configure, prefix: str) -> None:
    """It may be written in either form, and both mean the same."""
    settings = read_settings(
        configure(f"san_ip = 192.0.2.1\ntarget_protocol = nvmet_tcp\ntarget_prefix = {prefix}")
    )
    assert settings.route.prefix == TargetPrefix("iqn.2014-08.org.example:")


def test_an_address_twice_is_one_portal(configure: Configure) -> None:
    """A secondary address that repeats the first makes no second path."""
    settings = read_settings(configure("san_ip = 192.0.2.1\ntarget_secondary_ip_addresses = 192.0.2.1"))
    assert settings.route.portals == ("192.0.2.1:3260",)


def test_a_san_on_this_machine(configure: Configure) -> None:
    """``san_is_local`` starts the agent itself, under an identity of the policy."""
    lines = "san_is_local = true\ntarget_ip_address = 192.0.2.1\nzolder_identity = lab"
    assert read_settings(configure(lines)).way == LocalAgent(("zolder-san", "serve", "--identity", "lab"))


def test_an_ipv6_portal(configure: Configure) -> None:
    """It is written in brackets and in its short form, however it was given."""
    settings = read_settings(configure("san_ip = 2001:0db8:0::1\ntarget_port = 3261"))
    assert settings.route.portals == ("[2001:db8::1]:3261",)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("", r"^san_ip is not set: it is the address of the SAN's sshd \(or set san_is_local\)\.$"),
        ("san_is_local = true", r"^target_ip_address is not set"),
        ("san_ip = san.example.org", r"^san\.example\.org is no IP address: set target_ip_address"),
        ("san_ip = -oProxyCommand=x", r"^san_ip, san_login or ssh_hosts_key_file will not do"),
        (
            "san_ip = 192.0.2.1\nsan_zfs_volume_base = data/../x",
            r"^san_zfs_volume_base = data/\.\./x will not do",
        ),
        ("san_ip = 192.0.2.1\nsan_zfs_volume_base = data@x", r"^san_zfs_volume_base = data@x will not do"),
        ("san_ip = 192.0.2.1\ntarget_prefix = openstack:", r"^target_prefix = openstack: will not do"),
        ("san_ip = 192.0.2.1\ntarget_protocol = iser", r"^target_protocol = iser will not do"),
        (
            "san_is_local = yes\ntarget_ip_address = 192.0.2.1\nzolder_identity = X",
            r"^zolder_identity = X will",
        ),
    ],
)
def test_what_will_not_do_is_one_sentence(configure: Configure, lines: str, sentence: str) -> None:
    """It names the option, the value and what would do."""
    with pytest.raises(exception.InvalidConfigurationValue, match=sentence) as raised:
        read_settings(configure(lines))
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_a_template_that_makes_no_name(configure: Configure) -> None:
    """Cinder's names of volumes become names of zvols and of targets, so they have to be of that form."""
    read = configure("san_ip = 192.0.2.1\n[DEFAULT]\nvolume_name_template = Volume_%s")
    with pytest.raises(
        exception.InvalidConfigurationValue, match="volume_name_template = Volume_%s will not do"
    ):
        read_settings(read)


def test_options_are_listed_for_the_generator() -> None:
    """oslo-config-generator prints each with its help; those of 2012 are marked as such."""
    [(group, listed)] = options.list_opts()
    assert group == configuration.SHARED_CONF_GROUP
    assert all(option.help for option in listed)
    outdated = {option.name for option in listed if option.deprecated_for_removal}
    assert outdated == {"san_zfs_command", "iscsi_ip_address", "iscsi_helper", "iscsi_target_prefix"}
