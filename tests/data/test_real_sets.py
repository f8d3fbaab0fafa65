"""Real sets go through as any file does (MISSION D1, D2): CLINC150, NLU++ and GSM8K from the shared data, BFCL from its package. Skipped where they are absent."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from planish.check import Checked, check_rows
from planish.recipe_keys import Use

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CHECKS = [Use(name=name) for name in ("duplicates", "near_duplicates", "label_conflicts", "balance", "lengths")]


def _through(folder: Path, rows: Iterable[dict[str, Any]], **asked: Any) -> Checked:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return check_rows(path, checks=CHECKS, **asked)


def _codes(checked: Checked) -> dict[str, int]:
    assert checked.counts["n_in"] == checked.counts["n_accepted"] + checked.counts["n_rejected"]
    return {code: count for code, count in checked.counts.items() if not code.startswith("n_")}


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not among the shared data here")
    return path


@pytest.mark.slow
def test_clinc150(tmp_path: Path) -> None:
    """23,700 questions of 151 labels: what is refused repeats another row exactly or nearly, or contradicts one; nothing is malformed."""
    sets = json.loads(_shared("clinc150/data_full.json").read_text(encoding="utf-8"))
    checked = _through(tmp_path, ({"text": text, "label": label} for rows in sets.values() for text, label in rows))
    codes = _codes(checked)
    assert (checked.counts["n_in"], checked.task.shape if checked.task else None) == (23_700, "classification")
    assert set(codes) <= {"duplicate", "near_duplicate", "label_conflict"}
    assert len(checked.found["balance"].figures["labels"]["counts"]) == 151


@pytest.mark.slow
def test_nlupp_spans(tmp_path: Path) -> None:
    """Every slot of NLU++ banking as an entity by its characters: no span leaves its text."""
    rows = []
    for path in sorted(_shared("nlupp").glob("banking_fold*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            slots = row.get("slots") or {}
            entities = [{"type": name, "start": slot["span"][0], "end": slot["span"][1]} for name, slot in slots.items() if slot.get("span")]
            rows.append({"text": row["text"], "entities": entities})
    checked = _through(tmp_path, rows)
    assert checked.counts["n_in"] == len(rows) == 1039
    assert "span_out_of_range" not in _codes(checked)
    assert checked.counts["n_accepted"] > 0.9 * len(rows)


@pytest.mark.slow
def test_gsm8k_with_its_own_test_set_as_gold(tmp_path: Path) -> None:
    """4,000 questions with answers, and their test set as gold: leakage looks for it in them."""
    checked = check_rows(_shared("gsm8k/train.jsonl"), gold=_shared("gsm8k/test.jsonl"), checks=[*CHECKS, Use(name="leakage")])
    assert (checked.counts["n_in"], checked.task.shape if checked.task else None) == (4_600, "qa")
    assert set(_codes(checked)) <= {"duplicate", "near_duplicate", "gold_overlap"}
    assert checked.found["leakage"].figures["evaluation_rows"]["gold"] == 600


@pytest.mark.slow
def test_bfcl_calls(tmp_path: Path) -> None:
    """Every row of three BFCL sets as a dialogue with its catalogue and the first accepted value of each argument: calls fit their schemas."""
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("BFCL is not installed: pip install --no-deps bfcl-eval==2026.3.23")
    data = Path(spec.submodule_search_locations[0]) / "data"
    rows = []
    for name in ("simple_python", "multiple", "parallel"):
        asked = [json.loads(line) for line in (data / f"BFCL_v4_{name}.json").read_text(encoding="utf-8").splitlines()]
        answers = [json.loads(line) for line in (data / "possible_answer" / f"BFCL_v4_{name}.json").read_text(encoding="utf-8").splitlines()]
        rows += [_dialogue(question, answer) for question, answer in zip(asked, answers, strict=True)]
    checked = _through(tmp_path, rows)
    assert checked.counts["n_in"] == len(rows) == 800
    codes = _codes(checked)
    assert set(codes) <= {"near_duplicate", "duplicate", "tool_args_invalid"}
    assert codes.get("tool_args_invalid", 0) <= 8  # their first accepted value of an object is an object of alternatives, which no schema allows


def _dialogue(question: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": _first(given)}} for call in answer["ground_truth"] for name, given in call.items()]
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in question["question"][0]]
    tools = [{"type": "function", "function": {**one, "parameters": _typed(one["parameters"])}} for one in question["function"]]
    return {"messages": [*messages, {"role": "assistant", "content": None, "tool_calls": calls}], "tools": tools}


def _first(given: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in given.items() if values and values[0] != ""}


def _typed(schema: Any) -> Any:
    """BFCL names types as Python does."""
    names = {"dict": "object", "float": "number", "tuple": "array"}
    if isinstance(schema, dict):
        return {key: names.get(value, value) if key == "type" and isinstance(value, str) else _typed(value) for key, value in schema.items()}
    return [_typed(item) for item in schema] if isinstance(schema, list) else schema
