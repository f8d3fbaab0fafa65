"""Text that came to harm or says nothing: wrong decoding, control and zero-width characters, stock phrases, endless repetition."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from planish.data.damage import mojibake, unprintable
from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.data.texts import answers, every_text
from planish.rows import NoteCode, Row, TextRow

LOOPS = 5
"""A line or a sentence of five words or more that stands this often in one answer, and makes up most of it."""

_SELF = re.compile(
    r"\bas an? (?:\w+ ){0,2}(?:ai|artificial intelligence|language model|chatbot)\b|\bi(?:'|’)?a?m (?:just |only )?an? (?:ai|large language model)\b", re.I
)
_WEB = re.compile(
    r"\ball rights reserved\b|\b(?:click|tap) here to (?:read|subscribe|continue|learn|sign)\b|\bsubscribe to our newsletter\b"
    r"|\b(?:this (?:web)?site|we) uses? cookies\b|\bterms of (?:service|use) *[|•·] *privacy policy\b|\benable javascript\b|\blorem ipsum\b"
    r"|\[(?:insert|your|placeholder)[^\]]{0,40}\]",
    re.I,
)
_SENTENCE = re.compile(r"[^\n.!?]+[.!?]?")


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None) -> CheckResult:
    """A warning per row and kind of damage (MISSION D4); the row stays. `figures` counts rows by kind, and lists the sentences that most answers share."""
    findings: list[Finding] = []
    counts: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for key, seen in zip(rows.keys, rows.map(_look), strict=True):
        for code, why, fix in seen.faults:
            counts[code.value] += 1
            findings.append(Finding(row_id=key.id, code=code, severity="warn", why=why, fix=fix))
        shared.update(seen.sentences)
        if len(shared) > 200_000:  # one pass in flat memory: what stood once among so many is not shared by many
            shared = Counter({sentence: count for sentence, count in shared.items() if count > 1})
    most = [{"sentence": sentence, "answers": count} for sentence, count in shared.most_common(10) if count > 1]
    return CheckResult(findings=tuple(findings), figures={"rows": len(rows), "by_code": dict(sorted(counts.items())), "shared_sentences": most})


class _Seen(NamedTuple):
    faults: list[tuple[NoteCode, str, str]]
    sentences: set[str]


def _look(row: Row) -> _Seen:
    texts, said = every_text(row), answers(row)
    faults = []
    if broken := [piece for text in texts for piece in mojibake(text)]:
        why = f"was decoded with the wrong table or lost characters: {', '.join(sorted(set(broken))[:5])}"
        faults.append((NoteCode.MOJIBAKE, why, "read the source as UTF-8; lost characters must be written anew"))
    if unseen := [piece for text in texts for piece in unprintable(text)]:
        why = f"holds characters that cannot be seen: {', '.join(sorted({f'U+{ord(piece):04X}' for piece in unseen})[:5])}"
        faults.append((NoteCode.CONTROL_CHARACTERS, why, "take them out; clean: [control] does so in prompts, never in answers"))
    stock = next((found for text in said for found in [_SELF.search(text)] if found), None) or next(
        (found for text in (texts if isinstance(row, TextRow) else said) for found in [_WEB.search(text)] if found), None
    )
    if stock:
        faults.append((NoteCode.BOILERPLATE, f'says a stock phrase: "{stock[0]}"', "write the answer without it, or leave the row out"))
    if loop := next((found for text in said or texts for found in [_loop(text)] if found), None):
        faults.append((NoteCode.REPETITION, f'says one thing over and over: "{loop[:60]}"', "leave the row out, or write the answer anew"))
    return _Seen(faults, {sentence for text in said for sentence in _sentences(text)})


def _sentences(text: str) -> list[str]:
    """Sentences and lines of five words or more."""
    return [each for each in (found.strip() for found in _SENTENCE.findall(text)) if each.count(" ") >= 4]


def _loop(text: str) -> str | None:
    """What an answer repeats so often that little else is left of it."""
    if len(text) < 5 * LOOPS:
        return None
    found = Counter(_sentences(text)).most_common(1)
    if not found or found[0][1] < LOOPS:
        return None
    sentence, count = found[0]
    return sentence if count * len(sentence) > len(text) / 2 else None
