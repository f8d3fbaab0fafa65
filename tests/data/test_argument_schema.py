"""The JSON Schema that tool arguments are held to (MISSION D2, tool_args_invalid)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data.json_schema import mismatch

SCALAR: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["a", "b", ""])
VALUE: st.SearchStrategy[Any] = st.recursive(
    SCALAR, lambda item: st.lists(item, max_size=2) | st.dictionaries(st.sampled_from("abc"), item, max_size=3), max_leaves=5
)
TYPE = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])


def _wider(schema: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": TYPE | st.lists(TYPE, min_size=1, max_size=2, unique=True),
            "properties": st.dictionaries(st.sampled_from("abc"), schema, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": st.booleans() | schema,
            "items": schema,
            "enum": st.lists(VALUE, min_size=1, max_size=3),
            "const": VALUE,
            "anyOf": st.lists(schema, min_size=1, max_size=2),
            "oneOf": st.lists(schema, min_size=1, max_size=2),
            "allOf": st.lists(schema, min_size=1, max_size=2),
        },
    )


SCHEMA = st.recursive(st.builds(lambda kind: {"type": kind}, TYPE), _wider, max_leaves=4)


@settings(max_examples=300, deadline=None)
@given(SCHEMA, VALUE)
def test_it_agrees_with_jsonschema(schema: dict[str, Any], value: Any) -> None:
    """The oracle is the package jsonschema, on every keyword that is held."""
    oracle = pytest.importorskip("jsonschema").Draft202012Validator(schema)
    assert (mismatch(value, schema) is None) == oracle.is_valid(value)


@pytest.mark.parametrize(
    ("value", "schema", "wrong"),
    [
        ({"days": "2"}, {"type": "object", "properties": {"days": {"type": "integer"}}}, "days is a str, not integer"),
        ({"at": [{"x": True}]}, {"properties": {"at": {"items": {"properties": {"x": {"type": "number"}}}}}}, "at[0].x is a bool, not number"),
        ({}, {"required": ["city", "day"]}, "it lacks city, day"),
        ({"town": 1}, {"properties": {"city": {}}, "additionalProperties": False}, "town is not allowed"),
        ({"a": "x"}, {"type": "dict", "properties": {"a": {"type": "float"}}}, "a is a str, not float"),
        ({"a": "x"}, {"type": "any", "properties": {"a": {"type": "no such type"}}}, None),
        ({"a": 1}, {"a": {"type": "str"}}, None),
        ([True], {"const": [1]}, "it is [True], not [1]"),
        ({"a": 1}, None, None),
    ],
)
def test_what_is_wrong_is_told_with_its_place(value: Any, schema: Any, wrong: str | None) -> None:
    """Python's type names count as JSON's; what is no type, and what is no schema, asks for nothing."""
    assert mismatch(value, schema) == wrong
