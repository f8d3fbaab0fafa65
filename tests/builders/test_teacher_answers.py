"""What of a teacher's answers becomes a row (MISSION S3)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish.builders.teacher_answers import Written, build
from planish.errors import InputError
from planish.rows import ChatRow, Message, Origin


def row(number: int, answer: str = "7") -> ChatRow:
    turns = (Message(role="user", content=f"question {number}"), Message(role="assistant", content=answer))
    return ChatRow(id=f"r{number}", origin=Origin(file="x", line=1, sha256=""), messages=turns)


def test_s3_a_thousand_prompts() -> None:
    """S3: 1,000 prompts, 4 answers each, 70 % of them right: 4,000 * .7 = 2,800 rows before duplicates. Each answer is another text, so that none is a duplicate."""
    written = [
        Written(row(n), f"by way {sample} it is {7 if (4 * n + sample) % 10 < 7 else 8}\n#### {7 if (4 * n + sample) % 10 < 7 else 8}", "stop")
        for n in range(1000)
        for sample in range(4)
    ]
    found = build(written, verifier="numeric")
    assert found.counts == {"written": 4000, "failed": 0, "cut": 0, "empty": 0, "unverified": 1200, "duplicate": 0, "kept": 2800}


def test_s3_kept_rows_are_the_samples_byte_for_byte() -> None:
    """S3: spaces, line ends and marks stay as they were written; the prompt is the row's own."""
    text = "  Well,\r\n it is\t7 \u00e9\u0301 "
    found = build([Written(row(1), text, "stop")])
    assert found.rows == [{"messages": [{"role": "user", "content": "question 1"}, {"role": "assistant", "content": text}], "prompt_id": "r1"}]


def test_every_answer_ends_somewhere() -> None:
    """R-2: one of each fate, and a duplicate is one for its own prompt only."""
    answers = [("7", "stop"), (" 7 ", "stop"), ("8", "stop"), ("7 and", "length"), ("", "stop"), ("", "failed")]
    found = build([*[Written(row(1), *one) for one in answers], Written(row(2), "7", "stop")], verifier="exact")
    assert found.counts == {"written": 7, "failed": 1, "cut": 1, "empty": 1, "unverified": 1, "duplicate": 1, "kept": 2}
    assert sum(count for name, count in found.counts.items() if name != "written") == found.counts["written"]


def test_a_verifier_without_its_options_is_refused() -> None:
    with pytest.raises(InputError, match="pattern"):
        build([], verifier="regex")


def test_a_teacher_of_this_machine_writes_rows(tmp_path: Path) -> None:
    """Training prompts only, two samples each; what is written is read as rows of sft."""
    from planish.capture import How, prepared, texts
    from planish.recipe import Recipe

    make_tiny(tmp_path / "model", hidden=32)
    rows = [{"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good {n}"}]} for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, task: chat, split: {gold: 0.7, validation: 0.1}, checks: []}\n"
    (tmp_path / "recipe.yaml").write_text(head, encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    data = prepared(recipe, tmp_path / "space")
    how = How(teacher="model", max_new_tokens=40, precision="fp32")
    told = texts.write(recipe, how, tmp_path / "answers.jsonl", samples=2, temperature=1.0, data=data)
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert told["written"] == 2 * len(list(data.rows("train")))
    assert len(kept) == told["kept"]
    assert {one["prompt_id"] for one in kept} <= {one.id for one in data.rows("train")}
    with pytest.raises(InputError, match="exists already"):
        texts.write(recipe, how, tmp_path / "answers.jsonl", data=data)


@pytest.mark.parametrize(
    ("verifier", "options", "why"),
    [("exat", {}, 'did you mean "exact"'), ("json_schema", {}, "json_schema needs it"), ("regex", {"pattern": 5}, "no regular expression")],
)
def test_what_cannot_be_verified_is_refused_before_a_teacher_is_opened(
    verifier: str, options: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after it has written answers for hours."""
    from planish.capture import How, local, prepared, texts
    from planish.recipe import Recipe

    make_tiny(tmp_path / "model", hidden=32)
    rows = [{"prompt": f"the phone {n}", "completion": f"good {n}"} for n in range(50)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("recipe: 1\nmodel: model\ndata: {path: rows.jsonl, task: chat, split: {gold: 0.7}, checks: []}\n", encoding="utf-8")
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    monkeypatch.setattr(local, "writer", lambda *_: pytest.fail("a teacher was opened"))
    with pytest.raises(InputError, match=why):
        texts.write(recipe, How(teacher="model"), tmp_path / "a.jsonl", verifier=verifier, options=options, data=prepared(recipe, tmp_path / "space"))
    assert not (tmp_path / "a.jsonl").exists()
