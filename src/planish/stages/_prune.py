"""One pruning from a model folder to a smaller one: what goes is chosen by score, the size said beforehand, the rest streamed into a plain checkpoint (MISSION Z9, Z11)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.model.bundled import identity
from planish.model.cut_folder import Source, check_loads, selected, write_cut
from planish.model.json_object import read_json
from planish.model.safetensors_header import BYTES
from planish.model.step_time import StepTime
from planish.model.tensor_stream import PIECE
from planish.model.units import Cut, Units, cut_config, layout, parameters, whole
from planish.model.vocabulary import Fertility, Vocabulary, fertility, with_new_ids
from planish.progress import Progress, Silent
from planish.rows import Noun, canonical_json
from planish.shelf import call
from planish.store.objects import write_folder

REPORT = "prune_report.json"
TOO_MUCH = 1 / 3
"""Share of the parameters above which the field's own figures fall off (Minitron, ModelOpt: the Pareto region ends there)."""
TECHNIQUES = {"layers": "prune_layers", "heads": "prune_heads", "channels": "prune_channels"}
"""What is counted in a request -> the file on the transforms shelf, in the order they are applied."""
BLOCK = 32
"""Neighbours of a row that share a scale in every quantised format, at least."""
FERTILITY = 0.03
"""Rise in tokens of the user's own text that a smaller vocabulary may cost: above it every answer takes that much longer."""


class Removal(Noun):
    """How many to remove: layers of the model; groups of heads and channels of every layer. `vocabulary` is the number of tokens kept, `by` the importance that chose."""

    layers: int = 0
    heads: int = 0
    channels: int = 0
    vocabulary: int | None = None
    by: str = "magnitude"


class PruneForecast(Noun):
    """What would be left: parameters and bytes exact, memory (bytes) and seconds estimates. `share` is the part of the parameters that goes; `latency` where it was the target."""

    parent: str
    removal: Removal
    before: int
    after: int
    share: float
    bytes: int
    memory: int
    seconds: float
    warnings: list[str] = []
    latency: StepTime | None = None


class PruneReport(PruneForecast):
    """What was done: kept units by number of the source, the parent's identity; seconds are measured."""

    parent_identity: str
    kept_layers: list[int]
    kept_groups: list[list[int]]
    kept_channels: list[list[int]]
    fertility: dict[str, float] | None = None


Scores = Mapping[str, Tensor | None]
"""Kind (layers, heads, channels) -> scores of the source's units; layers may be None: from the end."""


def cut_of(units: Units, removal: Removal, scores: Scores) -> Cut:
    """The cut that takes the units with the lowest scores. Raises InputError where as many cannot go."""
    cut = whole(units)
    for kind, technique in TECHNIQUES.items():
        count = getattr(removal, kind)
        if count:
            cut = call("transforms", technique, "transform", {"remove": count})(cut, scores[kind])
    return cut


def shape_of(units: Units, removal: Removal) -> Cut:
    """A cut of as many units and ids as would go, whichever they are: for the size and the time of a model before anything is scored. Raises InputError as `cut_of` does."""
    blank: dict[str, Tensor | None] = {"layers": None, "heads": torch.zeros(units.layers, units.groups), "channels": torch.zeros(units.layers, units.channels)}
    cut = cut_of(units, removal, blank)
    return cut if removal.vocabulary is None else replace(cut, vocabulary=tuple(range(min(removal.vocabulary, units.vocabulary))))


def to_target(source: Source, target: int, kind: str, removal: Removal) -> Removal:
    """`removal` with as many more of one kind (layers, heads, channels) as bring the model to `target` parameters or below, channels in whole blocks; a trimmed vocabulary
    counts towards it.

    Raises InputError naming the smallest size, and for a target that is met without any more."""
    units = source.units
    most = {"layers": units.layers, "heads": units.groups, "channels": units.channels}[kind] - 1

    def size(count: int) -> int:
        return parameters(layout(source.entries, units, shape_of(units, removal.model_copy(update={kind: count}))))

    if size(0) <= target:
        raise InputError(Problem("target", f"{size(0):,} parameters are left already without {kind}, {target:,} is no less", "give a smaller target, or none"))
    if (least := size(most)) > target:
        raise InputError(
            Problem("target", f"with all {kind} gone but one, {least:,} parameters are left: {target:,} is impossible", "remove other units too, or distil")
        )
    low, high = 0, most  # size(low) > target >= size(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(middle) <= target else (middle, high)
    return removal.model_copy(update={kind: in_blocks(units, kind, high)})


def in_blocks(units: Units, kind: str, count: int) -> int:
    """As many units as `count`, or so many more that the channels left fill whole blocks of quantised files, where those of the model did: one channel less than a block is
    kept in 16 bits, which undoes what was gained."""
    left = units.channels - count
    return count if kind != "channels" or units.channels % BLOCK or left < BLOCK else count + left % BLOCK


