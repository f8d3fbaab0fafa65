"""A whole JSON Schema held by the package jsonschema: formats aside, every keyword counts. `json_schema` holds the few that tool catalogues use, without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from planish.data.json_text import parse
from planish.errors import InputError, Problem
from planish.lazy import require
from planish.rows import canonical_json

Check = Callable[[Any], str | None]
"""What is wrong with a value, with its place, or None."""


def checker(schema: Any, *, where: str = "schema") -> Check:
    """The check that a schema makes (draft 2020-12, or the draft its `$schema` names). Nothing is fetched: a reference must point into the schema itself.

    Raises InputError at `where` for what is no schema, and MissingExtra without jsonschema."""
    return _checker(canonical_json(schema), where)


@lru_cache(maxsize=64)
def _checker(text: str, where: str) -> Check:
    schema = parse(text)
    jsonschema = require("jsonschema", extra="metrics")
    registry = require("referencing", extra="metrics").Registry()
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as wrong:
        raise InputError(Problem(where, f"is no JSON Schema: {wrong.message}", "see json-schema.org")) from wrong
    outside = [name for name in _references(schema) if not name.startswith("#")]
    if outside:
        raise InputError(*(Problem(where, f'refers to "{name}", outside itself', "write that part under $defs and refer to #/$defs/...") for name in outside))
    validator = kind(schema, registry=registry)

    def check(value: Any) -> str | None:
        wrong = next(iter(validator.iter_errors(value)), None)
        return None if wrong is None else f"{'.'.join(map(str, wrong.absolute_path)) or 'it'}: {wrong.message}"

    return check


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for part in schema for name in _references(part)]
    if not isinstance(schema, dict):
        return []
    own = [item for key, item in schema.items() if key in ("$ref", "$dynamicRef") and isinstance(item, str)]
    return own + [name for part in schema.values() for name in _references(part)]
