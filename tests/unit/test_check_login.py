from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.checked_san import (
    KEY,
    LINE,
    OTHER_KEY,
    POLICY,
    RUN_IT,
    CheckedSan,
    recorded,
    sshd_answers,
)
from zolder.names import Identity
from zolder.san.check.accounts import check_account, check_folders
from zolder.san.check.finding import Finding, NotChecked
from zolder.san.check.keys import check_keys
from zolder.san.check.policies import check_policy
from zolder.san.check.program import check_command
from zolder.san.check.sshd import check_sshd
from zolder.san.confinement import ADDRESSES, question
from zolder.san.keylines import parse_command, parse_line, unclear_lines
from zolder.san.setup.texts import sshd_config

KEYS = "/etc/zolder/authorized_keys"


@pytest.fixture
def san(tmp_path: Path) -> CheckedSan:
    """A SAN on which all is well."""
    return CheckedSan(tmp_path)


def told(findings: list[Finding]) -> list[str]:
    """Return the findings that are not ok as level and message."""
    return [f"{found.level}: {found.message}" for found in findings if found.level != "ok"]


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("/etc/passwd", "zolder:", "else:", "failure: there is no user zolder"),
        ("/etc/passwd", "/bin/sh\nzolder", "/bin/sh\n#", "failure: there is no user zolder"),
        (
            "/etc/passwd",
            "/var/lib/zolder:/bin/sh",
            "/var/lib/zolder:/usr/sbin/nologin",
            "cannot start the agent",
        ),
        ("/etc/passwd", "zolder:/bin/sh", "zolder:/bin/zsh", "cannot start the agent"),
        ("/etc/passwd", "/var/lib/zolder", "/root", "warning: its home is /root"),
        ("/etc/group", "zolder:x:", "zolder:x:7", "failure: its own group is not the group zolder"),
        ("/etc/shadow", "zolder:*", "zolder:!*", "warning: is locked"),
        ("/etc/shadow", "zolder:*", "zolder:$y$j9T$abc", "failure: has a password"),
        ("/etc/shadow", "zolder:*", "zolder:", "failure: needs no password"),
    ],
)
def test_account(san: CheckedSan, path: str, old: str, new: str, said: str) -> None:
    """Each fault of the agent's user is found."""
    san.replace(path, old, new)
    (found,) = told(list(check_account(san.machine)))
    assert said in found


def test_root_is_no_agent(san: CheckedSan) -> None:
    """An agent's user that is root is a failure."""
    san.write("/etc/passwd", "zolder:x:0:0::/var/lib/zolder:/bin/sh\n")
    assert told(list(check_account(san.machine))) == ["failure: is root: the agent must not be"]


def test_a_foreign_twin(san: CheckedSan) -> None:
    """Another user of the same uid is a failure, unless it is a login of ours by password."""
    line = next(line for line in (san.root / "etc/passwd").read_text().splitlines() if "zolder" in line)
    for name, count in (("zolder-night", 0), ("mallory", 1)):
        san.write("/etc/passwd", f"{line}\n{line.replace('zolder:x', f'{name}:x')}\n")
        assert len(told(list(check_account(san.machine)))) == count


@pytest.mark.parametrize(
    ("path", "mode", "said"),
    [
        ("/etc/zolder", 0o775, "has mode 0775, not 0755"),
        ("/run/zolder", 0o755, "has mode 0755, not 0700"),
        ("/var/lib/zolder", 0o750, "has mode 0750, not 0700"),
    ],
)
def test_folders(san: CheckedSan, path: str, mode: int, said: str) -> None:
    """A folder that others may look into or write to is a failure, with the command that closes it."""
    san.folder(path, mode)
    (found,) = [found for found in check_folders(san.machine) if found.level != "ok"]
    assert (found.level, found.subject, found.message) == ("failure", path, said)
    assert f"chmod {0o755 if path == '/etc/zolder' else 0o700:04o} {path}" in found.remedy


