"""Verifiers: whether an answer is right, decided by rule, for evaluation and as a reward. Wrong, unreadable, doubtful and crashed are all 0, with the reason.

    numeric      one final number equal to the reference's, exactly or within a relative tolerance
    exact        one final text equal to an accepted reference, case and outer marks aside
    regex        the whole answer matches; a group called `answer` must also be an accepted reference
    json_schema  the whole answer is JSON that keeps the schema
    composite    several of these: all must hold, or their mean

It checks what it parses, not the reasoning (MISSION R2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from planish.data.answers import accepted, as_json
from planish.data.final_answer import MAX_CHARS, Doubtful, Number, finals, number, same_text
from planish.data.schema_check import checker
from planish.errors import InputError, PlanishError, Problem, did_you_mean
from planish.rows import canonical_json

_CURRENCIES = frozenset("€£¥$")


class Checked(NamedTuple):
    """`score` 0 to 1, what was read from the answer (None: nothing), and an error class ("" where it is right)."""

    score: float
    parsed: str | None
    reason: str


class Asked(NamedTuple):
    """What an answer is held to: the reference, and the prompts whose copies in an answer say nothing."""

    where: str
    target: str
    prompts: tuple[str, ...] = ()


OPTIONS: dict[str, frozenset[str]] = {
    "numeric": frozenset({"tolerance", "units"}),
    "exact": frozenset(),
    "regex": frozenset({"pattern"}),
    "json_schema": frozenset({"schema"}),
    "composite": frozenset({"checks", "combine"}),
}
"""Each kind with the options that mean something to it."""


def verify(answer: str | None, asked: Asked, kind: str, options: Mapping[str, Any]) -> Checked:
    """Hold an answer to one kind of check.

    Raises InputError for a reference or an option that cannot be used; whatever else goes wrong while checking is 0 with reason "crash"."""
    check = _KINDS[kind]
    if answer is None or not answer.strip():
        return Checked(0.0, None, "empty")
    try:
        return check(answer, asked, options)
    except Doubtful as doubt:
        return Checked(0.0, None, doubt.reason)
    except PlanishError:
        raise
    except Exception:  # a verifier that breaks on an answer must never reward it
        return Checked(0.0, None, "crash")


def require_options(kind: str, given: Mapping[str, Any], where: str = "verifier") -> None:
    """Raise InputError for options that are missing, unknown or of no use to the kind, all at once. `given` holds what the recipe sets."""
    if kind not in OPTIONS:
        raise InputError(Problem(where, f'unknown kind "{kind}"', did_you_mean(kind, OPTIONS)))
    problems = [Problem(f"{where}.{name}", f"means nothing to {kind}", "leave it out") for name in sorted(given.keys() - OPTIONS[kind])]
    needed = {"regex": "pattern", "json_schema": "schema", "composite": "checks"}.get(kind)
    if needed is not None and not given.get(needed):
        problems.append(Problem(f"{where}.{needed}", f"is missing: {kind} needs it", f"give {needed}"))
    if "pattern" in given and kind == "regex":
        try:
            re.compile(given["pattern"])
        except (re.error, TypeError) as broken:
            problems.append(Problem(f"{where}.pattern", f"is no regular expression: {broken}", "mend the pattern"))
    if problems:
        raise InputError(*problems)
    for place, (name, options) in enumerate(_parts(given.get("checks") or [], where)):
        require_options(name, options, f"{where}.checks[{place}]")


def _parts(checks: Sequence[Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """The checks of a composite: a name, or {name: {options}}."""
    found: list[tuple[str, dict[str, Any]]] = []
    for place, check in enumerate(checks):
        if isinstance(check, str):
            found.append((check, {}))
        elif isinstance(check, dict) and len(check) == 1 and isinstance(next(iter(check.values())), dict):
            found.append(next(iter(check.items())))
        else:
            raise InputError(Problem(f"{where}.checks[{place}]", "is no check", "write a kind, or {kind: {option: value}}"))
    return found


def _numeric(answer: str, asked: Asked, options: Mapping[str, Any]) -> Checked:
    units = {unit.casefold() for unit in options.get("units") or ()}
    right = _reference(asked, units)
    said = [number(text) for text in finals(answer, asked.prompts)]
    if len({one.value for one in said}) > 1:
        raise Doubtful("several_answers")
    if not all(_fits(one.unit, right.unit, units) for one in said):
        raise Doubtful("unit")
    close = abs(said[0].value - right.value) <= abs(right.value) * options.get("tolerance", 0.0)
    return Checked(float(close), str(said[0].value), "" if close else "wrong")


def _fits(said: str, right: str, units: set[str]) -> bool:
    """The same unit; none, where the reference has a currency or one of the recipe's; a currency or one of the recipe's, where the reference has none."""
    said, right = said.casefold(), right.casefold()
    free = units | _CURRENCIES
    return said == right or (said == "" and right in free) or (right == "" and said in free)


def _reference(asked: Asked, units: set[str]) -> Number:
    try:
        right = _number_of(asked.target)
        if right.unit.casefold() not in {"", "%", *_CURRENCIES, *units}:
            raise Doubtful(f'"{right.unit}" behind it is no known unit')
    except Doubtful as doubt:
        fix = "write the number alone, or last behind ####, and name its units under units"
        raise InputError(Problem(asked.where, f"its reference is no one number ({doubt.reason})", fix)) from doubt
    return right


@lru_cache(maxsize=4096)
def _number_of(target: str) -> Number:
    said = {number(text) for text in finals(target)}
    if len(said) > 1:
        raise Doubtful("several_answers")
    return said.pop()


def _exact(answer: str, asked: Asked, options: Mapping[str, Any]) -> Checked:
    said = {same_text(text) for text in finals(answer, asked.prompts)}
    if len(said) > 1:
        raise Doubtful("several_answers")
    parsed = said.pop()
    if not parsed:
        raise Doubtful("no_answer")
    right = parsed in _references(asked)
    return Checked(float(right), parsed, "" if right else "wrong")


def _references(asked: Asked) -> set[str]:
    try:
        known = {same_text(finals(text)[-1]) for text in accepted(asked.target)}
    except Doubtful as doubt:
        raise InputError(Problem(asked.where, f"its reference says no one thing ({doubt.reason})", "write the right answer alone")) from doubt
    if "" in known:
        raise InputError(Problem(asked.where, "its reference is empty", "give the right answer"))
    return known


def _regex(answer: str, asked: Asked, options: Mapping[str, Any]) -> Checked:
    if len(answer) > MAX_CHARS:
        raise Doubtful("too_long")
    pattern = re.compile(options["pattern"], re.DOTALL)
    found = pattern.fullmatch(answer.strip())
    if found is None:
        raise Doubtful("no_match")
    if "answer" not in pattern.groupindex:
        return Checked(1.0, answer.strip(), "")
    parsed = found["answer"]
    if parsed is None:
        raise Doubtful("no_answer")
    right = same_text(parsed) in _references(asked)
    return Checked(float(right), parsed, "" if right else "wrong")


def _json_schema(answer: str, asked: Asked, options: Mapping[str, Any]) -> Checked:
    check = checker(options["schema"])
    try:
        value = as_json(answer)
    except ValueError as broken:
        raise Doubtful("not_json") from broken
    wrong = check(value)
    return Checked(float(wrong is None), canonical_json(value), "" if wrong is None else "schema")


def _composite(answer: str, asked: Asked, options: Mapping[str, Any]) -> Checked:
    parts = [verify(answer, asked, kind, inner) for kind, inner in _parts(options["checks"], "verifier")]
    scores = [part.score for part in parts]
    total = min(scores) if options.get("combine", "all") == "all" else sum(scores) / len(scores)
    return Checked(total, next((part.parsed for part in parts if part.parsed is not None), None), next((part.reason for part in parts if part.reason), ""))


_KINDS: dict[str, Callable[[str, Asked, Mapping[str, Any]], Checked]] = {
    "numeric": _numeric,
    "exact": _exact,
    "regex": _regex,
    "json_schema": _json_schema,
    "composite": _composite,
}
