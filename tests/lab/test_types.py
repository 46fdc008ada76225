"""Volume types on real ZFS: what `zfs get` says of a zvol that Cinder has made, retyped, copied or grown."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

from lab.backends import ONE
from lab.cinder import Cinder
from tests.contract.ground import FAST as FAST_PARENT
from tests.contract.ground import MIB, PARENT
from tests.support.san import connected
from tests.support.waiting import wait_until
from zolder.errors import NoSpace, NotPermitted
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName
from zolder.properties import KINDS, BlockSize, Copies, Dedup, Sync, ZvolProperties
from zolder.san.check.padding import Stripe

if TYPE_CHECKING:
    from lab import Lab
    from lab.volumes import Volumes
    from zolder.client.remote import RemoteStorage

pytestmark = pytest.mark.timeout(400)

GIB: Final = 1024 * MIB
TYPED: Final = {
    "compression": "zstd-3",
    "checksum": "sha256",
    "copies": "1",
    "dedup": "off",
    "logbias": "throughput",
    "primarycache": "metadata",
    "secondarycache": "none",
    "sync": "always",
}
SNAPSHOT: Final = SnapshotName("snapshot-1")


@pytest.fixture(scope="module", autouse=True)
def cinder(lab: Lab) -> Iterator[Cinder]:
    """Cinder with one back end, on a pristine SAN."""
    lab.reset()
    running = Cinder(lab, ONE)
    running.up(fresh=True)
    yield running
    if not lab.keep:
        running.down()


@pytest.fixture(scope="module")
def storage(lab: Lab, cinder: Cinder) -> Iterator[RemoteStorage]:  # noqa: ARG001 - after its reset
    """The SAN as the driver reaches it, with both parents set up."""
    with connected(lab) as found:
        found.get_figures(FAST_PARENT)
        yield found


def specs_of(properties: dict[str, str]) -> dict[str, str]:
    """Return a type's extra specs; only types of one named back end may be cloned into each other."""
    return {"volume_backend_name": "zolder"} | {f"zolder:{name}": value for name, value in properties.items()}


def dataset_of(volume: str) -> str:
    """Return the zvol of one of Cinder's volumes."""
    return f"{PARENT}/volume-{volume}"


def own(lab: Lab, dataset: str) -> dict[str, str]:
    """Return the properties that a zvol has of its own, of those that a type decides."""
    text = lab.san.succeed(f"zfs get -Hp -s local -o property,value {','.join(KINDS)} {dataset}")
    return dict(line.split("\t") for line in text.splitlines())


def get(lab: Lab, dataset: str, *names: str) -> list[int]:
    """Return properties that are figures."""
    return [int(word) for word in lab.san.succeed(f"zfs get -Hpo value {','.join(names)} {dataset}").split()]


# Through Cinder


def test_a_type_decides(lab: Lab, volumes: Volumes) -> None:
    """The zvol has each property of its type, and its volblocksize; a clone has its own type's."""
    kind = volumes.make_type(specs_of(TYPED | {"volblocksize": "64k", "provisioning": "thick"}))
    volume = volumes.create(1, volume_type=kind)
    assert own(lab, dataset_of(volume)) == TYPED
    [volblocksize, volsize, reserved] = get(
        lab, dataset_of(volume), "volblocksize", "volsize", "refreservation"
    )
    assert (volblocksize, volsize) == (64 * 1024, GIB)
    assert reserved > GIB
    plain = volumes.make_type(specs_of({"provisioning": "thin"}))
    snapshot = volumes.create_snapshot(volume)
    clone = volumes.create(2, source=volume, volume_type=plain)
    copy = volumes.create(2, snapshot=snapshot, volume_type=plain)
    for made in (clone, copy):
        assert own(lab, dataset_of(made)) == {}
        assert get(lab, dataset_of(made), "volsize", "refreservation", "volblocksize") == [
            2 * GIB, 0, 64 * 1024,
        ]  # fmt: skip
    for made in (clone, copy):
        volumes.delete(made)
    volumes.delete_snapshot(snapshot)
    volumes.delete(volume)


def test_capabilities(volumes: Volumes) -> None:
    """`cinder get-capabilities` shows what a type may say."""
    shown = volumes.capabilities("lab@zolder")["properties"]
    assert shown["zolder:volblocksize"]["enum"] == list(BlockSize.values)
    assert {f"zolder:{name}" for name in TYPED} <= shown.keys()


