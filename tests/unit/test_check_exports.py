from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.checked_san import (
    NFT_TABLE,
    NFT_TABLES,
    NOT_INSTALLED,
    RECORDS,
    SYSTEMCTL,
    TGT_TARGETS,
    CheckedSan,
    not_ok,
    recorded,
    unit,
)
from zolder.model import Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    ExporterName,
    InitiatorName,
    Portal,
    TargetPrefix,
    ZvolName,
    export_target,
)
from zolder.san.check.accounts import check_folders
from zolder.san.check.exports import MISSING, check_exports, check_restore
from zolder.san.check.finding import Finding, NotChecked
from zolder.san.check.kernel import check_modules
from zolder.san.check.targets import check_targets
from zolder.san.missing import LIST
from zolder.wish import Grant, Wish, write_wish

PREFIX = TargetPrefix("iqn.2010-10.org.openstack:")
IQN = InitiatorName("iqn.1993-08.org.debian:01:one")
NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:one")


@pytest.fixture
def san(tmp_path: Path) -> CheckedSan:
    """A SAN on which all is well."""
    return CheckedSan(tmp_path)


def told(findings: list[Finding]) -> list[str]:
    """Return the findings that are not ok as level and message."""
    return [f"{found.level}: {found.message}" for found in not_ok(findings)]


def record(exporter: ExporterName, initiator: InitiatorName) -> str:
    """Return a zvol's record."""
    route = Route(exporter, PREFIX, (Portal("192.0.2.2:3260"),))
    return write_wish(Wish(route, (Grant(initiator, (), unnamed=True, chap=False),)))


def shut(san: CheckedSan) -> None:
    """Have three portals shut."""
    san.answers[NFT_TABLES] = recorded("nftables-1.1.3/list-tables.json")
    san.answers[NFT_TABLE] = recorded("nftables-1.1.3/list-table.json")


def test_nft_is_missing(san: CheckedSan) -> None:
    """Without nft initiators cannot be kept away, which is a failure that names the package."""
    san.answers[NFT_TABLES] = NOT_INSTALLED
    (found,) = not_ok(list(check_restore(san.machine)))
    assert (found.level, found.remedy) == ("failure", "sudo apt install nftables")


def test_portals_are_shut(san: CheckedSan) -> None:
    """Portals that are shut are a failure, and a note while they are shut for a restore."""
    shut(san)
    (found,) = not_ok(list(check_restore(san.anew())))
    assert (found.level, found.remedy) == ("failure", "sudo zolder-san restore")
    assert found.subject == "192.0.2.1:3260, 192.0.2.1:4420, [2001:db8::1]:3260"
    san.answers[SYSTEMCTL.format("zolder-restore.service")] = unit(active="activating")
    assert [found.level for found in not_ok(list(check_restore(san.anew())))] == ["note"]


@pytest.mark.parametrize(
    ("answer", "says", "remedy"),
    [
        ("LoadState=not-found\n", "is not there", "sudo zolder-san install"),
        (unit(enabled="disabled"), "is not enabled", "sudo systemctl enable {}"),
        (unit(active="failed"), "has failed", "sudo systemctl restart {}"),
    ],
)
@pytest.mark.parametrize("name", ["zolder-portals.service", "zolder-restore.service"])
def test_units(san: CheckedSan, name: str, answer: str, says: str, remedy: str) -> None:
    """What brings exports back at boot is there, enabled, and did not fail."""
    san.answers[SYSTEMCTL.format(name)] = answer
    (found,) = not_ok(list(check_restore(san.machine)))
    assert (found.level, found.subject) == ("failure", name)
    assert found.message.startswith(says)
    assert found.remedy.endswith(remedy.format(name))


