from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.checked_san import (
    ALLOW,
    ASHIFT,
    HEALTH,
    LAYOUT,
    PARENT,
    POOL,
    PROPERTIES,
    STATUS,
    ZVOLS,
    CheckedSan,
    not_ok,
    permissions,
)
from zolder.san.check.finding import Finding, NotChecked
from zolder.san.check.kernel import check_modules, check_versions
from zolder.san.check.padding import Stripe, check_padding, parse_stripes
from zolder.san.check.parents import check_parents
from zolder.san.check.zpools import check_zpools
from zolder.san.check.zvols import check_zvols

STATE = "/proc/spl/kstat/zfs/data/state"
KIB = 1024
MARK = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def san(tmp_path: Path) -> CheckedSan:
    """A SAN on which all is well."""
    return CheckedSan(tmp_path)


def told(findings: list[Finding]) -> list[str]:
    """Return the findings that are not ok as level and message."""
    return [f"{found.level}: {found.message}" for found in not_ok(findings)]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("SUSPENDED", "failure: has suspended its I/O"),
        ("FAULTED", "failure: is FAULTED"),
        ("UNAVAIL", "failure: is UNAVAIL"),
        ("", "failure: is "),
        (None, "failure: is not imported"),
    ],
)
def test_a_zpool_that_is_away(san: CheckedSan, state: str | None, said: str) -> None:
    """A zpool that is not active is a failure, and ZFS, which might hang, is asked nothing about it."""
    san.write(STATE, f"{state}\n")
    if state is None:
        san.remove(STATE)
    (found,) = told(list(check_zpools(san.machine)))
    assert found.startswith(said)
    (found,) = told(list(check_parents(san.machine)))
    assert found.startswith("unknown: zpool data is ")
    (found,) = told(list(check_zvols(san.machine)))
    assert found.startswith("unknown: zpool data is ")
    with pytest.raises(NotChecked):
        list(check_padding(san.machine))
    assert san.asked == []


def test_a_zpool_that_is_not_well(san: CheckedSan) -> None:
    """A zpool that works and is not healthy is a warning, with what ZFS says of it."""
    san.answers[HEALTH] = (
        "  pool: data\n state: DEGRADED\nstatus: One or more devices are faulted.\n\tSufficient replicas.\n"
        "errors: 3 data errors, use '-v' for a list\n"
    )
    san.write(STATE, "DEGRADED\n")
    (found,) = told(list(check_zpools(san.machine)))
    assert found == (
        "warning: is DEGRADED: One or more devices are faulted.; 3 data errors, use '-v' for a list"
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("capacity\t80\nmultihost\ton\nautotrim\ton\n", []),
        ("capacity\t81%\nmultihost\ton\nautotrim\ton\n", ["warning: is 81 % full"]),
        ("capacity\t91\nmultihost\ton\nautotrim\ton\n", ["failure: is 91 % full"]),
        ("capacity\t-\nmultihost\ton\nautotrim\ton\n", ["unknown: its capacity is '-'"]),
        ("capacity\t1\nmultihost\toff\nautotrim\ton\n", ["note: has multihost=off"]),
        ("capacity\t1\nmultihost\ton\nautotrim\toff\n", ["note: does not tell its devices"]),
    ],
)
def test_properties_of_a_zpool(san: CheckedSan, answer: str, said: list[str]) -> None:
    """How full a zpool is, who else may import it, and whether its devices learn what was freed."""
    san.answers[POOL] = answer
    found = told(list(check_zpools(san.machine)))
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))


def test_host_id(san: CheckedSan) -> None:
    """Without a host id multihost fails at the next import; one given to the module will do."""
    san.write("/etc/hostid", "\0\0\0\0")
    assert told(list(check_zpools(san.anew())))[0].startswith(
        "failure: has multihost=on, but this machine has"
    )
    san.answers[POOL] = "capacity\t1\nmultihost\toff\nautotrim\ton\n"
    assert told(list(check_zpools(san.anew())))[0].startswith("note: this machine has no host id")
    san.write("/sys/module/spl/parameters/spl_hostid", "4242\n")
    assert told(list(check_zpools(san.anew())))[0].startswith("note: has multihost=off")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("type", "volume", "failure: is a volume"),
        ("volmode", "default", "failure: has volmode=default: this machine's kernel reads"),
        ("volmode", "full", "failure: has volmode=full: this machine's kernel reads"),
        ("volmode", "none", "failure: has volmode=none: volumes get no device"),
        ("snapdev", "visible", "warning: has snapdev=visible"),
        ("readonly", "on", "failure: is read-only"),
        ("keystatus", "unavailable", "failure: is encrypted and its key is not loaded"),
        ("keystatus", "available", None),
        ("mounted", "yes", "note: is mounted at none"),
        ("mountpoint", "/data", "note: would be mounted at /data"),
        ("mountpoint", "legacy", None),
        ("guid", "12", "failure: has guid 12; set up was 4611"),
    ],
)
def test_properties_of_a_parent(san: CheckedSan, name: str, value: str, said: str | None) -> None:
    """Each property of a parent that volumes suffer from is found by itself."""
    san.write("/var/lib/zolder/parents/data:volumes", "4611\n")
    values = PROPERTIES | {name: value}
    san.answers[PARENT] = "".join(f"{key}\t{word}\n" for key, word in values.items())
    found = told(list(check_parents(san.machine)))
    assert len(found) == (said is not None)
    assert not found or found[0].startswith(str(said))


