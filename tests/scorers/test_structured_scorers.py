"""Answers with a form: extraction by span and by field, JSON under a schema, citations of numbered passages."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

import pytest
from sklearn.metrics import precision_recall_fscore_support

from planish.data.answers import leaves
from planish.errors import InputError
from planish.evidence.paired import compare
from planish.rows import Message, Sample
from planish.scorers import citation, extraction, json_schema
from planish.scores import EvalReport, Metric, Score

TYPES, TEXTS = ("person", "place"), ("Ada", "Ada Lovelace", "London", "Lord Byron", "New London")


def _sample(target: object, number: int = 0, prompt: str = "x") -> Sample:
    text = target if isinstance(target, str) else json.dumps(target)
    return Sample(id=f"r{number}", messages=(Message(role="user", content=prompt),), target=text)


def _pairable(scorer: str, scores: list[Score], found: dict[str, Metric]) -> None:
    report = EvalReport(system="a", gold="g", metrics={f"{scorer}.{name}": one for name, one in found.items()}, scores=scores)
    for name in report.metrics:
        assert compare(report, report, name, resamples=20).difference == 0


def _entity(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


def test_e1_precision_recall_f1_of_spans() -> None:
    """E1 Ex: 3 of 5 predicted right, 4 gold: P 3/5 = .6, R 3/4 = .75, F1 2*3/(5+4) = .667."""
    gold = [_entity("person", "Ada"), _entity("person", "Byron"), _entity("place", "London"), _entity("place", "Rome")]
    said = [*gold[:3], _entity("place", "Ada"), _entity("place", "Oslo")]
    found = extraction.metrics([extraction.score(_sample(gold), json.dumps(said))], (), resamples=10)
    assert (found["precision"].value, found["recall"].value, found["f1"].value) == pytest.approx((0.6, 0.75, 2 / 3))


def test_e1_spans_agree_with_scikit_learn() -> None:
    """E1: 1,000 random rows: micro precision, recall and F1 over (row, type, text) as scikit-learn counts them, the n-th of equal items being one of its own."""
    draw = random.Random(0)
    scores, gold_items, said_items = [], set(), set()

    def numbered(row: int, items: list[dict[str, str]]) -> set[tuple[int, str, str, int]]:
        seen: Counter[tuple[str, str]] = Counter()
        out = set()
        for item in items:
            key = (item["type"], item["text"])
            seen[key] += 1
            out.add((row, *key, seen[key]))
        return out

    for row in range(1_000):
        gold, said = ([_entity(draw.choice(TYPES), draw.choice(TEXTS)) for _ in range(draw.randint(0, 4))] for _ in range(2))
        said = [item for item in gold if draw.random() < 0.7] + said[: draw.randint(0, 2)]
        scores.append(extraction.score(_sample(gold, row), json.dumps(said)))
        gold_items |= numbered(row, gold)
        said_items |= numbered(row, said)
    universe = sorted(gold_items | said_items)
    precision, recall, f1, _ = precision_recall_fscore_support(
        [item in gold_items for item in universe], [item in said_items for item in universe], average="binary", zero_division=0
    )
    found = extraction.metrics(scores, (), resamples=50)
    assert (found["precision"].value, found["recall"].value, found["f1"].value) == pytest.approx((precision, recall, f1), abs=1e-12)
    assert found["partial_f1"].value >= found["f1"].value
    _pairable("extraction", scores, found)


def test_partial_credit_is_the_best_pairing() -> None:
    """300 random rows against every pairing tried in turn."""
    draw = random.Random(1)

    def f1(one: str, other: str) -> float:
        shared = sum((Counter(one.lower().split()) & Counter(other.lower().split())).values())
        return 2 * shared / (len(one.split()) + len(other.split()))

    for _ in range(300):
        gold, said = ([draw.choice(TEXTS) for _ in range(draw.randint(1, 4))] for _ in range(2))
        short, long = sorted((gold, said), key=len)
        best = max(sum(f1(one, other) for one, other in zip(short, order, strict=False)) for order in itertools.permutations(long))
        found = extraction.score(_sample([_entity("person", text) for text in gold]), json.dumps([_entity("person", text) for text in said]))
        assert found.detail["partial_f1.part"] == pytest.approx(2 * best)
    apart = extraction.score(_sample([_entity("person", "Ada Lovelace")]), json.dumps([_entity("place", "Ada")]))
    assert apart.detail["partial_f1.part"] == 0


def test_fields_are_compared_by_place() -> None:
    """Leaves total 3.0, items[] "a" and "b", buyer.name "Ada": 4. Said: total 3 right, items "b" and "c" one right, buyer.name "ada" wrong, extra one wrong:
    2 right of 5 said and 4 asked, F1 4/9; partial adds the name (word for word the same but for case): 2 * 3/9."""
    gold = {"total": 3.0, "items": ["a", "b"], "buyer": {"name": "Ada"}}
    found = extraction.score(_sample(gold), '{"total": 3, "items": ["b", "c"], "buyer": {"name": "ada"}, "more": true}')
    assert found.value == pytest.approx(4 / 9)
    assert found.detail["partial_f1.part"] / found.detail["partial_f1.whole"] == pytest.approx(6 / 9)
    assert extraction.score(_sample(gold), json.dumps(gold)).detail["exact"] == 1
    assert Counter(leaves({"a": 1, "b": [True]})) != Counter(leaves({"a": True, "b": [1]}))
    assert Counter(leaves({"a": [{"b": 1, "c": 2}, {"b": 3, "c": 4}]})) != Counter(leaves({"a": [{"b": 1, "c": 4}, {"b": 3, "c": 2}]}))


@pytest.mark.parametrize(
    "answer", [None, "", "Ada", '{"person": "Ada"}', '[{"type": "person", "text": "Ada"}', "[NaN]", 'Here: [{"type": "person", "text": "Ada"}]']
)
def test_what_cannot_be_read_found_nothing_and_is_counted(answer: str | None) -> None:
    scores = [
        extraction.score(_sample([_entity("person", "Ada")]), answer),
        extraction.score(_sample([_entity("person", "Ada")], 1), '[{"type": "person", "text": "Ada"}]'),
    ]
    found = extraction.metrics(scores, (), resamples=10)
    assert (found["parse_rate"].value, found["recall"].value, found["precision"].value) == (0.5, 0.5, 1.0)


def test_malformed_items_count_as_predicted() -> None:
    found = extraction.score(_sample([_entity("person", "Ada")]), '[{"type": "person", "text": "Ada"}, "Ada", {"type": "person"}]')
    assert (found.detail["precision.part"], found.detail["precision.whole"]) == (1, 3)
    fenced = '```json\n[{"type": "person", "text": "Ada", "start": 0}]\n```'
    assert extraction.score(_sample([_entity("person", "Ada")]), fenced).value == 1
    assert extraction.score(_sample([_entity("person", "Ada")]), fenced, fenced=False).value == 0
    assert extraction.score(_sample([]), "[]").value == 1
    assert extraction.score(_sample([]), "none").value == 0


def test_extraction_refusals() -> None:
    for target in ("Ada", "3", "{}", '["Ada"]', '[{"type": "person"}]'):
        with pytest.raises(InputError, match="r0: its reference is"):
            extraction.score(_sample(target), "[]")
    with pytest.raises(InputError, match="no row has anything to extract"):
        extraction.metrics([extraction.score(_sample([]), "[]")], ())


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}}, "required": ["n"]}


def test_schema_valid_is_jsonschemas_word() -> None:
    """1,000 random values: valid where Python's json reads it, schema_valid where jsonschema says so."""
    jsonschema = pytest.importorskip("jsonschema")
    draw = random.Random(2)
    said = 0
    for _ in range(1_000):
        fields = {"n": draw.choice([0, 3, 3.0, -1, 2.5, "3", None, True]), "tags": draw.sample(["a", "b", "b", "c", 1], draw.randint(0, 2))}
        value = draw.choice([fields, fields, fields, {"tags": []}, [1], 7])
        answer = json.dumps(value)[: draw.choice([None, None, None, -1])]
        try:
            right = jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(answer))
            valid = 1.0
        except ValueError:
            right, valid = False, 0.0
        found = json_schema.score(_sample({"n": 1}), answer, schema=SCHEMA)
        assert (found.detail["valid"], found.value) == (valid, float(right))
        said += right
    assert 50 < said < 900


