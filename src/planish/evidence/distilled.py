"""Whether a distilled student should ship: what it kept of its teacher, and whether plain fine-tuning on the same rows kept as much (MISSION S5, R-8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planish.errors import InputError, Problem
from planish.evidence.intervals import RESAMPLES
from planish.evidence.paired import compare
from planish.evidence.retained import quality_retained
from planish.evidence.retained_slices import KeptBySlice, retained_by_slice
from planish.evidence.slices import Cuts
from planish.rows import Noun
from planish.scores import Comparison, EvalReport, Metric

TARGET = 0.95


class Distilled(Noun):
    """The verdict. `ce`, `kd` and `coverage` are of the last steps of training, where its curve was given; the ratios are student / teacher. `slices`: what it kept of
    each part of the gold set, where its cuts were given. `decoding_unknown`: the systems whose reports do not say how they were decoded, so that it could not be compared."""

    metric: str
    ship: bool
    why: str
    target: float
    retained: Metric
    control: str
    over_control: Comparison
    control_retained: Metric
    size_ratio: float | None = None
    seconds_ratio: float | None = None
    ce: float | None = None
    kd: float | None = None
    coverage: float | None = None
    slices: KeptBySlice | None = None
    decoding_unknown: list[str] = []

    @property
    def ci(self) -> tuple[float | None, float | None]:
        """The paired 95 % interval of what was kept."""
        return self.retained.low, self.retained.high


def distilled(
    student: EvalReport,
    teacher: EvalReport,
    control: EvalReport | None,
    metric: str,
    *,
    target: float = TARGET,
    groups: Mapping[str, str] | None = None,
    cuts: Cuts | None = None,
    sizes: tuple[int, int] | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Distilled:
    """Judge a student on the gold set that all three answered. `control` is the same student fine-tuned on the same rows without a teacher.

    `sizes` are bytes of student and teacher, `curve` the lines of the student's metrics.jsonl.
    It ships where the lower bound of what it kept reaches the target and it is better than the control by more than noise; a slice that is proven to keep less than the
    target is named whatever the verdict.
    Raises InputError without a control, on different gold hashes, where two of the three are known to have been decoded otherwise, or where the teacher scores 0.
    """
    if control is None:
        why = "is missing: without it nothing says that the teacher was worth asking"
        raise InputError(Problem("control", why, "train the same model with sft on the same rows, and score it on the same gold set"))
    if not 0 < target <= 1:
        raise InputError(Problem("target", f"is {target}", "give a share above 0 and up to 1, such as 0.95"))
    unknown = require_decoded_alike(student, teacher, control)
    retained, kept = (quality_retained(one, teacher, metric, groups=groups, resamples=resamples, seed=seed) for one in (student, control))
    over = compare(student, control, metric, groups=groups, resamples=resamples, seed=seed)
    better = over.low > 0 if student.metrics[metric].higher_is_better else over.high < 0
    low = -1.0 if retained.low is None else retained.low
    reasons = []
    if low < target:
        reasons.append(f"what it kept may be {low:.1%}, below the target of {target:.0%}")
    if not better:
        reasons.append(f"plain fine-tuning on the same rows ({control.system}) is as good: ship that, and spare the teacher")
    slices = None if cuts is None else retained_by_slice(student, teacher, metric, cuts, target=target, groups=groups, resamples=resamples)
    why = "; ".join(reasons) or f"it kept {retained.value:.1%} of the teacher, at least {low:.1%}, and more than {control.system} does"
    if slices is not None and slices.short:
        why += "; proven below the target: " + ", ".join(one.said for one in slices.short)
    last = [line.get("metrics", {}) for line in curve][-max(1, len(curve) // 10) :]
    means = {name: sum(one[name] for one in last) / len(last) for name in ("ce", "kd", "coverage") if last and all(name in one for one in last)}
    return Distilled(
        metric=metric,
        ship=not reasons,
        why=why,
        target=target,
        retained=retained,
        control=control.system,
        over_control=over,
        control_retained=kept,
        size_ratio=None if sizes is None else sizes[0] / sizes[1],
        seconds_ratio=student.seconds / teacher.seconds if student.seconds and teacher.seconds else None,
        slices=slices,
        decoding_unknown=unknown,
        **means,
    )


def require_decoded_alike(student: EvalReport, *others: EvalReport) -> list[str]:
    """The systems of which it is not known how their answers were made. Raises InputError naming every setting in which another differs from the student's: a ratio of one that
    samples and one that takes the likeliest token is of the decoding as much as of the model."""
    problems = []
    for other in others:
        ours, theirs = student.decoding, other.decoding
        if ours is None or theirs is None or ours == theirs:
            continue
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        told = ", ".join(f"{name} {ours.get(name)} against {theirs.get(name)}" for name in names)
        why = f"{student.system} and {other.system} were decoded otherwise: {told}"
        problems.append(Problem("decoding", why, "score both with the same evaluate.decoding"))
    if problems:
        raise InputError(*problems)
    return [one.system for one in (student, *others) if one.decoding is None]
