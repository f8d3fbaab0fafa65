"""Distillation from a captured teacher: the student learns the right token and, beside it, how likely the teacher finds every other one.

L = ce_weight * CE + kd_weight * T^2 * KL(teacher^T || student^T), both means over trained tokens        (MISSION S2)

The teacher ran once, `planish capture` kept its likeliest tokens, and what they leave is one more class. A token without a teacher leaves the second term only.
Sources: Hinton et al. 2015, arXiv 1503.02531; reverse and jsd: Agarwal et al. 2024, arXiv 2306.13649; sampled tail: Anshumann et al. 2025, arXiv 2503.16870.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Literal

import torch

from planish.data.capture_file import CAPTURE, About
from planish.data.capture_packed import PACKED, Packed, prompt_hash
from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model import capture_batch
from planish.model.capture_batch import NONE
from planish.model.chat import Chat, Refused
from planish.model.example import Example, Loss
from planish.model.head_terms import Divergence, Entropy, LogProb, SampledDivergence, Term, Watched
from planish.model.policy import Scored
from planish.rows import ChatRow, RejectCode
from planish.store.objects import file_hash

ROW = ChatRow
FILES = ("capture",)
"""Keys that name files: relative to the recipe, and part of what a run depends on by content."""
REFUSED = {
    "alpha": "alpha means opposite things in the texts on distillation: write ce_weight for what multiplies the cross-entropy, kd_weight for the teacher's term",
    "lambda": "lambda means opposite things in the texts on distillation: write ce_weight for what multiplies the cross-entropy, kd_weight for the teacher's term",
}
"""Keys of other tools that are not taken over in silence, and what to write instead."""
LEAST_FOUND = 0.95
"""Share of the rows that must be in the capture."""


def encode(row: ChatRow, chat: Chat, *, capture: str) -> Example:
    """The conversation, or the prompt with what the teacher wrote, and where the capture has it. A row that the teacher only read and that is not there is trained without.

    Raises InputError for a capture of another tokenizer or template; planish.model.chat.Refused where the teacher wrote no answer, or one that was cut.
    """
    packed = capture_batch.opened(capture)
    _require_same(packed.about, chat, capture)
    place = packed.places.get(row.id, NONE)
    if packed.about.answers == "teacher":
        return _written(row, chat, packed, place)
    own = chat.trained(row.messages, row.tools)
    first = int(own.scored[0])
    if place != NONE:
        found = packed.row(place)
        mine = prompt_hash(own.ids[:first]), own.ids[first:], tuple(weight > 0 for weight in own.weights[first:])
        place = place if mine == (found.prompt, found.completion_ids, found.trained) else NONE
    return Example((Sequence(own.ids, own.weights, (float(place),)),), sum(own.weights))


def require(
    examples: Seq[Example],
    *,
    capture: str,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: str = "forward",
    mix: float = 0.5,
    tail: str = "bucket",
) -> None:
    """Raises InputError for options without a meaning, or where too many rows are not in the capture."""
    _check(capture_batch.opened(capture).about, ce_weight, kd_weight, temperature, direction, mix, tail)
    found = sum(example.sequences[0].given[0] != NONE for example in examples)
    if found < LEAST_FOUND * len(examples):
        why = f"the capture has {found} of {len(examples)} rows with these very tokens"
        raise InputError(Problem("train.objective.kd.capture", why, "capture them: planish capture goes on where it stopped, and tells of rows that failed"))


def content(*, capture: str) -> str:
    """The hash of the captured rows."""
    folder = Path(capture)
    found = next((folder / name for name in (CAPTURE, PACKED) if (folder / name).is_file()), None)
    if found is None:
        raise InputError(Problem("train.objective.kd.capture", f"{capture} holds no teacher capture", "make one: planish capture recipe.yaml --teacher MODEL"))
    return file_hash(found)


def require_data(gold: str, *, capture: str) -> None:
    """Raises InputError where the capture was made beside another gold set than the `gold` hash's: its rows may be gold here (MISSION R-4)."""
    if capture_batch.opened(capture).about.gold != gold:
        why = "was made beside another gold set: what it holds may be what this one asks"
        raise InputError(Problem("train.objective.kd.capture", why, "capture again with this recipe, into a new folder"))


