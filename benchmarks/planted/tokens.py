"""Planted defects between rows and tokens: chat templates that lose, double or cut what is to be learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import REFUSED, Ask, Case, Expected, dialogue, jsonl, planted
from benchmarks.planted.templates import BOS, EOS

_CHAT = sound_rows.chat(20)
_TOOLS = sound_rows.tools(12)
_WITH_SYSTEM = planted(_CHAT, {line: dialogue(*sound_rows.pairs()[line - 1], system="Answer in one sentence.") for line in (4, 11)})
_THOUGHTS = planted(
    _CHAT,
    {
        6: dialogue("What is 4 + 4?", "<think>Four and four.</think>\n8", "And times two?", "<think>Twice eight.</think>\n16"),
        15: dialogue("Name a prime number.", "<think>Three is one.</think>\n3", "A larger one?", "<think>Eleven.</think>\n11"),
    },
)
_STORIES = {
    3: "The ferry to the island leaves at dawn. On deck a boy counts the gulls that follow the ship, and he gives each of them the name of an uncle he has never "
    "met. By noon he has run out of uncles. He starts with the rivers of his school atlas, and when the harbour comes into sight the smallest gull is called Danube.",
    10: "Nobody in the village could say who had built the bridge. It was there before the mill, before the church, even before the road, and it led to nothing but "
    "a field of poppies. Every year somebody proposed to pull it down for its stones; every year the poppies came into flower, and the proposal was put off.",
    18: "My grandfather mended clocks with a kitchen knife and the patience of a heron. When he died we found forty-one of them in the attic, all going, all showing "
    "a different time. We wound each one once a week until the last spring broke, and on that evening the whole house grew so quiet that the dog began to bark.",
}


def _all(rows: Sequence[Any]) -> tuple[int, ...]:
    return tuple(range(1, len(rows) + 1))


def _case(part: str, name: str, what: str, template: str, code: str, lines: Sequence[int], rows: Sequence[Any], *, why: str = "", **more: Any) -> Case:
    """Rows that are sound by themselves, and a template (or a length) that spoils them."""
    also = more.pop("also", ())
    return Case(f"{part}/{name}", part, what, "rows.jsonl", jsonl(rows), (Expected(code, tuple(lines), why),), Ask(template=template, **more), also)


CASES = [
    _case("template", "none", "the tokenizer has no chat template", "none", REFUSED, (), _CHAT, why="template"),
    _case("template", "broken", "the chat template is broken Jinja", "broken", REFUSED, (), _CHAT, why="template"),
    _case("template", "bos_twice", "the template writes the first token twice", "bos_twice", "double_bos", _all(_CHAT), _CHAT),
    _case(
        "template",
        "bos_in_row",
        "a row was rendered before: a turn begins with the first token of all",
        "sound",
        "special_token",
        (9,),
        planted(_CHAT, {9: dialogue("Hello there, who are you?", "I am a helper.", system=BOS + "Be kind.")}),
    ),
    _case("template", "no_end", "no turn ends with the end token: the model would never stop", "no_end", "eos_missing", _all(_CHAT), _CHAT),
    _case(
        "template",
        "end_before_user_only",
        "only turns that another one follows end with the end token",
        "end_before_user_only",
        "eos_missing",
        _all(_CHAT),
        _CHAT,
    ),
    _case(
        "template",
        "forgets_thoughts",
        "thoughts are cut from earlier turns, so that what was learned is never asked",
        "forgets_thoughts",
        "not_a_prefix",
        (6, 15),
        _THOUGHTS,
    ),
    _case("template", "other_header", "the prompt at inference ends with another header than in training", "other_header", "not_a_prefix", _all(_CHAT), _CHAT),
    _case("template", "system_refused", "the template refuses system turns", "no_system", "unknown_role", (4, 11), _WITH_SYSTEM),
    _case("template", "system_dropped", "the template leaves system turns out without a word", "drops_system", "unknown_role", (4, 11), _WITH_SYSTEM),
    _case("template", "tool_refused", "the template refuses tool results", "no_tool", "unknown_role", _all(_TOOLS), _TOOLS),
    _case("template", "tool_dropped", "the template leaves tool results out without a word", "drops_tool", "unknown_role", _all(_TOOLS), _TOOLS),
    _case(
        "mask",
        "calls_dropped",
        "the template leaves tool calls out, so that none is learned",
        "drops_calls",
        "unknown_role",
        _all(_TOOLS),
        _TOOLS,
        why="tool calls",
    ),
    _case(
        "mask",
        "answers_dropped",
        "the template leaves answers out: what is asked is no part of what is trained",
        "drops_answer",
        "not_a_prefix",
        _all(_CHAT),
        _CHAT,
    ),
    _case(
        "mask", "answers_emptied", "the template writes the answer's header and end, and forgets its text", "empties_answer", "unknown_role", _all(_CHAT), _CHAT
    ),
    _case(
        "mask", "prompts_dropped", "the template leaves questions out, so that every token would be scored", "drops_user", "unknown_role", _all(_CHAT), _CHAT
    ),
    _case(
        "mask",
        "end_in_text",
        "the end token stands inside an answer: the model would learn to stop there",
        "sound",
        "special_token",
        (13,),
        planted(_CHAT, {13: dialogue("How do you finish?", f"I finish here.{EOS}And then I go on.")}),
    ),
    _case(
        "truncation",
        "answer_cut",
        "three answers would be cut at this length",
        "sound",
        "answer_truncated",
        (3, 10, 18),
        planted(_CHAT, {line: dialogue(f"Tell me story {line}.", story) for line, story in _STORIES.items()}),
        max_length=200,
        also=("length_outlier", "near_duplicate"),
    ),
    _case(
        "truncation",
        "prompt_too_long",
        "a prompt alone is longer than the limit: no token of its answer would be trained",
        "sound",
        "too_long",
        (7,),
        planted(_CHAT, {7: dialogue(_STORIES[10], "A quiet story.")}),
        max_length=200,
        also=("length_outlier",),
    ),
]
