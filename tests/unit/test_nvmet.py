from __future__ import annotations

import base64
import errno
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.nvmet_tree import NvmetTree
from tests.unit.target_tree import Killed, picture
from zolder.errors import AlreadyExists, BackendError, Busy, InvalidRequest
from zolder.model import Chap
from zolder.names import (
    DatasetName,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    subsystem_name,
)
from zolder.san import nvmet as nvmet_module
from zolder.san import nvmet_subsystem
from zolder.san.exporter import Exported, Subject
from zolder.san.nvmet import Nvmet
from zolder.san.nvmet_port import _numbers
from zolder.san.run import Finished

PREFIX = TargetPrefix("iqn.2012-12.org.example:")
ZVOL = ZvolName("volume-1")
SUBJECT = Subject(DatasetName("data/volumes"), ZVOL, PREFIX)
VOLUME = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
PORTALS = (Portal("192.0.2.1:4420"), Portal("[2001:db8::1]:4420"))
PORTS = tuple(f"ports/{_numbers(portal)[0]}" for portal in PORTALS)
ALICE = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001")
BOB = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-4000-8000-000000000002")
NQN = subsystem_name(PREFIX, ZVOL, ALICE)
SUBSYSTEM = f"subsystems/{NQN}"
NAMESPACE = f"{SUBSYSTEM}/namespaces/1"
HOST = f"hosts/{ALICE}"


def key_of(content: bytes, kind: str = "00") -> str:
    """Return a DH-HMAC-CHAP key in the form that nvme-cli makes."""
    whole = content + zlib.crc32(content).to_bytes(4, "little")
    return f"DHHC-1:{kind}:{base64.b64encode(whole).decode()}:"


SECRET = Chap("unused", key_of(b"0123456789abcdef0123456789abcdef"))
OTHER_SECRET = Chap("unused", key_of(b"fedcba9876543210fedcba9876543210"))


def seen_in(root: Path) -> dict[str, str]:
    """Return a picture of a tree without its shut ports: one without links, which is all that may be left."""
    seen = picture(root)
    shut = [
        name
        for name in seen
        if re.fullmatch(r"ports/\d+", name) and not any((root / name / "subsystems").iterdir())
    ]
    return {
        name: text
        for name, text in seen.items()
        if not any(name == port or name.startswith(f"{port}/") for port in shut)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an nvmet tree as the modules leave it."""
    return make_root(tmp_path / "nvmet")


def make_root(root: Path) -> Path:
    """Make an empty nvmet tree."""
    for folder in ("hosts", "ports", "subsystems"):
        (root / folder).mkdir(parents=True)
    return root


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of nodes: a plain file each, whose text is the name that the ioctl answers."""
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "zd16").write_text(SUBJECT.dataset)

    def name_in_file(descriptor: int) -> str:
        return os.pread(descriptor, 256, 0).decode()

    monkeypatch.setattr(nvmet_subsystem, "read_zvol_name", name_in_file)
    return dev


@pytest.fixture
def ensure(root: Path, dev: Path) -> Callable[..., bool]:
    """Return a call for the export of these tests, with what differs."""

    def ask(
        *,
        tree: NvmetTree | None = None,
        subject: Subject = SUBJECT,
        device: Path = dev / "zd16",
        volume_id: VolumeId = VOLUME,
        portals: tuple[Portal, ...] = PORTALS,
        initiator: InitiatorName = ALICE,
        chap: Chap | None = None,
    ) -> bool:
        return Nvmet(dev=dev, tree=tree or NvmetTree(root)).ensure_export(
            subject,
            device=device,
            volume_id=volume_id,
            portals=portals,
            initiator=initiator,
            chap=chap,
            read_only=False,
        )

    return ask


@pytest.fixture
def nvmet(root: Path, dev: Path) -> Nvmet:
    """Return the exporter on the tree of these tests."""
    return Nvmet(dev=dev, tree=NvmetTree(root))


def steps_of_export(ensure: Callable[..., bool], tmp_path: Path) -> int:
    """Return how many steps a first export with CHAP takes."""
    tree = NvmetTree(make_root(tmp_path / "counted"))
    ensure(tree=tree, chap=SECRET)
    return len(tree.steps)


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


