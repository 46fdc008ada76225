"""A back end's section of cinder.conf, read as cinder-volume reads it."""

from __future__ import annotations

import itertools
from pathlib import Path

from cinder.volume import configuration
from cinder.volume import driver as cinder_driver
from oslo_config import cfg

from zolder.cinder.settings import append_options

SECTION = "zolder"
_numbers = itertools.count(1)


def read_section(folder: Path, lines: str) -> configuration.Configuration:
    """Return the configuration that a section of ``lines`` gives; they may go on with other sections.

    :param folder: where the file is written, and Cinder's state would be.
    """
    path = folder / f"cinder-{next(_numbers)}.conf"
    path.write_text(f"[DEFAULT]\nstate_path = {folder}\nmy_ip = 192.0.2.99\n[{SECTION}]\n{lines}\n")
    cfg.CONF([], project="cinder", default_config_files=[str(path)])
    read_back = configuration.Configuration(cinder_driver.volume_opts, config_group=SECTION)
    append_options(read_back)
    return read_back
