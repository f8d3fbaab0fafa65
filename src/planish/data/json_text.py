"""One JSON object from the bytes of a line, or the fault that keeps it from being one.

What no row may hold is refused here: NaN and infinity, integers of more digits than Python reads, half surrogate pairs, nesting deeper than any row needs, and
an object that has a key twice (most readers keep the last and say nothing). A quick scanner reads what is sound; what it cannot vouch for is read again by the
standard decoder, whose verdict counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic_core import from_json

from planish.data.fault import Fault
from planish.rows import RejectCode

MAX_DEPTH = 64
"""Deeper JSON is refused: no row needs it, and it would exhaust the stack of whatever reads it next."""

_NOT_FINITE = -(10**9)


def decode(data: bytes) -> dict[str, Any] | Fault:
    """The object that `data` holds, or its fault. `data` is one line of a file, or one element of an array."""
    found = _quickly(data, [data])
    return found[0] if found is not None else _slowly(data)


def decode_lines(data: bytes, lines: Sequence[bytes]) -> list[dict[str, Any] | Fault]:
    """What `decode` gives of each of the lines that `data` is made of."""
    found = _quickly(data, lines)
    return list(found) if found is not None else list(map(decode, lines))


def _quickly(data: bytes, lines: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """The objects that these lines of `data` hold; None where there is any doubt.

    Every key is followed by `":` where no white space stands before a colon; an object whose keys differ has an entry for each. So with as many entries as `":`
    in all lines together, no line has a key twice.
    """
    if any([line.count(b"{") + line.count(b"[") > MAX_DEPTH for line in lines]):
        return None
    try:
        values = [from_json(line, allow_inf_nan=False) for line in lines]
    except ValueError:
        return None
    entries = sum([_entries(value) if type(value) is dict else _NOT_FINITE for value in values])
    return values if entries == data.count(b'":') and b" :" not in data and not _spaced(data) else None


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
        fix = _OTHER.get(data[:2], "save the file as UTF-8")
        return Fault(RejectCode.BAD_ENCODING, f"byte {bad.start + 1} of the line is not UTF-8", fix)
    if text.count("{") + text.count("[") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        return Fault(RejectCode.BAD_JSON, f"is nested deeper than {MAX_DEPTH} levels", "write a flat object")
    try:
        value = _DECODER.decode(text)
    except _NotKept as refused:
        return Fault(RejectCode.BAD_JSON, f"is not JSON: {refused}", refused.fix)
    except (ValueError, RecursionError) as broken:
        return Fault(RejectCode.BAD_JSON, f"is not JSON: {broken}", _mend(text.strip()))
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


_UTF_16 = "save the file as UTF-8: this is UTF-16"
_OTHER = {b"\xff\xfe": _UTF_16, b"\xfe\xff": _UTF_16, b"\x1f\x8b": "let the name of the file end in .gz: this is a gzip file"}
"""What to do about a file by its first bytes."""


def _mend(text: str) -> str:
    """What to do about a line that is no JSON, by the commonest reasons."""
    if 3 * text.count("\0") > len(text):
        return _UTF_16
    if "\0" in text:
        return "remove the NUL bytes: the file was not written to its end, or is no text"
    if "\r" in text:
        return "end the lines with line feeds: this file ends them with carriage returns alone"
    if text.startswith("["):
        return "write one JSON object per line, or, if the file is one array, let its name end in .json"
    if text in ("{", "}", "},") or (text.startswith('"') and text.endswith((",", "[", "{"))):
        return "write each object on one line: here one stands over several"
    return "take the comma from the end of the line" if text.endswith("},") else "write one JSON object per line"


class _NotKept(ValueError):
    """JSON, or nearly, that no row may hold; with what to do about it."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


def _no_constant(name: str) -> NoReturn:
    raise _NotKept(f"{name} is no JSON number", "write null, or leave the key out")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotKept(f"{text} is larger than any number that can be kept", "write it as text")
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _NotKept(f"a number has {len(text)} digits", "write it as text") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotKept(f'the key "{twice}" stands twice in one object', "keep one of the two")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_once)
