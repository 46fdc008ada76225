"""Which back ends and volume services a cloud's Cinder has. Pure: text for cinder.conf and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from lab.backends import Backend


@dataclass(frozen=True)
class Arrangement:
    """One way to lay Cinder out.

    :ivar options: lines for [DEFAULT].
    :ivar sections: further sections, which none of the cloud's own is.
    :ivar members: the hosts of a cluster's volume services; none: there is one service, in no cluster.
    :ivar image_type: the volume type of which Glance takes volumes for images; none: it knows no volumes.
    """

    backends: tuple[Backend, ...]
    options: str = ""
    sections: str = ""
    cluster: str = ""
    members: tuple[str, ...] = ()
    image_type: str = ""


# One SAN over two protocols, as Tempest takes it: LIO on one zpool, NVMe/TCP on another.
SINGLE = Arrangement(
    (
        Backend("lio", ("target_helper = lioadm", "use_chap_auth = true")),
        Backend(
            "nvmet",
            ("target_protocol = nvmet_tcp", "target_helper = nvmet", "target_port = 4420"),
            parent="fast/volumes",
        ),
    )
)

DATA, FAST = "data/volumes", "fast/volumes"
# Cinder's key manager without Barbican, of which all volumes have one key. Nobody's but the lab's.
FIXED_KEY = "5a" * 32

# One back end with two parents and two services. Both pools take part by what the SAN says of each: the one
# with fewer volumes is the better one, and a large volume wants a large pool. Cinder's evaluator has no
# fractions (0.9 is 0), and its allocated_capacity_gb is what the service that reported last has made itself.
CLUSTER = Arrangement(
    (
        Backend(
            "zolder",
            (
                "target_helper = lioadm",
                "use_chap_auth = true",
                "image_volume_cache_enabled = true",
                "image_upload_use_cinder_backend = true",
                "image_upload_use_internal_tenant = true",
                "max_over_subscription_ratio = 200",
                'filter_function = "volume.size < 4 or stats.total_capacity_gb > 4"',
                'goodness_function = "100 / (1 + capabilities.total_volumes)"',
            ),
            parent=f"{DATA}, {FAST}",
        ),
    ),
    options="""\
scheduler_default_filters = AvailabilityZoneFilter,CapacityFilter,CapabilitiesFilter,DriverFilter
scheduler_default_weighers = GoodnessWeigher
quota_volumes = -1
quota_gigabytes = -1
quota_snapshots = -1
allowed_direct_url_schemes = cinder
# Whether a service lives is asked right after one was killed.
report_interval = 2
service_down_time = 15
""",
    sections=f"""\
[key_manager]
backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = {FIXED_KEY}
""",
    cluster="attic",
    members=("one", "two"),
    image_type="of images",
)
