"""The planted-defect suite: every defect is named with exactly its rows, every clean set is left alone (MISSION D1 to D11, K1 to K6)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.planted import readme
from benchmarks.planted.ask import ask
from benchmarks.planted.case import Case, Expected, Said, judge
from benchmarks.planted.rival_checks import RIVALS, Rival
from benchmarks.planted.suite import CASES, CLEAN, DEFECTS

FOLDER = Path(readme.__file__).parent


HEAVY = frozenset({"pii", "secrets", "mislabels"})
TOKENS = frozenset({"template", "mask", "truncation"})
"""Checks that the fast tests make only where they are what is tested: each takes tens of milliseconds for 40 rows."""


def _params(cases: list[Case]) -> list[object]:
    """A defect that is known to be missed must be missed: once it is found, its limit has to go."""
    return [pytest.param(case, id=case.name, marks=pytest.mark.xfail(reason=case.limit, strict=True) if case.limit else ()) for case in cases]


@pytest.mark.parametrize("case", _params([case for case in CASES if not {one.code for one in case.expected} & {"mislabel_suspected"}]))
def test_planted(case: Case) -> None:
    """What is said of a case is what must be said of it, and nothing else. The heavy checks run where they are what is tested."""
    _assert_right(case, HEAVY - {case.part} | (TOKENS if case.ask.template is None else frozenset()))


@pytest.mark.slow
@pytest.mark.parametrize("case", _params(list(CASES)))
def test_planted_with_every_check(case: Case) -> None:
    """The same with every check on every case."""
    _assert_right(case, frozenset())


def _assert_right(case: Case, without: frozenset[str]) -> None:
    said = ask(case, without=without)
    heard = sorted({(one.code, one.line or 0, one.why) for one in said})[:10]
    assert judge(case, said).right, f"{case.what}: must say {case.expected or 'nothing'}; said {heard}"


def test_enough_is_planted() -> None:
    """At least 60 defects and 10 clean sets, each under a name of its own."""
    assert len(DEFECTS) >= 60
    assert len(CLEAN) >= 10
    assert len({case.name for case in CASES}) == len(CASES)


_CASE = Case("x", "x", "two of three rows", "rows.jsonl", b"", (Expected("empty_answer", (2, 3), "empty"),), also=("length_outlier",))


@pytest.mark.parametrize(
    ("said", "found", "code", "rows", "alarms"),
    [
        ([Said("empty_answer", 2, "is empty"), Said("empty_answer", 3, "is empty")], True, True, True, 0),
        ([Said("empty_answer", 2, "is empty")], True, True, False, 0),
        ([Said("empty_answer", line, "is empty") for line in (1, 2, 3)], True, True, False, 0),
        ([Said("empty_answer", 2, "is short"), Said("empty_answer", 3, "is short")], True, False, True, 0),
        ([Said("length_outlier", 1), Said("duplicate", 2)], False, False, False, 1),
        ([], False, False, False, 0),
    ],
    ids=["right", "a row is missing", "a row too many", "another reason", "another code", "nothing"],
)
def test_the_judge_is_strict(said: list[Said], found: bool, code: bool, rows: bool, alarms: int) -> None:
    """A case that must name rows 2 and 3 as empty, and may name a length."""
    verdict = judge(_CASE, said)
    assert (verdict.found, verdict.code, verdict.rows, len(verdict.false_alarms)) == (found, code, rows, alarms)
    assert verdict.right == (found and code and rows and not alarms)


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ([{"kind": "no_empty_answers", "lines": [2, 3, 9], "text": "", "alarm": True}], "named"),
        ([{"kind": "no_empty_answers", "lines": [2], "text": "", "alarm": True}], "counted"),
        ([{"kind": "no_empty_answers", "lines": None, "text": "", "alarm": True}], "counted"),
        ([{"kind": "personal_data", "lines": [2, 3], "text": "", "alarm": True}], "missed"),
        ([{"kind": "load", "lines": None, "text": "", "alarm": True}], "refused"),
        ([{"kind": "crash", "lines": None, "text": "", "alarm": True}], "crashed"),
        ([], "missed"),
    ],
)
def test_rivals_are_given_what_they_find(findings: list[dict[str, object]], outcome: str) -> None:
    """A fitting check that gives all rows is `named`, even with rows too many: that is kinder than what planish is held to."""
    assert _rival("yobro").outcome(_CASE, findings) == outcome


def test_a_rival_without_the_check_is_not_said_to_miss() -> None:
    """yobro looks for no secrets."""
    assert _rival("yobro").outcome(Case("x", "x", "", "rows.jsonl", b"", (Expected("secret", (1,)),)), []) == "no check"


def test_readme_shows_the_results() -> None:
    """README.md holds the tables of results.json and rivals.json, every case in them, and planish misses there what is known to be missed, and nothing else."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert readme.tables() in page
    kept = json.loads((FOLDER / "results.json").read_text())["cases"]
    assert set(kept) == {case.name for case in CASES}
    assert [name for name, one in kept.items() if not one["right"]] == [case.name for case in CASES if case.limit]


def _rival(package: str) -> Rival:
    return next(rival for rival in RIVALS if rival.package == package)
