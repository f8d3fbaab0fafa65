"""`planish advise`: measured facts, ranked techniques with their reasons, and a recipe; nothing is trained (MISSION G1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from planish.advise import drafted, measured
from planish.advise.measured import Fit, Looked
from planish.data import hub
from planish.errors import InputError, Problem
from planish.evidence.gap import measured_gap
from planish.evidence.guide import Advice, Answers, Facts, Recommendation, Withheld, advise, rungs
from planish.recipe_data import TaskShape

__all__ = ["Advice", "Answers", "Counsel", "Facts", "Fit", "Looked", "Recommendation", "Withheld", "advise", "as_json", "of", "rungs", "text"]

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Counsel:
    """The advice with the facts under it, the recipe that follows, and why its settings are what they are. `recipe` is None where no rows were given."""

    looked: Looked
    advice: Advice
    recipe: Mapping[str, Any] | None
    why: tuple[str, ...]
    cost: tuple[str, ...]


def of(
    source: str | None,
    answers: Answers,
    *,
    goal: str | None = None,
    task: TaskShape | None = None,
    model: str = MODEL,
    machine: Any = None,
    workspace: Path = Path(".planish"),
) -> Counsel:
    """Advice on a file of rows, on a run, or on answers alone. `machine` is a `planish.model.machine.Machine`, without which no memory is estimated.

    Raises InputError for a source that is neither, for contradictory answers, and where nothing is known at all."""
    if source is None:
        looked = Looked("", task, Facts(task=task))
    elif hub.named(source) or Path(source).exists():
        looked = measured.rows(Path(source), task)
    else:
        looked, model = _of_run(source, workspace)
    if goal is not None:
        answers = answers.model_copy(update={"goal": drafted.bar_of(goal)})
        if looked.task is not None:
            drafted.rule_of(goal, looked.task)
    if machine is not None and (looked.facts.targets or looked.facts.comparisons or looked.facts.unpaired or looked.facts.text_tokens):
        looked = measured.with_machine(looked, model, machine)
    advice = advise(answers, looked.facts)
    if source is None:
        return Counsel(looked, advice, None, (), ())
    drawn, why = drafted.recipe(advice, looked, answers, model, goal)
    return Counsel(looked, advice, drawn, why, tuple(_cost(drawn, looked)))


def _of_run(name: str, workspace: Path) -> tuple[Looked, str]:
    """The rows of a run, with the gap that its baselines show."""
    if not workspace.is_dir():
        raise InputError(
            Problem(name, "is neither a file nor a folder of rows, and there is no workspace with runs here", "give a file of rows, or --workspace")
        )
    from planish.data import dataset
    from planish.stages._context import read_reports
    from planish.store import Store

    store = Store(workspace)
    row = store.run(name)
    stages = store.stages(row["id"])
    prepared = stages.get("prepare", {}).get("artifact")
    if prepared is None:
        raise InputError(Problem(row["id"], "has prepared no rows", "planish show says what it did"))
    data = dataset.read(store.path(prepared))
    looked = measured.of_rows(str(row["id"]), dataset.every_row(data), data.task.shape)
    recipe = row["recipe"]
    looked = replace(looked, source=str(recipe["data"]["path"]), n_in=data.manifest.counts["n_in"])
    scored = stages.get("baseline", {}).get("artifact")
    reports = read_reports(store.path(scored)) if scored is not None else {}
    primary = _primary(recipe, data.task.shape)
    seen = measured_gap(reports, primary)
    if seen is not None:
        facts = looked.facts.model_copy(update={"gap": seen.gap, "why_gap": seen.why, "prompt_holds": seen.prompt_holds})
        looked = replace(looked, facts=facts, primary=primary)
    return looked, str(recipe["model"])


def _primary(recipe: Mapping[str, Any], shape: str) -> str:
    """The metric by which the run ranks: its first scorer's own."""
    from planish.data.task import KINDS, METRICS

    named = recipe.get("evaluate", {}).get("scorers") or []
    scorer = named[0]["name"] if named else KINDS[shape].scorers[0]
    return f"{scorer}.{METRICS[scorer][0]}"


