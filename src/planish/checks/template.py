"""Dialogues that the model's chat template cannot write as they are: a role it refuses or drops, two begin tokens, no end token, another prompt than the one served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from planish.data.finding import CheckResult, Finding
from planish.data.table import Table
from planish.errors import InputError, Problem
from planish.model.chat import Chat
from planish.model.measured import measure
from planish.rows import NoteCode, RejectCode

TOKENS = True
"""This check looks at tokens, so it needs the model's tokenizer and template."""

FIXES = {
    RejectCode.UNKNOWN_ROLE: "put what the turn says into a question, leave the row out, or use a model whose template has a place for it",
    RejectCode.ROLE_ORDER: "join neighbouring turns of one role, or leave the row out",
    RejectCode.DOUBLE_BOS: "take the begin token out of the template, or out of the row's text",
    RejectCode.EOS_MISSING: "write the end token behind each answer in the template, or name the id that the template writes in generation_config.json: eos_token_id",
    RejectCode.NOT_A_PREFIX: "train the last answer of each dialogue alone (turns: last), or use a template whose history keeps what it said",
}


def check(rows: Table, split: Mapping[str, str] | None = None, chat: Chat | None = None, *, turns: Literal["all", "last"] = "all") -> CheckResult:
    """A finding per row that the template cannot render for training as it does for serving (MISSION K1), with the two renderings in the reason.

    A row whose text spells a special token is warned of: it would be read as that token. Raises InputError without a tokenizer.
    """
    if chat is None:
        raise InputError(Problem("checks.template", "renders rows and was given no tokenizer", "name a model in the recipe"))
    measured = measure(rows, chat, turns)
    findings = [
        Finding(row_id=id, code=fault.code, severity="reject", why=fault.why, fix=FIXES[fault.code]) for id, fault in measured.faults() if fault.code in FIXES
    ]
    for id, row in zip(measured.ids, measured.rows, strict=True):
        if row.special is not None:
            why, fix = f"its text spells {row.special}, which the tokenizer reads as a special token", f"take {row.special} out of the text"
            findings.append(Finding(row_id=id, code=NoteCode.SPECIAL_TOKEN, severity="warn", why=why, fix=fix))
    figures: dict[str, Any] = {
        "rows": len(measured.rows),
        "template": chat.template_hash,
        "reads_the_clock": chat.template.reads_the_clock,
        "tool_arguments": chat.template.arguments,
        "faults": dict(sorted(Counter(str(finding.code) for finding in findings).items())),
    }
    return CheckResult(findings=tuple(findings), figures=figures)
