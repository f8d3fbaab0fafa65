"""A model made smaller: layers, heads, channels or vocabulary taken out to a count or a size, or weights zeroed; said beforehand, measured afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem
from planish.evidence.recovered import Recovery, recovery
from planish.model.cut_folder import Source
from planish.model.vocabulary import Fertility, Vocabulary
from planish.progress import Progress
from planish.rows import Noun
from planish.scores import EvalReport
from planish.stages import _importance as measuring
from planish.stages._prune import PruneForecast, PruneReport, Removal, cut_of, forecast, prune, to_target, trim
from planish.stages._sparsify import TECHNIQUES, SparseReport, sparsify

__all__ = ["Agreed", "PruneForecast", "PruneReport", "Recovery", "Request", "SparseReport", "Text", "recovered", "run", "text", "text_of"]


@dataclass(frozen=True)
class Request:
    """What is asked: counts to remove, `vocabulary` tokens to keep, or a `target` (110M, 0.2B, 80%) reached by taking out `take`; or `zero`, a technique with its options.

    `compare`: every importance that the text allows, not only the one that chooses. `rewind`: the model as it was before tuning; the units are chosen in the tuned one and
    cut from this one, to be tuned again (the lottery-ticket check, arXiv 1803.03635).
    """

    removal: Removal = field(default_factory=Removal)
    target: str | None = None
    take: str = "channels"
    zero: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    compare: bool = False
    rewind: Path | None = None


@dataclass(frozen=True)
class Text:
    """Training rows as the model reads them (`sequences` of ids, a sample; `counted`, all of them as text) and validation rows as text. Gold is in none of them."""

    sequences: Sequence[Sequence[int]] = ()
    counted: Sequence[str] = ()
    held_out: Sequence[str] = ()


class Agreed(Noun):
    """How alike two methods rank the units of a kind (Spearman)."""

    kind: str
    one: str
    other: str
    rho: float
    n: int


def text_of(recipe: Path, folder: Path, workspace: Path, progress: Progress, *, rows: int = 128) -> Text:
    """The rows of a recipe, prepared (or as they lie from an earlier run), in the words of the model in `folder`; units are scored on `rows` of the training rows."""
    from planish import pipeline
    from planish.data import dataset
    from planish.model import calibration_text
    from planish.model.chat import Chat, Refused
    from planish.recipe import Recipe

    prepared = pipeline.run(Recipe.load(recipe), workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    data, chat = dataset.read(prepared), Chat.load(folder)
    written: dict[str, list[str]] = {"train": [], "validation": []}
    for split, texts in written.items():
        for row in data.rows("train" if split == "train" else "validation"):
            try:
                shown = data.task.conversation(row)
                texts.append(chat.text(shown.messages, prompt=False, tools=shown.tools))
            except (Refused, InputError):  # counted by preflight, which says so row by row
                continue
    return Text(calibration_text.sequences(data, chat, most=rows).sequences, written["train"], written["validation"])


def run(
    folder: Path, out: Path | None, request: Request, told: Text, progress: Progress
) -> tuple[PruneForecast | PruneReport | SparseReport, list[Agreed], Fertility | None]:
    """Forecast (`out` None) or write. Raises InputError, before anything is written, for what cannot go, for a rise in tokens above 3 % and for an impossible target."""
    source = Source(folder)
    if request.zero is not None:
        return _zeroed(source, out, request, told, progress), [], None
    removal = request.removal
    words = Vocabulary(folder) if removal.vocabulary is not None else None
    if words is not None and not (told.counted and told.held_out):
        raise InputError(
            Problem("vocabulary", "tokens are counted in training rows and held against validation rows, and there are none", "--recipe recipe.yaml")
        )
    if request.target is not None:
        removal = to_target(source, _size(request.target, source), request.take, removal)
    kinds = [kind for kind in ("layers", "heads", "channels") if getattr(removal, kind)]
    scores = measuring.measure(source, told.sequences, kinds, progress, by=removal.by, compare=request.compare) if kinds else {}
    cut = cut_of(source.units, removal, scores.get(removal.by, {}))
    fertility = None
    if words is not None:
        cut, fertility = trim(source, words, cut, told.counted, told.held_out, keep=removal.vocabulary)
    if request.rewind is not None:
        source = _rewound(source, request.rewind)
    agreed = [Agreed(**one._asdict()) for one in measuring.agreement(scores)]
    if out is None:
        said = forecast(source, cut, removal)
        # a loaded model in fp32 beside the pieces, and three times as much again where gradients are taken
        copies = {"magnitude": 0, "gradient": 4, "hessian": 4}.get(removal.by, 1) if kinds else 0
        return said.model_copy(update={"memory": said.memory + 4 * said.before * copies}), agreed, fertility
    keep = (lambda partial: measuring.write(scores, partial)) if scores else None
    return prune(source, cut, removal, out, words=words, measured=fertility, more=keep, progress=progress), agreed, fertility


def _zeroed(source: Source, out: Path | None, request: Request, told: Text, progress: Progress) -> SparseReport:
    if request.zero not in TECHNIQUES or request.target is not None or request.removal != Removal(by=request.removal.by):
        raise InputError(Problem("zero", "weights are zeroed by themselves", f"--zero {'|'.join(TECHNIQUES)}, without removals"))
    if out is None:
        raise InputError(Problem("zero", "there is nothing to forecast: the file stays as large as it is", "leave out --dry-run"))
    norms = None
    if told.sequences:
        from planish.model import gram
        from planish.model.load import load

        with progress.bar("calibration", len(told.sequences)) as advance:
            grams = gram.collect(load(source.folder, "fp32"), told.sequences, advance=advance)
        norms = lambda layer: grams.of(layer).norms  # noqa: E731 (a name for what the stage is handed)
    return sparsify(source, request.zero, request.options, out, norms=norms, progress=progress)


def _rewound(tuned: Source, start: Path) -> Source:
    """The model before tuning, in the same shapes. Raises InputError where it is another model."""
    found = Source(start)
    apart = sorted(name for name in found.entries.keys() | tuned.entries.keys() if _shape(found, name) != _shape(tuned, name))
    if apart or found.units != tuned.units:
        why = f"is no earlier state of {tuned.folder}: {apart[0] if apart else 'its units'} differ"
        raise InputError(Problem(str(start), why, "name the model that it was tuned from"))
    return found


def _shape(source: Source, name: str) -> tuple[int, ...] | None:
    return source.entries[name].shape if name in source.entries else None


def _size(given: str, source: Source) -> int:
    """Parameters of 110M, 0.2B, 110000000 or 80% of what there is."""
    units = {"K": 10**3, "M": 10**6, "B": 10**9, "%": sum(entry.size for entry in source.entries.values()) / 100}
    unit = given[-1:].upper()
    try:
        size = int(float(given[:-1]) * units[unit]) if unit in units else int(given)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(Problem("target", f'"{given}" is no size', "110M, 0.2B, or 80% of the parameters there are"))
    return size


def recovered(parent: Path, pruned: Path, again: Path, metric: str) -> Recovery:
    """What pruning cost and retraining won back, from the three evaluation reports (reports/NAME.json of an evaluate stage). Raises InputError where one is missing or is none."""
    problems, found = [], []
    for role, path in {"unpruned parent": parent, "pruned model": pruned, "recovered model": again}.items():
        try:
            found.append(EvalReport.model_validate_json(path.read_bytes()))
        except OSError:
            problems.append(Problem(str(path), f"the report of the {role} is missing", "evaluate all three on the same gold set"))
        except ValueError:
            problems.append(Problem(str(path), "is no evaluation report", "give reports/NAME.json of an evaluate stage"))
    if problems:
        raise InputError(*problems)
    return recovery(found[0], found[1], found[2], metric)


def text(done: PruneForecast | PruneReport | SparseReport, agreed: Sequence[Agreed], fertility: Fertility | None) -> str:
    """What a person reads."""
    if isinstance(done, SparseReport):
        lines = [f"{done.zeros:.1%} of {done.weights:,} weights are 0 (before: {done.zeros_before:.1%}), moved by {done.moved:.4f} of their length"]
        lines.append(f"{done.bytes:,} bytes, as before; kept values and a bit mask would take {done.mask_bytes:,} for the matrices (arithmetic)")
        lines.append(
            f"a product with the widest matrix takes 1/{done.speed_dense:.2f} of its time as dense zeros, 1/{done.speed_rows:.2f} in compressed rows (measured)"
        )
        return "\n".join([*lines, done.note])
    lines = [f"{one.kind}: {one.one} and {one.other} rank alike to {one.rho:+.2f} (Spearman, n = {one.n})" for one in agreed]
    if fertility is not None:
        lines.append(f"held-out text: {fertility['before']:,.0f} tokens -> {fertility['after']:,.0f} ({fertility['rise']:+.2%})")
    lines += [f"warning: {warning}" for warning in done.warnings]
    made = isinstance(done, PruneReport)
    lines.append(
        f"{done.before:,} parameters -> {done.after:,} (-{done.before - done.after:,}, {done.share:.1%} {'removed' if made else 'would go'}); {done.bytes:,} bytes"
    )
    lines.append(
        f"written in {done.seconds:.1f} s"
        if isinstance(done, PruneReport)
        else f"about {done.memory / 2**20:.0f} MiB beside the libraries, and {done.seconds:.0f} s to write it (estimated)"
    )
    return "\n".join(lines)
