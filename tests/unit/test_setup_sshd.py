from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.unit.setup_machine import Machine
from zolder.names import DatasetName, Identity
from zolder.san.confinement import question
from zolder.san.setup import units
from zolder.san.setup.texts import SSHD_FILE, early_rules, sshd_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which nothing of ours is."""
    return Machine(tmp_path / "root")


def effective(machine: Machine, user: str) -> dict[str, str]:
    """Return what sshd itself says holds for a user."""
    main = str(machine.root / "etc/ssh/sshd_config")
    connection = question(user, "192.0.2.9")
    said = machine.host.call(["/usr/sbin/sshd", "-T", "-f", main, "-C", connection])
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)


CONFINED = {
    "disableforwarding": "yes",
    "allowagentforwarding": "no",
    "allowtcpforwarding": "no",
    "allowstreamlocalforwarding": "no",
    "x11forwarding": "no",
    "permittunnel": "no",
    "permittty": "no",
    "permituserrc": "no",
    "clientaliveinterval": "15",
    "clientalivecountmax": "3",
    "maxsessions": "10",
    "authorizedkeyscommand": "none",
    "trustedusercakeys": "none",
    "kbdinteractiveauthentication": "no",
    "acceptenv": "LC_NOTHING_OF_ZOLDER",
}


def test_what_holds(machine: Machine) -> None:
    """The real sshd says that both logins are confined, each in its way, and that nobody else is touched."""
    assert machine.zolder_san("install") == 0
    assert machine.zolder_san("authorize", "cinder", "--password", "--parent", "data/volumes") == 0
    by_key, by_password, others = (effective(machine, name) for name in ("zolder", "zolder-cinder", "root"))
    assert (
        by_key.items()
        >= {
            **CONFINED,
            "authorizedkeysfile": "/etc/zolder/authorized_keys",
            "passwordauthentication": "no",
            "authenticationmethods": "publickey",
            "forcecommand": "none",
        }.items()
    )
    assert (
        by_password.items()
        >= {
            **CONFINED,
            "authorizedkeysfile": "none",
            "pubkeyauthentication": "no",
            "passwordauthentication": "yes",
            "authenticationmethods": "password",
            "forcecommand": "/usr/local/bin/zolder-san serve --identity cinder",
        }.items()
    )
    assert (others["x11forwarding"], others["permittty"], others["disableforwarding"]) == ("yes", "yes", "no")
    assert others["acceptenv"] == "LC_*"


def test_what_follows_is_not_in_the_block(machine: Machine) -> None:
    """Lines behind the Include in sshd's own file hold for everybody still."""
    main = machine.root / "etc/ssh/sshd_config"
    main.write_text(main.read_text() + "Banner /etc/hostname\n")
    assert machine.zolder_san("install") == 0
    assert effective(machine, "root")["banner"] == "/etc/hostname"


def test_a_fault_never_stands(machine: Machine, capsys: Capture) -> None:
    """Where sshd would not start with the drop-in, the one that stands stays and sshd is not told of it."""
    main = machine.root / "etc/ssh/sshd_config"
    main.write_text(main.read_text() + "Nonsense yes\n")
    assert machine.zolder_san("install") == 1
    assert (
        "sshd refuses its configuration with /etc/ssh/sshd_config.d/00-zolder.conf" in capsys.readouterr().err
    )
    assert list((machine.root / "etc/ssh/sshd_config.d").iterdir()) == []
    assert not [line for line in machine.ran if "ssh.service" in line]


@pytest.mark.parametrize(
    "text", ["", "# Include /etc/ssh/sshd_config.d/*.conf\n", "Include /etc/ssh/x/*.conf\n"]
)
def test_without_include(machine: Machine, capsys: Capture, text: str) -> None:
    """Where sshd does not read the folder, the line that makes it do so is said."""
    (machine.root / "etc/ssh/sshd_config").write_text(text)
    assert machine.zolder_san("install") == 1
    assert "'Include /etc/ssh/sshd_config.d/*.conf' at its top" in capsys.readouterr().err


def place(machine: Machine, name: str, text: str) -> None:
    """Write another file that sshd reads."""
    (machine.root / "etc/ssh/sshd_config.d" / name).write_text(text)


def installed(machine: Machine) -> bool:
    """Say whether the drop-in is in place."""
    return (machine.root / SSHD_FILE).exists()


