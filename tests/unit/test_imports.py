from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = sorted(
    str(path.relative_to(SOURCE).with_suffix("")).replace("/", ".") for path in SOURCE.rglob("*.py")
)

# Each part of zolder, and the parts that it may import from: docs/design.md, "The three rooms".
SHARED = ("errors", "names", "properties", "model", "shapes", "wish", "frames", "api", "wire")
MAY_IMPORT = {part: set(SHARED[:place]) for place, part in enumerate(SHARED)} | {
    "fake_exports": set(SHARED),
    "fake_state": {*SHARED, "fake_exports"},
    "fake_exporting": {*SHARED, "fake_state"},
    "fake_contents": {*SHARED, "fake_state"},
    "fake_copies": {*SHARED, "fake_state"},
    "fake_groups": {*SHARED, "fake_state", "fake_exporting"},
    "fake_adoption": {*SHARED, "fake_state", "fake_groups"},
    "fake_moving": {*SHARED, "fake_state", "fake_adoption"},
    "fake": {*SHARED, "fake_state", "fake_contents", "fake_copies", "fake_moving"},
    "san": {*SHARED, "san"},
    "client": {*SHARED, "client"},
    "cinder": {*SHARED, "client", "cinder"},
    # The control node's commands: they look at Cinder and ask the SAN through the driver's own parts.
    "cli": {*SHARED, "client", "cinder", "cli"},
}
OPENSTACK = {
    "castellan",
    "cinder",
    "os_brick",
    "oslo_concurrency",
    "oslo_config",
    "oslo_db",
    "oslo_log",
    "oslo_utils",
}


def imports(source: str) -> set[str]:
    """Return the whole names of all that a module imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {f"zolder.{alias.name}" for alias in node.names} if base == "zolder" else {base}
    return found


def part_of(module: str) -> str:
    """Return the part of zolder that a module belongs to; empty for zolder itself."""
    return module.removeprefix("zolder").removeprefix(".").partition(".")[0]


def faults(module: str, source: str) -> list[str]:
    """Return the imports of a module that point the wrong way."""
    part = part_of(module)
    allowed = MAY_IMPORT.get(part, set())
    outside = set(sys.stdlib_module_names) | (OPENSTACK if part in {"cinder", "cli"} else set())
    wrong = []
    for name in sorted(imports(source)):
        top = name.partition(".")[0]
        # zolder itself holds the version alone.
        inside = top == "zolder" and (name == "zolder.__version__" or part_of(name) in allowed)
        if not inside and top not in outside:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_direction(module: str) -> None:
    """A module imports only from the parts below its own, and only its part's outside world."""
    path = SOURCE / (module.replace(".", "/") + ".py")
    assert faults(module.removesuffix(".__init__"), path.read_text()) == []


def test_every_part_is_known() -> None:
    """Every part of zolder has its place in the order, so a new one has to be given one."""
    assert {part_of(module) for module in MODULES} - {"__init__"} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("zolder.errors", "from zolder.names import Name", "zolder.names"),
        ("zolder.names", "import zolder.api", "zolder.api"),
        ("zolder.wire", "from zolder import fake", "zolder.fake"),
        ("zolder.api", "import cinder", "cinder"),
        ("zolder.fake", "from zolder.san.storage import SanStorage", "zolder.san.storage"),
        ("zolder.san.lio", "from zolder.client.pool import Pool", "zolder.client.pool"),
        ("zolder.san.lio", "import rtslib_fb", "rtslib_fb"),
        ("zolder.san.zfs", "def late():\n    from oslo_config import cfg", "oslo_config"),
        ("zolder.client.pool", "import zolder.san.serve as serve", "zolder.san.serve"),
        ("zolder.client.pool", "import paramiko", "paramiko"),
        ("zolder.cinder.driver", "from zolder.san.cli import main", "zolder.san.cli"),
        ("zolder.cinder.driver", "from zolder.fake import FakeStorage", "zolder.fake"),
        ("zolder.cinder.driver", "import lab", "lab"),
        ("zolder.cinder.driver", "from tests.unit import strategies", "tests.unit"),
        ("zolder.cli.orphans", "from zolder.san.storage import ZfsStorage", "zolder.san.storage"),
        ("zolder.cinder.driver", "from zolder.cli.orphans import find", "zolder.cli.orphans"),
        ("zolder.api", "from zolder.fake import FakeStorage", "zolder.fake"),
        ("zolder.wish", "from zolder.api import Storage", "zolder.api"),
        ("zolder.client.pool", "from . import remote", "."),
        ("zolder", "from zolder import wire", "zolder.wire"),
    ],
)
def test_wrong_import_is_found(module: str, source: str, fault: str) -> None:
    """An import against the order is found, wherever it stands and however it is written."""
    assert faults(module, source) == [fault]