@pytest.mark.parametrize("whole_export", [False, True])
def test_an_export_killed_at_any_step_is_completed_by_the_next(
    tmp_path: Path,
    dev: Path,
    ensure: Callable[..., bool],
    whole_export: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """After a kill at every single step, asking again gives the tree of an undisturbed export."""
    root = make_root(tmp_path / "undisturbed")
    pristine = seen_in(root)
    ensure(tree=NvmetTree(root), chap=SECRET)
    whole = seen_in(root)
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"killed-{step}")
        nvmet = Nvmet(dev=dev, tree=NvmetTree(root))
        with pytest.raises(Killed):
            ensure(tree=NvmetTree(root, kill_at=step), chap=SECRET)
        assert ensure(tree=NvmetTree(root), chap=SECRET) is True, f"killed at step {step}"
        assert seen_in(root) == whole, f"killed at step {step}"
        if whole_export:
            assert nvmet.remove_export(SUBJECT) is True
        else:
            assert nvmet.remove_initiator(SUBJECT, ALICE) is True
        assert seen_in(root) == pristine, f"killed at step {step}"


@pytest.mark.parametrize("whole_export", [False, True])
def test_an_export_killed_at_any_step_is_removed_whole(
    tmp_path: Path,
    dev: Path,
    ensure: Callable[..., bool],
    whole_export: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """After a kill at every single step, removing leaves nothing but perhaps ports that are shut."""
    pristine = seen_in(make_root(tmp_path / "pristine"))
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"killed-{step}")
        with pytest.raises(Killed):
            ensure(tree=NvmetTree(root, kill_at=step), chap=SECRET)
        nvmet = Nvmet(dev=dev, tree=NvmetTree(root))
        if whole_export:
            nvmet.remove_export(SUBJECT)
        else:
            nvmet.remove_initiator(SUBJECT, ALICE)
        left = seen_in(root)
        assert seen_in(root) == pristine, f"killed at step {step}"
        assert not [name for name, text in left.items() if text.startswith("->")]
        ensure(tree=NvmetTree(root))
        assert nvmet.remove_export(SUBJECT) is True
        assert seen_in(root) == pristine, f"killed at step {step}"


def test_a_removal_killed_at_any_step_is_completed_by_the_next(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """After a kill at every single step of a removal, removing again or exporting again ends well."""
    pristine = seen_in(root)
    ensure(chap=SECRET)
    whole = seen_in(root)
    removals: tuple[Callable[[Nvmet], bool], ...] = (
        lambda exporter: exporter.remove_export(SUBJECT),
        lambda exporter: exporter.remove_initiator(SUBJECT, ALICE),
    )
    for remove in removals:
        ensure(chap=SECRET)
        tree = NvmetTree(root)
        remove(Nvmet(dev=dev, tree=tree))
        assert seen_in(root) == pristine
        for step in range(len(tree.steps)):
            for ending in (pristine, whole):
                ensure(chap=SECRET)
                with pytest.raises(Killed):
                    remove(Nvmet(dev=dev, tree=NvmetTree(root, kill_at=step)))
                if ending is whole:
                    ensure(chap=SECRET)
                    assert seen_in(root) == whole, f"killed at step {step}"
                else:
                    remove(nvmet)
                    assert seen_in(root) == pristine, f"killed at step {step}"
            ensure(chap=SECRET)
            nvmet.remove_export(SUBJECT)
            assert seen_in(root) == pristine


def test_an_export_refused_at_any_step_leaves_nothing(tmp_path: Path, ensure: Callable[..., bool]) -> None:
    """Whichever step the kernel refuses, what this call made is taken back."""
    pristine = seen_in(make_root(tmp_path / "pristine"))
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"refused-{step}")
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=NvmetTree(root, refuse_at=step), chap=SECRET)
        assert seen_in(root) == pristine, f"refused at step {step}"


