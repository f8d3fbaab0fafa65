"""The demo's recipe on a tenth of its rows, with the real model: every stage, every figure in its place. `make demo` is the whole of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from planish import pipeline, report
from planish.data import dataset
from planish.data.reviews import write_reviews
from planish.events import STAGES
from planish.recipe import Recipe
from planish.scores import Verdict
from planish.stages._context import read_json, read_reports
from planish.stages._deployment import live, open_deployment
from planish.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "reviews" / "recipe.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write_reviews(tmp_path / "reviews.jsonl")
    text = EXAMPLE.read_text(encoding="utf-8")
    for old, new in (
        ("gold_max: 400", "gold_max: 60"),
        ("max_rows: 2400", "max_rows: 240"),
        ("port: 8000", f"port: {port}"),
        ("few_shot, ", "{few_shot: {k: 3}}, "),
        ("general: [held_out_text, chat_exchanges]", "general: [held_out_text]"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    yield tmp_path
    store = Store(tmp_path / "work")
    for deployment in live(store):
        deployment.stop()
    store.close()


@pytest.mark.slow
def test_the_whole_line_on_real_rows(home: Path) -> None:
    outcome = pipeline.run(Recipe.load(home / "recipe.yaml"), workspace=home / "work", unproven=True)
    assert [stage for stage, one in outcome.stages.items() if one.status == "done"] == list(STAGES)
    folder = {stage: one.folder for stage, one in outcome.stages.items() if one.folder is not None}

    placed = dataset.assignment(dataset.read(folder["prepare"]))
    sides: dict[str, set[str]] = {}
    for row in dataset.every_row(dataset.read(folder["prepare"])):
        sides.setdefault(str(row.group), set()).add("gold" if placed[row.id] in ("gold", "unused") else placed[row.id])
    assert all(len(side) == 1 for side in sides.values())  # no review is cut across splits

    baselines = read_reports(folder["baseline"])
    assert set(baselines) == {"majority", "prompt", "few_shot", "classifier"}
    tuned = read_reports(folder["evaluate"])["lora"]
    assert tuned.metrics["label.macro_f1"].value > baselines["prompt"].metrics["label.macro_f1"].value  # 240 rows teach it the labels at least
    assert {len(one.scores) for one in [*baselines.values(), tuned]} == {60}
    verdict = Verdict.model_validate(read_json(folder["gate"] / "verdict.json"))
    assert outcome.exit_code == (0 if verdict.decision == "ship" and read_json(folder["compress"] / "compress_report.json")["passed"] else 3)

    [file] = read_json(folder["compress"] / "compress_report.json")["files"]
    assert file["tensor_types"] == {"Q5_0": 166, "F32": 61, "Q4_K": 16, "Q8_0": 15, "Q6_K": 14}
    [check] = read_json(folder["observe"] / "drift_check.json")
    assert check["verdict"] in ("healthy", "undecided")
    assert check["failed"] == 0

    deployment = open_deployment(Path(read_json(folder["serve"] / "deployment.json")["folder"]))
    with openai.OpenAI(base_url=deployment.url, api_key=deployment.key) as client:
        [model] = client.models.list().data
        reply = client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "What is the capital of France?"}], max_tokens=5)
        assert reply.choices[0].message.content
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
    page = report.write(home / "work", outcome.run_id).read_text(encoding="utf-8")
    assert json.dumps(round(tuned.metrics["label.macro_f1"].value, 3)) in page
