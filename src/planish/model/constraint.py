"""The form an answer must have: one of a set of labels, a regular expression, a JSON Schema, or a grammar (MISSION E3). Read without torch.

Every kind is written as one Lark grammar in llguidance's dialect, which the transformers engine turns into token masks and llama.cpp's server reads as it is. What a keyword of a
schema asks for is either held or the schema is refused: a valid answer is valid, never nearly so. Valid is not right: report the free answers beside the constrained ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from planish.data.schema_check import checker
from planish.errors import InputError, Problem
from planish.lazy import require
from planish.rows import canonical_json

Kind = Literal["choice", "regex", "json_schema", "grammar"]
ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How a JSON answer is written: on one line, as Python's json writes it. Where a model may choose its white space, it may write line ends until its tokens are used up."""
DRAFTS = ("draft/2020-12/schema", "draft/2019-09/schema", "draft-07/schema", "draft-06/schema")
"""What `$schema` may end in: in older drafts the same keywords mean something else."""


@dataclass(frozen=True)
class Constraint:
    """Build one with `choice`, `regex`, `json_schema`, `json_object` or `grammar`. `text` is the pattern, the grammar, or the canonical JSON of the schema or of the labels.

    Raises InputError where it is no such thing or asks for what masks cannot hold, naming the keyword; MissingExtra without llguidance.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        problems = _problems(self.kind, self.text)
        if problems:
            raise InputError(*problems)

    @staticmethod
    def choice(labels: Sequence[str]) -> Constraint:
        """Exactly one of `labels`. `Engine.choose` gives their probabilities besides."""
        return Constraint("choice", canonical_json(list(labels)))

    @staticmethod
    def regex(pattern: str) -> Constraint:
        """The whole answer matches `pattern` (Rust's syntax: no look-around, no back-references)."""
        return Constraint("regex", pattern)

    @staticmethod
    def json_schema(schema: Mapping[str, Any]) -> Constraint:
        """JSON that keeps `schema`; the fields stand in the schema's order."""
        return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))  # not sorted: the order of the fields is part of the form

    @staticmethod
    def json_object() -> Constraint:
        """Any JSON object."""
        return Constraint.json_schema({"type": "object"})

    @staticmethod
    def grammar(lark: str) -> Constraint:
        """A context-free grammar in llguidance's Lark dialect, whose rule `start` is the whole answer."""
        return Constraint("grammar", lark)

    @property
    def lark(self) -> str:
        """The constraint as a Lark grammar."""
        return _lark(self.kind, self.text)


def constraint_of(
    *, choice: Sequence[str] | None = None, regex: str | None = None, json_schema: Mapping[str, Any] | None = None, grammar: str | None = None
) -> Constraint:
    """The one that is given, by the words that a recipe uses. Raises InputError unless it is exactly one."""
    given = [each for each in (choice, regex, json_schema, grammar) if each is not None]
    if len(given) != 1:
        raise InputError(Problem("constraint", f"{len(given)} of choice, regex, json_schema and grammar are given", "give exactly one"))
    if choice is not None:
        return Constraint.choice(choice)
    if regex is not None:
        return Constraint.regex(regex)
    return Constraint.json_schema(json_schema) if json_schema is not None else Constraint.grammar(grammar or "")


def _lark(kind: Kind, text: str) -> str:
    if kind == "grammar":
        return text
    if kind == "regex":
        return "start: /" + re.sub(r"\\.|/", lambda found: found[0] if len(found[0]) == 2 else r"\/", text, flags=re.DOTALL).replace("\n", r"\n") + "/"
    if kind == "choice":
        return "start: " + " | ".join(json.dumps(label, ensure_ascii=False) for label in json.loads(text))
    return "start: %json " + json.dumps({**json.loads(text), "x-guidance": ONE_LINE}, ensure_ascii=False)


@lru_cache(maxsize=256)
def _problems(kind: Kind, text: str) -> tuple[Problem, ...]:
    """Every reason why masks cannot hold it; empty when they can."""
    where = f"constraint.{kind}"
    if kind == "choice" and (wrong := _wrong_labels(json.loads(text))):
        return (Problem(where, wrong, "give two or more different labels"),)
    if kind == "json_schema":
        schema = json.loads(text)
        if not isinstance(schema, dict):
            return (Problem(where, "is no JSON object", 'for example {"type": "object"}'),)
        draft = str(schema.get("$schema", DRAFTS[0])).rstrip("#")
        if not draft.endswith(DRAFTS):
            return (Problem(f"{where}.$schema", f'"{draft[:80]}" is a draft whose keywords are read otherwise', "write it in draft 2020-12"),)
        checker(schema, where=where)
        reserved = [name for name in ("x-guidance",) if name in schema]
        if reserved:
            return (Problem(f"{where}.x-guidance", "is set by planish", "leave it out"),)
    matcher = require("llguidance", extra="constrained").LLMatcher
    failed, said = matcher.validate_grammar_with_warnings(matcher.grammar_from_lark(_lark(kind, text)))
    return _refusals(where, kind, "; ".join(said)) if failed else ()


def _wrong_labels(labels: list[Any]) -> str:
    if len(labels) < 2:
        return f"has {len(labels)} labels: nothing to choose from"
    if not all(isinstance(label, str) and label for label in labels):
        return "has a label that is empty or no text"
    return "" if len(set(labels)) == len(labels) else "has a label twice"


def _refusals(where: str, kind: Kind, said: str) -> tuple[Problem, ...]:
    """llguidance's message as problems, one for each schema keyword that it does not know how to hold."""
    found = re.search(r"Unimplemented keys: (\[[^\]]*\])", said)
    if found:
        fix = "leave it out here and check it after the answer with the scorer json_schema"
        return tuple(Problem(f"{where}: {key}", "this keyword cannot be held while an answer is made", fix) for key in json.loads(found[1]))
    if "oneOf" in said:
        return (
            Problem(
                f"{where}: oneOf", "its cases overlap, so masks cannot hold that exactly one of them fits", "write anyOf, or cases that exclude each other"
            ),
        )
    why = " ".join(said.split())[:300]
    return (Problem(where, f"cannot be held: {why}", "see llguidance's documentation of what it reads" if kind == "grammar" else "write it without that"),)