def test_a_parent_that_is_not_there(san: CheckedSan) -> None:
    """A parent is absent only where ZFS says so of this very name; any other failure leaves it open."""
    san.answers[PARENT] = (1, "", "cannot open 'data/volumes': dataset does not exist\n")
    (found,) = not_ok(list(check_parents(san.anew())))
    assert (found.level, found.message) == ("failure", "does not exist")
    assert found.remedy.startswith("sudo zfs create -p ")
    for said in (
        "cannot open 'data/volumes': permission denied\n",
        "cannot open 'x': dataset does not exist\n",
    ):
        san.answers[PARENT] = (1, "", said)
        (found,) = not_ok(list(check_parents(san.anew())))
        assert found.level == "unknown"
        assert said.strip() in found.message


def test_delegation(san: CheckedSan) -> None:
    """What the agent's user lacks is a failure, what it has beyond its needs a warning."""
    san.answers[ALLOW] = permissions().replace("create,", "", 1)
    (found,) = not_ok(list(check_parents(san.anew())))
    assert (found.level, found.message.partition(":")[0]) == ("failure", "zolder lacks create (on it)")
    assert found.remedy.startswith("sudo zfs allow -l -u zolder ")
    san.answers[ALLOW] = permissions().replace("destroy,", "destroy,hold,")
    (found,) = not_ok(list(check_parents(san.anew())))
    assert (found.level, "hold (below)" in found.message) == ("warning", True)
    assert found.remedy.startswith("sudo zfs unallow -u zolder data/volumes\nsudo zfs allow")


@pytest.mark.parametrize(
    ("columns", "parity", "ashift", "kib", "cost"),
    [
        # 16k on 6 devices of raidz1 takes 4 + 1 sectors, padded to 6; 128k takes 32 + 7, padded to 40.
        (6, 1, 12, 16, 1.2),
        (6, 1, 12, 4, 1.6),
        (6, 2, 12, 16, 1.0),
        (6, 2, 12, 8, 1.0 * 6 / 2 / 1.5),
        (3, 1, 12, 8, 4 / 2 / 1.5),
        (5, 1, 9, 16, 1.0),
        (12, 3, 12, 128, 1.0),
    ],
)
def test_cost_on_raidz(columns: int, parity: int, ashift: int, kib: int, cost: float) -> None:
    """A block costs what ZFS's own arithmetic says, counted against blocks of 128 KiB."""
    assert Stripe("raidz", columns, parity).cost(kib * KIB, ashift) == pytest.approx(cost)


def test_cost_on_draid() -> None:
    """On dRAID a block takes whole rows: with eight data devices and ashift 12 at least 32 KiB."""
    assert Stripe("draid", 10, 2, padded=True).cost(16 * KIB, 12) == pytest.approx(2.0)


def test_layout() -> None:
    """Only vdevs that hold data count, and a device that is being replaced counts once."""
    assert parse_stripes(STATUS, "data") == [Stripe("raidz2-0", 6, 2)]
    draid = STATUS.replace("raidz2-0", "draid2:4d:8c:1s-0")
    assert parse_stripes(draid, "data") == [Stripe("draid2:4d:8c:1s-0", 6, 2, padded=True)]
    assert parse_stripes(STATUS.replace("raidz2-0", "mirror-0"), "data") == []
    assert parse_stripes(STATUS.replace("mirror-1", "raidz1-1"), "data") == [Stripe("raidz2-0", 6, 2)]
    with pytest.raises(NotChecked, match="shows no configuration"):
        parse_stripes(STATUS, "other")
    with pytest.raises(NotChecked, match="too few"):
        parse_stripes("\tdata\n\t  raidz1-0\n", "data")


