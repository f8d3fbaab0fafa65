"""Rows with a teacher's captured word: checked against it, encoded with it, and their loss (MISSION S1, S2). `where` is where an objective stands in the recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
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
from planish.model.live_teacher import config_of
from planish.model.policy import Scored
from planish.rows import ChatRow, RejectCode
from planish.store.objects import file_hash

LEAST_FOUND = 0.95
"""Share of the rows that must be in the capture."""


@dataclass(frozen=True)
class Weighed:
    """L = ce_weight * CE + kd_weight * T^2 * divergence (MISSION S2). `mix` is the teacher's share of the mixture in jsd; `where` names the objective in an error."""

    where: str
    ce_weight: float = 0.5
    kd_weight: float = 0.5
    temperature: float = 2.0
    direction: Literal["forward", "reverse", "jsd"] = "forward"
    mix: float = 0.5
    tail: Literal["bucket", "sampled"] = "bucket"

    def problems(self, about: About | None) -> list[Problem]:
        """What has no meaning, or what the capture cannot give; without a capture, what a teacher that is asked now cannot."""
        found = []
        for name, value in (("ce_weight", self.ce_weight), ("kd_weight", self.kd_weight)):
            if not 0 <= value < math.inf:
                found.append(Problem(f"{self.where}.{name}", f"is {value}", "give 0 or more"))
        if self.ce_weight == 0 and self.kd_weight == 0:
            found.append(Problem(self.where, "ce_weight and kd_weight are both 0: nothing would be learned", "give one of them more than 0"))
        if not 0 < self.temperature < math.inf:
            found.append(Problem(f"{self.where}.temperature", f"is {self.temperature:g}", "give a number above 0, such as 2"))
        elif about is not None and self.temperature not in about.temperatures:
            known = ", ".join(f"{T:g}" for T in about.temperatures)
            fix = f"use one of {known}, or capture again with --temperatures {known.replace(' ', '')},{self.temperature:g}"
            why = f"{self.temperature:g} was not captured: what lies beside the kept tokens is not known there"
            found.append(Problem(f"{self.where}.temperature", why, fix))
        if self.direction == "jsd" and not 0 < self.mix < 1:
            found.append(Problem(f"{self.where}.mix", f"is {self.mix}", "give a share between 0 and 1; the ends are forward and reverse"))
        return found + (self._of_tail(about) if self.tail == "sampled" else [])

    def _of_tail(self, about: About | None) -> list[Problem]:
        found, where = [], f"{self.where}.tail"
        if self.direction != "forward":
            found.append(Problem(where, f"sampled is unbiased for the forward divergence only, not for {self.direction}", "use bucket"))
        if about is None:
            found.append(Problem(where, "a teacher that is asked now leaves no tail to draw from", "leave it out: the whole vocabulary is compared"))
        elif not about.tail_samples or 1.0 not in about.temperatures:
            found.append(Problem(where, "the capture holds no draws from the tail at T=1", "capture again with --tail-samples 16, or use bucket"))
        return found


def encode(row: ChatRow, chat: Chat, capture: str, where: str) -> Example:
    """The conversation, or the prompt with what the teacher wrote, and where the capture has it. A row that the teacher only read and that is not there is trained without.

    Raises InputError for a capture of another tokenizer or template; planish.model.chat.Refused where the teacher wrote no answer, or one that was cut.
    """
    packed = capture_batch.opened(capture)
    _require_same(packed.about, chat, f"{where}.capture: {capture}")
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


def require_found(examples: Seq[Example], where: str) -> None:
    """Raises InputError where too many rows are not in the capture."""
    found = sum(example.sequences[0].given[0] != NONE for example in examples)
    if found < LEAST_FOUND * len(examples):
        why = f"the capture has {found} of {len(examples)} rows with these very tokens"
        raise InputError(Problem(f"{where}.capture", why, "capture them: planish capture goes on where it stopped, and tells of rows that failed"))


def require_answers(rows: Seq[str], capture: str, where: str) -> None:
    """Raises InputError where the teacher's own answers are learnt and too many of the training rows have none: each of these would be left out."""
    packed = capture_batch.opened(capture)
    found = sum(row in packed.places for row in rows)
    if packed.about.answers == "teacher" and found < LEAST_FOUND * len(rows):
        why = f"the capture has the teacher's own answers to {found} of {len(rows)} training rows, and the others could not be trained on"
        fix = "capture them: planish capture goes on where it stopped (without --rows), and tells of rows that failed"
        raise InputError(Problem(f"{where}.capture", why, fix))


