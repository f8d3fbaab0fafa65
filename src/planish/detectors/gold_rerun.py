"""Gold rows asked again of the live endpoint, paired with the answers at promotion: has serving become worse? Stops as soon as that is clear.

Ask `detect` daily with an alpha of .01 for the whole month: 30 separate tests at .05 would raise a false alarm in 78.5 % of the months
(1 - .95^30). The same inputs reveal faults of serving (adapter, template, quantisation, engine), never a changed world (MISSION O3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from planish.errors import InputError, Problem
from planish.evidence.power import minimum_detectable_drop
from planish.evidence.sequential import EProcess, win_tie_loss
from planish.rows import Noun


class DriftCheck(Noun):
    """One re-run. `b` rows were better at promotion, `c` are better live; `e_value` is the evidence of a drop over the period so far, an alarm at
    1/alpha; `min_detectable` is the drop (share, 0..1) that this one check finds on its own in about 80 % of cases, None when there is none."""

    n: int
    rows_used: int  # rows that were answered, both sides scored
    b: int
    c: int
    failed: int
    e_value: float
    min_detectable: float | None
    verdict: Literal["healthy", "drift", "endpoint", "undecided"]
    failed_ids: tuple[str, ...] = ()


def detect(
    pairs: Iterable[tuple[str, float, float | None]],
    n: int,
    *,
    alpha: float = 0.01,
    margin: float = 0.05,
    checks: int = 30,
    carried: float = 0.0,
    healthy_alpha: float = 0.05,
    max_failed: int = 10,
    flip: float = 0.03,
) -> DriftCheck:
    """Judge a stream of (row id, score at promotion, live score or None for a failed call), scores in 0..1, in shuffled order.

    The stream is read lazily and left at the first answer, so live calls are made only while they can change it.

    - drift: the evidence that live is worse reaches 1/alpha. `alpha` holds for all `checks` of a period together: each check's evidence starts
      with 1/checks of the stake, on top of `carried`, the e_value of the check before (0 at the start of a period and after
      an alarm was handled).
    - healthy: a drop of `margin` or more is ruled out at `healthy_alpha`, and no call failed.
    - endpoint: calls failed; that is no statement about quality. After `max_failed` the stream is left.
    - undecided: the rows ended first.

    Rows that flip either way by chance are no drop: the null is that rows get worse no more than better, not that this very set lost nothing.
    Raises InputError on parameters out of range, a repeated row id, more than n rows, or scores outside 0..1."""
    _refuse(n, alpha, margin, checks, carried, healthy_alpha, max_failed)
    worse, fine = EProcess(0.5, "below"), EProcess((1 - margin) / 2, "above")
    seen: set[str] = set()
    failed: list[str] = []
    b = c = 0
    stake, ruled_out = carried + 1 / checks, False
    for row_id, before, live in pairs:
        if row_id in seen or len(seen) == n:
            why = "occurs twice" if row_id in seen else f"is more than the {n} rows announced"
            raise InputError(Problem(row_id, f"the row {why}", "ask each gold row once"))
        seen.add(row_id)
        if live is None:
            failed.append(row_id)
            if len(failed) >= max_failed:
                break
            continue
        if not (0 <= before <= 1 and 0 <= live <= 1):
            raise InputError(Problem(row_id, f"scores {before!r} at promotion and {live!r} live", "scores lie in 0..1"))
        b, c = b + (live < before), c + (live > before)
        x = win_tie_loss(live, before)
        drop, ruled_out = stake * worse.update(x), ruled_out or fine.update(x) >= 1 / healthy_alpha
        # With a failed call the answer can no longer be "healthy", and a drop is still worth looking for.
        if drop >= 1 / alpha or (ruled_out and not failed) or len(seen) == n:
            break
    e_value = stake * worse.e_value
    verdict: Literal["healthy", "drift", "endpoint", "undecided"] = "undecided"
    if e_value >= 1 / alpha:
        verdict = "drift"
    elif failed:
        verdict = "endpoint"
    elif ruled_out:
        verdict = "healthy"
    # The price of looking after every row: what this check finds four times in five, one McNemar test at alpha/checks finds 19 times in 20
    # (simulated at 200, 400 and 800 rows; the test holds it).
    seeable = minimum_detectable_drop(n, flip=flip, alpha=alpha / checks, power=0.95)
    return DriftCheck(
        n=n, rows_used=worse.rows, b=b, c=c, failed=len(failed), e_value=e_value, min_detectable=seeable, verdict=verdict, failed_ids=tuple(failed)
    )


def _refuse(n: int, alpha: float, margin: float, checks: int, carried: float, healthy_alpha: float, max_failed: int) -> None:
    wrong = [
        ("n", n, n >= 1, "at least one row"),
        ("alpha", alpha, 0 < alpha < 1, "0 < alpha < 1, 0.01 by default"),
        ("healthy_alpha", healthy_alpha, 0 < healthy_alpha < 1, "0 < healthy_alpha < 1, 0.05 by default"),
        ("margin", margin, 0 < margin < 1, "0 < margin < 1, 0.05 by default"),
        ("checks", checks, checks >= 1, "checks per period, 30 by default"),
        ("carried", carried, carried >= 0 and math.isfinite(carried), "the e_value of the check before, 0 at the start of a period"),
        ("max_failed", max_failed, max_failed >= 1, "at least 1, 10 by default"),
    ]
    problems = [Problem(name, f"{value!r} is out of range", fix) for name, value, fine, fix in wrong if not fine]
    if problems:
        raise InputError(*problems)
