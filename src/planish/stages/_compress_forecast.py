"""What a compression would come to before it runs: bytes, seconds and memory of every file, from a slice of the model that its exporter really writes (MISSION Z6).

Gold is scored by what the slice takes in the file's own runtime, for tokens that are read and for tokens that are written (`_runtime_forecast`).

Layers of a decoder are alike: a file of 1 layer and one of 2 give what a layer adds, in bytes exactly, but for an exporter that types its layers differently and says the size.
What a layer adds in seconds is taken as many times as there are layers, so it must hold nothing that is paid once: imports, the calibration pass, another process in between. Each
slice is written once untimed, then REPEATS times, of which the fastest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from planish import shelf
from planish.errors import MissingExtra
from planish.model import gram_pass, step_time
from planish.model.calibration_pass import Calibration
from planish.model.cut_folder import Source, write_cut
from planish.model.units import Cut, whole, without_layers
from planish.progress import Progress
from planish.recipe_keys import Use
from planish.rows import Noun
from planish.stages import _runtime_forecast

COMPARED_MODELS = 2
"""Held in fp32 while a file's predictions are compared: its own and the original's."""
SLICE_ROWS = 8
"""Training rows that a slice is calibrated on: its statistics are not kept, its shapes are what is timed."""
REPEATS = 3
"""Timed writes of a slice."""
TIMED = 1024
"""Tokens of the calibration text whose pass is timed."""


class FileForecast(Noun):
    """One file: its bytes, `seconds` to write and to score it, `memory` the most at one time beside the libraries (bytes); whether it needs the calibration pass. `missing`: why
    its exporter cannot run here."""

    file: str
    exporter: dict[str, Any]
    bytes: int | None
    seconds: float | None
    memory: int
    calibrated: bool = False
    missing: str | None = None

    def of_part(self, share: float) -> FileForecast:
        """The file of a model with this share of the parameters: in proportion."""
        return self.model_copy(
            update={
                "bytes": None if self.bytes is None else round(self.bytes * share),
                "seconds": None if self.seconds is None else self.seconds * share,
                "memory": round(self.memory * (1 + share) / 2),  # the original stands beside it
            }
        )


class Passes(Noun):
    """Seconds of passes over text, estimated from passes timed here in transformers: `token` of one token that is read, `step` of one that is written; training rows once for all
    files, gold (where a file has no runtime of its own) and validation rows for each."""

    token: float
    step: float
    calibration: float
    gold: float
    compared: float


class Texts(Noun):
    """Sequences of the calibration text, and tokens of what is read and answered: gold prompts and answers by the mean of validation rows, because gold is not opened."""

    sequences: tuple[tuple[int, ...], ...]
    gold: int
    answers: int
    compared: int


def passes(config: dict[str, Any], texts: Texts, *, matrices: bool = True) -> Passes:
    """From the time of one row of mean length through a model of these shapes, and of a part of the calibration text, of which `matrices` or diagonals are collected."""
    tokens = sum(map(len, texts.sequences))
    each = max(2, tokens // max(1, len(texts.sequences)))
    second = step_time.pass_seconds(config, each) / each
    step = step_time.step_seconds(config)
    part = _part(texts.sequences)
    return Passes(
        token=second,
        step=step,
        calibration=_collected(config, part, matrices) * gram_pass.tree_tokens(texts.sequences) / max(1, gram_pass.tree_tokens(part)),
        gold=texts.gold * second + texts.answers * step,
        compared=COMPARED_MODELS * texts.compared * second,
    )


def forecasts(checkpoint: Path, uses: Sequence[Use], texts: Texts, taken: Passes, progress: Progress) -> list[FileForecast]:
    """One for each file of a checkpoint; nothing is left of the slices."""
    source = Source(checkpoint)
    memory = COMPARED_MODELS * 4 * _weights(source)
    found = []
    with TemporaryDirectory() as work, progress.bar("files of a slice", len(uses)) as advance:
        slices = [_slice(source, count, Path(work) / f"slice-{count}") for count in (1, 2) if count <= source.units.layers]
        weights = _weights(source) / _weights(Source(slices[-1]))
        for number, use in enumerate(uses):
            texts_of = [Calibration(place, None, texts.sequences[:SLICE_ROWS], Path(work) / "grams") for place in slices]
            try:
                made = [_made(use, place, Path(work) / f"out-{number}", text) for place, text in zip(slices, texts_of, strict=True)]
            except MissingExtra as absent:
                found.append(FileForecast(file=use.name, exporter=use.model_dump(mode="json"), bytes=None, seconds=None, memory=memory, missing=str(absent)))
                continue
            file, _, seconds = made[-1]
            more = source.units.layers - len(slices)
            said = shelf.call("exporters", use.name, "size", use.options) if hasattr(shelf.find("exporters", use.name).load(), "size") else lambda _: 0
            rest = [size - said(place) for (_, size, _), place in zip(made, slices, strict=True)]  # what is alike in every layer: headers, or all of it
            size = said(checkpoint) + rest[-1] + more * (rest[-1] - rest[0])
            wrote = seconds + more * max(0.0, seconds - made[0][2])
            files = [Path(work) / f"out-{number}" / place.name / file for place in slices]
            spent = wrote + _scored(files, source.units.layers, weights, texts, taken) + taken.compared
            calibrated = bool({"grams", "diagonals"} & vars(texts_of[0]).keys())  # it asked for them
            found.append(FileForecast(file=file, exporter=use.model_dump(mode="json"), bytes=size, seconds=spent, memory=memory, calibrated=calibrated))
            advance(1)
    return found


def _weights(source: Source) -> int:
    return sum(entry.size for entry in source.entries.values())


def _slice(source: Source, layers: int, place: Path) -> Path:
    """The model with its first layers alone."""
    place.mkdir()
    cut: Cut = without_layers(whole(source.units), tuple(range(layers)))
    write_cut(source, cut, place, lambda _: None)
    return place


def _made(use: Use, place: Path, out: Path, text: Calibration) -> tuple[str, int, float]:
    """File, bytes and seconds of an export of a slice, calibration left out."""
    export = shelf.call("exporters", use.name, "export", use.options)
    made = export(place, out / place.name, None, text)
    return made.file, made.bytes, min(step_time.taken(lambda: export(place, out / place.name, None, text)) for _ in range(REPEATS))


def _scored(files: Sequence[Path], layers: int, weights: float, texts: Texts, taken: Passes) -> float:
    """Seconds of the gold set, from the files of the slices, the last of which has 1 / `weights` of the model's; 0 where their runtime is absent: then they are not scored."""
    if not _runtime_forecast.own_runtime(files[-1]):
        return taken.gold
    try:
        found = _runtime_forecast.rates(files, texts.sequences[:SLICE_ROWS], layers, weights)
    except MissingExtra:
        return 0.0
    return texts.gold * found.prompt + texts.answers * found.answer


@torch.inference_mode()
def _collected(config: dict[str, Any], sequences: Sequence[tuple[int, ...]], matrices: bool) -> float:
    """Seconds of the calibration pass over these."""
    if not sequences:
        return 0.0
    model = step_time.built(config)
    return min(step_time.taken(lambda: gram_pass.collect(model, sequences, matrices=matrices)) for _ in range(1 + REPEATS))  # the first one touches the memory


def _part(sequences: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """The first ones, of about TIMED tokens together: enough for matrix products to be as fast as in the whole pass."""
    ends = accumulate(map(len, sequences))
    return sequences[: 1 + sum(end < TIMED for end in ends)]
