"""All content checks together: 20 kinds of planted defects, and a clean twin (MISSION D4, Proof)."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.planted import sound_rows

from planish.checks import answers, duplicates, label_conflicts, language, lengths, near_duplicates, pii, secrets, text
from planish.data.table import Table
from planish.rows import ChatRow, Message, NoteCode, Origin, RejectCode

CHECKS = (duplicates, near_duplicates, label_conflicts, language, lengths, answers, text, pii, secrets)
PAIRS = sound_rows.pairs()
LONG = "Scrub the rust off with steel wool and a little soap, rinse the pan and dry it at once over a low flame, then rub a thin film of oil into every side of it."
LATER = "Wipe off what you can, bake the pan upside down for an hour, repeat the oiling and the baking twice, and it is ready for eggs again."

PLANTED: dict[str, tuple[tuple[str, str], RejectCode | NoteCode]] = {
    "a copy": (PAIRS[3], RejectCode.DUPLICATE),
    "a copy in capitals": ((PAIRS[4][0].upper(), PAIRS[4][1].upper()), RejectCode.DUPLICATE),
    "a copy with a word more": ((f"So how do I clean a pan? {LONG}", LATER), RejectCode.NEAR_DUPLICATE),
    "another answer": ((PAIRS[5][0], "Nobody has ever found that out."), RejectCode.LABEL_CONFLICT),
    "a refusal": (("What is the boiling point of ethanol?", "I'm sorry, but I can't help with that request."), NoteCode.REFUSAL),
    "a cut in mid-sentence": (("How do I plant garlic?", "Break the bulb into cloves and press each one into the soil and cover the"), NoteCode.CUT_OFF),
    "a cut behind a comma": (("How is glass made?", "Sand, soda and lime are melted; the mass is then blown, rolled or poured,"), NoteCode.CUT_OFF),
    "a cut inside code": (("Show me a loop.", "Here it is:\n```python\nfor number in range(10):\n    print("), NoteCode.CUT_OFF),
    "a JSON answer among prose": (("Which colour has the sea?", '{"colour": "blue"}'), NoteCode.STYLE),
    "a wrong decoding": (("Where is the cafÃ©?", "Beside the station."), NoteCode.MOJIBAKE),
    "a lost character": (("Where did you eat?", "At the caf\ufffd near the park."), NoteCode.MOJIBAKE),
    "a control character": (("How wide is the door?", "It is\x08 ninety centimetres wide."), NoteCode.CONTROL_CHARACTERS),
    "a zero-width character": (("How high is the door?", "It is two\u200b metres high."), NoteCode.CONTROL_CHARACTERS),
    "talk about itself": (("Name a soup for winter.", "As an AI language model, I do not eat, but a lentil soup warms you well."), NoteCode.BOILERPLATE),
    "a page's footer": (("What did the page say?", "The fair opens in May. All rights reserved."), NoteCode.BOILERPLATE),
    "a loop": (("What is the plan for Tuesday?", "\n".join(["We meet at the harbour at nine."] * 12)), NoteCode.REPETITION),
    "a log file": (("Why did it stop?\n" + "\n".join(f"{n:05d} step {n * 13 % 977} ms" for n in range(200)), "The disk was full."), NoteCode.LENGTH_OUTLIER),
    "a German row": (("Wie lange muss der Kuchen im Ofen bleiben?", "Etwa fünfundvierzig Minuten, danach prüfst du ihn."), NoteCode.LANGUAGE_OTHER),
    "a Spanish answer": (
        ("How do I keep bread fresh?", "Guárdalo en una bolsa de tela dentro de una caja de madera, nunca en la nevera."),
        NoteCode.LANGUAGE_OTHER,
    ),
    "an e-mail address": (("Who do I write to?", "Write to marta.kowalczyk@posteo.net and she will help."), RejectCode.PII),
    "a card number": (("Which card was charged?", "The one with 4539 1488 0343 6467 on it."), RejectCode.PII),
    "an account number": (("Where does the money go?", "To DE89 3704 0044 0532 0130 00 at once."), RejectCode.PII),
    "an access key": (("Which key does the job use?", "It uses " + "AKIA" + "Q3EGRIZ7LJ5WVN2C every night."), RejectCode.SECRET),
    "a private key": (
        ("What is in the file?", "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEpAIBAAKCAQEA7bq0pXn2\n-----END RSA PRIVATE " + "KEY-----"),
        RejectCode.SECRET,
    ),
}


def _table(pairs: list[tuple[str, str]]) -> Table:
    turns = [(Message(role="user", content=asked), Message(role="assistant", content=said)) for asked, said in pairs]
    return Table.of(ChatRow(id=str(n), origin=Origin(file="f", line=n + 1, sha256=""), messages=each) for n, each in enumerate(turns))


def _said(rows: Table) -> set[tuple[str | None, Any]]:
    return {(finding.row_id, finding.code) for check in CHECKS for finding in check.check(rows).findings}


CLEAN = [*PAIRS, (f"How do I clean a pan? {LONG}", LATER)]


def test_d4_nothing_is_said_of_a_clean_set() -> None:
    """MISSION D4, Proof: 0 false alarms on a clean twin."""
    assert len(CLEAN) > 30
    assert not _said(_table(CLEAN))


@pytest.mark.parametrize("kind", PLANTED)
def test_d4_every_planted_kind_is_found(kind: str) -> None:
    """MISSION D4, Proof: 20 planted kinds found. One defect is added to the clean set; it is named with its code and no other row is, but for the row that a
    conflict is with."""
    pair, code = PLANTED[kind]
    said = _said(_table([*CLEAN, pair]))
    assert (str(len(CLEAN)), code) in said
    assert {row for row, _ in said} <= {str(len(CLEAN))} | ({"5"} if code == RejectCode.LABEL_CONFLICT else set())
