"""What a section is made of, whatever it is shown as: paragraphs, tables, figures, code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Paragraph:
    """A line of text. A `missing` one says what was not measured and why."""

    text: str
    kind: Literal["plain", "verdict", "warning", "missing"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG, and what it shows in words for who cannot see it."""

    svg: str
    label: str


@dataclass(frozen=True)
class Code:
    """Text to be typed, or read as it is."""

    text: str


Block = Paragraph | Table | Figure | Code


@dataclass(frozen=True)
class Section:
    """A title and what stands under it."""

    title: str
    blocks: Sequence[Block]


def missing(what: str) -> list[Block]:
    """A section without its figures says so."""
    return [Paragraph(f"missing: {what}", "missing")]


def lines(texts: Sequence[str]) -> list[Block]:
    """Plain paragraphs."""
    return [Paragraph(text) for text in texts]


def cut(text: str, width: int) -> str:
    """`text` in at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