def test_field_accuracy_and_rates() -> None:
    """Row 1: n right, tags[] a right, b missing: 2 of 3. Row 2 not JSON: 0 of its 1 field. Row 3: n wrong, one field added: 0 of 3 (two n, one more). 2/7."""
    rows = [({"n": 1, "tags": ["a", "b"]}, '{"n": 1, "tags": ["a"]}'), ({"n": 1}, "n = 1"), ({"n": 1}, '{"n": -1, "x": 0}')]
    scores = [json_schema.score(_sample(target, n), answer, schema=SCHEMA) for n, (target, answer) in enumerate(rows)]
    found = json_schema.metrics(scores, (), resamples=20)
    assert {name: metric.value for name, metric in found.items()} == pytest.approx({"valid": 2 / 3, "schema_valid": 1 / 3, "field_accuracy": 2 / 7})
    assert (found["valid"].method, found["field_accuracy"].method) == ("wilson", "bootstrap 20")
    _pairable("json_schema", scores, found)


def test_without_a_schema_the_reference_implies_one() -> None:
    target = {"name": "Ada", "age": 36, "alive": False, "tags": ["x"], "none": None}
    for answer, right in [
        ({**target, "age": 1.5, "tags": []}, 1),
        ({**target, "age": "36"}, 0),
        ({**target, "more": 1}, 0),
        ({**target, "alive": 0}, 0),
        ({"name": "Ada"}, 0),
    ]:
        assert json_schema.score(_sample(target), json.dumps(answer)).value == right
    assert json_schema.score(_sample(target), f"```\n{json.dumps(target)}\n```").value == 0
    assert json_schema.score(_sample(target), f"```\n{json.dumps(target)}\n```", fenced=True).value == 1


