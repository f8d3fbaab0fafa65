"""The train stage: its events, its bar, entries that start from one another, and the same entry on several ranks."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import make_tiny
from typer.testing import CliRunner

from planish import pipeline
from planish.cli import app
from planish.errors import InputError, RunFailed
from planish.events import EventType
from planish.model import trained
from planish.model.checkpoint import Position
from planish.model.curve import Step, note
from planish.model.plan import make_plan
from planish.progress import Silent, Terminal
from planish.recipe import Recipe
from planish.stages import _tuning, train
from planish.stages._context import Context, read_json
from planish.store import Store

LORA = "{objective: sft, adapter: {lora: {r: 4}}, learning_rate: 1e-2, max_steps: 6, batch_size: 8, validations: 2, checkpoints: 3, precision: fp32}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, 120 rows and their prepared data set."""
    folder = tmp_path_factory.mktemp("home")
    make_tiny(folder / "model", hidden=32)
    rows = [{"text": f"the phone number {n} is {('good', 'bad')[n % 2]}", "label": ("good", "bad")[n % 2]} for n in range(120)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    outcome = pipeline.run(recipe(folder, LORA), workspace=folder / "space", until="prepare")
    prepared = outcome.stages["prepare"].folder
    assert prepared is not None
    (folder / "prepared").symlink_to(prepared)
    return folder


def recipe(home: Path, *entries: str) -> Recipe:
    path = home / "recipe.yaml"
    head = "recipe: 1\nmodel: model\ndata: {path: rows.jsonl, labels: [good, bad], split: {gold: 0.3, validation: 0.2}}\nbaseline: [majority]\ntrain:\n"
    path.write_text(head + "".join(f"  - {entry}\n" for entry in entries), encoding="utf-8")
    return Recipe.load(path)


class Run:
    """One run of the stage alone, in its own work folder; `go` may be called again to go on."""

    def __init__(self, home: Path, place: Path, *entries: str) -> None:
        self.recipe = recipe(home, *entries)
        self.store = Store(home / "space")
        self.id = self.store.start_run("train", {}, "", "", None)
        self.work, self.out, self.prepared = place / "work", place / "out", (home / "prepared").resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.said: list[str] = []

    def go(self) -> Path:
        progress = Silent()
        progress.say = self.said.append  # type: ignore[method-assign]
        self.out.mkdir(exist_ok=True)
        try:
            train.run(Context(self.recipe, self.store, self.id, "train", self.work, progress), {"prepare": self.prepared}, self.out)
        finally:
            self.events = [(event.type, event.body) for event in self.store.events(self.id)]
            self.store.close()
        return self.out

    def bodies(self, kind: EventType) -> list[dict[str, Any]]:
        return [body for type, body in self.events if type is kind]


def steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lora_weights(folder: Path) -> torch.Tensor:
    held = load_file(folder / "adapter" / "adapter_model.safetensors")
    return torch.cat([held[name].flatten() for name in sorted(held)])


def test_t1_every_step_is_recorded_at_a_bounded_rate(home: Path, tmp_path: Path) -> None:
    """MISSION T1: six quick steps are one record with all of them, in figures equal to the file's; T5: six steps are warned about; T1: io files are there."""
    run = Run(home, tmp_path, LORA)
    out = run.go()
    (curve,) = run.bodies(EventType.TRAIN_CURVE)
    assert (curve["first"], curve["last"], curve["of"]) == (1, 6, 6)
    assert curve["points"] == steps(out)
    assert any("6 steps" in body["what"] for body in run.bodies(EventType.TRAIN_WARNED))
    assert run.bodies(EventType.TRAIN_PLANNED)[0]["plan"]["patience"] == 3
    report = read_json(out / "report.json")
    assert (report["steps_done"], report["stopped_early"]) == (6, False)
    assert report["best_step"] in (3, 6)


def test_the_bar_fits_eighty_columns() -> None:
    terminal = Terminal()
    from rich.console import Console

    shown = io.StringIO()
    terminal.console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    with terminal.bar("training", 15000) as advance:
        advance(1234, note(Step(1234, 0, 0, 10.412, 1.0, 1.9e-4, 12345.0, 1.0)))
    line = [line for line in shown.getvalue().replace("\r", "\n").split("\n") if "training" in line][-1]
    assert "loss 10.412 lr 1.9e-04 12345 tok/s" in line
    assert " 1234/15000 left " in line
    assert "…" not in line


def test_the_same_adapter_is_gone_on_with(home: Path, tmp_path: Path) -> None:
    """Two entries with the same LoRA: the second begins where the first ended, and one adapter of the original base is left. Without the first, the second's first loss is
    the untuned model's."""
    run = Run(home, tmp_path / "two", LORA, LORA.replace("1e-2", "1e-3"))
    out = run.go()
    first, second = (steps(out / "entries" / name) for name in ("0", "1"))
    assert len(first) == len(second) == 6
    untuned, ended = first[0]["validation_loss"] or first[0]["loss"], first[-1]["loss"]
    assert abs(second[0]["loss"] - ended) < abs(second[0]["loss"] - untuned)
    assert steps(out) == second
    assert not (out / "model").exists()
    assert not torch.equal(lora_weights(out), lora_weights(run.work / "entry-0" / "result"))
    trained.open_trained(home / "model", out, "fp32")


@pytest.mark.parametrize("first", [LORA.replace("r: 4", "r: 2"), LORA.replace("{lora: {r: 4}}", "full").replace("1e-2", "1e-3")], ids=["lora", "full"])
def test_another_adapter_starts_from_the_merged_model(home: Path, tmp_path: Path, first: str) -> None:
    """The second entry's base gives the logits of the first one's result (1e-5), and a whole model is left that gives those of base plus second adapter."""
    run = Run(home, tmp_path, first, LORA)
    out = run.go()
    result = run.work / "entry-0" / "result"
    base = run.work / "entry-0" / "merged" if (result / "adapter").is_dir() else result / "model"
    ids = torch.arange(3, 40)[None]

    def logits(model: Any) -> torch.Tensor:
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            found: torch.Tensor = model(ids).logits
        return found

    from planish.model.load import load

    before, after = logits(trained.open_trained(home / "model", result, "fp32")), logits(load(base, "fp32"))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert not (out / "adapter").exists()
    final = logits(trained.open_trained(home / "model", out, "fp32"))
    assert not torch.allclose(final, before, atol=1e-3)
    assert read_json(out / "report.json")["base"] != read_json(out / "entries" / "0" / "report.json")["base"]


def test_an_interrupted_second_entry_goes_on_there(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the second entry and given again: the first is not done again, and the end is bit-identical."""
    entries = (LORA, LORA.replace("1e-2", "5e-3"))
    whole = lora_weights(Run(home, tmp_path / "whole", *entries).go())
    run = Run(home, tmp_path / "cut", *entries)
    real, left = train.Live.step, iter(range(100))

    def step(self: train.Live, line: Step) -> None:
        real(self, line)
        if next(left) == 9:  # six of the first entry, the fourth of the second
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Live, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run.go()
    monkeypatch.setattr(train.Live, "step", real)
    assert torch.equal(lora_weights(run.go()), whole)
    assert "  entry 1 of 2: done before" in run.said
    (resumed,) = run.bodies(EventType.TRAIN_RESUMED)
    assert resumed["step"] in (2, 3)  # a checkpoint every second step, and one where validation was best


def test_what_this_machine_cannot_do_is_refused_before_anything_runs(home: Path) -> None:
    """fp16 on a CPU, and 8-bit moments under fsdp, each by its entry; a batch that does not divide over the ranks is the recipe's own error."""
    asked = recipe(home, LORA.replace("fp32", "fp16"), LORA.replace("precision", "optimizer: adamw_8bit, launch: {ranks: 2, shard: fsdp}, precision"))
    with pytest.raises(InputError) as refused:
        train.preflight(asked, Store(home / "space"))
    assert [problem.where for problem in refused.value.problems] == ["train[0].precision", "train[1].optimizer"]
    with pytest.raises(InputError, match=r"does not divide over launch\.ranks 3"):
        recipe(home, LORA.replace("precision", "launch: {ranks: 3}, precision"))
    with pytest.raises(InputError, match="max_steps and max_tokens both given"):
        recipe(home, LORA.replace("precision", "max_tokens: 100, precision"))


def test_the_number_of_ranks_is_no_part_of_what_is_made(home: Path) -> None:
    assert train.options(recipe(home, LORA)) == train.options(recipe(home, LORA.replace("precision", "launch: {ranks: 2}, precision")))


def test_t5_a_token_budget_becomes_steps(home: Path, tmp_path: Path) -> None:
    """MISSION T5: the steps whose input tokens fit the budget: with twice the tokens of an epoch, two epochs of steps."""
    run = Run(home, tmp_path, LORA.replace("max_steps: 6", "max_tokens: 1"))
    once = read_json(run.go() / "report.json")
    assert once["plan"]["steps"] == 1
    double = Run(home, tmp_path / "double", LORA.replace("max_steps: 6", f"max_tokens: {2 * once['tokens_in']}"))
    report = read_json(double.go() / "report.json")
    assert report["plan"]["steps"] == 2 * -(-once["rows"] // 8)


def _files(workspace: Path) -> dict[Path, bytes]:
    """Every file, but for what the database keeps beside itself while somebody has it open: an object of another test may let go of it at any time."""
    return {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))}


def test_t4_the_test_of_an_entry_touches_nothing(home: Path, tmp_path: Path) -> None:
    """MISSION T4: the rates tried are reported one by one, and no file of the workspace changes."""
    asked, prepared = recipe(home, LORA), (home / "prepared").resolve()
    before = _files(home / "space")
    seen: list[tuple[float, float]] = []
    found = train.find_learning_rate(asked, prepared, Silent(), low=1e-4, high=1.0, count=30, record=lambda rate, loss: seen.append((rate, loss)))
    assert found.lr == [rate for rate, _ in seen][: len(found.lr)]
    assert len(found.lr) >= 10
    assert before == _files(home / "space")


def test_t4_from_the_command_line(home: Path, tmp_path: Path) -> None:
    """MISSION T4: `planish train --find-lr`: a table, a suggestion, a picture and `lr_test{lr[],loss[],suggested}`; no training stage is run."""
    recipe(home, LORA.replace("learning_rate: 1e-2, ", ""))
    space = tmp_path / "space"
    done = CliRunner().invoke(app, ["train", str(home / "recipe.yaml"), "--find-lr", "--workspace", str(space)])
    assert done.exit_code == 0, done.output
    assert "learning rate" in done.output
    assert "suggested: learning_rate: " in done.output or "no suggestion: " in done.output
    kept = json.loads((space / "lr_tests" / "recipe.json").read_text())
    assert {"lr", "loss", "suggested"} <= kept.keys()
    assert (space / "lr_tests" / "recipe.svg").read_text().count("<svg") == 1
    store = Store(space)
    assert {stage for run in store.runs() for stage in store.stages(run["id"])} == {"prepare"}
    store.close()


def test_the_trunk_is_cached_on_request_and_said_when_it_cannot_be(home: Path, tmp_path: Path) -> None:
    """Adapters on the second of two layers only: three epochs with the first layer's outputs on disk end where the plain run does (1e-4); on every layer, it is said."""
    upper = LORA.replace("{lora: {r: 4}}", "{lora: {r: 4, targets: ['layers.1.mlp.up_proj', 'layers.1.self_attn.q_proj']}}").replace(
        "max_steps: 6", "max_steps: 21"
    )
    plain, cached = Run(home, tmp_path / "plain", upper), Run(home, tmp_path / "cached", upper.replace("precision", "trunk_cache_mb: 64, precision"))
    wanted, got = lora_weights(plain.go()), lora_weights(cached.go())
    assert (got - wanted).norm() <= 1e-4 * wanted.norm()
    assert (cached.work / "trunk-0.bin").stat().st_size > 0
    assert not any("trunk" in body["what"] for body in cached.bodies(EventType.TRAIN_WARNED))
    everywhere = Run(home, tmp_path / "all", LORA.replace("precision", "trunk_cache_mb: 64, precision"))
    everywhere.go()
    assert any("trunk_cache_mb: off: the first layer" in body["what"] for body in everywhere.bodies(EventType.TRAIN_WARNED))


def test_four_bits_shared_order_and_checkpointing_go_together(home: Path, tmp_path: Path) -> None:
    """MISSION A5, T7: a base in NF4, rows ordered by their prefixes, activations computed again: it learns, resumes nothing, and is saved as a LoRA of the original base. In the
    same order without checkpointing the weights are the same (1e-4)."""
    both = LORA.replace("precision", "four_bit: true, order: shared, precision")
    plain, checked = Run(home, tmp_path / "plain", both), Run(home, tmp_path / "checked", both.replace("precision", "checkpoint_activations: true, precision"))
    wanted, got = lora_weights(plain.go()), lora_weights(checked.go())
    assert (got - wanted).norm() <= 1e-4 * wanted.norm()
    lines = steps(checked.out)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["tokens"] < lines[0]["tokens_in"]
    report = read_json(checked.out / "report.json")
    assert (report["section"]["four_bit"], report["section"]["checkpoint_activations"], report["plan"]["order"]) == (True, True, "shared")
    assert report["memory"]["levers"] == []
    assert 0 < report["memory"]["peak"] < report["memory"]["limit"]
    trained.open_trained(home / "model", checked.out, "fp32")


RANKED = LORA.replace("precision", "launch: {ranks: 2, shard: SHARD}, precision")


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_x6_the_stage_on_two_ranks(home: Path, tmp_path: Path, shard: str) -> None:
    """MISSION X6: the recipe's launch key: the adapter of one process to 1e-5, one writer of events, every step in the record."""
    alone = lora_weights(Run(home, tmp_path / "one", LORA).go())
    run = Run(home, tmp_path / "two", RANKED.replace("SHARD", shard))
    weights = lora_weights(run.go())
    assert (weights - alone).norm() <= 1e-5 * alone.norm()
    assert run.bodies(EventType.TRAIN_PLANNED)[0]["ranks"] == 2
    assert sum(body["of"] for body in run.bodies(EventType.TRAIN_CURVE)) == 6


@pytest.mark.slow
def test_x6_a_lost_rank_begins_again_from_the_newest_checkpoint(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MISSION X6: a rank killed in step 3 or later: said, all started again from a checkpoint, and the result is one process's to 1e-5."""
    alone = lora_weights(Run(home, tmp_path / "one", LORA).go())
    run = Run(
        home, tmp_path / "two", RANKED.replace("SHARD", "ddp").replace("checkpoints: 3", "checkpoints: 6").replace("max_steps: 6", "max_steps: 6, clip: 1.0")
    )
    real, killed = train.Live.event, []

    def event(self: train.Live, type: EventType, body: dict[str, Any], severity: Any = "info") -> None:
        real(self, type, body, severity)
        if type is EventType.TRAIN_CHECKPOINT and not killed:
            ranks = [child for child in psutil.Process().children() if "planish.stages._ranked" in child.cmdline()]  # another test's child may live on
            killed.append(max(ranks, key=lambda child: child.create_time()).pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(train.Live, "event", event)
    weights = lora_weights(run.go())
    assert (weights - alone).norm() <= 1e-5 * alone.norm()
    assert any("was lost (signal 9)" in body["what"] for body in run.bodies(EventType.TRAIN_WARNED))
    assert run.bodies(EventType.TRAIN_RESUMED)


@pytest.mark.slow
def test_what_a_rank_refuses_is_said_as_one_process_would(home: Path, tmp_path: Path) -> None:
    run = Run(home, tmp_path, RANKED.replace("SHARD", "ddp").replace("batch_size: 8", "batch_size: 200"))
    with pytest.raises(InputError, match="fewer than one batch of 200"):
        run.go()
    failing = Run(home, tmp_path / "failing", RANKED.replace("SHARD", "ddp").replace("learning_rate: 1e-2", "learning_rate: 1e-45"))
    with pytest.raises(RunFailed, match="the adapter does nothing") as failed:
        failing.go()
    assert failed.value.reason_code == "adapter_did_nothing"
    assert dataclasses.is_dataclass(failed.value.problems[0])


def test_weights_kept_from_a_step_that_only_warmed_up_are_said_to_be(home: Path, tmp_path: Path) -> None:
    """Of 2 steps the first warms up at a rate of 0, and the second throws the loss up: the best step is the first, whose weights are the start's. The fix is not a higher rate."""
    entry = LORA.replace("max_steps: 6", "max_steps: 2, keep: best, warmup: 0.5").replace("learning_rate: 1e-2", "learning_rate: 1e3")
    with pytest.raises(RunFailed) as failed:
        Run(home, tmp_path, entry).go()
    assert failed.value.reason_code == "adapter_did_nothing"
    [problem] = failed.value.problems
    assert "best validation loss is that of step 1 of 2 and the rate was 0 until then: it warms up from 0 over 1 steps" in problem.why
    assert "warmup: 0" in problem.fix


@pytest.mark.parametrize(
    ("position", "said"),
    [
        (Position(3, 0, best=1.0, best_step=1), "best validation loss is that of step 1 of 3"),
        (Position(3, 0, best=1.0, best_step=2), ""),
        (Position(1, 0), "the run ended after step 1 of 3"),
        (Position(3, 0), ""),
        (Position(0, 0), ""),
    ],
)
def test_only_steps_without_any_rate_are_called_warm_up(position: Position, said: str) -> None:
    """Warm-up over 2 of 3 steps: rates 0, 1/2, 1 of the peak. Without warm-up no step is."""
    settings: dict[str, Any] = {"batch_size": 2, "epochs": None, "max_steps": 3, "validations": 3, "checkpoints": 0, "micro_tokens": 64, "clip": 1.0, "seed": 1}
    settings |= {"learning_rate": 1e-3, "schedule": "cosine", "weight_decay": 0.0, "precision": "fp32", "keep": "best"}
    found = _tuning.still_warming(make_plan(8, warmup=0.6, **settings), position)
    assert (said in found) if said else not found
    assert not _tuning.still_warming(make_plan(8, warmup=0.0, **settings), position)
