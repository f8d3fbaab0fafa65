"""Twenty of the 200 kill points of benchmarks/kill_points.py (MISSION T10)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_t10_kill_minus_nine_anywhere(tmp_path: Path) -> None:
    """MISSION T10, proof: real SIGKILLs in steps, in every phase of saving, and in half-written files; resumed, the weights are bit-identical and no row is repeated or
    lost."""
    path = Path(__file__).parents[2] / "benchmarks" / "kill_points.py"
    spec = importlib.util.spec_from_file_location("kill_points", path)
    assert spec is not None
    assert spec.loader is not None
    kill_points = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill_points)
    kinds, failures, _ = kill_points.measure(20, tmp_path)
    assert failures == []
    assert kinds == {"line": 8, "save": 8, "torn": 4}
