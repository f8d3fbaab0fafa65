"""Watching: the gold set asked again of the live endpoint, paired with the answers at promotion, stopping as soon as the result is clear (MISSION O3)."""

from __future__ import annotations

import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

from planish import shelf
from planish.engines import endpoint
from planish.events import EventType, ReasonCode
from planish.model.asker import EndpointAsker
from planish.progress import Advance
from planish.recipe import Recipe
from planish.recipe_evaluate import DecodingSection
from planish.rows import Noun
from planish.scores import EvalReport
from planish.stages._context import Context, Inputs, read_json, read_reports, write_json
from planish.stages._deployment import Deployment, open_deployment
from planish.stages._gold import Gold, read_gold
from planish.store import Store

NEEDS = ("prepare", "compress", "serve")


def options(recipe: Recipe) -> dict[str, Any]:
    """The detectors and their period."""
    assert recipe.observe is not None
    return {"observe": recipe.observe.model_dump()}


def run(context: Context, inputs: Inputs, folder: Path) -> None:
    """`drift_check.json`: the first check of the new endpoint. The gateway repeats it on schedule."""
    assert context.recipe.observe is not None
    deployment = open_deployment(Path(read_json(inputs["serve"] / "deployment.json")["folder"]))
    size = len(read_gold(context.store, context.run_id, context.stage, inputs["prepare"]).samples)
    with context.progress.bar("gold re-run on the endpoint", size) as advance:
        checks = [check(deployment, context.store, use.model_dump(), context.run_id, advance) for use in context.recipe.observe.detectors]
    write_json(folder / "drift_check.json", [found.model_dump(mode="json") for found in checks])


def check(deployment: Deployment, store: Store, detector: dict[str, Any], run_id: str, advance: Advance = lambda *_: None) -> Noun:
    """Ask the endpoint again and record the verdict; evidence is carried from the checks before, so that many looks cost no more false alarms than one."""
    gold = read_gold(store, run_id, "observe", Path(deployment.config["dataset"]))
    promoted = read_reports(Path(deployment.config["package"]))[deployment.config["file"]]
    before = [event for event in store.events() if event.type in (EventType.DRIFT_CHECKED, EventType.DRIFT_ALARM) and event.body["deployment"] == deployment.id]
    carried = before[-1].body["check"]["e_value"] if before and before[-1].type is EventType.DRIFT_CHECKED else 0.0
    detect = shelf.call("detectors", detector["name"], "detect", detector["options"])
    pairs = _pairs(deployment, gold, promoted, len(before), advance)
    found: Any = detect(pairs, len(gold.samples), carried=carried)
    pairs.close()
    alarm = found.verdict in ("drift", "endpoint")
    store.event(
        run_id,
        EventType.DRIFT_ALARM if alarm else EventType.DRIFT_CHECKED,
        "observe",
        {"deployment": deployment.id, "check": found.model_dump(mode="json")},
        severity="warning" if alarm else "info",
        reason_code=(ReasonCode.DRIFT if found.verdict == "drift" else ReasonCode.ENDPOINT_FAILED) if alarm else None,
        actor="schedule" if before else "user",
    )
    result: Noun = found
    return result


def _pairs(deployment: Deployment, gold: Gold, promoted: EvalReport, turn: int, advance: Advance) -> Generator[tuple[str, float, float | None]]:
    """(id, score at promotion, live score or None) in an order nobody has seen, one live call at a time."""
    scorer = deployment.config["scorers"][0]
    score = shelf.call("scorers", scorer["name"], "score", scorer["options"])
    known = {row.id: row.value for row in promoted.scores}  # the package's own answers, by its first scorer: this one
    engine = endpoint.start(deployment.url, deployment.key, model=deployment.config["model"])
    asker = EndpointAsker(engine, DecodingSection.model_validate(deployment.config.get("decoding") or {}))
    order = random.Random(f"{deployment.id}-{turn}").sample(range(len(gold.samples)), len(gold.samples))
    try:
        for index in order:
            sample = gold.samples[index]
            [answer] = asker.answer([sample], gold.task)
            advance(1)
            yield sample.id, known[sample.id], None if answer.finish == "failed" else score(sample, answer.text).value
    finally:
        engine.close()
