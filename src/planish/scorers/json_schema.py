"""JSON answers: the share that is JSON, the share that keeps the schema, and field by field agreement with the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from planish.data.answers import as_json, leaves
from planish.data.schema_check import checker
from planish.errors import InputError, Problem
from planish.evidence.tally import require_references, tally
from planish.rows import Sample, canonical_json
from planish.scores import Metric, Score

PRIMARY = "schema_valid"


def score(sample: Sample, answer: str | None, *, schema: dict | None = None, fenced: bool = False) -> Score:  # type: ignore[type-arg]
    """1 when the whole answer is JSON (`fenced`: or a Markdown code block of JSON) that keeps `schema`; without one, that has the reference's fields, each of
    the reference's type. `detail` holds valid, schema_valid, and right and all fields of the row.

    Raises InputError where the reference is not JSON or breaks the schema, which then asks for the wrong thing; MissingExtra without jsonschema."""
    try:
        wanted = as_json(sample.target)
    except ValueError as broken:
        raise InputError(Problem(sample.id, f"its reference is not JSON: {broken}", "write the right answer as JSON")) from broken
    check = checker(like(wanted) if schema is None else schema)
    if wrong := check(wanted):
        raise InputError(Problem(sample.id, f"its reference breaks the schema: {wrong}", "mend the reference or the schema"))
    asked = Counter(leaves(wanted))
    try:
        value = as_json(answer, fenced=fenced)
    except ValueError:
        detail = {"valid": 0.0, "schema_valid": 0.0, "field_accuracy.part": 0.0, "field_accuracy.whole": float(asked.total())}
        return Score(id=sample.id, answer=answer, parsed=None, target=sample.target, value=0.0, detail=detail)
    said = Counter(leaves(value))
    keeps = float(check(value) is None)
    detail = {"valid": 1.0, "schema_valid": keeps, "field_accuracy.part": float((asked & said).total()), "field_accuracy.whole": float((asked | said).total())}
    return Score(id=sample.id, answer=answer, parsed=canonical_json(value), target=sample.target, value=keeps, detail=detail)


def like(value: object) -> dict[str, object]:
    """The schema that a reference implies: its fields, no others, each of its type; of lists the kind alone."""
    if isinstance(value, dict):
        fields = {key: like(item) for key, item in value.items()}
        return {"type": "object", "properties": fields, "required": sorted(fields), "additionalProperties": False}
    if isinstance(value, bool) or value is None:
        return {"type": "boolean" if isinstance(value, bool) else "null"}
    return {"type": "number" if isinstance(value, int | float) else "string" if isinstance(value, str) else "array"}


def metrics(
    scores: Sequence[Score], labels: Sequence[str], *, groups: Mapping[str, str] | None = None, resamples: int = 10_000, seed: int = 0
) -> dict[str, Metric]:
    """`valid` (is JSON: the parse rate), `schema_valid`, both over all rows, and `field_accuracy`: equal fields over all fields of reference or answer, over the
    set. Raises InputError without rows and on empty references."""
    require_references("json_schema", scores)
    return tally(scores, ("valid", "schema_valid", "field_accuracy"), groups=groups, resamples=resamples, seed=seed)