def content(capture: str, where: str) -> str:
    """The hash of the captured rows. Raises InputError where there are none."""
    folder = Path(capture)
    found = next((folder / name for name in (CAPTURE, PACKED) if (folder / name).is_file()), None)
    if found is None:
        raise InputError(Problem(f"{where}.capture", f"{capture} holds no teacher capture", "make one: planish capture recipe.yaml --teacher MODEL"))
    return file_hash(found)


def require_gold(gold: str, capture: str, where: str) -> None:
    """Raises InputError where the capture was made beside another gold set than the `gold` hash's: its rows may be gold here (MISSION R-4)."""
    if capture_batch.opened(capture).about.gold != gold:
        why = "was made beside another gold set: what it holds may be what this one asks"
        raise InputError(Problem(f"{where}.capture", why, "capture again with this recipe, into a new folder"))


def loss(policy: Scored, capture: str, how: Weighed) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step.

    Figures per trained token: ce; kd, with its T^2; the student's entropy in nats; coverage, the share of tokens with a teacher. Raises InputError for options that have no
    meaning, or that the capture cannot give.
    """
    packed = capture_batch.opened(capture)
    if problems := how.problems(packed.about):
        raise InputError(*problems)
    rows, T = policy.rows, how.temperature
    counts = torch.bincount(policy.sequence, minlength=policy.sequences).tolist()
    places = [int(place) for place in policy.given[:, 0].tolist()]
    found = capture_batch.batch(packed, places, counts, rows.target, T, sampled=how.tail == "sampled")
    apart: Term = Divergence(found.teacher, how.direction, how.mix) if found.sampled is None else SampledDivergence(*found.sampled)
    known = found.teacher.known
    assert known is not None
    return blended(policy, apart, known, how)


def blended(policy: Scored, apart: Term, known: torch.Tensor, how: Weighed) -> Loss:
    """Cross-entropy and the teacher's term in one pass over the head. known: (R,) rows with a teacher."""
    terms: list[Term] = [Watched(Entropy()), apart, LogProb(policy.rows.target)]
    weights = [0.0, how.kd_weight * how.temperature**2, -how.ce_weight]
    terms[1:] = [term if weight else Watched(term) for term, weight in zip(terms[1:], weights[1:], strict=True)]
    total, entropy, kd, log_prob = policy.rows.blend(terms, weights)
    figures = {"ce": -log_prob, "kd": kd * how.temperature**2, "entropy": entropy, "coverage": known}
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
    if not chat.decode([id for id in found.completion_ids if id != chat.end]).strip():
        raise Refused(RejectCode.EMPTY_ANSWER, "the teacher's answer is empty")
    weights = (*[0.0] * len(prompt), *map(float, found.trained))
    return Example((Sequence((*prompt, *found.completion_ids), weights, (float(place),)),), sum(weights))


def refusals(base: Path, capture: str, how: Weighed) -> list[Problem]:
    """What keeps the model of a folder from learning from a capture, known before anything is trained. A folder that is not there is refused where it is hashed; of the options
    those are looked at then that mean nothing whatever a capture holds."""
    if not Path(capture).is_dir():
        return replace(how, tail="bucket").problems(None)
    found = list[Problem]()
    try:
        packed = capture_batch.opened(capture)
        about, size = packed.about, int(config_of(base).vocab_size)
        found += how.problems(about)
        if packed.largest >= size:
            why = f"speaks of token {packed.largest:,}, and the student's logits are of {size:,} tokens"
            found.append(Problem(f"{how.where}.capture: {capture}", why, "capture again with this recipe, into a new folder"))
        _require_same(about, Chat.load(base), f"{how.where}.capture: {capture}")
    except InputError as refused:
        return [*found, *refused.problems]
    return found


def _require_same(about: About, chat: Chat, where: str) -> None:
    problems = []
    offer = "or let the teacher write the answers and train on them as text: planish capture --text"
    if about.tokenizer != chat.tokenizer_hash:
        problems.append(Problem(where, "is of another tokenizer than the student's", f"use a teacher of its family, {offer}"))
    if about.template != chat.template_hash:
        problems.append(Problem(where, "is of another chat template", "capture again with this recipe, into a new folder"))
    if problems:
        raise InputError(*problems)