def trim(
    source: Source, words: Vocabulary, cut: Cut, counted: Sequence[str], held_out: Sequence[str], *, keep: int | None = None, above: int = 0
) -> tuple[Cut, Fertility]:
    """The cut with the vocabulary that the counted texts need, and what it costs on held-out texts in tokens. Raises InputError for a rise above 3 %."""
    if (last := max(words.required | {*words.ids.values()})) >= source.units.vocabulary:
        why = f"knows the id {last}, the model has {source.units.vocabulary} rows"
        raise InputError(Problem(str(source.folder / "tokenizer.json"), why, "use the tokenizer that belongs to the model"))
    counts = words.counted(counted, source.units.vocabulary)
    trimmed: Cut = call("transforms", "vocabulary", "transform", {"keep": keep, "above": above})(cut, counts, words.required, words.parts)
    assert trimmed.vocabulary is not None
    measured = fertility(words, words.trimmed(trimmed.vocabulary)["tokenizer.json"], trimmed.vocabulary, held_out)
    if measured["rise"] > FERTILITY:
        why = f"the held-out text would take {measured['rise']:.1%} more tokens, more than {FERTILITY:.0%}"
        raise InputError(Problem("vocabulary", why, "keep more tokens, or count them in more of the text that the model will meet"))
    return trimmed, measured


def forecast(source: Source, cut: Cut, removal: Removal, latency: StepTime | None = None) -> PruneForecast:
    """Sizes of a cut, checked to load. Raises InputError for shapes that transformers cannot build and for a cut that takes nothing."""
    config, shapes = cut_config(source.config, source.units, cut), layout(source.entries, source.units, cut)
    check_loads(config, shapes)
    before, after = sum(entry.size for entry in source.entries.values()), parameters(shapes)
    if after >= before:
        raise InputError(Problem("prune", "nothing would be removed", "say what: --layers, --heads, --channels, --vocabulary or --target"))
    share = (before - after) / before
    much = f"{share:.1%} of the parameters go, more than a third: expect a collapse that recovery does not make good; distil into a smaller model first"
    return PruneForecast(
        parent=source.folder.resolve().name,
        removal=removal,
        before=before,
        after=after,
        share=share,
        bytes=sum(math.prod(shape) * BYTES[dtype] for dtype, shape in shapes.values()),
        memory=6 * PIECE * 4,
        seconds=2 * after * _seconds_a_value(source),
        warnings=[*([much] if share > TOO_MUCH else []), *_narrow(source.units.channels, config["intermediate_size"])],
        latency=latency,
    )


def _narrow(before: int, left: int) -> list[str]:
    """What quantised files make of a width that their blocks do not divide, where they divided it before."""
    if before % BLOCK or not left % BLOCK:
        return []
    why = (
        f"{left} channels are left in every layer, no multiple of {BLOCK}: gguf keeps down_proj in 16 bits, and other exporters refuse it in groups of {BLOCK}"
    )
    return [f"{why}; remove {left % BLOCK} more" if left > BLOCK else why]


def prune(
    source: Source,
    cut: Cut,
    removal: Removal,
    out: Path,
    *,
    words: Vocabulary | None = None,
    measured: Fertility | None = None,
    latency: StepTime | None = None,
    more: Callable[[Path], object] | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Write what the cut leaves to the new folder `out`; gives the report that lies in it. The source is never changed, and nothing is left of a failure.

    `words` where the cut trims the vocabulary, with the `measured` fertility; `latency` is what was measured to choose the cut; `more` writes what is kept beside the weights.

    Raises InputError for an `out` that exists or lies in the source, and for weights that are not finite; RunFailed on a full disk.
    """
    refuse_place(source.folder, out)
    began, shown = time.perf_counter(), progress or Silent()
    told = forecast(source, cut, removal, latency)
    reports: list[PruneReport] = []

    def fill(partial: Path) -> None:
        with shown.bar("prune", len(layout(source.entries, source.units, cut))) as advance:
            write_cut(source, cut, partial, advance)
        if words is not None and cut.vocabulary is not None:
            _write_words(words, cut.vocabulary, partial)
        reports.append(
            PruneReport(
                **told.model_dump(exclude={"seconds"}),
                parent_identity=identity(source.folder),
                kept_layers=list(cut.layers),
                kept_groups=[list(kept) for kept in cut.groups],
                kept_channels=[list(kept) for kept in cut.channels],
                fertility=measured,
                seconds=time.perf_counter() - began,
            )
        )
        if more is not None:
            more(partial)
        recounted = Source(partial)
        if (found := sum(entry.size for entry in recounted.entries.values())) != told.after:
            raise RunFailed(Problem(str(out), f"has {found:,} parameters on disk, {told.after:,} were to be", "prune again"))
        (partial / REPORT).write_text(canonical_json(reports[0].model_dump(mode="json")) + "\n", encoding="utf-8")

    write_folder(out, fill, replace=False)
    return reports[0]


def _write_words(words: Vocabulary, kept: Sequence[int], folder: Path) -> None:
    """Tokenizer, map and configurations of the trimmed vocabulary over what was carried; files that say the old one in another form go."""
    for name in ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    for name, text in words.trimmed(kept).items():
        (folder / name).write_text(text, encoding="utf-8")
    config = with_new_ids(read_json(folder / "config.json"), kept)
    (folder / "config.json").write_text(canonical_json(config) + "\n", encoding="utf-8")


def _seconds_a_value(source: Source) -> float:
    """From reading the first piece of the largest tensor; writing takes about as long."""
    name = max(source.entries, key=lambda name: source.entries[name].size)
    began = time.perf_counter()
    piece = next(selected(source, name, None, None))
    return (time.perf_counter() - began) / piece.numel()


def refuse_place(source: Path, out: Path) -> None:
    """Raises InputError for an output that exists, or lies in what is read."""
    if out.exists():
        raise InputError(Problem(str(out), "exists already", "give a new folder"))
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(Problem(str(out), f"lies inside {source}, which is read and never changed", "give a folder elsewhere"))
