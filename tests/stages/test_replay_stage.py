"""Replay and the forgetting guard in a run: the realised share, gold kept out, what is refused, and that a small model forgets less with replay than without."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish import pipeline
from planish.data import general, replay
from planish.data.general import GeneralRow
from planish.errors import InputError, RunFailed
from planish.evidence.forgetting import Forgetting, judge
from planish.evidence.paired import compare
from planish.recipe import Recipe
from planish.rows import TextRow
from planish.scores import EvalReport
from planish.stages._context import read_json

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.3}, checks: [duplicates]}
baseline: [majority, prompt]
train:
  - {objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 4, batch_size: 8, validations: 0, checkpoints: 0, precision: fp32, replay: REPLAY}
evaluate: {scorers: [label], general: []}
gate: ["label.accuracy >= 0.99"]
"""


def write_rows(folder: Path, count: int = 160) -> list[str]:
    draw = random.Random(3)
    words = ["red", "blue", "green", "old", "new", "small", "large", "quick", "slow", "warm", "cold", "round", "flat", "long", "short", "bright", "dark"]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(count)]
    lines = [json.dumps({"text": text, "label": ("good", "bad")[place % 2]}) for place, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return texts


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_tiny(tmp_path / "model")
    write_rows(tmp_path)
    return tmp_path


def trained(home: Path, replayed: str, until: str = "train") -> Path:
    (home / "recipe.yaml").write_text(RECIPE.replace("REPLAY", replayed), encoding="utf-8")
    folder = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until=until).stages[until].folder
    assert folder is not None
    return folder


def test_c5_the_realised_share_is_in_the_report(home: Path) -> None:
    """C5 Proof: of the rows n/(n + task rows), of the loss .25 to the last digit; the tokens alone would have been far more."""
    figures = read_json(trained(home, "{share: 0.25}") / "report.json")
    said, plan = figures["replay"], figures["plan"]
    task = plan["rows"] - said["rows"]
    assert said["rows"] == replay.count(task, 0.25)
    assert said["row_share"] == pytest.approx(0.25, abs=0.01)
    assert said["loss_share"] == pytest.approx(0.25)
    assert said["token_share"] > 0.75
    assert said["token_weight"] < 0.2
    assert set(said["kinds"]) == {"text", "chat"}


def test_a_run_without_replay_says_that_it_has_none(home: Path) -> None:
    assert read_json(trained(home, "null") / "report.json")["replay"] is None


def test_d9_gold_among_the_rows_to_replay_refuses_the_run(home: Path) -> None:
    """The task's own file offered as general rows holds all of gold."""
    with pytest.raises((InputError, RunFailed), match="gold rows stand in the rows to replay"):
        trained(home, "{rows: rows.jsonl}")


def test_replay_from_a_file_that_is_missing_is_refused(home: Path) -> None:
    with pytest.raises((InputError, RunFailed), match=r"train\.replay\.rows: mine\.jsonl"):
        trained(home, "{rows: mine.jsonl}")


def test_the_base_answers_where_no_rows_are_owned_and_is_asked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that says one sentence and ends: its answers are the rows, and a second run reads them back."""
    from planish.engines.transformers import TransformersEngine
    from planish.model.engine import Generation

    asked: list[int] = []

    def generate(self: TransformersEngine, prompts: Any, decoding: Any) -> list[Generation]:
        asked.append(len(prompts))
        return [Generation("the phone is good", (1,), "stop") for _ in prompts]

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    said = read_json(trained(home, "{share: 0.1, rows: self}") / "report.json")["replay"]
    assert said["kinds"] == {"chat": said["rows"]}
    first = len(asked)
    trained(home, "{share: 0.1, rows: self} ")
    edited = (home / "recipe.yaml").read_text(encoding="utf-8").replace("max_steps: 4", "max_steps: 5")
    (home / "recipe.yaml").write_text(edited, encoding="utf-8")
    pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="train")
    assert len(asked) == first > 0


def test_an_objective_that_reads_pairs_refuses_replay(home: Path) -> None:
    (home / "recipe.yaml").write_text(RECIPE.replace("REPLAY", "{}").replace("objective: sft", "objective: dpo"), encoding="utf-8")
    with pytest.raises(InputError, match=r"train\[0\]\.replay: dpo does not learn from plain text"):
        pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="train")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after 200 steps on general text, so that there is something to forget."""
    import torch
    from transformers import AutoModelForCausalLM

    from planish.model.chat import Chat

    folder = make_tiny(tmp_path_factory.mktemp("taught") / "model", hidden=64)
    torch.manual_seed(0)
    model, chat = AutoModelForCausalLM.from_pretrained(folder), Chat.load(folder)
    texts = [chat.encode(row.text)[:96] for row in replay.owned() if isinstance(row, TextRow)]
    rows = torch.tensor([ids for ids in texts if len(ids) == 96])
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(200):
        batch = rows[torch.randint(len(rows), (16,))]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def guarded(home: Path, taught: Path, replayed: str) -> tuple[Forgetting, float]:
    """A hard run of the line to its gate: the guard's word, and the fall of general ability."""
    shutil.copytree(taught, home / "model", dirs_exist_ok=True)
    text = RECIPE.replace("REPLAY", replayed).replace("general: []", "general: [held_out_text]").replace("adapter: {lora: {r: 4}}", "adapter: full")
    (home / "recipe.yaml").write_text(text.replace("learning_rate: 1e-2, max_steps: 4", "learning_rate: 1e-2, max_steps: 60"), encoding="utf-8")
    folder = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", until="gate").stages["gate"].folder
    assert folder is not None
    found = Forgetting.model_validate(read_json(folder / "forgetting.json"))
    return found, found.general.difference


@pytest.mark.slow
def test_c4_an_over_trained_model_is_caught_and_c5_replay_forgets_less(home: Path, taught: Path) -> None:
    """C4 and C5 Proof, on a two-layer model that was taught text: 60 steps of full tuning at 1e-2 on labels alone lose what it knew; with half of the loss replayed, less."""
    without, fall = guarded(home, taught, "null")
    assert without.outcome == "forgot"
    assert without.lost == ["general.held_out_text.next_token_accuracy"]
    assert [remedy.key for remedy in without.remedies] == ["train[0].learning_rate", "train[0].adapter", "train[0].replay", "train[0].max_steps", "merge"]
    assert without.remedies[0].value == 5e-3
    with_replay, kept = guarded(home, taught, "{share: 0.5}")
    assert kept > fall + 0.03
    assert with_replay.general.low > without.general.high


@pytest.mark.slow
def test_c4_an_untouched_model_is_not_said_to_have_forgotten(taught: Path) -> None:
    """The same weights, measured in two packings of their rows: nothing differs, so 400 rows exclude 3 points."""
    from planish.engines import transformers
    from planish.model.general import evaluate

    engine = transformers.start(taught, precision="fp32")
    rows: list[GeneralRow] = [row.model_copy(update={"text": row.text[:120]}) for row in general.rows(["held_out_text"])]
    base = evaluate(engine.model, engine.chat, rows, "base", "fp32")
    again = evaluate(engine.model, engine.chat, rows, "tuned", "fp32")
    task = compare(again, base, "general.next_token_accuracy")
    assert judge(task.model_copy(update={"low": 0.01}), base, EvalReport.model_validate(again)).cleared
