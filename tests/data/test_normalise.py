"""When two rows count as the same (MISSION D5)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data.damage import ZERO_WIDTH
from planish.data.normalise import normalised, question_key
from planish.data.table import keys_of
from planish.rows import ChatRow, LabelRow, Message, Origin, PromptCompletionRow, Row, TextRow

WHERE = Origin(file="f", line=1, sha256="")


@pytest.mark.parametrize(
    ("text", "same"), [("  A\t b\n", "a b"), ("ﬁne", "fine"), ("Ｆull", "full"), ("a\u00a0b", "a b"), ("É", "é"), ("e\u0301", "é"), ("", "")]
)
def test_d5_normalisation(text: str, same: str) -> None:
    assert normalised(text) == same
    assert normalised(normalised(text)) == normalised(text)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=12), st.lists(st.sampled_from("aB. \t\n\x0b\x1c\x1f\x7f\x00é\u200bİ\u3000"), max_size=6).map("".join)))
def test_d5_every_text_is_normalised_by_the_definition(text: str) -> None:
    """Also one that is taken as it stands, because it holds single blanks and nothing else between its words."""
    assert normalised(text) == " ".join(unicodedata.normalize("NFKC", ZERO_WIDTH.sub("", text)).lower().split())


def _chat(*contents: str) -> ChatRow:
    roles = ("user", "assistant")
    return ChatRow(id="c", origin=WHERE, messages=tuple(Message(role=roles[n % 2], content=content) for n, content in enumerate(contents)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other", "same_row", "same_input"),
    [
        (LabelRow(id="1", origin=WHERE, text="A b", label="x"), LabelRow(id="2", origin=WHERE, text="a  B", label="x"), True, True),
        (LabelRow(id="1", origin=WHERE, text="a", label="x"), LabelRow(id="2", origin=WHERE, text="a", label="y"), False, True),
        (LabelRow(id="1", origin=WHERE, text="a", label="b c"), LabelRow(id="2", origin=WHERE, text="a b", label="c"), False, False),
        (
            PromptCompletionRow(id="1", origin=WHERE, prompt="p", completion="c"),
            PromptCompletionRow(id="1", origin=WHERE, prompt="P", completion="d"),
            False,
            True,
        ),
        (_chat("a", "b"), _chat("A", "B"), True, True),
        (_chat("a", "b"), _chat("a", "c"), False, True),
        (_chat("a", "b", "c", "d"), _chat("a", "b"), False, False),
        (TextRow(id="1", origin=WHERE, text="a"), TextRow(id="2", origin=WHERE, text=" A "), True, True),
        (TextRow(id="1", origin=WHERE, text="a"), LabelRow(id="2", origin=WHERE, text="a", label="x"), False, False),
    ],
)
def test_d5_keys(one: Row, other: Row, same_row: bool, same_input: bool) -> None:
    assert (keys_of(one).duplicate == keys_of(other).duplicate) is same_row
    assert (question_key(one) == question_key(other)) is same_input