def test_a_folder_that_is_a_link(san: CheckedSan, tmp_path: Path) -> None:
    """A link in a folder's place is a failure, wherever it leads."""
    (san.root / "run/zolder").rmdir()
    (san.root / "run/zolder").symlink_to(tmp_path)
    assert told(list(check_folders(san.machine))) == ["failure: is something else: lrwxrwxrwx"]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        (POLICY, 0o666, "failure: has mode 0666, not 0644"),
        ("[identity", 0o644, "failure: no request is served: /etc/zolder/san.toml: Expected"),
        ("a = 1\n", 0o644, "[identity.NAME] tables and nothing else"),
        ("identity = 1\n", 0o644, "[identity.NAME] tables and nothing else"),
        ('[identity."../x"]\n', 0o644, "failure: no request is served: /etc/zolder/san.toml: identity"),
        (POLICY.replace("data/volumes", "-o"), 0o644, "line 3: [identity.cinder] dataset"),
        ("", 0o644, "note: has no identity yet"),
    ],
)
def test_policy(san: CheckedSan, text: str, mode: int, said: str) -> None:
    """A policy that is unsafe or wrong is a failure, in the loader's own words; an empty one is a note."""
    san.write("/etc/zolder/san.toml", text, mode)
    assert said in told(list(check_policy(san.machine)))[0]


def rsa(bits: int) -> str:
    """Return a line's part that has a public RSA key of so many bits."""

    def part(data: bytes) -> bytes:
        return len(data).to_bytes(4) + data

    number = (1 << (bits - 1) | 1).to_bytes(bits // 8 + 1)
    return "ssh-rsa " + base64.b64encode(part(b"ssh-rsa") + part(b"\1\0\1") + part(number)).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LINE.replace("restrict,", ""), ["failure: lacks the option restrict"]),
        (LINE.replace("restrict,", "Restrict,PTY,"), ["failure: has the option pty"]),
        (LINE.replace("restrict,", 'restrict,permitopen="h:1",'), ["failure: has the option permitopen"]),
        (LINE.replace("restrict,", "cert-authority,restrict,"), ["failure: has the option cert-authority"]),
        (LINE.replace("serve", "audit"), ["failure: is forced to '/usr/local/bin/zolder-san audit", "note"]),
        (LINE.replace("cinder", "cinder; sh", 1), ["failure: is forced to", "note: has no key"]),
        (
            LINE.replace("restrict,", 'restrict,command="sh",'),
            ["failure: is forced to 'sh'", "note: has no key"],
        ),
        (f"restrict {KEY}\n", ["failure: is forced to nothing", "note: has no key"]),
        (f"{KEY}\n", ["failure: lacks", "failure: is forced to nothing", "note: has no key"]),
        (
            LINE.replace("identity cinder", "identity else"),
            ["warning: is for identity else", "note: has no key"],
        ),
        (LINE.replace("/usr/local", "/opt"), ["failure: runs /opt/bin/zolder-san, which is not there"]),
        (LINE + LINE.replace(" cinder\n", " again\n"), ["failure: is the key of line 1 again"]),
        (LINE.replace("AAAAC3", "AAAAC4"), ["warning: is no key", "note: has no key"]),
        (LINE.replace("ssh-ed25519", "ssh-rsa"), ["warning: is no key", "note: has no key"]),
        ("\0\xff garbage\n", ["warning: is no key", "note: has no key"]),
        (LINE.replace(KEY, rsa(2048)), ["warning: is an RSA key of 2048 bits"]),
        (LINE.replace(KEY, rsa(4096)), []),
        (LINE.replace("restrict,", 'restrict,from="192.0.2.9,!10.0.0.0/8",'), []),
        (LINE + LINE.replace(KEY, OTHER_KEY), []),
        ("", ["note: has no key"]),
    ],
)
def test_keys(san: CheckedSan, text: str, said: list[str]) -> None:
    """Each way in which a key reaches more than the agent, or not even that, is found."""
    san.write(KEYS, text)
    found = told(list(check_keys(san.machine)))
    assert len(found) == len(said), found
    for one, start in zip(found, said, strict=True):
        assert one.startswith(start)