def loss(
    policy: Scored,
    *,
    capture: str,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: Literal["forward", "reverse", "jsd"] = "forward",
    mix: float = 0.5,
    tail: Literal["bucket", "sampled"] = "bucket",
) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step. `mix` is the teacher's share of the mixture in jsd.

    Figures per trained token: ce; kd, with its T^2; the student's entropy in nats; coverage, the share of tokens with a teacher. Raises InputError for options that have no
    meaning, or that the capture cannot give.
    """
    packed = capture_batch.opened(capture)
    _check(packed.about, ce_weight, kd_weight, temperature, direction, mix, tail)
    rows = policy.rows
    counts = torch.bincount(policy.sequence, minlength=policy.sequences).tolist()
    places = [int(place) for place in policy.given[:, 0].tolist()]
    found = capture_batch.batch(packed, places, counts, rows.target, temperature, sampled=tail == "sampled")
    apart: Term = Divergence(found.teacher, direction, mix) if found.sampled is None else SampledDivergence(*found.sampled)
    terms: list[Term] = [Watched(Entropy()), apart, LogProb(rows.target)]
    weights = [0.0, kd_weight * temperature**2, -ce_weight]
    terms[1:] = [term if weight else Watched(term) for term, weight in zip(terms[1:], weights[1:], strict=True)]
    total, entropy, kd, log_prob = rows.blend(terms, weights)
    known = found.teacher.known
    assert known is not None
    figures = {"ce": -log_prob, "kd": kd * temperature**2, "entropy": entropy, "coverage": known}
    sums = torch.stack([(figure * policy.weight).sum() for figure in figures.values()]).tolist()
    return Loss((total * policy.weight).sum(), dict(zip(figures, sums, strict=True)))


def _written(row: ChatRow, chat: Chat, packed: Packed, place: int) -> Example:
    """The prompt with the teacher's own answer."""
    prompt = chat.prompt(row.messages[:-1], row.tools)
    found = packed.row(place) if place != NONE else None
    if found is None or found.prompt != prompt_hash(prompt):
        raise Refused(RejectCode.EMPTY_ANSWER, "the capture has no answer of the teacher to this very prompt")
    if found.finish_reason == "length":
        raise Refused(RejectCode.ANSWER_TRUNCATED, "the teacher's answer was cut at its length limit")
    weights = (*[0.0] * len(prompt), *map(float, found.trained))
    return Example((Sequence((*prompt, *found.completion_ids), weights, (float(place),)),), sum(weights))


def _require_same(about: About, chat: Chat, capture: str) -> None:
    problems = []
    offer = "or let the teacher write the answers and train on them as text: planish capture --text"
    if about.tokenizer != chat.tokenizer_hash:
        problems.append(
            Problem(f"train.objective.kd.capture: {capture}", "is of another tokenizer than the student's", f"use a teacher of its family, {offer}")
        )
    if about.template != chat.template_hash:
        problems.append(Problem(f"train.objective.kd.capture: {capture}", "is of another chat template", "capture again with this recipe, into a new folder"))
    if problems:
        raise InputError(*problems)


def _check(about: About, ce_weight: float, kd_weight: float, temperature: float, direction: str, mix: float, tail: str) -> None:
    where, problems = "train.objective.kd", []
    for name, value in (("ce_weight", ce_weight), ("kd_weight", kd_weight)):
        if not value >= 0:
            problems.append(Problem(f"{where}.{name}", f"is {value}", "give 0 or more"))
    if ce_weight == 0 and kd_weight == 0:
        problems.append(Problem(where, "ce_weight and kd_weight are both 0: nothing would be learned", "give one of them more than 0"))
    if temperature not in about.temperatures:
        known = ", ".join(f"{T:g}" for T in about.temperatures)
        fix = f"use one of {known}, or capture again with --temperatures {known.replace(' ', '')},{temperature:g}"
        problems.append(Problem(f"{where}.temperature", f"{temperature:g} was not captured: what lies beside the kept tokens is not known there", fix))
    if direction == "jsd" and not 0 < mix < 1:
        problems.append(Problem(f"{where}.mix", f"is {mix}", "give a share between 0 and 1; the ends are forward and reverse"))
    if tail == "sampled":
        if direction != "forward":
            problems.append(Problem(f"{where}.tail", f"sampled is unbiased for the forward divergence only, not for {direction}", "use bucket"))
        if not about.tail_samples or 1.0 not in about.temperatures:
            problems.append(Problem(f"{where}.tail", "the capture holds no draws from the tail at T=1", "capture again with --tail-samples 16, or use bucket"))
    if problems:
        raise InputError(*problems)
