from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import pytest

from tests.unit.setup_machine import ADDRESSES, Machine, make_key
from zolder.san.run import Finished
from zolder.san.setup.authorized import entries
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.portals import own_portals, parse_portal

Capture = pytest.CaptureFixture[str]
OWN = ("--target-prefix", "iqn.2010-10.org.new:")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine that is set up, and that nobody may enter."""
    made = Machine(tmp_path / "root")
    assert made.zolder_san("install") == 0
    made.ran = []
    return made


@pytest.fixture
def key(tmp_path: Path) -> str:
    """Return the path of a public key."""
    return str(make_key(tmp_path))


def test_first(machine: Machine, key: str) -> None:
    """An identity gets its table with this machine's addresses, its line, its rights and its rules."""
    assert machine.zolder_san("authorize", "cinder", "--key", key, "--parent", "data/volumes") == 0
    assert tomllib.loads(machine.text("etc/zolder/san.toml")) == {
        "identity": {
            "cinder": {
                "parents": ["data/volumes"],
                "portals": ["192.0.2.1:3260", "[2001:db8::1]:3260"],
                "target_prefixes": ["iqn.2010-10.org.openstack:"],
            }
        }
    }
    kind, blob = Path(key).read_text().split()[:2]
    line = f'restrict,command="/usr/local/bin/zolder-san serve --identity cinder" {kind} {blob} cinder\n'
    assert machine.text("etc/zolder/authorized_keys").splitlines(keepends=True)[-1] == line
    assert ("-l", "create") in machine.allowed["data/volumes"]
    assert 'RESULT=="data/volumes/*"' in machine.text("etc/udev/rules.d/10-zolder.rules")


def test_twice_and_install_after(machine: Machine, key: str, capsys: Capture) -> None:
    """The same again changes nothing, and neither does an install."""
    arguments = ("authorize", "cinder", "--key", key, "--parent", "data/volumes", "--from", "192.0.2.9")
    assert machine.zolder_san(*arguments) == 0
    before = machine.snapshot()
    capsys.readouterr()
    for again in (arguments, ("authorize", "cinder", "--key", key), ("install",)):
        assert machine.zolder_san(*again) == 0
        assert capsys.readouterr().out == "Nothing to change.\n"
    assert machine.snapshot() == before


def test_dry_run(machine: Machine, key: str, capsys: Capture) -> None:
    """A dry run says what the run then says, and leaves the machine as it was."""
    arguments = ("authorize", "cinder", "--key", key, "--parent", "data/volumes", "--password")
    before, machine.ran = machine.snapshot(), []
    capsys.readouterr()
    assert machine.zolder_san(*arguments, "--dry-run") == 0
    said = capsys.readouterr().out
    assert (machine.snapshot(), machine.ran) == (before, [])
    assert machine.zolder_san(*arguments) == 0
    assert capsys.readouterr().out == said


def test_own_words_are_kept(machine: Machine, key: str) -> None:
    """What an administrator wrote into both files is there byte for byte afterwards."""
    policy, keys = machine.root / "etc/zolder/san.toml", machine.root / "etc/zolder/authorized_keys"
    policy.write_bytes('# Ägypten\r\n[identity.old]\nrole="read-only"\nparents=[ "data/other" ] #x'.encode())
    keys.write_bytes(b"# \xff mine\nnot a key")
    old_policy, old_keys = policy.read_bytes(), keys.read_bytes()
    assert machine.zolder_san("authorize", "cinder", "--key", key, "--parent", "data/volumes") == 0
    assert policy.read_bytes().startswith(old_policy + b"\n\n[identity.cinder]\n")
    assert keys.read_bytes().startswith(old_keys + b"\nrestrict,")


