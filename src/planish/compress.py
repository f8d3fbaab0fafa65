"""`planish compress --dry-run`: what every file, smaller model and merge of a recipe would take in bytes, time and memory; nothing is tuned, written or asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from planish import merge, plan
from planish.errors import InputError, Problem
from planish.model.plan import steps_for
from planish.progress import Progress
from planish.recipe import Recipe
from planish.recipe_compress import PruneEntry
from planish.recipe_keys import Use
from planish.rows import Noun, canonical_json
from planish.stages._compress_forecast import FileForecast, Passes, Texts, forecasts, passes
from planish.stages._merge_report import MergeForecast
from planish.stages._merged import spec_of, untuned
from planish.stages._prune import PruneForecast, Removal
from planish.stages._pruning import Request, Text, read_text, run


class Cut(Noun):
    """A smaller model, forecast as if all went in one step; recovery's memory (bytes, upper end) and seconds of all steps; files in proportion to the size."""

    name: str
    forecast: PruneForecast
    recovery_memory: float | None
    recovery_seconds: float
    files: list[FileForecast]


class Merged(Noun):
    """A merge of the tuned model, forecast on its base, which has the same shapes."""

    name: str
    forecast: MergeForecast
    files: list[FileForecast]


class CompressForecast(Noun):
    """Everything a recipe's compress asks for. `memory` is the most at one time, beside the libraries."""

    model: str
    bytes: int
    passes: Passes
    files: list[FileForecast]
    pruned: list[Cut]
    merged: list[Merged]
    seconds: float
    memory: float
    kind: str = "estimated"


