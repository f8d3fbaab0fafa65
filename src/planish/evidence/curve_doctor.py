"""What a training curve says, in states with their evidence and a fix each: pure functions over figures, which know no model (MISSION T9).

A curve is judged against its own noise, never against a picture: the noise of a series is taken from its second differences, which a smooth trend leaves alone,
s = median |x_(i-1) - 2 x_i + x_(i+1)| / (0.6745 sqrt 6), and a difference counts when it is more than two standard errors.
"""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, median

from planish.evidence.curve import ERRORS, LITTLE, Seen, best, noise
from planish.evidence.curve import Curve as Curve
from planish.evidence.curve import Diagnosis as Diagnosis

CHECKS = 5
"""Fewer validations than this say nothing about fit (MISSION T9)."""
OVER = 3
"""Checks over which the validation loss must have risen."""
BLOWN, SPIKE, SPIKE_SHARE = 1.2, 8.0, 0.5
"""Of its start: a loss that high shows a rate too high. A spike: so many of the noise, and such a share of the level, above its neighbours."""
SLOW = 0.10
"""Share of the start: a steady fall below it is a rate too low."""
OFF = 0.1
"""A random model's first loss may be so far from ln V, as a share of it."""
BAND = 10.0
"""A rate so many times below the usual is named as the cause of a loss that does not fall."""
SATURATED, GAP = 0.02, 0.3
"""Nats a token: below the first nothing is left to learn; a validation or gold loss above the training loss by the second was not learnt but memorised."""
BY_HEART = 20
"""Epochs beyond which a model that no other row profits from has rather learnt its rows by heart than met noisy labels."""
CHANCE = 0.97
"""A validation loss of no less than this share of chance has found no rule."""


def diagnose(curve: Curve) -> list[Diagnosis]:
    """Every state that the figures show, the gravest first; `healthy` alone where none is wrong, `too_early` where there are too few validations to say so.

    Raises ValueError for a curve without a step.
    """
    if not curve.steps:
        raise ValueError("a curve without a step says nothing")
    seen = Seen(curve)
    broken = _zero_tokens(seen) or _not_learning(seen) or _diverging(seen)
    if broken is not None:
        return [broken, *_all(_bad_start(seen))]
    found = _all(_bad_start(seen), _rate_too_high(seen))
    found += [] if found and found[-1].state == "lr_too_high" else _all(_spike(seen), _rate_too_low(seen))
    if len(curve.validation) < CHECKS:
        why = f"{len(curve.validation)} of {CHECKS} validations"
        return [*found, Diagnosis("too_early", curve.steps[-1], why, "wait, or raise train.validations")]
    if not any(one.state in ("lr_too_high", "lr_too_low") for one in found):
        by_heart = _memorised(seen) if (curve.epochs or 0) > BY_HEART else None
        found += _all(by_heart or _noisy_labels(seen) or _overfit(seen) or _memorised(seen) or _saturated(seen) or _plateau(seen) or _underfit(seen))
    return found or [
        Diagnosis(
            "healthy", curve.steps[0], f"training {seen.start:.3g} to {seen.end:.3g}, best validation {best(curve)[1]:.3g}", "none needed: let gold decide"
        )
    ]


def _all(*found: Diagnosis | None) -> list[Diagnosis]:
    return [one for one in found if one is not None]


def _zero_tokens(seen: Seen) -> Diagnosis | None:
    curve = seen.curve
    nothing = bool(curve.grad_norm) and not any(norm > 0 for norm in curve.grad_norm) and not any(loss > 0 for loss in curve.loss)
    if curve.trained_tokens == 0 or nothing:
        why = "no token was trained" if curve.trained_tokens == 0 else "loss and gradient are 0 or not a number at every step: no token was trained"
        return Diagnosis(
            "zero_trained_tokens", curve.steps[0], why, "planish mask shows which tokens are trained; give each row an answer, or raise train.max_length"
        )
    return None


def _not_learning(seen: Seen) -> Diagnosis | None:
    curve = seen.curve
    still = bool(curve.grad_norm) and all(norm == 0 for norm in curve.grad_norm)
    if still or curve.weight_change == 0:
        why = "the gradient is 0 at every step" if still else "no trained weight changed"
        return Diagnosis(
            "not_learning",
            curve.steps[0],
            f"{why}, the loss stays {seen.end:.3g}",
            "check train.adapter targets and the mask (planish mask): nothing reaches the loss",
        )
    return None


def _diverging(seen: Seen) -> Diagnosis | None:
    """Not finite; or rising still, to above where it began."""
    curve = seen.curve
    bad = sorted({*curve.skipped, *(step for step, loss in zip(curve.steps, curve.loss, strict=True) if not math.isfinite(loss))})
    fix = "train.learning_rate a tenth of it, or planish train --find-lr; train.clip 1.0"
    if len(bad) >= 3 or (bad and bad[-1] == curve.steps[-1]):
        return Diagnosis("diverging", bad[0], f"{len(bad)} steps without a finite loss", fix)
    if len(seen.values) < 10:
        return None
    above = seen.end > seen.start + max(ERRORS * seen.noise * math.sqrt(2 / seen.few), 0.05 * abs(seen.start))
    if above and seen.level(0.75, 1) > seen.level(0.5, 0.75) > seen.level(0.25, 0.5) and seen.end > 1.1 * seen.level(0.5, 0.75):
        turn = min(seen.finite, key=lambda one: one[1])[0]
        return Diagnosis("diverging", turn, f"the loss rose from {seen.start:.3g} to {seen.end:.3g} and rises still", fix)
    return None


