"""A dialogue of plain turns is stored, named and compared as the row that it is, though no row is made of it (MISSION D2, D5)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data import plain_dialogue
from planish.data.contract import judged
from planish.data.fault import Refused
from planish.data.table import keys_of, line_of
from planish.rows import ChatRow, Message, Origin, PreferenceRow, TextRow, content_hash

TEXT = st.one_of(
    st.text(max_size=30), st.lists(st.sampled_from(['"', "\\", "\n", "\x7f", "\x1f", "\x1c", "İ", "ß", "ﬁ", "é", "🙂", "\u2028", " ", "Word"])).map("".join)
)
EXTRA = st.dictionaries(
    st.sampled_from(["source", "id", "score", "tags"]), st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none())
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.just([]), TEXT.map(lambda text: [("system", text)])), st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), EXTRA, st.booleans())
def test_line_keys_and_id_are_those_of_the_row(system: list[tuple[str, str]], exchanges: list[tuple[str, str]], extra: dict[str, Any], grouped: bool) -> None:
    said = [*system, *(turn for asked, answer in exchanges for turn in (("user", asked), ("assistant", answer)))]
    value = {"messages": [{"role": role, "content": text} for role, text in said], **extra}
    try:
        made = judged(value, group_by="source" if grouped else None)
    except Refused:
        return
    assert plain_dialogue.is_plain(made.shape, made.fields)
    origin = Origin(file='a "file".jsonl', line=3, sha256="ab")
    row = made.row(origin)
    messages = made.fields["messages"]
    assert plain_dialogue.line(made.id, origin.file, origin.line, origin.sha256, made.group, made.extra, messages) == line_of(row)
    keys = keys_of(row)
    assert plain_dialogue.digests(messages, plain_dialogue.folded(messages)) == (keys.question, keys.answer)
    assert content_hash({"shape": "chat", "messages": messages}).startswith(made.id) or str(extra.get("id")) == made.id


def test_a_turn_with_more_is_not_plain() -> None:
    value = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]}
    assert not plain_dialogue.is_plain("chat", judged(value).fields)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT, st.sampled_from([None, 0.0, 1.0])), min_size=1, max_size=4),
    EXTRA,
    st.booleans(),
)
def test_what_was_said_is_read_back(said: list[tuple[Any, str, float | None]], extra: dict[str, Any], tools: bool) -> None:
    """Of a row that is anything but plain turns without a tool, nothing is; also where its other columns look like one."""
    turns = tuple(Message(role=role, content=text, weight=weight) for role, text, weight in said)
    told = extra | {"other": {"shape": "chat", "messages": [{"role": "user", "content": "a"}], "tools": []}}
    row = ChatRow(id="r", origin=Origin(file="f", line=1, sha256=""), messages=turns, tools=({"name": "t"},) if tools else (), extra=told)
    plain = not tools and all(weight is None and role != "tool" for role, _, weight in said)
    assert plain_dialogue.talk(line_of(row)) == ((tuple(role for role, _, _ in said), [text for _, text, _ in said]) if plain else None)


def test_only_a_dialogue_is_read_back() -> None:
    row = TextRow(id="r", origin=Origin(file="f", line=1, sha256=""), text='"shape":"chat","messages":[{"role":"user","content":"a"}],"tools":[]}')
    assert plain_dialogue.talk(line_of(row)) is None
    row = row.model_copy(update={"extra": {"shape": "chat", "messages": [], "tools": []}})
    assert plain_dialogue.talk(line_of(row)) is None
    said = (Message(role="user", content="a"),)
    pair = PreferenceRow(id="r", origin=row.origin, prompt=said, chosen=said, rejected=said, extra={"a": {"shape": "chat", "messages": [{"role": "user"}]}})
    assert plain_dialogue.talk(line_of(pair)) is None
