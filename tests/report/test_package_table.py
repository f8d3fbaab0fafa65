"""The package in a report: a table of what each file is and lost, the front that no other file beats, and what was not measured said so (MISSION Z6)."""

from __future__ import annotations

from typing import Any

import pytest

from planish.report.blocks import Figure, Paragraph, Table
from planish.report.files import blocks, front
from planish.report.plots import _apart
from planish.scores import Metric


def entry(file: str, size: int, kl: float | None, *, passed: bool = True) -> dict[str, Any]:
    figures = {} if kl is None else {"kl": Metric(name="kl", value=kl, n=90, low=kl / 2, high=kl * 2), "tokens_per_second": Metric(name="t", value=12.5, n=1)}
    dumped = {name: figure.model_dump(mode="json") for name, figure in figures.items()}
    return {"file": file, "bytes": size, "bits_per_weight": 4.5, "figures": dumped, "runtime": "llama.cpp", "passed": passed}


def test_z6_the_front_is_what_no_other_file_beats() -> None:
    """(2, .2) loses to (2, .1); (3, .1) to it as well; (1, .5) and (4, .05) are best at their size; two equal files do not beat each other."""
    assert front([(2, 0.2), (2, 0.1), (3, 0.1), (1, 0.5), (4, 0.05)]) == [False, True, False, True, True]
    assert front([(1, 1.0), (1, 1.0)]) == [True, True]


def test_z6_the_smallest_that_passed_on_the_front_is_recommended() -> None:
    table, figure, said = blocks([entry("a", 10, 0.5, passed=False), entry("b", 20, 0.1), entry("c", 30, 0.2), entry("d", 40, 0.01)])
    assert isinstance(table, Table)
    assert isinstance(figure, Figure)
    assert isinstance(said, Paragraph)
    assert said.text.endswith(": b")
    assert "c 0.0 MB" in figure.label
    assert [row[-1] for row in table.rows] == ["NOT passed", "passed", "passed", "passed"]
    assert table.rows[0][8:10] == ["12.5", "not measured"]


def test_one_file_that_was_not_compared_is_only_a_row() -> None:
    [table] = blocks([entry("a", 10, None)])
    assert isinstance(table, Table)
    assert table.rows[0][4] == "not measured"


def test_names_beside_the_drawing_stand_apart() -> None:
    """Gap .1: .2, .2 and .25 are pushed up to .2, .3, .4; three at the top are pushed down from 1."""
    assert _apart([0.2, 0.2, 0.25], 0.1) == pytest.approx([0.2, 0.3, 0.4])
    assert _apart([0.95, 0.99, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