def test_a_second_initiator_refused_leaves_the_first(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A failure for one more initiator takes back its subsystem and nothing of the export that stood."""
    ensure()
    whole = seen_in(root)
    count = NvmetTree(root)
    ensure(tree=count, initiator=BOB)
    assert nvmet.remove_initiator(SUBJECT, BOB) is True
    assert seen_in(root) == whole
    for step in range(len(count.steps)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=NvmetTree(root, refuse_at=step), initiator=BOB)
        assert seen_in(root) == whole, f"refused at step {step}"


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


def test_a_claimed_device_is_busy(
    root: Path, dev: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that somebody else claims raises Busy, since nvmet itself would not mind; nothing is left."""
    pristine = seen_in(root)
    really_open = os.open

    def claimed(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_EXCL and path == dev / "zd16":
            raise OSError(errno.EBUSY, "claimed")
        return really_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", claimed)
    with pytest.raises(Busy, match="zd16 is claimed by somebody else"):
        ensure()
    assert seen_in(root) == pristine


def test_a_device_that_is_not_there_is_named(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """A device that cannot be opened is an error with its path, and nothing is left."""
    pristine = seen_in(root)
    with pytest.raises(BackendError, match=r"cannot open .*/zd64: No such file"):
        ensure(device=dev / "zd64")
    assert seen_in(root) == pristine


def test_a_read_only_device_is_named(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """The kernel exports no read-only device; the error says so, and nothing is left."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    tree.read_only.add(str(dev / "zd16"))
    with pytest.raises(BackendError, match="zd16 is read-only, and nvmet exports no such device"):
        ensure(tree=tree)
    assert seen_in(root) == pristine


def test_an_initiator_of_iscsi_is_refused(root: Path, ensure: Callable[..., bool]) -> None:
    """An IQN cannot connect over NVMe, and nothing is made for one."""
    before = seen_in(root)
    with pytest.raises(InvalidRequest, match="is no NQN"):
        ensure(initiator=InitiatorName("iqn.1993-08.org.debian:alice"))
    assert seen_in(root) == before


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "a-good-secret-12",
        "DHHC-1:00:bad:",
        "DHHC-1:04:" + SECRET.secret.partition(":00:")[2],
        SECRET.secret[:-1],
        SECRET.secret + "\n",
        SECRET.secret.replace("M", "N", 1),
        key_of(b"too short"),
        key_of(b"0123456789abcdef0123456789abcdef", "02"),
    ],
)
def test_what_is_no_whole_key_is_refused(root: Path, ensure: Callable[..., bool], secret: str) -> None:
    """A secret without the form, length and checksum of a key is refused unseen, before anything is made."""
    before = seen_in(root)
    with pytest.raises(InvalidRequest, match="nvme gen-dhchap-key") as caught:
        ensure(chap=Chap("unused", secret))
    assert not secret or secret not in f"{caught.value!r} {caught.value.details}"
    assert seen_in(root) == before


@pytest.mark.parametrize(("kind", "length"), [("00", 48), ("01", 32), ("02", 48), ("03", 64)])
def test_keys_of_every_kind_are_taken(
    root: Path, ensure: Callable[..., bool], kind: str, length: int
) -> None:
    """Each hash's own length of key reaches the kernel unchanged."""
    key = key_of(bytes(range(length)), kind)
    ensure(chap=Chap("unused", key))
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == key


def test_a_secret_shows_in_no_error_and_no_log(
    tmp_path: Path, ensure: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever step fails, neither the error nor the log has the key."""
    caplog.set_level("DEBUG")
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"refused-{step}")
        with pytest.raises(BackendError) as caught:
            ensure(tree=NvmetTree(root, refuse_at=step), chap=SECRET)
        assert SECRET.secret not in f"{caught.value!r} {caught.value.details} {caught.value.__cause__!r}"
    assert SECRET.secret not in caplog.text


def test_an_entry_of_ours_keeps_its_key_from_others(root: Path, ensure: Callable[..., bool]) -> None:
    """Only root may look into a host entry that we made."""
    ensure(chap=SECRET)
    assert (root / HOST).stat().st_mode & 0o777 == 0o700


def test_a_new_key_replaces_the_old_while_nothing_else_uses_it(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """An initiator's only subsystem may change its key; with a second one the key is fixed."""
    ensure(chap=SECRET)
    assert ensure(chap=OTHER_SECRET) is True
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == OTHER_SECRET.secret
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure(subject=second, device=dev / "zd32", chap=OTHER_SECRET)
    before = seen_in(root)
    for chap, held in ((SECRET, "another"), (None, "one")):
        with pytest.raises(AlreadyExists, match=f"one key for all .* has {held}:") as caught:
            ensure(chap=chap)
        assert OTHER_SECRET.secret not in f"{caught.value!r} {caught.value.details}"
    assert seen_in(root) == before
    nvmet.remove_export(SUBJECT)
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == OTHER_SECRET.secret


def test_a_key_is_never_asked_of_who_connects_without(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """An entry without a key that another subsystem uses is not given one."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure(subject=second, device=dev / "zd32")
    before = seen_in(root)
    with pytest.raises(AlreadyExists, match="has none:"):
        ensure(chap=SECRET)
    assert seen_in(root) == before


def test_an_entry_of_ours_that_was_left_with_a_key_is_made_anew(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A key that a killed process left, and that nobody uses, does not bind a request without one."""
    ensure(chap=SECRET)
    NvmetTree(root).remove_link(f"{SUBSYSTEM}/allowed_hosts/{ALICE}")
    assert ensure() is True
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == ""
    assert nvmet.remove_export(SUBJECT) is True
    assert not (root / HOST).exists()


@pytest.mark.parametrize("linked", [False, True])
def test_an_entry_of_somebody_else_is_used_but_never_changed_or_removed(
    root: Path,
    nvmet: Nvmet,
    ensure: Callable[..., bool],
    linked: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """An administrator's host entry serves where its key is the one asked for, and stays as it was."""
    foreign = NvmetTree(root)
    foreign.make_folder(HOST)
    foreign.write(f"{HOST}/dhchap_key", SECRET.secret)
    if linked:
        foreign.make_folder("subsystems/nqn.2014-08.org.elsewhere:theirs")
        foreign.make_link(f"subsystems/nqn.2014-08.org.elsewhere:theirs/allowed_hosts/{ALICE}", HOST)
    before = seen_in(root)
    for chap in (OTHER_SECRET, None):
        with pytest.raises(AlreadyExists, match=f"hosts/{ALICE}"):
            ensure(chap=chap)
        assert seen_in(root) == before
    assert ensure(chap=SECRET) is True
    assert nvmet.remove_initiator(SUBJECT, ALICE) is True
    assert seen_in(root) == before


def test_an_empty_entry_makes_way_for_a_key(root: Path, ensure: Callable[..., bool]) -> None:
    """What a process left that was killed before it marked its entry, without key and links, is made anew."""
    NvmetTree(root).make_folder(HOST)
    assert ensure(chap=SECRET) is True
    assert (root / HOST).stat().st_mode & 0o777 == 0o700
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == SECRET.secret


def test_an_entry_that_another_process_removes_meanwhile_is_made_again(
    root: Path, ensure: Callable[..., bool]
) -> None:
    """The entry may go with the last link of another subsystem just before ours: then it is made anew."""
    tree = NvmetTree(root)
    removed: list[str] = []

    def remove_once(step: str) -> None:
        if step.startswith(f"link {SUBSYSTEM}/allowed_hosts") and not removed:
            removed.append(step)
            NvmetTree(root).remove_folder(HOST)

    tree.before = remove_once
    assert ensure(tree=tree, chap=SECRET) is True
    assert removed
    assert tree.read(f"{HOST}/dhchap_key") == SECRET.secret
    assert tree.find_link(f"{SUBSYSTEM}/allowed_hosts/{ALICE}") == HOST


def test_two_that_make_the_same_entry_at_once_agree(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """While one reads an entry that is still without its key, another may finish it: both have it then."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    tree = NvmetTree(root)
    read = tree.read
    finished: list[str] = []

    def read_then_finish(path: str) -> str:
        text = read(path)
        if path == f"{HOST}/dhchap_key" and not finished:
            finished.append(path)
            ensure(subject=second, device=dev / "zd32", chap=SECRET)
        return text

    tree.read = read_then_finish  # type: ignore[method-assign]  # what another process does meanwhile
    assert ensure(tree=tree, chap=SECRET) is True
    assert finished
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == SECRET.secret
    assert NvmetTree(root).find_link(f"{SUBSYSTEM}/allowed_hosts/{ALICE}") == HOST


def test_a_kernel_without_keys_refuses_chap(
    root: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where host entries have no key attribute CHAP is refused by name, and no CHAP goes on working."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    make_folder = tree.make_folder

    def without_key(path: str) -> bool:
        made = make_folder(path)
        if path == HOST:
            (root / HOST / "dhchap_key").unlink(missing_ok=True)
        return made

    monkeypatch.setattr(tree, "make_folder", without_key)
    with pytest.raises(InvalidRequest, match="CONFIG_NVME_TARGET_AUTH"):
        ensure(tree=tree, chap=SECRET)
    assert seen_in(root) == pristine
    assert ensure(tree=tree) is True


def test_a_port_of_somebody_else_at_the_address_is_used_and_stays(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A port of the very address, in whatever spelling, is linked into, never changed, never removed."""
    foreign_port(root, "1", "192.0.2.1")
    foreign_port(root, "2", "2001:db8:0::1", family="ipv6")
    before = seen_in(root)
    assert ensure() is True
    seen = seen_in(root)
    assert [name for name, text in seen.items() if name.startswith("ports/") and text.startswith("->")] == [
        f"ports/1/subsystems/{NQN}",
        f"ports/2/subsystems/{NQN}",
    ]
    assert nvmet.list_exports(PREFIX)[0].portals == tuple(sorted(PORTALS))
    assert nvmet.remove_export(SUBJECT) is True
    assert seen_in(root) == before


def foreign_port(root: Path, number: str, address: str, *, family: str = "ipv4") -> None:
    """Make a port as an administrator would."""
    foreign = NvmetTree(root)
    foreign.make_folder(f"ports/{number}")
    for name, value in (("trtype", "tcp"), ("adrfam", family), ("traddr", address), ("trsvcid", "4420")):
        foreign.write(f"ports/{number}/addr_{name}", value)


def test_a_port_that_is_open_beside_ours_is_used(root: Path, ensure: Callable[..., bool]) -> None:
    """Where our own port of an address lost the socket to another's of the same address, that one serves."""
    number = _numbers(PORTALS[0])[0]
    foreign_port(root, number, "192.0.2.1")
    foreign_port(root, "1", "192.0.2.1")
    foreign = NvmetTree(root)
    foreign.make_folder("subsystems/nqn.2014-08.org.elsewhere:theirs")
    foreign.make_link(
        "ports/1/subsystems/nqn.2014-08.org.elsewhere:theirs", "subsystems/nqn.2014-08.org.elsewhere:theirs"
    )
    assert ensure(portals=PORTALS[:1]) is True
    assert (root / "ports/1/subsystems" / NQN).is_symlink()


def test_a_taken_number_leads_to_the_next(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A port of another address with our number is left, and ours is made beside it and goes again."""
    first, second, *_ = _numbers(PORTALS[0])
    foreign_port(root, first, "198.51.100.7")
    before = seen_in(root)
    ensure(portals=PORTALS[:1])
    assert (root / f"ports/{second}/subsystems" / NQN).is_symlink()
    assert ensure(portals=PORTALS[:1]) is False
    nvmet.remove_export(SUBJECT)
    assert seen_in(root) == before


def test_no_port_is_ever_removed(tmp_path: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """Another process may be linking into a port just now, and the kernel would not survive its removal."""
    steps_to_refuse = range(steps_of_export(ensure, tmp_path))
    trees = [NvmetTree(make_root(tmp_path / f"refused-{step}"), refuse_at=step) for step in steps_to_refuse]
    for tree in trees:
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=tree, chap=SECRET)
    last = NvmetTree(make_root(tmp_path / "last"))
    ensure(tree=last)
    Nvmet(dev=dev, tree=last).remove_initiator(SUBJECT, ALICE)
    ensure(tree=last)
    Nvmet(dev=dev, tree=last).remove_export(SUBJECT)
    steps = [step for tree in (*trees, last) for step in tree.steps]
    assert f"rmdir {SUBSYSTEM}" in steps
    assert not [step for step in steps if step.startswith("rmdir ports/")]
    assert not [
        path for tree in (*trees, last) for path in (tree.root / "ports").rglob("*") if path.is_symlink()
    ]


def test_a_shut_port_is_used_again(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A port that the last export left is the next one's, so their number does not grow."""
    ensure()
    nvmet.remove_export(SUBJECT)
    left = sorted(path.name for path in (root / "ports").iterdir())
    assert len(left) == len(PORTALS)
    ensure()
    assert sorted(path.name for path in (root / "ports").iterdir()) == left


@pytest.mark.parametrize("moment", ["link", "write"])
def test_a_port_that_is_removed_meanwhile_is_made_again(
    root: Path, ensure: Callable[..., bool], moment: str
) -> None:
    """An administrator may remove a port just before we link into it: then it is made anew."""
    tree = NvmetTree(root)
    removed: list[str] = []

    def remove_once(step: str) -> None:
        if step.startswith(f"{moment} {PORTS[0]}/") and not removed:
            removed.append(step)
            NvmetTree(root).remove_folder(PORTS[0])

    tree.before = remove_once
    assert ensure(tree=tree) is True
    assert removed
    assert tree.find_link(f"{PORTS[0]}/subsystems/{NQN}") == SUBSYSTEM


@pytest.mark.parametrize(
    ("attribute", "match"),
    [("held", r"cannot listen at 192\.0\.2\.1:4420: another"), ("foreign", "this machine does not have")],
)
def test_an_address_that_cannot_be_had_is_named(
    root: Path, ensure: Callable[..., bool], attribute: str, match: str
) -> None:
    """Where a program holds an address, or the machine lacks it, the error says so; nothing is left."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    getattr(tree, attribute).add("192.0.2.1 4420")
    with pytest.raises(BackendError, match=match):
        ensure(tree=tree)
    assert seen_in(root) == pristine


def test_portals_are_exactly_those_asked_for(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A portal that is no longer asked for goes; a new one is added to a live subsystem."""
    ensure()
    third = Portal("198.51.100.7:4420")
    assert ensure(portals=(PORTALS[0], third)) is True
    assert nvmet.list_exports(PREFIX)[0].portals == (PORTALS[0], third)
    assert not list((root / PORTS[1] / "subsystems").iterdir())


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


def test_a_device_that_does_not_tell_its_zvol_is_an_error(
    nvmet: Nvmet, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be told is never taken for closed or for somebody else's."""
    ensure()

    def refuse(descriptor: int) -> str:
        raise OSError(errno.EIO, f"descriptor {descriptor}")

    monkeypatch.setattr(nvmet_subsystem, "read_zvol_name", refuse)
    with pytest.raises(BackendError, match="cannot tell which zvol"):
        nvmet.is_open(SUBJECT)
    with pytest.raises(BackendError, match="cannot tell which zvol"):
        nvmet.remove_export(SUBJECT)


def test_growth_is_told_to_each_initiator(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """Each subsystem of the zvol looks at its device's size again; none of another zvol does."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure()
    ensure(initiator=BOB)
    ensure(subject=second, device=dev / "zd32")
    tree = NvmetTree(root)
    Nvmet(dev=dev, tree=tree).grow_export(SUBJECT, device=dev / "zd16")
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


def test_a_kernel_without_nvmet_is_told_what_to_load(
    tmp_path: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where configfs has no nvmet folder the modules are asked for once, and the error names them."""
    asked = []

    def modprobe(argv: list[str]) -> Finished:
        asked.append(argv)
        return Finished(tuple(argv), 1, "", "modprobe: FATAL: Module nvmet not found")

    monkeypatch.setattr(nvmet_module, "run", modprobe)
    with pytest.raises(BackendError, match="modprobe -a nvmet nvmet-tcp"):
        ensure(tree=NvmetTree(tmp_path / "nothing"))
    assert asked == [["modprobe", "-a", "nvmet", "nvmet-tcp"]]


def test_where_nvmet_is_not_loaded_nothing_is_exported(tmp_path: Path, dev: Path) -> None:
    """Without nvmet in the kernel every question has its empty answer."""
    nvmet = Nvmet(dev=dev, tree=NvmetTree(tmp_path / "nothing"))
    assert nvmet.remove_initiator(SUBJECT, ALICE) is False
    assert nvmet.remove_export(SUBJECT) is False
    assert nvmet.initiators_of(SUBJECT) == ()
    assert nvmet.list_exports(PREFIX) == ()
    assert not nvmet.is_open(SUBJECT)
