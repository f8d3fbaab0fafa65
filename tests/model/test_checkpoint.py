"""Checkpoints and resume (MISSION T10): bit-exact, refused when they are another run's, and passed over when damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.model.runs import adapted, digest, examples, plan, run

from planish.errors import InputError
from planish.model import checkpoint, loop
from planish.model.checkpoint import Position
from planish.model.plan import Plan
from planish.objectives import sft


class Stopped(Exception):
    """The run ends here; nothing after it is done."""


def cut(tiny: Path, folder: Path, made: Plan, at: int, **more: Any) -> None:
    """Run and stop after step `at`."""

    def on_step(line: loop.Step) -> None:
        if line.step == at:
            raise Stopped

    with pytest.raises(Stopped):
        run(tiny, folder, made, on_step=on_step, **more)


def test_t10_worked_number(tiny: Path, tmp_path: Path) -> None:
    """MISSION T10: stopped at step 37 of 96 with a checkpoint there: 59 more steps, and the hash of the uninterrupted run."""
    made = replace(plan(max_steps=96, validations=0, micro_tokens=256), checkpoint_every=37)
    whole = digest(run(tiny, tmp_path / "whole", made, validation=()))

    def stop(_: Path, position: Position) -> None:
        if position.step == 37:
            raise Stopped

    with pytest.raises(Stopped):
        run(tiny, tmp_path / "cut", made, validation=(), on_checkpoint=stop)
    seen: list[loop.Step] = []
    resumed = run(tiny, tmp_path / "cut", made, validation=(), on_step=seen.append)
    assert len(seen) == 59
    assert digest(resumed) == whole


@pytest.mark.parametrize("stop_at", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("more", [{}, {"optimizer": "adamw_8bit"}, {"ema": 0.8, "keep": "best", "patience": 6}], ids=["plain", "8bit", "ema"])
def test_t10_resume_is_bit_identical(tiny: Path, tmp_path: Path, stop_at: int, more: dict[str, Any]) -> None:
    """Stopped anywhere and started again: the same weights to the bit, dropout, average, early stop and 8-bit moments included, and one figure for every step."""
    made = plan(checkpoints=6, validations=6, **more)
    whole = digest(run(tiny, tmp_path / "whole", made))
    cut(tiny, tmp_path / "cut", made, stop_at)
    assert digest(run(tiny, tmp_path / "cut", made)) == whole
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "cut")]
    figures = [[(line["step"], line["loss"], line["grad_norm"], line["validation_loss"], line["tokens"]) for line in run_lines] for run_lines in lines]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 6


def test_t10_an_early_stop_comes_at_the_same_step(tiny: Path, tmp_path: Path) -> None:
    """The validations waited since the best are part of a checkpoint: cut one step before it would stop, the resumed run takes that one step and stops."""
    made = plan(max_steps=30, validations=30, checkpoints=30, patience=2, keep="best")
    lines: list[loop.Step] = []
    whole = digest(run(tiny, tmp_path / "whole", made, on_step=lines.append))
    assert 2 < len(lines) < 30
    cut(tiny, tmp_path / "cut", made, len(lines))  # its checkpoint is of the step before
    more: list[loop.Step] = []
    assert digest(run(tiny, tmp_path / "cut", made, on_step=more.append)) == whole
    assert [line.step for line in more] == [len(lines)]


def test_r6_the_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """Two runs: the same files, byte for byte; another seed: others."""
    for name, seed in (("a", 42), ("b", 42), ("c", 43)):
        run(tiny, tmp_path / name, plan(seed=seed))
    last = {name: (tmp_path / name / "step-00000006" / "weights.safetensors").read_bytes() for name in "abc"}
    assert last["a"] == last["b"] != last["c"]


def test_t10_a_damaged_checkpoint_is_set_aside_and_said(tiny: Path, tmp_path: Path) -> None:
    """MISSION T10: corrupt last -> previous verified, with a word; and the end is the same."""
    whole = digest(run(tiny, tmp_path))
    last, before = sorted(tmp_path.glob("step-*"), reverse=True)
    (last / "weights.safetensors").write_bytes(b"torn")
    said: list[str] = []
    positions: list[Position] = []
    assert digest(run(tiny, tmp_path, on_warning=said.append, on_start=positions.append)) == whole
    assert positions[0].step == checkpoint.step_of(before)
    assert said == ["a damaged checkpoint was set aside as damaged-step-00000006; going on from the one before"]
    assert (tmp_path / "damaged-step-00000006").is_dir()
    for path in tmp_path.glob("step-*"):
        (path / "manifest.json").unlink()
    assert checkpoint.newest(tmp_path) is None


def test_t10_another_runs_checkpoint_is_refused_with_every_difference(tiny: Path, tmp_path: Path) -> None:
    """MISSION T10: base, data and plan keys differ: each is named with both values, and how to start afresh; nothing is overwritten."""
    run(tiny, tmp_path, meaning={"base": "one", "data": "d1", "section": {"adapter": {"r": 4}}})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refused:
        run(tiny, tmp_path, plan(learning_rate=2e-2), meaning={"base": "two", "data": "d1", "section": {"adapter": {"r": 4, "alpha": 8}}})
    assert [(problem.where.rpartition(" ")[2], problem.why) for problem in refused.value.problems] == [
        ("base", 'the checkpoint was made with "one", this run has "two"'),
        ("plan.learning_rate", "the checkpoint was made with 0.01, this run has 0.02"),
        ("section.adapter.alpha", 'the checkpoint was made with "nothing", this run has 8'),
    ]
    assert all(f"delete {tmp_path} to start afresh" in problem.fix for problem in refused.value.problems)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shutil.rmtree(tmp_path)
    run(tiny, tmp_path, plan(learning_rate=2e-2))


def test_t8_what_a_lever_changed_may_differ_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    """MISSION T8: a run goes on with smaller micro-batches where that is said to be allowed; a learning rate that differs too is refused, alone."""
    run(tiny, tmp_path, meaning={"section": {"micro_tokens": 64}})
    smaller: dict[str, Any] = {"meaning": {"section": {"micro_tokens": 16}}}
    allowed = {"section.micro_tokens", "plan.micro_tokens"}
    with pytest.raises(InputError) as refused:
        run(tiny, tmp_path, plan(micro_tokens=16, learning_rate=2e-2), may_differ=allowed, **smaller)
    assert [problem.where.rpartition(" ")[2] for problem in refused.value.problems] == ["plan.learning_rate"]
    with pytest.raises(InputError, match="micro_tokens"):
        run(tiny, tmp_path, plan(micro_tokens=16), **smaller)
    started: list[Position] = []
    run(tiny, tmp_path, plan(micro_tokens=16), may_differ=allowed, on_start=started.append, **smaller)
    assert started[0].step == plan().steps


def test_t10_another_rank_or_other_targets_are_refused(tiny: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path)
    for r, targets in ((8, "all-linear"), (4, ["q_proj"])):
        from planish.adapters import lora
        from planish.model.load import load

        model = lora.attach(load(tiny, "fp32"), r=r, targets=targets)
        with pytest.raises(InputError, match="trained tensors"):
            loop.train(model, examples(), sft.loss, plan(), tmp_path, meaning={"base": "x"})


def test_t10_the_last_two_and_the_best_are_kept(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([5.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(loop, "_validated", lambda *_: (next(values), {}))
    run(tiny, tmp_path, plan(validations=6, checkpoints=6))
    assert [checkpoint.step_of(path) for path in sorted(tmp_path.glob("step-*"))] == [2, 5, 6]


def test_a_best_checkpoint_that_is_gone_is_said(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(loop, "_validated", lambda *_: (next(values), {}))
    made = plan(validations=6, checkpoints=6, keep="best")
    run(tiny, tmp_path, made)
    shutil.rmtree(tmp_path / "step-00000001")
    said: list[str] = []
    model = run(tiny, tmp_path, made, on_warning=said.append)
    assert said == ["the best checkpoint, of step 1, is damaged or gone: the last weights are kept instead"]
    last = adapted(tiny)
    checkpoint.load_weights(tmp_path / "step-00000006", last)
    assert digest(model) == digest(last)


def test_what_a_kill_left_half_written_is_removed(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / ".step-00000003.abc.partial").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    run(tiny, tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6


def test_no_pickle_in_a_checkpoint(tiny: Path, tmp_path: Path) -> None:
    """R-7: safetensors and JSON only."""
    run(tiny, tmp_path, plan(ema=0.5))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json", ".jsonl"}
