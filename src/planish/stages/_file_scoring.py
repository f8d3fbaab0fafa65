"""A file of the package, scored in its own runtime and held against the model it was made from: same gold set, same prompts, same decoding (MISSION Z6)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from planish import shelf
from planish.data import dataset
from planish.engines import llamacpp, onnx, transformers
from planish.model import calibration_text, gguf_plain, nf4, packed_checkpoint
from planish.model.asker import Answer, Asker
from planish.model.calibration_pass import Calibration
from planish.model.chat import Chat
from planish.model.closeness import closeness
from planish.model.load import load
from planish.model.onnx_session import GRAPH
from planish.progress import Advance
from planish.recipe_keys import Use
from planish.scores import EvalReport, Metric
from planish.stages._context import Context, read_json
from planish.stages._gold import Gold
from planish.stages._plain import Plain
from planish.stages._scoring import judge, readable

FROM_THE_RUNTIME = ("load_seconds", "tokens_per_second", "memory")
COMPARED = 64
"""Validation rows whose every token is predicted by the file's weights and by the original's."""


def calibration(context: Context, prepared: Path, weights: Plain, chat: Chat, uses: Sequence[Use]) -> Calibration:
    """Training rows, for the one pass that the exporters `uses` share; nothing runs until one asks."""
    text = calibration_text.sequences(dataset.read(prepared), chat)
    if text.refused or text.cut:
        context.progress.say(
            f"  calibration text: {text.refused} rows left out that the template cannot write, {text.cut} cut at {calibration_text.LONGEST} tokens"
        )
    root = context.store.workspace / "grams"
    return Calibration(weights.checkpoint, weights.adapter, text.sequences, root, matrices=read_matrices(uses), progress=context.progress)


def read_matrices(uses: Sequence[Use]) -> bool:
    """Whether an exporter asks calibration for more than diagonals; one that never does says nothing."""
    saying = [use for use in uses if hasattr(shelf.find("exporters", use.name).load(), "reads_matrices")]
    return any(shelf.call("exporters", use.name, "reads_matrices", use.options)() for use in saying)


@dataclass(frozen=True)
class Runtime:
    """What a file was run by. `memory` is the worker's peak in bytes, None where the file's own kernels did not run and its memory says nothing of them."""

    name: str
    load_seconds: float
    tokens_per_second: float | None
    memory: int | None

    def figures(self) -> dict[str, Metric]:
        """As metrics of one measurement each."""
        return {
            name: Metric(name=name, value=float(value), n=1, higher_is_better=name == "tokens_per_second", method="one run")
            for name, value in zip(FROM_THE_RUNTIME, (self.load_seconds, self.tokens_per_second, self.memory), strict=True)
            if value is not None
        }


@dataclass(frozen=True)
class FileScoring:
    """Scores the files made of `weights`, with the tokenizer `chat`. `original` is what they are held against where that is another model: the tuned one before it was cut."""

    context: Context
    gold: Gold
    chat: Chat
    weights: Plain
    prepared: Path
    original: Plain | None = None

    def score(self, path: Path, system: str) -> tuple[EvalReport, Runtime]:
        """The gold set asked of a GGUF file in llama.cpp, an ONNX folder in onnxruntime, a folder of codes in transformers, which computes with the weights that they stand for."""
        began = time.perf_counter()
        graph = (path / GRAPH).is_file()
        packed = path.is_dir() and not graph
        engine: Any = onnx.start(path) if graph else transformers.start(self._plain(path), precision="fp32") if packed else llamacpp.start(path)
        loaded = time.perf_counter() - began
        context = int(engine.model.config.max_position_embeddings) if packed else engine.context
        began = time.perf_counter()
        try:
            with self.context.progress.bar(f"gold set, {path.name}", len(self.gold.samples)) as advance:
                answers = self._asked(engine, context, advance)
            seconds = time.perf_counter() - began
            memory = None if packed else engine.memory()
        finally:
            engine.close()
        written = sum(answer.tokens[1] for answer in answers if answer.tokens is not None)
        coded = packed and self._plain(path) != path
        name = "transformers, with the weights that the codes stand for" if coded else "transformers" if packed else "onnxruntime" if graph else "llama.cpp"
        ran = Runtime(name, loaded, written / seconds if written else None, memory)
        return self._judged(system, answers, seconds), ran

    def reference(self, evaluated: EvalReport, precision: Literal["fp32", "bf16"]) -> EvalReport:
        """The tuned model's answers in fp32, as its files are computed: `evaluated` where that was its format, else it is asked once more.

        Rounded to bf16 it answers some rows otherwise, and an exact copy of its weights would seem to have lost them."""
        if precision == "fp32":
            return evaluated
        engine, began = transformers.TransformersEngine(self._source, self.chat, "fp32"), time.perf_counter()
        with self.context.progress.bar("gold set, tuned in fp32", len(self.gold.samples)) as advance:
            answers = self._asked(engine, int(engine.model.config.max_position_embeddings), advance)
        return self._judged(evaluated.system, answers, time.perf_counter() - began)

    def _asked(self, engine: Any, context: int, advance: Advance) -> list[Answer]:
        return Asker(engine, self.chat, context, advance, told=self.context.recipe.evaluate.decoding).answer(self.gold.samples, self.gold.task)

    def _judged(self, system: str, answers: list[Answer], seconds: float) -> EvalReport:
        evaluate = self.context.recipe.evaluate
        return judge(system, answers, self.gold, readable(evaluate.scorers), seconds, told=evaluate.decoding).report

    def closeness(self, path: Path) -> dict[str, Metric]:
        """The file's weights against the original's, both computed by transformers in fp32 (an ONNX folder by onnxruntime), on validation rows; nothing without any, or where
        both have other tokens."""
        if self.original is not None and _words(self.original.checkpoint) != _words(self.weights.checkpoint):
            self.context.progress.say("  closeness to the source was not measured: the vocabulary is another one")
            return {}
        text = self._text
        if not text:
            self.context.progress.say("  closeness to the source was not measured: there are no validation rows")
            return {}
        other: Any = onnx.start(path).logits if (path / GRAPH).is_file() else load(self._plain(path), "fp32")
        with self.context.progress.bar(f"against the source, {path.name}", len(text)) as advance:
            found = closeness(self._source, other, text, advance)
        shutil.rmtree(self._at(path), ignore_errors=True)
        return found

    @cached_property
    def _text(self) -> list[tuple[int, ...]]:
        return calibration_text.sequences(dataset.read(self.prepared), self.chat, split="validation", most=COMPARED).sequences

    @cached_property
    def _source(self) -> Any:
        of = self.original or self.weights
        return Calibration(of.checkpoint, of.adapter, (), self.context.work).model()

    def _at(self, path: Path) -> Path:
        return self.context.work / f"plain-{path.name}"

    def _plain(self, path: Path) -> Path:
        if path.is_dir() and "quantization_config" not in read_json(path / "config.json"):
            return path  # plain as it is
        target = self._at(path)
        if target.is_dir():
            return target
        if path.is_dir():
            return nf4.plain_folder(path, target) if nf4.is_nf4(path) else packed_checkpoint.plain_folder(path, target)
        return gguf_plain.plain_folder(path, self.weights.checkpoint, target)


def _words(checkpoint: Path) -> tuple[str, int]:
    """What the ids of a model stand for, and how many it predicts."""
    return Chat.load(checkpoint).tokenizer_hash, int(read_json(checkpoint / "config.json")["vocab_size"])