def test_second_key(machine: Machine, key: str, tmp_path: Path) -> None:
    """Another key of an identity that stands needs no word on parents, and leaves the table alone."""
    assert machine.zolder_san("authorize", "cinder", "--key", key, "--parent", "data/volumes") == 0
    table = machine.text("etc/zolder/san.toml")
    other = str(make_key(tmp_path, "other", "-t", "ecdsa", "-b", "384"))
    sources = ("--from", "2001:DB8::9", "192.0.2.0/24", "*.example.org")
    assert machine.zolder_san("authorize", "cinder", "--key", other, *sources) == 0
    assert machine.text("etc/zolder/san.toml") == table
    found = entries(machine.text("etc/zolder/authorized_keys"))
    assert [(entry.identity, entry.sources) for entry in found] == [
        ("cinder", ()),
        ("cinder", ("*.example.org", "192.0.2.0/24", "2001:db8::9")),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["cinder", "--parent", "data/other"],
            "san.toml, line 15: [identity.cinder] has other parents: edit it",
        ),
        (["cinder", "--role", "read-only"], "[identity.cinder] has other role: edit it there by hand"),
        (["cinder", "--portal", "192.0.2.7"], "[identity.cinder] has other portals: edit it"),
        (["cinder", "--target-prefix", "iqn.2010-10.org.x:"], "has other target_prefixes"),
        (["cinder", "--from", "192.0.2.7"], "line 2: this key may come from elsewhere"),
        (["other", "--parent", "data/other", *OWN], "line 2: this key is identity cinder's already"),
        (["new"], "there is no identity new yet: say where its volumes may live with --parent"),
        (["new", "--parent", "data/volumes", *OWN], "part them, or list both under shared_parents"),
        (["new", "--parent", "data/volumes/below", *OWN], "part them, or list both under shared_parents"),
        (["new", "--parent", "data/none", *OWN], "'zfs create -p -o mountpoint=none -o volmode=dev"),
        (["new", "--parent", "data/z", *OWN], "data/z is a volume, and a parent must be a filesystem"),
    ],
)
def test_refused(
    machine: Machine, key: str, tmp_path: Path, capsys: Capture, arguments: list[str], says: str
) -> None:
    """What contradicts the files that stand is refused with the place, and nothing is changed."""
    assert machine.zolder_san("authorize", "cinder", "--key", key, "--parent", "data/volumes") == 0
    given = str(make_key(tmp_path, "new")) if arguments[0] == "new" else key
    before = machine.snapshot()
    assert machine.zolder_san("authorize", *arguments, "--key", given) == 1
    assert says in capsys.readouterr().err
    assert machine.snapshot() == before


@pytest.mark.parametrize("name", ["-x", "Cinder", "a b", 'a"', "a\n", "a" * 33, "ä"])
def test_names(machine: Machine, key: str, capsys: Capture, name: str) -> None:
    """A name that could mean anything to sshd is refused before anything is looked at."""
    with pytest.raises(SystemExit):
        machine.zolder_san("authorize", f"--key={key}", "--parent=data/volumes", "--", name)
    assert "identity" in capsys.readouterr().err


def test_not_installed(tmp_path: Path, key: str, capsys: Capture) -> None:
    """On a machine that is not set up it says so and leaves nothing behind."""
    bare = Machine(tmp_path / "bare")
    before = bare.snapshot()
    assert bare.zolder_san("authorize", "cinder", "--key", key, "--parent", "data/volumes") == 1
    assert "run 'zolder-san install' first" in capsys.readouterr().err
    assert bare.snapshot() == before


def test_no_way_in(machine: Machine, capsys: Capture) -> None:
    """Without a key or a password there is nothing to authorize."""
    assert machine.zolder_san("authorize", "cinder", "--parent", "data/volumes") == 1
    assert "--key FILE, or --password" in capsys.readouterr().err