def _bad_start(seen: Seen) -> Diagnosis | None:
    curve = seen.curve
    if curve.vocabulary is None or not seen.finite:
        return None
    uniform, first = math.log(curve.vocabulary), seen.finite[0][1]
    if curve.random_start and abs(first - uniform) > OFF * uniform:
        why = f"first loss {first:.2f}, a random model of {curve.vocabulary:,} tokens begins at ln V = {uniform:.2f}"
        return Diagnosis("bad_start", curve.steps[0], why, "check the initialisation, and that labels are shifted once")
    if not curve.random_start and first > (1 + OFF) * uniform:
        why = f"first loss {first:.2f} is worse than guessing, ln V = {uniform:.2f}"
        return Diagnosis("bad_start", curve.steps[0], why, "the tokenizer or the template is another model's: planish preflight; or the weights are broken")
    return None


def _rate_too_high(seen: Seen) -> Diagnosis | None:
    """The loss was thrown above its start for several steps, or ends clearly above where it has been."""
    values, width = seen.values, max(3, seen.few)
    if len(values) < 10:
        return None
    smooth = [median(values[at : at + width]) for at in range(len(values) - width + 1)]
    low, fix = min(smooth), "train.learning_rate a tenth of it; planish train --find-lr measures one"
    step = seen.finite[smooth.index(max(smooth))][0]
    if max(smooth) > BLOWN * seen.start + ERRORS * seen.noise:
        return Diagnosis("lr_too_high", step, f"the loss was thrown from {seen.start:.3g} to {max(smooth):.3g}", fix)
    back = seen.end - low
    if back > max(2 * ERRORS * seen.noise * math.sqrt(2 / width), 0.25 * (seen.start - low), 0.05 * abs(seen.start)):
        turn = seen.finite[smooth.index(low)][0]
        return Diagnosis("lr_too_high", turn, f"the loss was {low:.3g} and came back up to {seen.end:.3g}", fix)
    return None


