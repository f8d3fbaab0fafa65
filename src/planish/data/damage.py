"""Characters that tell of an accident: control and zero-width ones, and text that was decoded with the wrong table."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Control characters other than tab, line feed, carriage return and next line."""

ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]|(?<=[\\x00-\u024f])[\u200c\u200d](?=[\\x00-\u024f])")
"""Characters without width: spaces, direction marks, soft hyphens; joiners only between Latin letters, because other scripts and emoji are written with them."""

REPLACEMENT = "\ufffd"
"""Stands where a character was lost for good."""


_READ = {chr(byte) for byte in range(0x80, 0xC0)} | set(bytes(range(0x80, 0xC0)).decode("cp1252", "ignore"))
_NEXT = f"[{re.escape(''.join(sorted(_READ)))}]"  # what the second and later bytes of a character become, in Latin-1 and in Windows-1252
MOJIBAKE = re.compile(
    "|".join(
        (
            f"[ÂÃ]{_NEXT}",  # Latin letters with accents, no-break spaces
            f"â{_NEXT}{{2}}",  # quotation marks, dashes, currency signs
            f"ð{_NEXT}{{3}}",  # emoji
            f"(?:[ÐÑ]{_NEXT}){{3,}}",  # Cyrillic
            f"(?:[ÎÏ]{_NEXT}){{3,}}",  # Greek
            f"(?:[ã-é]{_NEXT}{{2}}){{2,}}",  # Chinese, Japanese, Korean
        )
    )
)
"""UTF-8 that was read as Windows-1252 or Latin-1."""


def mojibake(text: str) -> list[str]:
    """The pieces of a text that were decoded with the wrong table, and lost characters."""
    if text.isascii():
        return []
    return MOJIBAKE.findall(text) + [REPLACEMENT] * text.count(REPLACEMENT)


def unprintable(text: str) -> list[str]:
    """The control and zero-width characters of a text."""
    found = CONTROL.findall(text)
    return found if text.isascii() else found + ZERO_WIDTH.findall(text)
