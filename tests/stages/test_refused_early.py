"""What training would refuse is refused before a baseline has asked anything: a capture of another gold set, answers of one kind, rows of another shape, dialogues as documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import capture as capturing
from planish import pipeline
from planish.capture import How
from planish.data import documents
from planish.errors import InputError
from planish.events import EventType, ReasonCode
from planish.objectives import kto
from planish.recipe import Recipe
from planish.recipe_compress import CompressSection
from planish.recipe_evaluate import EvaluateSection
from planish.store import Store

JUDGE = "evaluate: {scorers: [{judge: {model: m, url: http://127.0.0.1:1}}], general: []}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and rows of each kind."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model")
    kinds: dict[str, Any] = {
        "chat": lambda n: {"messages": [{"role": "user", "content": f"the phone {n}"}, {"role": "assistant", "content": f"good {n}"}]},
        "good": lambda n: {"prompt": f"the phone {n}", "completion": f"good {n}", "label": True},
        "pairs": lambda n: {"prompt": f"the phone {n}", "chosen": f"good {n}", "rejected": f"bad {n}"},
        "both": lambda n: {"prompt": f"the phone {n}", "completion": f"good {n}", "label": n % 2 == 0},
    }
    for name, row in kinds.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(100)), encoding="utf-8")
    return folder


def recipe(home: Path, name: str, data: str, entries: str, *, seed: int = 0) -> Recipe:
    shape = ", task: chat" if data == "chat" else ""
    text = (
        f"recipe: 1\nmodel: model\ndata: {{path: {data}.jsonl{shape}, split: {{gold: 0.4, validation: 0.1, seed: {seed}}}, checks: []}}\nbaseline: [prompt]\n"
    )
    (home / f"{name}.yaml").write_text(f"{text}train:\n{entries}{JUDGE}", encoding="utf-8")
    return Recipe.load(home / f"{name}.yaml")


def refused(asked: Recipe, workspace: Path) -> tuple[list[tuple[str, str]], list[tuple[EventType, str]]]:
    """Where and why it is, and what the run did before."""
    with pytest.raises(InputError) as said:
        pipeline.run(asked, workspace=workspace)
    assert said.value.exit_code == 2
    store = Store(workspace)
    events = [(event.type, event.subject) for run in store.runs() for event in store.events(run["id"])]
    if events:
        assert store.events(store.runs()[0]["id"])[-1].reason_code == ReasonCode.INPUT_WRONG
    store.close()
    return [(problem.where, problem.why) for problem in said.value.problems], events


LORA = "adapter: {lora: {r: 2}}, max_steps: 2, batch_size: 4, precision: fp32}\n"


def test_what_the_rows_show_is_refused_before_a_baseline(home: Path, tmp_path: Path) -> None:
    """P6 one class only, and P2 rows that are no pairs: each with its entry, both at once, and the baseline was never begun."""
    entries = f"  - {{objective: kto, {LORA}  - {{objective: dpo, {LORA}"
    problems, events = refused(recipe(home, "good", "good", entries), tmp_path / "space")
    assert [(where, why.split("; ")[0]) for where, why in problems] == [
        ("train[0].objective.kto", "all 50 answers are marked good"),
        ("train[1].objective.dpo", "reads preference rows"),
    ]
    assert (EventType.STAGE_FINISHED, "prepare") in events
    assert not [stage for _, stage in events if stage == "baseline"]


def test_z6_files_that_could_not_be_scored_are_refused_before_a_baseline(home: Path, tmp_path: Path) -> None:
    """The recipe names no task: that its rows are pairs, which files cannot be scored on, is known once they are read."""
    asked = recipe(home, "pairs", "pairs", f"  - {{objective: dpo, {LORA}")
    unscored = asked.model_copy(update={"evaluate": EvaluateSection(), "compress": CompressSection.model_validate({"export": ["gguf"]})})
    problems, events = refused(unscored, tmp_path / "space")
    assert problems == [("compress", "a file is scored by its answers, and pair_accuracy reads log-probabilities")]
    assert not [stage for _, stage in events if stage == "baseline"]


def test_both_classes_pass_and_rows_that_are_encoded_are_looked_at_again(home: Path, tmp_path: Path) -> None:
    """P6: with both kinds the run goes on to its baselines, where the judge that nobody runs fails it."""
    outcome = pipeline.run(recipe(home, "both", "both", f"  - {{objective: kto, {LORA}"), workspace=tmp_path / "space", until="prepare")
    assert outcome.exit_code == 0
    with pytest.raises(InputError, match="all 2 answers are marked bad"):
        kto._require_both(0, 2)


def test_s2_a_capture_beside_another_gold_set_is_refused_before_a_baseline(home: Path, tmp_path: Path) -> None:
    """S2, R-4: the capture was made with another seed's split."""
    kd = f"  - {{objective: {{kd: {{capture: {tmp_path / 'held'}}}}}, {LORA}"
    how = How(teacher="model", precision="fp32", rows=4)
    capturing.capture(recipe(home, "kd", "chat", f"  - {{objective: sft, {LORA}", seed=7), how, tmp_path / "held", workspace=tmp_path / "other")
    problems, events = refused(recipe(home, "kd", "chat", kd), tmp_path / "space")
    assert [where for where, _ in problems] == ["train[0].objective.kd.capture"]
    assert "another gold set" in problems[0][1]
    assert not [stage for _, stage in events if stage == "baseline"]


def test_c1_chat_rows_as_documents_are_refused_before_anything_runs(home: Path, tmp_path: Path) -> None:
    """C1 Bad: chat rows refused. The file and the line are named, and no run was begun."""
    problems, events = refused(recipe(home, "cpt", "chat", f"  - {{objective: {{cpt: {{block: 64}}}}, documents: chat.jsonl, {LORA}"), tmp_path / "space")
    assert [where.rpartition("/")[2] for where, _ in problems] == ["chat.jsonl:1"]
    assert problems[0][0].startswith("train[0].documents: ")
    assert problems[0][1] == "is a chat row, no document"
    assert events == []


def test_documents_of_every_kind_pass_the_look(home: Path, tmp_path: Path) -> None:
    """Plain text, rows with a text beside a label column, and what is no row at all, which reading refuses in its own words. Of several files each is named once."""
    (tmp_path / "a.txt").write_text("words", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "words"}\n' * 30, encoding="utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "words", "label": "x"}\n', encoding="utf-8")
    (tmp_path / "d.jsonl").write_text("no row\n", encoding="utf-8")
    assert documents.other_shapes(tmp_path) == []
    for name in ("e", "f"):
        (tmp_path / f"{name}.jsonl").write_bytes((home / "both.jsonl").read_bytes())
    assert [problem.where.rpartition("/")[2] for problem in documents.other_shapes(tmp_path)] == ["e.jsonl:1", "f.jsonl:1"]
