"""Few-shot prompt: k worked examples from the training rows stand before the question: the same for every question of a seed, or those most like each.

Which examples are drawn, and in which order, moves the score more than most prompts do: three seeds are run and averaged (MISSION B2)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from planish.data.bm25 import Index
from planish.data.task import Task
from planish.data.texts import prompt_text
from planish.errors import InputError, Problem
from planish.model.asker import Asker
from planish.model.solved import Solved
from planish.rows import LabelRow, Message, Row, Sample

SEEDS = 3
"""The stage asks with this many draws of examples."""


def solve(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train: Sequence[Row],
    task: Task,
    asker: Asker | None,
    *,
    k: int = 5,
    pick: Literal["balanced", "random", "similar"] = "balanced",
    seed: int = 0,
) -> Solved:
    """One answer per sample. Fixed examples make one prefix that is computed once; where they leave a question no room for its answer, fewer are shown, and that is said.

    `pick` balanced takes a classification's labels in turn (rows of any other shape have none, and are drawn at random); similar takes for each question those that share
    the most rare words with it (BM25), the most alike last. Raises InputError where a training row is one of the samples.
    """
    assert asker is not None
    _refuse_gold(samples, train, task)
    drawn = _draw(train, task, k, pick, seed)
    if pick == "similar" and train and k:
        index = Index([prompt_text(row) for row in train])
        shots = [_nearest(index, text, train, drawn, k) for text in texts]
    else:
        longest = max(samples, key=lambda sample: sum(len(message.content) for message in sample.messages))
        shots = [_fitting(drawn, longest, task, asker)] * len(samples)
    if pick == "similar":
        shots = [_fitting(found, sample, task, asker) for found, sample in zip(shots, samples, strict=True)]
    asked = [sample.model_copy(update={"messages": _asked(found, sample, task)}) for found, sample in zip(shots, samples, strict=True)]
    shown = Counter(map(len, shots))
    details = {"shots": ", ".join(f"{number} of {k} examples before {count} questions" for number, count in sorted(shown.items(), reverse=True))}
    return Solved(asker.answer(asked, task), details=details)


def _refuse_gold(samples: Sequence[Sample], train: Sequence[Row], task: Task) -> None:
    """No example may be a question that is scored: by its id, and by what it asks."""
    ids, questions = {sample.id for sample in samples}, {sample.messages for sample in samples}
    leaked = [row.id for row in train if row.id in ids or task.asked(row).messages in questions]
    if leaked:
        fix = "take it out of the training rows: planish check --gold finds such rows"
        raise InputError(*(Problem(f"row {row_id}", "is asked in the gold set, and cannot be an example before it", fix) for row_id in leaked[:20]))


def _draw(train: Sequence[Row], task: Task, k: int, pick: str, seed: int) -> list[Row]:
    """k training rows; balanced takes the labels in turn. The order is shuffled, as the last example weighs most."""
    draw = random.Random(seed)
    rows = draw.sample(list(train), len(train))
    if pick == "balanced" and task.labels:
        by_label = {label: [row for row in rows if isinstance(row, LabelRow) and row.label == label] for label in task.labels}
        rows = [by_label[label][turn] for turn in range(k) for label in task.labels if turn < len(by_label[label])]
    shots = rows[:k]
    draw.shuffle(shots)
    return shots


def _nearest(index: Index, text: str, train: Sequence[Row], drawn: Sequence[Row], k: int) -> list[Row]:
    """The k rows most like the text, the most alike last, next to the question; where fewer share a word with it, drawn ones stand before them."""
    found = [train[place] for place in index.best(text, k)]
    taken = {row.id for row in found}
    return [*[row for row in drawn if row.id not in taken][: k - len(found)], *reversed(found)]


def _fitting(shots: Sequence[Row], sample: Sample, task: Task, asker: Asker) -> list[Row]:
    """As many of the last examples as leave room for the answer."""
    kept = list(shots)
    while kept and not asker.fits(_asked(kept, sample, task), sample.tools, task.kind.max_new_tokens):
        kept = kept[1:]
    return kept


def _asked(shots: Sequence[Row], sample: Sample, task: Task) -> tuple[Message, ...]:
    """The question behind the examples. What the sample's own system turn says stands first and holds for the examples too; theirs are left out."""
    system = tuple(turn for turn in sample.messages if turn.role == "system")
    shown = tuple(turn for row in shots for turn in task.conversation(row).messages if turn.role != "system")
    return (*system, *shown, *(turn for turn in sample.messages if turn.role != "system"))
