"""What the gate's rules are decided on: the reports of the candidate, the baselines and the base model, by the names that rules use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from planish.errors import InputError, Problem
from planish.evidence.intervals import resampled, wilson
from planish.evidence.paired import compare, row_groups
from planish.evidence.slices import Cuts, worst
from planish.evidence.statistic import is_row_mean, measured, statistic
from planish.rules import sliced
from planish.scores import Comparison, EvalReport, Metric

BEST, BASE = "best_baseline", "base"


class ReportFacts:
    """`label.macro_f1` is the candidate's; `best_baseline.label.macro_f1` that of the baseline with the best value of this very metric;
    `base.general.x` that of the model before tuning; `majority.label.x` that of the baseline of that name.

    A system may have several reports (its gold set, the general suite): a metric is looked up in the first that has it. `figures` are metrics of no
    report, such as quality_retained. `groups` maps a row id to its cluster. `cuts` are the slices of the gold rows, for
    `worst_slice(label).label.accuracy`: a key that no row has is a metric that was not measured."""

    def __init__(
        self,
        candidate: Sequence[EvalReport],
        baselines: Sequence[EvalReport] = (),
        base: Sequence[EvalReport] = (),
        *,
        figures: Mapping[str, Metric] | None = None,
        groups: Mapping[str, str] | None = None,
        cuts: Cuts | None = None,
    ) -> None:
        self.candidate, self.baselines, self.base = tuple(candidate), tuple(baselines), tuple(base)
        self.figures, self.groups, self.cuts = dict(figures or {}), groups, dict(cuts or {})

    def metric(self, name: str) -> Metric | None:
        """The metric under a rule's name, or None."""
        if name in self.figures:
            return self.figures[name]
        if (part := sliced(name)) is not None:
            key, inner = part
            of = self._find(inner)
            return worst(of[0], of[1], self.cuts[key], groups=self.groups) if of is not None and key in self.cuts else None
        found = self._find(name)
        return None if found is None else found[0].metrics[found[1]]

    def names(self) -> list[str]:
        """Every name that can be asked for."""
        systems = [("", self.candidate), (f"{BEST}.", self.baselines), (f"{BASE}.", self.base)]
        systems += [(f"{report.system}.", (report,)) for report in self.baselines]
        plain = {prefix + key for prefix, reports in systems for report in reports for key in report.metrics}
        means = {key for report in self.candidate[:1] for key in report.metrics if is_row_mean(key, report)}
        return sorted({*self.figures, *plain, *(f"worst_slice({cut}).{key}" for cut in self.cuts for key in means)})

    def comparison(self, metric: str, reference: str) -> Comparison:
        """Paired difference of two reported metrics; two figures that are no samples (file sizes) subtract exactly.

        Raises InputError where there are no rows to pair, or the rows do not pair."""
        ours, theirs = self.metric(metric), self.metric(reference)
        left, right = self._find(metric), self._find(reference)
        if ours is None or theirs is None:
            raise InputError(Problem(metric if ours is None else reference, "was not measured", "measure it on both sides"))
        if ours.low is None and theirs.low is None:
            exact = ours.value - theirs.value
            return Comparison(metric=metric, candidate=metric, reference=reference, difference=exact, low=exact, high=exact, n=ours.n, test="exact")
        if left is None or right is None or left[1] != right[1]:
            raise InputError(Problem(f"{metric} and {reference}", "cannot be paired row by row", "compare one metric of two reports on the same rows"))
        return compare(left[0], right[0], left[1], groups=self.groups)

    def bound(self, name: str, side: Literal["lower", "upper"]) -> float:
        """One-sided 95 % bound: Wilson for a share, else from the bootstrap of its rows. Where only a two-sided interval is known
        (`figures`), its end, which is stricter."""
        metric, found = self.metric(name), self._find(name)
        if metric is None:
            raise InputError(Problem(name, "was not measured", "measure it"))
        if metric.low is None or metric.high is None:
            return metric.value
        if metric.lower is not None and metric.upper is not None:
            return metric.lower if side == "lower" else metric.upper
        if metric.method == "wilson":
            return wilson(metric.value * metric.n, metric.n, confidence=0.90)[0 if side == "lower" else 1]
        if found is None or name in self.figures or not found[0].scores:
            return metric.low if side == "lower" else metric.high
        report, key = measured(found[0], found[1]), found[1]
        draws = resampled(statistic(report, key), len(report.scores), groups=row_groups(report, self.groups))
        return float(np.quantile(draws, 0.05 if side == "lower" else 0.95))

    def _find(self, name: str) -> tuple[EvalReport, str] | None:
        prefix, _, rest = name.partition(".")
        if prefix == BEST:
            having = [report for report in self.baselines if rest in report.metrics]
            return (best(having, rest), rest) if having else None
        reports = self.base if prefix == BASE else tuple(report for report in self.baselines if report.system == prefix)
        for owners, key in ((self.candidate, name), (reports, rest)):
            for report in owners:
                if key in report.metrics:
                    return report, key
        return None


def best(reports: Sequence[EvalReport], metric: str) -> EvalReport:
    """The report with the best value of the metric; the first of equals."""
    return max(reports, key=lambda report: report.metrics[metric].value * (1 if report.metrics[metric].higher_is_better else -1))
