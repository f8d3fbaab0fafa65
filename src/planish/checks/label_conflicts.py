"""The same input with different answers: at most one of them can be right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from planish.data.finding import Finding
from planish.data.normalise import input_key, normalised
from planish.rows import ChatRow, LabelRow, PromptCompletionRow, RejectCode, Row


def check(rows: Sequence[Row], split: Mapping[str, str] | None = None, *, keep: Literal["none", "majority", "first"] = "none") -> list[Finding]:
    """A finding per row of a conflicting group that is not kept, with a row that contradicts it in `see` (MISSION D4).

    `keep`: `none` sets the whole group aside; `majority` keeps the most frequent label's rows (none on a tie); `first` keeps the first row's label.
    Labels contradict each other and are rejected; free answers to one prompt may differ rightly, so they are warned of.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.shape != "text":
            groups[input_key(row)].append(row)
    found: dict[str, Finding] = {}
    for group in groups.values():
        answers = [_answer(row) for row in group]
        if len(set(answers)) > 1:
            kept = _kept(answers, keep)
            for row, answer in zip(group, answers, strict=True):
                if answer != kept:
                    see = next(other for other, theirs in zip(group, answers, strict=True) if theirs != answer)
                    found[row.id] = _finding(row, answer, see, Counter(answers))
    return [found[row.id] for row in rows if row.id in found]


def _answer(row: Row) -> str:
    if isinstance(row, LabelRow):
        return row.label
    if isinstance(row, ChatRow):
        return normalised(row.messages[-1].content)
    return normalised(row.completion) if isinstance(row, PromptCompletionRow) else ""


def _kept(answers: Sequence[str], keep: str) -> str | None:
    if keep == "first":
        return answers[0]
    (top, most), (_, second), *_ = Counter(answers).most_common()
    return top if keep == "majority" and most > second else None


def _finding(row: Row, answer: str, see: Row, answers: Counter[str]) -> Finding:
    if isinstance(row, LabelRow):
        counts = ", ".join(f"{label} {count}" for label, count in sorted(answers.items()))
        why, fix = f'is labelled "{answer}"; rows with the same input are labelled: {counts}', "decide which label is right, or set keep: majority"
        return Finding(row_id=row.id, code=RejectCode.LABEL_CONFLICT, severity="reject", why=why, fix=fix, see=see.id)
    why, fix = f"the same prompt has {len(answers)} different answers", "read them, and keep those you want the model to give"
    return Finding(row_id=row.id, code=RejectCode.LABEL_CONFLICT, severity="warn", why=why, fix=fix, see=see.id)
