from __future__ import annotations

from pathlib import Path

import pytest

from lab.keys import IDENTITIES
from lab.policy import CONFIGURATION, parents
from lab.sanfiles import add_user, san_files, san_links
from tests.unit.setup_machine import Machine, make_key

# Where the drop-ins of the lab's own lie.
LABS_OWN = "zolder-lab"


def test_install_finds_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`install` in the lab's image finds its user, files and units as it would make them, and enabled."""
    machine = Machine(tmp_path / "root")
    (machine.root / "etc/gshadow").write_text("root:*::\n")
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in IDENTITIES.values():
        make_key(keys, name)
    add_user(machine.root)
    files = san_files(keys) | dict.fromkeys(san_links(), "")
    for name, text in san_files(keys).items():
        path = machine.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    for name, target in san_links().items():
        path = machine.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        assert target.removeprefix("/") in files
    machine.active.add("zolder-helper.socket")
    policy = machine.root / "etc/zolder/san.toml"
    policy.write_text(CONFIGURATION)
    policy.chmod(0o644)
    machine.datasets |= dict.fromkeys(parents(), "filesystem")
    assert machine.zolder_san("install", "--dry-run") == 0
    said = capsys.readouterr().out
    unexpected = [name for name in files if LABS_OWN not in name and f"/{name}" in said]
    assert unexpected == []
    assert "useradd" not in said
    assert "systemctl enable" not in said
