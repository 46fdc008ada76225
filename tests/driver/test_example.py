"""deploy/examples/cinder.conf is what an operator copies, so it has to be right."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cinder.volume import configuration
from cinder.volume import driver as cinder_driver
from oslo_config import cfg
from oslo_utils import importutils

from zolder.cinder.driver import ZolderDriver
from zolder.cinder.settings import append_options, read_settings
from zolder.cinder.volume_types import SPECS, read_kind
from zolder.client.ssh import SshTarget
from zolder.names import DatasetName

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/examples/cinder.conf"


@pytest.fixture
def section() -> Iterator[configuration.Configuration]:
    """The example's back end as cinder-volume reads it."""
    cfg.CONF([], project="cinder", default_config_files=[str(EXAMPLE)])
    found = configuration.Configuration(cinder_driver.volume_opts, config_group="zolder")
    append_options(found)
    yield found
    cfg.CONF.reset()


def test_every_option_exists(section: configuration.Configuration) -> None:
    """No line of the example is a slip that Cinder would pass over without a word."""
    parser = configparser.ConfigParser(default_section="")
    parser.read(EXAMPLE)
    lines = dict(parser[section.config_group])
    assert importutils.import_class(lines.pop("volume_driver")) is ZolderDriver
    assert [name for name in lines if section.safe_get(name) is None] == []


def test_it_will_do(section: configuration.Configuration) -> None:
    """The example is a back end that the driver accepts, with the host key file and the key that it names."""
    settings = read_settings(section)
    assert settings.parents == (DatasetName("data/volumes"),)
    assert settings.use_chap
    assert isinstance(settings.way, SshTarget)
    assert settings.way.known_hosts == ("/etc/cinder/zolder_known_hosts",)
    assert settings.way.private_key == "/etc/cinder/zolder_key"


def test_the_volume_types_will_do() -> None:
    """The driver takes each type of the example, and the page has every extra spec that there is."""
    lines = (ROOT / "deploy/examples/volume-types.sh").read_text().splitlines()
    types = [line.split()[2:] for line in lines if re.match("type [a-z]+ ", line)]
    assert len(types) >= 4
    for words in types:
        read_kind(dict(word.split("=", 1) for word in words), sparse=True)
    page = (ROOT / "docs/volume-types.md").read_text()
    for name, kind in SPECS.items():
        [row] = [line for line in page.splitlines() if line.startswith("| ") and f"`zolder:{name}`" in line]
        ranged = "`gzip-1` to `gzip-9`" in row
        for value in kind.values:
            assert f"`{value}`" in row or (ranged and re.match("(gzip|zstd)-[0-9]", value)), (name, value)
