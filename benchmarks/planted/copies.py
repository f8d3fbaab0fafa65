"""Planted copies: rows that repeat each other, contradict each other, or stand on both sides of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import REFUSED, Ask, Case, Expected, dialogue, jsonl, planted

_CHAT = sound_rows.chat()
_PAIRS = sound_rows.pairs()
_LABELLED = sound_rows.labelled()
_LABELS = Ask(labels=sound_rows.LABELS)

_LONG_QUESTION = (
    "My grandmother left me a cast iron pan that spent eleven years in a damp shed, and its whole inside is covered with orange rust; "
    "which steps do I take, in what order, to make it fit for frying eggs again without poisoning anybody?"
)
_LONG_ANSWER = (
    "Scrub the rust off with steel wool and a little dish soap, rinse the pan and dry it at once over a low flame. Rub a thin film of oil into every side, "
    "wipe off what you can, and bake it upside down for an hour at 230 degrees. Repeat the oiling and baking twice, and the pan is ready for eggs."
)


_SPLIT = {number: "train" if number <= 30 else "gold" for number in range(1, 41)}


def _copies(name: str, what: str, at: Mapping[int, Any], code: str, lines: Sequence[int], rows: Sequence[Any] = _CHAT, ask: Ask | None = None) -> Case:
    return Case(f"copies/{name}", "copies", what, "rows.jsonl", jsonl(planted(rows, at)), (Expected(code, tuple(lines)),), ask or Ask())


def _leak(name: str, what: str, train: Mapping[int, Any], gold: Mapping[int, Any], *, lines: Sequence[int], rows: Sequence[Any] = _CHAT) -> Case:
    """Rows planted in training (the first 30 lines) and in gold (the last 10). The training rows must be named, the gold rows never."""
    data = jsonl(planted(rows, {**train, **gold}))
    return Case(f"leakage/{name}", "leakage", what, "rows.jsonl", data, (Expected("gold_overlap", tuple(lines)),), Ask(split=_SPLIT))


_THIRTEEN = "the thirteen words that both of these rows share are exactly these here"
_QUESTION, _ANSWER = _PAIRS[6]

_COPIES = [
    _copies("exact", "three rows stand in the file twice", {8: _CHAT[1], 25: _CHAT[14], 39: _CHAT[1]}, "duplicate", (8, 25, 39)),
    _copies("case", "a copy in capitals", {20: dialogue(_QUESTION.upper(), _ANSWER.upper())}, "duplicate", (20,)),
    _copies("white_space", "a copy with other white space", {33: dialogue(f"  {_QUESTION}\n", _ANSWER.replace(" ", "\u00a0 "))}, "duplicate", (33,)),
    _copies(
        "full_width",
        "a copy in full-width letters (NFKC)",
        {15: dialogue("".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in _QUESTION), _ANSWER)},
        "duplicate",
        (15,),
    ),
    _copies(
        "composed",
        "a copy with accents written as two characters",
        {2: dialogue("Où est le café?", "À gauche."), 30: dialogue("Ou\u0300 est le cafe\u0301?", "A\u0300 gauche.")},
        "duplicate",
        (30,),
    ),
    _copies("zero_width", "a copy with zero-width spaces between words", {27: dialogue(_QUESTION.replace(" ", " \u200b"), _ANSWER)}, "duplicate", (27,)),
    _copies("other_keys", "a copy with another id and score: only what is trained counts", {18: _CHAT[4] | {"id": "x18", "score": 3}}, "duplicate", (18,)),
    _copies(
        "near_long",
        "a copy with two words of ninety changed",
        {5: dialogue(_LONG_QUESTION, _LONG_ANSWER), 29: dialogue(_LONG_QUESTION.replace("grandmother", "neighbour"), _LONG_ANSWER.replace("ready", "fit"))},
        "near_duplicate",
        (29,),
    ),
    _copies(
        "near_punctuation",
        "a short copy with other punctuation",
        {40: {"text": "The courier left the package at the wrong door!!", "label": "delivery"}},
        "near_duplicate",
        (40,),
        _LABELLED,
        _LABELS,
    ),
    _copies(
        "near_chain",
        "four versions of one text, each with two words changed",
        {
            line: dialogue(_LONG_QUESTION.replace("orange", colour), _LONG_ANSWER.replace("steel", metal))
            for line, colour, metal in ((3, "orange", "steel"), (12, "brown", "copper"), (24, "red", "wire"), (36, "deep", "coarse"))
        },
        "near_duplicate",
        (12, 24, 36),
    ),
]

_CONFLICTS = [
    _copies(
        "label_conflict",
        "one text with three labels",
        {line: {"text": "nobody answers my mails", "label": label} for line, label in ((10, "refund"), (44, "password"), (71, "delivery"))},
        "label_conflict",
        (10, 44, 71),
        _LABELLED,
        _LABELS,
    ),
    Case(
        "copies/label_conflict_and_copy",
        "copies",
        "one text, labelled refund twice and delivery once: a copy and a conflict",
        "rows.jsonl",
        jsonl(planted(_LABELLED, {n: {"text": "nobody answers my mails", "label": label} for n, label in ((10, "refund"), (44, "refund"), (71, "delivery"))})),
        (Expected("duplicate", (44,)), Expected("label_conflict", (10, 71))),
        _LABELS,
    ),
    _copies(
        "label_conflict_case",
        "one text in two spellings with two labels",
        {13: {"text": "Nobody  answers my MAILS", "label": "warranty"}, 66: {"text": "nobody answers my mails", "label": "password"}},
        "label_conflict",
        (13, 66),
        _LABELLED,
        _LABELS,
    ),
    _copies(
        "answer_conflict",
        "one question with two answers that contradict each other",
        {9: dialogue("Does the shop open on Sundays?", "Yes, from ten to four."), 34: dialogue("Does the shop open on Sundays?", "No, it stays shut.")},
        "label_conflict",
        (9, 34),
    ),
    _copies(
        "preference_conflict",
        "one pair of answers preferred both ways round",
        {
            6: {"prompt": "Tea or coffee?", "chosen": "Tea, please.", "rejected": "Coffee, please."},
            31: {"prompt": "Tea or coffee?", "chosen": "Coffee, please.", "rejected": "Tea, please."},
        },
        "label_conflict",
        (6, 31),
        sound_rows.preferences(),
    ),
]

_LEAKS = [
    _leak("exact", "a training row asks what a gold row asks", {5: _CHAT[34]}, {}, lines=(5,)),
    _leak(
        "case",
        "a training row asks it in other case and white space, with another answer",
        {11: dialogue(_PAIRS[38][0].upper() + " ", "Nobody knows.")},
        {},
        lines=(11,),
    ),
    _leak(
        "thirteen_words",
        "a training row shares 13 words in a row with a gold row",
        {14: dialogue(f"Before lunch my aunt wrote down {_THIRTEEN} and then she went out to buy some bread and apples for us.", "She came back at noon.")},
        {36: dialogue(f"Yesterday nobody could tell why {_THIRTEEN} although the whole village had been asked about it by the mayor.", "It stayed a riddle.")},
        lines=(14,),
    ),
    _leak(
        "near",
        "a training row is a gold row with one word changed",
        {22: dialogue(_LONG_QUESTION.replace("orange", "brown"), _LONG_ANSWER)},
        {33: dialogue(_LONG_QUESTION, _LONG_ANSWER)},
        lines=(22,),
    ),
    _leak(
        "short",
        "a training row holds a short gold question within a longer one",
        {19: dialogue("Quick question before lunch: which instrument has black and white keys and sounds sad?", "The piano, played slowly.")},
        {35: dialogue("Which instrument has black and white keys?", "The piano.")},
        lines=(19,),
        rows=planted(_CHAT, {24: dialogue("How tall is a door?", "About two metres.")}),
    ),
    Case(
        "leakage/answer_in_prompt",
        "leakage",
        "the prompts of two rows give the answer away",
        "rows.jsonl",
        jsonl(
            planted(
                _CHAT,
                {
                    7: dialogue(f"{_PAIRS[6][0]} Answer: {_PAIRS[6][1]}", _PAIRS[6][1]),
                    21: dialogue(f"Correct answer: {_PAIRS[20][1]}\n\n{_PAIRS[20][0]}", _PAIRS[20][1]),
                },
            )
        ),
        (Expected("answer_in_prompt", (7, 21)),),
        Ask(split=_SPLIT),
    ),
    Case(
        "leakage/validation",
        "leakage",
        "a training row asks what a validation row asks",
        "rows.jsonl",
        jsonl(planted(_CHAT, {16: dialogue(_PAIRS[33][0] + "  ", "A lot of arm waving.")})),
        (Expected("gold_overlap", (16,)),),
        Ask(split={number: "train" if number <= 30 else "validation" for number in range(1, 41)}),
    ),
]

_STORED = [row | {"customer": f"c{number // 4}"} for number, row in enumerate(_LABELLED)]
"""Twenty customers with one question of each label; the first fourteen were put into training, two into validation, four into gold."""
_STORED_SPLIT = {number: "train" if number <= 56 else "validation" if number <= 64 else "gold" for number in range(1, 81)}

_GROUPS = [
    Case(
        "splits/group_leak",
        "splits",
        "a new row of a training customer repeats a question of a gold customer: it would tie both sides together",
        "rows.jsonl",
        jsonl([*_STORED, _STORED[70] | {"customer": "c3"}]),
        (Expected("group_leak", (81,)),),
        Ask(labels=sound_rows.LABELS, group_by="customer", split=_STORED_SPLIT),
        also=("duplicate",),
    ),
    Case(
        "splits/giant_group",
        "splits",
        "one customer wrote more than half of the rows, so no split by customer is possible",
        "rows.jsonl",
        jsonl([row | {"customer": "c0" if number < 50 else f"c{number}"} for number, row in enumerate(_LABELLED)]),
        (Expected(REFUSED, (), "half"),),
        Ask(labels=sound_rows.LABELS, group_by="customer"),
    ),
    Case(
        "splits/lonely_label",
        "splits",
        "a label with one row: it cannot stand both in training and in gold",
        "rows.jsonl",
        jsonl([*_LABELLED, {"text": "do you sell gift cards", "label": "gifts"}]),
        (Expected(REFUSED, (), "gifts"),),
        Ask(labels=(*sound_rows.LABELS, "gifts")),
        also=("class_rare",),
    ),
]

CASES = [*_COPIES, *_CONFLICTS, *_LEAKS, *_GROUPS]
