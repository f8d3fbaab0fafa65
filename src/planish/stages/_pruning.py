"""One request for a smaller model, carried out: what is removed or zeroed, chosen on training text, reached by count, size or latency; forecast or written (MISSION Z7 to Z11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planish.data.dataset import Dataset
from planish.errors import InputError, Problem
from planish.model import calibration_text
from planish.model.chat import Chat, Refused
from planish.model.cut_folder import Source
from planish.model.step_time import StepTime
from planish.model.vocabulary import Fertility, Vocabulary
from planish.progress import Progress
from planish.rows import Noun
from planish.stages import _importance as measuring
from planish.stages._latency import to_latency
from planish.stages._prune import PruneForecast, PruneReport, Removal, cut_of, forecast, prune, refuse_place, to_target, trim
from planish.stages._sparsify import TECHNIQUES, SparseReport, sparsify


@dataclass(frozen=True)
class Request:
    """What is asked: counts to remove, `vocabulary` tokens to keep, a `target` size (110M, 0.2B, 80%) or a `latency` (20 ms, 60 tokens/s) reached by taking out `take`;
    or `zero`, a technique with its options.

    `compare`: every importance that the text allows, not only the one that chooses. `rewind`: the model as it was before tuning; the units are chosen in the tuned one and
    cut from this one, to be tuned again (the lottery-ticket check, arXiv 1803.03635).
    """

    removal: Removal = field(default_factory=Removal)
    target: str | None = None
    latency: str | None = None
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


def read_text(data: Dataset, chat: Chat, rows: int = 128) -> Text:
    """The rows of a prepared data set in the words of `chat`; units are scored on `rows` of the training rows."""
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
    if out is not None:
        refuse_place(folder, out)  # before units are scored, which may take hours
    if request.zero is not None:
        return _zeroed(source, out, request, told, progress), [], None
    words = Vocabulary(folder) if request.removal.vocabulary is not None else None
    if words is not None and not (told.counted and told.held_out):
        raise InputError(
            Problem("vocabulary", "tokens are counted in training rows and held against validation rows, and there are none", "--recipe recipe.yaml")
        )
    removal, timed = resolved(source, request, progress)
    kinds = [kind for kind in ("layers", "heads", "channels") if getattr(removal, kind)]
    scores = measuring.measure(source, told.sequences, kinds, progress, by=removal.by, compare=request.compare) if kinds else {}
    cut = cut_of(source.units, removal, scores.get(removal.by, {}))
    fertility = None
    if words is not None:
        cut, fertility = trim(source, words, cut, told.counted, told.held_out, keep=request.removal.vocabulary)
    if request.rewind is not None:
        source = _rewound(source, request.rewind)
    agreed = [Agreed(**one._asdict()) for one in measuring.agreement(scores)]
    if out is None:
        said = forecast(source, cut, removal, timed)
        # a loaded model in fp32 beside the pieces, and three times as much again where gradients are taken
        copies = {"magnitude": 0, "gradient": 4, "hessian": 4}.get(removal.by, 1) if kinds else 0
        return said.model_copy(update={"memory": said.memory + 4 * said.before * copies}), agreed, fertility
    keep = (lambda partial: measuring.write(scores, partial)) if scores else None
    return prune(source, cut, removal, out, words=words, measured=fertility, latency=timed, more=keep, progress=progress), agreed, fertility


def resolved(source: Source, request: Request, progress: Progress) -> tuple[Removal, StepTime | None]:
    """The counts that a target comes to, and what was measured for a latency. Raises InputError for a target that is met already, out of reach, or given twice over."""
    if request.target is not None and request.latency is not None:
        raise InputError(Problem("latency", "a size and a latency are both targets", "keep one"))
    if request.target is not None:
        return to_target(source, _size(request.target, source), request.take, request.removal), None
    if request.latency is not None:
        progress.say("  measuring the time of a token at several sizes")
        return to_latency(source, request.latency, request.take, request.removal)
    return request.removal, None


def _zeroed(source: Source, out: Path | None, request: Request, told: Text, progress: Progress) -> SparseReport:
    if request.zero not in TECHNIQUES or request.target is not None or request.latency is not None or request.removal != Removal(by=request.removal.by):
        raise InputError(Problem("zero", "weights are zeroed by themselves", f"--zero {'|'.join(TECHNIQUES)}, without removals"))
    if request.rewind is not None:
        raise InputError(Problem("rewind", "takes units out of an earlier model, and zeros are none", "leave it out, or remove channels, heads or layers"))
    if out is None:
        raise InputError(Problem("zero", "there is nothing to forecast: the file stays as large as it is", "leave out --dry-run"))
    norms = None
    if told.sequences:
        from planish.model.gram_pass import collect
        from planish.model.load import load

        with progress.bar("calibration", len(told.sequences)) as advance:
            grams = collect(load(source.folder, "fp32"), told.sequences, matrices=False, advance=advance)
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
