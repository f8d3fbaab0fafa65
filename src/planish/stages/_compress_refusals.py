"""What compression is asked for and cannot have, said before anything runs: units that are not there, sizes out of reach, parents that do not fit, figures of no file (R-1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from planish import rules, shelf
from planish.data.task import COST, FINISH, METRICS
from planish.errors import InputError, Problem, did_you_mean
from planish.evidence.facts import BASE
from planish.model import bundled
from planish.model.cut_folder import Source
from planish.model.units import layout, whole
from planish.model.vocabulary import Vocabulary
from planish.progress import Silent
from planish.recipe import Recipe
from planish.recipe_compress import CompressSection, PruneEntry
from planish.recipe_keys import Use
from planish.stages import _merged, _recover
from planish.stages._export_refusals import unfit, unwritable
from planish.stages._latency import milliseconds
from planish.stages._package import FIGURES
from planish.stages._prune import forecast, shape_of
from planish.stages._pruning import resolved
from planish.stages._scoring import reads
from planish.stages._variants import request_of, schedule
from planish.store import Store


def refusals(recipe: Recipe, store: Store) -> list[Problem]:
    """Every one of them. `recipe` has the scorers of its task where the task is known."""
    assert recipe.compress is not None
    asked = recipe.compress
    base = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    problems = [*_figures(asked, {use.name for use in recipe.evaluate.scorers}), *unwritable(asked.export, base, "compress.export")]
    if not (asked.export or asked.prune or asked.merges):
        problems.append(Problem("compress", "no file would be made", "add one: export: [{gguf: {quant: Q4_K_M}}], or take compress out"))
    if asked.prune and not asked.export:
        why = "a smaller model is held against quantisation at equal size, and no file is made of the uncut one"
        problems.append(Problem("compress.prune", why, "add one: export: [{gguf: {quant: Q4_K_M}}]"))
    for number, entry in enumerate(asked.prune):
        where = f"compress.prune[{number}]"
        problems += _recover.refusals(recipe, entry, f"{where}.recover", store)
        if entry.by == "influence" and (entry.heads or entry.channels or ((entry.target or entry.latency) and entry.take != "layers")):
            problems.append(Problem(f"{where}.by", "influence scores layers alone", "choose gradient, hessian, obs or activation"))
        problems += [*_uncuttable(entry, asked, base, where), *unwritable(entry.export, base, f"{where}.export")]
    for number, other in enumerate(asked.merges):
        where = f"compress.merge[{number}]"
        if not (other.export or asked.export):
            problems.append(Problem(f"{where}.export", "no file would be made of the merged model", "export: [{gguf: {quant: Q4_K_M}}]"))
        problems += [*_merged.refusals(other, base, recipe.resolve, where), *unwritable(other.export, base, f"{where}.export")]
    return problems


def _figures(asked: CompressSection, scorers: set[str]) -> Iterator[Problem]:
    """Rules on what no file has: a rule on it would fail every file, after hours. Of a metric that is known with the rows alone (`f1.<label>`) its family is here."""
    named = scorers or {*shelf.shelf("scorers")}
    always = (*FINISH, *COST)
    known = [*FIGURES, *(f"{prefix}{metric}" for prefix in ("", f"{BASE}.") for metric in (*always, *_metrics(sorted(named))))]
    for text in asked.gate:
        rule = rules.parse(text, where="compress.gate")
        for name in (rule.metric, rule.reference):
            if name is None or name in FIGURES:
                continue
            if rules.sliced(name) is not None:
                yield Problem("compress.gate", f'"{text}": files are not scored by slices', "judge slices in the gate before it: gate")
                continue
            metric = name.removeprefix(f"{BASE}.")
            scorer, _, figure = metric.partition(".")
            if metric in always:
                continue
            if not figure or scorer not in named or not _reported(scorer, figure):
                yield Problem("compress.gate", f'"{text}": {name} is measured of no file', did_you_mean(name, known))
            elif metric == name and reads(Use(name=scorer)) != "text":
                why = f'"{text}": {scorer} reads log-probabilities, and of a file only answers are scored'
                yield Problem("compress.gate", why, "judge it in the gate before it: gate; kl and top1_agreement say how near a file is to its source")


def _metrics(scorers: Sequence[str]) -> Iterator[str]:
    return (f"{scorer}.{metric}" for scorer in scorers for metric in METRICS.get(scorer, ()))


def _reported(scorer: str, figure: str) -> bool:
    """Whether a scorer has a figure of this name, or one of its family; of a scorer from outside nobody knows beforehand."""
    families = METRICS.get(scorer)
    return families is None or any(figure == one or (one.endswith(">") and figure.startswith(one.partition("<")[0])) for one in families)


def _uncuttable(entry: PruneEntry, asked: CompressSection, base: Path, where: str) -> list[Problem]:
    """Held against the base, whose shapes and tokens the tuned model has. What a latency comes to is measured once the model is there."""
    try:
        source, request = Source(base), request_of(entry)
        if entry.vocabulary is not None:  # how many ids there may be; which ones, and what they cost, is counted in the rows
            ids, words = torch.zeros(source.units.vocabulary, dtype=torch.long), Vocabulary(base)
            shelf.call("transforms", "vocabulary", "transform", {"keep": entry.vocabulary})(whole(source.units), ids, words.required, lambda one: {one})
        if entry.latency is not None:
            milliseconds(entry.latency)
            shape_of(source.units, request.removal)
            return []
        removal, _ = resolved(source, request, Silent())
        schedule(removal, entry.steps)
        cut = shape_of(source.units, removal)
        forecast(source, cut, removal)
    except InputError as refused:
        return [_at(one, where) for one in refused.problems]
    left = {name: shape for name, (_, shape) in layout(source.entries, source.units, cut).items()}
    return unfit(entry.export or asked.export, left, where)


def _at(one: Problem, where: str) -> Problem:
    """A problem of an entry's key, at its place in the recipe."""
    key = one.where.removeprefix("compress.prune.")
    return Problem(f"{where}.{key}", one.why, one.fix) if key in PruneEntry.model_fields else one
