"""The gate: does the tuned model beat every cheaper system by more than noise, and has it kept what it knew?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planish import rules, shelf
from planish.events import EventType, ReasonCode
from planish.evidence import verdict
from planish.evidence.facts import ReportFacts
from planish.recipe import Recipe
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, read_json, read_reports, write_json
from planish.stages._gold import read_gold
from planish.stages.baseline import COST_ORDER
from planish.stages.evaluate import candidate_name

NEEDS = ("prepare", "baseline", "evaluate")


def options(recipe: Recipe) -> dict[str, Any]:
    """The rules, and by which scorer systems are ranked."""
    return {"rules": recipe.gate, "scorer": recipe.evaluate.scorers[0].name, "candidate": candidate_name(recipe)}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`verdict.json`."""
    recipe = context.recipe
    gold = read_gold(context.store, context.run_id, context.stage, inputs["prepare"])
    baselines = list(read_reports(inputs["baseline"]).values())
    candidate = read_reports(inputs["evaluate"])[candidate_name(recipe)]
    general = [
        EvalReport.model_validate(read_json(inputs[stage] / "general.json")) for stage in ("evaluate", "baseline") if (inputs[stage] / "general.json").is_file()
    ]
    facts = ReportFacts([candidate, *general[:1]], baselines, general[1:], groups=gold.groups)
    results = [rules.decide(rules.parse(rule), facts) for rule in recipe.gate]
    scorer = recipe.evaluate.scorers[0].name
    metric = f"{scorer}.{shelf.find('scorers', scorer).load().PRIMARY}"
    found = verdict.decide(
        candidate,
        baselines,
        results,
        metric=metric,
        required=[solver.name for solver in recipe.baseline],
        cheapest_first=COST_ORDER,
        groups=gold.groups,
    )
    write_json(folder / "verdict.json", found.model_dump(mode="json"))
    said = {"decision": found.decision, "ship": found.ship, "sentence": found.sentence}
    if found.decision == "ship":
        context.event(EventType.GATE_PASSED, said)
    else:
        context.event(EventType.GATE_REFUSED, said, severity="warning", reason_code=ReasonCode.GATE)
    context.progress.say(f"  {found.sentence}")
