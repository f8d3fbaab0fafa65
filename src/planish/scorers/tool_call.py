"""Tool calls: the share that could be run, the share with the right arguments (BFCL's AST rules), and calls where none was needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planish.data.answers import as_json
from planish.data.call_match import Accepted, exactly, mismatched, same_name
from planish.data.fault import Refused
from planish.data.json_schema import mismatch
from planish.data.said_calls import Said, said_calls
from planish.data.tool_calls import catalogue
from planish.errors import InputError, Problem
from planish.evidence.tally import errors_seen, require_references, tally
from planish.rows import Sample, canonical_json
from planish.scores import Metric, Score

PRIMARY = "accuracy"
"""The right calls where calls are needed, none where they are not: the one figure that every row counts in. The others are about their own rows."""

NO_TOOL = ("no_tool_precision", "no_tool_recall")
CALLS = ("valid_tool_call_rate", "argument_match", "match_given_valid")


def score(sample: Sample, answer: str | None) -> Score:
    """1 for exactly the right calls, or for a text where the target calls nothing, else 0. `detail` names the first error.

    The target is the calls as JSON, [{name, arguments}] or [{name, accepted: {argument: [values]}}] ("" among the values: may be left out), or a text: then
    no call is right. The answer is read in any notation of `data.said_calls`. Valid: it can be read, every name is on offer, and all arguments keep the tool's
    schema. Right: `data.call_match`. An answer that cannot be read is invalid, never skipped.

    Raises InputError where the target's calls are not of the sample's tools, or neither the one nor the other."""
    tools = _offered(sample)
    right = _right(sample, tools)
    given = (answer or "").strip()
    said = said_calls(given)
    invalid = _invalid(said, tools) if right else None
    error = "empty" if not given else _error(said, right, tools, invalid)
    detail = _detail(bool(right), bool(right) and invalid is None, error, text=bool(given) and not said.tried)
    detail["parse_rate"] = float(bool(given) and said.broken is None)
    parsed = canonical_json([{"name": call.name, "arguments": call.arguments} for call in said.calls]) if said.calls else None if said.broken else given or None
    return Score(id=sample.id, answer=answer, parsed=parsed, target=sample.target, value=float(error is None), detail=detail)


def _error(said: Said, right: Sequence[tuple[str, Accepted]], tools: Mapping[str, Any], invalid: str | None) -> str | None:
    """The error class of an answer, or None where it is right. What keeps calls from being run is said before what is wrong with them."""
    if not right:
        return "unneeded_call" if said.tried else None
    wrong = mismatched(said.calls, right, tools)
    return None if wrong is None else invalid or wrong


def _detail(needed: bool, valid: bool, error: str | None, *, text: bool) -> dict[str, float]:
    """Each metric's part and whole. `text`: the answer is one, and calls nothing."""
    match = needed and error is None
    shares = {
        "valid_tool_call_rate": (valid, needed),
        "argument_match": (match, needed),
        "match_given_valid": (match and valid, valid),
        "no_tool_precision": (text and not needed, text),
        "no_tool_recall": (text and not needed, not needed),
    }
    detail = {f"{name}.{place}": float(item) for name, pair in shares.items() for place, item in zip(("part", "whole"), pair, strict=True)}
    return detail | {"accuracy": float(error is None)} | ({} if error is None else {f"error.{error}": 1.0})


def _offered(sample: Sample) -> dict[str, dict[str, Any]]:
    """Tool names with their parameters."""
    try:
        return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in catalogue(list(sample.tools))}
    except Refused as refused:
        raise InputError(Problem(sample.id, refused.fault.why, refused.fault.fix)) from refused


def _right(sample: Sample, tools: Mapping[str, Any]) -> list[tuple[str, Accepted]]:
    """The calls that are right, with the accepted values of each argument; none where a text is right. Raises InputError."""
    said = said_calls(sample.target)
    right: list[tuple[str, Accepted]] = [(call.name, exactly(call.arguments)) for call in said.calls]
    if keyed := _keyed(sample.target):
        right = keyed
    elif said.broken:
        raise InputError(Problem(sample.id, f"its reference cannot be read as calls: {said.broken}", 'write [{"name": ..., "arguments": {...}}]'))
    unknown = sorted({name for name, _ in right} - tools.keys())
    if unknown:
        raise InputError(Problem(sample.id, f"its reference calls {', '.join(unknown)}, which its tools do not hold", "give the row the tools it is about"))
    return right


def _keyed(target: str) -> list[tuple[str, Accepted]]:
    """A target with accepted values, [{name, accepted}]; empty for any other."""
    try:
        value = as_json(target)
    except ValueError:
        return []
    if not isinstance(value, list) or not value or not all(isinstance(call, dict) and call.keys() == {"name", "accepted"} for call in value):
        return []
    if not all(isinstance(call["accepted"], dict) and all(isinstance(values, list) for values in call["accepted"].values()) for call in value):
        return []
    return [(call["name"], call["accepted"]) for call in value]


def _invalid(said: Said, tools: Mapping[str, Any]) -> str | None:
    """Why the calls could not be run, or None."""
    if not said.calls:
        return "unparsed" if said.broken else "no_call"
    for call in said.calls:
        name = next((name for name in tools if same_name(call.name, name)), None)
        if name is None:
            return "unknown_tool"
        if mismatch(call.arguments, tools[name]):
            return "schema"
    return None


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """Over all rows: `accuracy`, `parse_rate`, `error.<class>`. Over rows that need a call: `valid_tool_call_rate`, `argument_match`; over the valid ones of
    them: `match_given_valid`. Where some row needs none: `no_tool_recall` over those, `no_tool_precision` over the answers that call nothing.

    Raises InputError without rows and on empty references."""
    require_references("tool_call", scores)
    names = ("accuracy", "parse_rate", *CALLS, *(NO_TOOL if any(found.detail["no_tool_recall.whole"] for found in scores) else ()), *errors_seen(scores))
    return tally(scores, names, groups=groups, resamples=resamples, seed=seed)
