"""The greedy soup: of several models those that make the validation score better, in the order of their own score; gold is never asked (MISSION W1, R-4)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.merge_sources import placed
from planish.model.merging import MergeSpec
from planish.progress import Progress
from planish.stages._gold import Gold
from planish.stages._losses import sample
from planish.stages._merge import merge_models
from planish.stages._merge_tasks import ParentTask, opened
from planish.stages.evaluate import Tuned, score_gold
from planish.transforms.soup import greedy

ENOUGH = 50
"""Validation rows of a task below which the choice is said to be luck."""


def chosen(spec: MergeSpec, tasks: Sequence[ParentTask], out: Path, relative_to: Path, progress: Progress) -> MergeSpec:
    """The soup with the models that it keeps: each only where the mean over tasks of the primary metric on validation rows rises.

    Soups are written beside `out` to be scored, one at a time, and removed. Raises InputError for what is no soup of models, and for a task without validation rows.
    """
    problems = []
    if spec.technique != "soup" or len(spec.models) < 2:
        problems.append(
            Problem(
                "--greedy", f"chooses among the models of a soup, and this is {spec.method} of {len(spec.models)}", "method: soup, with at least two models"
            )
        )
    held = [sample(task.prepared, "validation") for task in tasks]
    if not tasks:
        problems.append(Problem("--greedy", "chooses by the validation rows of a task, and no model names one", "add --task PARENT=RECIPE"))
    problems += [
        Problem(f"--greedy: {task.name}", "has no validation rows", "data.split.validation") for task, rows in zip(tasks, held, strict=True) if not rows.samples
    ]
    if problems:
        raise InputError(*problems)
    for task, rows in zip(tasks, held, strict=True):
        if len(rows.samples) < ENOUGH:
            progress.say(f"  {task.name}: {len(rows.samples)} validation rows: what they choose may be luck")

    def of(indices: Sequence[int]) -> float:
        models = [spec.models[index] for index in indices]
        names = " + ".join(Path(model.path).name for model in models)
        # in the way of what is written aside: should a kill leave it, the next merge to `out` removes it
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.", suffix=".partial") as aside:
            folder = placed(models[0].path, relative_to)
            if len(models) > 1:
                folder = Path(aside) / "soup"
                merge_models(spec.model_copy(update={"models": models}), folder, relative_to=relative_to.absolute(), progress=progress)
            value = _mean(folder, spec, relative_to, tasks, held)
        progress.say(f"  {names}: {value:.4f} on validation rows")
        return value

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    kept = greedy(len(spec.models), of)
    left = [Path(model.path).name for index, model in enumerate(spec.models) if index not in kept]
    progress.say("  kept: " + ", ".join(Path(spec.models[index].path).name for index in kept) + (f"; left out: {', '.join(left)}" if left else ""))
    if len(kept) == 1:
        best = Path(spec.models[kept[0]].path).name
        raise InputError(Problem("--greedy", f"no soup is better than {best} alone on validation rows", f"keep {best}"))
    return spec.model_copy(update={"models": [spec.models[index] for index in kept]})


def _mean(folder: Path, spec: MergeSpec, relative_to: Path, tasks: Sequence[ParentTask], held: Sequence[Gold]) -> float:
    """Over tasks, the primary metric on their validation rows, minus it where lower is better."""
    base = None if spec.base is None else placed(spec.base, relative_to)
    model, values = opened(folder, base), []
    for task, rows in zip(tasks, held, strict=True):
        chat = Chat.load(folder if (folder / "tokenizer.json").is_file() or base is None else base)
        metric = score_gold(task.context, Tuned(model, chat, task.precision), rows, what=f"{task.name}, validation").metrics[task.metric]
        values.append(metric.value if metric.higher_is_better else -metric.value)
    return sum(values) / len(values)
