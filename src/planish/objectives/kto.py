"""Kahneman-Tversky optimisation: single answers marked good or bad, without pairs; a good one should gain on the reference more than answers do on average.

L = weight * (1 - sigma(beta * (log-ratio - z0))) for a good answer, weight * (1 - sigma(beta * (z0 - log-ratio))) for a bad one        (MISSION P6)

z0 >= 0 is the mean log-ratio of the micro-batch's answers put behind other prompts, an estimate of the divergence from the reference that no gradient passes through.
Source: Ethayarajh et al. 2024, arXiv 2402.01306.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from pathlib import Path

import torch

from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model import preference
from planish.model.chat import Chat
from planish.model.example import Example, Loss
from planish.model.policy import Scored
from planish.model.preference_lengths import learnt_length
from planish.model.preference_state import State
from planish.model.relation import related
from planish.rows import UnpairedRow

ROW = UnpairedRow
LEARNING_RATE = 5e-6
UNEVEN = 2
"""How many times as heavy as the other one kind of answer may be, numbers times weights; advised is about as heavy."""


def encode(row: UnpairedRow, chat: Chat) -> Example:
    """One sequence, whose only number given is its mark: 1 good, 0 bad. Raises planish.model.chat.Refused."""
    (sequence,) = preference.continuations(row.prompt, (row.completion,), chat)
    return Example((Sequence(sequence.ids, sequence.weights, (float(row.label),)),), 1.0)


def refusals(base: Path, *, beta: float = 0.1, good_weight: float = 1.0, bad_weight: float = 1.0) -> list[Problem]:
    """Options without a meaning, whatever the model: known before anything runs."""
    found, where = [], "train.objective.kto"
    if not 0 < beta < math.inf:
        found.append(Problem(f"{where}.beta", f"is {beta}", "give a number above 0, such as 0.1"))
    weights = {"good_weight": good_weight, "bad_weight": bad_weight}
    found += [Problem(f"{where}.{name}", f"is {weight}", "give 0 or more") for name, weight in weights.items() if not 0 <= weight < math.inf]
    if good_weight == 0 == bad_weight:
        found.append(Problem(where, "good_weight and bad_weight are both 0: nothing would be learned", "give one of them more than 0"))
    return found


def require_rows(rows: Seq[UnpairedRow]) -> None:
    """Raises InputError where all answers are good, or all bad: nothing tells one from the other."""
    _require_both(sum(row.label for row in rows), len(rows))


def require(examples: Seq[Example]) -> None:
    """The same of those that are left once every row is encoded. Raises InputError."""
    _require_both(sum(example.sequences[0].given[-1] > 0 for example in examples), len(examples))


def advise(examples: Seq[Example], replay: object, *, good_weight: float = 1.0, bad_weight: float = 1.0) -> list[str]:
    """What is allowed and seldom right: one kind of answer so heavy that moving all answers alike is cheaper than telling them apart (arXiv 2402.01306, 4.2)."""
    good = sum(example.sequences[0].given[-1] > 0 for example in examples)
    bad = len(examples) - good
    one, other = good * good_weight, bad * bad_weight
    if one == 0 or other == 0 or max(one, other) <= UNEVEN * min(one, other):
        return []
    kind, weight = ("good", other / good) if one < other else ("bad", one / bad)
    told = f"{good} good answers of weight {good_weight:g} stand against {bad} bad ones of weight {bad_weight:g}"
    return [f"{told}: a model that moves all answers the same way does well by that alone; set {kind}_weight: {weight:.3g}, which weighs both kinds alike"]


def prepare(examples: Seq[Example], reference: preference.Reference) -> list[Example]:
    """Each answer is followed by the previous row's answer behind its own prompt, for z0, and both get their reference log-probability.

    Where that would be longer than every row, the answer before it is taken, and so on: no sequence outgrows what the rows need.
    """
    limit = max(len(example.sequences[0].ids) for example in examples)
    both = []
    for index, example in enumerate(examples):
        (own,) = example.sequences
        other = next(strange for back in range(1, len(examples) + 1) if len((strange := _behind(own, examples[index - back].sequences[0])).ids) <= limit)
        both.append(Example((own, other), example.share))
    return preference.with_reference(both, reference)


def loss(policy: Scored, *, beta: float = 0.1, good_weight: float = 1.0, bad_weight: float = 1.0) -> Loss:
    """The sum over answers. Figures per answer: z0, accuracy (a good answer above z0, a bad one below), `good` (their share), and the log-ratios `good_log_ratio` and
    `bad_log_ratio`, each 0 where the answer is of the other kind. Of the answers of each kind: their mean tokens, and the correlation of
    log-ratio and length. Raises InputError for a beta that is not above 0 or a weight below 0."""
    if wrong := refusals(Path(), beta=beta, good_weight=good_weight, bad_weight=bad_weight):
        raise InputError(*wrong)
    log_ratio = policy.sums() - policy.given[:, 0]
    own, strange = preference.sides(log_ratio)
    good = preference.sides(policy.given[:, 1])[0] > 0
    lengths = preference.sides(policy.lengths())[0]
    z0 = strange.detach().mean().clamp(min=0)
    ahead = torch.where(good, own - z0, z0 - own)
    weight = torch.where(good, good_weight, bad_weight)
    figures = {
        "z0": z0.expand(len(own)),
        "accuracy": ahead > 0,
        "good": good,
        "good_log_ratio": own * good,
        "bad_log_ratio": own * ~good,
        "good_tokens": lengths * good,
        "bad_tokens": lengths * ~good,
    }
    kinds = {"good": good, "bad": ~good}
    counts = {f"{name}_tokens": float(kind.sum()) for name, kind in kinds.items()}
    relations = {f"{name}_length_correlation": related(own, lengths, kind) for name, kind in kinds.items()}
    return Loss((weight * (1 - torch.sigmoid(beta * ahead))).sum(), preference.summed(figures), counts, relations)


def diagnose(history: Seq[dict[str, float]], checks: Seq[dict[str, float]] = ()) -> list[State]:
    """What a finished run's figures say: whether length was learnt for merit. `history` has the figures of each step, `checks` those of each validation with its `step`."""
    fix = "good and bad answers of like length, or simpo on pairs of them: its reward is a mean over tokens"
    return learnt_length(history, checks, fix=fix, sides=("good", "bad"))


def _require_both(good: int, rows: int) -> None:
    if good in (0, rows):
        why = f"all {rows} answers are marked {'good' if good else 'bad'}"
        fix = "add answers of the other kind; sft learns from good ones alone" if good else "add good answers"
        raise InputError(Problem("train.objective.kto", why, fix))


def _behind(own: Sequence, other: Sequence) -> Sequence:
    """The other's answer behind this one's prompt, with this one's numbers."""
    mine, theirs = (next(at for at, weight in enumerate(sequence.weights) if weight) for sequence in (own, other))
    return Sequence(own.ids[:mine] + other.ids[theirs:], own.weights[:mine] + other.weights[theirs:], own.given)
