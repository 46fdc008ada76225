from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FUZZ_SECONDS") or "60"


@pytest.mark.slow
@pytest.mark.timeout(int(SECONDS) + 120)
def test_fuzz() -> None:
    """A minute of fuzzing finds nothing, and every target was run."""
    done = subprocess.run(
        [sys.executable, "tools/fuzz.py"],
        cwd=ROOT,
        env=os.environ | {"FUZZ_SECONDS": SECONDS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    executions = dict(re.findall(r"^(\w+) +(\d+) executions", done.stdout, re.MULTILINE))
    assert executions.keys() == TARGETS.keys(), done.stdout
    assert all(int(number) > 0 for number in executions.values()), done.stdout
    assert re.search(r"^\d+ executions, 0 crashes\n\Z", done.stdout, re.MULTILINE), done.stdout
