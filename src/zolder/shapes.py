"""Between typed values and JSON, by the declared type alone: one validator for input and output.

A converter is built once per type and then called. Decoding is strict: no missing or unknown field, no
bool for an int, no integer beyond 64 bits, no surrogate or control character in free text. Pure, no I/O.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from zolder.errors import InvalidRequest
from zolder.names import Name

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
Decoder: TypeAlias = Callable[[Json], Any]

MAX_INTEGER = 2**63 - 1
MAX_TEXT = 4096


def encode(value: Any) -> Json:  # noqa: ANN401 - any value of the model is meant
    """Return the JSON form of a value of zolder.model, a checked name or a scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    message = f"a {type(value).__name__} has no form on the wire"
    raise TypeError(message)


def decode(kind: Any, value: Json) -> Any:  # noqa: ANN401 - a type expression, and a value of it
    """Check ``value`` against a type expression and return it in that type.

    :raises InvalidRequest: the value is not of that type.
    """
    return decoder(kind)(value)


@functools.cache
def decoder(kind: Any) -> Decoder:  # noqa: ANN401 - a type expression
    """Build the converter for a type expression."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if isinstance(kind, type) and issubclass(kind, Name):
        return lambda value: kind(_text(value))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and arguments[1:] == (...,):
        return _sequence(decoder(arguments[0]))
    if origin in {Union, types.UnionType} and type(None) in arguments:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _optional(decoder(inner))
    if dataclasses.is_dataclass(origin or kind):
        return _record(origin or kind, arguments)
    message = f"{kind!r} has no form on the wire"
    raise TypeError(message)


def parameters(function: Callable[..., Any]) -> Callable[[Json], dict[str, Any]]:
    """Build the converter from a JSON object to the keyword arguments that a method declares.

    One with a default may be left out, so a client from before it was added goes on working.
    """
    hints = get_type_hints(function)
    declared = {name: item for name, item in inspect.signature(function).parameters.items() if name != "self"}
    required = {name for name, item in declared.items() if item.default is inspect.Parameter.empty}
    return _fields(function.__name__, {name: decoder(hints[name]) for name in declared}, required)


@functools.cache
def result(function: Callable[..., Any]) -> Decoder:
    """Build the converter for what a method declares to return."""
    return decoder(get_type_hints(function)["return"])


def _integer(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"an integer is needed, not {type(value).__name__}"
        raise InvalidRequest(message)
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        message = "an integer beyond 64 bits"
        raise InvalidRequest(message)
    return value


def _boolean(value: Json) -> bool:
    if not isinstance(value, bool):
        message = f"true or false is needed, not {type(value).__name__}"
        raise InvalidRequest(message)
    return value


def _text(value: Json) -> str:
    if not isinstance(value, str):
        message = f"a string is needed, not {type(value).__name__}"
        raise InvalidRequest(message)
    if len(value) > MAX_TEXT or not value.isprintable():
        message = f"text must be printable and at most {MAX_TEXT} characters long"
        raise InvalidRequest(message)
    return value


def _null(value: Json) -> None:
    if value is not None:
        message = f"null is needed, not {type(value).__name__}"
        raise InvalidRequest(message)


_SCALARS: dict[Any, Decoder] = {int: _integer, bool: _boolean, str: _text, type(None): _null, None: _null}


def _optional(inner: Decoder) -> Decoder:
    return lambda value: None if value is None else inner(value)


def _sequence(inner: Decoder) -> Decoder:
    def convert(value: Json) -> tuple[Any, ...]:
        if not isinstance(value, list):
            message = f"a list is needed, not {type(value).__name__}"
            raise InvalidRequest(message)
        return tuple(inner(item) for item in value)

    return convert


def _record(kind: Any, arguments: tuple[Any, ...]) -> Decoder:  # noqa: ANN401 - a dataclass type
    hints = get_type_hints(kind)
    bound = dict(zip(getattr(kind, "__parameters__", ()), arguments, strict=True))
    inner = {name: decoder(_bind(hint, bound)) for name, hint in hints.items()}
    required = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    convert_fields = _fields(kind.__name__, inner, required)
    return lambda value: kind(**convert_fields(value))


def _bind(hint: Any, bound: Mapping[Any, Any]) -> Any:  # noqa: ANN401 - a type expression
    return bound[hint] if isinstance(hint, TypeVar) else hint


def _fields(what: str, inner: Mapping[str, Decoder], required: set[str]) -> Callable[[Json], dict[str, Any]]:
    def convert(value: Json) -> dict[str, Any]:
        if not isinstance(value, dict):
            message = f"{what}: an object is needed, not {type(value).__name__}"
            raise InvalidRequest(message)
        unknown, missing = value.keys() - inner.keys(), required - value.keys()
        if unknown or missing:
            names = ", ".join(sorted(name[:40] for name in unknown | missing))
            message = f"{what}: {'unknown' if unknown else 'missing'} field: {names!a}"
            raise InvalidRequest(message)
        return {name: _field(what, name, inner[name], item) for name, item in value.items()}

    return convert


def _field(what: str, name: str, inner: Decoder, item: Json) -> Any:  # noqa: ANN401 - of any declared type
    try:
        return inner(item)
    except InvalidRequest as err:
        message = f"{what}.{name}: {err.message}"
        raise InvalidRequest(message) from err
