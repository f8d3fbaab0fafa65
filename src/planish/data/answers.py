"""What answers and references are read as before they are compared: accepted texts, SQuAD's plain form, JSON, and the leaves of a JSON value."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from planish.data.json_text import parse, structure
from planish.errors import InputError, Problem
from planish.scores import Score

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)

Leaf = tuple[str, Any]
"""Where a scalar stands in a JSON value and what it is, in a form in which equal values are equal: ("order.items[]", ("number", 3))."""


def accepted(target: str) -> tuple[str, ...]:
    """The right answers: the target, or each text of a target that is a JSON list of texts."""
    if target.lstrip().startswith("["):
        given = structure(target)
        if isinstance(given, list) and given and all(isinstance(text, str) for text in given):
            return tuple(given)
    return (target,)


def plain(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces. Source: the evaluation script of SQuAD 2.0."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def require_plain(scores: Sequence[Score]) -> None:
    """Raise InputError naming every row of which no reference is left in plain form: any empty answer would be right there."""
    empty = [score.id for score in scores if not any(map(plain, accepted(score.target)))]
    if empty:
        fix = "articles and punctuation do not count here: score single letters with verifier"
        raise InputError(*(Problem(row, "its reference is empty after normalisation", fix) for row in empty))


def as_json(answer: str | None, *, fenced: bool = False) -> Any:
    """The JSON value that the whole answer is; with `fenced` also the one that a Markdown code block around it holds. Raises ValueError.

    JSON inside prose is not looked for: what reads the answer in production would not find it either."""
    text = (answer or "").strip()
    if fenced and (block := _FENCE.fullmatch(text)):
        text = block.group(1)
    return parse(text)


def leaves(value: Any, at: str = "") -> Iterator[Leaf]:
    """The scalars of a JSON value with their places. Scalars of one list share a place, so that their order does not matter; objects of a list are told apart.

    An empty list or object is a leaf: it says that there is nothing."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{at}.{key}" if at else key)
    elif isinstance(value, list) and value:
        flat = not any(isinstance(item, dict | list) for item in value)
        for number, item in enumerate(value):
            yield from leaves(item, f"{at}[]" if flat else f"{at}[{number}]")
    else:
        yield at, _comparable(value)


def _comparable(value: Any) -> tuple[str, Any]:
    """1 and 1.0 are one number, true is none, and a text is compared in NFC without outer or repeated space."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "text", " ".join(unicodedata.normalize("NFC", value).split())
    return type(value).__name__, None
