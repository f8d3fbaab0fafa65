"""Zero-shot prompt: the untuned model is asked as it will be asked in production, with the best of several wordings where they are given.

Wordings are compared on validation rows, never on gold: the best of many on the gold set is the luckiest (MISSION B2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from planish.data.answers import accepted, plain
from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.asker import Answer, Asker
from planish.model.solved import Solved
from planish.rows import Message, Row, Sample, content_hash

SEARCHES = True
"""The stage hands it the validation rows."""
SEARCHED = 200
"""Validation rows that wordings are compared on, at most: the first ones, which the split has drawn at random."""


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[Row],
    task: Task,
    asker: Asker | None,
    validation: Sequence[Row] = (),
    *,
    prompts: list[str] | None = None,
) -> Solved:
    """One answer per sample, as `Asker.answer` gives it: a label chosen by constrained decoding, or a text.

    `prompts` are instructions to try in place of the task's own, which is tried too; the one with the best answers on the validation rows is used (right labels, or
    token F1), the earlier of equals. Raises InputError for an empty one, and where there are several and no validation row to compare them on.
    """
    assert asker is not None
    if any(not text.strip() for text in prompts or ()):
        raise InputError(Problem("baseline.prompt.prompts", "one of them is empty", "the task's own instruction is tried anyway"))
    wordings = list(dict.fromkeys([task.instruction, *(prompts or ())]))
    if len(wordings) == 1:
        return Solved(asker.answer(samples, task), details={"prompt": _version(task.instruction)})
    if not validation:
        raise InputError(
            Problem("baseline.prompt.prompts", "there is no validation row to compare them on", "give data.split.validation a share, or one instruction")
        )
    quiet = replace(asker, advance=lambda _: None)
    held = [Sample(id=row.id, messages=asked.messages, target=asked.target, tools=asked.tools) for row in validation[:SEARCHED] if (asked := task.asked(row))]
    values = [_mean(held, quiet.answer([_worded(sample, task, wording) for sample in held], task), task) for wording in wordings]
    best = max(range(len(wordings)), key=values.__getitem__)
    tried = "; ".join(f"{_version(wording)} {value:.3f}" for wording, value in zip(wordings, values, strict=True))
    details = {"prompt": f"{_version(wordings[best])}: {wordings[best]}", "prompts": f"on {len(held)} validation rows: {tried}"}
    return Solved(asker.answer([_worded(sample, task, wordings[best]) for sample in samples], task), details=details)


def _worded(sample: Sample, task: Task, wording: str) -> Sample:
    """The sample with another instruction before its text."""
    *before, last = sample.messages
    again = task.model_copy(update={"instruction": wording}).prompt(task.text_of(last.content))
    return sample.model_copy(update={"messages": (*before, *again)}) if last.role == "user" else _with_system(sample, wording)


def _with_system(sample: Sample, wording: str) -> Sample:
    """A dialogue that does not end with the user's own text takes the wording as a system turn."""
    return sample.model_copy(update={"messages": (Message(role="system", content=wording), *(turn for turn in sample.messages if turn.role != "system"))})


def _version(wording: str) -> str:
    """By what a wording is known: the beginning of its hash."""
    return f"prompt {content_hash(wording)[:8]}"


def _mean(held: Sequence[Sample], answers: Sequence[Answer], task: Task) -> float:
    return sum(_agreement(sample, answer.text, task) for sample, answer in zip(held, answers, strict=True)) / len(held)


def _agreement(sample: Sample, said: str | None, task: Task) -> float:
    """1 or 0 for a label; else token F1 with the nearest accepted answer, in SQuAD's plain form."""
    if task.labels:
        return float(said == sample.target)
    words = plain(said or "").split()
    return max(_f1(words, plain(target).split()) for target in accepted(sample.target))


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted)) if said and wanted else float(said == wanted)