def test_keys_without_a_policy(san: CheckedSan) -> None:
    """Keys are looked at where the policy is wrong, too; whose they are is then not known."""
    san.remove("/etc/zolder/san.toml")
    san.write(KEYS, f"{KEY}\n", 0o660)
    findings = check_keys(san.machine)
    assert [next(findings).level for _ in range(3)] == ["failure", "failure", "failure"]
    with pytest.raises(NotChecked, match="is not there"):
        next(findings)


def test_parsing() -> None:
    """Options in quotes keep their commas, blanks and quotes; only a command of ours is one."""
    key = parse_line(7, f'command="echo \\"a, b\\"",no-pty {KEY}')
    assert key is not None
    assert key.options == (("command", 'echo \\"a, b\\"'), ("no-pty", ""))
    assert key.commands == ['echo "a, b"']
    assert key.forced is None
    assert parse_command("zolder-san serve --identity a") == ("zolder-san", "a")
    for other in ("/x/zolder-san serve --identity A", "./zolder-san serve --identity a", "zolder-san serve"):
        assert parse_command(other) is None
    assert parse_command("zolder-san serve --identity a\n") is None


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        LINE.replace("--identity cinder", "--identity=cinder"),
        LINE.replace("command=", "Command="),
        LINE.replace('identity cinder"', 'identity cinder "'),
        LINE.replace("restrict,", "").replace(" ssh-ed25519 ", "\tssh-ed25519\t"),
        f"  {LINE.replace(' --identity', '  --identity')}",
    ],
)
def test_spellings(line: str) -> None:
    """What sshd and the agent take for an identity's line is read as that identity's."""
    key = parse_line(1, line.rstrip("\n"))
    assert key is not None
    assert key.forced == ("/usr/local/bin/zolder-san", "cinder")
    assert unclear_lines(line) == []


@pytest.mark.parametrize(
    "line",
    [
        LINE.replace("--identity", "--ident"),
        LINE.replace('cinder"', "'cinder'\""),
        LINE.replace('cinder"', 'cinder; true"'),
        LINE.replace("restrict", 'command="true"'),
        LINE.replace('cinder"', 'cinder\\\\" x"'),
        KEY,
        "junk",
    ],
)
def test_unclear(line: str) -> None:
    """A line that may let somebody in, and does not say as whom in a known form, is listed as such."""
    assert unclear_lines(f"# one\n\n{line}\n{LINE}") == [3]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "allowtcpforwarding no",
            "allowtcpforwarding local",
            ["failure: allowtcpforwarding is local, not no"],
        ),
        ("permittty no", "permittty yes", ["failure: permittty is yes, not no"]),
        ("x11forwarding no", "x11forwarding yes", ["failure: x11forwarding is yes, not no"]),
        (
            "permituserenvironment no",
            "permituserenvironment LANG",
            ["failure: permituserenvironment is LANG"],
        ),
        (
            "authorizedkeysfile /etc/zolder/authorized_keys",
            "authorizedkeysfile a b",
            ["failure: authorizedkeysf"],
        ),
        (
            "authenticationmethods publickey",
            "authenticationmethods any",
            ["failure: authenticationmethods is any"],
        ),
        ("permittunnel no\n", "", ["unknown: this sshd does not say its permittunnel"]),
        ("trustedusercakeys none", "trustedusercakeys /etc/ca", ["warning: trustedusercakeys is /etc/ca"]),
        ("authorizedkeyscommand none", "authorizedkeyscommand /a", ["warning: authorizedkeyscommand is /a"]),
        ("forcecommand none", "forcecommand sh", ["failure: ForceCommand sh stands above"]),
        ("clientaliveinterval 15", "clientaliveinterval 0", ["warning: a control node that vanishes"]),
        ("clientalivecountmax 3", "clientalivecountmax 0", ["warning: a control node that vanishes"]),
        ("maxstartups 10:30:100", "maxstartups 5:30:100", ["note: drops some logins beyond 5 at once"]),
        ("maxstartups 10:30:100", "maxstartups 2:30:7", ["warning: MaxStartups refuses all logins beyond 7"]),
        ("maxsessions 10", "maxsessions 1", ["warning: is 1: no more channels"]),
        ("maxsessions 10", "maxsessions 0", ["failure: is 0: no more channels"]),
    ],
)
def test_sshd(san: CheckedSan, old: str, new: str, said: list[str]) -> None:
    """Each setting of sshd that opens more than the agent, or closes it, is found by itself."""
    assert old in recorded("openssh-9.2/sshd-T-zolder.txt")
    san.answers |= sshd_answers("zolder", recorded("openssh-9.2/sshd-T-zolder.txt").replace(old, new))
    found = told(list(check_sshd(san.machine)))
    assert len(found) == len(said), found
    assert found[0].startswith(said[0])


