"""G2 on a random two-layer model: which rungs are tried, what stops the climb, what is not done twice, what is refused."""

import hashlib
import json

import pytest
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import climb as climbing
from planish.cli import app
from planish.errors import InputError
from planish.recipe import Recipe
from planish.report.findings import gather

RECIPE = """\
recipe: 1
model: model
data: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.4}, checks: []}
train:
  - {objective: sft, learning_rate: 1e-2, max_steps: 4, batch_size: 8, validations: 0, checkpoints: 1, precision: fp32}
evaluate: {scorers: [label], general: []}
"""


@pytest.fixture
def home(tmp_path):
    """Rows that one word decides, a model that knows nothing, and a recipe."""
    make_tiny(tmp_path / "model", hidden=64)
    lines = []
    for index in range(160):
        label, words = ("good", "bad")[index % 2], hashlib.sha256(str(index).encode()).hexdigest()
        lines.append(json.dumps({"text": f"phone {words[:12]} {words[12:24]} is {label}", "label": label}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def climb(home, goal, only, **more):
    recipe, facts = climbing.start(home / "recipe.yaml", model="")
    return climbing.climb(recipe, goal, facts=facts, only=only, workspace=home / "work", **more)


def test_g2_a_hopeless_rung_is_ruled_out_on_few_rows_and_nothing_is_done_twice(home):
    found = climb(home, "accuracy >= 0.95", ("majority", "prompt"))
    assert [rung.outcome for rung in found.climb.rungs] == ["misses", "screened_out"]
    majority, prompt = found.climb.rungs
    assert majority.rows == found.climb.gold_rows == 64  # it asks nobody: screening would save nothing
    assert prompt.rows == 16  # one chunk: about half right where .95 is to be cleared
    assert (found.climb.decision, found.climb.ship, found.exit_code) == ("not_reached", "majority", 3)
    assert prompt.cost.tokens_per_answer > 0
    again = climb(home, "accuracy >= 0.95", ("majority", "prompt"))
    assert again.climb == found.climb
    stages = gather(home / "work", again.runs["prompt"]).stages
    assert {name: row["status"] for name, row in stages.items() if row["status"] != "skipped"} == {"prepare": "unchanged", "baseline": "unchanged"}


def test_g2_the_climb_ends_at_the_rung_that_clears_and_says_what_was_not_needed(home):
    found = climb(home, "accuracy >= 0.3", ("majority", "prompt", "lora"))
    assert [rung.name for rung in found.climb.rungs] == ["majority"]  # half the rows: the bound of 32/64 is .40
    assert (found.climb.decision, found.climb.skipped, found.exit_code) == ("ship", ("prompt", "lora"), 0)
    written = json.loads((found.folder / "climb.json").read_text(encoding="utf-8"))
    assert written["ship"] == "majority"
    assert [use.name for use in Recipe.load(found.folder / "recipe.yaml").baseline] == ["majority"]


def test_a_rung_that_trains_is_scored_with_what_it_took(home):
    found = climb(home, "macro_f1 >= 0.99", ("majority", "lora"))
    lora = found.climb.rungs[1]
    assert lora.rows == found.climb.gold_rows  # a set metric is not screened
    assert lora.cost.train_seconds > 0
    assert lora.cost.peak_bytes > 0
    assert lora.cost.artifact_bytes == sum(path.stat().st_size for path in (gather(home / "work", found.runs["lora"]).folder("train") / "adapter").rglob("*"))
    assert lora.gain is not None


def test_what_cannot_be_climbed_is_refused_before_anything_runs(home):
    for goal, only, why in (
        ("acuracy >= 0.9", None, "acuracy"),
        ("accuracy >= base.label.accuracy", None, "compares two systems"),
        ("accuracy >= 0.9", ("lroa",), 'there is no rung "lroa" here'),
    ):
        with pytest.raises(InputError, match=why):
            climb(home, goal, only)
    with pytest.raises(InputError, match="there is no such file"):
        climbing.start(home / "nowhere.jsonl", model="model")
    few = "\n".join((home / "rows.jsonl").read_text(encoding="utf-8").splitlines()[:40])
    (home / "rows.jsonl").write_text(few + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="at least 30 are needed"):
        climb(home, "accuracy >= 0.9", ("majority",))


def test_the_verb_prints_the_ladder_and_exits_3_where_nothing_clears(home):
    options = ["--goal", "accuracy >= 0.95", "--rungs", "majority", "--workspace", str(home / "work")]
    shown = CliRunner().invoke(app, ["climb", str(home / "recipe.yaml"), *options])
    assert shown.exit_code == 3
    for text in ("goal: label.accuracy >= 0.95, 64 gold rows", "majority  misses", "No rung reaches", "climb.html"):
        assert text in shown.output
    told = json.loads(CliRunner().invoke(app, ["climb", str(home / "recipe.yaml"), *options, "--json"]).stdout)
    assert told["decision"] == "not_reached"
    page = (home / "work").glob("climbs/*/climb.md")
    assert "# Climb to label.accuracy >= 0.95" in next(page).read_text(encoding="utf-8")
