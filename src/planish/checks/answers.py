"""An audit of the answers: refusals, ends that were cut, formats that differ from all the others, fields that the text does not say."""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from planish.data.finding import CheckResult, Finding
from planish.data.normalise import normalised
from planish.data.shingles import words
from planish.data.table import Table
from planish.data.texts import answers, final_answer, prompt_text
from planish.rows import ChatRow, ExtractionRow, LabelRow, NoteCode, Row, TextRow, UnpairedRow

SHOWN = 50
"""Answers drawn at random for a person to read."""

SAME = 0.9
"""Share of answers of one format (or of one spelling) from which the others are called out of style; not below 20 answers."""

GROUNDED = 0.8
"""Share of rows whose text holds the value of a field, from which that field counts as one that is copied out of the text."""

_FEWEST = 20
_REFUSAL = re.compile(
    r"\bi(?:'|’)?(?: a)?m (?:very |so |really )?(?:sorry|afraid)\b[^.!?\n]{0,40}\b(?:can(?:'|’)?t|cannot|can not|unable|not able|won(?:'|’)?t)\b"
    r"|\bi (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|am unable to|(?:'|’)m unable to|am not able to) (?:help|assist|answer|provide|comply|fulfil|discuss|do that|do this)\b"
    r"|\bi(?:'|’)m (?:unable|not able) to (?:help|assist|answer|provide|comply|fulfil|discuss)\b"
    r"|\b(?:ai|language model|assistant)\b[^.!?\n]{0,40}\b(?:unable|not able|cannot|can(?:'|’)?t|do not have the ability)\b"
    r"|\bmy (?:guidelines|programming|training data) (?:do(?:es)? not|don(?:'|’)?t|prevents?)\b",
    re.I,
)
_OPENING = 200  # characters: a refusal stands at the beginning
_UNFINISHED = re.compile(
    r"(?:,|[(\[{]|\s[-–—]|\b(?:the|a|an|and|or|but|because|if|my|your|their|our|its|of|than|whose|although|which|der|die|das|und|oder|ein|eine|le|la|les|et|un|une|el|los|y|de))\s*$",
    re.I,
)
_LONG = 6  # words from which an end without punctuation on such a word is a cut

Format = Literal["json", "code", "prose"]


class _Audit(NamedTuple):
    faults: list[tuple[NoteCode, str, str]]
    form: Format | None  # None: no answer whose format could be compared
    spelling: str  # a short answer as it is written, else ""
    fields: list[tuple[str, str, bool]]  # of an extraction: name, value, whether the text holds it


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, seed: int = 0) -> CheckResult:
    """Warnings about answers (MISSION D4): `refusal`, `cut_off`, `style`, `ungrounded`. Rows stay and answers are never rewritten.

    Style: at least 9 of 10 answers are JSON and this one is not, or the other way round; or a short answer that is nearly always spelled otherwise.
    Ungrounded: the value of an extracted field is not in the text, where 8 of 10 rows copy that field out of it. `figures.shown` has up to 50 rows drawn with
    `seed`, to be read; the rest are counts.
    """
    audits = list(rows.map(_audit))
    told: list[list[tuple[NoteCode, str, str]]] = [list(audit.faults) for audit in audits]
    for index, why in (*_odd_formats(audits), *_odd_spellings(audits)):
        told[index].append((NoteCode.STYLE, why, "write it like the others, or leave it out: what is mixed in training is mixed in use"))
    for index, why in _not_in_text(audits):
        told[index].append((NoteCode.UNGROUNDED, why, "correct the field, or leave it out: a model that is taught to make up values will"))
    findings = [
        Finding(row_id=key.id, code=code, severity="warn", why=why, fix=fix) for key, each in zip(rows.keys, told, strict=True) for code, why, fix in each
    ]
    drawn = sorted(random.Random(seed).sample(range(len(rows)), min(SHOWN, len(rows))))
    shown = [{"row": rows.keys[index].id, "prompt": prompt_text(row), "answer": final_answer(row)} for index in drawn for row in [rows[index]]]
    figures = {
        "rows": len(rows),
        "by_code": dict(sorted(Counter(finding.code.value for finding in findings).items())),
        "formats": dict(sorted(Counter(audit.form for audit in audits if audit.form is not None).items())),
        "shown": shown,
    }
    return CheckResult(findings=tuple(findings), figures=figures)


