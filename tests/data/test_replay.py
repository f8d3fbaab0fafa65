"""Replay's rows: how many, how much each counts, and that nothing that is scored is among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.data import general, replay
from planish.errors import InputError
from planish.rows import ChatRow, LabelRow, Message, Origin, TextRow

ORIGIN = Origin(file="f", line=1, sha256="0" * 64)


def test_c5_900_task_rows_and_a_share_of_a_tenth_make_100_general_rows() -> None:
    """C5 Ex: n rho / (1 - rho) = 900 x .1 / .9 = 100: of 1,000 rows a tenth."""
    assert replay.count(900, 0.1) == 100
    assert replay.count(3, 0.1) == 1


def test_c5_tokens_are_weighted_so_that_the_share_is_one_of_the_loss() -> None:
    """900 labels of 2 tokens and 100 texts of 90: w = .1/.9 x 1800/9000 = .0222, and 9000 w = 200 of 2,000 is a tenth. Unweighted it would be 83 %."""
    weight = replay.token_weight(1800, 9000, 0.1)
    assert weight == pytest.approx(0.02222, abs=1e-5)
    assert 9000 * weight / (9000 * weight + 1800) == pytest.approx(0.1)


def test_c5_beside_documents_the_share_is_one_of_the_text() -> None:
    """9,000 bytes of documents and a share of .1 ask for 1,000 bytes of general rows: 5 of rows of 200 to 249 bytes; of 3 such rows there is one too few, and that is told."""
    rows = [TextRow(id=str(place), origin=ORIGIN, text="x" * 40) for place in range(9)]
    size = len(rows[0].model_dump_json())
    assert 200 <= size < 250
    assert replay.count_beside(9000, rows, 0.1) == 5
    assert replay.count_beside(9000, rows[:3], 0.1) == 4


def test_replayed_rows_are_none_of_the_general_suites() -> None:
    suites = general.rows(["held_out_text", "chat_exchanges"])
    texts, asked = {row.text for row in suites}, {row.messages[0].content for row in suites if row.messages}
    rows = replay.owned()
    assert len(rows) > 500
    assert not any(isinstance(row, TextRow) and row.text in texts for row in rows)
    assert not any(isinstance(row, ChatRow) and row.messages[0].content in asked for row in rows)
    assert not asked & set(replay.questions())
    assert rows == replay.owned()
    assert {row.shape for row in rows[:20]} == {"text", "chat"}


def test_d9_what_the_evaluation_asks_is_not_replayed() -> None:
    """Planted: gold word for word, gold with a changed end, a run of 13 of its words, and a row that is its own."""
    words = "the new phone came late and the box was open but the shop sent me another one within a single day for free and with a kind note"
    gold = [LabelRow(id="g1", origin=ORIGIN, text=words, label="bad")]
    planted = [words, words + " truly", "They said that the new phone came late and the box was open but the shop sent nobody else anything"]
    rows = [
        TextRow(id=f"r{index}", origin=ORIGIN, text=text) for index, text in enumerate([*planted, "A comet is a lump of ice and dust that goes round the sun."])
    ]
    found = replay.screen(rows, gold)
    assert [row.id for row in found.kept] == ["r3"]
    assert {row for row, _, _ in found.leaks} == {"r0", "r1", "r2"}
    assert found.held == {"g1"}


def test_d9_a_general_suite_is_held_out_too() -> None:
    asked = (Message(role="user", content="Which metal do people find in the red rocks of the far north?"), Message(role="assistant", content="Iron."))
    suite = [general.GeneralRow(id="chat-1", source="chat_exchanges", messages=asked)]
    row = ChatRow(id="r", origin=ORIGIN, messages=asked)
    assert replay.screen([row], replay.as_rows(suite)).kept == []


def test_rows_of_a_file_become_text_and_dialogues(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    given = [
        {"text": "The sun is a star."},
        {"question": "What is ice?", "answer": "Frozen water."},
        {"text": "I like it", "label": "good"},
        {"text": "Poor", "label": "bad"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    text, *chats = replay.from_file(path)
    assert isinstance(text, TextRow)
    assert [row.messages[-1].content for row in chats if isinstance(row, ChatRow)] == ["Frozen water.", "good", "bad"]
    path.write_text("not json\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mine\.jsonl:1"):
        replay.from_file(path)


def test_an_empty_answer_of_the_base_is_left_out() -> None:
    rows = replay.answered(["What is ice?", "And snow?"], ["Frozen water.", "  "])
    assert [row.id for row in rows] == ["replay-chat-0"]
