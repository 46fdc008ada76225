"""A public key as an administrator hands it over, and from where it may come: one key, and checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zolder.san.setup.host import Host, SetupError

KINDS: Final = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
MIN_RSA_BITS: Final = 3072
_MAX_TEXT: Final = 64 * 1024
_LISTED: Final = re.compile(r"([0-9]+) (SHA256:\S+) .*\(([A-Z0-9-]+)\)", re.ASCII)
# sshd(8), "from": names with the wildcards of ssh_config(5) PATTERNS.
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9*?](?:[A-Za-z0-9.*?-]*[A-Za-z0-9*?])?", re.ASCII)
_MAX_HOST_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The two words of a key's line that make it this key."""

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` calls it."""
        return fingerprint(self.blob)


def fingerprint(blob: str) -> str:
    """Return the fingerprint of a key's base64 part; empty where it is none."""
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except (binascii.Error, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def read_key(host: Host, text: str, source: str) -> PublicKey:
    """Return the one public key in a text.

    :param source: what the text came from, for the errors.
    :raises SetupError: it is no such key, a weak one, or has company.
    """
    key = _single_key(text, source)
    with tempfile.NamedTemporaryFile("w", prefix="zolder-", suffix=".pub") as file:
        file.write(f"{key.kind} {key.blob}\n")
        file.flush()
        done = host.run(["ssh-keygen", "-l", "-E", "sha256", "-f", file.name])
    listed = _LISTED.fullmatch(done.stdout.strip())
    if done.exit_status or not listed or listed[2] != key.fingerprint:
        message = f"{source}: ssh-keygen does not know this as a public key: {_first_line(done.stderr)}"
        raise SetupError(message)
    if key.kind == "ssh-rsa" and int(listed[1]) < MIN_RSA_BITS:
        message = f"{source}: {listed[1]} bits are too few for RSA, {MIN_RSA_BITS} are needed: {_MAKE_ONE}"
        raise SetupError(message)
    return key


_MAKE_ONE: Final = "make one with 'ssh-keygen -t ed25519'"


def _single_key(text: str, source: str) -> PublicKey:
    if len(text) > _MAX_TEXT or "\0" in text:
        message = f"{source} is no public key: name the file that ends in .pub"
        raise SetupError(message)
    if "PRIVATE KEY" in text or text.startswith("PuTTY-User-Key-File"):
        message = f"{source} is a private key, which must stay where it is: name the file that ends in .pub"
        raise SetupError(message)
    if "BEGIN SSH2 PUBLIC KEY" in text:
        message = f"{source} is not in OpenSSH's form: 'ssh-keygen -i -f FILE' turns it into that"
        raise SetupError(message)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        message = f"{source} has {len(lines)} keys, one is needed"
        raise SetupError(message)
    words = lines[0].split()
    kind = words[0]
    if kind == "ssh-dss":
        message = f"{source} is a DSA key, which is too weak: {_MAKE_ONE}"
        raise SetupError(message)
    if "-cert-v0" in kind:
        message = f"{source} is a certificate: name the public key itself"
        raise SetupError(message)
    if kind not in KINDS and any(word in KINDS for word in words):
        message = (
            f"{source} has options before the key: give the key alone, and --from for where it may come from"
        )
        raise SetupError(message)
    if kind not in KINDS or len(words) < 2 or not fingerprint(words[1]):  # noqa: PLR2004 - kind and key
        message = f"{source} is no public key of OpenSSH: name the file that ends in .pub"
        raise SetupError(message)
    return PublicKey(kind, words[1])


def check_source(text: str) -> str:
    """Return an address, network or host name from which a key may come, in the form that sshd wants.

    :raises SetupError: it is none.
    """
    sign, plain = ("!", text[1:]) if text.startswith("!") else ("", text)
    try:
        if "%" in plain:
            # A zone may hold anything to Python, a quote too, and nothing to sshd.
            raise ValueError(plain)
        if "/" in plain:
            return f"{sign}{ipaddress.ip_network(plain)}"
        return f"{sign}{ipaddress.ip_address(plain)}"
    except ValueError as err:
        # Four numbers that are no address are a slip, not a host's name.
        named = _HOST_NAME.fullmatch(plain) and len(plain) <= _MAX_HOST_NAME and ".." not in plain
        if not named or not re.search(r"[A-Za-z*?]", plain):
            message = f"--from {text!r:.80}: an address, a network as 192.0.2.0/24 or a host name is needed"
            raise SetupError(message) from err
    return f"{sign}{plain}"


def check_sources(texts: list[str]) -> tuple[str, ...]:
    """Return all that a key may come from, sorted; none is anywhere.

    :raises SetupError: one of them will not do, or all only say from where not.
    """
    checked = tuple(sorted({check_source(text) for text in texts}))
    if checked and all(source.startswith("!") for source in checked):
        message = "--from: with exceptions alone the key could come from nowhere: say from where it may, too"
        raise SetupError(message)
    return checked


def read_key_file(name: str, standard_input: str | None = None) -> str:
    """Return the text of a key's file.

    :param standard_input: what to take for the name "-".
    :raises SetupError: it cannot be read.
    """
    if name == "-" and standard_input is not None:
        return standard_input
    try:
        with Path(name).open("rb") as file:
            return file.read(_MAX_TEXT + 1).decode("utf-8", "replace")
    except OSError as err:
        message = f"cannot read {name}: {err.strerror}"
        raise SetupError(message) from err


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else "no reason given"
