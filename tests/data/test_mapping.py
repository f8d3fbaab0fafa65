"""Mapping of unknown columns (MISSION D3)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from planish.cli import app
from planish.data import mapping
from planish.data.column_names import NAMES, OPTIONAL
from planish.data.contract import Refused, row_from
from planish.data.fault import Fault
from planish.data.formats import FORMATS, Record, read_records
from planish.errors import InputError
from planish.rows import LabelRow, Origin, RejectCode

KINDS: dict[str, Callable[[int], Any]] = {
    "text": lambda n: f"a text of some length, number {n}",
    "answer": lambda n: f"answer {n}",
    "label": lambda n: ("red", "green", "blue")[n % 3],
    "number": lambda n: n % 3,
    "real": lambda n: n / 7,
    "bool": lambda n: n % 2 == 0,
    "url": lambda n: f"https://example.org/{n}",
    "none": lambda n: None,
    "turns": lambda n: [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}],
    "said": lambda n: [{"from": "human", "value": f"q {n}"}, {"from": "gpt", "value": f"a {n}"}],
    "steps": lambda n: [f"first {n}", "second"],
    "marks": lambda n: [True, n % 2 == 0],
    "texts": lambda n: [f"page {n}", "page"],
    "spans": lambda n: [{"type": "t", "start": 0, "end": 1}],
    "object": lambda n: {"total": n},
}


def _records(layout: dict[str, str], count: int = 20) -> list[Record]:
    values = [{column: KINDS[kind](n) for column, kind in layout.items()} for n in range(count)]
    return [Record(n, json.dumps(value), "0" * 64, value) for n, value in enumerate(values, start=1)]


LAYOUTS: list[tuple[dict[str, str], str | None, str | None, dict[str, str] | None]] = [
    # columns, shape asked for, shape found, mapping found; None: asked or refused
    ({"text": "text", "label": "label"}, None, "label", {}),
    ({"sentence": "text", "label": "label"}, None, "label", {"sentence": "text"}),
    ({"utterance": "text", "intent": "label"}, None, "label", {"utterance": "text", "intent": "label"}),
    ({"Review": "text", "Sentiment": "label", "id": "number"}, None, "label", {"Review": "text", "Sentiment": "label"}),
    ({"tweet": "text", "emotion": "label", "url": "url"}, "label", "label", {"tweet": "text", "emotion": "label"}),
    ({"col1": "text", "col2": "label"}, "label", "label", {"col1": "text", "col2": "label"}),
    ({"sentence": "text", "label": "number"}, "label", None, None),
    ({"premise": "text", "hypothesis": "answer", "label": "label"}, "label", None, None),
    ({"text": "text", "label_a": "label", "label_b": "label"}, "label", None, None),
    ({"question": "text", "response": "answer"}, None, "question", {"response": "answer"}),
    ({"q": "text", "a": "answer"}, None, "question", {"q": "question", "a": "answer"}),
    ({"question": "text", "final_answer": "answer", "passage": "text"}, None, "question", {"final_answer": "answer", "passage": "context"}),
    ({"query": "text", "answer": "answer", "contexts": "texts"}, "question", "question", {"query": "question", "contexts": "documents"}),
    ({"instruction": "text", "response": "answer", "context": "text"}, None, "chat", {"response": "output", "context": "input"}),
    (
        {"prompt": "text", "response": "answer", "system_prompt": "text"},
        None,
        "chat",
        {"prompt": "instruction", "response": "output", "system_prompt": "system"},
    ),
    ({"prompt": "text", "reply": "answer"}, "prompt_completion", "prompt_completion", {"reply": "completion"}),
    ({"input_text": "text", "output_text": "answer"}, None, "prompt_completion", {"input_text": "prompt", "output_text": "completion"}),
    ({"src": "text", "tgt": "answer"}, None, "prompt_completion", {"src": "prompt", "tgt": "completion"}),
    ({"dialog": "turns"}, None, "chat", {"dialog": "messages"}),
    ({"dialogue": "said", "source": "label"}, None, "chat", {"dialogue": "messages"}),
    ({"conversations": "said", "id": "number"}, None, "chat", {}),
    ({"article": "text", "highlights": "answer", "id": "url"}, None, "summary", {"article": "document", "highlights": "summary"}),
    ({"document": "text", "tldr": "answer"}, None, "summary", {"tldr": "summary"}),
    ({"content": "text", "url": "url", "date": "url"}, None, "text", {"content": "text"}),
    ({"question": "text", "chosen": "text", "rejected": "answer"}, None, "preference", {"question": "prompt"}),
    ({"query": "text", "winner": "text", "loser": "answer"}, None, "preference", {"query": "prompt", "winner": "chosen", "loser": "rejected"}),
    ({"prompt": "text", "completion": "answer", "thumbs_up": "bool"}, "unpaired", "unpaired", {"thumbs_up": "label"}),
    ({"problem": "text", "steps": "steps", "is_correct": "marks"}, None, "steps", {"problem": "prompt", "steps": "completions", "is_correct": "labels"}),
    ({"sentence": "text", "spans": "spans"}, None, "extraction", {"sentence": "text", "spans": "entities"}),
    ({"text": "text", "extracted": "object"}, "extraction", "extraction", {"extracted": "fields"}),
    ({"a": "real", "b": "number"}, None, None, None),
    ({"x": "text", "y": "answer"}, None, None, None),
    ({"x": "text", "y": "answer"}, "question", None, None),
]


@pytest.mark.parametrize(("layout", "asked", "shape", "expected"), LAYOUTS)
def test_d3_column_layouts_are_mapped_or_refused_as_labelled(
    layout: dict[str, str], asked: str | None, shape: str | None, expected: dict[str, str] | None
) -> None:
    """MISSION D3, Proof: 30 column layouts. What is mapped is mapped without asking, and every row of the sample passes."""
    records = _records(layout)
    proposal = mapping.propose(records, asked)
    if expected is None:
        assert not proposal.sure
        with pytest.raises(InputError):
            mapping.settle(proposal, "rows.jsonl")
        return
    assert (mapping.settle(proposal, "rows.jsonl"), proposal.readings[0].shape) == (expected, shape)
    assert proposal.confidence == 1.0
    for record in records:
        assert not isinstance(record.value, Fault)
        assert row_from(mapping.apply(record.value, expected), origin=Origin(file="a", line=1, sha256="")).shape == shape


def test_there_are_thirty_layouts_and_more_than_a_few_are_refused() -> None:
    assert len(LAYOUTS) >= 30
    assert sum(expected is None for *_, expected in LAYOUTS) >= 5


def _rivals(best: int, second: int, count: int = 20) -> list[Record]:
    """Rows with two columns that a label may be called by, filled in `best` and `second` of them."""
    values = [{"text": f"t {n}", "intent": "a" if n < best else "", "category": "b" if n < second else ""} for n in range(count)]
    return [Record(n, json.dumps(value), "0" * 64, value) for n, value in enumerate(values, start=1)]


def test_d3_18_of_20_against_3_of_20_is_075_and_asks() -> None:
    """MISSION D3, Ex: 18/20 rows pass, rival passes 3/20 -> 0.9 x (1 - 3/18) = 0.75 -> asks.

    Both are shown with the mapping to put into the recipe; `force` takes the first.
    """
    proposal = mapping.propose(_rivals(18, 3), "label")
    assert proposal.confidence == pytest.approx(0.9 * (1 - 3 / 18))
    assert proposal.confidence == pytest.approx(0.75)
    assert not proposal.sure
    with pytest.raises(InputError, match=r"confidence 0\.75, below 0\.80") as asked:
        mapping.settle(proposal, "rows.csv")
    (problem,) = asked.value.problems
    assert asked.value.exit_code == 2
    for words in ("18 of 20 pass, refused: missing_field 2", "3 of 20 pass, refused: missing_field 17", '"intent": label', '"category": label'):
        assert words in problem.why
    assert "--force" in problem.fix
    assert mapping.settle(proposal, "rows.csv", force=True) == {"intent": "label"}
    assert proposal.readings[0].counts == {"accepted": 18, "missing_field": 2}


def test_080_is_enough_and_less_is_not() -> None:
    """18/20 against 2/20: 0.9 x (1 - 2/18) = 0.80, used; 17/20 against 1/20: 0.85 x (1 - 1/17) = 0.80; 16/20 against 1/20: 0.75, asked."""
    assert mapping.propose(_rivals(18, 2), "label").sure
    assert mapping.propose(_rivals(17, 1), "label").confidence == pytest.approx(0.80)
    assert not mapping.propose(_rivals(16, 1), "label").sure


def test_a_tie_shows_both_and_picks_none_even_when_forced() -> None:
    """MISSION D3, Bad: tie -> both shown, none picked."""
    proposal = mapping.propose(_rivals(20, 20), "label")
    assert proposal.tie
    assert proposal.confidence == 0.0
    for force in (False, True):
        with pytest.raises(InputError) as asked:
            mapping.settle(proposal, "rows.csv", force=force)
        (problem,) = asked.value.problems
        assert '"intent": label' in problem.why
        assert '"category": label' in problem.why
        assert "--force" not in problem.fix


def test_few_rows_settle_nothing_and_many_are_sampled() -> None:
    few = mapping.propose(_records({"utterance": "text", "intent": "label"}, 19), "label")
    assert (few.n, few.sure) == (19, False)
    with pytest.raises(InputError, match="19 rows are too few"):
        mapping.settle(few, "rows.csv")
    assert mapping.propose(_records({"utterance": "text", "intent": "label"}, 300), "label").n == 200


def test_records_that_are_none_count_against_every_reading() -> None:
    records = _records({"utterance": "text", "intent": "label"}, 30)
    records[:3] = [record._replace(value=Fault(RejectCode.BAD_JSON, "x", "y")) for record in records[:3]]
    proposal = mapping.propose(records, "label")
    assert proposal.readings[0].counts == {"accepted": 27, "bad_json": 3}
    assert proposal.confidence == pytest.approx(0.9)
    assert not mapping.propose(_records({"utterance": "text", "intent": "label"}), "label", labels=["red"]).sure


def test_apply_renames_and_loses_nothing() -> None:
    value = {"q": "x", "intent": "a", "when": 1}
    assert mapping.apply(value, {"q": "text", "intent": "label"}) == {"text": "x", "label": "a", "when": 1}
    row = row_from(mapping.apply(value, {"q": "text", "intent": "label"}), origin=Origin(file="a", line=1, sha256=""))
    assert isinstance(row, LabelRow)
    assert row.extra == {"when": 1}
    assert mapping.apply({"text": 1, "label": 2}, {"text": "label", "label": "text"}) == {"label": 1, "text": 2}
    with pytest.raises(Refused, match="a column text besides"):
        mapping.apply({"q": "x", "text": "y"}, {"q": "text"})


def test_a_mapping_to_what_is_no_key_is_refused_with_the_nearest() -> None:
    mapping.check({"q": "question", "number": "id"}, "data.mapping")
    with pytest.raises(InputError, match='did you mean "label"') as refused:
        mapping.check({"a": "lable", "b": "text", "c": "text"}, "data.mapping")
    assert len(refused.value.problems) == 2
    with pytest.raises(InputError, match='did you mean "label"'):
        mapping.propose([], "lable")


def test_the_names_are_those_of_known_keys() -> None:
    forms = {form.name: form for form in FORMATS}
    for name, keys in NAMES.items():
        assert set(keys) == set(forms[name].keys)
    for name, keys in OPTIONAL.items():
        assert set(keys) <= set(forms[name].reads)


def test_the_command_writes_the_mapping_or_asks(tmp_path: Path) -> None:
    path, out = tmp_path / "a.jsonl", tmp_path / "mapping.yaml"
    path.write_text("".join(record.raw + "\n" for record in _records({"Utterance: said": "text", "intent": "label"})))
    done = CliRunner().invoke(app, ["map", str(path), "--shape", "label", "--out", str(out)])
    assert done.exit_code == 0
    assert "accepted 20 of 20 rows" in done.stdout
    read = YAML(typ="safe").load(out.read_text())
    assert read == {"mapping": {"Utterance: said": "text", "intent": "label"}}
    mapping.check(read["mapping"], "mapping.yaml")
    assert len(list(read_records(path))) == 20
    path.write_text("".join(record.raw + "\n" for record in _rivals(20, 20)))
    out.unlink()
    asked = CliRunner().invoke(app, ["map", str(path), "--shape", "label", "--out", str(out)])
    assert isinstance(asked.exception, InputError)
    assert not out.exists()
