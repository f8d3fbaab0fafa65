"""Which technique for which gap: answers and measured facts held against the guide's rows (MISSION G1), and the rungs of the ladder that are worth climbing (G2)."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from planish.errors import InputError, Problem
from planish.evidence.guide_rows import PHASES, Constraint, Gap, Rule, Rung, guide, holds
from planish.rows import Noun
from planish.shelf import shelf

GOOD_ROWS = 50
"""Below this a technique that trains is withheld: mending and adding rows gains more than any setting (MISSION G1)."""


class Answers(Noun):
    """What somebody says of the problem; None is not said. `prompt_holds` and `goal` are shares of cases, `rows` of good examples; `skills` counts models to be made one."""

    gap: Gap | None = None
    constraints: tuple[Constraint, ...] = ()
    changing: bool | None = None
    rare: bool | None = None
    prompt_holds: float | None = Field(default=None, ge=0, le=1)
    goal: float | None = Field(default=None, ge=0, le=1)
    skills: int | None = Field(default=None, ge=1)
    same_base: bool | None = None
    rows: int | None = Field(default=None, ge=0)
    comparisons_only: bool | None = None


class Facts(Noun):
    """What was measured; None where it was not. `good_rows` are rows that passed the checks; `fits_*` whether a technique fits the machine (an estimate).

    `gap` and `prompt_holds` come from a run and beat what is said; `why_gap` says what was seen."""

    good_rows: int | None = None
    task: str | None = None
    labels: int | None = None
    comparisons: int | None = None
    unpaired: int | None = None
    targets: int | None = None
    tools: bool | None = None
    documents: bool | None = None
    text_tokens: int | None = None
    fits_full: bool | None = None
    fits_lora: bool | None = None
    fits_qlora: bool | None = None
    gap: Gap | None = None
    why_gap: str = ""
    prompt_holds: float | None = None


class Recommendation(Noun):
    """One technique with its reason. `recipe` is what it adds to a recipe; `command` is what runs it. Not `runnable` is what needs a
    technique that is not on this installation's shelves."""

    technique: str
    entries: tuple[str, ...]
    why: str
    needs: str
    not_if: str
    recipe: dict[str, Any]
    command: str
    objective: str | None
    runnable: bool


class Withheld(Noun):
    """A technique that would fit the gap, and why not now."""

    technique: str
    why: str


class Advice(Noun):
    """Ranked recommendations, and in which order those that are taken together are composed."""

    gap: Gap | None
    gap_from: Literal["measured", "stated", "the rows", "nothing"]
    recommendations: tuple[Recommendation, ...]
    withheld: tuple[Withheld, ...]
    order: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def objective(self) -> str | None:
        """What the first technique that trains trains on."""
        return next((one.objective for one in self.recommendations if one.objective), None)


def advise(answers: Answers, facts: Facts | None = None) -> Advice:
    """Everything in the guide that holds, best first.

    Raises InputError where answers contradict each other, naming for each contradiction the one to drop; and where neither gap, constraint nor rows say anything."""
    facts = facts or Facts()
    gap, source, notes = _gap(answers, facts)
    known = _known(answers, facts, gap)
    _refuse_contradictions(known)
    if gap is None and not answers.constraints:
        raise InputError(
            Problem("answers", "neither a gap nor a constraint is known", f"say one of: {', '.join((*get_args(Gap), *get_args(Constraint)))}; or give rows")
        )
    found = sorted((rule for rule in guide().rules if holds(rule.when, known)), key=lambda rule: rule.rank)
    few = known["rows"] is not None and known["rows"] < GOOD_ROWS
    held = [rule for rule in found if rule.trains] if few else []
    kept = [rule for rule in found if rule not in held and (held or rule.phase != "fix_data")]
    return Advice(
        gap=gap,
        gap_from=source,
        recommendations=tuple(_recommendation(rule) for rule in kept),
        withheld=tuple(Withheld(technique=rule.technique, why=f"{known['rows']} good rows are fewer than {GOOD_ROWS}: fix the data first") for rule in held),
        order=tuple(rule.technique for rule in sorted(kept, key=lambda rule: PHASES.index(rule.phase))),
        notes=tuple(notes),
    )


