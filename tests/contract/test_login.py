"""What a wrong key, user, host key or program looks like through a real ssh and a real sshd."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agent
from tests.support.sshd import running_sshd
from zolder.client.channel import Channel
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.client.ssh import SshTarget


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshTarget]:
    """An sshd whose key leads to the test's own agent."""
    command = (sys.executable, "-S", "-E", agent.__file__, "none")
    with running_sshd(tmp_path_factory.mktemp("sshd"), command=command, working_folder=Path("/")) as found:
        yield found


def refusal(target: SshTarget) -> str:
    """Return the sentence with which opening a channel is refused for good."""
    with pytest.raises(ConnectDenied) as raised:
        Channel.open(target, Deadline.after(30))
    return raised.value.message


def make_key(folder: Path) -> Path:
    """Return a fresh private key's path."""
    key = folder / "other_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return key


def test_the_right_key_is_welcome(target: SshTarget) -> None:
    """The forced command answers, whatever was asked for."""
    channel = Channel.open(target, Deadline.after(30))
    assert channel.welcome.identity == "test"
    channel.close()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys(kind: str, tmp_path: Path) -> None:
    """Host and user keys of every kind that OpenSSH takes will do, checked as strictly."""
    command = (sys.executable, "-S", "-E", agent.__file__, "none")
    with running_sshd(tmp_path, command=command, working_folder=Path("/"), kind=kind) as found:
        channel = Channel.open(found, Deadline.after(30))
        assert channel.welcome.identity == "test"
        channel.close()
        Path(found.known_hosts[0]).write_text("")
        assert "is not in" in refusal(found)


def test_a_jump_host(target: SshTarget, tmp_path: Path) -> None:
    """An ssh_config of the back end's own leads over a bastion, whose host key is checked as strictly."""
    with running_sshd(tmp_path, command=("false",), working_folder=Path("/")) as bastion:
        keys = tmp_path / "authorized_keys"
        keys.write_text((tmp_path / "user_key.pub").read_text())
        config = tmp_path / "ssh_config"
        known = bastion.known_hosts[0]
        text = (
            f"Host bastion\n HostName 127.0.0.1\n Port {bastion.port}\n User {bastion.login}\n"
            f" IdentityFile {bastion.private_key}\n StrictHostKeyChecking yes\n UserKnownHostsFile {known}\n"
            " BatchMode yes\nHost 127.0.0.1\n ProxyJump bastion\n"
        )
        config.write_text(text)
        over = dataclasses.replace(target, config=str(config))
        channel = Channel.open(over, Deadline.after(30))
        assert channel.welcome.identity == "test"
        channel.close()
        assert "Accepted publickey" in (log := (tmp_path / "sshd.log").read_text())
        assert log.count("Accepted publickey") == 1
        config.write_text(text.replace(known, "/dev/null"))
        assert "host key" in refusal(over)


def test_an_unknown_host_key(target: SshTarget, tmp_path: Path) -> None:
    """Nothing is trusted on first use."""
    known_hosts = tmp_path / "known_hosts"
    sentence = refusal(dataclasses.replace(target, known_hosts=(str(known_hosts),)))
    assert f"is not in {known_hosts}: read it with ssh-keyscan -p {target.port} 127.0.0.1" in sentence
    assert not known_hosts.exists()


def test_a_changed_host_key(target: SshTarget, tmp_path: Path) -> None:
    """Another machine behind the address is refused, and the sentence says how to tell."""
    known_hosts = tmp_path / "known_hosts"
    public = make_key(tmp_path).with_suffix(".pub").read_text()
    known_hosts.write_text(f"[127.0.0.1]:{target.port} {public}")
    sentence = refusal(dataclasses.replace(target, known_hosts=(str(known_hosts),)))
    assert f"is not the one in {known_hosts}: compare its fingerprint" in sentence


def test_a_wrong_user(target: SshTarget) -> None:
    """A login that the SAN does not have is refused like a wrong key: sshd does not tell which."""
    assert "refused the login: check the user's name" in refusal(
        dataclasses.replace(target, login="nobody-here")
    )


def test_a_wrong_key(target: SshTarget, tmp_path: Path) -> None:
    """A key that the SAN does not know."""
    key = make_key(tmp_path)
    assert f"that the public half of {key}" in refusal(dataclasses.replace(target, private_key=str(key)))


def test_a_key_that_others_may_read(target: SshTarget, tmp_path: Path) -> None:
    """The client's own ssh refuses it, and the sentence says chmod."""
    # The right key: one that the SAN does not know is never loaded, so its mode never matters.
    key = tmp_path / "key"
    key.write_text(Path(str(target.private_key)).read_text())
    key.chmod(0o644)
    assert "chmod 0600" in refusal(dataclasses.replace(target, private_key=str(key)))


def test_a_file_that_is_no_key(target: SshTarget, tmp_path: Path) -> None:
    """A private key in no format that ssh knows."""
    key = tmp_path / "key"
    key.write_text("this is no key\n")
    key.chmod(0o600)
    assert "cannot load the private key" in refusal(dataclasses.replace(target, private_key=str(key)))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("sh", "-c", "exec zolder-san serve"), "zolder-san is not installed"),
        (("echo", "Welcome!"), "is not zolder-san but says 'Welcome!'"),
        (("true",), "ended with status 0 before it spoke"),
    ],
)
def test_a_key_that_leads_elsewhere(command: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    """No agent there, or something else that answers, is told apart."""
    with running_sshd(tmp_path, command=command, working_folder=Path("/")) as target:
        assert sentence in refusal(target)