@pytest.mark.parametrize("exporter", [LIO, NVMET, TGT])
def test_on_record_and_not_open(san: CheckedSan, exporter: ExporterName) -> None:
    """An export on record that does not stand is a failure, with each exporter; one that stands is well."""
    initiator = NQN if exporter == NVMET else IQN
    target = export_target(exporter, PREFIX, ZvolName("volume-1"), initiator)
    san.answers[RECORDS] = f"data/volumes/volume-1\t{record(exporter, initiator)}\tlocal\n"
    san.answers[TGT_TARGETS] = f"Target 1: {target}0\n    System information:\n"
    (found,) = not_ok(list(check_exports(san.anew())))
    assert (found.level, found.remedy) == ("failure", "sudo zolder-san restore")
    assert found.message == f"1 exports (volume-1 for {initiator}) are on record and not open"
    san.answers[TGT_TARGETS] = f"Target 1: {target}\n    System information:\n"
    san.folder(f"/sys/kernel/config/target/iscsi/{target}/tpgt_1/acls/{initiator}")
    san.folder(f"/sys/kernel/config/nvmet/subsystems/{target}/allowed_hosts/{initiator}")
    assert told(list(check_exports(san.anew()))) == []


def test_secrets_are_missing(san: CheckedSan) -> None:
    """An export that waits for its secret is a warning of its own; the list is where root writes it."""
    assert str(LIST) == MISSING
    san.answers[RECORDS] = f"data/volumes/volume-1\t{record(LIO, IQN)}\tlocal\n"
    san.write(MISSING, json.dumps([["data/volumes/volume-1", IQN]]))
    (found,) = told(list(check_exports(san.machine)))
    assert found.startswith(f"warning: 1 exports (volume-1 for {IQN}) wait for their CHAP secrets")


def test_records_that_are_not_ours(san: CheckedSan) -> None:
    """A record that is none is a failure; what a zvol inherited is no record of its."""
    san.answers[RECORDS] = "data/volumes/a\t{}\tlocal\ndata/volumes/b\t{}\tinherited from data\n"
    (found,) = not_ok(list(check_exports(san.machine)))
    assert (found.level, found.subject) == ("failure", "data/volumes/a")
    assert found.message.startswith("its record is not Zolder's")


def test_targets_in_rtslib_s_file(san: CheckedSan) -> None:
    """Targets of ours that rtslib would restore are counted in the warning of its service."""
    san.answers[SYSTEMCTL.format("rtslib-fb-targetctl.service")] = unit()
    targets = [{"wwn": f"{PREFIX}volume-1", "fabric": "iscsi"}, {"wwn": "iqn.2003-01.org.other:x"}]
    san.write("/etc/rtslib-fb-target/saveconfig.json", json.dumps({"targets": targets}))
    (found,) = told(list(check_targets(san.machine)))
    assert found.startswith("warning: is enabled, and 1 targets of ours are in its files")
    for text in ("", "{", "[]", "7", '{"targets": 7}', '{"targets": [7]}'):
        san.write("/etc/rtslib-fb-target/saveconfig.json", text)
        if text:
            with pytest.raises(NotChecked, match="is not as rtslib writes it"):
                list(check_targets(san.machine))
        else:
            assert told(list(check_targets(san.machine)))[0].startswith("warning: is enabled: it saves")


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", "[[1]]"])
def test_damaged_list_of_secrets(san: CheckedSan, text: str) -> None:
    """A damaged list of what waits is never taken for an empty one."""
    san.write(MISSING, text)
    with pytest.raises(NotChecked, match="is damaged"):
        list(check_exports(san.machine))


def test_folders_of_the_helper_s(san: CheckedSan) -> None:
    """The folder of secrets is root's alone, where it is there at all."""
    san.folder("/var/lib/zolder-helper", 0o700)
    assert told(list(check_folders(san.machine))) == []
    (san.root / "var/lib/zolder-helper").chmod(0o750)
    assert told(list(check_folders(san.machine))) == ["failure: has mode 0750, not 0700"]


def test_without_nvme(san: CheckedSan) -> None:
    """A kernel without an NVMe target is good to know, and nothing is wrong with it."""
    san.replace("/proc/modules", "nvmet_tcp", "other")
    (found,) = not_ok(list(check_modules(san.machine)))
    assert (found.level, found.subject) == ("note", "nvmet_tcp")
