"""Rows are tokenised once: the same rows, tokenizer and options are read back, anything else is made anew (MISSION K6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planish.data.task import make
from planish.errors import InputError
from planish.model.chat import Chat
from planish.objectives import sft
from planish.recipe_train import TrainSection
from planish.rows import ChatRow, Message, Origin, PromptCompletionRow, TextRow
from planish.stages._encoding import encode

WHERE = Origin(file="f", line=1, sha256="")
ROWS = [PromptCompletionRow(id=str(n), origin=WHERE, prompt=f"question {n}", completion=f"answer {n}") for n in range(20)]


def _section(**given: Any) -> TrainSection:
    return TrainSection.model_validate({"objective": "sft", **given})


def test_k6_the_second_time_nothing_is_rendered(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, refused = encode(_section(), ROWS, make("chat"), tiny, tmp_path)
    assert [row_id for row_id, _ in first] == [row.id for row in ROWS]
    assert refused == []
    chat = Chat.load(tiny)
    assert first[3][1] == sft.encode(make("chat").conversation(ROWS[3]), chat)
    monkeypatch.setattr(sft, "encode", lambda *_: pytest.fail("rendered again"))
    assert encode(_section(), ROWS, make("chat"), tiny, tmp_path) == (first, [])
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_k6_a_row_over_the_length_is_refused_with_its_reason_and_never_cut(tiny: Path, tmp_path: Path) -> None:
    long = PromptCompletionRow(id="long", origin=WHERE, prompt="q", completion="word " * 400)
    made, refused = encode(_section(max_length=64), [*ROWS, long], make("chat"), tiny, tmp_path)
    assert len(made) == 20
    assert [(one["row"], one["code"]) for one in refused] == [("long", "answer_truncated")]


def test_k5_without_a_length_of_its_own_a_row_ends_with_the_models_context(tiny: Path, tmp_path: Path) -> None:
    """The model has 512 positions: a row of more is refused with its reason, and one that an entry asks for all the same is trained on; documents go on in the next block."""
    long = PromptCompletionRow(id="long", origin=WHERE, prompt="q", completion="word " * 400)
    assert len(Chat.load(tiny).trained(make("chat").conversation(long).messages).ids) > 512
    _, refused = encode(_section(), [*ROWS, long], make("chat"), tiny, tmp_path)
    assert [(one["row"], one["code"]) for one in refused] == [("long", "answer_truncated")]
    assert "512" in refused[0]["why"]
    made, refused = encode(_section(max_length=9000), [*ROWS, long], make("chat"), tiny, tmp_path)
    assert (len(made), refused) == (21, [])
    document = TextRow(id="text", origin=WHERE, text="word " * 400)
    made, refused = encode(_section(objective="cpt"), [document], make("chat"), tiny, tmp_path)
    assert (len(made), refused) == (1, [])


def test_rows_of_another_shape_are_refused_by_an_objective_that_reads_its_own(tiny: Path, tmp_path: Path) -> None:
    chat = ChatRow(id="1", origin=WHERE, messages=(Message(role="user", content="a"), Message(role="assistant", content="b")))
    with pytest.raises(InputError, match="reads preference rows; 1 of 1 are chat"):
        encode(_section(objective="dpo"), [chat], make("chat"), tiny, tmp_path)
    with pytest.raises(InputError, match="asks no question of it"):
        encode(_section(), [TextRow(id="t", origin=WHERE, text="only text")], make("chat"), tiny, tmp_path)