def forecast(recipe: Recipe, workspace: Path, progress: Progress) -> CompressForecast:
    """Rows are prepared where they are not, and every exporter writes a slice of the base. Raises InputError where nothing is compressed, and as the stage does."""
    from planish import pipeline
    from planish.data import dataset
    from planish.model import bundled, calibration_text
    from planish.model.asker import decoding_of
    from planish.model.chat import Chat
    from planish.model.cut_folder import Source
    from planish.stages import compress as stage
    from planish.stages._file_scoring import COMPARED, read_matrices
    from planish.store import Store

    if recipe.compress is None:
        raise InputError(Problem("compress", "the recipe asks for no compression", "add one: compress: {export: [gguf]}"))
    asked = recipe.compress
    stage.preflight(recipe, Store(workspace))
    prepared = pipeline.run(recipe.model_copy(update={"train": []}), workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    folder = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    data, chat = dataset.read(prepared), Chat.load(folder)
    held = calibration_text.sequences(data, chat, split="validation", most=COMPARED)
    each = sum(map(len, held.sequences)) / max(1, len(held.sequences))
    gold, answer = data.manifest.counts["gold"], held.said / max(1, len(held.sequences))
    told = Texts(
        sequences=tuple(calibration_text.sequences(data, chat).sequences),
        gold=round(gold * (each - answer)),
        # a label is chosen by what may come first, and not written
        answers=gold if data.task.shape == "classification" else round(gold * min(answer, decoding_of(data.task, recipe.evaluate.decoding).max_new_tokens)),
        compared=sum(map(len, held.sequences)),
    )
    source = Source(folder)
    named = [*asked.export, *(use for entry in asked.prune for use in entry.export), *(use for entry in asked.merges for use in entry.export)]
    uses = {canonical_json(use.model_dump(mode="json")): use for use in named}
    taken = passes(dict(source.config), told, matrices=read_matrices(named))
    known = dict(zip(uses, forecasts(folder, list(uses.values()), told, taken, progress), strict=True))

    def files(wanted: Sequence[Use], share: float = 1.0) -> list[FileForecast]:
        return [known[canonical_json(use.model_dump(mode="json"))].of_part(share) for use in wanted or asked.export]

    rows = data.manifest.counts["train"]
    cuts = []
    for number, entry in enumerate(asked.prune, start=1):
        said = _pruned(entry, folder, read_text(data, chat, entry.rows), progress)
        memory, seconds = _recovery(recipe, entry, rows, each, taken.token * said.after / said.before)
        cut = Cut(name=f"pruned-{number}", forecast=said, recovery_memory=memory, recovery_seconds=seconds, files=files(entry.export, said.after / said.before))
        cuts.append(cut)
    merges = []
    for number, other in enumerate(asked.merges, start=1):
        with TemporaryDirectory() as aside:
            spec = spec_of(other, folder, recipe.resolve, f"compress.merge[{number - 1}]", str(untuned(folder, Path(aside) / "tuned")))
            merges.append(Merged(name=f"merged-{number}", forecast=merge.forecast(spec, folder), files=files(other.export)))
    own = files(asked.export)
    everyone = [*own, *(one for cut in cuts for one in cut.files), *(one for merged in merges for one in merged.files)]
    made = [*((cut.forecast.seconds, cut.forecast.memory) for cut in cuts), *((merged.forecast.seconds, merged.forecast.memory) for merged in merges)]
    return CompressForecast(
        model=folder.name,
        bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        passes=taken,
        files=own,
        pruned=cuts,
        merged=merges,
        seconds=taken.calibration * any(one.calibrated for one in everyone)
        + sum(one.seconds or 0 for one in everyone)
        + sum(seconds for seconds, _ in made)
        + sum(cut.recovery_seconds for cut in cuts),
        memory=max([0, *(one.memory for one in everyone), *(memory for _, memory in made), *(cut.recovery_memory or 0 for cut in cuts)]),
    )


def _pruned(entry: PruneEntry, folder: Path, told: Text, progress: Progress) -> PruneForecast:
    removal = Removal(layers=entry.layers, heads=entry.heads, channels=entry.channels, vocabulary=entry.vocabulary)
    # by magnitude: how much goes does not depend on what chooses it
    said, _, _ = run(folder, None, Request(removal=removal, target=entry.target, latency=entry.latency, take=entry.take), told, progress)
    assert isinstance(said, PruneForecast)
    return said


def _recovery(recipe: Recipe, entry: PruneEntry, rows: int, row: float, token: float) -> tuple[float | None, float]:
    """Bytes at the peak and seconds of all steps: three passes for each trained token. `row` is the tokens of a row, `token` the seconds of a pass over one."""
    section = entry.recover
    if section is None:
        return None, 0.0
    [planned] = plan.plan(recipe.model_copy(update={"train": [section]}), plan.machine(None, None))
    steps = steps_for(min(rows, section.max_rows or rows), section.batch_size, section.epochs, section.max_steps)
    tokens = section.max_tokens or steps * section.batch_size * row
    return planned.estimate.high, 3 * tokens * token * entry.steps


def text(found: CompressForecast) -> str:
    """What a person reads."""
    lines = [f"{found.model}: {found.bytes / 1e6:.1f} MB; nothing was written"]
    lines += [_line(one) for one in found.files]
    for cut in found.pruned:
        said = cut.forecast
        lines.append(f"{cut.name}: {said.before:,} parameters -> {said.after:,} ({said.share:.1%} would go)")
        lines += [f"  warning: {warning}" for warning in said.warnings]
        if cut.recovery_memory is not None:
            lines.append(f"  recovery: about {cut.recovery_seconds:.0f} s, at most {cut.recovery_memory / 1e9:.2f} GB")
        lines += [f"  {_line(one)}" for one in cut.files]
    for merged in found.merged:
        lines.append(f"{merged.name}: {merged.forecast.bytes / 1e6:.1f} MB, about {merged.forecast.seconds:.0f} s")
        lines += [f"  {_line(one)}" for one in merged.files]
    lines.append(f"calibration, once for all files that need it: about {found.passes.calibration:.0f} s")
    lines.append(f"all of it: about {found.seconds:.0f} s, at most {found.memory / 1e9:.2f} GB beside the libraries (estimated; sizes from the shapes)")
    return "\n".join(lines)


def _line(one: FileForecast) -> str:
    if one.bytes is None or one.seconds is None:
        return f"{one.file}: cannot be made here: {one.missing}"
    return f"{one.file}: {one.bytes / 1e6:.1f} MB, about {one.seconds:.0f} s to write and score, {one.memory / 1e9:.2f} GB"
