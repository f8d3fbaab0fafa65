"""Answers that would be cut (MISSION K5)."""

from __future__ import annotations

import pytest
from tests.model.chat_families import chat, row, turns

from planish.checks import truncation
from planish.data.table import Table
from planish.errors import InputError

SHORT = [row(turns(("user", f"what is {n}?"), ("assistant", "sunny")), id=f"s{n}") for n in range(193)]
LONG = [row(turns(("user", f"what is {n}?"), ("assistant", "sunny " * 100)), id=f"l{n}") for n in range(7)]
ROWS = Table.of([*SHORT[:100], *LONG, *SHORT[100:]])


def test_k4_k5_answers_cut_in_7_of_200_rows() -> None:
    """MISSION K4: the 7 rows are named, and a length is proposed that leaves every answer whole."""
    result = truncation.check(ROWS, None, chat("chatml"), max_length=64)
    assert [finding.row_id for finding in result.findings] == [given.id for given in LONG]
    assert {str(finding.code) for finding in result.findings} == {"answer_truncated"}
    assert all(finding.severity == "reject" for finding in result.findings)
    figures = result.figures
    assert (figures["rows"], figures["cut"], figures["max_length"]) == (200, 7, 64)
    assert figures["whole"] % 64 == 0
    assert figures["whole"] - 64 < figures["longest"] <= figures["whole"]
    assert sum(figures["histogram"].values()) == 200
    assert truncation.check(ROWS, None, chat("chatml"), max_length=figures["whole"]).findings == ()


def test_too_long_where_the_prompt_alone_fills_it() -> None:
    long = row(turns(("user", "what is the weather? " * 40), ("assistant", "sunny")), id="p")
    result = truncation.check(Table.of([long]), None, chat("chatml"), max_length=32)
    assert [str(finding.code) for finding in result.findings] == ["too_long"]
    fitted = truncation.check(Table.of([long]), None, chat("chatml"), max_length=32, policy="cut_prompt_left")
    assert fitted.findings == ()
    assert fitted.figures["fitted"] == 1


def test_the_tokenizers_own_limit() -> None:
    one = chat("chatml")
    assert truncation.check(ROWS, None, one).findings == ()  # it states none
    one.tokenizer.model_max_length = 64
    assert len(truncation.check(ROWS, None, one).findings) == 7


def test_needs_a_tokenizer_and_a_length() -> None:
    with pytest.raises(InputError, match="tokenizer"):
        truncation.check(ROWS)
    with pytest.raises(InputError, match="max_length"):
        truncation.check(ROWS, None, chat("chatml"), max_length=1)
    assert truncation.check(Table.of([]), None, chat("chatml")).figures == {"rows": 0}
