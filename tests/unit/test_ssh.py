"""How ssh is called and what its failures mean: the argument vector, the password, the sentences."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.support import agent
from zolder.client.channel import Channel
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.client.ssh import SshTarget
from zolder.errors import ConnectFailed, InvalidRequest

TARGET = SshTarget(
    address="192.0.2.7",
    login="zolder",
    port=2222,
    private_key="/etc/cinder/sankey",
    known_hosts=("/etc/cinder/known hosts", "/var/lib/cinder/ssh_known_hosts"),
    connect_timeout_seconds=7,
)


def option(argv: tuple[str, ...], name: str) -> str | None:
    """Return the value of an ``-o`` option."""
    values = [word.partition("=")[2] for word in argv if word.startswith(f"{name}=")]
    return values[0] if values else None


def test_the_argument_vector() -> None:
    """Strict host keys, one identity, no terminal, no forwarding, and nothing that a shell would read."""
    argv = TARGET.argv
    assert argv[:2] == ("ssh", "-T")
    assert argv[-7:] == ("-p", "2222", "-l", "zolder", "--", "192.0.2.7", "zolder-san")
    assert argv[argv.index("-i") + 1] == "/etc/cinder/sankey"
    expected = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": '"/etc/cinder/known hosts" "/var/lib/cinder/ssh_known_hosts"',
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "7",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "ClearAllForwardings": "yes",
    }
    assert {name: option(argv, name) for name in expected} == expected


def test_without_a_key_ssh_decides() -> None:
    """An ssh-agent or ssh_config may hold the key."""
    argv = SshTarget("san.example.org", "zolder").argv
    assert "-i" not in argv
    assert option(argv, "IdentitiesOnly") is None
    assert option(argv, "UserKnownHostsFile") is None


@pytest.mark.parametrize(
    ("address", "login"),
    [("-oProxyCommand=id", "a"), ("", "a"), ("a b", "a"), ("a", "-x"), ("a", ""), ("a\n", "b")],
)
def test_what_ssh_would_misread_is_refused(address: str, login: str) -> None:
    """An address or a login that looks like an option never reaches ssh."""
    with pytest.raises(InvalidRequest):
        SshTarget(address, login)


def test_the_password_is_only_where_ssh_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches ssh through askpass, and is in no argument, variable or repr, and in no file afterwards."""
    # It plays ssh: it notes its arguments and variables, asks as ssh does, and becomes the agent.
    script = tmp_path / "ssh"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/seen"; env >> "{tmp_path}/seen"\n'
        f'ls -ld "${{SSH_ASKPASS%/*}}" "${{SSH_ASKPASS%/*}}/secret" > "{tmp_path}/modes"\n'
        f'"$SSH_ASKPASS" "zolder@192.0.2.7\'s password: " > "{tmp_path}/asked"\n'
        f'sh -c \'"$SSH_ASKPASS" "root@bastion\\x27s password: "; true\' > "{tmp_path}/jump"\n'
        f'exec "{sys.executable}" -S -E "{agent.__file__}" none\n'
    )
    script.chmod(0o755)
    folders = tmp_path / "temporary"
    folders.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("tempfile.tempdir", str(folders))
    target = SshTarget("192.0.2.7", "zolder", password='o\'pen "sesame" $HOME')
    channel = Channel.open(target, Deadline.after(20))
    channel.close()
    assert (tmp_path / "asked").read_text() == 'o\'pen "sesame" $HOME\n'
    assert (tmp_path / "jump").read_text() == "", "a jump host's ssh has the same variables"
    assert "sesame" not in (tmp_path / "seen").read_text()
    assert "SSH_ASKPASS_REQUIRE=force" in (tmp_path / "seen").read_text()
    assert [line.split()[0] for line in (tmp_path / "modes").read_text().splitlines()] == [
        "drwx------",
        "-rw-------",
    ]
    assert "sesame" not in repr(target)
    assert option(target.argv, "BatchMode") == "no"
    assert not list(folders.iterdir()), "nothing of the password stays"


