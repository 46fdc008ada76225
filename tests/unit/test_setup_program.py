from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.setup_machine import Machine
from zolder.san.setup.host import Host
from zolder.san.setup.program import require_roots_program, running_code

Capture = pytest.CaptureFixture[str]
PYTHON = "opt/zolder/bin/python"
CODE = "opt/zolder/lib/zolder"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which zolder-san lies as docs/quickstart.md puts it."""
    made = Machine(tmp_path / "root", code=(f"/{PYTHON}", f"/{CODE}"))
    for name, text in (
        ("usr/bin/python3.11", ""),
        ("opt/zolder/bin/zolder-san", f"#!/{PYTHON}\n"),
        (f"{CODE}/cli.py", ""),
    ):
        path = made.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (made.root / PYTHON).symlink_to("/usr/bin/python3.11")
    (made.root / "usr/local/bin").mkdir(parents=True)
    (made.root / "usr/local/bin/zolder-san").symlink_to("../../../opt/zolder/bin/zolder-san")
    return made


def test_roots_alone(machine: Machine) -> None:
    """A program whose every part and folder is root's is taken."""
    assert machine.zolder_san("install") == 0


def give_away(name: str) -> Callable[[Path], None]:
    """Return what gives a file or link to somebody else."""
    return lambda root: os.chown(root / name, 1000, 0, follow_symlinks=False)


def let_write(name: str, mode: int, group: int = 0) -> Callable[[Path], None]:
    """Return what lets others write."""

    def change(root: Path) -> None:
        os.chown(root / name, 0, group)
        (root / name).chmod(mode)

    return change


def into_state(root: Path) -> None:
    """Put the code where the agent may write, though root owns it."""
    (root / "var/lib/zolder").mkdir()
    (root / CODE).rename(root / "var/lib/zolder/code")
    (root / CODE).symlink_to("/var/lib/zolder/code")


def by_env(root: Path) -> None:
    """Have env(1) look for an interpreter, and find somebody else's."""
    (root / "opt/zolder/bin/zolder-san").write_text("#!/usr/bin/env -S python3 -I\n")
    (root / "usr/bin/env").touch()
    (root / "usr/local/bin/python3").touch()
    os.chown(root / "usr/local/bin/python3", 1000, 1000)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (give_away("opt/zolder/bin/zolder-san"), "/opt/zolder/bin/zolder-san belongs to uid 1000, not 0"),
        (give_away("usr/local/bin/zolder-san"), "/usr/local/bin/zolder-san belongs to uid 1000, not 0"),
        (give_away("usr/bin/python3.11"), "/usr/bin/python3.11 belongs to uid 1000, not 0"),
        (give_away("opt"), "/opt belongs to uid 1000, not 0"),
        (give_away(f"{CODE}/cli.py"), "cli.py belongs to uid 1000, not 0"),
        (let_write(CODE, 0o757), f"/{CODE} can be written by others (mode 0757)"),
        (let_write("usr/local", 0o2775, 50), "/usr/local can be written by others (mode 2775)"),
        (let_write("opt", 0o1777), "/opt can be written by others (mode 1777)"),
        (into_state, "/var/lib/zolder lies in a folder of the agent's"),
        (by_env, "/usr/local/bin/python3 belongs to uid 1000, not 0"),
        (lambda root: (root / "usr/local/bin/zolder-san").unlink(), "/usr/local/bin/zolder-san is not there"),
    ],
)
def test_refused(machine: Machine, capsys: Capture, spoil: Callable[[Path], None], says: str) -> None:
    """What somebody else could change is named, and nothing is set up."""
    spoil(machine.root)
    before = machine.snapshot()
    for arguments in (["install"], ["authorize", "cinder", "--password", "--parent", "data/volumes"]):
        assert machine.zolder_san(*arguments) == 1
        said = capsys.readouterr().err
        assert says in said
        assert "install zolder-san as root" in said
    assert machine.snapshot() == before


def test_the_group_of_root_s(machine: Machine) -> None:
    """What the group root may write, nobody but root may."""
    let_write("usr/local", 0o2775)(machine.root)
    assert machine.zolder_san("install") == 0


def test_what_runs_here() -> None:
    """What runs here is the interpreter and the folder of this package; a program of the system's will do."""
    interpreter, package = running_code()
    assert Path(interpreter).exists()
    assert (Path(package) / "san/cli.py").exists()
    require_roots_program(Host(executable="/bin/sh", code=("/bin/sh",)))
