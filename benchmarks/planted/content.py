"""Planted defects of a whole set: labels, languages, lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import REFUSED, Ask, Case, Expected, among, dialogue, jsonl, planted

_CHAT = sound_rows.chat()
_LABELLED = sound_rows.labelled()
_LABELS = Ask(labels=sound_rows.LABELS)


def _said(part: str, name: str, what: str, code: str, at: Mapping[int, Any], also: tuple[str, ...] = (), ask: Ask | None = None) -> Case:
    return among(_CHAT, at, part, name, what, code, also=also, ask=ask)


def _relabelled(at: Mapping[int, str]) -> list[Any]:
    assert all(_LABELLED[line - 1]["label"] != label for line, label in at.items())
    return planted(_LABELLED, {line: {"text": _LABELLED[line - 1]["text"], "label": label} for line, label in at.items()})


_WRONG = {6: "warranty", 60: "delivery", 73: "password"}
_FEW = [row for row in _LABELLED if row["label"] in ("refund", "delivery")] + [row for row in _LABELLED if row["label"] == "password"][:3]

_KINDS = [
    Case(
        "labels/mislabelled",
        "labels",
        "three of 80 labels are wrong",
        "rows.jsonl",
        jsonl(_relabelled(_WRONG)),
        (Expected("mislabel_suspected", tuple(sorted(_WRONG))),),
        _LABELS,
    ),
    Case(
        "labels/mislabelled_alone",
        "labels",
        "one of 80 labels is wrong, and its row says what no other row of its label says",
        "rows.jsonl",
        jsonl(_relabelled({31: "delivery"})),
        (Expected("mislabel_suspected", (31,)),),
        _LABELS,
        limit="a label is judged by rows that are alike: where there is none, a wrong label looks like a rare one",
    ),
    Case(
        "labels/rare",
        "labels",
        "a label with three rows",
        "rows.jsonl",
        jsonl(_FEW),
        (Expected("class_rare", (), "password"),),
        also=("class_imbalance",),
    ),
    Case(
        "labels/imbalance",
        "labels",
        "one label has 60 of 66 rows: always answering it is right nine times of ten",
        "rows.jsonl",
        jsonl(
            [{"text": text, "label": "question"} for text in [row["text"] for row in _LABELLED][:60]]
            + [
                {"text": text, "label": "praise"}
                for text in ("lovely shop", "great lamp, thank you", "best service ever", "so happy", "five stars", "well done")
            ]
        ),
        (Expected("class_imbalance"),),
    ),
    Case(
        "splits/one_label",
        "splits",
        "all rows have the same label",
        "rows.jsonl",
        jsonl([row for row in _LABELLED if row["label"] == "refund"]),
        (Expected(REFUSED, (), "label"),),
        also=("class_imbalance",),
    ),
    Case(
        "labels/absent",
        "labels",
        "a declared label has no row",
        "rows.jsonl",
        jsonl(_LABELLED),
        (Expected("class_rare", (), "complaint"),),
        Ask(labels=(*sound_rows.LABELS, "complaint")),
        also=("class_imbalance",),
    ),
]

_DUTCH = "Kun je mij vertellen hoe laat de laatste trein naar Utrecht vanavond vertrekt?"
_GERMAN = "Wie lange muss der Kuchen im Ofen bleiben, damit er in der Mitte nicht mehr feucht ist?"
_RUSSIAN = "Сколько времени нужно варить картошку, чтобы она стала мягкой?"
_LANGUAGES = [
    _said(
        "languages",
        "german",
        "two German rows among English ones",
        "language_other",
        {
            13: dialogue(_GERMAN, "Etwa fünfundvierzig Minuten bei hundertachtzig Grad, danach prüfst du ihn mit einem Holzstäbchen."),
            32: dialogue(
                _DUTCH.replace("Kun je mij vertellen hoe laat", "Können Sie mir sagen, wann").replace(
                    "de laatste trein naar Utrecht vanavond vertrekt", "der letzte Zug heute Abend nach Köln fährt"
                ),
                "Der letzte Zug nach Köln fährt heute um zehn Minuten nach elf.",
            ),
        },
    ),
    _said(
        "languages",
        "dutch",
        "a Dutch row among English ones",
        "language_other",
        {25: dialogue(_DUTCH, "De laatste trein naar Utrecht vertrekt vanavond om tien over twaalf.")},
    ),
    _said(
        "languages", "russian", "a row in another script", "language_other", {9: dialogue(_RUSSIAN, "Варите её примерно двадцать минут после закипания воды.")}
    ),
    _said(
        "languages",
        "answer_only",
        "an English question answered in Spanish",
        "language_other",
        {
            17: dialogue(
                "How do I keep bread fresh for longer?", "Guárdalo en una bolsa de tela dentro de una caja de madera, y no lo pongas nunca en la nevera."
            )
        },
    ),
]

_LENGTHS = [
    _said(
        "lengths",
        "long_answer",
        "one answer is a hundred times as long as the others",
        "length_outlier",
        {
            28: dialogue(
                "Tell me about the history of the lighthouse.",
                " ".join(f"In the year {year} the keeper of tower {year % 37} wrote {year * 7 % 991} lines." for year in range(1700, 1850)),
            )
        },
    ),
    _said(
        "lengths",
        "long_prompt",
        "one prompt holds a whole log file",
        "length_outlier",
        {
            16: dialogue(
                "Why did it stop?\n" + "\n".join(f"{n:05d} step {n * 13 % 977} took {n * 7 % 89} ms" for n in range(200)), "The disk was full at the end."
            )
        },
    ),
]


CASES = [*_KINDS, *_LANGUAGES, *_LENGTHS]
