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
_STORY = "Once upon a time " + " ".join(f"the {n}th ship sailed past the old lighthouse and never came back;" for n in range(4, 12))


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
        "a row was rendered before: its text begins with the first token",
        "sound",
        "double_bos",
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
    _case("mask", "calls_dropped", "the template leaves tool calls out, so that none is learned", "drops_calls", "no_scored_tokens", _all(_TOOLS), _TOOLS),
    _case(
        "mask",
        "answers_dropped",
        "the template leaves answers out: nothing is scored",
        "drops_answer",
        "no_scored_tokens",
        _all(_CHAT),
        _CHAT,
        also=("not_a_prefix", "eos_missing"),
    ),
    _case(
        "mask",
        "prompts_dropped",
        "the template leaves questions out: every token is scored",
        "drops_user",
        "all_tokens_scored",
        _all(_CHAT),
        _CHAT,
        also=("unknown_role", "not_a_prefix"),
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
        planted(_CHAT, {line: dialogue(f"Tell me story {line}.", f"{line}. {_STORY}") for line in (3, 10, 18)}),
        max_length=320,
        also=("length_outlier", "near_duplicate"),
    ),
    _case(
        "truncation",
        "prompt_too_long",
        "a prompt alone is longer than the limit: no token of its answer would be trained",
        "sound",
        "too_long",
        (7,),
        planted(_CHAT, {7: dialogue(_STORY, "A sad story.")}),
        max_length=320,
        also=("length_outlier",),
    ),
]
