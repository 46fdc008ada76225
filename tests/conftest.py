"""What all tests share: the order (what needs machines comes last), the lab, and no silent skips."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# A machine under load is slow, not wrong; what failed is printed so that it can be run again.
settings.register_profile("zolder", deadline=None, print_blob=True)
settings.load_profile("zolder")

# What hangs ends then. Emulated machines beside others are slow, not wrong: one imports a zpool of 22 disks
# in 3 s by itself and in 30 s beside others.
LAB_SECONDS = 300

if TYPE_CHECKING:
    # Only what needs machines pays for importing the lab.
    from lab import Lab


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever uses the lab, give it longer, and put it behind all that needs no machines."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker("lab")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(LAB_SECONDS))
    items.sort(key=lambda item: item.get_closest_marker("lab") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:  # noqa: ANN401 - pytest's own
    """Count a skip as a failure: a part that could not run did not pass."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped in {call.when}, which counts as a failure: {call.excinfo}"
        )
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests noted, and how long each part took: unit, contract, driver, lab."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: Counter[str] = Counter()
    figures = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                part = _part(report)
                seconds[part] += report.duration
                if report.when == "call":
                    tests[part] += 1
                    figures += [str(text) for kind, text in report.user_properties if kind == "figure"]
    if figures:
        terminalreporter.section("figures")
    for line in figures:
        terminalreporter.write_line(line)
    if seconds:
        terminalreporter.section("parts")
    for part in seconds:
        terminalreporter.write_line(f"{part:24} {tests[part]:5} tests {seconds[part]:8.1f} s")


def _part(report: pytest.TestReport) -> str:
    folder = report.nodeid.split("/")[1]
    return f"{folder} in the lab" if "lab" in report.keywords and folder != "lab" else folder


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab, fresh from its saved state, and down at the end unless KEEP=1. What fails is an error."""
    from lab import Lab  # noqa: PLC0415 - see above: only tests with machines need it

    # Under xdist each worker has machines of its own: they are idle half of the time, waiting for each other.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    found = Lab("-".join(filter(None, (os.environ.get("ZOLDER_LAB") or "test", worker))))
    try:
        if found.is_up():
            found.reset()
        else:
            found.up()
        yield found
    finally:
        if not found.keep:
            found.down()
