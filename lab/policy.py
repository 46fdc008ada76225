"""The policy of the lab's SAN: two identities, each with a key of its own."""

from __future__ import annotations

import tomllib
from typing import Final

from zolder.names import DatasetName

CONFIGURATION: Final = """\
[identity.lab]
parents = ["data/volumes", "fast/volumes"]
portals = ["192.168.77.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]

[identity.other]
parents = ["data/other"]
portals = ["192.168.77.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack.other:"]
max_volume_gib = 1
max_volumes = 3
max_total_gib = 2
"""


def parents() -> list[DatasetName]:
    """Return the parents of all identities."""
    identities = tomllib.loads(CONFIGURATION)["identity"].values()
    return [DatasetName(parent) for identity in identities for parent in identity["parents"]]
