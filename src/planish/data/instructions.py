"""Instructions on how an answer must look, which a rule verifies, with one answer that keeps each and three of the same content that do not (MISSION C4).

The answers are chosen between by how much likelier the instruction makes each (arXiv 2104.08315), not written: a usual form such as "Red, Yellow, Blue" is likely
whatever is asked, and 200 written answers cost a hundred times the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

TOPICS: dict[str, tuple[str, str, str]] = {
    "primary colours": ("Red", "Yellow", "Blue"),
    "farm animals": ("Cow", "Sheep", "Goat"),
    "fruits": ("Apple", "Banana", "Orange"),
    "capital cities": ("Paris", "Rome", "Madrid"),
    "planets": ("Mars", "Venus", "Saturn"),
    "musical instruments": ("Piano", "Violin", "Drum"),
    "kitchen tools": ("Knife", "Spoon", "Pan"),
    "vegetables": ("Carrot", "Onion", "Potato"),
    "means of transport": ("Train", "Car", "Bicycle"),
    "trees": ("Oak", "Pine", "Maple"),
    "sports": ("Tennis", "Football", "Swimming"),
    "items of clothing": ("Shirt", "Coat", "Hat"),
    "rivers": ("Nile", "Amazon", "Danube"),
    "metals": ("Iron", "Copper", "Gold"),
    "birds": ("Eagle", "Owl", "Robin"),
    "drinks": ("Water", "Tea", "Milk"),
    "jobs": ("Doctor", "Teacher", "Farmer"),
    "school subjects": ("Maths", "History", "Biology"),
    "pieces of furniture": ("Chair", "Table", "Bed"),
    "countries": ("France", "Japan", "Brazil"),
    "spices": ("Pepper", "Cumin", "Ginger"),
    "months": ("March", "June", "October"),
    "shapes": ("Circle", "Square", "Triangle"),
    "parts of a house": ("Roof", "Door", "Window"),
    "flowers": ("Rose", "Tulip", "Daisy"),
}
"""What is asked for, with three answers."""

Things = tuple[str, str, str]


class Instruction(NamedTuple):
    """The wording, the answers (the first keeps it), and the verifier (`data.verify`) with its options that tells them apart."""

    said: str
    answers: Callable[[Things], tuple[str, str, str, str]]
    verifier: str
    options: Mapping[str, Any]


def _plain(things: Things) -> str:
    return ", ".join(things)


def _list(things: Things, mark: str) -> str:
    return "\n".join(f"{mark}{thing}" for thing in things)


INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction(
        "Answer in upper case.",
        lambda things: (_plain(things).upper(), _plain(things), _plain(things).lower(), f"{things[0].upper()}, {things[1]}, {things[2].lower()}"),
        "regex",
        {"pattern": r"[^a-z]*[A-Z][^a-z]*"},
    ),
    Instruction(
        "Answer in lower case.",
        lambda things: (_plain(things).lower(), _plain(things), _plain(things).upper(), f"{things[0].lower()}, {things[1]}, {things[2]}"),
        "regex",
        {"pattern": r"[^A-Z]*[a-z][^A-Z]*"},
    ),
    Instruction(
        "Answer with exactly three bullet points, each beginning with a dash.",
        lambda things: (_list(things, "- "), _list(things, ""), f"- {_plain(things)}", _list(things, "- ").rpartition("\n")[0]),
        "regex",
        {"pattern": r"- [^\n]+\n- [^\n]+\n- [^\n]+"},
    ),
    Instruction(
        "Answer with a numbered list.",
        lambda things: (
            "\n".join(f"{number}. {thing}" for number, thing in enumerate(things, 1)),
            _list(things, "- "),
            _plain(things),
            _list(things, ""),
        ),
        "regex",
        {"pattern": r"1\. [^\n]+\n2\. [^\n]+\n3\. [^\n]+"},
    ),
    Instruction(
        'Answer with JSON that has the one key "items".',
        lambda things: (
            json.dumps({"items": list(things)}),
            json.dumps({"names": list(things)}),
            json.dumps(list(things)),
            f"items: {_plain(things)}",
        ),
        "json_schema",
        {"schema": {"type": "object", "required": ["items"], "additionalProperties": False, "properties": {"items": {"type": "array"}}}},
    ),
    Instruction(
        "Put the whole answer in double quotation marks.",
        lambda things: (f'"{_plain(things)}"', _plain(things), f"'{_plain(things)}'", f'{things[0]}, {things[1]}, "{things[2]}"'),
        "regex",
        {"pattern": r'"[^"]*"'},
    ),
    Instruction(
        "Separate them by semicolons.",
        lambda things: ("; ".join(things), _plain(things), " ".join(things), " / ".join(things)),
        "regex",
        {"pattern": r"[^;,/]+; [^;,/]+; [^;,/]+"},
    ),
    Instruction(
        'Begin the answer with "Sure:" and end it with a full stop.',
        lambda things: (f"Sure: {_plain(things)}.", f"{_plain(things)}.", f"Sure: {_plain(things)}", f"Okay: {_plain(things)}."),
        "regex",
        {"pattern": r"Sure: .*\."},
    ),
)


def questions(count: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Up to `count` of the 200 questions, without and with the instruction, and the answers, the one that keeps it first; the same on every call."""
    pairs = [(instruction, topic) for topic in TOPICS for instruction in INSTRUCTIONS]
    return [(f"Name three {topic}.", f"Name three {topic}. {instruction.said}", instruction.answers(TOPICS[topic])) for instruction, topic in pairs[:count]]
