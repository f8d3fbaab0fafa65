"""`planish merge` with tasks: merge, parents and base on every parent's own gold set, the table, the verdict, and what is refused before anything is written (MISSION W6)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from tests.conftest import make_tiny
from tests.transforms.conftest import family as family
from tests.transforms.conftest import tuned
from typer.testing import CliRunner

from planish import merge_greedy, pipeline
from planish.cli import app
from planish.errors import InputError
from planish.model.merging import read_spec
from planish.progress import Silent
from planish.recipe import Recipe
from planish.stages._context import read_reports
from planish.stages._merge_tasks import named
from planish.store import Store

RECIPE = """\
recipe: 1
model: base
data: {{path: {rows}, labels: [good, bad], split: {{gold: 0.3}}}}
baseline: [majority]
train:
  - {{objective: sft, adapter: full, learning_rate: 3e-3, max_steps: 80, batch_size: 8, validations: 1, checkpoints: 1, precision: fp32}}
evaluate: {{scorers: [label], general: {general}}}
gate: ["label.accuracy >= 0"]
"""


def write(folder: Path, name: str, subject: str, count: int, general: str = "[]") -> None:
    """Rows in which the label stands, and a recipe that learns them."""
    words = [hashlib.sha256(f"{name} {index}".encode()).hexdigest()[:12] for index in range(count)]
    lines = [{"text": f"{subject} {word} is {('good', 'bad')[index % 2]}", "label": ("good", "bad")[index % 2]} for index, word in enumerate(words)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / f"{name}.yaml").write_text(RECIPE.format(rows=f"{name}.jsonl", general=general), encoding="utf-8")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `phones` tuned on its rows by a run, and `screens`, a copy of the base with noise; a recipe for each."""
    folder = tmp_path_factory.mktemp("merge")
    make_tiny(folder / "base", hidden=64, layers=3)
    write(folder, "phones", "phone", 120, "[chat_exchanges]")
    write(folder, "screens", "screen", 120)
    tuned(folder / "base", folder / "screens", 1)
    done = pipeline.run(Recipe.load(folder / "phones.yaml"), workspace=folder / "work", until="evaluate")
    assert done.stages["train"].folder is not None
    (folder / "phones").symlink_to(done.stages["train"].folder / "model")
    return folder


def merge(home: Path, out: str, text: str, *options: str) -> Result:
    (home / f"{out}.yaml").write_text(text, encoding="utf-8")
    asked = ["merge", str(home / f"{out}.yaml"), "--out", str(home / out), "--workspace", str(home / "merges"), *options]
    return CliRunner().invoke(app, asked, catch_exceptions=False)


def mostly(of_phones: float, of_screens: float, tasks: bool = True) -> str:
    first, second = (", task: phones.yaml", ", task: screens.yaml") if tasks else ("", "")
    return (
        f"method: task_arithmetic\nbase: base\ndtype: float32\nmodels:\n- {{path: phones, weight: {of_phones}{first}}}\n"
        f"- {{path: screens, weight: {of_screens}{second}}}\n"
    )


@pytest.mark.slow
def test_w6_a_merge_that_keeps_the_skill_is_kept(home: Path) -> None:
    """All of `phones` and nothing of `screens` is `phones`: the same score on every gold set, what evaluation measured on its own, and the table is in report and terminal."""
    done = merge(home, "kept", mostly(1, 0), "--json")
    report = json.loads(done.stdout)
    assert report == json.loads((home / "kept" / "merge_report.json").read_text(encoding="utf-8"))
    table = {line["task"]: line for line in report["verdict"]["table"]}
    assert {name: line["owner"] for name, line in table.items()} == {"task of phones": "phones", "task of screens": "screens", "general ability": None}
    for line in table.values():
        assert line["parents"].keys() == {"phones", "screens", "base"}
        assert line["merge"] == pytest.approx(line["parents"]["phones"], abs=1e-9)
    store, metric = Store(home / "work"), table["task of phones"]["metric"]
    [own] = read_reports(store.path(store.stages(store.run("last")["id"])["evaluate"]["artifact"])).values()
    assert table["task of phones"]["parents"]["phones"] == own.metrics[metric].value
    assert (table["task of phones"]["n"], table["task of screens"]["n"]) == (36, 36)
    assert table["task of phones"]["survived"]
    assert table["general ability"]["against"] == "base"
    assert report["verdict"]["forgetting"]["general"]["n"] == table["general ability"]["n"]
    read = [event.body for event in Store(home / "merges").events() if event.type == "gold.read"]
    assert [one["rows"] for one in read[-2:]] == [36, 36]
    assert done.exit_code == (0 if report["verdict"]["decision"] == "merge" else 3)