def test_an_unreadable_key_is_said_before_ssh_runs(tmp_path: Path) -> None:
    """The sentence names the file; ssh itself would only report that the login was refused."""
    target = SshTarget("192.0.2.7", "zolder", private_key=str(tmp_path / "missing"))
    with pytest.raises(ConnectDenied, match="missing cannot be read: check the path"):
        Channel.open(target, Deadline.after(20))


# Messages of OpenSSH 9.2; tests/contract/test_login.py provokes those that a loopback can.
RECORDED = [
    (
        (
            "No ED25519 host key is known for [192.0.2.7]:2222 and you have requested strict checking.\r\n"
            "Host key verification failed.\r\n"
        ),
        r"not in /etc/cinder/known hosts .*: read it with ssh-keyscan -p 2222 192.0.2.7, compare",
        True,
    ),
    (
        (
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
            "IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\nHost key verification failed.\r\n"
        ),
        r"is not the one in /etc/cinder/known hosts",
        True,
    ),
    (
        "zolder@192.0.2.7: Permission denied (publickey).\r\n",
        r"refused the login: check the user's name",
        True,
    ),
    (
        "Received disconnect from 192.0.2.7 port 2222:2: Too many authentication failures\r\n",
        r"refused the login",
        True,
    ),
    (
        (
            "Permissions 0644 for '/etc/cinder/sankey' are too open.\r\n"
            'Load key "/etc/cinder/sankey": bad permissions\r\n'
            "zolder@192.0.2.7: Permission denied (publickey).\r\n"
        ),
        r"others may read it: chmod 0600",
        True,
    ),
    (
        (
            'Load key "/etc/cinder/sankey": error in libcrypto\r\n'
            "zolder@192.0.2.7: Permission denied (publickey).\r\n"
        ),
        r"cannot load the private key /etc/cinder/sankey",
        True,
    ),
    (
        "ssh: connect to host 192.0.2.7 port 2222: Connection refused\r\n",
        r"refused the connection: check that sshd runs on the SAN and listens on port 2222",
        False,
    ),
    ("ssh: connect to host 192.0.2.7 port 2222: Connection timed out\r\n", r"cannot be reached", False),
    ("ssh: connect to host 192.0.2.7 port 2222: No route to host\r\n", r"cannot be reached", False),
    (
        "ssh: Could not resolve hostname san.example: Name or service not known\r\n",
        r"cannot be resolved: check san_ip",
        False,
    ),
    (
        (
            "kex_exchange_identification: Connection closed by remote host\r\n"
            "Connection closed by 192.0.2.7 port 2222\r\n"
        ),
        r"dropped the connection before the login: .* MaxStartups",
        False,
    ),
    (
        "Connection timed out during banner exchange\r\n",
        r"before the login: check the load on the SAN",
        False,
    ),
    ("sh: 1: zolder-san: not found\n", r"zolder-san is not installed", True),
    ("bash: line 1: zolder-san: command not found\n", r"zolder-san is not installed", True),
    (
        (
            "/etc/ssh/ssh_config: line 3: Bad configuration option: bogus\r\n"
            "/etc/ssh/ssh_config: terminating, 1 bad configuration options\r\n"
        ),
        r"refuses its own configuration on this control node: .*1 bad configuration options\.",
        True,
    ),
    ("something nobody has seen\n", r"failed; it said: something nobody has seen\.", False),
    ("", r"failed; it said: nothing\.", False),
]


@pytest.mark.parametrize(("stderr", "sentence", "final"), RECORDED)
def test_each_failure_of_ssh_is_one_sentence(stderr: str, sentence: str, *, final: bool) -> None:
    """It says what to do, keeps ssh's own words in the details, and tells whether asking again can help."""
    error = TARGET.explain(stderr, 255)
    with pytest.raises(ConnectFailed, match=sentence):
        raise error
    assert isinstance(error, ConnectDenied) is final
    assert error.details["stderr"] == stderr
    assert error.message.endswith(".")
    assert "\n" not in error.message


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh client; tools/environment installs it")
def test_the_options_are_ones_that_ssh_knows() -> None:
    """A misspelt option would end ssh before it connects; nothing listens on port 1, so this ends at once."""
    target = SshTarget("127.0.0.1", "zolder", port=1, connect_timeout_seconds=2)
    with pytest.raises(ConnectFailed, match="refused the connection"):
        Channel.open(target, Deadline.after(20))
