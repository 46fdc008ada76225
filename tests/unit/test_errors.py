from __future__ import annotations

import re

import pytest

from zolder import errors
from zolder.errors import BackendError, Error, StateError, error_of


def classes(base: type[Error] = Error) -> list[type[Error]]:
    """Return the whole tree of errors that cross a border; a room may have kinds of its own below them."""
    children = (child for child in base.__subclasses__() if child.__module__ == errors.__name__)
    return [base, *(found for child in children for found in classes(child))]


@pytest.mark.parametrize("kind", classes())
def test_code_names_one_error(kind: type[Error]) -> None:
    """A code brings back the class that it came from, with its sentence and its details."""
    err = error_of(kind.code, "it is so", {"needed_bytes": 1, "holders": ["a", "b"]})
    assert type(err) is kind
    assert err.message == str(err) == "it is so"
    assert err.details == {"needed_bytes": 1, "holders": ["a", "b"]}


def test_codes_differ() -> None:
    """No two errors share a code, and each is a word of lower case."""
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_docstring_shows_the_whole_tree() -> None:
    """The tree in the module's docstring names every error that there is."""
    shown = set(re.findall(r"\b[A-Z][a-z]+[A-Za-z]+\b", errors.__doc__ or ""))
    assert {kind.__name__ for kind in classes()} - {"Error"} <= shown


def test_unknown_code() -> None:
    """A code from a newer agent becomes a BackendError, which nobody takes for absence."""
    err = error_of("not_yet_invented", "something new", {})
    assert type(err) is BackendError
    assert not isinstance(err, StateError)


def test_details_of_any_name() -> None:
    """A detail may have any name, such as that of a parameter of the error itself."""
    err = error_of("busy", "held", {"message": "m", "self": "s", "holders": []})
    assert err.message == "held"
    assert err.details["message"] == "m"
