"""Rows that hold what the evaluation asks (MISSION D9)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from planish.checks import leakage
from planish.data.finding import CheckResult
from planish.data.table import Table
from planish.errors import InputError
from planish.model import encoder
from planish.rows import ChatRow, LabelRow, Message, NoteCode, Origin, RejectCode, Row, TextRow

WORDS = [f"{a}{b}{c}" for a in "bdgkmprstv" for b in "aeiou" for c in ("n", "l", "st", "rk", "sh")]


def _row(id: str, text: str, label: str = "a") -> LabelRow:
    return LabelRow(id=id, origin=Origin(file="f", line=1, sha256=""), text=text, label=label)


def _chat(id: str, *turns: str) -> ChatRow:
    messages = tuple(Message(role=("user", "assistant")[number % 2], content=turn) for number, turn in enumerate(turns))  # type: ignore[arg-type]
    return ChatRow(id=id, origin=Origin(file="f", line=1, sha256=""), messages=messages)


def _check(train: Sequence[Row], gold: Sequence[Row], validation: Sequence[Row] = (), **keys: object) -> CheckResult:
    split = {row.id: name for name, rows in (("train", train), ("gold", gold), ("validation", validation)) for row in rows}
    return leakage.check(Table.of([*train, *gold, *validation]), split, **keys)  # type: ignore[arg-type]


def _words(first: int, n: int) -> str:
    """`n` words that stand nowhere else."""
    return " ".join(f"w{number}" for number in range(first, first + n))


@pytest.mark.parametrize(("shared", "leaks"), [(13, True), (12, False)])
def test_d9_30_words_with_13_in_a_row_shared(shared: int, leaks: bool) -> None:
    """MISSION D9, Ex: 30-word train row sharing a 13-gram -> flagged; sharing 12 -> not. Both texts have 30 words; the gold one has 30 - 12 = 18 13-grams,
    of which 1 is shared."""
    train = f"{_words(0, 9)} {_words(500, shared)} {_words(20, 21 - shared)}"
    gold = f"{_words(100, 8)} {_words(500, shared)} {_words(200, 22 - shared)}"
    result = _check([_row("t", train)], [_row("g", gold)])
    assert [(finding.row_id, finding.see) for finding in result.findings] == ([("t", "g")] if leaks else [])
    if leaks:
        assert result.figures["leaks"] == [{"train_row": "t", "eval_row": "g", "method": "13-gram", "score": pytest.approx(1 / 18)}]


def test_d9_50_planted_leaks_are_all_found_and_gold_is_never_touched() -> None:
    """MISSION D9, Proof: 50 planted leaks, all exact/near found. 25 train rows repeat a gold text in capitals with another label; 25 change the last of its
    40 words: word 5-grams 36, 35 shared, J = 35/37 = .946. 50 rows of their own are not named."""
    rng = random.Random(9)
    gold = [_row(f"g{n}", " ".join(rng.choices(WORDS, k=40))) for n in range(50)]
    exact = [_row(f"e{n}", f"{gold[n].text.upper()}  ", "b") for n in range(25)]
    near = [_row(f"n{n}", f"{gold[n].text.rsplit(' ', 1)[0]} other") for n in range(25, 50)]
    clean = [_row(f"c{n}", " ".join(rng.choices(WORDS, k=40))) for n in range(50)]
    result = _check([*clean, *exact, *near], gold)
    assert [(finding.row_id, finding.see) for finding in result.findings] == [(row.id, f"g{row.id[1:]}") for row in (*exact, *near)]
    assert {finding.code for finding in result.findings} == {RejectCode.GOLD_OVERLAP}
    by_method: dict[str, set[str]] = {}
    for leak in result.figures["leaks"]:
        by_method.setdefault(leak["method"], set()).add(leak["train_row"])
    assert by_method["exact"] == {row.id for row in exact}
    assert by_method["near"] == {row.id for row in (*exact, *near)}
    assert next(leak["score"] for leak in result.figures["leaks"] if leak["train_row"] == "n25" and leak["method"] == "near") == pytest.approx(35 / 37)
    assert result.figures["gold_matched_share"] == 1


def test_a_short_question_must_be_held_almost_whole() -> None:
    """7 words have three 5-grams. All of them within a longer row are a leak, one of three is a turn of phrase."""
    gold = [_chat("g", "Which instrument has black and white keys?", "The piano.")]
    whole = _chat("t1", "Before lunch: which instrument has black and white keys and sounds sad when it is played?", "The piano.")
    part = _chat("t2", "Which instrument has black and yellow strings, is it the harp of the museum?", "No.")
    result = _check([whole, part], gold)
    assert [finding.row_id for finding in result.findings] == ["t1"]
    assert result.figures["leaks"][0]["method"] == "5-gram"
    assert result.figures["leaks"][0]["score"] == 1


def test_a_document_that_holds_a_gold_question_leaks_it() -> None:
    gold = [_chat("g", "How long does it take until bread dough has doubled at room temperature?", "An hour and a half.")]
    document = TextRow(id="d", origin=Origin(file="f", line=1, sha256=""), text=f"{_words(0, 200)} {gold[0].messages[0].content} {_words(300, 200)}")
    assert [finding.row_id for finding in _check([document], gold).findings] == ["d"]


def test_a_template_of_many_gold_rows_is_no_leak() -> None:
    """One instruction of 20 words before 30 questions, in train and in gold: its 13-grams stand in more than 10 gold rows and are not counted."""
    template = _words(9000, 20)
    gold = [_row(f"g{n}", f"{template} {_words(100 * n, 20)}") for n in range(30)]
    train = [_row(f"t{n}", f"{template} {_words(5000 + 100 * n, 20)}") for n in range(30)]
    result = _check(train, gold)
    assert not result.findings
    assert result.figures["template_ngrams"] == 8  # 13-grams within the 20 words; those that reach into a question are its own


def test_validation_leaks_gold_and_train_leaks_validation_and_unused_rows_do_not_matter() -> None:
    question = "which day does the second lorry of the month come"
    rows = [_row("g", question), _row("v", question), _row("u", question)]
    assert [finding.row_id for finding in leakage.check(Table.of(rows), {"g": "gold", "v": "validation", "u": "unused"}).findings] == ["v"]
    result = _check([_row("t", question)], [_row("g", "something else")], [_row("v", question)])
    assert [(finding.row_id, finding.see) for finding in result.findings] == [("t", "v")]
    assert result.figures["gold_matched"] == 0


def test_benchmark_files_are_compared_too(tmp_path: Path) -> None:
    """Rows of another shape: what is asked counts."""
    path = tmp_path / "exam.jsonl"
    questions = ["In which year was the old lighthouse of the harbour built?", "Who keeps it now?"]
    path.write_text("".join(json.dumps({"prompt": question, "completion": "x"}) + "\n" for question in questions), encoding="utf-8")
    train = [_chat("t", questions[0], "In 1850."), _chat("c", "What else is there to see in this town?", "The market.")]
    result = _check(train, [_chat("g", "Is it far from here to the sea?", "No.")], benchmarks=[str(path)])
    assert [(finding.row_id, finding.see) for finding in result.findings] == [("t", "exam.jsonl:1")]
    assert result.figures["evaluation_rows"] == {"benchmark": 2, "gold": 1}
    assert result.figures["gold_matched_share"] == 0


def test_d9_more_than_one_gold_row_of_a_hundred_is_for_training_to_refuse() -> None:
    """MISSION D9, Bad: > 1% of gold matched -> training refuses. 1 of 100 passes, 2 of 100 do not."""
    gold = [_row(f"g{n}", f"{_words(30 * n, 9)}") for n in range(100)]
    one, two = (_check([_row(f"t{n}", gold[n].text) for n in range(leaks)], gold).figures for leaks in (1, 2))
    assert (one["gold_matched_share"], two["gold_matched_share"]) == (0.01, 0.02)
    leakage.require_clean(one)
    with pytest.raises(InputError, match=r"2 of 100 gold rows \(2.0%\)"):
        leakage.require_clean(two)


def test_a_prompt_that_holds_its_answer_is_warned_of() -> None:
    said = "Pay the second invoice before the tenth."
    rows = [
        _chat("a", f"When do I pay? Answer: {said}", said),
        _chat("b", "When do I pay?", said),
        _chat("c", "Say yes or no.", "Yes"),
        _chat("d", said[:30], said),
    ]
    result = _check(rows, [])
    assert [(finding.row_id, finding.code, finding.severity) for finding in result.findings] == [("a", NoteCode.ANSWER_IN_PROMPT, "warn")]


def test_the_same_meaning_is_found_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in encoder that knows two words for one thing; by words alone the two questions share nothing."""

    def embed(texts: Sequence[str], *, encoder: str) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[1.0, 0.0] if "password" in text or "credentials" in text else [0.0, 1.0] for text in texts]), np.zeros(len(texts), bool)

    monkeypatch.setattr(encoder, "embed", embed)
    train = [_chat("t", "I forgot my credentials", "Ask for a link."), _chat("c", "When do you open?", "At nine.")]
    gold = [_chat("g", "How can a password be set anew?", "By a link.")]
    assert not _check(train, gold).findings
    result = _check(train, gold, embedding=0.95)
    assert [(finding.row_id, finding.see) for finding in result.findings] == [("t", "g")]
    assert result.figures["by_method"] == {"embedding": 1}
    assert result.figures["prompts_too_long_for_meaning"] == 0


def test_a_prompt_that_the_encoder_cuts_means_what_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long prompts that begin alike have one vector: of what the encoder read of them."""

    def embed(texts: Sequence[str], *, encoder: str) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(texts), 1)), np.array([len(text) > 20 for text in texts], bool)

    monkeypatch.setattr(encoder, "embed", embed)
    long = [_chat("t", "Read this: alpha beta gamma", "x"), _chat("u", "Read that", "y")]
    result = _check(long, [_chat("g", "Look at this: delta epsilon", "z")], embedding=0.95)
    assert not result.findings
    assert result.figures["prompts_too_long_for_meaning"] == 2  # of t and g


@pytest.mark.slow
def test_the_bundled_encoder_finds_a_reworded_question() -> None:
    train = [_chat("t", "How can I reset my password?", "x"), _chat("c", "What is the weather in Lisbon today?", "x")]
    result = _check(train, [_chat("g", "How do I reset my password?", "y")], embedding=0.95)
    assert [leak["train_row"] for leak in result.figures["leaks"] if leak["method"] == "embedding"] == ["t"]


def test_without_a_split_it_says_so() -> None:
    with pytest.raises(InputError, match="given no split"):
        leakage.check(Table.of([_row("1", "x")]))
