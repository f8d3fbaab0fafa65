"""What the memory model answers: terms in bytes with their formulas, their sum and its error bar; every figure is an estimate and says so (MISSION T7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GB = 1e9


@dataclass(frozen=True)
class Term:
    """One part of the total, in bytes, and how it comes about."""

    name: str
    bytes: float
    formula: str


@dataclass(frozen=True)
class Estimate:
    """Terms and their sum. `high` is the upper end of the error bar; `naive_logits` is what a head that makes every logit at once would hold instead of ours."""

    terms: tuple[Term, ...]
    error: float
    naive_logits: float
    label: Literal["estimated"] = "estimated"

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(term.bytes for term in self.terms)

    @property
    def high(self) -> float:
        """The upper end of the error bar: what must fit."""
        return self.total + self.error

    @property
    def dominant(self) -> Term:
        """The largest term."""
        return max(self.terms, key=lambda term: term.bytes)

    def bytes(self, name: str) -> float:
        """A term by name; 0 for one that is not there."""
        return sum(term.bytes for term in self.terms if term.name == name)


def describe(terms: Sequence[Term]) -> dict[str, dict[str, float | str]]:
    """Terms as JSON."""
    return {term.name: {"bytes": term.bytes, "formula": term.formula} for term in terms}
