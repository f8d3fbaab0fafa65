"""X7: every number of a report equals its source file, a missing section says so, and untrusted text stays text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from planish.data.task import classification
from planish.evidence.losses import compare_rows
from planish.evidence.slices import by_slice
from planish.evidence.verdict import decide
from planish.recipe import Recipe
from planish.report.blocks import Section, Table
from planish.report.findings import Findings
from planish.report.page import content, html_page, markdown_page
from planish.scorers import label
from planish.scores import EvalReport, Score

LABELS = ("billing", "<b>return_it</b>")
RECIPE = {"recipe": 1, "model": "smollm2-135m-instruct", "data": {"path": "rows.jsonl"}, "evaluate": {"scorers": ["label"]}}


class Folders:
    """A store that knows artifacts by the names of folders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return self.root / name


def report_of(system: str, right: int, n: int = 60) -> EvalReport:
    """`right` of `n` rows right; a wrong answer is the other label."""
    scores = []
    for row in range(n):
        target, other = LABELS[row % 2], LABELS[1 - row % 2]
        answer = target if row < right else other
        scores.append(Score(id=f"r{row}", answer=answer, parsed=answer, target=target, value=float(row < right)))
    metrics = {f"label.{name}": metric for name, metric in label.metrics(scores, LABELS, resamples=200).items()}
    return EvalReport(system=system, gold="g", metrics=metrics, scores=scores, seconds=6.0)


@pytest.fixture
def run(tmp_path):
    """(stages) to the findings of a run that holds what they are given."""
    record = {"id": "run-1", "name": "a <script>", "status": "refused", "recipe_sha256": "f" * 64, "code_version": "0.1.0+abc"}
    record["recipe"] = Recipe.model_validate(RECIPE).model_dump(mode="json")

    def make(*, scored=True, trained=True):
        stages = {}

        def keep(stage, name, value):
            (tmp_path / stage / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / stage / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
            stages[stage] = {"status": "done", "reason": None, "seconds": 3.0, "artifact": stage}

        if scored:
            prompt, lora = report_of("prompt", 40), report_of("lora", 52)
            keep("baseline", "reports/prompt.json", prompt.model_dump(mode="json"))
            keep("evaluate", "reports/lora.json", lora.model_dump(mode="json"))
            keep("gate", "verdict.json", decide(lora, [prompt], [], metric="label.accuracy").model_dump(mode="json"))
            texts = {score.id: f"text {score.id}" for score in lora.scores}
            keep("gate", "losses.json", compare_rows(lora, prompt, texts).model_dump(mode="json"))
            cuts = {"half": {score.id: "first" if int(score.id[1:]) < 30 else "last" for score in lora.scores}}
            keep("evaluate", "slices.json", by_slice(lora, cuts).model_dump(mode="json"))
            keep("evaluate", "memorised.json", {"not_measured": "no training row"})
        if trained:
            steps = [{"step": step, "loss": 1 / step, "validation_loss": None, "tokens_in": 100, "memory_mb": 900.0} for step in range(1, 9)]
            keep("train", "metrics.jsonl", "".join(json.dumps(step) + "\n" for step in steps))
            plan = {"steps": 8, "batch_size": 4, "learning_rate": 2e-4, "schedule": "cosine", "precision": "fp32"}
            named = {"objective": {"name": "sft"}, "adapter": {"name": "lora"}, "trainable": 9728, "parameters": 131392}
            keep("train", "report.json", {"plan": plan, **named, "tokens_computed": 512, "rows": 32, "refused": []})
        found = Findings(record, stages, Folders(tmp_path))
        found.__dict__["task"] = classification(LABELS)  # as it would be read from the prepared rows
        return found

    return make


def table_of(part: Section) -> Table:
    return next(block for block in part.blocks if isinstance(block, Table))


def test_x7_every_number_of_the_ladder_and_of_the_metrics_equals_its_file(run):
    found = run()
    parts = {part.title: part for part in content(found)}
    assert [row[:3] for row in table_of(parts["Ladder"]).rows] == [
        [name, f"{figure.value:.3f}", f"[{figure.low:.3f}, {figure.high:.3f}]"]
        for name, figure in (
            ("prompt (best)", found.baselines["prompt"].metrics["label.accuracy"]),
            ("lora (tuned)", found.candidate.metrics["label.accuracy"]),
        )
    ]
    for name, prompt, lora in table_of(parts["Every metric"]).rows:
        for said, report in ((prompt, found.baselines["prompt"]), (lora, found.candidate)):
            figure = report.metrics[name]
            assert [float(number) for number in re.findall(r"[\d.]+", said)] == [
                pytest.approx(value, abs=5e-4) for value in (figure.value, figure.low, figure.high)
            ]
    assert [int(row[2]) for row in table_of(parts["Confusion"]).rows] == [4, 4]  # 8 of 60 wrong, half of each label
    assert [row[2] for row in table_of(parts["Cost"]).rows] == ["100 ms", "100 ms"]  # 6 s over 60 rows
    assert "0 of 60 gold rows only prompt has right, 12 only lora" in markdown_page(found)
    assert [row[:2] for row in table_of(parts["Slices"]).rows] == [["half: last", "0.733"], ["half: first", "1.000"]]  # rows 52 to 59 of the last 30 are wrong


def test_x7_a_missing_section_is_printed_so(run):
    page = markdown_page(run(scored=False, trained=False))
    assert "No verdict: the run did not reach its gate." in page
    assert page.count("_missing: ") >= 9


def test_the_verdict_opens_both_pages(run):
    found = run()
    for page in (html_page(found), markdown_page(found)):
        assert page.index((found.verdict.decision == "ship" and "Ship lora") or found.verdict.sentence[:12]) < page.index("Ladder")


def test_untrusted_text_stays_text(run):
    page = html_page(run())

    class Tags(HTMLParser):
        seen: set[str] = set()

        def handle_starttag(self, tag, attrs):
            self.seen.add(tag)
            assert not any(name.startswith("on") or "javascript:" in (value or "") for name, value in attrs)

    Tags().feed(page)
    assert not Tags.seen & {"script", "b", "iframe", "img", "link"}
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', "", page, flags=re.DOTALL)
    marked = markdown_page(run())
    assert "\\<b>return_it\\</b>" in marked


def test_the_recipe_on_the_page_is_the_recipe(run, tmp_path):
    page = markdown_page(run())
    text = page[page.index("    recipe: 1") :]
    (tmp_path / "again.yaml").write_text("\n".join(line[4:] for line in text.splitlines()), encoding="utf-8")
    again = Recipe.load(tmp_path / "again.yaml")
    assert again.model_dump(exclude={"source"}) == Recipe.model_validate(RECIPE).model_dump(exclude={"source"})
