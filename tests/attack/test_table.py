"""The table itself, and whether what is done with it can fail: no machines are needed."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.attack import table_helper
from tests.attack.ground import RECORDS
from tests.attack.line import Access, Line, word_of
from tests.attack.model import (
    HELLO,
    PROOF,
    PROOF_COMMAND,
    SECRET,
    Attack,
    Forward,
    Frames,
    Helper,
    Login,
    Outcome,
    Session,
    frame,
    verdict,
)
from tests.attack.runner import Runner
from tests.attack.table import ATTACKS
from tests.attack.table_requests import RIGHT, RIGHT_CONTENTS
from tests.support import agent
from tests.support.sshd import running_sshd
from zolder.api import CONTENTS_METHODS, METHODS
from zolder.san.privileged import VERBS

if TYPE_CHECKING:
    from zolder.client.ssh import SshTarget


class NoGuest:
    """No SAN to look into."""

    def ask(self, verb: str, **details: object) -> Any:  # noqa: ANN401 - as the real one
        """Know of no agent's environment."""
        assert (verb, details) == ("environments", {})
        return []


def access_to(target: SshTarget) -> Access:
    """Return the attackers' way to a test's own sshd."""
    return Access(target.port, target.login, target.known_hosts[0], {"agent": str(target.private_key)})


def attack(sent: Any, *seen: str) -> Attack:  # noqa: ANN401 - any kind
    """Return an attack of no table."""
    return Attack("test", "test", sent, frozenset(seen))


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    """At least 120 attacks, no name twice, each readable as a sentence without spaces."""
    names = Counter(attack.name for attack in ATTACKS)
    assert len(names) >= 120
    assert names.most_common(1)[0][1] == 1
    assert [name for name in names if not re.fullmatch(r"[A-Za-z0-9_-]{8,90}", name)] == []


def test_no_attack_is_content_with_success() -> None:
    """None counts as held off what got in, ran, or changed something."""
    success = {"let in", "stayed", "bytes", "succeeded", "changed", "silent", "no frame", "fell"}
    assert [attack.name for attack in ATTACKS if not attack.seen or attack.seen & success] == []


def test_every_method_is_attacked() -> None:
    """Each request that there is has right parameters in the table, to be made wrong in one place."""
    assert set(METHODS) == RIGHT.keys()
    assert set(CONTENTS_METHODS) == RIGHT_CONTENTS.keys()


def test_every_record_is_tried() -> None:
    """Each record that a taken agent may have written meets root's own check, by each of root's verbs."""
    sent = [attack.sent for attack in table_helper.ATTACKS]
    asked = [json.loads(line) for helper in sent if isinstance(helper, Helper) for line in helper.then]
    opened = {frame["params"]["zvol"] for frame in asked if frame["method"] == "open_export"}
    assert opened >= RECORDS.keys()
    assert {frame["method"] for frame in asked} >= set(VERBS)
    assert all(len(text) < 8192 for text in RECORDS.values())


def test_every_group_is_there() -> None:
    """Each way in, each kind of name and each local user's way is among them."""
    groups = {attack.group for attack in ATTACKS}
    assert groups == {
        "session", "transfer", "environment", "terminal", "forwarding", "login", "parent", "name", "number",
        "method", "parameter", "foreign", "limit", "replay", "bytes", "half", "greeting", "file", "kernel",
        "zfs", "set-up", "helper", "flood",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome("changed"), "seen was 'changed'"),
        (Outcome("refused", SECRET.encode()), f"{SECRET} came back"),
        (Outcome("refused", PROOF.encode()), f"{PROOF} came back"),
        (Outcome("refused", b"not found"), "nothing in the output"),
        (Outcome("refused", b"denied", ["+ file /tmp/x"]), r"\+ file /tmp/x"),
    ],
)
def test_a_verdict_can_be_bad(outcome: Outcome, fault: str) -> None:
    """A wrong word, a secret, a program's proof, a missing refusal and a new file each count."""
    refused = Attack("x", "x", Login(), frozenset({"refused"}), says="denied")
    assert any(re.search(fault, found) for found in verdict(refused, outcome))
    assert verdict(refused, Outcome("refused", b"Permission denied")) == []


