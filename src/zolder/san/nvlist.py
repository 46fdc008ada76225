"""Name-value lists, the form in which libzfs_core takes and returns structured data.

Between Python dictionaries and libnvpair's ``nvlist_t`` through ctypes: str, int (uint64), bool, list of
str and nested dict. A list lives as long as the ``with`` block that made it. Source: libnvpair(3), nvpair.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

Value: TypeAlias = "str | int | bool | Sequence[str] | Mapping[str, Value]"
Pairs: TypeAlias = Mapping[str, Value]

_UNIQUE_NAME: Final = 1
# data_type_t in sys/nvpair.h; only what libzfs_core was seen to return.
_BOOLEAN, _INT32, _INT64, _UINT64, _STRING, _NVLIST, _BOOLEAN_VALUE = 1, 5, 7, 8, 9, 19, 21


class Nvpair:
    """The functions of libnvpair that Zolder needs.

    :raises OSError: the library is not installed.
    """

    def __init__(self) -> None:
        """Load the library."""
        self._lib = ctypes.CDLL("libnvpair.so.3", use_errno=True)
        self._lib.nvlist_next_nvpair.restype = ctypes.c_void_p
        self._lib.nvlist_next_nvpair.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._lib.nvpair_name.restype = ctypes.c_char_p
        self._lib.nvpair_name.argtypes = [ctypes.c_void_p]
        self._lib.nvpair_type.argtypes = [ctypes.c_void_p]
        self._lib.nvlist_free.argtypes = [ctypes.c_void_p]
        self._lib.nvlist_free.restype = None
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self._lib.nvlist_add_string.argtypes = [pointer, text, text]
        self._lib.nvlist_add_uint64.argtypes = [pointer, text, ctypes.c_uint64]
        self._lib.nvlist_add_boolean_value.argtypes = [pointer, text, ctypes.c_int]
        self._lib.nvlist_add_nvlist.argtypes = [pointer, text, pointer]
        for name in ("nvlist", "uint64", "string"):
            function = getattr(self._lib, f"nvlist_lookup_{name}")
            function.argtypes = [pointer, text, pointer]
        self._lib.nvlist_add_string_array.argtypes = [pointer, text, ctypes.POINTER(text), ctypes.c_uint]

    @contextmanager
    def packed(self, pairs: Pairs) -> Iterator[ctypes.c_void_p]:
        """Build an nvlist of ``pairs`` for the block's duration."""
        with self.returned() as made:
            self._check(self._lib.nvlist_alloc(ctypes.byref(made), _UNIQUE_NAME, 0))
            for name, value in pairs.items():
                self._add(made, name.encode(), value)
            yield made

    @contextmanager
    def returned(self) -> Iterator[ctypes.c_void_p]:
        """Offer a place for an nvlist that the library returns, and free what it put there."""
        place = ctypes.c_void_p()
        try:
            yield place
        finally:
            self._lib.nvlist_free(place)

    def unpack(self, packed: ctypes.c_void_p) -> dict[str, Value]:
        """Return the pairs of an nvlist; a null pointer is an empty one."""
        pairs: dict[str, Value] = {}
        pair = self._lib.nvlist_next_nvpair(packed, None) if packed else None
        while pair:
            pairs[self._lib.nvpair_name(pair).decode("utf-8", "replace")] = self._value(pair)
            pair = self._lib.nvlist_next_nvpair(packed, pair)
        return pairs

    def look_up_property(self, table: int | None, name: str) -> tuple[int | str | None, str | None]:
        """Return a property's value and source in a table of libzfs's; None where it is not set.

        :param table: a pointer to an nvlist of nvlists, each with ``value`` and perhaps ``source``.
        """
        inner = ctypes.c_void_p()
        if not table or self._lib.nvlist_lookup_nvlist(table, name.encode(), ctypes.byref(inner)):
            return None, None
        return self._look_up(inner, b"value"), self._text(inner, b"source")

    def _look_up(self, table: ctypes.c_void_p, name: bytes) -> int | str | None:
        number = ctypes.c_uint64()
        if self._lib.nvlist_lookup_uint64(table, name, ctypes.byref(number)):
            return self._text(table, name)
        return number.value

    def _text(self, table: ctypes.c_void_p, name: bytes) -> str | None:
        text = ctypes.c_char_p()
        if self._lib.nvlist_lookup_string(table, name, ctypes.byref(text)):
            return None
        return (text.value or b"").decode("utf-8", "replace")

    def _add(self, made: ctypes.c_void_p, name: bytes, value: Value) -> None:
        if isinstance(value, bool):
            self._check(self._lib.nvlist_add_boolean_value(made, name, value))
        elif isinstance(value, int):
            self._check(self._lib.nvlist_add_uint64(made, name, value))
        elif isinstance(value, str):
            self._check(self._lib.nvlist_add_string(made, name, value.encode()))
        elif isinstance(value, Mapping):
            with self.packed(value) as inner:
                self._check(self._lib.nvlist_add_nvlist(made, name, inner))
        else:
            texts = (ctypes.c_char_p * len(value))(*(item.encode() for item in value))
            self._check(self._lib.nvlist_add_string_array(made, name, texts, len(value)))

    def _value(self, pair: int) -> Value:
        kind = self._lib.nvpair_type(ctypes.c_void_p(pair))
        if kind == _BOOLEAN:
            return True
        if kind == _STRING:
            text = ctypes.c_char_p()
            self._check(self._lib.nvpair_value_string(ctypes.c_void_p(pair), ctypes.byref(text)))
            return (text.value or b"").decode("utf-8", "replace")
        if kind == _NVLIST:
            inner = ctypes.c_void_p()
            self._check(self._lib.nvpair_value_nvlist(ctypes.c_void_p(pair), ctypes.byref(inner)))
            return self.unpack(inner)
        readers = {
            _UINT64: (ctypes.c_uint64, "nvpair_value_uint64"),
            _INT64: (ctypes.c_int64, "nvpair_value_int64"),
            _INT32: (ctypes.c_int32, "nvpair_value_int32"),
            _BOOLEAN_VALUE: (ctypes.c_int, "nvpair_value_boolean_value"),
        }
        if kind not in readers:
            message = f"an nvpair of type {kind} is not expected here"
            raise ValueError(message)
        holder_type, reader = readers[kind]
        holder = holder_type()
        self._check(getattr(self._lib, reader)(ctypes.c_void_p(pair), ctypes.byref(holder)))
        return bool(holder.value) if kind == _BOOLEAN_VALUE else holder.value

    @staticmethod
    def _check(error: int) -> None:
        if error:
            raise OSError(error, "libnvpair")
