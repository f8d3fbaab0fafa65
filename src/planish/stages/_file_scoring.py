"""A file of the package, scored in its own runtime and held against the model it was made from: same gold set, same prompts, same decoding (MISSION Z6)."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.engines import llamacpp, transformers
from planish.model import calibration_text, gguf_plain, packed_checkpoint
from planish.model.asker import Asker
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.model.closeness import closeness
from planish.model.load import load
from planish.scores import EvalReport, Metric
from planish.stages._context import Context
from planish.stages._gold import Gold
from planish.stages._plain import Plain
from planish.stages._scoring import judge, readable

COMPARED = 64
"""Validation rows whose every token is predicted by the file's weights and by the original's."""


def calibration(context: Context, prepared: Path, weights: Plain, chat: Chat) -> Calibration:
    """Training rows, for the one pass that exporters share; nothing runs until one asks."""
    text = calibration_text.sequences(dataset.read(prepared), chat)
    if text.refused or text.cut:
        context.progress.say(
            f"  calibration text: {text.refused} rows left out that the template cannot write, {text.cut} cut at {calibration_text.LONGEST} tokens"
        )
    return Calibration(weights.checkpoint, weights.adapter, text.sequences, context.store.workspace / "grams")


@dataclass(frozen=True)
class Runtime:
    """What a file was run by. `memory` is the worker's peak in bytes, None where the file's own kernels did not run and its memory says nothing of them."""

    name: str
    load_seconds: float
    tokens_per_second: float | None
    memory: int | None

    def figures(self) -> dict[str, Metric]:
        """As metrics of one measurement each."""
        found = {"load_seconds": (self.load_seconds, False), "tokens_per_second": (self.tokens_per_second, True), "memory": (self.memory, False)}
        return {
            name: Metric(name=name, value=float(value), n=1, higher_is_better=better, method="one run")
            for name, (value, better) in found.items()
            if value is not None
        }


@dataclass(frozen=True)
class FileScoring:
    """Scores the files of one package."""

    context: Context
    gold: Gold
    chat: Chat
    weights: Plain
    prepared: Path

    def score(self, path: Path, system: str) -> tuple[EvalReport, Runtime]:
        """The gold set asked of a GGUF file in llama.cpp, or of a folder of codes in transformers, which computes with the plain weights that its codes stand for."""
        began = time.perf_counter()
        packed = path.is_dir()
        engine: Any = transformers.start(self._plain(path), precision="fp32") if packed else llamacpp.start(path)
        loaded = time.perf_counter() - began
        scorers = readable(self.context.recipe.evaluate.scorers)
        context = int(engine.model.config.max_position_embeddings) if packed else engine.context
        began = time.perf_counter()
        try:
            with self.context.progress.bar(f"gold set, {path.name}", len(self.gold.samples)) as advance:
                answers = Asker(engine, self.chat, context, advance, told=self.context.recipe.evaluate.decoding).answer(self.gold.samples, self.gold.task)
            seconds = time.perf_counter() - began
            memory = None if packed else engine.memory()
        finally:
            engine.close()
        written = sum(answer.tokens[1] for answer in answers if answer.tokens is not None)
        name = "transformers, with the weights that the codes stand for" if packed else "llama.cpp"
        ran = Runtime(name, loaded, written / seconds if written else None, memory)
        return judge(system, answers, self.gold, scorers, seconds).report, ran

    def closeness(self, path: Path) -> dict[str, Metric]:
        """The file's weights against the original's, both computed by transformers in fp32, on validation rows; nothing without any."""
        text = self._text
        if not text:
            self.context.progress.say("  closeness to the source was not measured: there are no validation rows")
            return {}
        other = load(self._plain(path), "fp32")
        with self.context.progress.bar(f"against the source, {path.name}", len(text)) as advance:
            found = closeness(self._source, other, text, advance)
        shutil.rmtree(self._at(path), ignore_errors=True)
        return found

    @cached_property
    def _text(self) -> list[tuple[int, ...]]:
        return calibration_text.sequences(dataset.read(self.prepared), self.chat, split="validation", most=COMPARED).sequences

    @cached_property
    def _source(self) -> Any:
        return Calibration(self.weights.checkpoint, self.weights.adapter, (), self.context.work).model()

    def _at(self, path: Path) -> Path:
        return self.context.work / f"plain-{path.name}"

    def _plain(self, path: Path) -> Path:
        target = self._at(path)
        if target.is_dir():
            return target
        return packed_checkpoint.plain_folder(path, target) if path.is_dir() else gguf_plain.plain_folder(path, self.weights.checkpoint, target)
