"""What every scorer of the shelf must hold: it reports what the task table says, with its primary metric first, an interval on each, and nothing else."""

from __future__ import annotations

import json
import math
from fnmatch import fnmatch
from typing import Any

import pytest

from planish import shelf
from planish.data.task import KINDS, METRICS
from planish.rows import Message, Sample
from planish.scores import Score

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}}

ROWS: dict[str, list[tuple[str, Any]]] = {
    "label": [("a", "a"), ("b", "a"), ("b", "c")],
    "exact": [("Rome", "rome"), ("Oslo", None)],
    "f1": [("in Rome", "rome"), ("Oslo", None)],
    "rouge": [("in Rome now", "in rome"), ("Oslo", None)],
    "chrf": [("in Rome now", "in rome"), ("Oslo", None)],
    "bleu": [("in Rome we are now", "in Rome we are"), ("Oslo", None)],
    "citation": [("so [1]", 'so "one two three" [2]'), ("so [2]", None)],
    "extraction": [('{"a": 1}', '{"a": 1}'), ('{"a": 2}', "x")],
    "json_schema": [('{"a": 1}', '{"a": 1}'), ('{"a": 2}', "x")],
    "tool_call": [('[{"name": "f", "arguments": {"x": 1}}]', "f(x=1)"), ('[{"name": "f", "arguments": {"x": 1}}]', "f(x=2)"), ("Hello.", "Hi.")],
    "verifier": [("7", "7"), ("7", "8")],
    "judge": [("x", None), ("y", " ")],
    "perplexity": [("abc", [-1.0, -2.0]), ("de", [-0.5])],
    "pair_accuracy": [("yes", (-10.0, -14.0, -11.0, -13.0)), ("no", (-9.0, -8.0, -9.0, -8.0))],
}
PAIR = ((Message(role="assistant", content="yes"),), (Message(role="assistant", content="no"),))
OPTIONS: dict[str, dict[str, Any]] = {"judge": {"url": "http://127.0.0.1:9/v1", "model": "m"}}


def _scores(name: str) -> list[Score]:
    score = shelf.call("scorers", name, "score", OPTIONS.get(name, {}))
    prompt = Message(role="user", content="[1] one two three\n[2] four\n\nWhich?")
    return [score(Sample(id=f"r{n}", messages=(prompt,), target=target, tools=(TOOL,), pair=PAIR), answer) for n, (target, answer) in enumerate(ROWS[name])]


def test_the_table_knows_every_scorer() -> None:
    assert shelf.shelf("scorers").keys() == METRICS.keys() == ROWS.keys()
    assert {scorer for kind in KINDS.values() for scorer in kind.scorers} == METRICS.keys()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_it_reports_what_the_table_says(name: str) -> None:
    if name == "bleu":
        pytest.importorskip("sacrebleu")
    if name == "json_schema":
        pytest.importorskip("jsonschema")
    module = shelf.find("scorers", name).load()
    scores = _scores(name)
    found = module.metrics(scores, ("a", "b"), groups=None)
    assert METRICS[name][0] == module.PRIMARY
    assert module.PRIMARY in found
    families = [f"{family.partition('<')[0]}*" if family.endswith(">") else family for family in METRICS[name]]
    assert all(any(fnmatch(metric, family) for family in families) for metric in found)
    absent = [family for family in families if not any(fnmatch(metric, family) for metric in found)]
    seldom = {"judge": ["agreement", "first_place"], "pair_accuracy": ["good_accuracy", "bad_accuracy"]}
    assert absent == seldom.get(name, []), "left out only where no row has anything to say"
    for metric, figure in found.items():
        assert figure.name == metric
        assert 0 < figure.n <= len(scores)
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high
        assert figure.method
    clustered = module.metrics(scores, ("a", "b"), groups={"r0": "g", "r1": "g"})
    assert all(clustered[metric].value == figure.value and "cluster" in clustered[metric].method for metric, figure in found.items())


@pytest.mark.parametrize("name", sorted(ROWS))
def test_rows_are_kept_whole(name: str) -> None:
    """Scores survive the report's JSON, their values lie in 0 to 1, and no figure is NaN or infinite."""
    if name == "bleu":
        pytest.importorskip("sacrebleu")
    if name == "json_schema":
        pytest.importorskip("jsonschema")
    for found in _scores(name):
        assert 0 <= found.value <= 1
        assert all(math.isfinite(item) for item in found.detail.values())
        assert Score.model_validate(json.loads(found.model_dump_json())) == found
