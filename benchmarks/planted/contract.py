"""Planted defects of rows: each reads as JSON and is no row that can be trained on."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import Ask, Case, Expected, dialogue, jsonl, planted

_CHAT = sound_rows.chat()
_LABELLED = sound_rows.labelled()
_TOOLS = sound_rows.tools()


def _row(name: str, what: str, rows: list[Any], line: int, row: Any, code: str, ask: Ask | None = None) -> Case:
    """A defect of one row among sound ones."""
    return Case(f"contract/{name}", "contract", what, "rows.jsonl", jsonl(planted(rows, {line: row})), (Expected(code, (line,)),), ask or Ask())


def _chat(name: str, what: str, line: int, row: Any, code: str) -> Case:
    return _row(name, what, _CHAT, line, row, code)


def _turns(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _label(name: str, what: str, line: int, row: Any, code: str, **ask: Any) -> Case:
    return _row(name, what, _LABELLED, line, row, code, Ask(**({"labels": sound_rows.LABELS} | ask)))


def _tool(name: str, what: str, line: int, code: str, *, call: dict[str, Any] | None = None, arguments: Any = None) -> Case:
    """A defect of the call in one of 20 dialogues with tools."""
    row = copy.deepcopy(_TOOLS[line - 1])
    function = row["messages"][1]["tool_calls"][0]["function"]
    function.update(call or {"arguments": arguments})
    return _row(name, what, _TOOLS, line, row, code)


def _orphan_result() -> dict[str, Any]:
    row = copy.deepcopy(_TOOLS[5])
    row["messages"][2]["tool_call_id"] = "call_of_another_dialogue"
    return row


def _called_by_user() -> dict[str, Any]:
    row = copy.deepcopy(_TOOLS[9])
    row["messages"][0]["tool_calls"] = row["messages"][1]["tool_calls"]
    return row


_WEIGHTLESS = copy.deepcopy(_CHAT[10])
_WEIGHTLESS["messages"][1]["weight"] = 0
_DOUBLED = copy.deepcopy(_CHAT[10])
_DOUBLED["messages"][1]["weight"] = 2
_GROUPED = [row | {"customer": f"c{number}"} for number, row in enumerate(_LABELLED)]
_ALPACA = [{"instruction": question, "input": "", "output": answer} for question, answer in sound_rows.pairs()]
_SHAREGPT = [{"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} for question, answer in sound_rows.pairs()]
_PREFERENCES = sound_rows.preferences()
_ERRAND = "Please tell me, as if I had never been outside my village, what number {} on the shopping list of a sailor might have been."
_REPEATING = {
    line: _PREFERENCES[line - 1] | {"prompt": _ERRAND.format(line), "chosen": f"{_ERRAND.format(line)} {_PREFERENCES[line - 1]['chosen']}"}
    for line in (5, 18, 33)
}
_JUDGED = sound_rows.judged()
_STEPS = sound_rows.stepwise()
_SPANS = sound_rows.spans()
_QA = [{"question": question, "context": f"From the handbook: {answer}", "answer": answer} for question, answer in sound_rows.pairs()]
_IMAGE = [{"type": "text", "text": "What is in this picture?"}, {"type": "image_url", "image_url": {"url": "cat.png"}}]


def _span(**change: Any) -> dict[str, Any]:
    row = copy.deepcopy(_SPANS[8])
    row["entities"][0].update(change)
    return row


CASES = [
    _chat("empty_reply", "the assistant's reply is empty", 6, dialogue("What is the time in Tokyo?", ""), "empty_answer"),
    _chat("blank_reply", "the assistant's reply is white space", 13, dialogue("What is the time in Tokyo?", " \n\t "), "empty_answer"),
    _chat("invisible_reply", "the assistant's reply is a zero-width space", 22, dialogue("What is the time in Tokyo?", "\u200b\u200b"), "empty_answer"),
    _chat(
        "null_reply",
        "the assistant's reply is null and calls no tool",
        28,
        dialogue("What is the time in Tokyo?") | _turns(("user", "Hi"), ("assistant", None)),
        "empty_answer",
    ),
    _chat("no_reply", "a row without an assistant's turn", 4, _turns(("user", "Is anybody there?")), "no_assistant_turn"),
    _chat("no_messages", "a row with an empty list of messages", 16, {"messages": []}, "no_assistant_turn"),
    _chat("user_last", "the last turn is the user's", 35, dialogue("Hello!", "Hi, how can I help?", "Where is my parcel?"), "role_order"),
    _chat(
        "assistant_first",
        "a dialogue begins with the assistant",
        11,
        _turns(("assistant", "Welcome!"), ("user", "Thanks."), ("assistant", "With pleasure.")),
        "role_order",
    ),
    _chat(
        "system_inside",
        "a system turn in the middle of a dialogue",
        18,
        _turns(("user", "Hello!"), ("assistant", "Hi."), ("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")),
        "role_order",
    ),
    _chat("unknown_role", 'a turn has the role "bot"', 29, _turns(("user", "Which way is north?"), ("bot", "Towards the pole star.")), "unknown_role"),
    _chat("turns_as_text", "the messages are one string", 2, {"messages": "user: hello\nassistant: hi"}, "wrong_type"),
    _chat("turn_as_text", "a message is a string", 24, {"messages": ["hello", "hi"]}, "wrong_type"),
    _chat("picture", "a turn holds a picture, which a text model would never see", 31, _turns(("user", _IMAGE), ("assistant", "A cat.")), "wrong_type"),
    _chat("number_reply", "the assistant's reply is a number", 37, _turns(("user", "What is 6 times 7?"), ("assistant", 42)), "wrong_type"),
    _chat("weight_zero", "every answer of a row has weight 0", 11, _WEIGHTLESS, "no_scored_tokens"),
    _chat("weight_two", "a weight that is neither 0 nor 1", 11, _DOUBLED, "wrong_type"),
    _label("label_unknown", "a label that was not declared: a typing error", 15, {"text": "my parcel is lost", "label": "delivry"}, "label_unknown"),
    _label("label_space", "a label with a space behind it", 42, {"text": "my parcel is lost", "label": "delivery "}, "label_unknown"),
    _label("label_missing", "a row without its label", 50, {"text": "my parcel is lost", "label": ""}, "missing_field"),
    _label("label_number", "a label that is a number", 61, {"text": "my parcel is lost", "label": 1}, "wrong_type"),
    _label("text_missing", "a labelled row without its text", 9, {"label": "delivery", "text": None}, "empty_answer"),
    _row(
        "group_missing",
        "a row without the group that splits are made by",
        _GROUPED,
        27,
        {"text": "my parcel is lost", "label": "delivery", "customer": None},
        "missing_field",
        Ask(labels=sound_rows.LABELS, group_by="customer"),
    ),
    _row("no_completion", "a prompt without its completion", sound_rows.prompts(), 20, {"prompt": "Say something.", "completion": ""}, "empty_answer"),
    _row("alpaca_empty", "an instruction with an empty output", _ALPACA, 9, {"instruction": "Name a river.", "input": "", "output": ""}, "empty_answer"),
    _row(
        "sharegpt_role",
        'a turn "from" somebody unknown',
        _SHAREGPT,
        12,
        {"conversations": [{"from": "human", "value": "Name a river."}, {"from": "moderator", "value": "The Rhine."}]},
        "unknown_role",
    ),
    _row("answer_missing", "a question answered from a document with nothing", _QA, 25, _QA[24] | {"answer": " "}, "empty_answer"),
    _row(
        "chosen_is_rejected",
        "the better and the worse answer are the same",
        _PREFERENCES,
        14,
        _PREFERENCES[13] | {"rejected": _PREFERENCES[13]["chosen"]},
        "chosen_equals_rejected",
    ),
    _row(
        "chosen_is_rejected_but_space",
        "the better and the worse answer differ in white space and case only",
        _PREFERENCES,
        19,
        _PREFERENCES[18] | {"rejected": _PREFERENCES[18]["chosen"].upper() + "  "},
        "chosen_equals_rejected",
    ),
    _row("rejected_empty", "the worse answer is empty", _PREFERENCES, 8, _PREFERENCES[7] | {"rejected": ""}, "empty_answer"),
    _row("judged_text", "a judgement that is a word, not true or false", _JUDGED, 10, _JUDGED[9] | {"label": "bad"}, "wrong_type"),
    Case(
        "contract/longer_is_better",
        "contract",
        "the better answer is the longer one in all 40 rows: a model would learn to be long",
        "rows.jsonl",
        jsonl([row | {"rejected": " ".join(row["chosen"].split()[:3])} for row in _PREFERENCES]),
        (Expected("length_bias"),),
    ),
    Case(
        "contract/prompt_in_answer",
        "contract",
        "three better answers begin by repeating a long prompt word for word",
        "rows.jsonl",
        jsonl(
            planted(
                _PREFERENCES,
                {
                    line: row | {"prompt": _ERRAND.format(line), "chosen": f"{_ERRAND.format(line)} {row['chosen']}"}
                    for line, row in ((5, _PREFERENCES[4]), (18, _PREFERENCES[17]), (33, _PREFERENCES[32]))
                },
            )
        ),
        (Expected("prompt_in_answer", (5, 18, 33)),),
        also=("length_outlier",),
    ),
    Case(
        "contract/judged_unevenly",
        "contract",
        "37 of 40 single answers are marked good",
        "rows.jsonl",
        jsonl([row | {"label": number not in (3, 17, 29)} for number, row in enumerate(_JUDGED)]),
        (Expected("class_imbalance"),),
        also=("class_rare",),
    ),
    Case(
        "contract/judged_one_class",
        "contract",
        "single answers that are all marked good: there is nothing to tell apart",
        "rows.jsonl",
        jsonl([row | {"label": True} for row in _JUDGED if row["label"]]),
        (Expected("class_imbalance"),),
        also=("class_rare",),
    ),
    _row("steps_short", "fewer marks than steps", _STEPS, 7, _STEPS[6] | {"labels": [True]}, "wrong_type"),
    _row("span_outside", "a span that ends behind the text", _SPANS, 9, _span(end=400), "span_out_of_range"),
    _row("span_backwards", "a span that ends before it begins", _SPANS, 9, _span(start=9, end=4), "span_out_of_range"),
    _row("span_negative", "a span that begins before the text", _SPANS, 9, _span(start=-3), "span_out_of_range"),
    _tool("tool_unknown", "a call of a tool that was not on offer", 4, "tool_unknown", call={"name": "get_wether"}),
    _tool("tool_argument_missing", "a call without a required argument", 11, "tool_args_invalid", arguments={"days": 2}),
    _tool("tool_argument_type", "a call with a number where text is asked for", 13, "tool_args_invalid", arguments={"town": 7}),
    _tool("tool_argument_unknown", "a call with an argument that the tool does not take", 16, "tool_args_invalid", arguments={"town": "Graz", "unit": "C"}),
    _tool("tool_arguments_broken", "a call whose arguments are broken JSON", 2, "tool_args_invalid", arguments='{"town": "Porto"'),
    _tool("tool_arguments_twice", "a call whose arguments were encoded twice", 18, "tool_args_invalid", arguments='"{\\"town\\": \\"Jena\\"}"'),
    _row("tool_call_by_user", "a call that the user makes", _TOOLS, 10, _called_by_user(), "role_order"),
    _row("tool_result_orphan", "a tool's result that belongs to no call", _TOOLS, 6, _orphan_result(), "tool_unknown"),
]