def rungs(facts: Facts, answers: Answers) -> tuple[Rung, ...]:
    """The rungs that make sense here, in order of cost: majority, prompt, few-shot, retrieval, classifier, LoRA or QLoRA, more of it, full fine-tuning.

    The gap, the task and the machine pick them. Training rungs are left out below 50 good rows. Raises InputError as `advise`, for contradictory answers."""
    gap, _, _ = _gap(answers, facts)
    known = _known(answers, facts, gap)
    _refuse_contradictions(known)
    few = known["rows"] is not None and known["rows"] < GOOD_ROWS
    return tuple(rung for rung in guide().rungs if holds(rung.when, known) and not (few and rung.kind == "train"))


def _refuse_contradictions(known: dict[str, Any]) -> None:
    wrong = [Problem(f"answers.{one.drop}", one.why, f"drop {one.drop}") for one in guide().contradictions if holds(one.when, known)]
    if wrong:
        raise InputError(*wrong)


def _gap(answers: Answers, facts: Facts) -> tuple[Gap | None, Literal["measured", "stated", "the rows", "nothing"], list[str]]:
    """The gap, and whose word it is: a measured one beats a stated one, a stated one beats what the rows look like."""
    notes = []
    if facts.gap is not None:
        if answers.gap not in (None, facts.gap):
            notes.append(f'the stated gap "{answers.gap}" gives way to the measured one, "{facts.gap}": {facts.why_gap}')
        return facts.gap, "measured", notes
    if answers.prompt_holds is not None and facts.prompt_holds is not None and answers.prompt_holds != facts.prompt_holds:
        notes.append(f"the prompt was said to hold {answers.prompt_holds:.0%} and was measured at {facts.prompt_holds:.0%}: the measured figure counts")
    if answers.gap is not None:
        return answers.gap, "stated", notes
    seen = _looks_like(facts, answers)
    if seen is None or answers.constraints:  # a constraint alone is a question of its own: a working model is to be made smaller, cheaper, broader
        return None, "nothing", notes
    return seen, "the rows", notes


def _looks_like(facts: Facts, answers: Answers) -> Gap | None:
    """What rows of this kind are usually for."""
    if answers.comparisons_only or ((facts.comparisons or facts.unpaired) and not facts.targets):
        return "preference"
    if answers.changing or facts.documents or facts.text_tokens:
        return "knowledge"
    if answers.rare:
        return "steering"
    if facts.tools:
        return "tools"
    if facts.task == "reasoning":
        return "reasoning"
    return "behaviour" if facts.targets or facts.task else None


def _known(answers: Answers, facts: Facts, gap: Gap | None) -> dict[str, Any]:
    """Every name that a row of the guide may ask for; None where it is not known."""
    holding = facts.prompt_holds if facts.prompt_holds is not None else answers.prompt_holds
    only = answers.comparisons_only
    if facts.comparisons is not None and facts.targets is not None and (facts.comparisons or facts.unpaired or facts.targets):
        only = not facts.targets
    return {
        "gap": gap,
        "stated_gap": answers.gap if facts.gap is None else None,
        "constraint": answers.constraints,
        "constrained": bool(answers.constraints),
        "changing": answers.changing,
        "rare": answers.rare,
        "prompt_holds": holding,
        "clears": None if holding is None or answers.goal is None else holding >= answers.goal,
        "clears_as_said": facts.prompt_holds is None and holding is not None and answers.goal is not None and holding >= answers.goal,
        "skills": answers.skills,
        "same_base": answers.same_base,
        "rows": facts.good_rows if facts.good_rows is not None else answers.rows,
        "comparisons_only": only,
        "unpaired": bool(facts.unpaired) and not facts.comparisons,
        "documents": facts.documents,
        "retrieval": bool(facts.documents) or gap == "knowledge",
        "lasting": not answers.changing and not answers.rare,
        "text_tokens": facts.text_tokens,
        "task": facts.task,
        "fits_full": facts.fits_full,
        "fits_lora": facts.fits_lora,
        "fits_qlora": facts.fits_qlora,
    }


def _recommendation(rule: Rule) -> Recommendation:
    shelf_name, _, technique = (rule.shelf or "").partition("/")
    runnable = rule.shelf is None or technique in shelf(shelf_name)
    shared = {name: getattr(rule, name) for name in ("technique", "entries", "why", "needs", "not_if", "recipe", "command", "objective")}
    return Recommendation(**shared, runnable=runnable)
