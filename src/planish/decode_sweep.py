"""The five-minute fix: which decoding setting, if any, clears the bar without training. Settings are tried on the validation rows; gold is never read (MISSION E2, R-4)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from planish import rules
from planish.data import dataset
from planish.data.task import Task, filled, require_metric, require_recipe
from planish.engines import transformers
from planish.errors import InputError, Problem
from planish.evidence.facts import ReportFacts
from planish.model import bundled
from planish.model.asker import Asker
from planish.model.engine import Decoding, Delta, Generation
from planish.progress import Advance, Progress
from planish.recipe import Recipe
from planish.recipe_evaluate import DecodingSection
from planish.rows import Noun, Sample, content_hash
from planish.scores import EvalReport, Metric
from planish.stages._asking import asker_of
from planish.stages._gold import Gold
from planish.stages._scoring import judge, reads, require_references
from planish.store import Store

FEWEST = 30
"""Validation rows below which the best of several settings is chosen by luck."""
ROOM = 2
"""How many times the room a setting gets where answers were cut."""


class Setting(NamedTuple):
    """A decoding to try, as the recipe's `evaluate.decoding` would say it."""

    name: str
    keys: dict[str, Any]


class Tried(Noun):
    """One setting on the validation rows. `tokens` is the mean of an answer's tokens, `cut` the share that ended at max_new_tokens, `seconds` for all rows."""

    name: str
    decoding: dict[str, Any]
    metric: Metric
    tokens: float
    cut: float
    seconds: float
    clears: bool
    why: str


class Sweep(Noun):
    """All settings, in the order tried, and the one to use: the first that clears the goal, else the best. `cleared` is whether it does."""

    goal: str
    rows: int
    tried: tuple[Tried, ...]
    best: str
    cleared: bool
    decoding: dict[str, Any]


def sweep(recipe: Recipe, goal: str, workspace: Path, progress: Progress, *, rows: int | None = None) -> Sweep:
    """Try the settings with the recipe's base model on the validation rows of its newest run, at most `rows` of them.

    Raises InputError for a goal that is no rule against a number, a metric that the task does not have, a task that nothing is decoded for, fewer than 30 rows, and where no run
    has prepared the rows.
    """
    rule = rules.parse(goal, where="--goal")
    if rule.reference is not None:
        raise InputError(Problem("--goal", f'"{goal}" compares with another system', 'give a number to clear, as "rouge.rougeL >= 0.4"'))
    data = dataset.read(_prepared(recipe, workspace))
    task = data.task
    require_metric(task.shape, rule.metric)
    require_recipe(recipe, task.shape)
    recipe = filled(recipe, task.shape)
    recipe = recipe.model_copy(update={"evaluate": _judged_by(recipe, rule.metric.partition(".")[0])})
    held = _validation(data, rows)
    require_references(held, recipe.evaluate.scorers)
    where = bundled.locate(recipe.model, recipe.source.parent if recipe.source else None)
    # many answers: fp32 batches without changing a token, and is faster so than bf16 one by one
    engine = transformers.start(where, precision="fp32")
    counting = Counting(engine)
    asker = asker_of(counting, engine.model, engine.chat, engine.precision, recipe.evaluate)
    try:
        tried = _try(asker, counting, held, recipe, rule, progress)
    finally:
        engine.close()
    best = next((one for one in tried if one.clears), None) or _better(tried)
    return Sweep(goal=rule.text, rows=len(held.samples), tried=tuple(tried), best=best.name, cleared=best.clears, decoding=best.decoding)


def settings(task: Task) -> list[Setting]:
    """What is tried, cheapest to explain first. Sampled settings draw with seed 0."""
    found = [
        Setting("greedy", {"temperature": 0.0}),
        Setting("penalty 1.1", {"temperature": 0.0, "repetition_penalty": 1.1}),
        Setting("penalty 1.3", {"temperature": 0.0, "repetition_penalty": 1.3}),
        Setting("first line only", {"temperature": 0.0, "stop": ["\n"]}),
    ]
    if task.shape == "extraction":
        found.insert(1, Setting("JSON only", {"temperature": 0.0, "constraint": {"json_schema": {"type": "object"}}}))
    return [
        *found,
        Setting("T 0.3, top_p 0.9", {"temperature": 0.3, "top_p": 0.9}),
        Setting("T 0.7, top_p 0.95", {"temperature": 0.7, "top_p": 0.95}),
        Setting("T 1, min_p 0.1", {"temperature": 1.0, "min_p": 0.1}),
    ]


class Counting:
    """An engine that counts what it generates. `tokens` is a list of the answers' lengths."""

    def __init__(self, engine: transformers.TransformersEngine) -> None:
        self.name, self._engine, self.tokens = engine.name, engine, list[int]()

    def generate(self, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Generation]:
        """The engine's own, counted."""
        answers = self._engine.generate(prompts, decoding)
        self.tokens += [len(answer.token_ids) for answer in answers]
        return answers

    def stream(self, prompt: Sequence[int], decoding: Decoding) -> Iterator[Delta]:
        """The engine's own."""
        return self._engine.stream(prompt, decoding)

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> list[list[float]]:
        """The engine's own."""
        return self._engine.choose(prompts, options)

    def close(self) -> None:
        """The engine's own."""
        self._engine.close()


