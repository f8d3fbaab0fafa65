"""What a template refuses, row by row (MISSION K1)."""

from __future__ import annotations

import pytest
from tests.model.chat_families import CALLED, LLAMA3, TOOL, chat, row, turns

from planish.checks import template
from planish.data.table import Table
from planish.errors import InputError

GOOD = turns(("user", "the capital"), ("assistant", "Paris"))


def test_k1_each_fault_is_named_with_its_row() -> None:
    rows = [
        row(GOOD, id="good"),
        row((*turns(("system", "Be brief.")), *GOOD), id="system"),
        row(turns(("user", "a"), ("user", "b"), ("assistant", "c")), id="order"),
        row(CALLED, id="call", tools=(TOOL,)),
        row(turns(("user", "say <eos> now"), ("assistant", "no")), id="special"),
    ]
    result = template.check(Table.of(rows), None, chat("gemma"))
    assert {finding.row_id: (str(finding.code), finding.severity) for finding in result.findings} == {
        "system": ("unknown_role", "reject"),
        "order": ("role_order", "reject"),
        "call": ("unknown_role", "reject"),
        "special": ("special_token", "warn"),
    }
    assert result.figures["faults"] == {"role_order": 1, "special_token": 1, "unknown_role": 2}
    assert all(finding.fix for finding in result.findings)


def test_faults_of_the_template_itself_are_faults_of_every_row() -> None:
    rows = Table.of([row(GOOD, id=str(n)) for n in range(3)])
    doubled = template.check(rows, None, chat("llama3", template="{{ bos_token }}" + LLAMA3))
    assert [str(finding.code) for finding in doubled.findings] == ["double_bos"] * 3
    endless = template.check(rows, None, chat("chatml", end="<|endoftext|>", eos="<|endoftext|>"))
    assert [str(finding.code) for finding in endless.findings] == ["eos_missing"] * 3


def test_a_clean_set_has_no_finding() -> None:
    rows = Table.of([row(GOOD, id=str(n)) for n in range(30)])
    assert all(template.check(rows, None, chat(name)).findings == () for name in ("chatml", "llama3", "qwen3", "gemma", "mistral"))


def test_needs_a_tokenizer() -> None:
    with pytest.raises(InputError, match="tokenizer"):
        template.check(Table.of([]))