def test_retype(lab: Lab, volumes: Volumes) -> None:
    """Each property, thick and thin are changed in place while the zvol is written to; no byte changes."""
    volume = volumes.create(1, volume_type=volumes.make_type(specs_of({})))
    dataset = dataset_of(volume)
    device = lab.san.succeed(f"udevadm settle; readlink -f /dev/zvol/{dataset}").strip()
    lab.san.succeed(f"head -c 64M /dev/urandom > /run/data; dd if=/run/data of={device} bs=1M oflag=direct")
    # What is behind the first 64 MiB is written to all the time.
    lab.san.succeed(
        f"systemd-run -q --unit writing sh -c 'while dd if=/run/data of={device} bs=1M seek=128 oflag=direct"
        " conv=notrunc; do :; done'"
    )
    volblocksize, guid = get(lab, dataset, "volblocksize", "guid")
    for name, value in TYPED.items():
        assert volumes.retype(volume, volumes.make_type(specs_of({name: value})))
        assert own(lab, dataset) == {name: value}, "and what the type before had is inherited again"
    for provisioning in ("thick", "thin"):
        assert volumes.retype(volume, volumes.make_type(specs_of({"provisioning": provisioning})))
        [reserved] = get(lab, dataset, "refreservation")
        assert (reserved > GIB) is (provisioning == "thick")
        assert own(lab, dataset) == {}
    assert volumes.retype(volume, volumes.make_type(specs_of(TYPED | {"provisioning": "thick"})))
    assert own(lab, dataset) == TYPED
    assert get(lab, dataset, "volblocksize", "guid", "volsize") == [volblocksize, guid, GIB]
    assert lab.san.succeed("systemctl is-active writing").strip() == "active", "no write has failed"
    lab.san.succeed("systemctl stop writing")
    assert lab.san.succeed(f"cmp -n {64 * MIB} /run/data {device} && echo same").strip() == "same"
    lab.san.succeed("rm /run/data")
    volumes.delete(volume)


def test_retype_that_is_a_migration(lab: Lab, volumes: Volumes, cinder: Cinder) -> None:
    """Another volblocksize is refused where the user allows no migration; the volume stays what it was."""
    before = volumes.make_type(specs_of({"compression": "off"}))
    volume = volumes.create(1, volume_type=before)
    other = volumes.make_type(specs_of({"volblocksize": "128k", "compression": "lz4"}))
    assert not volumes.retype(volume, other)
    assert own(lab, dataset_of(volume)) == {"compression": "off"}
    assert "has to be migrated: " in cinder.log.read_text()
    volumes.delete(volume)


def test_retype_that_does_not_fit(lab: Lab, volumes: Volumes, cinder: Cinder) -> None:
    """Thick that does not fit leaves the volume as it was, and the log has the numbers."""
    volume = volumes.create(1, volume_type=volumes.make_type(specs_of({})))
    [available] = get(lab, PARENT, "available")
    lab.san.succeed(f"zfs create -o mountpoint=none -o reservation={available - GIB // 2} data/taken")
    try:
        assert not volumes.retype(volume, volumes.make_type(specs_of(TYPED | {"provisioning": "thick"})))
    finally:
        lab.san.succeed("zfs destroy data/taken")
    said = re.findall(r"volume-\S+: (\d+) bytes are needed and (\d+) available", cinder.log.read_text())
    assert said, "neither said nor logged"
    assert all(int(needed) > GIB > int(available) for needed, available in said)
    assert own(lab, dataset_of(volume)) == {}
    assert get(lab, dataset_of(volume), "refreservation") == [0]
    volumes.delete(volume)


# Below Cinder: reservations and figures


def make(
    storage: RemoteStorage,
    name: str,
    size_bytes: int,
    *,
    parent: DatasetName = PARENT,
    sparse: bool = False,
    properties: ZvolProperties | None = None,
    volblocksize: BlockSize | None = None,
) -> str:
    """Create a zvol and return its dataset."""
    storage.create_zvol(
        parent,
        ZvolName(name),
        volume_id=VolumeId(str(uuid.uuid4())),
        volsize_bytes=size_bytes,
        sparse=sparse,
        properties=properties or ZvolProperties(),
        volblocksize=volblocksize,
    )
    return f"{parent}/{name}"


def clone(storage: RemoteStorage, source: str, snapshot: SnapshotName | None, name: str, size: int) -> str:
    """Clone to a thick zvol and return its dataset."""
    storage.clone_zvol(
        PARENT,
        ZvolName(source),
        snapshot,
        ZvolName(name),
        volume_id=VolumeId(str(uuid.uuid4())),
        volsize_bytes=size,
        sparse=False,
    )
    return f"{PARENT}/{name}"