def text(found: Sweep) -> str:
    """The table, and what to write into the recipe."""
    width = max(len(one.name) for one in found.tried)
    lines = [f"{found.goal} on {found.rows} validation rows", f"{'setting':{width}}  value  95 % interval    tokens    cut   seconds"]
    for one in found.tried:
        low, high = (one.metric.low or one.metric.value), (one.metric.high or one.metric.value)
        mark = "  clears" if one.clears else ""
        lines.append(f"{one.name:{width}}  {one.metric.value:.3f}  [{low:.3f}, {high:.3f}]  {one.tokens:8.1f}  {one.cut:5.1%}  {one.seconds:8.1f}{mark}")
    if found.cleared:
        lines.append(f'"{found.best}" clears the goal without training. It was chosen on these rows: let the gold set confirm it.')
    else:
        lines.append(f'no setting clears the goal; the best is "{found.best}". Decoding cannot add skill: change the prompt, or train.')
    keys = ", ".join(f"{name}: {_yaml(value)}" for name, value in found.decoding.items())
    return "\n".join([*lines, "recipe:", f"  evaluate: {{decoding: {{{keys}}}}}"])


def _yaml(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # JSON is YAML


def _try(asker: Asker, counting: Counting, held: Gold, recipe: Recipe, rule: rules.Rule, progress: Progress) -> list[Tried]:
    tried: list[Tried] = []
    waiting = settings(held.task)
    with progress.bar("decoding settings", (len(waiting) + 1) * len(held.samples)) as advance:
        while waiting:
            setting = waiting.pop(0)
            counting.tokens.clear()
            told = DecodingSection.model_validate(recipe.evaluate.decoding.model_dump(exclude_none=True) | setting.keys)
            asking = replace(asker, told=told, advance=partial(_noted, advance, setting.name))
            began = time.perf_counter()
            answers = asking.answer(held.samples, held.task)
            report = judge(setting.name, answers, held, recipe.evaluate.scorers, time.perf_counter() - began).report
            tried.append(_tried(setting, told, report, rule, held, counting.tokens))
            if len(tried) == 1 and tried[0].cut:
                room = ROOM * (told.max_new_tokens or held.task.kind.max_new_tokens)
                waiting.insert(0, Setting(f"{room} new tokens", setting.keys | {"max_new_tokens": room}))
            elif len(tried) == 1:
                advance(len(held.samples))
    return tried


def _noted(advance: Advance, name: str, count: int) -> None:
    advance(count, name)


def _tried(setting: Setting, told: DecodingSection, report: EvalReport, rule: rules.Rule, held: Gold, tokens: Sequence[int]) -> Tried:
    facts = ReportFacts([report], groups=held.groups)
    decided = rules.decide(rule, facts)
    metric = facts.metric(rule.metric)
    if metric is None:
        raise InputError(Problem("--goal", f"{rule.metric} was not measured on these rows", decided.why))
    return Tried(
        name=setting.name,
        decoding=told.model_dump(exclude_none=True),
        metric=metric,
        tokens=sum(tokens) / max(1, len(tokens)),
        cut=report.metrics["finish.length"].value,
        seconds=report.seconds,
        clears=decided.passed,
        why=decided.why,
    )


def _better(tried: Sequence[Tried]) -> Tried:
    """The best value; on a tie the one that was tried first."""
    return max(tried, key=lambda one: one.metric.value if one.metric.higher_is_better else -one.metric.value)


def _judged_by(recipe: Recipe, scorer: str) -> Any:
    """The recipe's evaluation with the goal's scorer alone. Raises InputError where that reads no answers, or where labels are chosen."""
    uses = [use for use in recipe.evaluate.scorers if use.name == scorer]
    if not uses:
        raise InputError(Problem("--goal", f'the recipe does not score by "{scorer}"', f"add {scorer} to evaluate.scorers"))
    if scorer == "label" or reads(uses[0]) != "text":
        raise InputError(
            Problem("--goal", f"{scorer} reads no generated answer, so no decoding setting changes it", "give a goal on a scorer of written answers")
        )
    return recipe.evaluate.model_copy(update={"scorers": uses})


def _validation(data: dataset.Dataset, most: int | None) -> Gold:
    """The validation rows as samples; the first `most` of them. The hash is theirs, not the gold set's."""
    taken = list(data.rows("validation"))[:most]
    if len(taken) < FEWEST:
        why = f"{len(taken)} validation rows: too few to tell {len(settings(data.task))} settings apart"
        raise InputError(Problem("data.split.validation", why, f"give at least {FEWEST}"))
    asked = [(row, data.task.asked(row)) for row in taken]
    samples = tuple(Sample(id=row.id, messages=one.messages, target=one.target, tools=one.tools, group=row.group) for row, one in asked)
    groups = {sample.id: sample.group for sample in samples if sample.group is not None}
    texts = tuple(data.task.text_of(sample.messages[-1].content) for sample in samples)
    return Gold(content_hash([sample.model_dump(mode="json") for sample in samples]), data.task, samples, texts, groups or None)


def _prepared(recipe: Recipe, workspace: Path) -> Path:
    """The rows as the newest run of this recipe's data has prepared them."""
    store = Store(workspace)
    for row in store.runs():
        stage = store.stages(row["id"]).get("prepare", {})
        if row["recipe_sha256"] == recipe.fingerprint and stage.get("artifact"):
            return store.path(stage["artifact"])
    raise InputError(Problem("decode-sweep", "no run of this recipe has prepared its rows", "planish prepare RECIPE first"))
