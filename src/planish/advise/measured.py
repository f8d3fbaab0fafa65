"""The facts before any advice: what the rows are, how many are good and how long, and what this machine holds. Nothing is trained and no model is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planish.data.reading import read_rows
from planish.data.task import infer, row_shape
from planish.data.texts import every_text, final_answer
from planish.errors import InputError, MissingExtra, Problem
from planish.evidence.guide import Facts
from planish.recipe_data import TaskShape
from planish.recipe_keys import Use
from planish.rows import ChatRow, LabelRow, PreferenceRow, QuestionRow, Row, TextRow, UnpairedRow
from planish.stages._examined import run_check

CHECKS = ("duplicates", "label_conflicts")
"""What is cheap to find and takes rows away."""
CHARACTERS = 4.0
"""Characters a token, in Latin script: an estimate, until a tokenizer counts."""
CORE_FLOPS = 70e9
"""Arithmetic that a CPU core does a second in training: 262 tokens a second of a 135M model with LoRA were measured on two."""
TRAIN_SHARE = 0.7
"""Rows that are left to train on by the default split: .2 are gold, .1 validate."""


class Fit(NamedTuple):
    """What a technique would take here. Bytes and `tokens_a_second` are estimates; the rate is None where no machine of the kind was measured."""

    technique: str
    fits: bool
    peak: float
    high: float
    trainable: int
    tokens_a_second: float | None


@dataclass(frozen=True)
class Looked:
    """What was seen. `tokens` are (median, 95th percentile, longest) of a row, `answer` the median of its answer: both estimated from characters."""

    source: str
    task: TaskShape | None
    facts: Facts
    n_in: int = 0
    rejected: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, int], ...] = ()
    tokens: tuple[int, int, int] = (0, 0, 0)
    answer: int = 0
    machine: str = ""
    memory: float = 0.0
    fits: tuple[Fit, ...] = ()
    notes: tuple[str, ...] = ()
    primary: str | None = None

    @property
    def train_rows(self) -> int:
        """Rows to train on after the default split."""
        return int(TRAIN_SHARE * (self.facts.good_rows or 0))


def rows(path: Path, task: TaskShape | None = None) -> Looked:
    """The rows of a file under the cheap checks. Raises InputError where it cannot be read."""
    reading = read_rows(path, shape=row_shape(task) if task else None, mixed=True, strict=False)
    for name in CHECKS:
        reading = reading.set_aside(run_check(Use(name=name), reading.accepted, None, _no_tokens).findings)
    counts = tuple((code, count) for code, count in reading.counts.items() if not code.startswith("n_"))
    return replace(of_rows(str(path), reading.accepted, task), n_in=reading.n_in, rejected=counts)


def of_rows(source: str, given: Iterable[Row], task: TaskShape | None = None) -> Looked:
    """Good rows, one by one: their shapes, answers, labels and lengths."""
    shapes: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    lengths: list[float] = []
    answers: list[float] = []
    tools = documents = False
    targets = texts = 0.0
    for row in given:
        shapes[row.shape] += 1
        length = sum(map(len, every_text(row))) / CHARACTERS
        lengths.append(length)
        match row:
            case TextRow():
                texts += length
            case LabelRow():
                labels[row.label] += 1
            case ChatRow():
                tools = tools or bool(row.tools)
            case QuestionRow():
                documents = documents or bool(row.documents)
        if not isinstance(row, TextRow | PreferenceRow | UnpairedRow):
            targets += 1
            answers.append(len(final_answer(row)) / CHARACTERS)
    if task is None and shapes and "text" not in shapes:
        try:
            task = infer(shapes, tools=tools)
        except InputError:  # rows of several tasks: the guide goes by what they hold
            task = None
    facts = Facts(
        good_rows=sum(shapes.values()),
        task=task,
        labels=len(labels) or None,
        comparisons=shapes["preference"],
        unpaired=shapes["unpaired"],
        targets=int(targets),
        tools=tools,
        documents=documents,
        text_tokens=int(texts) if texts else None,
    )
    spread = tuple(round(float(value)) for value in np.quantile(lengths, (0.5, 0.95, 1.0))) if lengths else (0, 0, 0)
    median = round(float(np.median(answers))) if answers else 0
    return Looked(source, task, facts, sum(shapes.values()), labels=tuple(labels.most_common()), tokens=spread, answer=median)  # type: ignore[arg-type]


def with_machine(looked: Looked, model: str, machine: Any, relative_to: Path | None = None) -> Looked:
    """What LoRA, QLoRA and full fine-tuning of the model would take on a `planish.model.machine.Machine`, from its config alone; where that is not known, why."""
    try:
        fits = _fits(looked, _folder(model, relative_to), machine)
    except (InputError, MissingExtra) as unknown:
        why = "; ".join(f"{problem.where} {problem.why}" for problem in unknown.problems)
        return replace(looked, machine=machine.name, memory=machine.bytes, notes=(*looked.notes, f"no memory is estimated: {why}"))
    by_name = {fit.technique: fit.fits for fit in fits}
    facts = looked.facts.model_copy(update={f"fits_{name}": by_name.get(name) for name in ("lora", "qlora", "full")})
    return replace(looked, facts=facts, machine=machine.name, memory=machine.bytes, fits=fits)


def _folder(model: str, relative_to: Path | None) -> Path:
    """The model's folder, if it is there already: nothing is converted or downloaded to give advice."""
    import platformdirs

    from planish.model import bundled

    if model in bundled.BUNDLED and not (platformdirs.user_cache_path("planish") / "models" / model / "config.json").is_file():
        raise InputError(Problem(f"model: {model}", "has not been unpacked on this machine yet", "planish plan recipe.yaml unpacks it"))
    if model not in bundled.BUNDLED and not (Path(model) if relative_to is None else relative_to / model).is_dir():
        raise InputError(Problem(f"model: {model}", "is no folder here", "download it, and give its folder"))
    return bundled.locate(model, relative_to)


def _fits(looked: Looked, folder: Path, machine: Any) -> tuple[Fit, ...]:
    from planish.model import entry_memory, memory
    from planish.recipe_train import TrainSection

    length = max(16, looked.tokens[0])
    found = []
    for technique, adapter, four_bit in (("lora", "lora", False), ("qlora", "lora", True), ("full", "full", False)):
        section = TrainSection(objective=Use(name="sft"), adapter=Use(name=adapter), four_bit=four_bit)
        own = entry_memory.sized(section, folder)
        micro = max(1, min(section.batch_size, section.micro_tokens // length))
        setup = entry_memory.setup_of(section, own.trained, (micro, length, max(1, looked.answer)), machine.kind)
        taken = memory.estimate(own.shape, setup)
        passes = 6 if technique == "full" else 4  # forward 2 and backward to the activations 2 a weight; 2 more where the weight itself is trained
        rate = CORE_FLOPS * len(os.sched_getaffinity(0)) / (passes * own.shape.parameters) if machine.kind == "cpu" else None
        found.append(Fit(technique, taken.high <= machine.bytes, taken.total, taken.high, own.trained.count, rate))
    return tuple(found)


def _no_tokens() -> Any:
    raise AssertionError("none of these checks looks at tokens")
