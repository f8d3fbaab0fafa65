"""Hostile copies of sound files: bytes changed, cut, doubled and removed where the header is, and safetensors headers rewritten to say what is not so."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = (-1, 0, 1, 7, 2**31, 2**47, 2**63, 2**64, 1.5, True, None, "8", [], {})


def bytewise(sound: bytes, draw: random.Random, begin: int, end: int) -> bytes:
    """One to four changes between `begin` and `end`; one file in ten is cut or made longer anywhere instead."""
    data = bytearray(sound)
    if draw.random() < 0.1:
        at = draw.randrange(len(data))
        return bytes(data[:at]) if draw.random() < 0.5 else bytes(data[:at] + draw.randbytes(draw.randint(1, 64)) + data[at:])
    for _ in range(draw.randint(1, 4)):
        at, kind, count = draw.randrange(begin, min(end, len(data))), draw.randrange(6), draw.randint(1, 9)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[at : at + count]
        elif kind == 3:
            data[at:at] = data[at : at + count]
        elif kind == 4:
            data[at : at + 8] = draw.choice((b"\xff" * 8, b"\0" * 8, struct.pack("<Q", draw.randrange(2**40)), struct.pack("<Q", 2**63 - 1)))
        else:
            data[at : at + 4] = struct.pack("<I", draw.choice((0, 1, 2**31, 2**32 - 1, draw.randrange(256))))
    return bytes(data)


def header_of(sound: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and the data behind it."""
    (length,) = struct.unpack("<Q", sound[:8])
    return json.loads(sound[8 : 8 + length]), sound[8 + length :]


def with_header(header: Any, data: bytes) -> bytes:
    """A safetensors file of this header, whatever it says."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


Change = Callable[[dict[str, Any], str, random.Random], object]


def _dtype(told: dict[str, Any], name: str, draw: random.Random) -> None:
    told[name]["dtype"] = draw.choice(("F64", "F16", "BF16", "I64", "I32", "U32", "F8_E4M3", "BOOL", "X", 3, None))


def _shape(told: dict[str, Any], name: str, draw: random.Random) -> None:
    right = told[name]["shape"]
    told[name]["shape"] = draw.choice((right[::-1], [*right, 1], [draw.choice(NUMBERS) for _ in range(draw.randint(0, 17))]))


def _offsets(told: dict[str, Any], name: str, draw: random.Random) -> None:
    begin, end = told[name]["data_offsets"]
    by = draw.choice((-8, -4, 4, 8))
    told[name]["data_offsets"] = draw.choice(([begin + by, end + by], [draw.choice(NUMBERS), end], [begin, draw.choice(NUMBERS)]))


def _rename(told: dict[str, Any], name: str, draw: random.Random) -> None:
    told[draw.choice((f"{name}x", "", "\0", "a" * 70_000, name.upper()))] = told.pop(name)


def _drop(told: dict[str, Any], name: str, draw: random.Random) -> None:
    del told[name]


def _replace(told: dict[str, Any], name: str, draw: random.Random) -> None:
    told[name] = draw.choice(NUMBERS)


CHANGES: tuple[Change, ...] = (_dtype, _shape, _shape, _offsets, _offsets, _rename, _drop, _replace)


def structural(sound: bytes, draw: random.Random) -> bytes:
    """One or two tensors' entries made to say something else: dtype, shape, offsets, name, or nothing."""
    header, data = header_of(sound)
    names = [name for name in header if name != "__metadata__"]
    for name in draw.sample(names, draw.randint(1, 2)):
        draw.choice(CHANGES)(header, name, draw)
    return with_header(header, data)
