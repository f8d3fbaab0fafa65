"""`planish diagnose`: files, runs and live runs as words and lines of 80 columns; six real runs, five of them sabotaged, are told apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planish.cli import app
from planish.diagnose import WORDS, of, spark, text
from planish.errors import InputError
from planish.evidence import curve_doctor, longer_answers
from planish.model import preference_lengths, preference_state


def write(path: Path, losses: list[float], checks: dict[int, float], **more: Any) -> Path:
    lines = []
    for step, loss in enumerate(losses, 1):
        line = {"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": 2e-4, "validation_loss": checks.get(step), "skipped": False} | more
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


OVERFIT = ([1.2, 0.8, 0.5, 0.3, 0.2], {1: 1.3, 2: 1.1, 3: 1.15, 4: 1.25, 5: 1.5})


def test_t9_words_line_and_next_action(tmp_path: Path) -> None:
    """The worked curve of MISSION T9 as a user sees it: over-fitting from check 2, two lines of loss, the next action, 80 columns for the lines."""
    path = write(tmp_path / "metrics.jsonl", *OVERFIT)
    said = CliRunner().invoke(app, ["diagnose", str(path)])
    assert said.exit_code == 0
    assert "over-fitting, since step 2" in said.output
    assert "best validation 1.1 at step 2" in said.output
    assert "next: train.keep: best" in said.output
    told = json.loads(CliRunner().invoke(app, ["diagnose", str(path), "--json"]).output)
    assert [(one["state"], one["since_step"]) for one in told[0]["diagnosis"]] == [("overfit", 2)]
    assert told[0]["best"] == {"step": 2, "loss": 1.1}


def test_lines_fit_and_mark_what_is_not_there(tmp_path: Path) -> None:
    """400 steps in 80 columns; 1, 2, 3 .. 8 are the eight marks in order; a gap is a space, nan a !."""
    losses = [2 + math.exp(-step / 50) for step in range(400)]
    path = write(tmp_path / "metrics.jsonl", losses, {step: losses[step - 1] + 0.1 for step in range(40, 401, 40)})
    drawn = [line for line in text(of(str(path), tmp_path)).splitlines() if line.startswith(("train ", "valid "))]
    assert len(drawn) == 2
    assert max(map(len, drawn)) <= 80
    assert spark([(step, float(step)) for step in range(1, 9)], 1, 8) == "▁▂▃▄▅▆▇█"
    assert spark([(1, 1.0), (3, math.nan), (4, 2.0)], 1, 4, plain=True) == "_ !@"


def test_every_state_has_words() -> None:
    places = (curve_doctor, preference_state, preference_lengths, longer_answers)
    functions = [function for place in places for function in vars(place).values() if hasattr(function, "__code__")]
    states = {constant for function in functions for constant in function.__code__.co_consts if constant in WORDS}
    assert states == set(WORDS)


def test_a_bad_file_is_named_with_its_lines(tmp_path: Path) -> None:
    """A torn last line is left out; any other that is no step is refused with its number; no file and no run are refused."""
    path = write(tmp_path / "metrics.jsonl", *OVERFIT)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole + '{"step": 6, "lo', encoding="utf-8")
    assert len(of(str(path), tmp_path)[0].curve.steps) == 5
    path.write_text("words\n[1]\n" + whole, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        of(str(path), tmp_path)
    assert [problem.where.rpartition(":")[2] for problem in refused.value.problems] == ["1", "2"]
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    for name in (str(tmp_path / "empty.jsonl"), str(tmp_path / "gone.jsonl"), "run-of-nobody"):
        with pytest.raises(InputError):
            of(name, tmp_path / "workspace")


def test_a_run_that_still_trains(tmp_path: Path) -> None:
    """The curve comes from the events; steps that a resumed run computed again count once."""
    from planish.events import EventType
    from planish.store import Store

    store = Store(tmp_path)
    run = store.start_run("r", {}, "x", "1", None)
    point = {"grad_norm": 1.0, "learning_rate": 1e-4, "validation_loss": None, "skipped": False}
    with pytest.raises(InputError, match="trained nothing"):
        of(run, tmp_path)
    for steps in ((1, 2, 3), (3, 4)):
        store.event(run, EventType.TRAIN_CURVE, "train", body={"points": [point | {"step": step, "loss": 1.0 / step} for step in steps]})
    found = of("last", tmp_path)[0]
    assert list(found.curve.steps) == [1, 2, 3, 4]
    assert [one.state for one in found.found] == ["too_early"]
