"""Deciding with as few rows as possible, and looking as often as one likes: betting e-processes over rows in [0, 1] (MISSION E5).

A gambler bets, row by row, that the mean lies beyond the bar. Were it not so, the wealth would be a supermartingale from 1 and pass 1/alpha with
probability at most alpha at any time (Ville 1939): wealth 1/alpha is proof, however often it was looked at. A mixture of fixed bets stands for not
knowing the truth. Rows are drawn without replacement, so what is left of the set is known and the null mean is that of the rows that remain.
Source: Waudby-Smith & Ramdas 2024, JRSS B 86:1. Near the bar it saves little; set metrics (macro-F1) and final verdicts take the full gold."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from planish.errors import InputError, Problem

BETS = np.linspace(0.05, 0.95, 19)
EXACT = 1e-9  # rounding of a sum of rows, in rows


class EProcess:
    """Evidence that the mean of rows in [0, 1] lies above (null: at most `bar`) or below (null: at least `bar`) the bar.

    `total` is the size of the shuffled set the rows are drawn from without replacement; None means an open stream whose rows each have, given
    the past, a mean on the null's side of the bar. `e_value` is the wealth: reject at 1/alpha. The order must not have been peeked at."""

    def __init__(self, bar: float, side: Literal["above", "below"], *, total: int | None = None) -> None:
        if not 0 < bar < 1 or (total is not None and total < 1):
            raise InputError(Problem("e-process", f"bar {bar:g} over {total} rows", "0 < bar < 1, and at least one row"))
        self.bar, self.side, self.total = bar, side, total
        self.rows, self.sum = 0, 0.0
        # Wealth is kept as it is, not as a logarithm: it stops long before overflow, and underflow to 0 only makes it more careful.
        self._wealth = np.ones_like(BETS)
        self.e_value = 1.0

    def update(self, x: float) -> float:
        """Take one row in [0, 1] and return the e-value.

        Raises InputError on a value outside [0, 1] (NaN included) or on more rows than `total`."""
        if not 0 <= x <= 1:
            raise InputError(Problem("e-process", f"a row of {x!r} is outside [0, 1]", "scale the score to [0, 1]"))
        if self.rows == self.total:
            raise InputError(Problem("e-process", f"all {self.total} rows were used", "stop at the set's end: no row counts twice"))
        null = self.bar if self.total is None else (self.total * self.bar - self.sum) / (self.total - self.rows)
        if self.side == "below":  # below the bar is above 1 - bar of the mirrored rows
            self._bet(1 - x, 1 - null)
        else:
            self._bet(x, null)
        self.rows, self.sum = self.rows + 1, self.sum + x
        if self.certain:
            self.e_value = math.inf
        return self.e_value

    def _bet(self, x: float, null: float) -> None:
        if null > EXACT:
            self._wealth *= 1 + BETS * ((x - null) / null)
            self.e_value = float(self._wealth.sum()) / len(BETS)

    @property
    def certain(self) -> bool:
        """The rows seen settle it, whatever the others are: the mean of all is at least the bar (above), or less than the bar (below)."""
        if self.total is None:
            return False
        missing = self.total * self.bar - self.sum
        return missing <= EXACT if self.side == "above" else missing > self.total - self.rows + EXACT


class SequentialGate:
    """Decides "the mean over these `total` rows is at least `bar`" with error at most `alpha` on either side, on as few rows as it can.

    Feed it shuffled rows; stop at "pass" or "fail". It never asks for more than `total`: the last row always decides, without error."""

    def __init__(self, total: int, bar: float, *, alpha: float = 0.05) -> None:
        if not 0 < alpha < 1:
            raise InputError(Problem("alpha", f"{alpha:g} is no error rate", "0 < alpha < 1, 0.05 by default"))
        self.alpha = alpha
        self.above, self.below = EProcess(bar, "above", total=total), EProcess(bar, "below", total=total)
        self.decision: Literal["pass", "fail", "continue"] = "continue"

    @property
    def rows(self) -> int:
        """Rows used so far."""
        return self.above.rows

    def update(self, x: float) -> Literal["pass", "fail", "continue"]:
        """Take one row in [0, 1]. Once decided the decision stands, and further rows are not counted."""
        if self.decision == "continue":
            threshold = 1 / self.alpha
            above, below = self.above.update(x), self.below.update(x)
            if self.above.certain or (above >= threshold and not self.below.certain):
                self.decision = "pass"
            elif below >= threshold:
                self.decision = "fail"
        return self.decision


def win_tie_loss(candidate: float, reference: float) -> float:
    """A pair of scores in [0, 1] as one row in [0, 1]: 1 the candidate wins outright, 0.5 a tie, 0 it loses."""
    return (candidate - reference + 1) / 2