def test_no_echo_of_a_command_is_its_proof() -> None:
    """An agent that repeats what it was asked is not taken for a shell that ran it."""
    assert PROOF not in PROOF_COMMAND
    assert verdict(attack(Login(), "refused"), Outcome("refused", PROOF_COMMAND.encode())) == []


@pytest.mark.parametrize(
    ("received", "word"),
    [
        (b"", "closed"),
        (b"Welcome to Debian\n", "no frame"),
        (b'{"id":1,"notice":"x"}\n', "notice"),
        (b'{"id":0,"error":{"code":"remote_protocol","message":"x","details":{}}}\n', "remote_protocol"),
        (b'{"id":1,"value":{"changed":true,"value":null}}\n', "changed"),
        (b'{"id":1,"value":{"identity":"lab"}}\n', "identity:lab"),
        (b'{"id":1,"value":[]}\n', "answered"),
    ],
)
def test_words(received: bytes, word: str) -> None:
    """Each reply has its word."""
    assert word_of(received) == word


def test_a_hole_in_sshd_is_seen(tmp_path: Path) -> None:
    """Where a key is not held to the agent, its shell, its forwarding and its login count as let through."""
    with running_sshd(tmp_path, command=["true"], working_folder=Path("/")) as target:
        (tmp_path / "authorized_keys").write_text((tmp_path / "user_key.pub").read_text())
        runner = Runner(access_to(target), NoGuest(), list)
        shell = runner.run(attack(Session((PROOF_COMMAND,)), "identity:lab"))
        assert PROOF.encode() in shell.output
        assert shell.word == "no frame"
        forward = Forward(("-L", f"{{port}}:127.0.0.1:{target.port}"))
        assert runner.run(attack(forward)).word == "bytes"
        proxy = Forward(("-D", "{port}"), b"\5\1\0\5\1\0\1\x7f\0\0\1" + target.port.to_bytes(2, "big"))
        assert runner.run(attack(proxy)).word == "bytes"
        assert runner.run(attack(Login(("-W", f"127.0.0.1:{target.port}")))).word == "let in"
        assert runner.run(attack(Login())).word == "let in"


def test_a_restricted_key_is_held_off(tmp_path: Path) -> None:
    """With restrict and a forced command the same attacks lead nowhere, and the agent answers."""
    command = ["python3", "-S", "-E", agent.__file__, "none"]
    with running_sshd(tmp_path, command=command, working_folder=Path("/")) as target:
        runner = Runner(access_to(target), NoGuest(), list)
        try:
            session = runner.run(attack(Session((PROOF_COMMAND,), watched=True), "identity:test"))
            assert verdict(attack(Session(), "identity:test"), session) == []
            forward = Forward(("-L", f"{{port}}:127.0.0.1:{target.port}"))
            assert runner.run(attack(forward)).word == "nothing"
            remote = Login(("-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:22"))
            assert runner.run(attack(remote)).word == "refused"
            screen = Session(options=("-X",), variables=(("DISPLAY", ":77"),))
            assert b"X11 forwarding request failed" in runner.run(attack(screen)).output
            terminal = Session(options=("-tt",))
            assert b"PTY allocation request failed" in runner.run(attack(terminal)).output
            assert runner.run(attack(Login(("-o", "PubkeyAuthentication=no")))).word == "refused"
            assert runner.run(attack(Frames((frame("x", {}),)), "answered")).word == "answered"
            assert runner.open_lines == 1
        finally:
            runner.close()


def test_a_line_says_when_it_is_silent_and_when_it_ended() -> None:
    """Silence and an end are told apart, and half a line at the end is not lost."""
    with Line(["cat"]) as line:
        line.send(HELLO[:10])
        assert line.read_line(0.2) is None
        line.end_input()
        assert line.read_line(5) == HELLO[:10]
        assert line.read_line(5) == b""
        assert line.exit_status(5) == 0