@pytest.mark.slow
def test_w6_a_lost_skill_says_so_with_exit_code_3_and_is_scored_without_being_written_again(home: Path) -> None:
    """Nothing of `phones`: its skill did not survive. The recipes are given by option, as beside a YAML file of mergekit's; a second time scores the folder that is there."""
    tasks = ("--task", f"phones={home / 'phones.yaml'}")
    done = merge(home, "lost", mostly(0, 1, tasks=False), *tasks)
    assert done.exit_code == 3
    assert "task of phones (label." in done.stdout
    assert ": did NOT survive" in done.stdout
    assert "Keep one adapter each: task of phones" in done.stdout
    weights = (home / "lost" / "model.safetensors").stat()
    again = merge(home, "lost", mostly(0, 1, tasks=False), *tasks)
    assert again.exit_code == 3
    assert "is this merge already" in again.output
    assert (home / "lost" / "model.safetensors").stat().st_ino == weights.st_ino
    with pytest.raises(InputError, match="exists already"):
        merge(home, "lost", mostly(0.5, 1, tasks=False), *tasks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("phones", "is no PARENT=RECIPE"),
        ("phone=phones.yaml", 'did you mean "phones"'),
        ("phones=nowhere.yaml", "nowhere.yaml"),
        ("phones=phones.jsonl", "is not YAML"),
    ],
)
def test_a_task_that_is_none_is_refused_before_anything_is_written(home: Path, given: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(InputError, match=why):
        merge(home, "never", mostly(1, 1, tasks=False), "--task", given)
    assert not (home / "never").exists()


@pytest.mark.slow
def test_w1_a_greedy_soup_that_is_no_better_than_its_best_is_not_written(home: Path) -> None:
    """`phones` has its validation rows right, and half of it with half of an untrained copy has no more of them: nothing is written, nothing is left."""
    text = "method: soup\ndtype: float32\nmodels: [{path: phones, task: phones.yaml}, {path: screens}]\n"
    with pytest.raises(InputError, match="no soup is better than phones alone"):
        merge(home, "greedy", text, "--greedy")
    assert not (home / "greedy").exists()
    assert not list(home.glob(".greedy*"))


def test_w1_a_greedy_soup_adds_only_what_improves_the_validation_score(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION W1 by hand: alone a .70, b .50, c .60. In that order: a; a + c .75 is more: kept; a + b + c .72 is less: b is left out. The soup is the mean of a and c."""
    tuned(family / "base", family / "c", 3)
    said = {("a",): 0.70, ("b",): 0.50, ("c",): 0.60, ("a", "c"): 0.75, ("a", "b", "c"): 0.72}
    asked: list[tuple[str, ...]] = []

    def mean(folder: Path, *_: Any) -> float:
        report = folder / "merge_report.json"
        names = [one["path"] for one in json.loads(report.read_text(encoding="utf-8"))["options"]["models"]] if report.is_file() else [folder.name]
        asked.append(tuple(sorted(names)))
        return said[asked[-1]]

    monkeypatch.setattr(merge_greedy, "_mean", mean)
    monkeypatch.setattr(merge_greedy, "sample", lambda *_: SimpleNamespace(samples=[0] * 99))
    tasks: list[Any] = [SimpleNamespace(name="task of a", prepared=family)]
    spec = read_spec({"method": "soup", "models": [{"path": "a"}, {"path": "b"}, {"path": "c"}]})
    found = merge_greedy.chosen(spec, tasks, tmp_path / "out", family, Silent())
    assert [source.path for source in found.models] == ["a", "c"]
    assert asked == [("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c")]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("method: ties\nbase: base\nmodels: [{path: phones, task: phones.yaml}, {path: screens}]\n", "chooses among the models of a soup"),
        ("method: soup\nmodels: [{path: phones}, {path: screens}]\n", "no model names one"),
    ],
)
@pytest.mark.slow
def test_what_a_greedy_soup_cannot_choose_is_refused(home: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        merge(home, "never", text, "--greedy")


def test_parents_are_called_by_what_tells_them_apart() -> None:
    """Two folders `adapter`, one `base` that is a parent: no name stands for two rows of the table."""
    found: list[Any] = named([Path("/x/billing/adapter"), Path("/x/refunds/adapter"), Path("/x/base"), Path("/x/sister")])
    assert found == ["billing/adapter", "refunds/adapter", "x/base", "sister"]
