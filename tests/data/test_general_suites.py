"""The general suites: the same rows on every call, right answers that a rule verifies, and the user's own rows of any shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.data import general, instructions, reasoning
from planish.data.verify import Asked, verify
from planish.errors import InputError

ALL: tuple[general.Source, ...] = ("held_out_text", "chat_exchanges", "reasoning", "instructions")


def test_every_suite_has_the_200_rows_that_clear_3_points_and_repeats() -> None:
    rows = general.rows(ALL)
    assert {source: sum(row.source == source for row in rows) for source in ALL} == dict.fromkeys(ALL, 200)
    assert len({row.id for row in rows}) == 800
    assert rows == general.rows([*ALL, "reasoning"])


@pytest.mark.parametrize("instruction", instructions.INSTRUCTIONS, ids=lambda one: one.said)
def test_the_rule_of_an_instruction_passes_its_answer_and_no_other(instruction: instructions.Instruction) -> None:
    for things in instructions.TOPICS.values():
        kept = [verify(answer, Asked("row", ""), instruction.verifier, instruction.options).score for answer in instruction.answers(things)]
        assert kept == [1, 0, 0, 0]


def test_wrong_answers_are_refused_by_the_verifier_of_their_own_set() -> None:
    """Each question is found again in its set, whose verifier gives the right answer 1 and the three wrong ones less."""
    import reasoning_gym

    asked = dict(reasoning.questions(200))
    seen = 0
    for name, (settings, _) in reasoning.SETS.items():
        data = reasoning_gym.create_dataset(name, size=100, seed=reasoning.SEED, **settings)
        for entry in data:
            if (answers := asked.get(entry["question"].strip())) is not None:
                assert data.score_answer(answers[0], entry) == 1
                assert all(data.score_answer(answer, entry) < 1 for answer in answers[1:])
                seen += 1
    assert seen >= 200


def test_the_right_option_stands_at_every_place() -> None:
    rows = [row for row in general.rows(["reasoning", "instructions"])]
    assert {row.right for row in rows} == {0, 1, 2, 3}
    answers = {asked: options for _, asked, options in instructions.questions(200)}
    assert all(row.options[row.right] == answers[row.messages[0].content][0] for row in rows if row.source == "instructions")


def test_a_users_broad_set_may_hold_rows_of_any_shape(tmp_path: Path) -> None:
    """Labels are chosen between, text and answers are predicted."""
    path = tmp_path / "broad.jsonl"
    given = [
        {"text": "The sun is a star."},
        {"question": "What is ice?", "answer": "Frozen water."},
        {"text": "I like it", "label": "good"},
        {"text": "Poor", "label": "bad"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    text, answer, good, bad = general.rows([], path)
    assert (text.source, text.text) == ("own", "The sun is a star.")
    assert (answer.source, answer.messages[-1].content) == ("own", "Frozen water.")
    assert [(row.source, row.options[row.right]) for row in (good, bad)] == [("own_labels", "good"), ("own_labels", "bad")]
    assert good.options == ("bad", "good")


def test_a_broad_set_with_a_bad_row_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broad.jsonl"
    path.write_text('{"text": "The sun is a star."}\nnot json\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"broad\.jsonl:2"):
        general.rows([], path)


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(InputError, match="pip install --no-deps reasoning-gym"):
        general.rows(["reasoning"])
