"""The same input with different answers: at most one of them can be right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Keys, Table
from planish.rows import RejectCode

_FREE = frozenset({"chat", "prompt_completion", "summary", "question"})
"""Shapes whose answer may rightly differ from row to row. Labels, spans, preferences and judged steps may not."""


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Any = None, *, keep: Literal["none", "majority", "first"] = "none") -> CheckResult:
    """A finding per row of a conflicting group that is not kept, with a row that contradicts it in `see` (MISSION D4).

    `keep`: `none` sets the whole group aside; `majority` keeps the rows of the most frequent answer (none on a tie); `first` keeps those of the first row's.
    Labels contradict each other and are rejected; free answers to one prompt may differ rightly, so they are warned of.
    Where `split` says which rows are gold, gold is compared with gold only: a question on both sides is a leak.
    """
    groups: dict[tuple[bytes, bool], list[int]] = defaultdict(list)
    asked = Counter([key.question for key in rows.keys])
    for index, key in enumerate(rows.keys):
        if asked[key.question] > 1 and key.shape != "text":
            groups[key.question, (split or {}).get(key.id) == "gold"].append(index)
    found: dict[int, Finding] = {}
    conflicts: Counter[str] = Counter()
    for group in groups.values():
        keys = [rows.keys[index] for index in group]
        answers = [key.answer for key in keys]
        if len(set(answers)) > 1:
            conflicts[keys[0].shape] += 1
            kept = _kept(answers, keep)
            see = {answer: next(other.id for other in keys if other.answer != answer) for answer in set(answers)}
            counts = Counter(str(key.label) for key in keys)
            for index, key in zip(group, keys, strict=True):
                if key.answer != kept:
                    found[index] = _finding(key, see[key.answer], counts, len(see))
    figures = {"groups": conflicts.total(), "groups_by_shape": dict(sorted(conflicts.items())), "rows": len(found)}
    return CheckResult(findings=tuple(found[index] for index in sorted(found)), figures=figures)


def _kept(answers: Sequence[bytes], keep: str) -> bytes | None:
    if keep == "first":
        return answers[0]
    (top, most), (_, second), *_ = Counter(answers).most_common()
    return top if keep == "majority" and most > second else None


def _finding(key: Keys, see: str, labels: Counter[str], answers: int) -> Finding:
    if key.label is not None:
        counts = ", ".join(f"{label} {count}" for label, count in sorted(labels.items()))
        why, fix = f'is labelled "{key.label}"; rows with the same input are labelled: {counts}', "decide which label is right, or set keep: majority"
        return Finding(row_id=key.id, code=RejectCode.LABEL_CONFLICT, severity="reject", why=why, fix=fix, see=see)
    if key.shape in _FREE:
        why, fix = f"the same prompt has {answers} different answers", "read them, and keep those you want the model to give"
        return Finding(row_id=key.id, code=RejectCode.LABEL_CONFLICT, severity="warn", why=why, fix=fix, see=see)
    why, fix = f"the same input is judged in {answers} different ways", "decide which is right, or set keep: majority"
    return Finding(row_id=key.id, code=RejectCode.LABEL_CONFLICT, severity="reject", why=why, fix=fix, see=see)
