"""The policy of the lab's SAN: two identities, each with a key of its own."""

from __future__ import annotations

import tomllib
from typing import Final

from zolder.names import DatasetName

CONFIGURATION: Final = """\
[identity.lab]
parents = ["data/volumes", "data/more", "fast/volumes"]
# LIO, tgt and nvmet, each over both links and over IPv6.
portals = [
    "192.168.77.1:3260", "192.168.78.1:3260", "[fd00:77::1]:3260",
    "192.168.77.1:3261", "192.168.78.1:3261", "[fd00:77::1]:3261",
    "192.168.77.1:4420", "192.168.78.1:4420", "[fd00:77::1]:4420",
]
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
