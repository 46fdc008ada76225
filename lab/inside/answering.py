"""The guest's side of lab.conversation: answers each line of standard input by one of its verbs.

Runs in a guest and imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def answer_all(*functions: Callable[..., Any]) -> None:
    """Answer by functions, each under its name, until standard input ends; what they print goes to stderr."""
    verbs = {function.__name__: function for function in functions}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        details = json.loads(line)
        try:
            answer = {"value": verbs[details.pop("verb")](**details)}
        except Exception:  # noqa: BLE001 - whatever it is, the one who asked is to read it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
