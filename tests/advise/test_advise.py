"""`planish advise` from rows, from a run and from answers alone: facts, plan, cost and a recipe that the loader takes (MISSION G1)."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planish import advise, pipeline, shelf
from planish.advise import Answers, drafted, measured
from planish.cli import app
from planish.errors import InputError
from planish.evidence.gap import measured_gap
from planish.evidence.small_data import RATES, settings
from planish.model.machine import Machine
from planish.recipe import Recipe
from planish.scores import EvalReport, Metric, Score

BIG = Machine("a big one", "cpu", 64e9)


def labelled(path: Path, count: int = 200, *, repeats: int = 0) -> Path:
    rows = [{"text": f"the phone number {number} is {('good', 'bad')[number % 2]}", "label": ("good", "bad")[number % 2]} for number in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, *rows[:repeats]]) + "\n", encoding="utf-8")
    return path


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output; what is refused says its problems."""
    result = CliRunner().invoke(app, ["advise", *arguments])
    if isinstance(result.exception, InputError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_facts_are_measured_before_anything_is_said(tmp_path: Path, tiny: Path) -> None:
    path = labelled(tmp_path / "rows.jsonl", repeats=3)
    found = advise.of(str(path), Answers(), model=str(tiny), machine=BIG)
    facts = found.looked.facts
    assert (found.looked.n_in, facts.good_rows, found.looked.rejected, facts.task) == (203, 200, (("duplicate", 3),), "classification")
    assert dict(found.looked.labels) == {"good": 100, "bad": 100}
    assert found.looked.tokens[0] == round(sum(len(f"the phone number {n} is {('good', 'bad')[n % 2]}") for n in range(200)) / 200 / 4)
    assert [fit.technique for fit in found.looked.fits if fit.fits] == ["lora", "qlora", "full"]
    said = advise.text(found)
    assert said.index("200 good") < said.index("1. prompt")
    assert said.count("(estimated") >= 5
    assert "not if:" in said
    assert [one.technique for one in found.advice.recommendations] == ["prompt", "few_shot", "classifier", "sft_lora"]


def test_the_recipe_is_taken_and_its_settings_follow_from_the_rows(tmp_path: Path, tiny: Path) -> None:
    """200 good rows leave 140 to train: batch 8 makes 18 steps an epoch (16 would make 9, fewer than 10), 5 epochs 90 steps, warm-up 5 / 90 = .056."""
    path = labelled(tmp_path / "rows.jsonl")
    out = tmp_path / "sub" / "recipe.yaml"
    out.parent.mkdir()
    code, said = run(str(path), "--model", str(tiny), "--memory", "64GB", "--goal", "macro_f1 >= 0.85", "--write", str(out))
    assert code == 0, said
    recipe = Recipe.load(out)
    assert recipe.resolve(recipe.data.path).resolve() == path
    assert [use.name for use in recipe.baseline] == ["majority", "random", "prompt", "few_shot", "classifier"]
    entry = recipe.train[0]
    assert (entry.batch_size, entry.epochs, entry.warmup, entry.learning_rate) == (8, 5, 0.056, 2e-4)
    assert recipe.gate is not None
    assert recipe.gate[:2] == ["label.macro_f1 >= 0.85", "label.macro_f1 > best_baseline.label.macro_f1"]
    assert "train[0] sft: 90 steps" in said
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0
    code, refused = run(str(path), "--model", str(tiny), "--memory", "64GB", "--write", str(out))
    assert code == 2
    assert "exists already" in refused


def test_the_advised_recipe_prepares_and_scores(tmp_path: Path, tiny: Path) -> None:
    """It runs: the baselines without the encoder and the draws of few_shot, which have tests of their own."""
    path = labelled(tmp_path / "rows.jsonl")
    counsel = advise.of(str(path), Answers(), model=str(tiny))
    assert counsel.recipe is not None
    out = tmp_path / "recipe.yaml"
    drafted.write(out, {**counsel.recipe, "baseline": ["majority", "random", "prompt"], "evaluate": {"general": []}}, counsel.why)
    done = pipeline.run(Recipe.load(out), workspace=tmp_path / "work", until="baseline")
    assert done.stages["baseline"].status == "done"

    again = advise.of("last", Answers(gap="knowledge"), workspace=tmp_path / "work")
    assert (again.advice.gap, again.advice.gap_from) == ("behaviour", "measured")
    assert "gives way to the measured one" in again.advice.notes[0]
    assert again.looked.facts.prompt_holds is not None
    assert again.looked.facts.good_rows is not None
    assert 190 <= again.looked.facts.good_rows <= 200  # the near duplicates that prepare sets aside are not good rows
    with pytest.raises(InputError, match="no run has this id"):
        advise.of("nothing", Answers(), workspace=tmp_path / "work")
    with pytest.raises(InputError, match="neither a file"):
        advise.of("nothing", Answers(), workspace=tmp_path / "elsewhere")


def test_too_few_rows_get_no_training_entry(tmp_path: Path) -> None:
    """G1 Not: fewer than ~50 good rows -> fix data first. 45 lines of which 5 repeat are 40 good ones."""
    path = labelled(tmp_path / "rows.jsonl", 40, repeats=5)
    counsel = advise.of(str(path), Answers(gap="behaviour"))
    assert counsel.advice.recommendations[0].technique == "fix_data"
    assert [one.technique for one in counsel.advice.withheld] == ["classifier", "sft_lora"]
    assert counsel.recipe is not None
    assert "train" not in counsel.recipe


def test_comparisons_and_documents_are_seen(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    words = random.Random(0)
    pair = [{"prompt": f"say {words.random()}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(80)]
    pairs.write_text("\n".join(map(json.dumps, pair)), encoding="utf-8")
    found = advise.of(str(pairs), Answers())
    assert (found.looked.facts.comparisons, found.advice.gap, found.advice.recommendations[0].technique) == (80, "preference", "dpo")
    assert found.recipe is not None
    assert [(entry["objective"], entry["learning_rate"]) for entry in found.recipe["train"]] == [("dpo", 5e-6)]
    asked = tmp_path / "questions.jsonl"
    rows = [{"question": f"who is {n} at {words.random()}?", "answer": f"Ann {n}", "documents": [f"Ann {n} is {n}."]} for n in range(80)]
    asked.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = advise.of(str(asked), Answers())
    assert found.advice.recommendations[0].technique == "rag"
    assert found.recipe is not None
    assert found.recipe["baseline"] == ["copy_input", "empty", "prompt", "few_shot", "rag"]
    drafted.write(tmp_path / "qa.yaml", found.recipe, found.why)


def test_answers_alone_and_what_is_refused(tmp_path: Path) -> None:
    code, said = run("--gap", "knowledge", "--changing", "--json")
    assert code == 0
    read = json.loads(said)
    assert [(one["technique"], one["entries"]) for one in read["recommendations"]] == [("rag", ["B3"])]
    assert {"technique", "why", "needs", "not_if", "recipe"} <= set(read["recommendations"][0])
    for arguments, message in [
        (["--gap", "behavour"], 'did you mean "behaviour"?'),
        (["--constraint", "sise"], 'did you mean "size"?'),
        (["--gap", "behaviour", "--changing"], "drop changing"),
        (["--gap", "behaviour", "--prompt-holds", "1.2"], "--prompt-holds"),
        (["--gap", "behaviour", "--write", "x.yaml"], "without rows there is no recipe"),
        ([], "neither a gap nor a constraint"),
        ([str(labelled(tmp_path / "rows.jsonl")), "--goal", "rouge >= 0.5"], "is no metric of classification"),
        ([str(tmp_path / "rows.jsonl"), "--goal", "label.macro_f1 > best_baseline.label.macro_f1"], "compares two systems"),
    ]:
        code, said = run(*arguments)
        assert code == 2
        assert message in said


def test_no_memory_is_guessed_for_a_model_that_is_not_here(tmp_path: Path) -> None:
    path = labelled(tmp_path / "rows.jsonl")
    found = advise.of(str(path), Answers(), model=str(tmp_path / "absent"), machine=BIG)
    assert found.looked.fits == ()
    assert "no memory is estimated" in found.looked.notes[0]


def test_what_does_not_fit_is_not_advised(tmp_path: Path, tiny: Path) -> None:
    looked = measured.with_machine(measured.rows(labelled(tmp_path / "rows.jsonl")), str(tiny), Machine("a small one", "cpu", 1e6))
    assert (looked.facts.fits_lora, looked.facts.fits_qlora, looked.facts.fits_full) == (False, False, False)
    assert "sft_lora" not in [one.technique for one in advise.advise(Answers(), looked.facts).recommendations]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(350, (5, 16, 110, 0.045)), (60, (5, 4, 75, 0.067)), (5000, (1, 16, 313, 0.03)), (10, (5, 1, 50, 0.1)), (1, (5, 1, 5, 0.1))],
)
def test_settings_for_few_rows(rows: int, expected: tuple[int, int, int, float]) -> None:
    """350 rows: batch 16, ceil(350/16) = 22 steps, 200/22 -> 10 epochs capped at 5: 110 steps, 5/110 = .045. 60: batch 4, 15 steps, 5 epochs = 75, 5/75 = .067.
    5,000: 313 steps are past 200 in one epoch; 3 % is more than 5 steps. 10: batch 1, 10 steps, 5 epochs = 50, 5/50 = .1."""
    found = settings(rows, "lora")
    assert (found.epochs, found.batch_size, found.steps, found.warmup) == expected
    assert len(found.why) == 4
    with pytest.raises(InputError, match="train nothing"):
        settings(0, "lora")


def test_rates_are_those_of_the_shelves() -> None:
    """What is advised is what a technique takes by itself."""
    for name in ("lora", "dora", "full", "head"):
        assert RATES[name][0] == shelf.find("adapters", name).load().LEARNING_RATE
    for name in ("dpo", "kto"):
        assert RATES[name][0] == shelf.find("objectives", name).load().LEARNING_RATE


def report(system: str, right: list[bool], metric: str = "exact.exact", parse_rate: float | None = None) -> EvalReport:
    scores = [Score(id=f"g{n}", answer="x", parsed="x", target="x", value=float(one), detail={"exact": float(one)}) for n, one in enumerate(right)]
    metrics = {metric: Metric(name=metric, value=sum(right) / len(right), n=len(right))}
    if parse_rate is not None:
        name = f"{metric.partition('.')[0]}.parse_rate"
        metrics[name] = Metric(name=name, value=parse_rate, n=len(right))
    return EvalReport(system=system, gold="x", metrics=metrics, scores=scores)


LOW, HIGH = [n % 10 < 4 for n in range(200)], [n % 10 < 8 for n in range(200)]


@pytest.mark.parametrize(
    ("reports", "metric", "gap"),
    [
        ([report("prompt", LOW), report("rag", HIGH), report("few_shot", HIGH)], "exact.exact", "knowledge"),
        ([report("prompt", LOW), report("rag", LOW), report("few_shot", HIGH)], "exact.exact", "steering"),
        ([report("prompt", LOW, parse_rate=0.6), report("few_shot", HIGH)], "exact.exact", "behaviour"),
        ([report("prompt", LOW, parse_rate=0.99), report("few_shot", LOW)], "exact.exact", "behaviour"),
        ([report("prompt", LOW, "verifier.score")], "verifier.score", "reasoning"),
        ([report("prompt", LOW, "tool_call.accuracy")], "tool_call.accuracy", "tools"),
    ],
)
def test_g1_the_gap_that_baselines_show(reports: list[EvalReport], metric: str, gap: str) -> None:
    """Two of five rows right by prompt, four of five by another: a gain of .40 on 200 rows is proved."""
    found = measured_gap({one.system: one for one in reports}, metric)
    assert found is not None
    assert (found.gap, found.prompt_holds) == (gap, 0.4)
    assert measured_gap({"majority": report("majority", LOW)}, metric) is None
