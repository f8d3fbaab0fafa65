"""BLEU and chrF of a whole set from the n-gram counts of its rows: corpus figures, which are no mean of rows, in a form that can be resampled.

A row's `detail` holds `bleu.0` to `bleu.9` (answer length, reference length, 4 matched, 4 answered counts) or `chrf.0` to `chrf.17` (for each of 6 orders:
answer's, reference's, matched counts), as sacrebleu orders them. Both figures run from 0 to 100, as the field prints them.
Source: Papineni et al. 2002, with sacrebleu's exponential smoothing (Post 2018); Popovic 2015 with beta 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planish.evidence.intervals import Floats, Statistic

BLEU_ORDER, CHRF_ORDER, BETA = 4, 6, 2.0


def bleu(sums: Floats) -> Floats:
    """(_R, 10) summed counts to (_R,) BLEU. An order the answers are too short for makes it 0, an order without a match counts half of one, a quarter, ..."""
    answered, asked = sums[:, 0], sums[:, 1]
    matched, total = sums[:, 2 : 2 + BLEU_ORDER], sums[:, 2 + BLEU_ORDER :]
    halvings = np.cumsum(matched == 0, axis=1)
    precision = np.where(matched > 0, matched, 0.5**halvings) / np.maximum(total, 1)
    brevity = np.where(answered < asked, np.exp(1 - asked / np.maximum(answered, 1)), 1.0)
    counts = (matched.sum(axis=1) > 0) & (total > 0).all(axis=1)
    return np.where(counts, 100 * brevity * np.exp(np.log(precision).mean(axis=1)), 0.0)


def chrf(sums: Floats) -> Floats:
    """(_R, 18) summed counts to (_R,) chrF2: F of the mean precision and recall over the orders that both sides have."""
    answered, asked, matched = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    both = (answered > 0) & (asked > 0)
    orders = np.maximum(both.sum(axis=1), 1)
    precision = np.where(both, matched / np.maximum(answered, 1), 0).sum(axis=1) / orders
    recall = np.where(both, matched / np.maximum(asked, 1), 0).sum(axis=1) / orders
    below = BETA**2 * precision + recall
    return np.where(below > 0, 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1), 0.0)


CORPUS: dict[str, tuple[Callable[[Floats], Floats], int]] = {"bleu": (bleu, 2 + 2 * BLEU_ORDER), "chrf": (chrf, 3 * CHRF_ORDER)}
"""Each corpus figure with the number of counts it is made from."""


def statistic(name: str, details: Sequence[Mapping[str, float]], *, prefix: str | None = None) -> Statistic:
    """The corpus figure of rows with these details, as a function of row weights. `prefix` of the counts' names is the figure's, unless given."""
    figure, size = CORPUS[name]
    counts = np.array([[detail[f"{prefix or name}.{place}"] for place in range(size)] for detail in details], dtype=np.float64)

    def of(weights: NDArray[np.float32]) -> Floats:
        return figure(weights @ counts)

    return of
