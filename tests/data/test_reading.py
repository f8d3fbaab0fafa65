"""Files in, rows out (MISSION D2): every record accepted or rejected, and the file refused as a whole where it is not what it is taken for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planish.checks import duplicates
from planish.data.reading import TooManyMalformed, read_rows
from planish.errors import InputError
from planish.rows import RejectCode

USER = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
GOOD = {"messages": [USER, ANSWER]}


def _jsonl(folder: Path, *values: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values), encoding="utf-8")
    return path


def test_d2_six_lines_give_one_accepted_row_five_codes_and_exit_2(tmp_path: Path) -> None:
    """MISSION D2, Ex: {good, empty reply, user only, foo, not JSON, copy} -> 1 accepted, 5 codes, exit 2.

    4 of 6 lines are malformed (67 % > 5 %), so the file is refused; its reading still has every row. The copy is found by the duplicates check:
    6 = 1 accepted + 5 rejected, each with its own code.
    """
    path = _jsonl(tmp_path, GOOD, {"messages": [USER, ANSWER | {"content": ""}]}, {"messages": [USER]}, {"foo": 1}, "not JSON", GOOD)
    with pytest.raises(TooManyMalformed, match=r"4 of 6 lines \(66.7%\) are malformed") as refused:
        read_rows(path)
    assert refused.value.exit_code == 2
    assert [problem.where for problem in refused.value.problems] == [str(path), *(f"{path}:{line}" for line in (2, 3, 4, 5))]
    reading = refused.value.reading
    reading = reading.set_aside(duplicates.check(reading.accepted).findings)
    assert reading.counts == {
        "n_in": 6,
        "n_accepted": 1,
        "n_rejected": 5,
        "bad_json": 1,
        "duplicate": 1,
        "empty_answer": 1,
        "no_assistant_turn": 1,
        "unknown_shape": 1,
    }
    assert [(row.line, row.raw) for row in reading.rejected if row.code == RejectCode.DUPLICATE] == [(6, json.dumps(GOOD))]


def test_mixed_shapes_are_refused_with_counts_unless_asked(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, {"text": "x", "label": "a"}, {"text": "y", "label": "a"}, GOOD)
    with pytest.raises(InputError, match="several shapes: chat 1, label 2"):
        read_rows(path)
    assert len(read_rows(path, mixed=True).accepted) == 3


def test_five_per_cent_passes_and_more_does_not(tmp_path: Path) -> None:
    """1 of 20 lines is 5.0 %, which is not more than 5 %; 2 of 39 is 5.1 %."""
    good = [{"text": str(number)} for number in range(37)]
    assert len(read_rows(_jsonl(tmp_path, *good[:19], "{")).accepted) == 19
    with pytest.raises(TooManyMalformed, match=r"2 of 39 lines \(5.1%\)"):
        read_rows(_jsonl(tmp_path, *good, "{", "{"))


def test_an_error_lists_the_first_20_bad_lines(tmp_path: Path) -> None:
    with pytest.raises(TooManyMalformed) as refused:
        read_rows(_jsonl(tmp_path, *["{"] * 50))
    assert [problem.where.rpartition(":")[2] for problem in refused.value.problems[1:]] == [str(line) for line in range(1, 21)]


def test_ids_follow_the_content_and_copies_are_numbered(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path, {"text": "x", "when": 1}, {"when": 2, "text": "x"}, {"text": "y"}, {"text": "x"}, {"text": "z", "id": "k"}, {"text": "w", "id": "k"}
    )
    ids = [row.id for row in read_rows(path).accepted]
    assert ids[1] == f"{ids[0]}-2"
    assert ids[3] == f"{ids[0]}-3"
    assert ids[4:] == ["k", "k-2"]
    assert len(set(ids)) == 6


def test_a_mapping_of_a_column_that_no_row_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """Without its label every row would be a document. A column that only the last row has is no mistake."""
    path = tmp_path / "rows.csv"
    path.write_text("Review,Sentiment\n" + "so it was,good\n" * 30, encoding="utf-8")
    with pytest.raises(InputError, match=r'no row has a column "Sentimnt"\n  fix: did you mean "Sentiment"'):
        read_rows(path, mapping={"Review": "text", "Sentimnt": "label"})
    late = tmp_path / "late.jsonl"
    rows = [{"q": f"question {n}", "a": "x"} for n in range(300)] + [{"q": "last", "a": "x", "passage": "where it stands"}]
    late.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    assert len(read_rows(late, mapping={"q": "question", "a": "answer", "passage": "context"}).accepted) == 301
