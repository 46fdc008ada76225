"""``zolder trash``: what Cinder has deleted and clones still need."""

from __future__ import annotations

import json
import uuid

from tests.driver.cloud import Cloud
from tests.driver.conftest import PARENT
from zolder.names import VolumeId, ZvolName

SIZE = 2**30


def delete_a_source(cloud: Cloud) -> tuple[str, str]:
    """Have a volume deleted that was copied before; return its id and the copy's."""
    source, copy = (VolumeId(str(uuid.uuid4())) for _ in range(2))
    names = [ZvolName(f"volume-{each}") for each in (source, copy)]
    cloud.san.create_zvol(PARENT, names[0], volume_id=source, volsize_bytes=SIZE, sparse=True)
    cloud.san.clone_zvol(PARENT, names[0], None, names[1], volume_id=copy, volsize_bytes=SIZE, sparse=True)
    cloud.san.delete_zvol(PARENT, names[0])
    return source, copy


def test_nothing_is_put_aside(cloud: Cloud) -> None:
    """Where nothing is, that is said, and the exit status is 0."""
    status, said = cloud.run_command("trash")
    assert status == 0
    assert "data/volumes on 192.0.2.1" in said
    assert "0 deleted volumes are put aside, with 0.0 KiB." in said


def test_words(cloud: Cloud) -> None:
    """Each is said with its volume's id, its time, its bytes and what holds it."""
    source, copy = delete_a_source(cloud)
    status, said = cloud.run_command("trash")
    assert status == 0
    assert f"  volume {source}, deleted 1970-01-01T00:00:00Z: 0.0 KiB in {PARENT}/zolder-deleted-" in said
    assert f"    {PARENT}/volume-{copy}\n" in said
    assert "1 deleted volumes are put aside" in said


def test_json(cloud: Cloud) -> None:
    """For scripts it is one object."""
    source, copy = delete_a_source(cloud)
    status, said = cloud.run_command("trash", "--json", "--backend", "one")
    (parent,) = json.loads(said)["parents"]
    (volume,) = parent["put_aside"]
    assert (status, parent["parent"], parent["trouble"]) == (0, str(PARENT), None)
    assert (volume["volume_id"], volume["holders"]) == (source, [f"{PARENT}/volume-{copy}"])


def test_a_san_that_does_not_answer(cloud: Cloud) -> None:
    """It is named, the others are listed all the same, and the exit status is 2."""
    cloud.configuration.write_text(cloud.configuration.read_text().replace("other, one, two", "far, one"))
    delete_a_source(cloud)
    status, said = cloud.run_command("trash")
    assert status == 2
    assert "could not be asked: 192.0.2.9 cannot be reached" in said
    assert "1 deleted volumes" in said


def test_what_is_put_aside_is_no_orphan(cloud: Cloud) -> None:
    """`zolder orphans` does not take it for a zvol that nobody knows."""
    _, copy = delete_a_source(cloud)
    cloud.add_volume(id=copy, zvol=False)
    assert cloud.run()[0] == 0
