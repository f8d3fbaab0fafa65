"""A gold file of one's own: draft, locked, versions with their reasons (MISSION D10)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish import gold_page
from planish.data.gold_lock import lock, lock_path, read_lock
from planish.errors import InputError


def _rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": str(n), "text": text, "label": "ab"[n % 2]}) + "\n" for n, text in enumerate(texts)), encoding="utf-8")


def test_d10_draft_locked_next_version(tmp_path: Path) -> None:
    """Version 1 holds 3 rows; then row 1 changes, row 2 goes and row 3 comes: 1 added (id 2 keeps its place for a new text, so it is changed)."""
    path = tmp_path / "gold.jsonl"
    _rows(path, ["one", "two", "three"])
    assert read_lock(path) is None
    first = lock(path, "first")
    assert (first.version, first.changes[0].added) == (1, 3)
    assert read_lock(path) == first
    with pytest.raises(InputError, match="nothing changed since"):
        lock(path, "again")
    _rows(path, ["one", "TWO ", "four", "five"])  # row 1 is the same after normalisation, row 2 another, row 3 new
    with pytest.raises(InputError, match="was edited after it was locked as version 1"):
        read_lock(path)
    second = lock(path, "mended")
    change = second.changes[-1]
    assert (second.version, change.why, change.added, change.removed, change.changed) == (2, "mended", 1, 0, 1)
    _rows(path, ["one"])
    assert lock(path, "smaller").changes[-1].removed == 3


def test_d10_a_gold_file_with_a_refused_row_is_not_locked(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": ""}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"gold.jsonl:2: empty_answer"):
        lock(path, "first")
    assert not lock_path(path).exists()


def test_d10_a_damaged_lock_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    _rows(path, ["one"])
    lock_path(path).write_text("{}", encoding="utf-8")
    for look in (read_lock, lambda path: lock(path, "anew")):
        with pytest.raises(InputError, match="is no lock"):
            look(path)


def test_d10_what_cannot_be_locked_is_named(tmp_path: Path) -> None:
    """A folder, a file that is not there, and a version that nobody gives a reason for."""
    _rows(path := tmp_path / "gold.jsonl", ["one"])
    with pytest.raises(InputError, match="is no file"):
        lock(tmp_path, "first")
    with pytest.raises(InputError, match="there is no such file"):
        lock(tmp_path / "none.jsonl", "first")
    with pytest.raises(InputError, match="--why: is empty"):
        lock(path, "  ")
    lock(path, "first")
    path.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        read_lock(path)


def test_d10_the_page_says_what_a_gold_set_can_see(tmp_path: Path) -> None:
    """MISSION D10, Ex: d=.10, g=.05, two-sided 5 %, power .80 -> 312 rows; g=.03 -> 870. DESIGN: 400 rows see a 5-point drop 90 % of the time, 50 rows 13 %."""
    path = tmp_path / "gold.jsonl"
    _rows(path, [f"text {n}" for n in range(400)])
    page = gold_page.of(path)
    assert (page.rows, page.status, page.labels) == (400, "draft", {"a": 200, "b": 200})
    assert (page.needed["5%"], page.needed["3%"]) == (312, 870)
    assert page.power["5%"] == pytest.approx(0.90, abs=0.02)
    _rows(path, [f"text {n}" for n in range(50)])
    small = gold_page.of(path)
    assert small.power["5%"] == pytest.approx(0.13, abs=0.02)
    assert "need_more_gold" in gold_page.text(small)
    assert max(map(len, gold_page.text(page).splitlines())) <= 100