def with_password(san: CheckedSan, answer: str) -> list[str]:
    """Return what is told of a SAN where the identity night logs in by password."""
    line = next(line for line in (san.root / "etc/passwd").read_text().splitlines() if "zolder" in line)
    san.write("/etc/passwd", f"{line}\n{line.replace('zolder:x', 'zolder-night:x')}\n")
    san.answers |= sshd_answers("zolder-night", answer)
    return told(list(check_sshd(san.anew())))


def test_a_password_login(san: CheckedSan) -> None:
    """A login by password is held to its one forced command, and to an identity that the policy knows."""
    right = recorded("openssh-9.2/sshd-T-zolder-night.txt")
    assert with_password(san, right)[0].startswith("warning: logs in by password for an identity that")
    night = POLICY.replace("cinder", "night").replace("volumes", "night").replace("openstack", "night")
    san.write("/etc/zolder/san.toml", POLICY + night)
    assert with_password(san, right) == [
        "note: drops some logins beyond 10 at once; the policy lets 16 channels open"
    ]
    for old, new in (
        ("--identity night", "--identity cinder"),
        ("forcecommand /usr", "forcecommand sh /usr"),
        ("authorizedkeysfile none", "authorizedkeysfile .ssh/authorized_keys"),
        ("allowtcpforwarding no", "allowtcpforwarding yes"),
        ("authenticationmethods password", "authenticationmethods any"),
        ("pubkeyauthentication no", "pubkeyauthentication yes"),
    ):
        assert with_password(san, right.replace(old, new))[0].startswith("failure: ")


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_treated_otherwise(san: CheckedSan, address: str) -> None:
    """A Match that holds for some addresses only is found, and the remedy's command names one of them."""
    said = recorded("openssh-9.2/sshd-T-zolder.txt").replace("permittty no", "permittty yes")
    san.answers[f"sshd -T -C {question('zolder', address)}"] = said
    found = next(check_sshd(san.machine))
    assert (found.level, found.message.partition(":")[0]) == ("failure", "permittty is yes, not no")
    assert f"addr={address}" in found.remedy


