"""Attacks on the way in: commands, file transfers, forwarding, terminals, environments, other logins."""

from __future__ import annotations

import struct
from typing import Final

from tests.attack.model import (
    HELLO,
    HOSTILE,
    PROOF_COMMAND,
    Attack,
    Forward,
    Login,
    Session,
    line,
)

LAB: Final = frozenset({"identity:lab"})
CLOSED: Final = frozenset({"closed"})
REFUSED_LOGIN: Final = frozenset({"refused"})
NO_FRAME: Final = frozenset({"remote_protocol"})
SHOW: Final = "cat /etc/secret-of-root /root/secret"
HELPER_HELLO: Final = line("hello", {"identity": "lab", "version": "0.1.0"})

# What ssh is asked to run. The forced command answers hello all the same, as the key's own identity.
_COMMANDS: Final = {
    "ask-for-a-shell": (),
    "run-a-command": (PROOF_COMMAND,),
    "substitute-a-command": (f"$({PROOF_COMMAND}; {SHOW})",),
    "pipe-into-a-shell": (f"echo '{PROOF_COMMAND}' | sh",),
    "close-the-forced-commands-quote": (f"'; {PROOF_COMMAND}; '\"; {PROOF_COMMAND}; \"",),
    "ask-for-another-identity": ("zolder-san serve --identity other",),
    "add-another-identity": ("serve", "--identity", "other"),
    "ask-for-set-up": ("zolder-san authorize evil --key - --parent data/secret",),
    "ask-for-zfs": ("zfs destroy -r data/secret",),
    "send-a-command-of-100-kB": (f"{PROOF_COMMAND};" * 3000,),
    "read-files-with-scp": ("scp -f /etc/secret-of-root",),
    "write-files-with-scp": ("scp -r -t /etc/zolder",),
    "read-files-with-rsync": ("rsync --server --sender -logDtpre.iLsfxCIvu . /etc/secret-of-root",),
    "write-files-with-rsync": ("rsync --server -logDtpre.iLsfxCIvu --delete . /etc/zolder/",),
    "receive-a-zfs-stream": ("zfs receive -F data/volumes/volume-own",),
}

# What a transfer program sends first. It is no frame, so the agent says so and closes.
_TRANSFERS: Final = {
    "speak-sftp-to-the-subsystem": (
        ("-s",), "sftp", struct.pack(">IBI", 5, 1, 3) + struct.pack(">IBI", 21, 11, 1) + b"\n\n"
    ),
    "speak-scp-as-a-sink": ((), "scp -t /etc/zolder", b"C0644 5 san.toml\nevil\n\0"),
    "type-into-a-shell": ((), "", f"{PROOF_COMMAND}\n{SHOW}\nexit\n".encode()),
}  # fmt: skip

_VARIABLES: Final = {
    "preload-a-library": f"LD_PRELOAD=/tmp/{HOSTILE}.so LD_LIBRARY_PATH=/tmp/{HOSTILE} PATH=/tmp/{HOSTILE}",
    "bring-a-python-path": f"PYTHONPATH=/tmp/{HOSTILE} PYTHONSTARTUP=/tmp/{HOSTILE} PYTHONINSPECT={HOSTILE}",
    "bring-a-shells-start-up-file": f"BASH_ENV=/tmp/{HOSTILE} ENV=/tmp/{HOSTILE} IFS={HOSTILE}",
    "bring-another-original-command": f"SSH_ORIGINAL_COMMAND={HOSTILE}",
    "claim-to-come-from-elsewhere": f"SSH_CONNECTION={HOSTILE} SSH_CLIENT={HOSTILE} LISTEN_FDS={HOSTILE}",
}

# Local ends that lead nowhere: what would come back if they led somewhere, and must not.
_FORWARDS: Final = {
    "forward-to-the-sans-own-sshd": (("-L", "{port}:127.0.0.1:22"), b"", b"SSH-2.0"),
    "forward-to-the-iscsi-port": (("-L", "{port}:192.168.77.1:22"), b"", b"SSH-2.0"),
    "forward-to-the-helpers-socket": (("-L", "{port}:/run/zolder-helper.socket"), HELPER_HELLO, b'"id"'),
    "forward-to-systemds-socket": (
        ("-L", "{port}:/run/dbus/system_bus_socket"), b"\0AUTH EXTERNAL 30\r\n", b"OK "
    ),
    "use-the-san-as-a-proxy": (
        ("-D", "{port}"), b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1\0\x16", b"SSH-2.0"
    ),
}  # fmt: skip

