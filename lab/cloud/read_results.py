"""Turns a run's results into lines of JSON: `stestr last --subunit | python read_results.py`.

It runs in Tempest's environment, which alone can read them. A line has a test's ``id``, its ``status`` and
``reason``: why it was skipped, or how it failed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import subunit  # type: ignore[import-not-found]
import testtools  # type: ignore[import-not-found]


def write(test: dict[str, Any]) -> None:
    """Write a test's line."""
    details = {
        name: content.as_text()
        for name, content in test["details"].items()
        if content.content_type.type == "text"
    }
    reason = details.get("reason") or details.get("traceback") or ""
    print(json.dumps({"id": test["id"], "status": test["status"], "reason": reason}))


if __name__ == "__main__":
    result = testtools.StreamToDict(write)
    result.startTestRun()
    subunit.ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="stdout").run(result)
    result.stopTestRun()
