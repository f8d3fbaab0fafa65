"""A smaller model that a package is made of beside the tuned one: cut and recovered in steps, a plain checkpoint in the work folder, with what it cost (MISSION Z9, Z10)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.data import dataset
from planish.errors import InputError, Problem
from planish.evidence.recovered import recovery
from planish.model import bundled, trained
from planish.model.chat import Chat
from planish.model.cut_folder import Source
from planish.model.load import load
from planish.model.merging import MergeSpec
from planish.model.merging import Source as Part
from planish.recipe_compress import PruneEntry
from planish.recipe_keys import Use
from planish.rows import content_hash
from planish.scores import EvalReport
from planish.stages._context import Context
from planish.stages._merge import merge_models
from planish.stages._plain import Plain
from planish.stages._prune import PruneReport, Removal
from planish.stages._pruning import Request, read_text, resolved, run
from planish.stages._recover import from_parent, recover
from planish.stages._scoring import primary

KINDS = ("layers", "heads", "channels")
Score = Callable[[Any, Chat, str], EvalReport]
"""A model of this process, its tokenizer and a name -> what it scores on the gold set."""


@dataclass(frozen=True)
class Variant:
    """A model beside the tuned one. `name` is its folder in the package, `story` what was done, for the report; `cut` where it is smaller than the tuned model."""

    name: str
    checkpoint: Path
    export: Sequence[Use]
    story: dict[str, Any]
    cut: bool


def whole(weights: Plain, work: Path) -> Path:
    """The tuned model as one checkpoint folder: a LoRA folder is merged, stretch by stretch, in the number format of its base."""
    if weights.adapter is None:
        return weights.checkpoint
    out = work / "tuned"
    if not out.is_dir():
        spec = MergeSpec(method="linear", base=str(weights.checkpoint.absolute()), models=[Part(path=str(weights.adapter.absolute()))])
        merge_models(spec, out, relative_to=work)
        trained.name_base(out, weights.checkpoint)
    return out


def pruned(
    context: Context,
    entry: PruneEntry,
    number: int,
    tuned: Path,
    prepared: Path,
    score: Score,
    teacher: EvalReport,
    groups: Mapping[str, str] | None = None,
) -> Variant:
    """The tuned model cut and recovered in the entry's steps, and, where it was recovered, damage and recovery on the gold set (MISSION Z10)."""
    assert context.recipe.compress is not None
    name = f"pruned-{number}"
    work = context.work / f"{name}-{content_hash({'entry': entry.model_dump(mode='json'), 'of': bundled.identity(tuned)})[:12]}"
    data = dataset.read(prepared)
    goal, timed = resolved(Source(tuned), request_of(entry), context.progress)
    now, reports, damaged = tuned, list[dict[str, Any]](), None
    for step, removal in enumerate(schedule(goal, entry.steps), start=1):
        place = work / str(step)
        if not (place / "cut").is_dir():
            text = read_text(data, Chat.load(now), entry.rows)  # in the words of what is cut: a step may have trimmed the vocabulary
            run(now, place / "cut", Request(removal=removal), text, context.progress)
        done = PruneReport.model_validate_json((place / "cut" / "prune_report.json").read_bytes())
        reports.append(done.model_dump(mode="json", exclude={"kept_layers", "kept_groups", "kept_channels"}))
        context.progress.say(f"  {name}, step {step} of {entry.steps}: {done.before:,} parameters -> {done.after:,}")
        now = place / "cut"
        if entry.recover is not None:
            if step == entry.steps:
                damaged = score(load(now, "fp32"), Chat.load(now), f"{name}, before recovery")
            uncut = _speaking(tuned, goal, prepared, work, context) if from_parent(entry.recover) else tuned
            now = recover(context, entry.recover, now, uncut, prepared, place, f"recovery, {name}, step {step}")
            _keep_beside(place / "cut", now)
    story: dict[str, Any] = {"kind": "pruned", "steps": reports, "latency": timed.model_dump() if timed else None, "by": entry.by}
    if damaged is not None:
        again = score(load(now, "fp32"), Chat.load(now), f"{name}, recovered")
        try:
            story["recovery"] = recovery(teacher, damaged, again, primary(context.recipe.evaluate.scorers), groups=groups).model_dump(mode="json")
            context.progress.say(f"  {name}: {story['recovery']['sentence']}")
        except InputError as undefined:  # a ratio to a score of 0; the files are scored all the same
            story["unrecovered"] = undefined.problems[0].why
            context.progress.say(f"  {name}: how much was recovered cannot be said: {undefined.problems[0].why}")
    return Variant(name, now, entry.export or context.recipe.compress.export, story, cut=True)


def request_of(entry: PruneEntry) -> Request:
    """What `planish prune` would be asked."""
    removal = Removal(layers=entry.layers, heads=entry.heads, channels=entry.channels, vocabulary=entry.vocabulary, by=entry.by)
    return Request(removal=removal, target=entry.target, latency=entry.latency, take=entry.take)


def schedule(goal: Removal, steps: int) -> list[Removal]:
    """A removal in equal steps; the vocabulary goes at once, as it costs nothing on kept tokens. Raises InputError for more steps than units of any kind."""
    most = max(getattr(goal, kind) for kind in KINDS)
    if steps > max(1, most):
        raise InputError(Problem("compress.prune.steps", f"{steps} steps for {most} units: a step would remove nothing", f"give at most {max(1, most)}"))
    counts = {kind: [getattr(goal, kind) * step // steps for step in range(steps + 1)] for kind in KINDS}
    return [
        goal.model_copy(
            update={kind: counts[kind][step + 1] - counts[kind][step] for kind in KINDS} | {"vocabulary": goal.vocabulary if step == 0 else None},
        )
        for step in range(steps)
    ]


def _speaking(tuned: Path, goal: Removal, prepared: Path, work: Path, context: Context) -> Path:
    """The uncut model with the vocabulary that the smaller one has, for its word on the training rows: on kept tokens trimming is exact (MISSION Z11)."""
    if goal.vocabulary is None:
        return tuned
    out = work / "uncut"
    if not out.is_dir():
        run(tuned, out, Request(removal=Removal(vocabulary=goal.vocabulary)), read_text(dataset.read(prepared), Chat.load(tuned)), context.progress)
    return out


def _keep_beside(cut: Path, recovered: Path) -> None:
    """What was cut stays with what came of it."""
    for name in ("prune_report.json", "vocabulary_map.json"):
        if (cut / name).is_file():
            shutil.copyfile(cut / name, recovered / name)