def _rate_too_low(seen: Seen) -> Diagnosis | None:
    """It falls steadily and hardly; or not at all, at a rate far below the usual."""
    curve, values = seen.curve, seen.values
    peak = max(curve.learning_rate, default=None)
    low = peak is not None and curve.usual_rate is not None and peak * BAND < curve.usual_rate
    if len(values) < 10 or (not low and curve.usual_rate is not None and peak is not None):
        steady = False
    else:
        first, second = seen.level(0, 0.2) - seen.level(0.4, 0.6), seen.level(0.4, 0.6) - seen.level(0.8, 1)
        sure = ERRORS * seen.noise * math.sqrt(2 / max(1, len(values) // 5))
        steady = first > sure and second > sure and 0.4 < second / first < 2.5 and seen.fall < SLOW * seen.start
    if steady or (low and seen.fall < SLOW * abs(seen.start)):
        named = f" at a rate of {peak:.1e}" if peak is not None else ""
        usual = (
            f"train.learning_rate {curve.usual_rate:g}, the usual"
            if curve.usual_rate is not None
            else "train.learning_rate ten times as high; --find-lr measures one"
        )
        return Diagnosis("lr_too_low", curve.steps[0], f"the loss went from {seen.start:.3g} to {seen.end:.3g} in {len(values)} steps{named}", usual)
    return None


def _spike(seen: Seen) -> Diagnosis | None:
    """A few steps far above their neighbours, from which the loss comes back."""
    values, reach = seen.values, 5
    for at, (step, loss) in enumerate(seen.finite):
        around = values[max(0, at - reach) : at] + values[at + 3 : at + 3 + reach]
        if at < 3 or len(around) < reach:
            continue
        level = median(around)
        if loss > level + max(SPIKE * seen.noise, SPIKE_SHARE * abs(level)) and loss > max(values[max(0, at - reach) : at]):
            return Diagnosis(
                "loss_spike", step, f"loss {loss:.3g} among {level:.3g}", f"look at the rows of step {step}; train.clip 1.0, or a longer train.warmup"
            )
    return None


def _noisy_labels(seen: Seen) -> Diagnosis | None:
    """Training falls and validation never got below chance, or never fell at all: what was learnt holds for no other row."""
    curve = seen.curve
    checks = [loss for _, loss in curve.validation]
    lowest = min(checks)
    fix = "planish check (mislabels, label_conflicts): relabel a sample twice before training again"
    if curve.chance is not None and lowest >= CHANCE * curve.chance and seen.fell:
        return Diagnosis("noisy_labels", curve.validation[0][0], f"best validation {lowest:.3g}, chance is {curve.chance:.3g}", fix)
    never = checks[0] - lowest <= max(ERRORS * _check_noise(curve), LITTLE * checks[0])
    if curve.chance is None and never and seen.fall > 0.25 * seen.start and checks[0] > 0.8 * seen.start:
        return Diagnosis("noisy_labels", curve.validation[0][0], f"training {seen.start:.3g} to {seen.end:.3g}, validation never below {lowest:.3g}", fix)
    return None


def _check_noise(curve: Curve) -> float:
    return curve.validation_se if curve.validation_se is not None else noise([loss for _, loss in curve.validation])


def _overfit(seen: Seen) -> Diagnosis | None:
    """MISSION T9: validation rises by more than 2 SE over 3 checks while training falls."""
    curve = seen.curve
    checks = [loss for _, loss in curve.validation]
    at = checks.index(min(checks))
    after = checks[at + 1 :]
    if len(after) < OVER:
        return None
    error, last = _check_noise(curve), fmean(after[-OVER:])
    rises = sum(later > earlier for earlier, later in pairwise(checks[at:]))
    sure = last - checks[at] > ERRORS * error * math.sqrt(1 / OVER + 1 / 3) and after[-1] - checks[at] > ERRORS * error * math.sqrt(2)
    since = curve.validation[at][0]
    before, behind = [loss for step, loss in seen.finite if step <= since], [loss for step, loss in seen.finite if step > since]
    falling = bool(behind) and fmean(behind[-max(1, len(behind) // 3) :]) < fmean(before[-max(1, len(behind) // 3) :])
    if sure and falling and rises >= 2 * (len(after) + 1) / 3 - 1 and after[-1] > 1.01 * checks[at]:
        why = f"validation rose from {checks[at]:.3g} (check {at + 1}) to {after[-1]:.3g} while training fell to {seen.end:.3g}"
        return Diagnosis("overfit", since, why, "train.keep: best and train.patience: 3 end there; fewer train.epochs, more rows, or a lower adapter rank")
    return None


def _memorised(seen: Seen) -> Diagnosis | None:
    """Nothing left to learn of the training rows, and much of the others'."""
    other, name = (seen.curve.gold, "gold") if seen.curve.gold is not None else (seen.curve.validation[-1][1], "validation")
    if seen.end < 2.5 * SATURATED and other - seen.end > GAP:
        why = f"training {seen.end:.3g}, {name} {other:.3g}"
        return Diagnosis("memorised", _reached(seen, 2.5 * SATURATED), why, "fewer train.epochs or more different rows; the rows are known by heart")
    return None


def _saturated(seen: Seen) -> Diagnosis | None:
    if seen.end >= SATURATED or seen.level(0.7, 0.8) >= SATURATED:
        return None
    return Diagnosis(
        "saturated",
        _reached(seen, SATURATED),
        f"the loss is {seen.end:.3g}: nothing is left to learn",
        "fewer train.epochs, or harder rows",
    )


def _reached(seen: Seen, level: float) -> int:
    """The step after which the loss was never above `level` for long."""
    above = [step for step, loss in seen.finite if loss > 2 * level]
    return next((step for step, _ in seen.finite if not above or step > above[-1]), seen.finite[-1][0])


def _plateau(seen: Seen) -> Diagnosis | None:
    """Flat for the last half of the run, at a level that is most of the start, while the rate was not yet small."""
    curve, values = seen.curve, seen.values
    if len(values) < 20:
        return None
    half = len(values) // 2
    flat = seen.level(0.5, 0.75) - seen.level(0.75, 1)
    sure = max(ERRORS * seen.noise * math.sqrt(2 / max(1, half // 2)), 0.01 * seen.start)
    checks = [loss for step, loss in curve.validation if step >= seen.finite[half][0]]
    still = not checks or checks[0] - min(checks) <= max(ERRORS * _check_noise(curve), 0.01 * checks[0])
    if abs(flat) <= sure and still and seen.end > 0.5 * seen.start:
        since = next(step for step, loss in seen.finite if loss <= seen.level(0.5, 1) + ERRORS * seen.noise)
        return Diagnosis(
            "plateau",
            since,
            f"the loss stays at {seen.end:.3g} of {seen.start:.3g} at first",
            "planish train --find-lr, a larger adapter rank, or better rows",
        )
    return None


def _underfit(seen: Seen) -> Diagnosis | None:
    """Training and validation still fall when the run ends."""
    curve, values = seen.curve, seen.values
    if len(values) < 20:
        return None
    late = seen.level(0.5, 0.75) - seen.level(0.75, 1)
    early = seen.level(0.25, 0.5) - seen.level(0.5, 0.75)
    checks = [loss for _, loss in curve.validation]
    checked = checks[-2] - checks[-1] > ERRORS * _check_noise(curve) / 2 and checks[-1] == min(checks)
    if checked and late > ERRORS * seen.noise * math.sqrt(2 / (len(values) / 4)) and late > 0.6 * early > 0 and late > 0.05 * seen.start:
        why = f"in its last quarter the training loss fell by {late:.3g}, validation at its best with {checks[-1]:.3g}"
        return Diagnosis("underfit", seen.finite[3 * len(values) // 4][0], why, "more train.epochs, or a higher train.learning_rate or adapter rank")
    return None
