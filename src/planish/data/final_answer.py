"""The one final answer of a text that may reason first: what stands behind ####, in \\boxed{}, or behind "the answer is"; else the whole text.

Every such mark must say the same, and nothing else may follow it: "12 or 13", two different marks, and a change of mind after the mark are no answer. What a
verifier rewards is learned, so what is doubtful is refused (MISSION R2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from itertools import zip_longest
from typing import NamedTuple

MAX_CHARS = 50_000
MAX_DIGITS = 400
SHORTEST_ECHO = 20
"""Prompts of fewer characters are not looked for in an answer: they occur by chance."""

_MARK = re.compile(
    r"####|\\boxed\s*\{|(?:the\s+)?(?:final\s+)?\banswer\b(?:\s+to\s+(?:this|the|your)\s+(?:\w+\s+)?(?:problem|question|equation|sum))?\W{0,4}?(?:\bis\b\s*:?|[:=])",
    re.IGNORECASE,
)
_COURTESY = re.compile(r"\.?\s*I hope it is correct\.?\s*\Z")
_MARKUP = " \t\r\n*_`:"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<currency>[€£¥$]?)\s*(?P<inner>[+-]?)(?P<whole>\d{1,3}(?:,\d{3})+|\d+|(?=\.\d))(?:\.(?P<decimals>\d+))?"
    r"(?:[eE](?P<power>[+-]?\d{1,3}))?(?:\s*/\s*(?P<below>\d+))?\s*(?P<unit>.*)",
    re.DOTALL,
)


class Doubtful(Exception):
    """There is no one final answer; `reason` is an error class."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Number(NamedTuple):
    """An exact number and its unit ("" for none)."""

    value: Fraction
    unit: str


def finals(text: str, prompts: Sequence[str] = ()) -> list[str]:
    """What each mark of the text says, markup taken off; the whole text where there is no mark. Copies of a prompt in the text say nothing.

    Raises Doubtful: "empty", "too_long", or "several_answers" where text follows a closed \\boxed{}."""
    if len(text) > MAX_CHARS:
        raise Doubtful("too_long")
    said = _folded(text)
    for prompt in prompts:
        echo = _folded(prompt).strip()
        if len(echo) >= SHORTEST_ECHO:
            said = said.replace(echo, "\n")
    said = _COURTESY.sub("", said.strip())
    if not said:
        raise Doubtful("empty")
    marks = list(_MARK.finditer(said))
    if not marks:
        return [_bare(said)]
    found = []
    for mark, after in zip_longest(marks, marks[1:]):
        part = said[mark.end() : after.start() if after else len(said)]
        if mark.group().startswith("\\"):
            inside, rest = _braced(part)
            if _bare(rest).strip("$.,)]\\"):
                raise Doubtful("several_answers")
            found.append(_bare(inside))
        elif after is None or _bare(part).strip("$(["):
            found.append(_bare(part))
        # else one mark leads to the next: "Final answer: the answer is \boxed{"
    return found


def _folded(text: str) -> str:
    """NFKC with a plain minus sign; but superscripts and fractions stay, which it would make digits: 10² is not 102."""
    if text.isascii():
        return text
    return "".join(one if unicodedata.category(one) == "No" else unicodedata.normalize("NFKC", one) for one in text).replace("\u2212", "-")


def _braced(text: str) -> tuple[str, str]:
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:place], text[place + 1 :]
    raise Doubtful("no_answer")


def _bare(text: str) -> str:
    """Without markup around it; LaTeX's thin spaces and escaped signs written plainly."""
    plain = text.strip().replace("\\,", "").replace("\\!", "").replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").strip(_MARKUP).rstrip(_MARKUP + ".")
    for opening, closing in (("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("(", ")"), ("[", "]")):
        if len(plain) > len(opening) + len(closing) and plain.startswith(opening) and plain.endswith(closing):
            plain = plain[len(opening) : -len(closing)].strip(_MARKUP)
    return plain


def number(text: str) -> Number:
    """The number that the text is, with what stands behind it as its unit. Raises Doubtful: "no_answer" where it is none, or has letters or signs stuck to it."""
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["inner"]) or len(text) > MAX_DIGITS:
        raise Doubtful("no_answer")
    unit = found["unit"].strip()
    stuck = unit and text[found.start("unit") - 1].isdigit() and unit != "%" and unit != "$"
    if stuck or (found["currency"] and unit) or (found["below"] and int(found["below"]) == 0):
        raise Doubtful("no_answer")
    decimals = found["decimals"] or ""
    digits = int((found["whole"].replace(",", "") + decimals) or "0")
    value = Fraction(digits) * Fraction(10) ** (int(found["power"] or 0) - len(decimals)) / int(found["below"] or 1)
    negative = "-" in (found["sign"], found["inner"])
    return Number(-value if negative else value, found["currency"] or unit)


def same_text(text: str) -> str:
    """The form in which two short answers are the same: case, outer marks and repeated space aside."""
    return " ".join(text.casefold().strip(_MARKUP + ".!,;?\"'()[]").split())
