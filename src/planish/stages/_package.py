"""One file of the package: exported, scored in its own runtime against the model before compression, and put to the gate; without its runtime it stays unproven (MISSION Z6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish import rules, shelf
from planish.errors import InputError, MissingExtra
from planish.events import EventType
from planish.evidence.equal_size import EqualSize, Sized, against_quantised
from planish.evidence.facts import ReportFacts
from planish.evidence.retained import quality_retained
from planish.model.calibration_pass import Calibration
from planish.model.closeness import FROM_BOTH
from planish.model.exported import Exported
from planish.recipe_keys import Use
from planish.scores import EvalReport, Metric
from planish.stages import _papers
from planish.stages._context import write_report
from planish.stages._file_scoring import FROM_THE_RUNTIME, FileScoring
from planish.stages._scoring import primary, readable

FIGURES = ("bytes", "size_ratio", "quality_retained", *FROM_THE_RUNTIME, *FROM_BOTH)
"""What is measured of a file besides its scores."""


@dataclass(frozen=True)
class Packed:
    """What is said of a file, and its scores; None where its runtime is absent."""

    entry: dict[str, Any]
    report: EvalReport | None

    @property
    def passed(self) -> bool:
        """Whether it may ship."""
        return bool(self.entry["passed"])


def packed(
    use: Use, scoring: FileScoring, text: Calibration, reference: EvalReport, folder: Path, inside: str = "", story: dict[str, Any] | None = None
) -> Packed:
    """One file of `scoring.weights`, in the folder `inside` of the package. `reference` is the tuned model's report on the same gold, in fp32; `story` is that of a variant."""
    context, weights = scoring.context, scoring.weights
    made = shelf.call("exporters", use.name, "export", use.options)(weights.checkpoint, folder / inside, weights.adapter, text, context.progress)
    made = made.model_copy(update={"file": f"{inside}/{made.file}" if inside else made.file})
    context.event(EventType.ARTIFACT_EXPORTED, made.model_dump(mode="json"))
    for note in made.notes:
        context.progress.say(f"  {made.file}: {note}")
    path = folder / made.file
    source = scoring.original or weights
    size = sum(file.stat().st_size for file in source.checkpoint.glob("*.safetensors"))
    figures: dict[str, Metric] = {
        "bytes": Metric(name="bytes", value=made.bytes, n=1, higher_is_better=False),
        "size_ratio": Metric(name="size_ratio", value=made.bytes / size, n=1, higher_is_better=False),
    }
    metric = primary(readable(scoring.context.recipe.evaluate.scorers))
    told = {"source_bytes": size, "metric": metric, "exporter": use.model_dump(mode="json")}
    try:
        report, ran = scoring.score(path, made.file)
    except MissingExtra as absent:
        [problem, *_] = absent.problems
        figures |= _read_without(scoring, path)
        context.progress.say(f"  {made.file}: UNPROVEN: its runtime is absent: {problem.where} {problem.why}; {problem.fix}")
        unproven = {"why": f"{problem.where} {problem.why}, so it was never run on the gold set", "fix": problem.fix}
        entry = _entry(made, figures, told) | {"unproven": unproven, "runtime": "", "rules": [], "passed": False}
        _papers.write(context, made, entry, folder, story)
        return Packed(entry, None)
    report = report.model_copy(update={"system": made.file})
    write_report(folder, report)
    figures |= {**ran.figures(), **scoring.closeness(path)}
    try:
        figures["quality_retained"] = quality_retained(report, reference, metric, groups=scoring.gold.groups)
    except InputError as undefined:  # a rule on it fails as not measured
        context.progress.say(f"  {made.file}: {undefined.problems[0].why}")
    ran_as = {"seconds": report.seconds, "runtime": ran.name, "value": report.metrics[metric].model_dump(mode="json")}
    facts = ReportFacts([report], [], [reference], figures=figures, groups=scoring.gold.groups)
    entry = _entry(made, figures, told) | ran_as | _gated(scoring, made.file, facts)
    _papers.write(context, made, entry, folder, story)
    return Packed(entry, report)


def _read_without(scoring: FileScoring, path: Path) -> dict[str, Metric]:
    """Closeness of weights that can be read without the runtime that computes with them; nothing where they cannot."""
    try:
        return scoring.closeness(path)
    except MissingExtra:
        return {}


def _entry(made: Exported, figures: dict[str, Metric], told: dict[str, Any]) -> dict[str, Any]:
    return {**made.model_dump(mode="json"), **told, "figures": {name: figure.model_dump(mode="json") for name, figure in figures.items()}}


def _gated(scoring: FileScoring, file: str, facts: ReportFacts) -> dict[str, Any]:
    assert scoring.context.recipe.compress is not None
    results = [rules.decide(rules.parse(rule), facts) for rule in scoring.context.recipe.compress.gate]
    for result in results:
        scoring.context.progress.say(f"  {file}: {'passed' if result.passed else 'NOT passed'}: {result.rule}: {result.why}")
    return {"rules": [result.model_dump(mode="json") for result in results], "passed": all(result.passed for result in results)}


def at_equal_size(cut: Sequence[Packed], plain: Sequence[Packed], scoring: FileScoring) -> list[EqualSize]:
    """Each file of a cut model against the files of the uncut one that are no larger; those that ran."""
    rivals, metric = [sized for one in plain if (sized := _sized(one)) is not None], primary(readable(scoring.context.recipe.evaluate.scorers))
    return [against_quantised(one, rivals, metric, groups=scoring.gold.groups) for each in cut if rivals and (one := _sized(each)) is not None]


def _sized(one: Packed) -> Sized | None:
    return None if one.report is None else Sized(one.entry["file"], one.entry["bytes"], one.report)


def sentence(files: Sequence[Packed], compared: Sequence[EqualSize]) -> str:
    """What the package comes to: where a simpler rival wins that is said first (R-8), then how many files may ship, then what is unproven and how to prove it."""
    said = [one.sentence for one in compared if one.decision == "quantise"]
    said.append(f"{sum(one.passed for one in files)} of {len(files)} files may ship.")
    said += [one.sentence for one in compared if one.decision != "quantise"]
    said += [
        f"{one.entry['file']} is UNPROVEN and cannot ship: {one.entry['unproven']['why']}; {one.entry['unproven']['fix']}."
        for one in files
        if "unproven" in one.entry
    ]
    return " ".join(said)
