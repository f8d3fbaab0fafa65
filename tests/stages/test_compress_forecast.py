"""What a compression is forecast to take: what is paid once is counted once, and other processes in between are not taken for work (MISSION Z6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import make_tiny

from planish.model import step_time
from planish.model.calibration_pass import Calibration
from planish.model.engine import Decoding, Generation
from planish.model.exported import Exported
from planish.progress import Silent
from planish.recipe_keys import Use
from planish.stages import _compress_forecast, _runtime_forecast
from planish.stages._compress_forecast import FileForecast, Passes, Texts, forecasts, passes

NOTHING = Passes(token=0, step=0, calibration=0, gold=0, compared=0)
TEXTS = Texts(sequences=((5, 6, 7), (8, 9)), gold=0, answers=0, compared=0)


class Exporter:
    """Takes `fixed` seconds and `layer` more for each layer by clocks of its own, 100 more for the calibration pass of each checkpoint, 40 more the first time, and now and again
    `disturbed` more, as if others had used the machine; on the wall always `waited` more. Writes 1,000 bytes and 10 for each layer."""

    def __init__(self, fixed: float, layer: float, disturbed: float = 0.0, waited: float = 0.0) -> None:
        self.fixed, self.layer, self.disturbed, self.waited = fixed, layer, disturbed, waited
        self.now, self.worked, self.calls, self.seen = 0.0, 0.0, 0, set[Path]()

    def call(self, kind: str, name: str, verb: str, options: Any) -> Callable[..., Exported]:
        assert (kind, name, verb) == ("exporters", "rtn", "export")
        return self.export

    def export(self, checkpoint: Path, folder: Path, adapter: Path | None, calibration: Calibration) -> Exported:
        layers = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
        spent = self.fixed + self.layer * layers
        spent += 0 if checkpoint in self.seen else 100
        spent += 0 if self.calls else 40
        spent += self.disturbed if self.calls % 2 else 0
        self.worked += spent
        self.now += spent + self.waited
        self.seen.add(checkpoint)
        self.calls += 1
        return Exported(file="file", bytes=1000 + 10 * layers, bits_per_weight=8, tensor_types={}, fell_back=())


def told(monkeypatch: pytest.MonkeyPatch, model: Path, exporter: Exporter, taken: Passes = NOTHING) -> FileForecast:
    monkeypatch.setattr(_compress_forecast.shelf, "call", exporter.call)
    monkeypatch.setattr(step_time, "time", SimpleNamespace(perf_counter=lambda: exporter.now, process_time=lambda: exporter.worked))
    [found] = forecasts(model, [Use(name="rtn")], TEXTS, taken, Silent())
    return found


@pytest.mark.parametrize(("layers", "seconds", "size"), [(2, 9.0, 1020), (12, 29.0, 1120)])
def test_z6_what_is_paid_once_is_not_multiplied_by_the_layers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layers: int, seconds: float, size: int) -> None:
    """5 s and 2 s a layer: 5 + 2 x 2 = 9 for two layers, 5 + 12 x 2 = 29 for twelve. Taking the first write of the larger slice for its time, as was done, its 100 s of calibration
    would be a layer's: 109 + 10 x (109 - 7) = 1,129."""
    found = told(monkeypatch, make_tiny(tmp_path / "model", layers=layers), Exporter(5, 2))
    assert (found.seconds, found.bytes) == (pytest.approx(seconds), size)


