"""The page of figures says what the kept reports say, and no report was kept without parity or on a busy machine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REPORTS = sorted((BENCHMARKS / "results").glob("*.json"))


def kept() -> list[Any]:
    """The reports of paired measurements."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in REPORTS]
    return [report for report in reports if "findings" in report]


def test_the_page_is_the_reports() -> None:
    spec = importlib.util.spec_from_file_location("benchmarks_table", BENCHMARKS / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert (BENCHMARKS / "README.md").read_text(encoding="utf-8") == table.page(), "write it anew: python benchmarks/table.py"


@pytest.mark.parametrize("report", kept(), ids=lambda report: report["name"])
def test_a_kept_report_is_sound(report: dict[str, Any]) -> None:
    """Parity to 1e-5 wherever both sides are fp32, seven pairs, a quiet machine, and a verdict that follows from its own figures."""
    assert report["foreign"] <= 0.10 or not report["seconds"]  # counts do not depend on it
    assert not report["quick"]
    for distances in report["parity"].values():
        assert all(value <= 1e-5 for name, value in distances.items() if not name.startswith("bf16"))
    for finding in report["findings"]:
        value, bar = finding["value"], finding["bar"]
        assert value["pairs"] >= 7 or value["low"] == value["high"]  # timed in pairs, or counted once
        assert finding["reached"] == (value["median"] <= bar if finding["at_most"] else value["median"] >= bar)
        assert finding["verdict"].startswith("reached") == finding["reached"]
