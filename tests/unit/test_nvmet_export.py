"""An export over NVMe: what its subsystem is made of, whose it is, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit import nvmet_export
from tests.unit.nvmet_export import (
    ALICE,
    BOB,
    HOST,
    NAMESPACE,
    NQN,
    PORTALS,
    PORTS,
    PREFIX,
    SECRET,
    SUBJECT,
    SUBSYSTEM,
    VOLUME,
    ZVOL,
    seen_in,
)
from tests.unit.nvmet_tree import NvmetTree
from zolder.errors import AlreadyExists, InvalidRequest
from zolder.names import DatasetName, InitiatorName, TargetPrefix, VolumeId, ZvolName, subsystem_name
from zolder.san.exporter import Exported, Subject
from zolder.san.nvmet import Nvmet

root, dev = nvmet_export.root, nvmet_export.dev
ensure, nvmet = nvmet_export.ensure, nvmet_export.nvmet


def test_an_export_is_a_closed_subsystem_with_one_namespace(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """An export has its namespace, one allowed host, its ports, and an identity from the volume's id."""
    assert ensure(chap=SECRET) is True
    seen = seen_in(root)
    assert seen[f"{SUBSYSTEM}/attr_allow_any_host"] == "0"
    assert seen[f"{SUBSYSTEM}/attr_model"] == "Zolder"
    assert seen[f"{SUBSYSTEM}/attr_serial"] == "3f0c6a1e8d2b4c5fa7e0"
    assert seen[f"{SUBSYSTEM}/allowed_hosts/{ALICE}"] == f"-> {HOST}"
    assert {name.rpartition("/")[2]: text for name, text in seen.items() if f"{NAMESPACE}/" in name} == {
        "buffered_io": "0",
        "device_nguid": VOLUME,
        "device_path": str(dev / "zd16"),
        "device_uuid": VOLUME,
        "enable": "1",
        "revalidate_size": "",
    }
    assert seen[f"{HOST}/dhchap_key"] == SECRET.secret
    addresses = [
        [seen[f"{port}/addr_{name}"] for name in ("trtype", "adrfam", "traddr", "trsvcid")] for port in PORTS
    ]
    assert addresses == [["tcp", "ipv4", "192.0.2.1", "4420"], ["tcp", "ipv6", "2001:db8::1", "4420"]]
    assert {seen[f"{port}/subsystems/{NQN}"] for port in PORTS} == {f"-> {SUBSYSTEM}"}


def test_a_repeated_export_changes_nothing(root: Path, ensure: Callable[..., bool]) -> None:
    """The same request again answers that nothing changed, and writes nothing."""
    ensure(chap=SECRET)
    before = seen_in(root)
    again = NvmetTree(root)
    assert ensure(tree=again, chap=SECRET) is False
    assert [step for step in again.steps if step.startswith("write")] == []
    assert seen_in(root) == before


def test_it_is_whole_before_any_port_shows_it(root: Path, ensure: Callable[..., bool]) -> None:
    """The links into the ports come last; identity comes before enabling, the key before the link."""
    tree = NvmetTree(root)
    ensure(tree=tree, chap=SECRET)
    order = [
        f"write {NAMESPACE}/device_uuid",
        f"write {NAMESPACE}/device_path",
        f"write {NAMESPACE}/enable",
        f"write {HOST}/dhchap_key",
        f"link {SUBSYSTEM}/allowed_hosts/{ALICE}",
        *(f"link {port}/subsystems/{NQN}" for port in PORTS),
    ]
    assert [step for step in tree.steps if step in order] == order
    assert tree.steps[-1] == order[-1]


