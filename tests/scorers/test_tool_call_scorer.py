"""Tool calls (MISSION F2): the notations they are read in, what is valid, what is right, and bfcl-eval's own checker as the oracle."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from planish.data.call_match import mismatched
from planish.data.said_calls import said_calls
from planish.errors import InputError
from planish.evidence.paired import compare
from planish.rows import Message, Sample, ToolCall
from planish.scorers.tool_call import metrics, score
from planish.scores import EvalReport

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["city"],
        },
    },
}
CALL = {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}
RIGHT = json.dumps([CALL])


def _sample(target: str = RIGHT, number: int = 0) -> Sample:
    return Sample(id=f"r{number}", messages=(Message(role="user", content="Weather in Rome?"),), target=target, tools=(WEATHER,))


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        json.dumps(CALL),
        json.dumps(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {**CALL, "arguments": '{"city": "Rome", "days": 2}'}}],
            }
        ),
        f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
        f"I will look.\n<tool_call>{RIGHT}</tool_call>",
        f"<tool_call>{json.dumps(CALL)}",
        f"[TOOL_CALLS]{RIGHT}</s>",
        '{"name": "get_weather", "parameters": {"city": "Rome", "days": 2}}<|eot_id|>',
        '<|python_tag|>{"name": "get_weather", "parameters": {"days": 2, "city": "Rome"}}<|eom_id|>',
        "[get_weather(city='Rome', days=2)]",
        'get_weather(city="Rome", days=2)',
        f"```json\n{RIGHT}\n```",
        '[get_weather(city="rome.", days=2)]',
    ],
)
def test_reads_the_notations_of_the_main_families(answer: str) -> None:
    found = score(_sample(), answer)
    assert (found.value, found.detail["valid_tool_call_rate.part"], found.detail["parse_rate"]) == (1.0, 1.0, 1.0)
    assert json.loads(found.parsed or "")[0]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("answer", "error", "valid"),
    [
        (None, "empty", 0),
        ("It is sunny (as ever).", "no_call", 0),
        ('{"name": "get_weather", "arguments": {"city": "Rome"', "unparsed", 0),
        ("<tool_call>sunny</tool_call>", "unparsed", 0),
        ('{"name": "get_weather", "arguments": "\\"{}\\""}', "unparsed", 0),
        ("[get_weather('Rome', 2)]", "unparsed", 0),
        ("[get_weather(city=Rome, days=2)]", "unparsed", 0),
        ("[get_climate(city='Rome', days=2)]", "unknown_tool", 0),
        ("[get_weather(days=2)]", "schema", 0),
        ("[get_weather(city='Rome', days='two')]", "schema", 0),
        ("[get_weather(city='Rome', days=2, unit='k')]", "schema", 0),
        ("[get_weather(city='Rome', days=2), get_weather(city='Rome', days=2)]", "wrong_count", 1),
        ("[get_weather(city='Paris', days=2)]", "value_error_string", 1),
        ("[get_weather(city='Rome', days=3)]", "value_error_other", 1),
        ("[get_weather(city='Rome')]", "missing_optional", 1),
        ("[get_weather(city='Rome', days=2, unit='c')]", "unexpected_param", 1),
    ],
)
def test_names_what_is_wrong(answer: str | None, error: str, valid: int) -> None:
    found = score(_sample(), answer)
    assert found.value == 0
    assert [key for key in found.detail if key.startswith("error.")] == [f"error.{error}"]
    assert found.detail["valid_tool_call_rate.part"] == valid


def test_text_is_no_call_and_llama_parts_by_semicolons() -> None:
    for text in ('{"name": "Alice", "age": 3}', "f(x", "See [the page](there)", "[1, 2]", "((((" * 2000, "[" * 5000, '"just text"', "f(x) + 1"):
        assert not said_calls(text).tried, text[:40]
    two = said_calls('<|python_tag|>{"name": "a", "parameters": {"x": "1;2"}}; {"name": "b", "parameters": {}}')
    assert two.calls == (ToolCall(name="a", arguments={"x": "1;2"}), ToolCall(name="b"))
    assert said_calls("a.b(x=[1, (2, 3)], y={'k': None})").calls == (ToolCall(name="a.b", arguments={"x": [1, [2, 3]], "y": {"k": None}}),)


def test_f2_valid_and_matching_rates() -> None:
    """F2 Ex: 100 rows that need a call, 90 valid, 72 match: .90, .72, and .80 of the valid ones.

    10 rows name no city (required): invalid. 18 ask for 3 days instead of 2: valid, wrong. 72 are right."""
    answers = ["[get_weather(days=2)]"] * 10 + ["[get_weather(city='Rome', days=3)]"] * 18 + ["[get_weather(city='Rome', days=2)]"] * 72
    scores = [score(_sample(number=n), answer) for n, answer in enumerate(answers)]
    found = metrics(scores, ())
    assert (found["valid_tool_call_rate"].value, found["argument_match"].value, found["match_given_valid"].value) == (0.90, 0.72, 0.80)
    assert (found["match_given_valid"].n, found["argument_match"].n, found["argument_match"].method) == (90, 100, "wilson")
    assert (found["error.schema"].value, found["error.value_error_other"].value) == (0.10, 0.18)
    assert "no_tool_recall" not in found
    report = EvalReport(system="a", gold="g", metrics={f"tool_call.{name}": one for name, one in found.items()}, scores=scores)
    for name in report.metrics:
        assert compare(report, report, name, resamples=50).difference == 0


def test_no_tool_precision_and_recall() -> None:
    """4 rows need no call, 2 of them get a text; of 6 rows that need one, 1 gets a text: recall 2/4, precision 2/3, accuracy (2 + 5)/10."""
    call = "[get_weather(city='Rome', days=2)]"
    rows = [("Which city?", "Which city do you mean?")] * 2 + [("Which city?", call)] * 2 + [(RIGHT, call)] * 5 + [(RIGHT, "Which city?")]
    found = metrics([score(_sample(target, n), answer) for n, (target, answer) in enumerate(rows)], ())
    assert (found["no_tool_recall"].value, found["no_tool_recall"].n) == (0.5, 4)
    assert (found["no_tool_precision"].value, found["no_tool_precision"].n) == (pytest.approx(2 / 3), 3)
    assert found["accuracy"].value == 0.7
    assert found["error.unneeded_call"].value == 0.2


def test_accepted_values() -> None:
    target = json.dumps([{"name": "get_weather", "accepted": {"city": ["Rome", "Roma"], "days": [2, ""]}}])
    assert [score(_sample(target), f"[get_weather({said})]").value for said in ("city='roma'", "city='Rome', days=2", "city='Rom'", "city='Rome', days=1")] == [
        1,
        1,
        0,
        0,
    ]


def test_refusals() -> None:
    with pytest.raises(InputError, match="r0: its reference calls get_climate, which its tools do not hold"):
        score(_sample('[{"name": "get_climate", "arguments": {}}]'), "x")
    with pytest.raises(InputError, match="r0: its reference cannot be read as calls"):
        score(_sample('<tool_call>{"name": }</tool_call>'), "x")
    with pytest.raises(InputError, match="r3: its reference is empty"):
        metrics([score(_sample("", 3), "x")], ())
    with pytest.raises(InputError, match="tool 1 has no name"):
        score(_sample().model_copy(update={"tools": ({"type": "function", "function": {}},)}), "x")


# --- bfcl-eval, installed without its dependencies: its checker needs nothing but the table of models, which one entry stands in for ---

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")


@pytest.fixture(scope="module")
def bfcl() -> SimpleNamespace:
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("bfcl-eval is not installed (pip install --no-deps bfcl-eval==2026.3.23)")
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = {"plain": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules["bfcl_eval.constants.model_config"] = models
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    language = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
    return SimpleNamespace(check=checker.ast_checker, language=language, data=Path(spec.submodule_search_locations[0]) / "data")


def _rows(bfcl: SimpleNamespace, category: str) -> list[tuple[list[dict], list[dict]]]:
    name = f"BFCL_v4_{category}.json"
    asked = [json.loads(line) for line in (bfcl.data / name).read_text(encoding="utf-8").splitlines()]
    keys = {row["id"]: row["ground_truth"] for row in map(json.loads, (bfcl.data / "possible_answer" / name).read_text(encoding="utf-8").splitlines())}
    return [(row["function"], keys[row["id"]]) for row in asked]


def _first(values: list) -> object:
    """A value that the key accepts, as a model would write it; None where it may only be left out."""
    value = next((one for one in values if one != ""), None)
    if isinstance(value, dict):
        return {name: next((one for one in inner if one != ""), None) for name, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [{name: inner[0] for name, inner in item.items()} for item in value]
    return value


def _answer(key: list[dict]) -> list[dict]:
    calls = []
    for right in key:
        ((name, accepted),) = right.items()
        arguments = {one: _first(values) for one, values in accepted.items()}
        calls.append({name: {one: value for one, value in arguments.items() if value is not None}})
    return calls


OTHER = (0, 7, -1.5, True, False, "", "other", "Rome, Italy", [], ["a"], [1, 2], {}, {"a": 1}, [{"a": 1}], None)


def _mutated(calls: list[dict], draw: random.Random) -> list[dict]:
    """One to three changes of the kinds that models make."""
    made = copy.deepcopy(calls)
    for _ in range(draw.randint(1, 3)):
        kind = draw.randrange(9)
        if kind == 0 and made:
            made.pop(draw.randrange(len(made)))
        elif kind == 1 and made:
            made.append(copy.deepcopy(draw.choice(made)))
        elif kind == 2:
            draw.shuffle(made)
        elif made:
            call = draw.choice(made)
            (name, arguments) = next(iter(call.items()))
            if kind == 3:
                call.clear()
                call[name + draw.choice(["s", "_2"])] = arguments
            elif kind == 4:
                arguments["added"] = draw.choice(OTHER)
            elif arguments:
                chosen = draw.choice(sorted(arguments))
                value = arguments[chosen]
                if kind == 5:
                    del arguments[chosen]
                elif kind == 6:
                    arguments[chosen] = copy.deepcopy(draw.choice(OTHER))
                else:
                    arguments[chosen] = _near(value, draw)
    return made


def _near(value: object, draw: random.Random) -> object:
    """What a model writes for a value that it has nearly right."""
    if isinstance(value, bool):
        return draw.choice([not value, str(value), int(value)])
    if isinstance(value, int | float):
        return draw.choice([float(value), str(value), value + 1, -value])
    if isinstance(value, str):
        return draw.choice([value.upper(), f" {value}.", value.replace(" ", ""), value + "x", [value], value.replace("'", '"')])
    if isinstance(value, list):
        return draw.choice([value[::-1], value[:-1], [*value, value[0]] if value else ["a"], [str(item) for item in value], value * 2])
    if isinstance(value, dict):
        return draw.choice([{**value, "more": 1}, dict(list(value.items())[1:]), {key: f"{item}" for key, item in value.items()}, [value]])
    return value


def _theirs(bfcl: SimpleNamespace, functions: list[dict], answer: list[dict], key: list[dict], category: str) -> tuple[bool, str]:
    """Their verdict. Where the checker itself breaks on an answer, its harness counts the row wrong."""
    try:
        found = bfcl.check(functions, copy.deepcopy(answer), key, bfcl.language, category, "plain")
    except (AttributeError, TypeError, KeyError, IndexError) as broken:
        return False, f"crash:{type(broken).__name__}"
    return found["valid"], "" if found["valid"] else found["error_type"]


def _ours(functions: list[dict], answer: list[dict], key: list[dict]) -> str | None:
    calls = [ToolCall(name=name, arguments=arguments) for call in answer for name, arguments in call.items()]
    right = [(name, accepted) for call in key for name, accepted in call.items()]
    return mismatched(calls, right, {function["name"]: function["parameters"] for function in functions})


CLASSES = {
    "wrong_count": "wrong_count",
    "wrong_func_name": "wrong_name",
    "string": "value_error_string",
    "list/tuple": "value_error_list",
    "dict_key": "value_error_object_key",
    "dict_value": "value_error_object_value",
    "list_dict_count": "value_error_list_length",
    "others": "value_error_other",
    "simple": "type_error",
    "nested": "type_error_nested",
    "unclear": "value_error_object",
}


@pytest.mark.parametrize("category", CATEGORIES)
def test_f2_verdicts_are_bfcls_row_by_row(category: str, bfcl: SimpleNamespace) -> None:
    """Its ground truth and, of each row, mutated answers: same verdict and same error class in every row. Over the categories 2,351 rows and more than
    6,000 mutants; a mutant may still be right."""
    draw = random.Random(category)
    verdicts = {True: 0, False: 0}
    for functions, key in _rows(bfcl, category):
        truth = _answer(key)
        for answer in [truth, *(_mutated(truth, draw) for _ in range(3))]:
            valid, error = _theirs(bfcl, functions, answer, key, category)
            ours = _ours(functions, answer, key)
            assert (ours is None) == valid, (error, ours, answer, key)
            if not valid and not error.startswith("crash"):
                last = error.rpartition(":")[2]
                assert ours == CLASSES.get(last, last), (error, answer, key)
            verdicts[valid] += 1
    assert min(verdicts.values()) > 10
