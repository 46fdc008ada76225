from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from zolder import __version__

ROOT = Path(__file__).parents[2]

# -I and -S: neither the user's nor the site's packages, as on a SAN that has nothing but Python.
ALONE = [sys.executable, "-I", "-S", "-c"]
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import zolder.san
for module in pkgutil.iter_modules(zolder.san.__path__, "zolder.san."):
    importlib.import_module(module.name)
outside = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"zolder", "__main__"}
sys.exit(f"not the standard library's: {outside}" if outside else 0)
"""
RUN = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from zolder.san.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as an operator gets it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel, which is all that installing it does."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_has_the_product_alone(wheel: Path) -> None:
    """The wheel brings zolder and its licence: no lab, no tests, no bench."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"zolder", f"zolder-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "zolder/py.typed" in names


def test_wheel_needs_nothing(wheel: Path) -> None:
    """Installing the wheel brings no other package; Cinder is there only by its extra."""
    archive = zipfile.ZipFile(wheel)
    metadata = message_from_bytes(archive.read(f"zolder-{__version__}.dist-info/METADATA"))
    assert metadata["Version"] == __version__
    assert all("extra ==" in needed for needed in metadata.get_all("Requires-Dist", []))


def test_agent_imports_the_standard_library_alone(installed: Path) -> None:
    """Every module of the SAN's half can be imported where nothing but Python is installed."""
    subprocess.run([*ALONE, IMPORT_ALL, str(installed)], check=True, timeout=60)


def test_agent_runs_alone(installed: Path) -> None:
    """zolder-san starts, and says its version, where nothing but Python is installed."""
    done = subprocess.run(
        [*ALONE, RUN, str(installed), "--version"], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"zolder-san {__version__}\n"
