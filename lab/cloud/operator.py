"""``zolder orphans`` as an operator runs it on a control node: by Cinder's Python, with its cinder.conf."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass

from lab.cloud.cinder import SOURCES
from lab.cloud.cloud import Cloud
from lab.command import build_environment
from lab.errors import LabError

SECONDS = 600


@dataclass(frozen=True)
class Orphans:
    """What it said for a person, and its findings, a line each."""

    lines: tuple[str, ...]
    found: tuple[str, ...]


def find_orphans(cloud: Cloud) -> Orphans:
    """Run it.

    :raises LabError: it could not look.
    """
    ground = cloud.ground
    member = ground.etc / f"{cloud.cinder.arrangement.members[0]}.conf"
    program = [ground.environments["cinder"].program("python"), "-m", "zolder.cli.command", "orphans"]
    words = ["--config-file", str(cloud.settings), "--config-file", str(member), "--json"]
    done = subprocess.run(
        [*program, *words], capture_output=True, text=True, check=False, timeout=SECONDS,
        env=build_environment(PYTHONPATH=str(SOURCES)),
    )  # fmt: skip
    try:
        parents = json.loads(done.stdout)["parents"]
    except ValueError as err:
        raise LabError(f"zolder orphans ended with {done.returncode}: {done.stderr or done.stdout}") from err
    lines, found = [], []
    for parent in parents:
        findings = parent.get("findings") or []
        lines.append(
            f"{parent['parent']}: {parent['volumes']} volumes, {len(findings)} findings"
            f"{', ' + parent['trouble'] if parent['trouble'] else ''}"
        )
        found += [f"{finding['kind']}: {json.dumps(finding)}" for finding in findings]
        if parent["trouble"]:
            found.append(f"{parent['parent']} could not be looked at: {parent['trouble']}")
    return Orphans((*lines, *found), tuple(found))
