"""What the real SAN's log says of requests, and what nobody can make it say."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.ground import INITIATOR, MIB, PARENT, ROUTE
from tests.support.san import connected, ssh_target
from zolder.errors import NotPermitted
from zolder.model import Chap
from zolder.names import DatasetName, VolumeId, ZvolName

if TYPE_CHECKING:
    from lab import Lab

ZVOL = ZvolName("volume-audited")


@pytest.fixture(scope="module", autouse=True)
def asked(lab: Lab) -> None:
    """A pristine SAN that was asked a few things."""
    lab.reset()
    with connected(lab) as san:
        for _ in range(2):
            san.create_zvol(
                PARENT,
                ZVOL,
                volume_id=VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, ZVOL))),
                volsize_bytes=16 * MIB,
                sparse=True,
            )
        chap = Chap("user", "a-lab-secret-123")
        san.export_zvol(PARENT, ZVOL, INITIATOR, route=ROUTE, attachment=None, chap=chap)
        san.delete_zvol(PARENT, ZVOL)
        with contextlib.suppress(NotPermitted):
            san.get_figures(DatasetName("data/other"))


def audit(lab: Lab, *options: str) -> list[dict[str, Any]]:
    """Return what `zolder-san audit` shows."""
    shown = lab.san.succeed(["zolder-san", "audit", "--json", *options])
    return [json.loads(line) for line in shown.splitlines()]


def test_who_did_what(lab: Lab) -> None:
    """Each request is there once, in order, with identity, peer, object, outcome and time; no secret is."""
    entries = audit(lab, "--since=-1h")
    assert [(entry["method"], entry["outcome"]) for entry in entries if entry["method"] != "hello"] == [
        ("get_figures", "answered"),
        ("create_zvol", "changed"),
        ("create_zvol", "unchanged"),
        ("export_zvol", "changed"),
        ("delete_zvol", "changed"),
        ("get_figures", "not_permitted"),
    ]
    assert {(entry["identity"], entry["peer"]) for entry in entries} == {("lab", "10.0.2.2")}
    assert all(entry["ms"] >= 0 and entry["time"] for entry in entries)
    assert "a-lab-secret" not in lab.san.succeed("journalctl --no-pager -o json -t zolder-san")


def test_filters(lab: Lab) -> None:
    """By outcome, method and a part of a name; and lines for people say the same."""
    assert [entry["method"] for entry in audit(lab, "--outcome=not_permitted")] == ["get_figures"]
    assert len(audit(lab, "--object=audited")) == 4
    assert audit(lab, "--identity=other") == []
    [line] = lab.san.succeed("zolder-san audit --method=delete_zvol").splitlines()
    assert "lab  10.0.2.2  delete_zvol  changed" in line
    assert f'parent="{PARENT}" zvol="{ZVOL}"' in line


def test_nobody_else_writes_lines(lab: Lab) -> None:
    """What a local user logs under our name is not shown, though it looks alike."""
    before = audit(lab)
    forged = json.dumps({**before[-1], "identity": "forged"})
    lab.san.succeed(f"runuser -u nobody -- logger -t zolder-san -p authpriv.info '{forged}'")
    lab.san.wait_until("journalctl -t zolder-san | grep -q forged", 20, "the forged line to be logged")
    assert audit(lab) == before


def test_hostile_text_stays_in_its_field(lab: Lab) -> None:
    """A name with a newline and a whole line of its own behind it is one refused name, quoted."""
    hostile = 'x\n{"identity": "admin", "method": "delete_zvol", "object": {}, "outcome": "changed"}'
    frames: list[dict[str, Any]] = [
        {"method": "hello", "params": {"protocols": [1], "version": "0"}},
        {"method": "delete_zvol", "params": {"parent": ["no name"], "zvol": hostile}},
    ]
    lines = [
        json.dumps({"id": number, "operation": str(uuid.uuid4()), "deadline_ms": 5000, **frame})
        for number, frame in enumerate(frames, start=1)
    ]
    argv, text = ssh_target(lab).argv, "\n".join([*lines, ""])
    subprocess.run(argv, input=text, text=True, check=True, capture_output=True, timeout=60)
    entries = audit(lab)
    assert {entry["identity"] for entry in entries} == {"lab"}
    assert entries[-1]["outcome"] == "invalid_request"
    assert entries[-1]["object"] == {"parent": "a list", "zvol": hostile}
