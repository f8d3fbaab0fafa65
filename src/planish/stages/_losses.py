"""Where the tuned model is weak, which rows it loses to the best baseline, and whether it knows its training rows by heart (MISSION E7).

`evaluate` writes slices.json and memorised.json, `gate`, which sees the baselines, losses.json."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from planish.data import dataset, languages
from planish.errors import InputError, MissingExtra, Problem
from planish.evidence.facts import best
from planish.evidence.losses import compare_rows
from planish.evidence.memorised import gap
from planish.evidence.slices import MINIMUM_SUPPORT, by_slice, cuts_of
from planish.progress import Progress
from planish.rows import LabelRow, Row, Sample
from planish.scores import EvalReport
from planish.stages._context import write_json
from planish.stages._gold import Gold

TRAINED_ROWS = 200
"""Training rows that are asked again: a gap of 5 points shows beside 400 gold rows, and asking more would cost as much as the gold set."""
SURE = 0.8
UNKNOWN = "unknown"
SCORERS = "evaluate.scorers"
"""Where it is said that no scorer can read an answer."""


def write_slices(gold: Gold, prepared: Path, report: EvalReport, folder: Path) -> None:
    """`slices.json`: the report's mean score by every cut of the gold set."""
    found = by_slice(report, cuts(gold, prepared), groups=gold.groups)
    write_json(folder / "slices.json", found.model_dump(mode="json"))


def write_memorised(
    gold: Gold, prepared: Path, report: EvalReport, metric: str, answer: Callable[[Gold], EvalReport], folder: Path, progress: Progress
) -> None:
    """`memorised.json`: the same model and scorers on training rows against the gold set; `not_measured` says why where that could not be. `answer` scores rows;
    `metric` is the first scorer's, which both must have been scored by."""
    try:
        sample = trained_sample(prepared, min(TRAINED_ROWS, len(gold.samples)))
        if not sample.samples:
            raise InputError(Problem("train", "no training row asks what the gold rows ask", "train on rows of the task"))
        found = gap(_scored(sample, metric, answer), report, train_groups=sample.groups, gold_groups=gold.groups)
    except InputError as refused:
        [first, *_] = refused.problems
        write_json(folder / "memorised.json", {"not_measured": f"{first.where}: {first.why}"})
        return
    write_json(folder / "memorised.json", found.model_dump(mode="json"))
    if found.verdict == "memorised":
        progress.say(f"  memorised: {found.sentence}")


def _scored(sample: Gold, metric: str, answer: Callable[[Gold], EvalReport]) -> EvalReport:
    """Training rows by the metric. Raises InputError where it is one against the base model, who was not asked them, alone or beside others."""
    needs = Problem(metric, "needs the base model's word on every row", "add a scorer that reads the answer alone")
    try:
        train = answer(sample)
    except InputError as refused:
        if [problem.where for problem in refused.problems] != [SCORERS]:
            raise
        raise InputError(needs) from refused
    if metric not in train.metrics:
        raise InputError(needs)
    return train


def write_losses(gold: Gold, prepared: Path, report: EvalReport, baselines: Sequence[EvalReport], metric: str, folder: Path) -> None:
    """`losses.json`: the rows that the baseline which is best on `metric` has right and this system wrong, in groups, with what to add."""
    texts = {sample.id: text for sample, text in zip(gold.samples, gold.texts, strict=True)}
    weak = [one for one in by_slice(report, cuts(gold, prepared), groups=gold.groups).slices if one.weak]
    trained = Counter(row.label for row in dataset.read(prepared).rows("train") if isinstance(row, LabelRow))
    found = compare_rows(report, best(baselines, metric), texts, weak=weak, trained=trained)
    write_json(folder / "losses.json", found.model_dump(mode="json"))


def cuts(gold: Gold, prepared: Path) -> dict[str, dict[str, str]]:
    """Every cut of a gold set: what its samples bring along, the language of their texts, and the columns of their rows, whose names win."""
    found = cuts_of(gold.samples, gold.texts)
    found |= _languages(gold)
    own = {sample.id for sample in gold.samples}
    columns: dict[str, dict[str, str]] = {}
    for row in dataset.every_row(dataset.read(prepared), "gold"):
        if row.id in own:
            for name, value in row.extra.items():
                if isinstance(value, str | int | float):
                    columns.setdefault(name, {})[row.id] = str(value)
    return found | {name: column for name, column in columns.items() if column not in found.values()}


def _languages(gold: Gold) -> dict[str, dict[str, str]]:
    """The key `language`, where at least two languages have the rows for a slice; nothing without py3langid."""
    try:
        told = [languages.ranked(text) for text in gold.texts]
    except MissingExtra:
        return {}
    codes = [likely[0][0] if likely and likely[0][1] >= SURE else UNKNOWN for likely in told]
    known = [code for code, rows in Counter(codes).items() if code != UNKNOWN and rows >= MINIMUM_SUPPORT]
    return {"language": {sample.id: code for sample, code in zip(gold.samples, codes, strict=True)}} if len(known) > 1 else {}


def trained_sample(prepared: Path, count: int) -> Gold:
    """Training rows as they would be asked, `count` of them, chosen by the hash of their ids so that the same data gives the same rows."""
    return sample(prepared, "train", count)


def sample(prepared: Path, split: Literal["train", "validation"], count: int | None = None) -> Gold:
    """Rows of a split as they would be asked, all of them or `count`; the hash is theirs, not the gold set's."""
    data = dataset.read(prepared)
    usable = [row for row in data.rows(split) if row.shape in data.task.kind.rows]
    chosen: list[Row] = heapq.nsmallest(len(usable) if count is None else count, usable, key=lambda row: hashlib.sha256(row.id.encode()).digest())
    samples = []
    for row in chosen:
        messages, target, tools = data.task.asked(row)
        samples.append(Sample(id=row.id, messages=messages, target=target, tools=tools, group=row.group))
    texts = tuple(data.task.text_of(sample.messages[-1].content) for sample in samples)
    groups = {sample.id: sample.group for sample in samples if sample.group is not None}
    return Gold(f"{split} {data.manifest.hashes[dataset.ROWS]}", data.task, tuple(samples), texts, groups or None)
