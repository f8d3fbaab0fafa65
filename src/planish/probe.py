"""`planish probe`: behind which layer of a frozen model a classification can be read, one logistic regression a layer; gold is never read (MISSION A11, R-4)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from planish import pipeline
from planish.data import dataset
from planish.errors import InputError, Problem
from planish.evidence.intervals import wilson
from planish.model import bundled
from planish.model import precision as number_format
from planish.model.chat import Chat
from planish.model.class_head import by_layer
from planish.model.load import load
from planish.model.probe import read_layers
from planish.progress import Progress
from planish.recipe import Recipe
from planish.rows import LabelRow, Noun
from planish.scores import Metric

CHUNK = 16
FEWEST = 30
"""Validation rows below which layers cannot be told apart."""
WIDTH = 40


class Layer(Noun):
    """Accuracy on validation rows of a probe behind a decoder layer; the last stands behind the final norm."""

    layer: int
    accuracy: Metric


class Probed(Noun):
    """Every layer of a model, the one that reads best, and the first that reads as well within noise: a head could stand there and what is above be left out."""

    model: str
    train_rows: int
    layers: tuple[Layer, ...]
    best: int
    enough: int


def probe(recipe: Recipe, workspace: Path, progress: Progress, *, rows: int = 400, pooling: Literal["last", "mean"] = "last") -> Probed:
    """Fit on at most `rows` training rows, read on the validation rows.

    Raises InputError for a task that has no labels, and for fewer than 30 validation rows."""
    alone = recipe.model_copy(update={name: None for name in ("compress", "serve", "observe", "feedback")} | {"train": []})
    prepared = pipeline.run(alone, workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    data = dataset.read(prepared)
    if data.task.shape != "classification":
        raise InputError(Problem("data.task", f"a probe reads labels, and {data.task.shape} has none", "probe a classification"))
    train, held = ([row for row in data.rows(split) if isinstance(row, LabelRow)][:rows] for split in ("train", "validation"))
    if len(held) < FEWEST:
        raise InputError(Problem("data.split.validation", f"{len(held)} validation rows tell no layers apart", f"bring more rows: at least {FEWEST}"))
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    chat, precision = Chat.load(folder), number_format.choose("auto")
    model = load(folder, precision)
    states = []
    with progress.bar("hidden states", len(train) + len(held)) as advance:
        for part in (train, held):
            prompts = [chat.prompt(data.task.prompt(row.text)) for row in part]
            found = []
            for start in range(0, len(prompts), CHUNK):
                found.append(by_layer(model, prompts[start : start + CHUNK], precision, "cpu", pooling))
                advance(len(prompts[start : start + CHUNK]))
            states.append([torch.cat(layer) for layer in zip(*found, strict=True)])
    readings = read_layers(states[0], [row.label for row in train], states[1], [row.label for row in held])
    layers = tuple(Layer(layer=one.layer, accuracy=_share(one.right, one.rows)) for one in readings)
    best = max(layers, key=lambda one: one.accuracy.value)
    enough = next(one for one in layers if one.accuracy.high is not None and one.accuracy.high >= best.accuracy.value)
    return Probed(model=recipe.model, train_rows=len(train), layers=layers, best=best.layer, enough=enough.layer)


def text(found: Probed) -> str:
    """A line a layer, in 80 columns."""
    lines = [f"{found.model}: a probe behind each layer, fitted on {found.train_rows} training rows, read on {found.layers[0].accuracy.n} validation rows"]
    for one in found.layers:
        figure = one.accuracy
        mark = " best" if one.layer == found.best else " as good within noise" if one.layer == found.enough else ""
        lines.append(f"  {one.layer:>3}  {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]  {'#' * round(WIDTH * figure.value)}{mark}")
    return "\n".join(lines)


def _share(right: int, rows: int) -> Metric:
    low, high = wilson(right, rows)
    return Metric(name="accuracy", value=right / rows, n=rows, low=low, high=high, method="wilson")
