"""Whether calls are the right ones, by the rules of the Berkeley function-calling leaderboard's AST check.

Every call must have the name, all required arguments, no argument that the tool or the answer key does not know, the declared type (an integer passes for a
float) and an accepted value. Texts are compared in lower case without space and the marks , . / - _ * ^ , lists in order, objects one level deep. An
argument may be left out where "" is among its accepted values. Several calls may come in any order; each right call takes the first that fits it.
Source: ShishirPatil/gorilla, bfcl_eval/eval_checker/ast_eval/ast_checker.py (2026.3.23), whose verdict the tests hold row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from planish.rows import ToolCall

_KINDS: dict[str, type] = {
    **{"string": str, "any": str, "integer": int, "float": float, "number": float, "boolean": bool},
    **{"array": list, "tuple": list, "dict": dict, "object": dict},
}
_FLOATS, _LISTS = ("float", "number"), ("array", "tuple")
_MARKS = re.compile(r"[ \,\.\/\-\_\*\^]")

Accepted = Mapping[str, Sequence[Any]]
"""Argument name to the values accepted for it; "" among them: it may be left out."""


def exactly(arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The answer key that accepts these arguments alone. Fields of an object each have their own accepted values."""
    return {name: [_key(value)] for name, value in arguments.items()}


def _key(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: [item] for name, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [{name: [part] for name, part in item.items()} for item in value]
    return value


def mismatched(said: Sequence[ToolCall], right: Sequence[tuple[str, Accepted]], tools: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The error class of these calls, or None where they are the right ones. `tools` maps a name to its `parameters` (a JSON Schema)."""
    if len(said) != len(right):
        return "wrong_count"
    if len(right) == 1:
        return _wrong(said[0], *right[0], tools.get(right[0][0], {}))
    left = list(said)
    for name, accepted in right:
        found = next((place for place, call in enumerate(left) if _wrong(call, name, accepted, tools.get(name, {})) is None), None)
        if found is None:
            return "cannot_find_match"
        del left[found]
    return None


def _wrong(call: ToolCall, name: str, accepted: Accepted, parameters: Mapping[str, Any]) -> str | None:
    if not same_name(call.name, name):
        return "wrong_name"
    known = parameters.get("properties", {})
    if any(argument not in call.arguments for argument in parameters.get("required", ())):
        return "missing_required"
    for argument, value in call.arguments.items():
        if argument not in accepted or (known and argument not in known):
            return "unexpected_param"
        if error := _wrong_value(value, accepted[argument], known.get(argument, {})):
            return error
    if any(argument not in call.arguments and "" not in values for argument, values in accepted.items()):
        return "missing_optional"
    return None


def same_name(said: str, name: str) -> bool:
    """Names are equal, or equal but for the dots that OpenAI's wire does not allow and writes as underscores."""
    return said == name or said == name.replace(".", "_")


def _wrong_value(value: Any, accepted: Sequence[Any], declared: Mapping[str, Any]) -> str | None:
    declared_as = declared.get("type")
    kind = _KINDS.get(declared_as) if isinstance(declared_as, str) else None
    inside = _KINDS.get(str((declared.get("items") or {}).get("type"))) if declared_as in _LISTS else None
    if declared_as in _FLOATS and type(value) is int:
        value = float(value)
    if kind is None:  # a union, or no type: the answer key's own type is asked for
        kind = _key_kind(accepted) or type(value)
    stand_in = _stands_in(value, accepted, kind, inside)
    if isinstance(stand_in, str):
        return stand_in
    if not stand_in:
        if kind is dict:
            return _wrong_object(value, accepted)
        if kind is list and inside is dict:
            return _wrong_objects(value, accepted)
        if kind is str:
            return None if _bare(value) in [_bare(one) for one in accepted if type(one) is str] else "value_error_string"
        if kind is list:
            return None if _bare_list(value) in [_bare_list(one) for one in accepted] else "value_error_list"
    return None if value in accepted else "value_error_other"


def _stands_in(value: Any, accepted: Sequence[Any], kind: type, inside: type | None) -> bool | str:
    """False: the value is of the declared type. True: the answer key has another type there (a variable's name), and the value has that. Text: a type error."""
    key_kind = _key_kind(accepted)
    other = key_kind is not None and key_kind is not kind
    own = type(value)
    if own is kind:
        if inside is None or any(type(one) is not list or all(_fits_inside(item, one, inside) for item in value) for one in accepted):
            return other
        return "type_error_nested" if own is key_kind else "type_error"
    return True if key_kind is not None and own is key_kind else "type_error"


def _fits_inside(item: Any, accepted: Sequence[Any], inside: type) -> bool:
    return type(item) is inside or type(item) is _key_kind(accepted)


def _key_kind(accepted: Sequence[Any]) -> type | None:
    return next((type(one) for one in accepted if one != ""), None)


def _wrong_object(value: Mapping[str, Any], accepted: Sequence[Any]) -> str | None:
    error: str | None = "value_error_object"
    for one in accepted:
        if one == "":
            continue
        error = _wrong_fields(value, one)
        if error is None:
            return None
    return error


def _wrong_fields(value: Mapping[str, Any], accepted: Mapping[str, Sequence[Any]]) -> str | None:
    error = None
    for name, item in value.items():
        if name not in accepted:
            error = "value_error_object_key"
            break
        if _bare(item) not in [_bare(one) for one in accepted[name]]:
            error = "value_error_object_value"
            break
    if any(name not in value and "" not in values for name, values in accepted.items()):
        return "value_error_object_key"
    return error


def _wrong_objects(value: Sequence[Any], accepted: Sequence[Any]) -> str | None:
    error: str | None = "value_error_object"
    for one in accepted:
        if len(value) != len(one):
            error = "value_error_list_length"
            continue
        error = None
        for item, key in zip(value, one, strict=True):
            error = "value_error_object" if not isinstance(item, dict) else _wrong_object(item, [key])
            if error is not None:
                break
        if error is None:
            return None
    return error


def _bare(value: Any) -> Any:
    return _MARKS.sub("", value).lower().replace("'", '"') if type(value) is str else value


def _bare_list(value: Any) -> list[Any]:
    """An accepted "" reads as the empty list, as it does there."""
    return [_bare(item) for item in value] if isinstance(value, list | str) else []
