"""A model made smaller: layers, heads, channels or vocabulary taken out to a count, a size or a latency, or weights zeroed; said beforehand, measured afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planish.errors import InputError, Problem
from planish.evidence.recovered import Recovery, recovery
from planish.model.vocabulary import Fertility
from planish.progress import Progress
from planish.scores import EvalReport
from planish.stages._prune import PruneForecast, PruneReport
from planish.stages._pruning import Agreed, Request, Text, read_text, run
from planish.stages._sparsify import SparseReport

__all__ = ["Agreed", "PruneForecast", "PruneReport", "Recovery", "Request", "SparseReport", "Text", "recovered", "run", "text", "text_of"]


def text_of(recipe: Path, folder: Path, workspace: Path, progress: Progress, *, rows: int = 128) -> Text:
    """The rows of a recipe, prepared (or as they lie from an earlier run), in the words of the model in `folder`; units are scored on `rows` of the training rows."""
    from planish import pipeline
    from planish.data import dataset
    from planish.model.chat import Chat
    from planish.recipe import Recipe

    prepared = pipeline.run(Recipe.load(recipe), workspace=workspace, until="prepare", progress=progress).stages["prepare"].folder
    assert prepared is not None  # nothing gates prepare
    return read_text(dataset.read(prepared), Chat.load(folder), rows)


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
    if done.latency is not None:
        timed = done.latency
        lines.append(f"{timed.before:.2f} ms a token -> {timed.after:.2f} ms, wanted {timed.target:.2f} ms (measured: {timed.how})")
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
