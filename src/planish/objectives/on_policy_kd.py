"""On-policy distillation: the student writes an answer, a teacher of its family says at every token of it what it would have said, mixed with rows of the data.

L = 1/N [ sum over sampled tokens of on_weight * D(student, teacher) + sum over the rows' own tokens of ce_weight * CE + kd_weight * T^2 * KL(teacher^T || student^T) ]

D is the reverse KL or the Jensen-Shannon divergence over the whole vocabulary at T=1, N the trained tokens of the step (MISSION S4). What stands in a sample is not learnt, only
what the teacher says of it. Rows that keep their own answers are those of `kd`: from a capture where there is one, else from the same teacher.
Source: Agarwal et al. 2024, arXiv 2306.13649 (GKD).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from math import ceil, inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model import bundled, captured, live_teacher
from planish.model.capture_batch import NONE
from planish.model.captured import Weighed
from planish.model.chat import Chat
from planish.model.engine import Decoding, Generation
from planish.model.example import Example, Loss
from planish.model.head_terms import Entropy, Watched
from planish.model.live_teacher import LiveTeacher
from planish.model.policy import Scored
from planish.model.rollout import Rolled, Student, answered, asked
from planish.rows import ChatRow

ROW = ChatRow
FILES = ("capture",)
MODELS = ("teacher",)
"""Keys that name models: found from the recipe's folder, and part of what a run depends on by their weights."""
REFUSED = {
    "alpha": "write ce_weight for what multiplies the cross-entropy, kd_weight for the teacher's term of rows that keep their answers",
    "lambda": "write lambda_on for the share of rows that the student writes",
    "lmbda": "write lambda_on",
}
WHERE = "train.objective.on_policy_kd"
DRAWS = 4
"""Sets the draws of this objective apart from others that follow from the same seed and step."""


def encode(row: ChatRow, chat: Chat, *, capture: str = "") -> Example:
    """The row as `kd` has it, or as it is where nothing was captured; each sequence is marked as none of the student's. Raises as `kd` does."""
    if capture:
        example = captured.encode(row, chat, capture, WHERE)
    else:
        own = chat.trained(row.messages, row.tools)
        example = Example((replace(own, given=(float(NONE),)),), sum(own.weights))
    return Example(tuple(replace(sequence, given=(*sequence.given, 0.0)) for sequence in example.sequences), example.share)


def require(examples: Seq[Example], *, capture: str = "") -> None:
    """Raises InputError where too many rows are not in the capture."""
    if capture:
        captured.require_found(examples, WHERE)


def content(*, teacher: str, capture: str = "") -> list[str]:
    """The hashes of the teacher, and of the captured rows."""
    if "://" in teacher:
        raise InputError(*live_teacher.refusals(teacher, Path(), WHERE))
    return [bundled.identity(bundled.locate(teacher)), *([captured.content(capture, WHERE)] if capture else [])]


def require_data(gold: str, rows: Seq[str], *, capture: str = "") -> None:
    """Raises as `kd` does: for a capture beside another gold set than the `gold` hash's (MISSION R-4), or without the teacher's own answers to too many of the training `rows`."""
    if capture:
        captured.require_gold(gold, capture, WHERE)
        captured.require_answers(rows, capture, WHERE)