@pytest.mark.parametrize("size", BlockSize.values)
def test_reservations(lab: Lab, storage: RemoteStorage, size: str, note: Callable[[str], None]) -> None:
    """A thick zvol has the reservation that ZFS itself gives one of its size and blocks, however it came."""
    block = BlockSize(size)

    def expected(volsize: int) -> int:
        lab.san.succeed(f"zfs create -o volblocksize={size} -V {volsize} {PARENT}/by-hand")
        [reserved] = get(lab, f"{PARENT}/by-hand", "refreservation")
        lab.san.succeed(f"udevadm settle; zfs destroy {PARENT}/by-hand")
        return reserved

    small, large = expected(256 * MIB), expected(384 * MIB)
    made = make(storage, "volume-a", 256 * MIB, volblocksize=block)
    assert get(lab, made, "refreservation") == [small]
    storage.create_snapshot(PARENT, ZvolName("volume-a"), SNAPSHOT)
    assert get(lab, made, "refreservation") == [small]
    copied = clone(storage, "volume-a", SNAPSHOT, "volume-b", 384 * MIB)
    twin = clone(storage, "volume-a", None, "volume-c", 256 * MIB)
    storage.grow_zvol(PARENT, ZvolName("volume-a"), volsize_bytes=384 * MIB)
    assert [get(lab, one, "refreservation")[0] for one in (made, copied, twin)] == [large, large, small]
    storage.grow_zvol(PARENT, ZvolName("volume-c"), volsize_bytes=384 * MIB)
    assert get(lab, twin, "refreservation", "volsize") == [large, 384 * MIB]
    for sparse, reserved in ((True, 0), (False, large)):
        storage.set_zvol_properties(
            PARENT, ZvolName("volume-c"), sparse=sparse, properties=ZvolProperties(), volblocksize=block
        )
        assert get(lab, twin, "refreservation") == [reserved]
    cost = Stripe("raidz1-0", columns=6, parity=1).cost(block.size_bytes, ashift=12)
    note(f"refreservation / volsize {small / 256 / MIB:.3f}, raidz1 of 6 by the check {cost:.3f}")
    # What points at the blocks comes on top: 128 bytes for each, twice, in blocks of their own.
    assert cost <= small / 256 / MIB <= cost * 1.12
    for name in ("volume-c", "volume-b"):
        storage.delete_zvol(PARENT, ZvolName(name))
    storage.delete_snapshot(PARENT, ZvolName("volume-a"), SNAPSHOT)
    storage.delete_zvol(PARENT, ZvolName("volume-a"))


def test_why_thick_zvols_have_one_copy(lab: Lab, note: Callable[[str], None]) -> None:
    """ZFS reserves one copy of a zvol that has two: created, grown and by `refreservation=auto`."""
    dataset = f"{PARENT}/by-hand"
    lab.san.succeed(f"zfs create -o copies=2 -V 256M {dataset}")
    [created] = get(lab, dataset, "refreservation")
    lab.san.succeed(f"zfs set volsize=512M {dataset}")
    [grown] = get(lab, dataset, "refreservation")
    lab.san.succeed(f"zfs set refreservation=auto {dataset}")
    [automatic] = get(lab, dataset, "refreservation")
    lab.san.succeed(f"udevadm settle; zfs destroy {dataset}")
    note(f"copies=2, 256 MiB: {created >> 20} MiB; grown to 512 MiB: {grown >> 20}; auto: {automatic >> 20}")
    assert created < 1.5 * 256 * MIB
    assert max(grown, automatic) < 1.5 * 512 * MIB


def test_a_thick_snapshot_that_does_not_fit(lab: Lab, storage: RemoteStorage) -> None:
    """What a thick zvol has written is reserved again by a snapshot; else it says how much that is."""
    name = ZvolName("volume-thick")
    dataset = make(storage, name, 512 * MIB, parent=FAST_PARENT)
    device = lab.san.succeed(f"udevadm settle; readlink -f /dev/zvol/{dataset}").strip()
    lab.san.succeed(f"dd if=/dev/urandom of={device} bs=1M count=400 oflag=direct; zpool sync")
    with pytest.raises(NoSpace) as refused:
        storage.create_snapshot(FAST_PARENT, name, SNAPSHOT)
    [written] = get(lab, dataset, "usedbydataset")
    [available] = get(lab, FAST_PARENT, "available")
    assert written >= 400 * MIB
    assert refused.value.details["needed_bytes"] == written
    assert abs(int(str(refused.value.details["available_bytes"])) - available) < MIB
    assert available < written
    assert lab.san.succeed(f"zfs list -Ho name -t snapshot {dataset}") == ""
    storage.set_zvol_properties(
        FAST_PARENT, name, sparse=True, properties=ZvolProperties(), volblocksize=None
    )
    assert storage.create_snapshot(FAST_PARENT, name, SNAPSHOT).changed, "a thin one needs no room for it"
    storage.delete_snapshot(FAST_PARENT, name, SNAPSHOT)
    storage.delete_zvol(FAST_PARENT, name)