def test_json_schema_refusals() -> None:
    with pytest.raises(InputError, match="r0: its reference is not JSON"):
        json_schema.score(_sample("x"), "{}")
    with pytest.raises(InputError, match="r0: its reference breaks the schema"):
        json_schema.score(_sample({"n": -1}), "{}", schema=SCHEMA)
    with pytest.raises(InputError, match="outside itself"):
        json_schema.score(_sample({"n": 1}), "{}", schema={"properties": {"n": {"$ref": "https://example.org/a.json"}}})


PROMPT = """Answer from the passages and cite them.

[1] The tower was built in 1889 by the engineer.
It is made of iron.
[2] Rome is the capital of Italy.
[3] The tower is 330 metres high.

How high is the tower?"""


def _cites(target: str, answer: str | None, number: int = 0, **keys: str) -> Score:
    return citation.score(_sample(target, number, PROMPT), answer, **keys)  # type: ignore[arg-type]


def test_citation_precision_and_recall() -> None:
    """Row 1: cites 2 and 3, 3 is right: 1 of 2 cited, 1 of 1 relevant. Row 2: cites 1, of 1 and 3: 1 of 1, 1 of 2. Row 3: cites nothing: 0 of 1.
    P 2/3, R 2/4, F1 2*2/(3+4)."""
    scores = [_cites("330 m [3]", "It is 330 metres [2, 3]."), _cites("In 1889 [1], 330 m [3].", "1889 [1]", 1), _cites("330 m [3]", "330 metres", 2)]
    found = citation.metrics(scores, (), resamples=50)
    assert (found["precision"].value, found["recall"].value, found["f1"].value, found["parse_rate"].value) == pytest.approx((2 / 3, 1 / 2, 4 / 7, 2 / 3))
    assert "quotes_verbatim" not in found
    _pairable("citation", scores, found)


def test_quotes_cite_and_must_be_verbatim() -> None:
    quoting = _cites("330 [3]", 'It says "The tower is 330 metres high" and ##begin_quote##made of\niron.##end_quote##, “the tower was 330 metres tall”.')
    assert (quoting.parsed, quoting.detail["quotes_verbatim.part"], quoting.detail["quotes_verbatim.whole"]) == ("[1,3]", 2, 3)
    assert _cites("330 [3]", 'The "tower" is high [3]').detail["quotes_verbatim.whole"] == 0
    assert _cites("330 [3]", "High [3] [9]").value == pytest.approx(2 / 3)


def test_relevant_may_be_what_holds_the_answer() -> None:
    assert _cites("330 metres", "330 metres [3]", relevant="contains").value == 1
    assert _cites("330 metres", "330 metres [1]", relevant="contains").value == 0
    with pytest.raises(InputError, match="r0: no passage of its prompt holds its reference"):
        _cites("331 metres", "x", relevant="contains")
    with pytest.raises(InputError, match="r0: its reference cites no passage"):
        _cites("330 metres", "x")
    with pytest.raises(InputError, match="r0: its prompt holds no numbered passage"):
        citation.score(_sample("330 [3]"), "x")


def test_citations_agree_with_sets() -> None:
    """1,000 random rows of cited and relevant numbers against Python's sets."""
    draw = random.Random(3)
    right = cited = relevant = 0
    scores = []
    for number in range(1_000):
        wanted, said = set(draw.sample([1, 2, 3], draw.randint(1, 3))), set(draw.sample([1, 2, 3, 4], draw.randint(0, 4)))
        scores.append(
            _cites("x " + "".join(f"[{n}]" for n in wanted), "y " + draw.choice([" ".join(f"[{n}]" for n in said), f"[{', '.join(map(str, said))}]"]), number)
        )
        right, cited, relevant = right + len(wanted & said), cited + len(said), relevant + len(wanted)
    found = citation.metrics(scores, (), resamples=10)
    assert (found["precision"].value, found["recall"].value) == pytest.approx((right / cited, right / relevant))