def refusals(
    base: Path,
    *,
    teacher: str,
    capture: str = "",
    lambda_on: float = 0.5,
    divergence: Literal["reverse", "jsd", "forward"] = "reverse",
    beta: float = 0.5,
    on_weight: float = 1.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: Literal["forward", "reverse", "jsd"] = "forward",
    mix: float = 0.5,
    tail: Literal["bucket", "sampled"] = "bucket",
    sample_temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
    hidden_weight: float = 0.0,
    hidden_layers: list[list[int]] | None = None,
) -> list[Problem]:
    """Why the teacher cannot score what the student of the folder `base` writes, or this not learn from the capture; and options without a meaning."""
    how = Weighed(WHERE, ce_weight, kd_weight, temperature, direction, mix, tail)
    problems = live_teacher.refusals(teacher, base, WHERE)
    if hidden_weight and not problems and _are_pairs(hidden_layers):
        problems += live_teacher.layer_refusals(teacher, base, hidden_layers or (), WHERE)
    problems += captured.refusals(base, capture, how) if capture else how.problems(None)
    right = {
        "lambda_on": (0 <= lambda_on <= 1, lambda_on, "give a share of rows from 0, where it is kd, to 1, where the student writes them all"),
        "beta": (divergence != "jsd" or 0 < beta < 1, beta, "give the teacher's share of the mixture, between 0 and 1; the ends are forward and reverse"),
        "on_weight": (0 < on_weight < inf, on_weight, "give a number above 0; lambda_on: 0 leaves sampled rows out"),
        "hidden_weight": (0 <= hidden_weight < inf, hidden_weight, "give 0 or more"),
        "hidden_layers": (_are_pairs(hidden_layers), hidden_layers, "give pairs [student's, teacher's] of layers counted from 1, or leave it out"),
    }
    problems += [Problem(f"{WHERE}.{name}", f"is {value}", fix) for name, (holds, value, fix) in right.items() if not holds]
    try:
        Decoding(max_new_tokens, sample_temperature, top_p)
    except InputError as wrong:
        named = {"decoding.temperature": "sample_temperature"}
        problems += [replace(one, where=f"{WHERE}.{named.get(one.where, one.where.removeprefix('decoding.'))}") for one in wrong.problems]
    return problems


def beside(*, teacher: str, capture: str = "", lambda_on: float = 0.5, hidden_weight: float = 0.0) -> Path | None:
    """The folder of the teacher that must be in memory; none where every row has its teacher from the capture."""
    return None if capture and lambda_on == 0 and hidden_weight == 0 else bundled.locate(teacher)


def compared(*, hidden_weight: float = 0.0, hidden_layers: list[list[int]] | None = None) -> int | None:
    """Pairs of layers whose hidden states are held at once for the loss; None is one for each of the student's layers."""
    return 0 if hidden_weight == 0 else None if hidden_layers is None else len(hidden_layers)


def sampled(rows: int, *, lambda_on: float = 0.5, max_new_tokens: int = 128) -> tuple[int, int]:
    """Of a step's `rows`, how many the student writes at most, and the tokens of an answer at most with its end; nothing where it writes none."""
    return (min(rows, ceil(lambda_on * rows)), max_new_tokens + 1) if lambda_on else (0, 0)


def grown(examples: list[Example], *, lambda_on: float = 0.5, max_new_tokens: int = 128) -> list[Example]:
    """The rows as long as sampling may make them, for what memory they may take: every answer with tokens of its own, at most `max_new_tokens` and an end."""
    if lambda_on == 0:
        return examples
    longest = []
    for place, example in enumerate(examples):
        prompt = asked(example.sequences[0])
        said = Generation("", tuple(range(place * max_new_tokens, (place + 1) * max_new_tokens)), "stop")
        most = answered(prompt, said, 0, 1.0, (float(NONE), 1.0))
        longest.append(most if most.tokens > example.tokens else example)
    return longest


def frozen(
    student: Student,
    *,
    teacher: str,
    capture: str = "",
    lambda_on: float = 0.5,
    hidden_weight: float = 0.0,
    hidden_layers: list[list[int]] | None = None,
) -> LiveTeacher | None:
    """The teacher beside the student; none where every row has its teacher from the capture. Raises InputError for layers that cannot be compared."""
    if beside(teacher=teacher, capture=capture, lambda_on=lambda_on, hidden_weight=hidden_weight) is None:
        return None
    pairs = None if hidden_layers is None else [(own, other) for own, other in hidden_layers]
    return live_teacher.opened(teacher, student.model, student.precision, student.device, pairs if hidden_weight else [], WHERE)


