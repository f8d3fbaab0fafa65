"""The decision guide against a table of 40 cases, its rows against recipe and entries, and the rungs of the ladder (MISSION G1, G2)."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from planish.errors import InputError
from planish.evidence.guide import Advice, Answers, Facts, advise, rungs
from planish.evidence.guide_rows import PHASES, guide, holds
from planish.model.merging import read_spec
from planish.recipe import Recipe
from planish.shelf import shelf

LABELLED = Facts(good_rows=500, task="classification", labels=3, targets=500, comparisons=0, unpaired=0)
PAIRS = Facts(good_rows=500, task="preference", targets=0, comparisons=500, unpaired=0)

CASES: list[tuple[dict[str, Any], Facts | None, list[str], list[str]]] = [
    # answers, facts, the techniques in rank order (a beginning of them), what must not be recommended
    ({"gap": "knowledge", "changing": True}, None, ["rag"], ["cpt", "sft_lora"]),  # G1 Ex: changing catalogue -> B3
    ({"gap": "behaviour", "prompt_holds": 0.8}, None, ["sft_lora"], ["rag", "dpo"]),  # G1 Ex: fixed JSON shape held 80 % by prompt -> SFT LoRA
    ({"gap": "steering", "rare": True}, None, ["prompt_line"], ["sft_lora", "dpo"]),  # G1 Ex: rare escalation -> one prompt line
    ({"constraints": ("size",)}, None, ["distil"], ["rag", "merge"]),  # G1 Ex: smaller at same quality -> S
    ({"constraints": ("device",)}, None, ["quantise"], ["merge", "sft_lora"]),  # G1 Ex: fits a phone -> Z
    ({"constraints": ("breadth",), "skills": 3, "same_base": True}, None, ["merge"], ["multi_task", "distil"]),  # G1 Ex: several same-base skills -> W
    ({"comparisons_only": True}, None, ["dpo"], ["sft_lora", "kto"]),  # G1 Ex: comparisons only -> P
    ({}, PAIRS, ["dpo", "orpo"], ["sft_lora", "kto", "rag"]),
    ({"gap": "preference"}, PAIRS, ["dpo"], ["sft_lora"]),
    ({"gap": "preference"}, Facts(good_rows=400, comparisons=0, unpaired=400, targets=0), ["kto"], ["dpo", "orpo", "sft_lora"]),
    ({"gap": "preference"}, None, ["sft_lora", "dpo"], ["kto"]),
    ({"gap": "preference"}, Facts(good_rows=20_000, comparisons=20_000, targets=0), ["dpo", "orpo", "rlhf"], ["sft_lora"]),
    ({"gap": "behaviour"}, None, ["prompt", "few_shot", "sft_lora"], ["classifier", "rag"]),
    ({"gap": "behaviour"}, LABELLED, ["prompt", "few_shot", "classifier", "sft_lora"], ["rag", "sft_full"]),
    ({"gap": "behaviour"}, LABELLED.model_copy(update={"good_rows": 30}), ["fix_data", "prompt", "few_shot"], ["classifier", "sft_lora"]),
    ({"gap": "behaviour", "rows": 49}, None, ["fix_data", "prompt"], ["sft_lora"]),  # G1 Not: fewer than ~50 good rows -> fix data first
    ({"gap": "behaviour", "rows": 50}, None, ["prompt", "few_shot", "sft_lora"], ["fix_data"]),
    ({"gap": "behaviour", "prompt_holds": 0.8, "rows": 20}, None, ["fix_data"], ["sft_lora"]),
    ({"gap": "behaviour", "prompt_holds": 0.8, "goal": 0.95}, LABELLED, ["sft_lora", "classifier"], ["prompt"]),
    ({"prompt_holds": 0.97, "goal": 0.95}, LABELLED, ["prompt"], ["sft_lora", "few_shot", "fix_data"]),
    ({"prompt_holds": 0.97, "goal": 0.95, "rows": 10}, Facts(targets=10, task="qa"), ["prompt"], ["fix_data", "sft_lora"]),
    (
        {"gap": "behaviour"},
        LABELLED.model_copy(update={"fits_lora": False, "fits_qlora": True}),
        ["prompt", "few_shot", "classifier", "sft_qlora"],
        ["sft_lora"],
    ),
    (
        {"gap": "behaviour"},
        LABELLED.model_copy(update={"fits_lora": False, "fits_qlora": False}),
        ["prompt", "few_shot", "classifier"],
        ["sft_lora", "sft_qlora"],
    ),
    (
        {"gap": "behaviour"},
        LABELLED.model_copy(update={"good_rows": 20_000, "fits_full": True}),
        ["prompt", "few_shot", "classifier", "sft_lora", "sft_full"],
        [],
    ),
    ({"gap": "behaviour"}, LABELLED.model_copy(update={"good_rows": 20_000, "fits_full": False}), ["prompt"], ["sft_full"]),
    ({"gap": "steering"}, None, ["prompt", "few_shot", "sft_lora"], ["prompt_line"]),
    ({"gap": "steering", "rare": True, "rows": 5}, None, ["prompt_line"], ["fix_data", "sft_lora"]),
    ({"gap": "steering", "rows": 30}, None, ["prompt", "few_shot"], ["sft_lora"]),
    ({"gap": "knowledge"}, None, ["rag"], ["cpt", "raft"]),
    ({"gap": "knowledge", "changing": False}, Facts(text_tokens=2_000_000), ["rag", "cpt"], ["raft"]),
    ({"gap": "knowledge", "changing": False}, Facts(text_tokens=900_000), ["rag"], ["cpt"]),  # C1 Bad: < 1M tokens
    ({"gap": "knowledge", "changing": True}, Facts(text_tokens=2_000_000), ["rag"], ["cpt"]),  # C1 Not: for changing facts
    ({}, Facts(good_rows=300, task="qa", targets=300, documents=True), ["rag", "raft"], ["sft_lora"]),
    ({"gap": "knowledge", "changing": True}, Facts(good_rows=20, documents=True), ["rag"], ["fix_data", "raft"]),
    ({"gap": "reasoning"}, None, ["prompt", "sft_traces", "grpo"], ["dpo", "rag"]),
    ({"gap": "reasoning", "rows": 10}, None, ["fix_data", "prompt"], ["grpo", "sft_traces"]),
    ({}, Facts(good_rows=300, task="tools", tools=True, targets=300), ["prompt", "constrain", "sft_tools"], ["rag", "dpo"]),
    ({"constraints": ("reliability",)}, None, ["constrain", "watch"], ["distil"]),
    ({"constraints": ("cost",)}, None, ["cheaper_rung", "quantise"], ["merge"]),
    ({"constraints": ("breadth",), "same_base": False}, None, ["multi_task"], ["merge", "multi_lora"]),
    ({"constraints": ("breadth",), "same_base": False, "rows": 20}, None, ["fix_data"], ["multi_task", "merge"]),
    ({"gap": "behaviour", "prompt_holds": 0.8, "constraints": ("device",)}, LABELLED, ["sft_lora", "classifier", "quantise", "prune"], ["distil"]),
    ({"constraints": ("size", "device")}, None, ["quantise", "distil"], ["merge"]),
]


@pytest.mark.parametrize(("answers", "facts", "first", "never"), CASES)
def test_g1_table(answers: dict[str, Any], facts: Facts | None, first: list[str], never: list[str]) -> None:
    """G1 Proof: the table."""
    found = names(advise(Answers(**answers), facts))
    assert found[: len(first)] == first
    assert not set(never) & set(found)


def names(advice: Advice) -> list[str]:
    return [one.technique for one in advice.recommendations]


def test_g1_the_table_has_40_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    ("answers", "entries"),
    [
        ({"gap": "knowledge", "changing": True}, {"B3"}),
        ({"gap": "behaviour", "prompt_holds": 0.8}, {"T1", "A2"}),
        ({"gap": "steering", "rare": True}, {"B2"}),
        ({"constraints": ("size",)}, {"S1", "S5"}),
        ({"constraints": ("device",)}, {"Z2", "Z6"}),
        ({"constraints": ("breadth",), "skills": 2}, {"W4", "W6"}),
        ({"comparisons_only": True}, {"P1", "P2"}),
    ],
)
def test_g1_examples_name_their_entries(answers: dict[str, Any], entries: set[str]) -> None:
    """G1 Ex: changing catalogue -> B3; fixed JSON shape held 80 % by prompt -> SFT LoRA; rare escalation -> one prompt line; smaller at same quality -> S;
    fits a phone -> Z; several same-base skills -> W; comparisons only -> P."""
    assert entries <= set(advise(Answers(**answers)).recommendations[0].entries)


def test_g1_a_measured_gap_beats_a_stated_one() -> None:
    measured = Facts(good_rows=500, targets=500, gap="knowledge", why_gap="retrieval gains .20 over the prompt", prompt_holds=0.4)
    found = advise(Answers(gap="behaviour", prompt_holds=0.9), measured)
    assert (found.gap, found.gap_from, names(found)[0]) == ("knowledge", "measured", "rag")
    assert "gives way to the measured one" in found.notes[0]
    assert "said to hold 90%" in advise(Answers(gap="behaviour", prompt_holds=0.9), measured.model_copy(update={"gap": None})).notes[0]


@pytest.mark.parametrize(
    ("answers", "drop"),
    [
        ({"gap": "behaviour", "changing": True}, "changing"),
        ({"gap": "preference", "rare": True}, "rare"),
        ({"gap": "behaviour", "prompt_holds": 0.96, "goal": 0.9}, "gap"),
        ({"gap": "knowledge", "comparisons_only": True}, "gap"),
        ({"constraints": ("breadth",), "skills": 1}, "constraints"),
    ],
)
def test_g1_contradictory_answers_say_which_to_drop(answers: dict[str, Any], drop: str) -> None:
    """G1 Bad: and without the one that is to be dropped, the others are taken."""
    with pytest.raises(InputError) as refused:
        advise(Answers(**answers))
    assert [(problem.where, problem.fix) for problem in refused.value.problems] == [(f"answers.{drop}", f"drop {drop}")]
    with pytest.raises(InputError, match=f"drop {drop}"):
        rungs(Facts(), Answers(**answers))
    rest = {key: value for key, value in answers.items() if key != drop}
    assert advise(Answers(**rest), LABELLED).recommendations


def test_every_contradiction_at_once_and_nothing_said() -> None:
    with pytest.raises(InputError) as refused:
        advise(Answers(gap="behaviour", changing=True, rare=True))
    assert [problem.fix for problem in refused.value.problems] == ["drop changing", "drop rare"]
    with pytest.raises(InputError, match="neither a gap nor a constraint"):
        advise(Answers())


def test_what_is_withheld_is_named_with_the_reason() -> None:
    found = advise(Answers(gap="behaviour", rows=30))
    assert [(one.technique, one.why) for one in found.withheld] == [("sft_lora", "30 good rows are fewer than 50: fix the data first")]


def test_order_of_composition() -> None:
    """Tune, then merge, prune and quantise, whatever their rank."""
    found = advise(Answers(gap="behaviour", prompt_holds=0.8, constraints=("device", "size")), LABELLED)
    assert found.order == ("classifier", "sft_lora", "distil", "prune", "quantise", "quantise")
    assert found.objective == "sft"
    assert advise(Answers(gap="preference")).order == ("sft_lora", "dpo", "orpo")


ENTRIES = re.compile(r"^\*\*([A-Z]\d+) ", re.MULTILINE)


def test_every_row_is_whole() -> None:
    """Texts say something, entries look like entries, phases are known, and every condition asks for names that are known."""
    from planish.evidence.guide import _known

    known = _known(Answers(), Facts(), None)
    for rule in guide().rules:
        assert all(re.fullmatch(r"[A-Z]\d{1,2}", entry) for entry in rule.entries)
        assert rule.phase in PHASES
        assert set(rule.when) <= set(known), rule.technique
        for text in (rule.why, rule.needs, rule.not_if):
            assert len(text) > 8
            assert text.endswith(".")
        assert rule.recipe
    for row in (*guide().contradictions, *guide().rungs):
        assert set(row.when) <= set(known)
    assert {one.drop for one in guide().contradictions} <= set(Answers.model_fields)


@pytest.mark.parametrize("rule", guide().rules, ids=lambda rule: f"{rule.technique}-{rule.rank}")
def test_every_recipe_is_one(rule: Any, tmp_path: Any) -> None:
    """What a row adds to a recipe is accepted by the loader, once what it needs is on the shelves; a merge by the reader of merges."""
    if rule.command == "planish merge":
        assert read_spec(rule.recipe).method == "ties"
        return
    shelf_name, _, technique = (rule.shelf or "").partition("/")
    absent = rule.shelf is not None and technique not in shelf(shelf_name)
    path = tmp_path / "recipe.yaml"
    with path.open("w", encoding="utf-8") as out:
        YAML().dump({"recipe": 1, "model": "m", **rule.recipe, "data": {"path": "rows.jsonl", **rule.recipe.get("data", {})}}, out)
    if absent and "unknown objective" in _problems(path):
        return
    assert _problems(path) == ""


def _problems(path: Any) -> str:
    try:
        Recipe.load(path)
    except InputError as refused:
        return str(refused)
    return ""


def test_conditions() -> None:
    assert holds({"a": [1, None]}, {"a": None})
    assert not holds({"a": True}, {"a": 1})
    assert holds({"a": {"min": 2, "below": 3}}, {"a": 2})
    assert not holds({"a": {"min": 2, "below": 3}}, {"a": 3})
    assert not holds({"a": {"below": 3}}, {"a": None})
    assert holds({"a": ["x", "y"]}, {"a": ("y", "z")})
    assert not holds({"a": "x"}, {"a": ()})
    with pytest.raises(KeyError):
        holds({"rowz": 1}, {"rows": 1})


def test_g2_rungs_stand_in_order_of_cost() -> None:
    """G2: majority -> prompt -> few-shot -> RAG -> embedding classifier -> LoRA/QLoRA -> full FT; undoing costs more and more."""
    everything = Facts(good_rows=5000, task="classification", documents=True, targets=5000)
    found = rungs(everything, Answers())
    assert [rung.technique for rung in found] == ["majority", "prompt", "few_shot", "rag", "classifier", "lora", "more_lora", "full"]
    assert [rung.effort for rung in found] == sorted(rung.effort for rung in found)


@pytest.mark.parametrize(
    ("facts", "answers", "expected"),
    [
        (LABELLED, {}, ["majority", "prompt", "few_shot", "classifier", "lora", "more_lora", "full"]),
        (LABELLED.model_copy(update={"good_rows": 40}), {}, ["majority", "prompt", "few_shot", "classifier"]),
        (LABELLED.model_copy(update={"fits_lora": False, "fits_full": False}), {}, ["majority", "prompt", "few_shot", "classifier", "qlora"]),
        (Facts(good_rows=300, task="qa", documents=True), {}, ["prompt", "few_shot", "rag", "lora", "more_lora"]),
        (Facts(good_rows=300, task="qa"), {"gap": "knowledge", "changing": True}, ["prompt", "few_shot", "rag"]),
        (Facts(good_rows=300, task="chat"), {"gap": "steering", "rare": True}, ["prompt", "few_shot"]),
    ],
)
def test_rungs_follow_gap_task_and_machine(facts: Facts, answers: dict[str, Any], expected: list[str]) -> None:
    assert [rung.technique for rung in rungs(facts, Answers(**answers))] == expected
