"""Rows that would be trained or scored otherwise than they say: answers judged bad, one prompt on two sides, gold of one's own in the training rows (MISSION D2, D8, D9)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import pipeline
from planish.cli import app
from planish.data import dataset, task
from planish.data.contract import Refused, row_from
from planish.data.split_units import clusters_of
from planish.errors import InputError
from planish.recipe import Recipe
from planish.rows import ChatRow, Origin, PreferenceRow, UnpairedRow

WHERE = Origin(file="rows", line=1, sha256="")
LORA = "adapter: {lora: {r: 2}}, max_steps: 2, batch_size: 4, precision: fp32"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("home") / "model")


def prepared(folder: Path, model: Path, rows: list[dict[str, Any]], data: str, entry: str = "") -> dataset.Dataset:
    """The data set that a recipe makes of the rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train = f"train: [{{{entry}, {LORA}}}]\n" if entry else ""
    (folder / "recipe.yaml").write_text(f"recipe: 1\nmodel: {model}\ndata: {{path: rows.jsonl{data}}}\n{train}", encoding="utf-8")
    outcome = pipeline.run(Recipe.load(folder / "recipe.yaml"), workspace=folder / "space", until="train" if entry else "prepare")
    made = outcome.stages["prepare"].folder
    assert made is not None
    return dataset.read(made)


def _judged(count: int) -> list[dict[str, Any]]:
    """A good and a bad answer to each of `count` prompts."""
    told = [f"which town has the number {number * 7919 % 1000} on its {number}th road sign" for number in range(count)]
    return [{"prompt": one, "completion": f"{kind} answer {place}", "label": kind == "good"} for place, one in enumerate(told) for kind in ("good", "bad")]


def test_answers_judged_bad_are_trained_by_no_objective_that_learns_answers(tmp_path: Path, model: Path) -> None:
    """SFT makes a dialogue of any row with a right answer; of half of these the answer is wrong. The run ends before its baseline, and names how many and the first."""
    with pytest.raises(InputError, match=r"train\[0\]\.objective\.sft: would train \d+ of \d+ answers that were judged bad"):
        prepared(tmp_path, model, _judged(100), ", checks: []", "objective: sft")
    steps = [{"prompt": f"{n} + 1", "completions": [f"{n} and 1", f"are {n}"], "labels": [True, False]} for n in range(200)]
    with pytest.raises(InputError, match="judged bad"):
        prepared(tmp_path, model, steps, ", checks: []", "objective: sft")


def test_d8_answers_to_one_prompt_are_on_one_side(tmp_path: Path, model: Path) -> None:
    """What a judged row asks holds its answer, so that copies are told apart; its prompt is another row's all the same. No row is set aside, and no prompt crosses."""
    data = prepared(tmp_path, model, _judged(100), ", split: {gold: 0.2, validation: 0.1}")
    placed = dataset.assignment(data)
    sides = defaultdict[str, set[str]](set)
    for row in dataset.every_row(data):
        assert isinstance(row, UnpairedRow)
        sides[row.prompt[0].content].add(placed[row.id])
    assert len(placed) == 200
    assert {len(side) for side in sides.values()} == {1}
    assert set().union(*sides.values()) == {"train", "validation", "gold"}


def test_clusters_that_share_a_row_are_one() -> None:
    """a-b, c-d and b-c: all four together, e-f apart."""
    found = clusters_of([["a", "b"], ["c", "d"], ["e", "f"], ["b", "c"]])
    assert len({found[name] for name in "abcd"}) == 1
    assert len({found[name] for name in "ef"} | {found["a"]}) == 2
    assert found["e"] == found["f"]


def _asks(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"r{n}", "prompt": f"which town has the number {n * 7919 % 1000} on sign {n}", "completion": f"town {n}"} for n in range(start, start + count)
    ]


