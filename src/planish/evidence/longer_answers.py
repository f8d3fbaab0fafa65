"""Whether a model tuned on preferences writes longer than its base did on the same gold rows: what a learnt preference for length does to answers (MISSION P1, P2)."""

from __future__ import annotations

from planish.evidence.curve import Diagnosis
from planish.evidence.paired import compare
from planish.scores import EvalReport

TOKENS = "cost.answer_tokens"
GROWN = 1.2
"""Times the base's mean answer that is called longer."""


def longer_answers(tuned: EvalReport, base: EvalReport, since: int) -> Diagnosis | None:
    """`longer_answers`, from step `since` on, where the mean answer is at least GROWN times the base's and the paired 95 % interval of the difference lies above 0. None where
    it does not, and where the answers of either were not written or not counted. Raises InputError as `compare` does."""
    if TOKENS not in tuned.metrics or TOKENS not in base.metrics:
        return None
    ours, theirs = tuned.metrics[TOKENS].value, base.metrics[TOKENS].value
    if not theirs or ours < GROWN * theirs:
        return None
    found = compare(tuned, base, TOKENS)
    if found.low <= 0:
        return None
    why = (
        f"answers to {found.n} gold rows have {ours:.0f} tokens, {ours / theirs:.2f} times the {theirs:.0f} of the base (at least {GROWN:g}): "
        f"{found.difference:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    )
    fix = "unless longer is what was asked for: pairs of like length, or simpo, whose reward is a mean over tokens; and compare both at equal length"
    return Diagnosis("longer_answers", since, why, fix)