def test_the_policy_keeps_some_back(lab: Lab, storage: RemoteStorage) -> None:
    """Without the administrator's word on the SAN no type has dedup, more copies or unsafe writes."""
    daring = (
        ZvolProperties(dedup=Dedup("on")),
        ZvolProperties(sync=Sync("disabled")),
        ZvolProperties(copies=Copies("2")),
    )
    for properties in daring:
        with pytest.raises(NotPermitted, match="daring property"):
            make(storage, "volume-daring", MIB, sparse=True, properties=properties)
    lab.san.succeed("cp -a /etc/zolder/san.toml /run/san.toml")
    words = 'daring_properties = ["dedup", "sync=disabled", "copies"]'
    lab.san.succeed(f"sed -i '/identity.lab/a {words}' /etc/zolder/san.toml")
    try:
        for number, properties in enumerate(daring):
            dataset = make(storage, f"volume-daring-{number}", MIB, sparse=True, properties=properties)
            assert len(own(lab, dataset)) == 1
            storage.delete_zvol(PARENT, ZvolName(f"volume-daring-{number}"))
    finally:
        lab.san.succeed("mv /run/san.toml /etc/zolder/san.toml")


def test_figures(lab: Lab, volumes: Volumes, storage: RemoteStorage) -> None:
    """What Cinder's scheduler sees is what `zfs get` says, whatever takes the space."""
    thin, thick = (volumes.make_type(specs_of({"provisioning": word})) for word in ("thin", "thick"))

    def agree(what: str, *, provisioned_gib: int) -> int:
        def same() -> bool:
            lab.san.succeed("zpool sync data")
            figures = storage.get_figures(PARENT)
            return [figures.available_bytes, figures.used_bytes] == get(lab, PARENT, "available", "used")

        wait_until(same, 30, f"the same figures with {what}")
        figures = storage.get_figures(PARENT)
        sizes = lab.san.succeed(f"zfs get -Hpo value -t volume -r volsize {PARENT}").split()
        assert figures.provisioned_bytes == sum(map(int, sizes)) == provisioned_gib * GIB, what
        assert figures.zvol_count == len(sizes)
        return figures.available_bytes

    empty = agree("nothing", provisioned_gib=0)
    first = volumes.create(1, volume_type=thin)
    assert empty - agree("a thin volume", provisioned_gib=1) < 4 * MIB
    second = volumes.create(1, volume_type=thick)
    reserved = agree("a thick volume", provisioned_gib=2)
    assert empty - reserved > GIB
    device = lab.san.succeed(f"udevadm settle; readlink -f /dev/zvol/{dataset_of(second)}").strip()
    lab.san.succeed(f"dd if=/dev/urandom of={device} bs=1M count=128 oflag=direct")
    written = agree("a thick volume with data in it", provisioned_gib=2)
    assert abs(reserved - written) < 8 * MIB, "its space was its own already"
    snapshot = volumes.create_snapshot(second)
    assert written - agree("a snapshot of it", provisioned_gib=2) > 120 * MIB, "reserved a second time"
    third = volumes.create(2, source=second, volume_type=thin)
    agree("a thin clone", provisioned_gib=4)
    lab.san.succeed(f"zfs set quota=6G {PARENT}")
    assert agree("a quota", provisioned_gib=4) < 6 * GIB
    lab.san.succeed(f"zfs set quota=none {PARENT}")
    before = agree("no quota", provisioned_gib=4)
    lab.san.succeed("zfs create -o mountpoint=none -o reservation=2G data/taken")
    assert before - agree("another's reservation", provisioned_gib=4) > 2 * GIB - 8 * MIB
    lab.san.succeed("zfs destroy data/taken")
    for volume in (third, first):
        volumes.delete(volume)
    volumes.delete_snapshot(snapshot)
    volumes.delete(second)
    lab.san.succeed("zpool wait -t free data")
    assert abs(agree("nothing again", provisioned_gib=0) - empty) < 16 * MIB
