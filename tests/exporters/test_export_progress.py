"""Work in progress is shown: a bar for the calibration pass and one for every file that is written, which end where they said they would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import make_tiny

from planish import shelf
from planish.model.calibration_pass import Calibration
from planish.progress import Advance


class Bars:
    """Remembers what every bar was to reach, and where it got."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.reached = Counter[str]()

    def say(self, text: str) -> None:
        """Not looked at."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Advance]:
        """Counts."""
        assert label not in self.totals
        self.totals[label] = total

        def advance(count: int, note: str = "") -> None:
            self.reached[label] += count

        yield advance


@pytest.mark.parametrize(
    ("name", "options", "file", "calibrated"),
    [
        ("gguf", {"quant": "Q4_K_M"}, "model-Q4_K_M.gguf", True),
        ("gguf", {"quant": "F16"}, "model-F16.gguf", False),
        ("rtn", {}, "model-RTN-4bit", False),
        ("gptq", {}, "model-GPTQ-4bit", True),
        ("awq", {}, "model-AWQ-4bit", True),
        ("nf4", {}, "model-NF4", False),
        ("onnx", {"precision": "int8", "block": 16}, "model-ONNX-int8", False),
        ("onnx", {"precision": "int4", "block": 16, "gptq": True}, "model-ONNX-int4", True),
        ("safetensors", {}, "model-safetensors-source", False),
    ],
)
def test_every_bar_ends_at_its_total(tmp_path: Path, name: str, options: dict[str, Any], file: str, calibrated: bool) -> None:
    checkpoint, bars = make_tiny(tmp_path / "model", hidden=64), Bars()
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 500, (24,), generator=draw).tolist() for _ in range(40)]
    calibration = Calibration(checkpoint, None, rows, tmp_path / "grams", progress=bars)
    made = shelf.call("exporters", name, "export", options)(checkpoint, tmp_path / "out", None, calibration, bars)
    assert made.file == file
    assert bars.totals.keys() == {f"writing {file}", *(["calibration"] if calibrated else [])}
    assert bars.totals == dict(bars.reached)
    assert min(bars.totals.values()) > 1
