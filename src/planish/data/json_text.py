"""One JSON object from the bytes of a line, or the fault that keeps it from being one.

What no row may hold is refused here: NaN and infinity, integers of more digits than Python reads, half surrogate pairs, nesting deeper than any row needs, and
an object that has a key twice (most readers keep the last and say nothing). A quick scanner reads what is sound; what it cannot vouch for is read again by the
standard decoder, whose verdict counts.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from pydantic_core import from_json

from planish.data.fault import Fault
from planish.rows import RejectCode

MAX_DEPTH = 64
"""Deeper JSON is refused: no row needs it, and it would exhaust the stack of whatever reads it next."""

_NOT_FINITE = -(10**9)


def decode(data: bytes) -> dict[str, Any] | Fault:
    """The object that `data` holds, or its fault. `data` is one line of a file, or one element of an array."""
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        try:
            value = from_json(data, allow_inf_nan=False)
        except ValueError:
            return _slowly(data)
        # as many `":` as keys, and none with white space before its colon: then no key stands twice
        if type(value) is dict and _entries(value) == data.count(b'":') and b" :" not in data and not _spaced(data):
            return value
    return _slowly(data)


def _spaced(data: bytes) -> bool:
    """Whether a colon may follow a tab or the end of a line. One byte is found far quicker than two, and most lines hold none of these."""
    return (b"\t" in data and b"\t:" in data) or (b"\n" in data and b"\n:" in data) or (b"\r" in data and b"\r:" in data)


def _entries(value: dict[str, Any] | list[Any]) -> int:
    """Keys in the value, all depths; below zero where a number is not finite."""
    if type(value) is dict:
        count = len(value)
        items: Any = value.values()
    else:
        count, items = 0, value
    for item in items:
        kind = type(item)
        if kind is str:
            continue
        if kind is dict or kind is list:
            count += _entries(item)
        elif kind is float and not math.isfinite(item):
            return _NOT_FINITE
    return count


def _slowly(data: bytes) -> dict[str, Any] | Fault:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as bad:
        return Fault(RejectCode.BAD_ENCODING, f"byte {bad.start + 1} of the line is not UTF-8", "save the file as UTF-8")
    if text.count("{") + text.count("[") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        return Fault(RejectCode.BAD_JSON, f"is nested deeper than {MAX_DEPTH} levels", "write a flat object")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as broken:  # ValueError also holds an integer of more digits than Python reads
        return Fault(RejectCode.BAD_JSON, f"is not JSON: {broken}", "write one JSON object per line")
    if not isinstance(value, dict):
        return Fault(RejectCode.WRONG_TYPE, f"is a {type(value).__name__}, not an object", 'write one object per line: {"text": ..., "label": ...}')
    if "\\u" in text and not _encodes(value):
        return Fault(RejectCode.BAD_ENCODING, "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character", "write the whole character")
    return value


def parse(text: str) -> Any:
    """The value of a JSON text that stands inside a row: tool arguments, a list in a cell of a table. Raises ValueError for what no row may hold."""
    if text.count("{") + text.count("[") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except RecursionError as deep:
        raise ValueError("is nested too deep") from deep
    if "\\u" in text and not _encodes(value):
        raise ValueError("holds half of a surrogate pair")
    return value


def structure(item: Any) -> Any:
    """A list or an object. Tables write them as JSON text, and so do several formats: that text becomes what it says; any other item stays as it is."""
    if isinstance(item, str) and item.lstrip()[:1] in ("[", "{"):
        try:
            return parse(item)
        except ValueError:
            return item
    return item


def depth(text: str) -> int:
    """How deep brackets nest; those inside strings do not count."""
    deepest = depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted, escaped = (character != '"' or escaped), (character == "\\" and not escaped)
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is larger than any number that can be kept")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'the key "{twice}" stands twice in one object')
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_once)
