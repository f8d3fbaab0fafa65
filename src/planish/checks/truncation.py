"""Answers that would be cut at max_length tokens: a model trained on a cut answer learns to stop nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.fit import fit, histogram, suggested
from planish.model.mask import Dialogue, Masked
from planish.model.measured import measure
from planish.model.template import Refused
from planish.rows import ChatRow

TOKENS = True
"""This check looks at tokens, so it needs the model's tokenizer and template."""


def check(
    rows: Table,
    split: Mapping[str, str] | None = None,
    chat: Chat | None = None,
    *,
    max_length: int | None = None,
    policy: Literal["refuse", "drop", "cut_prompt_left", "split"] = "refuse",
    turns: Literal["all", "last"] = "all",
) -> CheckResult:
    """A finding per row that `policy` cannot fit into `max_length` tokens (MISSION K5); without `max_length`, the tokenizer's own limit, where it states one.

    `figures`: the lengths by multiples of 64, the longest, the length that leaves 99 % of the rows whole, and what is cut at `max_length`. Rows that the template or the
    mask refuses are for those checks to name. Raises InputError without a tokenizer, or for a `max_length` below 2.
    """
    if chat is None:
        raise InputError(Problem("checks.truncation", "counts tokens and was given no tokenizer", "name a model in the recipe"))
    if max_length is not None and max_length < 2:
        raise InputError(Problem("checks.truncation.max_length", f"is {max_length}; a sequence has at least two tokens", "give a larger length"))
    limit = max_length if max_length is not None else _stated(chat)
    measured = measure(rows, chat, turns)
    lengths = measured.lengths.tolist()
    if not lengths:
        return CheckResult(figures={"rows": 0})
    findings = []
    fitted = 0
    for place, (row_id, row) in enumerate(zip(measured.ids, measured.rows, strict=True)):
        if limit is None or row.fault is not None or row.length <= limit:
            continue
        refused = _refused(rows, place, chat, limit, policy, turns)
        if refused is None:
            fitted += 1
        else:
            fix = f"raise max_length to {row.length} or more, or shorten the row"
            findings.append(Finding(row_id=row_id, code=refused.code, severity="reject", why=refused.why, fix=fix))
    figures: dict[str, Any] = {
        "rows": len(lengths),
        "max_length": limit,
        "policy": policy,
        "longest": max(lengths),
        "p99": suggested(lengths),
        "whole": suggested(lengths, 1.0),
        "histogram": {str(upper): count for upper, count in histogram(lengths).items()},
        "cut": len(findings),
        "fitted": fitted,
    }
    return CheckResult(findings=tuple(findings), figures=figures)


def _refused(
    rows: Table, place: int, chat: Chat, limit: int, policy: Literal["refuse", "drop", "cut_prompt_left", "split"], turns: Literal["all", "last"]
) -> Refused | None:
    """Why the row does not fit, or None where the policy makes it fit."""
    row = rows[place]
    assert isinstance(row, ChatRow)
    dialogue = Dialogue(row.messages, row.tools)
    masked = chat.masks([dialogue], turns)[0]
    assert isinstance(masked, Masked)
    try:
        fit(chat, dialogue, masked, limit, policy, turns)
    except Refused as refused:
        return refused
    return None


def _stated(chat: Chat) -> int | None:
    """The tokenizer's own limit; one that is absent is written as a number beyond all memory."""
    limit = chat.tokenizer.model_max_length
    return int(limit) if limit is not None and limit < 10**9 else None