def test_padding(san: CheckedSan) -> None:
    """What a zvol of 1 GiB costs is said in figures, and what another block size would cost."""
    [message] = [found.message for found in check_padding(san.anew())]
    assert message == (
        "a zvol of 1 GiB takes up to 1.00 GiB: volblocksize 16k on raidz2-0 of 6 devices with ashift 12;"
        " by volblocksize: 4k 2.00, 8k 2.00, 16k 1.00, 32k 1.00, 64k 1.00, 128k 1.00; mirrors 1.00"
    )
    san.answers[LAYOUT] = STATUS.replace("raidz2-0", "raidz1-0")
    san.answers[ASHIFT] = (2, "", "bad property list: invalid property 'ashift'\n")
    assert told(list(check_padding(san.anew()))) == [
        (
            "note: a zvol of 1 GiB takes up to 1.20 GiB: volblocksize 16k on raidz1-0 of 6 devices with"
            " ashift 12 (taken for it: this OpenZFS does not tell); by volblocksize: 4k 1.60, 8k 1.60,"
            " 16k 1.20, 32k 1.00, 64k 1.00, 128k 1.00; mirrors 1.00"
        )
    ]
    san.answers[LAYOUT] = STATUS.replace("raidz2-0", "draid2:8d:11c:1s-0")
    assert told(list(check_padding(san.anew())))[0].startswith(
        "warning: a zvol of 1 GiB takes up to 2.00 GiB"
    )
    san.answers[LAYOUT] = STATUS.replace("raidz2-0", "mirror-0")
    san.answers[ASHIFT] = "mirror-0\t9\nsda\t9\n"
    assert told(list(check_padding(san.anew()))) == [
        "note: mirror-0 write sectors below 4 KiB: slow on disks with larger ones (ashift)"
    ]


def test_zvols(san: CheckedSan) -> None:
    """A zvol without a mark of its own is a note, one without its link a warning."""
    san.answers[ZVOLS] = (
        f"data/volumes/volume-1\t{MARK}\tlocal\ndata/volumes/by hand\t-\t-\n"
        f"data/volumes/clone\t{MARK}\tinherited from data/volumes\n"
    )
    some = "2 zvols (data/volumes/by hand, data/volumes/clone)"
    mark, link = told(list(check_zvols(san.anew())))
    assert mark.startswith(f"note: {some} below it bear no mark of their own")
    assert link.startswith(f"warning: {some} have no link below /dev/zvol")
    assert not_ok(list(check_zvols(san.anew())))[0].remedy.endswith(" 'data/volumes/by hand'")
    san.answers[ZVOLS] = f"other/volume\t{MARK}\tlocal\n"
    assert told(list(check_zvols(san.anew())))[0].startswith("unknown: zfs get -r data/volumes told of")


@pytest.mark.parametrize("module", ["target_core_mod", "iscsi_target_mod", "target_core_iblock"])
def test_a_module_is_missing(san: CheckedSan, module: str) -> None:
    """A module that is neither loaded nor built in is a failure; without modules of this kernel, restart."""
    assert told(list(check_modules(san.machine))) == []
    for path in ("/proc/modules", "/lib/modules/6.12.117+deb13-cloud-amd64/modules.builtin"):
        (san.root / path[1:]).write_text((san.root / path[1:]).read_text().replace(module, "other"))
    (found,) = not_ok(list(check_modules(san.machine)))
    assert (found.level, found.subject, found.remedy) == ("failure", module, f"sudo modprobe {module}")
    san.remove("/lib/modules/6.12.117+deb13-cloud-amd64/modules.builtin")
    (san.root / "lib/modules/6.12.117+deb13-cloud-amd64").rmdir()
    assert all(found.remedy.startswith("sudo reboot") for found in not_ok(list(check_modules(san.machine))))


def test_modules_at_boot(san: CheckedSan) -> None:
    """What is loaded now and not after a restart is a warning."""
    san.write("/etc/modules-load.d/zolder.conf", "# target_core_mod\niscsi_target_mod\n")
    (found,) = told(list(check_modules(san.machine)))
    assert found.startswith("warning: does not list target_core_iblock")


@pytest.mark.parametrize(
    ("loaded", "tools", "said"),
    [
        ("2.1.11-1", "zfs-2.1.11-1", []),
        ("2.0.3-9", "zfs-2.0.3-9", ["failure: is 2.0.3-9: 2.1 is the oldest"]),
        ("2.9.0-1", "zfs-2.9.0-1", ["note: is 2.9.0-1, newer"]),
        ("2.2.2-1", "zfs-2.3.9-1", ["warning: the kernel has 2.2.2-1, its tools and libraries are 2.3.9-1"]),
    ],
)
def test_versions(san: CheckedSan, loaded: str, tools: str, said: list[str]) -> None:
    """OpenZFS is one that is known, and the same in the kernel as beside it."""
    san.write("/sys/module/zfs/version", f"{loaded}\n")
    san.answers["zfs version"] = f"{tools}\nzfs-kmod-{loaded}\n"
    found = told(list(check_versions(san.machine)))
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))