def test_d9_gold_of_ones_own_is_not_trained_whatever_the_checks(tmp_path: Path, model: Path) -> None:
    """Row 2 is gold row g1 again, row 0 is g0 in capitals. No check looks for them here; they are set aside as they are where `leakage` does."""
    rows = _asks(60)
    gold = [
        {"id": "g0", **{key: rows[0][key].upper() for key in ("prompt", "completion")}},
        *({**row, "id": f"g{row['id']}"} for row in (rows[2], *_asks(30, 500))),
    ]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold), encoding="utf-8")
    data = prepared(tmp_path, model, rows, ", gold: gold.jsonl, checks: [balance]")
    lines = [json.loads(line) for line in (data.folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    aside = {line["row_id"]: line["code"] for line in lines}
    assert aside == {"r0": "gold_overlap", "r2": "gold_overlap"}
    assert dict(data.manifest.counts)["gold"] == 32


def test_d8_gold_that_was_kept_is_not_trained_beside_gold_of_ones_own(tmp_path: Path, model: Path) -> None:
    """The earlier data set drew 40 of 200 rows for gold. With a gold file now they prove nothing more, and are not trained either: a run may have been chosen on them."""
    (tmp_path / "first").mkdir()
    first = prepared(tmp_path / "first", model, _asks(200), ", split: {gold: 0.2, validation: 0.1}, checks: []")
    before = dataset.assignment(first)
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row | {"id": f"g{row['id']}"}) + "\n" for row in _asks(30, 500)), encoding="utf-8")
    now = dataset.assignment(prepared(tmp_path, model, _asks(230), f", gold: gold.jsonl, split: {{keep: {first.folder}}}, checks: []"))
    assert list(before.values()).count("gold") == 40
    assert {now[row_id] for row_id, side in before.items() if side == "gold"} == {"unused"}
    assert all(now[row_id] == side for row_id, side in before.items() if side != "gold")
    assert {row_id for row_id, side in now.items() if side == "gold"} == {f"gr{n}" for n in range(500, 530)}


def test_an_answer_that_ms_swift_does_not_train_is_not_trained() -> None:
    """`loss: false` of a turn; of a question, or as anything but true and false, it is a column like others."""
    turns = [("user", "a", False), ("assistant", "b", False), ("user", "c", None), ("assistant", "d", True), ("user", "e", None), ("assistant", "f", 0.5)]
    value = {"messages": [{"role": role, "content": text, **({} if loss is None else {"loss": loss})} for role, text, loss in turns]}
    row = row_from(value, origin=WHERE)
    assert isinstance(row, ChatRow)
    assert [message.weight for message in row.messages if message.role == "assistant"] == [0.0, 1.0, None]


def test_an_answer_of_several_turns_is_trained_whole() -> None:
    """SFT on pairs: the calls and results before the last turn of the better answer are part of it."""
    said = [{"role": "user", "content": "q"}]
    chosen = [{"role": "assistant", "content": "Which day?"}, {"role": "user", "content": "Friday"}, {"role": "assistant", "content": "Booked."}]
    row = row_from({"prompt": said, "chosen": chosen, "rejected": [{"role": "assistant", "content": "No."}]}, origin=WHERE)
    assert isinstance(row, PreferenceRow)
    made = task.Task(shape="preference").conversation(row)
    assert [message.content for message in made.messages] == ["q", "Which day?", "Friday", "Booked."]


def test_d3_columns_that_say_text_and_label_are_labels_however_many_there_are(tmp_path: Path) -> None:
    """60 rows of 35 labels, as a file of intents begins: its columns are named as they are read."""
    rows = [{"text": f"what is {n} and more", "label": f"intent {n % 35}"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = CliRunner().invoke(app, ["map", str(tmp_path / "rows.jsonl"), "--json"])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["readings"][0]["format"] == "label"


@pytest.mark.parametrize("told", [{"prompt": "q", "completion": "a"}, {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}])
def test_tools_that_a_judged_answer_had_are_not_dropped_without_a_word(told: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert row_from({**told, "label": True, "tools": []}, origin=WHERE).shape == "unpaired"
    with pytest.raises(Refused, match="offers tools"):
        row_from({**told, "label": True, "tools": tools}, origin=WHERE)
