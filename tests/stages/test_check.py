"""`planish check FILE`: every refused row with its line and reason, nothing stored (MISSION D2, D4)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planish.check import as_json, check_rows, text, write
from planish.cli import app
from planish.errors import InputError
from planish.recipe_keys import Use


def _chat(question: str, answer: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


LINES = [
    _chat("how do i reset my password", "open the settings and choose reset"),
    _chat("how do i reset my password", ""),
    json.dumps({"messages": [{"role": "user", "content": "anyone there"}]}),
    _chat("How do I  reset my password", "Open the settings and choose reset"),
    _chat("where is my parcel", "look into the app under orders"),
]


def test_d2_every_refused_row_is_named_with_its_line(tmp_path: Path) -> None:
    """Line 2 has an empty answer, line 3 none at all, line 4 repeats line 1 after normalisation: three set aside of five, exit 2."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    checked = check_rows(path, checks=[Use(name="duplicates")])
    assert {(row.line, row.code.value) for row in checked.rejected} == {(2, "empty_answer"), (3, "no_assistant_turn"), (4, "duplicate")}
    assert (checked.counts["n_in"], checked.counts["n_accepted"], checked.exit_code) == (5, 2, 2)
    said = text(checked)
    assert "rows.jsonl:2 " in said
    assert max(map(len, said.splitlines())) <= 160
    write(checked, tmp_path / "out")
    assert len((tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert as_json(checked)["counts"] == checked.counts


def test_each_refused_row_is_told_with_the_fix_that_is_its_own(tmp_path: Path) -> None:
    """Three rows that are no JSON for three reasons, so with three fixes; two that lack the same, with one for both."""
    path = tmp_path / "rows.jsonl"
    broken = ['{"text": "a", "text": "b"}', '{"text": NaN}', "hello", '{"messages": []}', '{"messages": []}']
    path.write_text("\n".join([*LINES[:1], *broken]) + "\n", encoding="utf-8")
    said = text(check_rows(path, checks=[]))
    for line in ("rows.jsonl:2 .*twice.*; fix: keep one of the two", "rows.jsonl:3 .*NaN.*; fix: write null", "rows.jsonl:4 .*; fix: write one JSON object"):
        assert re.search(line, said), said
    assert said.count("fix: add the assistant's answer") == 1


def test_rows_of_a_gold_file_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(_chat(f"question number {n} about parcel {n}", f"answer {n}") for n in range(200)) + "\n", encoding="utf-8")
    (tmp_path / "gold.jsonl").write_text(
        "\n".join(_chat(f"gold question {n} of client {n}", "x") for n in range(199)) + "\n" + _chat("Question number 7 about parcel 7", "y") + "\n"
    )
    checked = check_rows(tmp_path / "rows.jsonl", gold=tmp_path / "gold.jsonl", checks=[Use(name="leakage")])
    assert [(row.file, row.line, row.code.value) for row in checked.rejected] == [("rows.jsonl", 8, "gold_overlap")]


def test_a_check_that_cannot_be_made_is_named_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES[:1] + LINES[4:]) + "\n", encoding="utf-8")
    checked = check_rows(path)
    assert checked.exit_code == 0
    assert "--gold" in checked.skipped["leakage"]
    assert "--model" in checked.skipped["mask"]
    with pytest.raises(InputError, match="has the name of the file of rows"):
        check_rows(path, gold=path)


def test_the_verb_prints_json_and_exits_2(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(path), "--checks", "duplicates", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["counts"]["n_rejected"] == 3
