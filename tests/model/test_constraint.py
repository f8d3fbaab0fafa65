"""Constraints: what cannot be held is refused by name, what is held is valid every time, with jsonschema as the oracle (MISSION E3)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from planish.data.schema_check import checker
from planish.errors import InputError, Problem, RunFailed
from planish.model.chat import Chat
from planish.model.constraint import Constraint
from planish.model.constraint_mask import Masks
from planish.model.engine import Decoding
from planish.model.sampling import Sampler

SCHEMAS = 1000


@pytest.fixture(scope="module")
def chat(tiny: Path) -> Chat:
    return Chat.load(tiny)


@pytest.fixture(scope="module")
def masks(chat: Chat) -> Masks:
    return Masks(chat.tokenizer, chat.end, 512)


def walk(masks: Masks, chat: Chat, constraint: Constraint, seed: int, most: int = 4000) -> str:
    """A random answer: logits of noise, with what closes a JSON value a little likelier, so that open texts and lists come to an end."""
    sampler = Sampler(Decoding(temperature=1, seed=seed), [], masks.of(constraint))
    noise = torch.Generator().manual_seed(seed)
    closing = torch.zeros(512)
    closing[[chat.end, *(chat.encode(text)[0] for text in ('"', "]", "}"))]] = 5
    ids: list[int] = []
    while len(ids) < most:
        token = sampler.pick(torch.randn(512, generator=noise) + closing)
        if token == chat.end:
            return chat.decode(ids)
        ids.append(token)
    raise AssertionError(f"no end after {most} tokens: {chat.decode(ids)[:200]}")


def drawn(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema of the kinds that people write: bounded numbers and texts, patterns, formats, enums, nested objects, tuples, unions."""
    low = draw.randrange(-500, 500)
    plain: list[Callable[[], dict[str, Any]]] = [
        lambda: {
            "type": "integer",
            **draw.choice([{}, {"minimum": low}, {"exclusiveMaximum": low}, {"minimum": low, "maximum": low + draw.randrange(90)}, {"multipleOf": 3}]),
        },
        lambda: {"type": "number", **draw.choice([{}, {"minimum": low / 8}, {"exclusiveMinimum": low, "exclusiveMaximum": low + 1.5}])},
        lambda: {"type": "string", **draw.choice([{}, {"minLength": 2}, {"maxLength": 5}, {"minLength": 1, "maxLength": 3}])},
        lambda: {"type": "string", "pattern": draw.choice(["^[a-c]{1,4}$", "^(ab|cd)+$", r"^\d{3}-\d{2}$", "^x.?y"])},
        lambda: {"type": "string", "format": draw.choice(["date", "time", "uuid", "ipv4", "email"])},
        lambda: {"type": draw.choice(["boolean", "null"])},
        lambda: {"enum": draw.sample(["a", 1, None, True, 2.5, 'b"c', [1], {"k": 0}], draw.randrange(1, 5))},
        lambda: {"const": draw.choice(["fixed", 7, {"a": [1, "é"]}, None])},
    ]
    nested: list[Callable[[], dict[str, Any]]] = [
        lambda: drawn_object(draw, depth + 1),
        lambda: {"type": "array", "items": drawn(draw, depth + 1), **draw.choice([{}, {"minItems": 1}, {"maxItems": 2}, {"minItems": 2, "maxItems": 3}])},
        lambda: {
            "type": "array",
            "prefixItems": [drawn(draw, depth + 1), drawn(draw, depth + 1)],
            "items": draw.choice([False, {"type": "boolean"}]),
            "minItems": 2,
        },
        lambda: {"anyOf": [drawn(draw, depth + 1), drawn(draw, depth + 1)]},
        lambda: {"allOf": [{"type": "integer", "minimum": low}, {"maximum": low + 40}]},
    ]
    return draw.choice(plain + (nested if depth < 3 else []))()


def drawn_object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(["name", "size", "on", "b c", "ü", "list", 'q"t'], draw.randrange(0, 4))
    found: dict[str, Any] = {"type": "object", "properties": {name: drawn(draw, depth) for name in names}}
    found["required"] = [name for name in names if draw.random() < 0.6]
    return found | draw.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}])


def constrained(schema: dict[str, Any]) -> Constraint | list[Problem]:
    """The constraint, or why there is none."""
    try:
        return Constraint.json_schema(schema)
    except InputError as refused:
        return list(refused.problems)