def test_read_only(machine: Machine, key: str) -> None:
    """A role that only looks needs neither portals nor prefixes, and gets none."""
    arguments = ("--key", key, "--parent", "data/volumes", "--role", "read-only")
    assert machine.zolder_san("authorize", "monitor", *arguments) == 0
    table = tomllib.loads(machine.text("etc/zolder/san.toml"))["identity"]["monitor"]
    assert table == {"role": "read-only", "parents": ["data/volumes"]}


def test_standard_input(machine: Machine, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may come on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(key).read_text()))
    assert machine.zolder_san("authorize", "cinder", "--key", "-", "--parent", "data/volumes") == 0
    assert [entry.identity for entry in entries(machine.text("etc/zolder/authorized_keys"))] == ["cinder"]


def test_password(machine: Machine, capsys: Capture) -> None:
    """A password login is a second name of zolder's number, confined before it is made, and locked."""
    assert machine.zolder_san("authorize", "cinder", "--password", "--parent", "data/volumes") == 0
    assert "give it a password with 'passwd zolder-cinder'" in capsys.readouterr().out
    user, second = machine.host.find_account(), machine.host.find_account("zolder-cinder")
    assert user is not None
    assert second is not None
    assert (second.uid, second.gid, second.home) == (user.uid, user.gid, user.home)
    assert "zolder-cinder:!:" in machine.text("etc/shadow")
    order = [line.split()[0] for line in machine.ran if "ssh.service" in line or "useradd" in line]
    assert order == ["systemctl", "useradd"]
    block = machine.text("etc/ssh/sshd_config.d/00-zolder.conf").partition("Match User zolder-cinder\n")[2]
    assert block.startswith("    ForceCommand /usr/local/bin/zolder-san serve --identity cinder\n")
    assert machine.zolder_san("install") == 0
    assert "Nothing to change." in capsys.readouterr().out


def test_password_names(machine: Machine, capsys: Capture) -> None:
    """A name that is too long for useradd, or somebody else's, is refused."""
    arguments = ("--password", "--parent", "data/volumes")
    assert machine.zolder_san("authorize", "a" * 26, *arguments) == 1
    assert "more than 32 characters" in capsys.readouterr().err
    passwd = machine.root / "etc/passwd"
    passwd.write_text(passwd.read_text() + "zolder-x:x:1002:1002::/home/x:/bin/sh\n")
    assert machine.zolder_san("authorize", "x", *arguments) == 1
    assert "there is a user zolder-x already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("192.0.2.1", "192.0.2.1:3260"),
        ("192.0.2.1:3261", "192.0.2.1:3261"),
        ("2001:DB8:0::1", "[2001:db8::1]:3260"),
        ("[2001:db8::1]", "[2001:db8::1]:3260"),
        ("[2001:db8::1]:3261", "[2001:db8::1]:3261"),
    ],
)
def test_portal(text: str, portal: str) -> None:
    """A portal is written with and without its port, and becomes the one spelling of it."""
    assert parse_portal(text) == portal


@pytest.mark.parametrize(
    "text", ["", "san", "192.0.2", "192.0.2.1:", "[192.0.2.1]x", "::1%eth0:1", "1.2.3.4\n"]
)
def test_no_portal(text: str) -> None:
    """What is no address is refused with the forms."""
    with pytest.raises(SetupError, match="is the form"):
        parse_portal(text)


@pytest.mark.parametrize("said", ["", "[]", "{}", "[1]", '[{"addr_info": [{"scope": "global"}]}]', "null"])
def test_no_addresses(said: str) -> None:
    """Where ip(8) names no global address, --portal is asked for."""
    host = Host(run=lambda argv: Finished(tuple(argv), 0, said, ""))
    with pytest.raises(SetupError, match="--portal"):
        own_portals(host)


def test_addresses_that_pass() -> None:
    """Addresses that do not last are no portals."""
    host = Host(run=lambda argv: Finished(tuple(argv), 0, json.dumps(ADDRESSES), ""))
    assert own_portals(host) == ("192.0.2.1:3260", "[2001:db8::1]:3260")
