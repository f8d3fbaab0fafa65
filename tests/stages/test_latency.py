"""Pruning to a latency (MISSION Z9): counts found by what a step measures, the impossible refused with the nearest, and what was measured said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planish import prune as pruning
from planish.cli import app
from planish.errors import InputError
from planish.model import step_time
from planish.model.cut_folder import Source
from planish.progress import Silent
from planish.stages._latency import milliseconds, to_latency
from planish.stages._prune import Removal


def clock(config: Mapping[str, Any]) -> float:
    """1 ms, 2 ms a layer, and 10 us a channel of the MLP of each."""
    return 1e-3 + float(config["num_hidden_layers"] * (2e-3 + 1e-5 * config["intermediate_size"]))


def test_z9_as_few_units_go_as_meet_the_target(tiny: Path) -> None:
    """2 layers of 144 channels: 1 + 2 (2 + 1.44) = 7.88 ms. 7 ms needs 2 x .01 c = .88 less: 44 channels, found to 1/64 of them (2): 44 or 45."""
    removal, timed = to_latency(Source(tiny), "7 ms", "channels", Removal(), clock)
    assert removal.channels in (44, 45)
    assert timed.before == pytest.approx(7.88)
    assert timed.after == pytest.approx(7.88 - 0.02 * removal.channels)
    assert timed.after <= timed.target == 7
    assert "tokens before it" in timed.how
    assert "threads" in timed.how
    one, _ = to_latency(Source(tiny), "200 tokens/s", "layers", Removal(), clock)
    assert one.layers == 1  # 5 ms a token: one layer is 4.44


def test_a_step_is_timed_with_the_vocabulary_that_is_left(tiny: Path) -> None:
    """10 us an id of 512: 7.88 + 5.12 = 13 ms; 300 ids are 10.88 ms, and 10 ms needs 2 x .01 c = .88 less, as above."""
    removal, timed = to_latency(Source(tiny), "10 ms", "channels", Removal(vocabulary=300), lambda config: clock(config) + 1e-5 * config["vocab_size"])
    assert removal.channels in (44, 45)
    assert removal.vocabulary == 300
    assert timed.before == pytest.approx(10.88)


def test_z9_bad_an_impossible_latency_is_refused_with_the_nearest(tiny: Path) -> None:
    """All channels but one: 1 + 2 (2 + .01) = 5.02 ms."""
    with pytest.raises(
        InputError, match=r"(?s)7\.88 ms, and 5\.02 ms with all channels gone but one: 2\.00 ms is impossible.*nearest that channels reach is 5\.02"
    ):
        to_latency(Source(tiny), "2 ms", "channels", Removal(), clock)
    with pytest.raises(InputError, match=r"7\.88 ms already"):
        to_latency(Source(tiny), "9 ms", "channels", Removal(), clock)
    for wrong in ("fast", "0 ms", "7", "7 s"):
        with pytest.raises(InputError, match="is no latency"):
            milliseconds(wrong)
    with pytest.raises(InputError, match="both targets"):
        pruning.run(tiny, None, pruning.Request(target="80%", latency="7 ms"), pruning.Text(), Silent())


def test_the_verb_says_what_was_measured(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_time, "step_seconds", clock)
    arguments = ["prune", str(tiny), "--latency", "7 ms", "--out", str(tmp_path / "out")]
    forecast = CliRunner().invoke(app, [*arguments, "--dry-run"], catch_exceptions=False)
    assert "7.88 ms a token -> 7.00 ms, wanted 7.00 ms (measured: a next-token step in transformers on this machine" in forecast.stdout
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "7.88 ms a token" in done.stdout
    assert Source(tmp_path / "out").units.channels in (99, 100)


def test_a_step_is_timed_on_the_shapes_alone(tiny: Path) -> None:
    """Eight times the channels take longer a step, at sizes where the products outweigh what is around them."""
    config = dict(Source(tiny).config) | {"hidden_size": 256, "num_hidden_layers": 1, "intermediate_size": 2048, "head_dim": 64}
    assert 0 < step_time.step_seconds(config) < step_time.step_seconds(config | {"intermediate_size": 32768})
