"""The lab's cluster, as far as it can be looked at without machines."""

from __future__ import annotations

import configparser
from dataclasses import replace
from pathlib import Path

import pytest

from lab.cloud import cinder, glance, keystone
from lab.cloud.agreement import Held, Row, Sides, SnapshotRow, compare, parse_listing
from lab.cloud.arrangement import CLUSTER, DATA, FAST, SINGLE, Arrangement
from lab.cloud.ground import PORTS, SECRETS, Ground
from lab.cloud.ledger import End, Entry, Ledger, unexpected
from lab.cloud.service import Services
from lab.cloud.venvs import REQUIREMENTS, Environment

GIB = 2**30
ID, OTHER, SNAPSHOT = "0a", "0b", "0c"
ROW = Row(ID, "available", 1, DATA)
ZVOL = Held(DATA, f"volume-{ID}", GIB, ID)
TAKEN = SnapshotRow(SNAPSHOT, ID, "available")
HELD = Held(DATA, f"volume-{ID}@snapshot-{SNAPSHOT}", 0)
WELL = Sides([ROW], [TAKEN], [ZVOL], [HELD])
SAN = {
    "known_hosts": "/lab/known_hosts",
    "san_ssh_port": "2201",
    "agent_key": "/lab/agent",
    "san_address": "192.168.77.1",
    "san_second_address": "192.168.78.1",
}


# Agreement


def test_both_sides_agree() -> None:
    """Where each volume and each snapshot is there once, nothing is found."""
    assert compare(WELL) == []
    assert "1 volumes and 1 snapshots" in WELL.line()


@pytest.mark.parametrize(
    ("sides", "sentence"),
    [
        (replace(WELL, zvols=[], held=[]), "has no zvol"),
        (replace(WELL, zvols=[ZVOL, replace(ZVOL, parent=FAST)]), "is there 2 times"),
        (replace(WELL, zvols=[ZVOL, Held(DATA, "volume-x", GIB, OTHER)]), f"Cinder has no volume {OTHER}"),
        (replace(WELL, zvols=[ZVOL, Held(DATA, "volume-x", GIB)]), "Cinder has no volume of no mark"),
        (replace(WELL, zvols=[replace(ZVOL, size_bytes=2 * GIB)]), "should be"),
        (replace(WELL, zvols=[replace(ZVOL, leaf="volume-x")]), "should be"),
        (replace(WELL, volumes=[replace(ROW, pool=FAST)]), "should be fast/volumes"),
        (replace(WELL, volumes=[replace(ROW, status="extending")]), "is extending"),
        (replace(WELL, held=[]), "is not in ZFS"),
        (replace(WELL, snapshots=[]), "Cinder has no such snapshot"),
        (replace(WELL, snapshots=[replace(TAKEN, status="creating")]), "is creating"),
        (replace(WELL, held=[HELD, replace(HELD, parent=FAST)]), "is there twice"),
    ],
)
def test_each_difference_is_found(sides: Sides, sentence: str) -> None:
    """What is lost, doubled, misplaced, of another size or unknown is named, on either side."""
    assert any(sentence in line for line in compare(sides))


def test_what_somebody_died_over() -> None:
    """A row of which it is known that a service died over it may have a zvol or none, but never two."""
    sides = replace(WELL, volumes=[replace(ROW, status="error")], snapshots=[], zvols=[], held=[])
    assert compare(sides, unsettled={ID}) == []
    twice = replace(sides, zvols=[ZVOL, replace(ZVOL, parent=FAST)])
    assert any("is there 2 times" in line for line in compare(twice, unsettled={ID}))


def test_what_clones_need() -> None:
    """A deleted volume that is kept for its clones is no volume, nor are its snapshots Cinder's."""
    kept = Held(DATA, "zolder-deleted-00", GIB, OTHER, deleted=True)
    sides = replace(WELL, zvols=[ZVOL, kept], held=[HELD, Held(DATA, "zolder-deleted-00@snapshot-x", 0)])
    assert compare(sides) == []
    assert "1 more zvols" in sides.line()


def test_listing() -> None:
    """Of what ZFS lists, snapshots whose destruction waits for a clone are left out."""
    zvols, held = parse_listing(
        [
            f"{DATA}/volume-{ID}\tvolume\t{GIB}\t-\t{ID}\t-",
            f"{DATA}/volume-{ID}@snapshot-{SNAPSHOT}\tsnapshot\t{GIB}\toff\t{ID}\t-",
            f"{DATA}/volume-{ID}@snapshot-gone\tsnapshot\t{GIB}\ton\t{ID}\t-",
            f"{DATA}/zolder-deleted-00\tvolume\t{GIB}\t-\t{OTHER}\tyes",
        ]
    )
    assert zvols == [ZVOL, Held(DATA, "zolder-deleted-00", GIB, OTHER, deleted=True)]
    assert held == [HELD]