def test_e3_a_thousand_random_schemas_are_answered_validly(masks: Masks, chat: Chat) -> None:
    """MISSION E3: 100 % valid on 1,000 random schemas, by jsonschema. A schema that is refused is drawn again, and refusals must be rare and named."""
    draw, answered, refused = random.Random(5), 0, 0
    while answered < SCHEMAS:
        schema = drawn(draw)
        if draw.random() < 0.1:
            schema = {"$defs": {"part": schema}, "type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2}
        constraint = constrained(schema)
        if not isinstance(constraint, Constraint):
            refused += 1
            assert all(problem.where.startswith("constraint.json_schema") and problem.why and problem.fix for problem in constraint)
            continue
        said = walk(masks, chat, constraint, answered)
        wrong = checker(schema)(json.loads(said))
        assert wrong is None, f"{wrong}: {said} for {json.dumps(schema)}"
        answered += 1
    assert refused < SCHEMAS // 20


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"type": "string"}}, ["not"]),
        ({"type": "array", "contains": {"type": "null"}, "uniqueItems": True}, ["contains", "uniqueItems"]),
        ({"type": "object", "properties": {"a": {"if": {"type": "null"}, "then": {"const": 1}}}}, ["if", "then"]),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, ["oneOf"]),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, ["propertyNames"]),
    ],
)
def test_e3_an_unsupported_keyword_is_named(schema: dict[str, Any], named: Sequence[str]) -> None:
    with pytest.raises(InputError) as refused:
        Constraint.json_schema(schema)
    assert [problem.where for problem in refused.value.problems] == [f"constraint.json_schema: {name}" for name in named]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Constraint.json_schema({"type": "nonsense"}), "no JSON Schema"),
        (lambda: Constraint.json_schema({"$ref": "http://example.org/x"}), "outside itself"),
        (lambda: Constraint.json_schema({"$schema": "http://json-schema.org/draft-04/schema#"}), "draft"),
        (lambda: Constraint.json_schema({"type": "string", "x-guidance": {"whitespace_flexible": True}}), "set by planish"),
        (lambda: Constraint.json_schema({"type": "string", "minLength": 4, "maxLength": 2}), "minLength"),
        (lambda: Constraint("json_schema", "[]"), "no JSON object"),
        (lambda: Constraint.regex("(?=a)b"), "look-ahead"),
        (lambda: Constraint.regex("[a"), "unclosed"),
        (lambda: Constraint.grammar("start: nowhere"), "unknown name"),
        (lambda: Constraint.choice(["a"]), "nothing to choose from"),
        (lambda: Constraint.choice(["a", "a"]), "twice"),
        (lambda: Constraint.choice(["a", ""]), "empty"),
    ],
)
def test_e3_what_is_no_constraint_is_refused(make: Any, word: str) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        make()


def test_e3_regex_labels_and_grammars_hold(masks: Masks, chat: Chat) -> None:
    labels = ["yes", "yes, but", 'say "no"', "a/b\n", "größer"]
    for seed in range(40):
        assert re.fullmatch(r"[0-9]{1,3}/[ab]\.", walk(masks, chat, Constraint.regex(r"[0-9]{1,3}/[ab]\."), seed))
        assert walk(masks, chat, Constraint.choice(labels), seed) in labels
        assert re.fullmatch(r"(\(a)+b(\))+", walk(masks, chat, Constraint.grammar('start: "(a" start ")" | "(ab)"'), seed))
        assert isinstance(json.loads(walk(masks, chat, Constraint.json_object(), seed)), dict)


def test_e3_the_order_of_the_fields_is_the_schemas(masks: Masks, chat: Chat) -> None:
    schema = {"type": "object", "properties": {"z": {"type": "null"}, "a": {"type": "null"}}, "required": ["a", "z"], "additionalProperties": False}
    assert walk(masks, chat, Constraint.json_schema(schema), 0) == '{"z": null, "a": null}'


def test_a_token_that_was_not_allowed_is_an_error(masks: Masks, chat: Chat) -> None:
    mask = masks.of(Constraint.regex("ab"))
    assert not mask.complete
    with pytest.raises(RunFailed):
        mask.take(chat.encode("x")[0])


def test_the_end_is_allowed_only_where_the_form_is_complete(masks: Masks, chat: Chat) -> None:
    """After a, (a|ab) may end or go on; after ab nothing but the end can follow."""
    mask = masks.of(Constraint.regex("ab?"))
    assert not mask.allowed()[chat.end]
    mask.take(chat.encode("a")[0])
    assert mask.complete
    assert mask.allowed()[chat.end]
    mask.take(chat.encode("b")[0])
    assert mask.allowed().nonzero().flatten().tolist() == [chat.end]