def _cost(drawn: Mapping[str, Any], looked: Looked) -> list[str]:
    """What each training entry of the recipe takes: steps, tokens, time and memory, all estimated."""
    lines = []
    known = {fit.technique: fit for fit in looked.fits}
    for number, entry in enumerate(drawn.get("train", [])):
        if "epochs" not in entry or "batch_size" not in entry:
            continue
        steps = -(-looked.train_rows // entry["batch_size"]) * entry["epochs"]
        tokens = looked.train_rows * entry["epochs"] * looked.tokens[0]
        said = f"train[{number}] {entry['objective']}: {steps} steps, about {tokens:,} tokens (estimated)"
        fit = known.get("full" if entry["adapter"] == "full" else "qlora" if entry.get("four_bit") else "lora")
        if fit is not None:
            said += f", peak {fit.peak / 1e9:.2f} GB up to {fit.high / 1e9:.2f} GB (estimated)"
            if fit.tokens_a_second:
                said += f", about {max(1, round(tokens / fit.tokens_a_second / 60))} min on this machine's cores (estimated, order of magnitude)"
        lines.append(said)
    return lines


def as_json(counsel: Counsel) -> dict[str, Any]:
    """The whole for a program."""
    facts = counsel.looked.facts.model_dump(mode="json")
    seen = asdict(counsel.looked) | {"facts": facts, "fits": [one._asdict() | {"label": "estimated"} for one in counsel.looked.fits]}
    told = counsel.advice.model_dump(mode="json") | {"objective": counsel.advice.objective}
    return {"measured": seen, **told, "recipe": counsel.recipe, "why": list(counsel.why), "cost": list(counsel.cost)}


def text(counsel: Counsel) -> str:
    """The same for people: what was seen, what to do first, what it costs and when not to."""
    advice, looked = counsel.advice, counsel.looked
    lines = _seen(looked)
    lines.append(f"gap: {advice.gap or 'none'} (from {advice.gap_from})" + (f": {looked.facts.why_gap}" if advice.gap_from == "measured" else ""))
    lines += [f"  {note}" for note in (*advice.notes, *looked.notes)]
    for number, one in enumerate(advice.recommendations, start=1):
        lines.append(f"\n{number}. {one.technique} ({', '.join(one.entries)})" + ("" if one.runnable else ": not on this installation's shelves"))
        lines += [f"   why: {one.why}", f"   needs: {one.needs}", f"   not if: {one.not_if}"]
    lines += [f"\nnot now: {one.technique}: {one.why}" for one in advice.withheld]
    if len(advice.order) > 1:
        lines.append("\nin this order, as far as each is needed: " + " → ".join(dict.fromkeys(advice.order)))
    lines += [f"cost: {line}" for line in counsel.cost]
    lines += [f"setting: {line}" for line in counsel.why]
    return "\n".join(lines)


def _seen(looked: Looked) -> list[str]:
    if not looked.source:
        return []
    facts = looked.facts
    aside = ", ".join(f"{count} {code}" for code, count in looked.rejected) or "none"
    lines = [f"{looked.source}: {looked.n_in or facts.good_rows} rows read, {facts.good_rows} good (set aside: {aside}); task {looked.task or 'unknown'}"]
    if looked.labels:
        lines.append("labels: " + ", ".join(f"{name} {count}" for name, count in looked.labels[:10]) + (" ..." if len(looked.labels) > 10 else ""))
    median, most, longest = looked.tokens
    lines.append(f"tokens a row: median {median}, 95 % up to {most}, longest {longest}; answers {looked.answer} (estimated, 4 characters a token)")
    if looked.machine:
        lines.append(f"{looked.machine}: {looked.memory / 1e9:.1f} GB to use")
    lines += [
        f"  {fit.technique}: {'fits' if fit.fits else 'does not fit'}, peak {fit.peak / 1e9:.2f} GB up to {fit.high / 1e9:.2f} GB (estimated)"
        for fit in looked.fits
    ]
    return lines