# The ledger


def entry(begun: float, ended: float, end: End) -> Entry:
    """Return an operation between two moments."""
    return Entry("create", ID, begun, ended, end)


def test_only_what_the_killed_service_may_have_had_may_fail() -> None:
    """What failed before a service was killed, or began behind that, has no excuse."""
    before, over, behind = entry(1, 2, End.FAILED), entry(4, 6, End.STUCK), entry(6, 7, End.STUCK)
    done = entry(1, 9, End.DONE)
    assert unexpected([before, over, behind, done], [0, 5]) == [before, behind]


def test_no_more_than_were_wanted() -> None:
    """The clients together begin as many operations as were wanted, and the account has all of them."""
    ledger = Ledger(2)
    assert [ledger.begin() for _ in range(3)] == [True, True, False]
    ledger.add(entry(1, 2, End.DONE))
    ledger.add(entry(1, 5, End.STUCK))
    assert ledger.not_done() == [entry(1, 5, End.STUCK)]
    (line,) = ledger.lines()
    assert "1 done, 1 stuck" in line


# Configuration


def ground_below(folder: Path) -> Ground:
    """Return the place of a cloud of which nothing runs."""
    ground = Ground(
        folder / "cloud",
        {name: Environment(folder / "venv" / name) for name in REQUIREMENTS},
        ports={name: 40000 + number for number, name in enumerate(PORTS)},
        secrets={name: f"secret-of-{name}" for name in SECRETS},
    )
    ground.prepare()
    return ground


def test_configuration_of_a_cluster(tmp_path: Path) -> None:
    """Both services have one back end over two pools, one place for locks, and each files of its own."""
    ground = ground_below(tmp_path)
    with Services(ground.logs) as services:
        parts = cinder.CinderServices(ground, services, native=False, arrangement=CLUSTER)
        settings = parts.configure(SAN, keystone.Tenant("project", "user"))
    places = set()
    for name in CLUSTER.members:
        found = configparser.ConfigParser(interpolation=None)
        found.read([settings, ground.etc / f"{name}.conf"])
        assert (found["DEFAULT"]["host"], found["DEFAULT"]["cluster"]) == (name, "attic")
        assert found["zolder"]["san_zfs_volume_base"] == f"{DATA}, {FAST}"
        assert found["coordination"]["backend_url"].startswith(f"file://{ground.data}/")
        assert found["DEFAULT"]["cinder_internal_tenant_user_id"] == "user"
        places.add(found["DEFAULT"]["image_conversion_dir"])
    assert len(places) == len(CLUSTER.members)


@pytest.mark.parametrize(("arrangement", "stores"), [(CLUSTER, {"files", "volumes"}), (SINGLE, {"files"})])
def test_only_a_cluster_has_images_in_volumes(
    tmp_path: Path, arrangement: Arrangement, stores: set[str]
) -> None:
    """Cinder and Glance know of each other's images and volumes both or neither, each by its own user."""
    ground, found = ground_below(tmp_path), []
    with Services(ground.logs) as services:
        parts = cinder.CinderServices(ground, services, native=False, arrangement=arrangement)
        settings = parts.configure(SAN, keystone.Tenant("project", "user"))
    for path in (settings, glance.configure(ground, arrangement.image_type)):
        # As oslo.config: a section may come again, and of an option the last counts.
        found.append(configparser.ConfigParser(interpolation=None, strict=False))
        found[-1].read(path)
    clones, holds = found
    enabled = holds["DEFAULT"]["enabled_backends"].split(", ")
    assert {store.partition(":")[0] for store in enabled} == stores
    assert holds["glance_store"]["default_backend"] == "files"
    with_volumes = "volumes" in stores
    assert holds.has_section("volumes") == clones.has_section("glance") == with_volumes
    assert clones["DEFAULT"].get("allowed_direct_url_schemes") == ("cinder" if with_volumes else None)
    if with_volumes:
        assert holds["volumes"]["cinder_store_password"] == ground.secrets["glance"]
        assert clones["glance"]["password"] == ground.secrets["cinder"]