@pytest.mark.parametrize("match", ["Match User bob", "match=all", '  MATCH Address "10.0.0.0/8" # x'])
def test_include_below_a_match(machine: Machine, capsys: Capture, match: str) -> None:
    """An Include that holds for some only is refused with both lines; one above it is enough."""
    main = machine.root / "etc/ssh/sshd_config"
    include = f"Include {machine.root}/etc/ssh/sshd_config.d/*.conf\n"
    rest = main.read_text().replace(include, "")
    main.write_text(f"{rest}{match}\n{include}")
    assert machine.zolder_san("install") == 1
    lines = len(rest.splitlines())
    said = f"line {lines + 2}: this Include stands below the Match of line {lines + 1}"
    assert said in capsys.readouterr().err
    assert not installed(machine)
    main.write_text(f"{include.replace(' ', '=', 1)}{rest}{match}\n  {include}")
    assert machine.zolder_san("install") == 0


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("AuthorizedKeysFile .ssh/keys", "authorizedkeysfile would be .ssh/keys, not /etc/zolder/author"),
        ("ForceCommand /bin/sh", "forcecommand would be /bin/sh, not none"),
        ("AuthenticationMethods any", "authenticationmethods would be any, not publickey"),
        ("PermitTTY yes", "permittty would be yes, not no"),
        ("DisableForwarding no", "disableforwarding would be no, not yes"),
        ("PubkeyAuthentication no", "pubkeyauthentication would be no, not yes"),
        ("PasswordAuthentication yes", "passwordauthentication would be yes, not no"),
        ("TrustedUserCAKeys /etc/ca", "trustedusercakeys would be /etc/ca, not none"),
        (
            "AuthorizedKeysCommand /bin/x\nAuthorizedKeysCommandUser root",
            "authorizedkeyscommand would be /bin/x",
        ),
    ],
)
@pytest.mark.parametrize("match", ["User zolder", "Address 2001:db8::/32"])
def test_an_earlier_file_wins(machine: Machine, capsys: Capture, match: str, lines: str, says: str) -> None:
    """A setting that another file makes first is named with what it is, and nothing is put in place."""
    place(machine, "00-a.conf", f"Match {match}\n{lines}\n")
    for arguments in (["install", "--dry-run"], ["install"]):
        assert machine.zolder_san(*arguments) == 1
        assert says in capsys.readouterr().err
        assert not installed(machine)


def test_a_later_file_loses(machine: Machine) -> None:
    """What other files say behind ours has no effect, and keeps nobody from installing."""
    place(
        machine, "10-a.conf", "Match User zolder\nForceCommand /bin/sh\nMatch LocalPort 23\nPermitTTY yes\n"
    )
    assert machine.zolder_san("install") == 0
    assert effective(machine, "zolder")["forcecommand"] == "none"


def test_a_password_login_is_proven(machine: Machine, capsys: Capture) -> None:
    """Each password login is asked for by itself, before it is made."""
    assert machine.zolder_san("install") == 0
    place(machine, "00-a.conf", "Match User zolder-*\nForceCommand /bin/sh\n")
    arguments = ("authorize", "cinder", "--parent", "data/volumes")
    assert machine.zolder_san(*arguments, "--password") == 1
    said = (
        "for user zolder-cinder from 127.0.0.1, forcecommand would be /bin/sh, not /usr/local/bin/zolder-san"
    )
    assert said in capsys.readouterr().err
    assert machine.host.find_account("zolder-cinder") is None


def test_a_change_of_others_is_found(machine: Machine, capsys: Capture) -> None:
    """An install finds what was done to sshd's files since the last one, though its own file is the same."""
    assert machine.zolder_san("install") == 0
    place(machine, "00-a.conf", "Match User zolder\nPermitTTY yes\n")
    assert machine.zolder_san("install") == 1
    assert "permittty would be yes, not no" in capsys.readouterr().err


def test_a_proof_leaves_nothing(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a proof needs is gone after it, and other files of the folder are as they were."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    place(machine, "10-a.conf", "PermitRootLogin no\n")
    assert machine.zolder_san("install") == 0
    assert list((tmp_path / "temporary").iterdir()) == []
    names = sorted(path.name for path in (machine.root / "etc/ssh/sshd_config.d").iterdir())
    assert names == ["00-zolder.conf", "10-a.conf"]


def test_the_unit_s_name(machine: Machine) -> None:
    """The unit that is reloaded is the one that this system has."""
    (machine.root / "usr/lib/systemd/system/ssh.service").unlink()
    assert machine.zolder_san("install") == 0
    assert "systemctl try-reload-or-restart sshd.service" in machine.ran


def test_blocks_are_in_one_order() -> None:
    """The text does not depend on the order of names, or on one said twice."""
    a, b = Identity("a"), Identity("b")
    assert sshd_config("/x", [a, b]) == sshd_config("/x", [b, a, b])


def test_rules() -> None:
    """Each parent's zvols are named to udev, and no neighbour's."""
    rules = early_rules([DatasetName("data/volumes"), DatasetName("b/c.d")])
    assert [line for line in rules.splitlines() if line.startswith("RESULT")] == [
        'RESULT=="b/c.d/*", ENV{ZOLDER}="1"',
        'RESULT=="data/volumes/*", ENV{ZOLDER}="1"',
    ]


def test_the_helper_stays() -> None:
    """The helper comes back however often it fails, leaves no core, and one process's end is its own."""
    lines = units.service_unit("/x").splitlines()
    section = lines.index("[Service]")
    assert lines.index("StartLimitIntervalSec=0") < section
    for line in ("Restart=on-failure", "OOMPolicy=continue", "LimitCORE=0", "MemoryMax=2G"):
        assert lines.index(line) > section


def test_units_of_the_boot_stand_on_both_sides_of_the_network() -> None:
    """Portals shut before there is a network, and exports come back when its addresses are there."""
    early, late = units.portals_unit("/x").splitlines(), units.restore_unit("/x").splitlines()
    assert not [line for line in early if "network-online" in line]
    assert any(line.startswith("Before=network-pre.target ") for line in early)
    assert "Wants=network-online.target" in late
    assert any(line.startswith("After=network-online.target ") for line in late)


def test_units_depend_on_the_path_alone() -> None:
    """The service runs the program where it lies."""
    text = units.service_unit("/opt/x/zolder-san")
    assert "ExecStart=/opt/x/zolder-san helper\n" in text
    assert text.replace("/opt/x", "/usr/local/bin") == units.service_unit("/usr/local/bin/zolder-san")
