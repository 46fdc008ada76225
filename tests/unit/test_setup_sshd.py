from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.setup_machine import Machine
from zolder.names import DatasetName, Identity
from zolder.san.setup import units
from zolder.san.setup.texts import early_rules, sshd_config

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which nothing of ours is."""
    return Machine(tmp_path / "root")


def effective(machine: Machine, user: str) -> dict[str, str]:
    """Return what sshd itself says holds for a user."""
    main = str(machine.root / "etc/ssh/sshd_config")
    connection = f"user={user},host=h,addr=192.0.2.9"
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
        "sshd refuses its configuration with /etc/ssh/sshd_config.d/50-zolder.conf" in capsys.readouterr().err
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


def test_units_depend_on_the_path_alone() -> None:
    """The service runs the program where it lies."""
    text = units.service_unit("/opt/x/zolder-san")
    assert "ExecStart=/opt/x/zolder-san helper\n" in text
    assert text.replace("/opt/x", "/usr/local/bin") == units.service_unit("/usr/local/bin/zolder-san")