def rollout(
    examples: list[Example],
    student: Student,
    draw: tuple[int, int],
    *,
    lambda_on: float = 0.5,
    sample_temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 128,
) -> Rolled:
    """The rows of a step with the share `lambda_on` of them, drawn by `draw` (the run's seed and the step), answered by the student as it is now.

    Where the share is no whole number of rows, the next one or the one before is drawn so that the share holds on average. A row whose prompt leaves no room for an answer keeps
    its own. Figures: on_policy, the share of rows that the student wrote; sampled_tokens; cut, how many of its answers were cut at max_new_tokens; no_room.
    """
    random = np.random.default_rng((*draw, DRAWS))
    count = min(len(examples), int(lambda_on * len(examples) + random.random())) if lambda_on else 0
    chosen = sorted(random.permutation(len(examples))[:count].tolist())
    seeds = random.integers(2**63, size=count).tolist()
    prompts = {place: asked(examples[place].sequences[0]) for place in chosen}
    fitting = [(place, seed) for place, seed in zip(chosen, seeds, strict=True) if student.room(prompts[place]) > 0]
    said = student.sample([prompts[place] for place, _ in fitting], Decoding(max_new_tokens, sample_temperature, top_p), [seed for _, seed in fitting])
    rows = list(examples)
    for (place, _), answer in zip(fitting, said, strict=True):
        rows[place] = answered(prompts[place], answer, student.chat.end, examples[place].sequences[0].weights[-1], (float(NONE), 1.0))
    figures = {
        "on_policy": len(fitting) / len(examples),
        "sampled_tokens": float(sum(len(rows[place].sequences[0].scored) for place, _ in fitting)),
        "cut": float(sum(answer.finish == "length" for answer in said)),
        "no_room": float(len(chosen) - len(fitting)),
    }
    return Rolled(rows, figures)


def loss(
    policy: Scored,
    teacher: LiveTeacher | None,
    *,
    capture: str = "",
    divergence: Literal["reverse", "jsd", "forward"] = "reverse",
    beta: float = 0.5,
    on_weight: float = 1.0,
    ce_weight: float = 0.5,
    kd_weight: float = 0.5,
    temperature: float = 2.0,
    direction: Literal["forward", "reverse", "jsd"] = "forward",
    mix: float = 0.5,
    tail: Literal["bucket", "sampled"] = "bucket",
    hidden_weight: float = 0.0,
    hidden: Literal["cosine", "mse"] = "cosine",
) -> Loss:
    """The sum over trained tokens; the loop divides by their number over the whole step. `beta` and `mix` are the teacher's share of the mixture in jsd.

    Figures: divergence per sampled token; ce, kd and coverage per token of a row that keeps its answer, as `kd` has them; entropy of the student and hidden, the distance of the
    hidden states, per token.
    """
    how = Weighed(WHERE, ce_weight, kd_weight, temperature, direction, mix, tail)
    if teacher is None:
        return captured.loss(policy, capture, how)
    own = policy.given[:, 1] > 0
    parts = []
    if not own.all():
        parts.append(_kept(policy.part(~own), teacher, capture, how))
    if own.any():
        parts.append(_sampled(policy.part(own), teacher, divergence, beta, on_weight))
    if hidden_weight:
        apart = (teacher.layer_distance(policy, hidden) * policy.weight).sum()
        parts.append(Loss(hidden_weight * apart, {"hidden": apart.item()}, {"hidden": _tokens(policy)}))
    figures = {name for part in parts for name in part.metrics}
    summed = [{name: sum(getattr(part, kind).get(name, 0.0) for part in parts) for name in sorted(figures)} for kind in ("metrics", "counts")]
    return Loss(torch.stack([part.total for part in parts]).sum(), *summed)


def _kept(policy: Scored, teacher: LiveTeacher, capture: str, how: Weighed) -> Loss:
    """Rows with their own answers: from the capture, or as the teacher reads them now."""
    if capture:
        found = captured.loss(policy, capture, how)
    else:
        known = torch.ones_like(policy.weight)
        found = captured.blended(policy, teacher.divergence(policy, how.direction, how.mix, how.temperature), known, how)
    return replace(found, counts=dict.fromkeys(found.metrics, _tokens(policy)))


def _sampled(policy: Scored, teacher: LiveTeacher, direction: Literal["reverse", "jsd", "forward"], beta: float, weight: float) -> Loss:
    """Rows that the student wrote."""
    total, apart, entropy = policy.rows.blend([teacher.divergence(policy, direction, beta), Watched(Entropy())], [weight, 0.0])
    figures: dict[str, Tensor] = {"divergence": apart, "entropy": entropy}
    sums = {name: float((figure * policy.weight).sum()) for name, figure in figures.items()}
    return Loss((total * policy.weight).sum(), sums, dict.fromkeys(sums, _tokens(policy)))


def _tokens(policy: Scored) -> float:
    return float(policy.weight.sum())


def _are_pairs(given: Any) -> bool:
    return given is None or (bool(given) and all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, int) for one in pair) for pair in given))