def test_what_install_writes_is_what_is_wanted(san: CheckedSan, tmp_path: Path) -> None:
    """A real sshd with the drop-in that `install` writes passes, for keys and for a password."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
    text = sshd_config("/usr/local/bin/zolder-san", [Identity("cinder")])
    (tmp_path / "sshd_config").write_text(f"HostKey {tmp_path}/host\n{text}")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation wants it
    line = next(line for line in (san.root / "etc/passwd").read_text().splitlines() if "zolder" in line)
    san.write("/etc/passwd", f"{line}\n{line.replace('zolder:x', 'zolder-cinder:x')}\n")
    for name in ("zolder", "zolder-cinder"):
        for address in ADDRESSES:
            words = ["-C", question(name, address)]
            argv = ["/usr/sbin/sshd", "-T", "-f", str(tmp_path / "sshd_config"), *words]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            san.answers[" ".join(["sshd", "-T", *words])] = done.stdout
    assert told(list(check_sshd(san.machine))) == []


def _close_folder(san: CheckedSan) -> None:
    san.folder("/opt/zolder", 0o700)


def _close_file(san: CheckedSan) -> None:
    san.write("/opt/zolder/bin/zolder-san", "#!/opt/zolder/bin/python\n", 0o644)


def _lose_interpreter(san: CheckedSan) -> None:
    san.remove("/opt/zolder/bin/python")


def _circle(san: CheckedSan) -> None:
    san.remove("/opt/zolder/bin/zolder-san")
    (san.root / "opt/zolder/bin/zolder-san").symlink_to("../../../usr/local/bin/zolder-san")


def _traceback(san: CheckedSan) -> None:
    san.answers[RUN_IT] = (1, "", "ModuleNotFoundError: No module named 'zolder'\n")


def _not_roots_interpreter(san: CheckedSan) -> None:
    os.chown(san.root / "opt/zolder/bin/python", 4711, 4711)


def _open_folder(san: CheckedSan) -> None:
    san.folder("/opt/zolder", 0o777)


def _open_to_a_group(san: CheckedSan) -> None:
    os.chown(san.folder("/opt/zolder/lib", 0o775), os.getuid(), 4711)


def _open_code(san: CheckedSan) -> None:
    (san.code / "module.py").chmod(0o666)


def _agents_own(san: CheckedSan) -> None:
    san.folder("/var/lib/zolder", 0o755)
    san.write("/var/lib/zolder/zolder-san", "", 0o755)
    san.remove("/opt/zolder/bin/zolder-san")
    (san.root / "opt/zolder/bin/zolder-san").symlink_to("/var/lib/zolder/zolder-san")


def _older(san: CheckedSan) -> None:
    san.answers[RUN_IT] = "zolder-san 0.0.1\n"


def _not_root(san: CheckedSan) -> None:
    san.answers[RUN_IT] = (1, "", "setpriv: setresuid failed: Operation not permitted\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_close_folder, "/opt/zolder has mode 0700"),
        (_close_file, "/opt/zolder/bin/zolder-san has mode 0644"),
        (_lose_interpreter, "its interpreter: /opt/zolder/bin/python is not there"),
        (_circle, "is a circle of links"),
        (_not_roots_interpreter, "root runs it, and /opt/zolder/bin/python belongs to uid 4711, not"),
        (_open_folder, "root runs it, and /opt/zolder can be written by others (mode 0777)"),
        (_open_to_a_group, "root runs it, and /opt/zolder/lib can be written by others (mode 0775)"),
        (_open_code, "module.py can be written by others (mode 0666)"),
        (_agents_own, "root runs it, and /var/lib/zolder lies in a folder of the agent's"),
        (_traceback, "failure: cannot be run by the agent's user: ModuleNotFoundError"),
        (_older, "warning: is zolder-san 0.0.1, and this is"),
        (_not_root, "unknown: whether the agent's user can run it is only seen as root"),
    ],
)
def test_command(san: CheckedSan, change: Callable[[CheckedSan], None], said: str) -> None:
    """A program that the agent's user cannot start, or can change, is a failure that says at which place."""
    change(san)
    (found,) = told(list(check_command(san.machine)))
    assert said in found


def test_a_command_by_its_name(san: CheckedSan) -> None:
    """A forced command without a folder is looked for where sshd's sessions look."""
    san.write(KEYS, LINE.replace("/usr/local/bin/", ""))
    (found,) = check_command(san.machine)
    assert (found.level, found.subject) == ("ok", "/usr/local/bin/zolder-san")
