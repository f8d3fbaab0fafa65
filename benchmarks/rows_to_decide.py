"""Gold rows until a bar is decided, against asking the whole set: at least 2.5x fewer 5 points away, 6x fewer 10 points away, never more.

Run: python benchmarks/rows_to_decide.py. 500 gold rows, bar .90, error 5 % either way, 2,000 shuffled orders per truth, each screened row by row as `planish climb` does.
The whole set gives its score without error; the price of the saving is the share of wrong words, which stands beside it.
"""

from __future__ import annotations

import sys

import claims
import numpy as np
from claims import Finding
from measure import Foreign, Ratio, once, share

from planish.evidence.intervals import bootstrap
from planish.evidence.screen import screen
from planish.evidence.statistic import mean

ROWS, BAR, ALPHA = 500, 0.90, 0.05
RUNS, QUICK_RUNS = 2000, 100
CASES = {0.85: 2.5, 0.95: 2.5, 0.80: 6.0, 1.00: 6.0}
"""Truth of the set to the required saving: 5 and 10 points on either side of the bar."""
MORE = (0.70, 0.88, 0.898, 0.90, 0.92)
"""Further truths, counted without a bar: far, near, one row short, just reached."""


def run(truth: float, runs: int) -> tuple[list[int], int]:
    """Rows used in every order, and how often the word was wrong."""
    scores = np.repeat([1.0, 0.0], [round(truth * ROWS), ROWS - round(truth * ROWS)])
    used, wrong = [], 0
    for seed in range(runs):
        found = screen(lambda places: [float(scores[place]) for place in places], ROWS, BAR, ALPHA, seed, chunk=1)
        used.append(found.rows_used)
        wrong += (found.decision == "pass") != (truth >= BAR)
    return used, wrong


def saving(used: list[int]) -> Ratio:
    """Rows of the whole set over the mean of those used, with the bootstrap interval of that mean."""
    low, high = bootstrap(mean(np.array(used, dtype=np.float64)), len(used))
    return Ratio(ROWS / float(np.mean(used)), ROWS / high, ROWS / low, len(used))


def main() -> int:
    """Every truth."""
    options = claims.arguments(__doc__)
    report = claims.start(
        "rows_to_decide", "rows to decide a bar at 5 % error: >= 2.5x fewer than the full gold set 5 points away, >= 6x at 10, never more", options
    )
    runs, most = QUICK_RUNS if options.quick else RUNS, 0
    with Foreign() as foreign:
        for truth in (*CASES, *MORE):
            used, wrong = run(truth, runs)
            most, rate = max(most, *used), share(wrong, runs)
            side = f"truth {truth:g}, " + (f"{abs(truth - BAR) * 100:.3g} points {'above' if truth > BAR else 'below'}" if truth != BAR else "the bar itself")
            rows = {"mean": float(np.mean(used)), "95th percentile": float(np.quantile(used, 0.95)), "most": max(used)}
            report.counted(side, "rows", **rows)
            if truth in CASES:
                report.found(Finding(side, "the full gold set", "rows, full set / screened", CASES[truth], saving(used)))
            report.found(Finding(side, f"nominal {ALPHA:.0%}", "wrong words, share of orders", ALPHA, rate, at_most=True))
        report.found(Finding("all truths", "the full gold set", "most rows used / full set", 1.0, once(most / ROWS), at_most=True))
    return claims.finish(report, foreign, options, timed=False)


if __name__ == "__main__":
    sys.exit(main())
