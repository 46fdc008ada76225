from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.setup_machine import make_key
from zolder.names import Identity
from zolder.san.setup.authorized import entries, key_line, with_line, without
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.keys import PublicKey, check_source, check_sources, read_key, read_key_file

ONE = PublicKey("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIFxQEXFMSpwoS4nE2c5ORurtYbKuj0WE7ErANaz5LCUb")


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Return a good public key."""
    return make_key(tmp_path).read_text()


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "ed25519"),
        ("-t", "ecdsa", "-b", "256"),
        ("-t", "ecdsa", "-b", "521"),
        ("-t", "rsa", "-b", "3072"),
    ],
)
def test_kinds(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Every kind that is strong enough is read, with the fingerprint that ssh-keygen gives it."""
    path = make_key(tmp_path, "key", *options)
    key = read_key(Host(), f"# a comment\n\n{path.read_text()}", "key")
    assert path.read_text().split()[:2] == [key.kind, key.blob]
    listed = Host().call(["ssh-keygen", "-l", "-f", str(path)]).split()
    assert key.fingerprint == listed[1]


def test_weak(tmp_path: Path) -> None:
    """An RSA key below 3072 bits is refused with its size."""
    text = make_key(tmp_path, "key", "-t", "rsa", "-b", "2048").read_text()
    with pytest.raises(SetupError, match="2048 bits are too few for RSA, 3072 are needed"):
        read_key(Host(), text, "key")


@pytest.mark.parametrize("form", ["PEM", "RFC4716"])
def test_private(tmp_path: Path, form: str) -> None:
    """A private key, in either form, is named as one and never written anywhere."""
    options = ("-t", "rsa", "-b", "3072", "-m", form) if form == "PEM" else ()
    make_key(tmp_path, "key", *options)
    with pytest.raises(SetupError, match=r"is a private key, .* ends in \.pub") as refused:
        read_key(Host(), (tmp_path / "key").read_text(), "key")
    assert "BEGIN" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: "", "has 0 keys, one is needed"),
        (lambda text: text + text, "has 2 keys, one is needed"),
        (lambda text: f'command="sh" {text}', "has options before the key"),
        (lambda text: f"restrict {text}", "has options before the key"),
        (lambda text: text.replace("ssh-ed25519", "ssh-rsa"), "ssh-keygen does not know this"),
        (lambda text: text.replace("ssh-ed25519", "ssh-dss"), "is a DSA key"),
        (lambda text: text.replace("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com"), "is a certificate"),
        (lambda text: text.replace("AAAA", "AA!A"), "is no public key of OpenSSH"),
        (lambda text: text.replace("AAAA", 'AA"A'), "is no public key of OpenSSH"),
        (lambda text: re.sub(r"(?<=AAAAC3).*", "", text), "is no public key of OpenSSH|does not know this"),
        (lambda _: "ssh-ed25519", "is no public key of OpenSSH"),
        (lambda _: "ssh-ed25519 AAAA", "ssh-keygen does not know this"),
        (lambda _: "Hello.\n", "is no public key of OpenSSH"),
        (lambda text: text + "\0", "is no public key"),
        (lambda text: text * 2000, "is no public key"),
        (lambda _: "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", "ssh-keygen -i -f FILE"),
        (lambda _: "PuTTY-User-Key-File-3: ssh-ed25519\n", "is a private key"),
    ],
)
def test_no_key(text: str, change: object, says: str) -> None:
    """What is not exactly one bare public key is refused, and the error says what it is."""
    assert callable(change)
    with pytest.raises(SetupError, match=says):
        read_key(Host(), change(text), "key")


def test_missing_file(tmp_path: Path) -> None:
    """A file that cannot be read is named."""
    with pytest.raises(SetupError, match=r"cannot read .*none\.pub: No such file"):
        read_key_file(str(tmp_path / "none.pub"))


@pytest.mark.parametrize(
    ("text", "checked"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("192.0.2.*", "192.0.2.*"),
        ("*.example.org", "*.example.org"),
        ("control-1", "control-1"),
        ("!192.0.2.7", "!192.0.2.7"),
    ],
)
def test_source(text: str, checked: str) -> None:
    """Addresses, networks and names are taken as sshd(8) takes them."""
    assert check_source(text) == checked


@pytest.mark.parametrize(
    "text",
    ["", "!", 'a"b', "a,b", "a b", "a\nb", "192.0.2.1/24", "192.0.2.256", "192.0.2", "1.2.3.4/33", "a_b",
     "-a", "a..b", "ä", "192.0.2.1\\", "fe80::1%eth0", 'fe80::1%",command="sh', "a" * 254, '",command="sh'],
)  # fmt: skip
def test_no_source(text: str) -> None:
    """Whatever else could end the option, or mean nothing to sshd, is refused."""
    with pytest.raises(SetupError, match="--from"):
        check_source(text)


def test_exceptions_alone() -> None:
    """A list of nothing but exceptions would let nobody in, and says so."""
    with pytest.raises(SetupError, match="exceptions alone"):
        check_sources(["!192.0.2.7"])
    assert check_sources(["b", "a", "b"]) == ("a", "b")


def test_lines_are_read_as_they_are_written() -> None:
    """A line that was written is read back as the same identity, key and addresses."""
    line = key_line("/opt/zolder/bin/zolder-san", Identity("cinder"), ONE, ("192.0.2.0/24", "a"))
    assert line.startswith(
        'restrict,command="/opt/zolder/bin/zolder-san serve --identity cinder",from="192.0.2.0/24,a" ssh-'
    )
    (entry,) = entries(with_line("# ours", line))
    assert (entry.line, entry.identity, entry.key, entry.sources) == (2, "cinder", ONE, ("192.0.2.0/24", "a"))


@pytest.mark.parametrize(
    ("line", "identity"),
    [
        (f"{ONE.kind} {ONE.blob}", None),
        (f"{ONE.kind}\t{ONE.blob}\tcomment", None),
        (f'no-pty,environment="A=\\"b c\\"" {ONE.kind} {ONE.blob} x', None),
        (f'command="/x/zolder-san serve --identity a",restrict  {ONE.kind} {ONE.blob}', "a"),
        (f'Command="/x/zolder-san serve --identity=a " {ONE.kind} {ONE.blob}', "a"),
        (f'command="/x/zolder-san serve --identity a; sh" {ONE.kind} {ONE.blob}', None),
        (f'environment="X=command=/x/zolder-san serve --identity a" {ONE.kind} {ONE.blob}', None),
    ],
)
def test_other_lines(line: str, identity: str | None) -> None:
    """Keys in lines that others wrote are found too; only the forced command makes one an identity's."""
    assert [(entry.key, entry.identity) for entry in entries(f"\n{line}\n")] == [(ONE, identity)]


@pytest.mark.parametrize(
    "line", ["", "# ssh-ed25519 AAAA", "ssh-ed25519", "garbage", '"', "a b c", "\xff \udcff"]
)
def test_no_lines(line: str) -> None:
    """What is no key's line is none."""
    assert entries(line) == []


def test_without() -> None:
    """Lines go whole, and all others stay as they were."""
    first, second = (key_line("/x/zolder-san", Identity(name), ONE, ()) for name in ("a", "b"))
    text = f"# one\r\n{first}\n  junk\n{second}# end"
    assert without(text, lambda entry: entry.identity == "b") == f"# one\r\n{first}\n  junk\n# end"
    assert without(text, lambda _: False) == text
