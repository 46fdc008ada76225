"""Writes the reference part of docs/protocol.md from the code, so that it cannot tell anything else.

`python tools/protocol.py` rewrites the part below the marker; tests/unit/test_docs.py fails while the page
and the code differ.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from zolder import errors, model, names, properties
from zolder.api import CONTENTS_METHODS, METHODS, ContentsRequests, Storage
from zolder.names import Name

PAGE: Final = Path(__file__).parent.parent / "docs/protocol.md"
MARKER: Final = "<!-- Written by tools/protocol.py from here on. -->\n"
_SCALARS: Final = {int: "integer", bool: "true or false", str: "text", type(None): "null"}


def reference() -> str:
    """Return the reference: methods, values, names and errors."""
    return "\n".join([*_methods(), *_values(), *_names(), *_errors()])


def page(text: str) -> str:
    """Return the page with its reference as it should be."""
    return text.partition(MARKER)[0] + MARKER + "\n" + reference()


def form(kind: Any) -> str:  # noqa: ANN401 - a type expression
    """Return in words what a type is on the wire."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if isinstance(kind, TypeVar):
        return "any value"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return f"list of {form(arguments[0])}"
    if isinstance(kind, types.UnionType):
        return " or ".join(form(argument) for argument in arguments)
    if origin is not None:
        return f"`{origin.__name__}` of {form(arguments[0])}"
    return kind.what if issubclass(kind, Name) else f"`{kind.__name__}`"


def _methods() -> list[str]:
    lines = ["## Methods", ""]
    for method in sorted((*METHODS, *CONTENTS_METHODS)):
        function = getattr(ContentsRequests if method in CONTENTS_METHODS else Storage, method)
        hints = get_type_hints(function)
        result = hints.pop("return")
        lines += [f"### {method}", "", _summary(function), "", "| parameter | form |", "|---|---|"]
        defaults = {name: item.default for name, item in inspect.signature(function).parameters.items()}
        for name, kind in hints.items():
            left_out = "" if defaults[name] is inspect.Parameter.empty else ", or left out"
            lines.append(f"| `{name}` | {form(kind)}{left_out} |")
        codes = [f"`{getattr(errors, name).code}`" for name in _raised(function)]
        lines += ["", f"Answers {form(result)}." + (f" Fails with {', '.join(codes)}." if codes else ""), ""]
    return lines


def _raised(function: Any) -> list[str]:  # noqa: ANN401 - a method of Storage
    """Return the errors that a method lists; one that says ``Error: as `other` `` has those of the other."""
    found: list[str] = []
    for names_, reason in re.findall(r":raises ([\w, ]+): (.*)", function.__doc__ or ""):
        other = re.match(r"as `(\w+)`", reason)
        raised = _raised(getattr(Storage, other[1])) if other else names_.split(", ")
        found += [name for name in raised if name not in found]
    return found


def _values() -> list[str]:
    lines = ["## Values", ""]
    for kind in [*_classes(model), properties.ZvolProperties]:
        lines += [f"### {kind.__name__}", "", _summary(kind), "", "| field | form |", "|---|---|"]
        hints = get_type_hints(kind)
        lines += [f"| `{field.name}` | {form(hints[field.name])} |" for field in dataclasses.fields(kind)]
        lines.append("")
    return lines


def _names() -> list[str]:
    lines = ["## Names", "", "| name | at most | form |", "|---|---|---|"]
    for kind in [*_classes(names), *_classes(properties)]:
        if issubclass(kind, Name) and kind not in {Name, properties.Choice}:
            pattern = kind.pattern.pattern.replace("|", "\\|")
            lines.append(f"| {kind.what} | {kind.max_length} | `{pattern}` |")
    return [*lines, ""]


def _errors() -> list[str]:
    lines = ["## Errors", "", "| code | meaning |", "|---|---|"]
    kinds = _classes(errors)
    bases = {base for kind in kinds for base in kind.__bases__}
    lines += [f"| `{kind.code}` | {_summary(kind)} |" for kind in kinds if kind not in bases]
    return [*lines, ""]


def _classes(module: types.ModuleType) -> list[Any]:
    return [
        kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__
    ]


def _summary(documented: object) -> str:
    """Return the first paragraph of a docstring on one line, in Markdown."""
    text = inspect.getdoc(documented) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "`").replace(" None", " null")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