_WAITING: Final = ("-N", "-o", "ExitOnForwardFailure=yes")
_ONLY_KEYS: Final = r"Permission denied \(publickey\)"
_NO_KEY: Final = ("-o", "PubkeyAuthentication=no")
# ssh must end, and fail.
_LOGINS: Final = {
    "listen-on-the-san": (*_WAITING, "-R", "4711:127.0.0.1:22"),
    "listen-on-all-addresses": (*_WAITING, "-R", "*:4712:127.0.0.1:22"),
    "listen-on-a-socket-of-the-san": (*_WAITING, "-R", "/tmp/zolder-evil.sock:127.0.0.1:22"),  # noqa: S108 - in the SAN
    "listen-in-the-helpers-place": (*_WAITING, "-R", "/run/zolder-helper.socket:127.0.0.1:22"),
    "proxy-backwards": (*_WAITING, "-R", "4713"),
    "reach-the-sans-own-sshd-over-standard-input": ("-W", "127.0.0.1:22"),
    "reach-the-compute-machine-over-standard-input": ("-W", "192.168.77.2:22"),
    "log-in-with-a-password": (*_NO_KEY, "-o", "PreferredAuthentications=password"),
    "log-in-with-keyboard-interactive": (*_NO_KEY, "-o", "PreferredAuthentications=keyboard-interactive"),
    "log-in-with-nothing": (*_NO_KEY, "-o", "PreferredAuthentications=none"),
}

_OTHER_LOGINS: Final = ("root", "nobody", "zolder-lab", "ZOLDER", "zolder ")


def _sessions() -> list[Attack]:
    attacks = [Attack(name, "session", Session(command), LAB) for name, command in _COMMANDS.items()]
    attacks += [
        Attack(name, "transfer", Session((command,) if command else (), options, data), NO_FRAME)
        for name, (options, command, data) in _TRANSFERS.items()
    ]
    attacks += [
        Attack(name, "environment", Session(options=("-o", f"SetEnv={setting}"), watched=True), LAB)
        for name, setting in _VARIABLES.items()
    ]
    terminal = Session(options=("-tt",), command=("sh",))
    subsystem = Session(("zfs",), ("-s",), b"list\n")
    return [
        *attacks,
        Attack("ask-for-a-terminal", "terminal", terminal, CLOSED, says="PTY allocation request failed"),
        Attack("start-an-unknown-subsystem", "transfer", subsystem, CLOSED, says="subsystem request failed"),
        Attack(
            "forward-the-attackers-ssh-agent",
            "forwarding",
            Session(options=("-A",), variables=(("SSH_AUTH_SOCK", "{agent}"),), watched=True),
            LAB,
        ),
        Attack(
            "forward-the-attackers-screen",
            "forwarding",
            Session(options=("-X",), variables=(("DISPLAY", ":77"),), watched=True),
            LAB,
            says="X11 forwarding request failed",
        ),
        Attack(
            "forward-the-attackers-screen-trusted",
            "forwarding",
            Session(options=("-Y",), variables=(("DISPLAY", ":77"),), watched=True),
            LAB,
            says="X11 forwarding request failed",
        ),
        Attack(
            "ask-for-another-identity-in-hello",
            "session",
            Session(stdin=line("hello", {"protocols": [1], "version": "0", "identity": "other"})),
            NO_FRAME,
        ),
        Attack(
            "say-hello-with-the-other-key-and-ask-for-lab",
            "session",
            Session(command=("zolder-san serve --identity lab",), stdin=HELLO),
            frozenset({"identity:other"}),
            key="other",
        ),
    ]


def _logins() -> list[Attack]:
    attacks = [
        # Where a key is not even offered, sshd says what else it would take: nothing.
        Attack(name, "login", Login(options), REFUSED_LOGIN, says=_ONLY_KEYS * (options[:2] == _NO_KEY))
        for name, options in _LOGINS.items()
    ]
    attacks += [
        Attack(
            f"log-in-with-the-agents-key-as-{login.strip()}{'-and-a-space' * login.endswith(' ')}",
            "login",
            Login(login=login),
            REFUSED_LOGIN,
            says="Permission denied|remote username|Connection closed",
        )
        for login in _OTHER_LOGINS
    ]
    stranger = Attack(
        "log-in-with-a-key-that-only-the-agents-home-lists",
        "login",
        Login(),
        REFUSED_LOGIN,
        key="stranger",
        says="Permission denied",
    )
    return [*attacks, stranger]


_FORWARDING: Final = [
    Attack(name, "forwarding", Forward(options, probe, forbidden), frozenset({"nothing"}))
    for name, (options, probe, forbidden) in _FORWARDS.items()
]
ATTACKS: Final = (*_sessions(), *_FORWARDING, *_logins())