def test_initiators_have_subsystems_of_their_own_and_go_one_by_one(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """Two initiators see one volume by one identity, and shutting out one leaves the other's subsystem."""
    pristine = seen_in(root)
    ensure()
    assert ensure(initiator=BOB) is True
    assert nvmet.initiators_of(SUBJECT) == (ALICE, BOB)
    other = f"subsystems/{subsystem_name(PREFIX, ZVOL, BOB)}"
    tree = NvmetTree(root)
    for attribute in ("attr_serial", "namespaces/1/device_uuid", "namespaces/1/device_nguid"):
        assert tree.read(f"{SUBSYSTEM}/{attribute}") == tree.read(f"{other}/{attribute}")
    assert nvmet.remove_initiator(SUBJECT, ALICE) is True
    assert nvmet.remove_initiator(SUBJECT, ALICE) is False
    assert nvmet.initiators_of(SUBJECT) == (BOB,)
    assert tree.read(f"{other}/namespaces/1/enable") == "1"
    assert nvmet.remove_initiator(SUBJECT, BOB) is True
    assert seen_in(root) == pristine
    assert nvmet.remove_export(SUBJECT) is False


def test_removing_an_export_takes_all_initiators_and_no_other_zvol(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """All subsystems of a zvol go at once; a zvol whose name begins alike keeps its own."""
    alike = Subject(SUBJECT.parent, ZvolName("volume-10"), PREFIX)
    (dev / "zd48").write_text(alike.dataset)
    ensure(subject=alike, device=dev / "zd48")
    before = seen_in(root)
    ensure()
    ensure(initiator=BOB)
    assert nvmet.remove_export(SUBJECT) is True
    assert seen_in(root) == before


@pytest.mark.parametrize("call", ["ensure_export", "remove_initiator", "remove_export"])
@pytest.mark.parametrize(
    "strange", ["device", "plain device", "namespace", "host", "any host", "passthru", "partition"]
)
def test_a_subsystem_of_somebody_else_is_never_touched(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool], strange: str, call: str
) -> None:
    """A subsystem of our name with what Zolder never makes, or on another device, is refused and left."""
    ensure()
    foreign = NvmetTree(root)
    (dev / "zd32").write_text("data/theirs/volume-1")
    if strange in {"device", "plain device", "partition"}:
        path = {"device": dev / "zd32", "plain device": Path("/dev/sda"), "partition": dev / "zd16p1"}[
            strange
        ]
        foreign.write(f"{NAMESPACE}/enable", "0")
        foreign.write(f"{NAMESPACE}/device_path", str(path))
        foreign.write(f"{NAMESPACE}/enable", "1")
    elif strange == "namespace":
        foreign.make_folder(f"{SUBSYSTEM}/namespaces/2")
    elif strange == "host":
        foreign.make_folder(f"hosts/{BOB}")
        foreign.make_link(f"{SUBSYSTEM}/allowed_hosts/{BOB}", f"hosts/{BOB}")
    else:
        attribute = {"any host": "attr_allow_any_host", "passthru": "passthru/enable"}[strange]
        foreign.write(f"{SUBSYSTEM}/{attribute}", "1")
    before = seen_in(root)
    calls: dict[str, Callable[[], bool]] = {
        "ensure_export": ensure,
        "remove_initiator": lambda: nvmet.remove_initiator(SUBJECT, ALICE),
        "remove_export": lambda: nvmet.remove_export(SUBJECT),
    }
    with pytest.raises(AlreadyExists, match=NQN):
        calls[call]()
    assert seen_in(root) == before


def test_a_half_of_ours_whose_node_has_another_number_now_is_adopted(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A namespace that was never enabled, with our UUID and an old node, is given the node of today."""
    ensure()
    half = NvmetTree(root)
    half.write(f"{NAMESPACE}/enable", "0")
    half.write(f"{NAMESPACE}/device_path", str(dev / "zd208"))
    assert ensure() is True
    assert half.read(f"{NAMESPACE}/device_path") == str(dev / "zd16")
    assert half.read(f"{NAMESPACE}/enable") == "1"
    half.write(f"{NAMESPACE}/enable", "0")
    half.write(f"{NAMESPACE}/device_path", str(dev / "zd208"))
    assert nvmet.remove_export(SUBJECT) is True


def test_a_disabled_namespace_of_somebody_else_is_never_taken(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """A namespace that is switched off but has another device and UUID is left."""
    ensure()
    foreign = NvmetTree(root)
    foreign.write(f"{NAMESPACE}/enable", "0")
    foreign.write(f"{NAMESPACE}/device_path", str(dev / "zd208"))
    foreign.write(f"{NAMESPACE}/device_uuid", "24545b2b-3197-4dec-9dc9-c7c849a129d7")
    before = seen_in(root)
    with pytest.raises(AlreadyExists, match="zd208"):
        ensure()
    assert seen_in(root) == before


def test_an_exported_identity_is_never_changed(root: Path, ensure: Callable[..., bool]) -> None:
    """A device that is exported under another volume's id is refused: initiators know the disk by it."""
    ensure()
    before = seen_in(root)
    with pytest.raises(AlreadyExists, match=VOLUME):
        ensure(volume_id=VolumeId("00000000-8d2b-4c5f-a7e0-9b1d2c3f4a5b"))
    NvmetTree(root).write(f"{SUBSYSTEM}/attr_serial", "another")
    with pytest.raises(AlreadyExists, match="another"):
        ensure()
    NvmetTree(root).write(f"{SUBSYSTEM}/attr_serial", before[f"{SUBSYSTEM}/attr_serial"])
    assert seen_in(root) == before


def test_an_initiator_of_iscsi_is_refused(root: Path, ensure: Callable[..., bool]) -> None:
    """An IQN cannot connect over NVMe, and nothing is made for one."""
    before = seen_in(root)
    with pytest.raises(InvalidRequest, match="is no NQN"):
        ensure(initiator=InitiatorName("iqn.1993-08.org.debian:alice"))
    assert seen_in(root) == before


def test_exports_are_listed_by_prefix(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A listing shows whole exports below the prefix, by the zvol that each has open; nothing else."""
    elsewhere = Subject(DatasetName("tank/a/b"), ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(elsewhere.dataset)
    ensure()
    ensure(initiator=BOB, portals=PORTALS[:1])
    ensure(subject=elsewhere, device=dev / "zd32")
    foreign = NvmetTree(root)
    foreign.make_folder(f"subsystems/{subsystem_name(PREFIX, ZvolName('half'), ALICE)}")
    foreign.make_folder("subsystems/nqn.2012-12.org.example:theirs")
    expected = {
        Exported(NQN, SUBJECT.dataset, (ALICE,), tuple(sorted(PORTALS))),
        Exported(subsystem_name(PREFIX, ZVOL, BOB), SUBJECT.dataset, (BOB,), PORTALS[:1]),
        Exported(
            subsystem_name(PREFIX, elsewhere.zvol, ALICE),
            elsewhere.dataset,
            (ALICE,),
            tuple(sorted(PORTALS)),
        ),
    }
    listed = nvmet.list_exports(PREFIX)
    assert set(listed) == expected
    assert [export.target for export in listed] == sorted(export.target for export in expected)
    assert nvmet.list_exports(TargetPrefix("iqn.2012-12.org.elsewhere:")) == ()


def test_an_open_device_is_found_under_any_prefix(nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """Whether a zvol is open is told by the zvol itself, not by the prefix of the subsystem's name."""
    other_parent = Subject(DatasetName("tank/volumes"), ZVOL, PREFIX)
    other_prefix = Subject(SUBJECT.parent, ZVOL, TargetPrefix("iqn.2012-12.org.elsewhere:x-"))
    assert not nvmet.is_open(SUBJECT)
    ensure(subject=other_prefix)
    assert nvmet.is_open(SUBJECT)
    assert nvmet.is_open(other_prefix)
    assert not nvmet.is_open(other_parent)
    nvmet.remove_export(SUBJECT)
    assert nvmet.is_open(SUBJECT)
    nvmet.remove_export(other_prefix)
    assert not nvmet.is_open(SUBJECT)


def test_growth_is_told_to_each_initiator(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """Each subsystem of the zvol looks at its device's size again; none of another zvol does."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure()
    ensure(initiator=BOB)
    ensure(subject=second, device=dev / "zd32")
    tree = NvmetTree(root)
    Nvmet(dev=dev, tree=tree).grow_export(SUBJECT, device=dev / "zd16", seconds=1)
    assert sorted(tree.steps) == sorted(
        f"write subsystems/{subsystem_name(PREFIX, ZVOL, initiator)}/namespaces/1/revalidate_size"
        for initiator in (ALICE, BOB)
    )


def test_the_cost_does_not_grow_with_the_exports_standing(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """Letting in and shutting out look at the same few places whether few or many others stand."""

    def ensure_other(number: int) -> None:
        subject = Subject(SUBJECT.parent, ZvolName(f"other-{number}"), PREFIX)
        device = dev / f"zd{64 + 16 * number}"
        device.write_text(subject.dataset)
        ensure(subject=subject, device=device)

    def come_and_go() -> NvmetTree:
        tree = NvmetTree(root)
        ensure(tree=tree)
        Nvmet(dev=dev, tree=tree).remove_initiator(SUBJECT, ALICE)
        return tree

    ensure_other(0)
    alone = come_and_go()
    for number in range(1, 30):
        ensure_other(number)
    crowded = come_and_go()
    assert crowded.steps == alone.steps
    assert crowded.looks == alone.looks
    listed = {look for look in crowded.looks if look.startswith("ls ")}
    assert listed == {"ls ports", f"ls {SUBSYSTEM}/namespaces", f"ls {SUBSYSTEM}/allowed_hosts"}
