"""One figure from several seeds: the rows are one level of chance, the seeds another, and an interval that forgets the second is too narrow (MISSION E4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES, percentile, resampled
from planish.evidence.paired import aligned, row_groups
from planish.evidence.statistic import declared_labels, statistic
from planish.scores import EvalReport, Metric


def crossed(reports: Sequence[EvalReport], metric: str, *, groups: Mapping[str, str] | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Metric:
    """The mean of a metric over the reports of several seeds on the same rows, with the 95 % interval of other seeds' mean over other rows.

    A crossed bootstrap: each resample draws rows (whole clusters with `groups`), the same for every seed, and seeds. Few seeds vary too little when drawn
    from themselves, by (S - 1) / S of the variance; their deviations are widened by the root of S / (S - 1). Raises InputError with fewer than two reports, and
    on unpaired ones. Source: Owen 2007, Ann. Appl. Statist. 1:386."""
    if len(reports) < 2:
        raise InputError(Problem("seeds", f"{len(reports)} reports say nothing about seeds", "run at least two seeds, three is customary"))
    first, *others = reports
    lined = [first, *(aligned(first, other) for other in others)]
    labels, clusters, count = declared_labels(*lined), row_groups(first, groups), len(lined)
    per_seed = np.stack(
        [resampled(statistic(report, metric, labels=labels), len(first.scores), groups=clusters, resamples=resamples, seed=seed) for report in lined], axis=1
    )
    of_rows = per_seed.mean(axis=1)
    picked = np.random.default_rng(seed + 1).integers(0, count, (resamples, count))
    of_seeds = (np.take_along_axis(per_seed, picked, axis=1).mean(axis=1) - of_rows) * np.sqrt(count / (count - 1))
    low, high = percentile(of_rows + of_seeds)
    values = [report.metrics[metric].value for report in lined]
    how = f"crossed {'cluster ' if groups is not None else ''}bootstrap {resamples} of rows and {count} seeds ({min(values):.3f} to {max(values):.3f})"
    better = first.metrics[metric].higher_is_better
    return Metric(name=metric, value=float(np.mean(values)), n=len(first.scores), low=low, high=high, method=how, higher_is_better=better)
