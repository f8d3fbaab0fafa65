"""Empty masks, full masks, prompts that are no prefix, and the trained share (MISSION K2)."""

from __future__ import annotations

import pytest
from tests.model.chat_families import chat, row, turns

from planish.checks import mask, template, truncation
from planish.data.table import Table
from planish.errors import InputError
from planish.model import measured

ASKED = turns(("user", "the capital"), ("assistant", "Paris"))
THOUGHT = turns(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nParis"), ("user", "b"), ("assistant", "sunny"))


def test_k2_planted_rows_are_found() -> None:
    off = (ASKED[0], ASKED[1].model_copy(update={"weight": 0}))
    rows = Table.of([row(ASKED, id="good"), row(off, id="off"), row(ASKED[:1], id="unanswered"), row(THOUGHT, id="thought")])
    result = mask.check(rows, None, chat("qwen3"))
    assert {finding.row_id: str(finding.code) for finding in result.findings} == {
        "off": "no_scored_tokens",
        "unanswered": "no_scored_tokens",
        "thought": "not_a_prefix",
    }
    assert {finding.row_id for finding in mask.check(rows, None, chat("qwen3"), turns="last").findings} == {"off", "unanswered"}


def test_all_tokens_scored_is_noted() -> None:
    """A template that writes nothing but what the assistant says: the first token is predicted by nothing, all others are trained."""
    bare = chat("chatml", template="{% for m in messages if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% endfor %}")
    result = mask.check(Table.of([row(turns(("assistant", "Paris")), id="all")]), None, bare)
    assert [(finding.row_id, str(finding.code), finding.severity) for finding in result.findings] == [("all", "all_tokens_scored", "warn")]
    assert result.figures["share"] == 1.0


def test_the_share_is_over_all_rows() -> None:
    one = chat("chatml")
    sequence = one.trained(ASKED)
    result = mask.check(Table.of([row(ASKED, id=str(n)) for n in range(3)]), None, one)
    trained = sum(weight > 0 for weight in sequence.weights)
    assert result.figures == {"rows": 3, "tokens": 3 * len(sequence.ids), "trained": 3 * trained, "share": trained / len(sequence.ids), "turns": "all"}


def test_three_checks_cost_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, one = Table.of([row(ASKED, id=str(n)) for n in range(5)]), chat("chatml")
    first = mask.check(rows, None, one)
    monkeypatch.setattr(measured, "_measure", lambda *_: pytest.fail("measured again"))
    assert mask.check(rows, None, one) == first
    template.check(rows.without({"0"}), None, one)
    assert truncation.check(rows, None, one).figures["rows"] == 5


def test_rows_that_are_no_dialogues_and_no_tokenizer() -> None:
    from planish.rows import LabelRow, Origin

    label = LabelRow(id="x", origin=Origin(file="f", line=1, sha256=""), text="a", label="b")
    with pytest.raises(InputError, match="dialogue"):
        mask.check(Table.of([label]), None, chat("chatml"))
    with pytest.raises(InputError, match="tokenizer"):
        mask.check(Table.of([]))