def _audit(row: Row) -> _Audit:
    fields = list(_fields(row)) if isinstance(row, ExtractionRow) else []
    if isinstance(row, LabelRow | TextRow | ExtractionRow):
        return _Audit([], None, "", fields)
    faults = []
    said = (
        [turn.content for turn in row.messages if turn.role == "assistant" and turn.weight != 0 and turn.content] if isinstance(row, ChatRow) else answers(row)
    )
    if refused := next((found for text in said for found in [_REFUSAL.search(text[:_OPENING])] if found), None):
        faults.append((NoteCode.REFUSAL, f'refuses: "{refused[0]}"', "write the answer, or leave the row out; keep refusals that you want"))
    if cut := next((why for text in said for why in [_cut(text)] if why), None):
        faults.append((NoteCode.CUT_OFF, cut, "write the end, or leave the row out: a model that is taught to stop there will"))
    last = row.messages[-1].content if isinstance(row, ChatRow) else final_answer(row)
    if not last.strip() or isinstance(row, UnpairedRow):
        return _Audit(faults, None, "", fields)
    return _Audit(faults, _form(last), last.strip() if 0 < len(words(last)) <= 3 else "", fields)


def _cut(text: str) -> str | None:
    """Why an answer looks as if it stopped too early."""
    if text.count("```") % 2:
        return "ends inside a block of code"
    stripped = text.rstrip()
    if stripped[:1] in ("{", "[") and _form(stripped) != "json" and _depth(stripped) > 0:
        return "ends inside JSON: a bracket is never closed"
    end = _UNFINISHED.search(stripped[-40:])
    if end and len(stripped.split()) >= _LONG and "\n" not in stripped[-40:]:
        return f'ends in the middle of a sentence: "…{stripped[-30:]}"'
    return None


def _depth(text: str) -> int:
    """Brackets that are open at the end, outside of strings."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"?', "", text)
    return sum(bare.count(opened) - bare.count(closed) for opened, closed in ("{}", "[]"))


def _form(text: str) -> Format:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            json.loads(stripped)
            return "json"
        except ValueError:
            pass
    return "code" if stripped.startswith("```") else "prose"


def _odd_formats(audits: Sequence[_Audit]) -> Iterator[tuple[int, str]]:
    """Answers that are not in the format that nearly all have. Code among prose is no fault: it is asked for."""
    forms = Counter(audit.form for audit in audits if audit.form is not None)
    total = forms.total()
    for index, audit in enumerate(audits):
        if audit.form is None or total < _FEWEST:
            continue
        if forms["json"] >= SAME * total and audit.form != "json":
            yield index, f"is no JSON; {forms['json']} of {total} answers are"
        elif forms["json"] <= (1 - SAME) * total and audit.form == "json" and forms["prose"] >= SAME * total:
            yield index, f"is JSON; {forms['prose']} of {total} answers are prose"


def _odd_spellings(audits: Sequence[_Audit]) -> Iterator[tuple[int, str]]:
    """Short answers that are nearly always written otherwise: "yes" among "Yes."."""
    spelled: dict[bytes, list[int]] = defaultdict(list)
    for index, audit in enumerate(audits):
        if audit.spelling:
            spelled[b" ".join(words(audit.spelling))].append(index)
    for group in spelled.values():
        counts = Counter(audits[index].spelling for index in group)
        usual, most = counts.most_common(1)[0]
        if len(group) >= _FEWEST and len(counts) > 1 and most >= SAME * len(group):
            for index in group:
                if audits[index].spelling != usual:
                    yield index, f'is written "{audits[index].spelling}"; {most} of {len(group)} such answers are "{usual}"'


def _fields(row: ExtractionRow) -> Iterator[tuple[str, str, bool]]:
    """Every text and number of the extracted object, and whether the text says it."""
    text = normalised(row.text)
    digits = re.sub(r"\D", "", text)
    stack: list[tuple[str, Any]] = list((row.fields or {}).items())
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{name}.{inner}", each) for inner, each in value.items()]
        elif isinstance(value, list):
            stack += [(name, each) for each in value]
        elif isinstance(value, str) and value.strip():
            yield name, value, normalised(value) in text
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, str(value), re.sub(r"\D", "", f"{value:g}" if abs(value) < 1e6 else str(value)) in digits


def _not_in_text(audits: Sequence[_Audit]) -> Iterator[tuple[int, str]]:
    held: dict[str, list[bool]] = defaultdict(list)
    for audit in audits:
        for name, _, there in audit.fields:
            held[name].append(there)
    copied = {name for name, each in held.items() if sum(each) >= GROUNDED * len(each)}
    for index, audit in enumerate(audits):
        missing = [f'{name} "{value}"' for name, value, there in audit.fields if not there and name in copied]
        if missing:
            yield index, f"the text does not say {', '.join(missing)}"
