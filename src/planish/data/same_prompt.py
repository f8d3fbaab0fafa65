"""Rows that judge several answers to one prompt: what they ask differs by the answer, and yet a model trained on one of them knows the prompt of the others (MISSION D8)."""

from __future__ import annotations

from collections import defaultdict

from planish.data.normalise import prompt_digest
from planish.data.table import Table

JUDGED = frozenset({"unpaired", "steps"})
"""Shapes whose rows hold an answer in what is asked: whether it is good, and which of its steps are right."""


def same_prompt(rows: Table) -> list[list[str]]:
    """Ids of rows whose prompts count as the same, two or more together."""
    if not any(key.shape in JUDGED for key in rows.keys):
        return []
    found = defaultdict[bytes, list[str]](list)
    for row in rows:
        if row.shape in JUDGED:
            found[prompt_digest(row)].append(row.id)
    return [ids for ids in found.values() if len(ids) > 1]
