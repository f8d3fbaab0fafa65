"""Planted answers that nobody should learn: refusals, cut ends, broken characters, loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import Ask, Case, Expected, among, dialogue, jsonl, planted

_CHAT = sound_rows.chat()


def _said(part: str, name: str, what: str, code: str, at: Mapping[int, Any], also: tuple[str, ...] = (), ask: Ask | None = None) -> Case:
    return among(_CHAT, at, part, name, what, code, also=also, ask=ask)


CASES = [
    _said(
        "answers",
        "refusal",
        "answers that refuse a harmless question",
        "refusal",
        {
            5: dialogue("What is the boiling point of ethanol?", "I'm sorry, but I can't help with that request."),
            20: dialogue("Name three rivers in France.", "As an AI language model, I am unable to answer this question."),
        },
        also=("boilerplate",),
    ),
    _said(
        "answers",
        "boilerplate",
        "an answer that opens with talk about itself",
        "boilerplate",
        {30: dialogue("Name a good soup for winter.", "As an AI language model, I do not eat, but a lentil soup with cumin warms you well.")},
        also=("refusal",),
    ),
    _said(
        "answers",
        "cut_off",
        "answers that stop in the middle of a sentence",
        "cut_off",
        {
            8: dialogue(
                "How do I plant garlic?",
                "Break the bulb into cloves and press each one, tip upwards, into loose soil about five centimetres deep and then cover the",
            ),
            39: dialogue(
                "How is glass made?", "Sand, soda and lime are melted together at fifteen hundred degrees; the glowing mass is then blown, rolled or poured,"
            ),
        },
    ),
    _said(
        "answers",
        "mojibake",
        "text that was decoded with the wrong table",
        "mojibake",
        {11: dialogue("Where is the cafÃ© with the crÃ¨me brÃ»lÃ©e?", "ItÂ’s on the corner, itâ€™s called â€œChez Zoéâ€.")},
    ),
    _said(
        "answers",
        "control_characters",
        "control characters inside an answer",
        "control_characters",
        {24: dialogue("How wide is the door?", "It is\x08 ninety\x1b[31m centimetres\x07 wide.")},
    ),
    _said(
        "answers",
        "replacement",
        "characters that were lost before: U+FFFD",
        "mojibake",
        {35: dialogue("Where did you eat?", "At the caf\ufffd near the sta\ufffdion.")},
    ),
    _said(
        "answers",
        "open_code_block",
        "an answer that stops inside a block of code",
        "cut_off",
        {18: dialogue("Show me a loop in Python.", "Here is one:\n```python\nfor number in range(10):\n    print(")},
    ),
    _said(
        "answers",
        "echo",
        "an answer that only repeats the question",
        "answer_in_prompt",
        {31: dialogue("How far is it from the old mill to the station?", "How far is it from the old mill to the station?")},
        ask=Ask(split={number: "train" if number <= 31 else "gold" for number in range(1, 41)}),
    ),
    _said(
        "answers",
        "looping",
        "an answer that says the same line over and over",
        "repetition",
        {22: dialogue("What is the plan for Tuesday?", "\n".join(["We meet at the harbour at nine."] * 12))},
        also=("length_outlier",),
    ),
    Case(
        "answers/style",
        "answers",
        "38 answers are JSON, two are prose",
        "rows.jsonl",
        jsonl(
            [
                dialogue(question, f'{{"answer": "{answer}"}}'.replace('""', '"') if number not in (16, 29) else answer)
                for number, (question, answer) in enumerate(sound_rows.pairs(), 1)
                if '"' not in question + answer
            ]
        ),
        (Expected("style", (15, 28)),),
    ),
    Case(
        "answers/ungrounded",
        "answers",
        "a field that the text does not say",
        "rows.jsonl",
        jsonl(
            planted(
                [
                    {"text": row["text"], "fields": {span["type"]: row["text"][span["start"] : span["end"]] for span in row["entities"]}}
                    for row in sound_rows.spans()
                ],
                {11: {"text": "Alma has left the firm.", "fields": {"person": "Alma", "firm": "Northgate"}}},
            )
        ),
        (Expected("ungrounded", (11,)),),
    ),
]
