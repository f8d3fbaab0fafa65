"""Whether a value is what a JSON Schema asks for: the part of the standard that tool catalogues use.

Held: type, enum, const, required, properties, additionalProperties, items, anyOf, oneOf, allOf. Other keywords (formats, patterns, bounds, references) are not
held to, and say nothing. The type names of Python, which the Berkeley function-calling catalogues use, count as those of JSON. `jsonschema` is the oracle in the
tests where it is installed.
"""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "dict": (dict,),
    "array": (list,),
    "list": (list,),
    "tuple": (list,),
    "string": (str,),
    "str": (str,),
    "number": (int, float),
    "float": (int, float),
    "integer": (int,),
    "int": (int,),
    "boolean": (bool,),
    "bool": (bool,),
    "null": (type(None),),
}


def mismatch(value: Any, schema: Any, at: str = "") -> str | None:
    """What is wrong with `value`, with its place, or None. What is no schema asks for nothing, but `false`, which nothing satisfies."""
    if schema is False:
        return f"{at or 'it'} is not allowed"
    if not isinstance(schema, dict):
        return None
    return _kind(value, schema, at) or _fields(value, schema, at) or _items(value, schema, at) or _combined(value, schema, at)


def _kind(value: Any, schema: dict[str, Any], at: str) -> str | None:
    wanted = schema.get("type")
    names = [name for name in (wanted if isinstance(wanted, list) else [wanted]) if isinstance(name, str)]
    if names and all(name in _TYPES for name in names) and not any(_is(value, name) for name in names):
        return f"{at or 'it'} is a {type(value).__name__}, not {' or '.join(names)}"
    allowed = schema.get("enum")
    if isinstance(allowed, list) and not any(_same(value, one) for one in allowed):
        return f"{at or 'it'} is {value!r}, not one of {allowed}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{at or 'it'} is {value!r}, not {schema['const']!r}"
    return None


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name in ("boolean", "bool")
    if name in ("integer", "int") and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: true is not 1, at no depth."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(item, b[key]) for key, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _fields(value: Any, schema: dict[str, Any], at: str) -> str | None:
    if not isinstance(value, dict):
        return None
    required = schema.get("required")
    absent = [key for key in required if isinstance(key, str) and key not in value] if isinstance(required, list) else []
    if absent:
        return f"{at or 'it'} lacks {', '.join(absent)}"
    known = schema.get("properties")
    known = known if isinstance(known, dict) else {}
    for key, item in value.items():
        wrong = mismatch(item, known[key] if key in known else schema.get("additionalProperties"), f"{at}.{key}" if at else key)
        if wrong:
            return wrong
    return None


def _items(value: Any, schema: dict[str, Any], at: str) -> str | None:
    if not isinstance(value, list) or "items" not in schema:
        return None
    return next((wrong for number, item in enumerate(value) if (wrong := mismatch(item, schema["items"], f"{at}[{number}]"))), None)


def _combined(value: Any, schema: dict[str, Any], at: str) -> str | None:
    for part in schema.get("allOf") or []:
        if wrong := mismatch(value, part, at):
            return wrong
    for keyword in ("anyOf", "oneOf"):
        choices = schema.get(keyword)
        if isinstance(choices, list) and choices:
            fitting = sum(mismatch(value, choice, at) is None for choice in choices)
            if fitting == 0 or (keyword == "oneOf" and fitting > 1):
                return f"{at or 'it'} fits {fitting} of the forms under {keyword}"
    return None