def test_z6_what_others_took_is_left_out_and_scoring_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every other write takes 50 s more. The fastest of three is still 5 + 2 for one layer and 5 + 4 for two: 29 for twelve, and 3 + 4 for gold and comparison: 36."""
    taken = NOTHING.model_copy(update={"gold": 3.0, "compared": 4.0})
    found = told(monkeypatch, make_tiny(tmp_path / "model", layers=12), Exporter(5, 2, disturbed=50), taken)
    assert found.seconds == pytest.approx(36)


def test_z6_what_the_clock_waited_for_other_processes_is_no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """3 s more on the wall each time, in which others held the cores: still 5 + 12 x 2 = 29. Were it taken for work, it would be 32."""
    assert told(monkeypatch, make_tiny(tmp_path / "model", layers=12), Exporter(5, 2, waited=3)).seconds == pytest.approx(29)


class Clock:
    """Seconds that went by."""

    now = 0.0


class Clocked:
    """A runtime of a slice of so many layers: by the clock 3 s and a layer's .5 s for a token that is read, 4 s and a layer's 2 s for one that is written, of `most`."""

    def __init__(self, layers: int, clock: Clock, most: int) -> None:
        self.layers, self.clock, self.most, self.closed = layers, clock, most, False
        self.asked: list[list[int]] = []

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> list[Generation]:
        self.asked += prompts
        new = min(self.most, decoding.max_new_tokens)
        self.clock.now += (3 + 0.5 * self.layers) * len(prompts[0]) + (4 + 2 * self.layers) * (new - 1)  # the first one comes with the prompt
        return [Generation("", (5,) * new, "length")]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("most", "answer"), [(99, 64.0), (1, 18.0)])
def test_z6_gold_takes_what_slices_take_in_the_files_own_runtime(monkeypatch: pytest.MonkeyPatch, most: int, answer: float) -> None:
    """30 layers: 3 + 30 x .5 = 18 s for a token that is read, 4 + 30 x 2 = 64 s for one that is written. The slices of one and two layers take 3.5 and 4, 6 and 8. In proportion to
    the layers it would be 15 x 4 = 60 and 15 x 8 = 120. A slice with a tenth of the weights says that an answer's token takes at least 10 x 8 = 80, not 64. A model that ends at
    once says nothing of an answer, which then counts as what is read: 18."""
    clock = Clock()
    engines = {f"{layers}.gguf": Clocked(layers, clock, most) for layers in (1, 2)}
    monkeypatch.setattr(_runtime_forecast.llamacpp, "start", lambda path: engines[path.name])
    monkeypatch.setattr(_runtime_forecast, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    found = _runtime_forecast.rates([Path(name) for name in engines], [(5, 6, 7), (8, 9, 4)], 30, weights=3)
    assert found == (pytest.approx(18), pytest.approx(answer))
    assert _runtime_forecast.rates([Path(name) for name in engines], [(5, 6, 7)], 30, weights=10).answer == pytest.approx(80 if most > 1 else 40)
    for engine in engines.values():
        assert engine.closed
        assert all(one != other for one, other in zip(engine.asked, engine.asked[1:], strict=False))  # nothing kept of a prompt serves the next


def test_z6_answers_that_are_written_cost_a_step_each(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 tokens read at .1 s and 20 written at .5 s: 13 s. Prompts alone, as was said before, would be 3."""
    monkeypatch.setattr(_compress_forecast.step_time, "pass_seconds", lambda config, tokens: 0.1 * tokens)
    monkeypatch.setattr(_compress_forecast.step_time, "step_seconds", lambda config: 0.5)
    monkeypatch.setattr(_compress_forecast, "_collected", lambda config, sequences, matrices: 0.0)
    found = passes(json.loads((tiny / "config.json").read_text()), Texts(sequences=((1, 2),), gold=30, answers=20, compared=0))
    assert found.gold == pytest.approx(13)


def test_z6_a_part_of_the_parameters_takes_that_part() -> None:
    """80 % of 1,000 bytes and 30 s: 800 and 24. Of 200 bytes of memory half is the original, which stays whole: 100 + 80."""
    whole = FileForecast(file="f", exporter={}, bytes=1000, seconds=30, memory=200)
    part = whole.of_part(0.8)
    assert (part.bytes, part.seconds, part.memory) == (800, pytest.approx(24), 180)


def test_z6_passes_are_in_proportion_to_the_tokens(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """.5 s for a pass over a row of 5 tokens is .1 a token: 30 tokens of gold 3 s, 10 compared tokens, read by two models, 2 s. Calibration: 400 rows of 5 tokens that begin
    alike in 2 are 2 + 400 x 3 = 1,202 on the tree. Timed are the first 1 + 204 of them (204 x 5 = 1,020 < 1,024), 2 + 205 x 3 = 617 tokens: 3.085 s of them make 6.01."""
    monkeypatch.setattr(_compress_forecast.step_time, "pass_seconds", lambda config, tokens: 0.1 * tokens)
    monkeypatch.setattr(_compress_forecast, "_collected", lambda config, sequences, matrices: 0.015 * len(sequences) + 0.01)
    rows = tuple((1, 2, 3 + row, 4, 5) for row in range(400))
    found = passes(json.loads((tiny / "config.json").read_text()), Texts(sequences=rows, gold=30, answers=0, compared=10))
    assert (found.token, found.calibration, found.gold, found.compared) == tuple(pytest.approx(value) for value in (0.1, 6.01, 3.0, 2.0))


def test_z6_the_calibration_pass_is_timed_on_shapes_alone(tiny: Path) -> None:
    """Products take as long whatever the numbers: no weight is read, and a longer row takes longer."""
    config = json.loads((tiny / "config.json").read_text())
    assert passes(config, Texts(sequences=((1, 2, 3),), gold=0, answers=0, compared=0)).calibration > 0
