"""The one trace of a row is what each comparison would make of the row by itself, and is read back as it was made (MISSION D6, D9)."""

from __future__ import annotations

import gc
import hashlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planish.data import traces as module
from planish.data.normalise import normalised
from planish.data.parallel import uncollected
from planish.data.ragged import Ragged
from planish.data.shingles import Shingles, units, word_units
from planish.data.sketch import Sketched
from planish.data.table import Table, line_of
from planish.data.texts import body_text, final_answer, prompt_text
from planish.data.trace import Trace, trace, trace_of_line
from planish.data.traces import Traces, traces
from planish.rows import ChatRow, LabelRow, Message, Origin, PreferenceRow, PromptCompletionRow, QuestionRow, Row, TextRow

WORDS = [
    "what",
    "is",
    "the",
    "weather",
    "IN",
    "oslo?",
    "it's",
    "",
    "\n",
    "a\u200c",
    "\u200db",
    "Σ",
    "é",
    "e\u0301",
    "ﬁne",
    "你好",
    "🙂",
    "1,000",
    "  ",
    "word " * 9,
]
TEXT = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)
ORIGIN = Origin(file="rows.jsonl", line=1, sha256="")


def _message(role: Any, content: str) -> Message:
    return Message(role=role, content=content)


ECHO = "it's what the it's"
ROWS = st.one_of(
    st.builds(lambda text, label: LabelRow(id="r", origin=ORIGIN, text=text, label=label), TEXT, TEXT),
    st.builds(lambda text: TextRow(id="r", origin=ORIGIN, text=text), TEXT),
    st.builds(lambda prompt, answer: PromptCompletionRow(id="r", origin=ORIGIN, prompt=prompt, completion=answer), TEXT, TEXT),
    st.builds(
        lambda asked, answer, documents: QuestionRow(id="r", origin=ORIGIN, question=asked, answer=answer, documents=tuple(documents)),
        TEXT,
        TEXT,
        st.lists(TEXT),
    ),
    st.builds(
        lambda turns, answer: ChatRow(id="r", origin=ORIGIN, messages=(*(_message(*turn) for turn in turns), _message("assistant", answer))),
        st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=4),
        TEXT,
    ),
    st.builds(
        lambda *said: PreferenceRow(
            id="r", origin=ORIGIN, prompt=(_message("user", said[0]),), chosen=(_message("assistant", said[1]),), rejected=(_message("assistant", said[2]),)
        ),
        TEXT,
        TEXT,
        TEXT,
    ),
)


def _holds_answer(row: Row) -> bool:
    """Whether the words of what the user says hold those of the answer in order, five at least."""
    if not isinstance(row, ChatRow | PromptCompletionRow | QuestionRow):
        return False
    asked = "\n".join(turn.content for turn in row.messages[:-1] if turn.role == "user") if isinstance(row, ChatRow) else prompt_text(row)
    prompt, answer = ([text[at : at + 4] for at in range(0, len(text), 4)] for text in (word_units(asked), word_units(final_answer(row))))
    return len(answer) >= 5 and any(prompt[at : at + len(answer)] == answer for at in range(len(prompt)))


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_a_trace_is_what_each_text_gives_alone(row: Row) -> None:
    found, prompt, body = trace(row), prompt_text(row), body_text(row)
    assert found.asked == word_units(prompt)
    assert found.body == word_units(body)
    assert found.whole == units(body)
    assert found.sizes == (len(prompt), 0 if isinstance(row, LabelRow) else len(final_answer(row)))
    assert found.tells == _holds_answer(row)
    short = len(word_units(prompt)) < 4 * 5
    assert found.shingles == (b"" if short else units(prompt))
    assert found.prompt == (b"" if short else hashlib.sha256(normalised(prompt).encode()).digest()[:16])


@settings(max_examples=200, deadline=None)
@given(ROWS)
@example(ChatRow(id="r", origin=ORIGIN, messages=(_message("assistant", ECHO), _message("assistant", ECHO))))  # its user says nothing, so nothing of the answer
def test_the_line_of_a_row_gives_the_trace_of_the_row(row: Row) -> None:
    assert trace_of_line(line_of(row)) == trace(row)


def _rows(ragged: Ragged) -> list[bytes]:
    return [ragged.values[begin:end].tobytes() for begin, end in pairwise(ragged.starts.tolist())]


def _assert_traces(found: Traces, made: list[Trace]) -> None:
    """The columns hold these traces, row by row; texts that are likened, as signed sets."""
    assert len(found) == len(made)
    assert [bytes(each) for each in found.prompt] == [each.prompt or bytes(16) for each in made]
    assert found.tells.tolist() == [each.tells for each in made]
    assert found.sizes.tolist() == [list(each.sizes) for each in made]
    assert _rows(found.asked) == [each.asked for each in made]
    assert _rows(found.body) == [each.body for each in made]
    for sketched, texts in ((found.whole, [each.whole for each in made]), (found.near, [each.shingles for each in made])):
        alone = [Sketched.of(Shingles.of([text])) for text in texts]
        assert _rows(sketched.sets) == [each.sets.values.tobytes() for each in alone]
        assert sketched.keys.tolist() == [each.keys[0].tolist() for each in alone]
        assert sketched.sketch.tolist() == [each.sketch[0].tolist() for each in alone]


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), st.data())
def test_traces_come_back_in_the_order_of_the_table(rows: list[Row], data: st.DataObject) -> None:
    """Also those of a part of the rows in any order, before and after those of all."""
    made = [trace(row) for row in rows]
    whole = Table.of(rows)
    order = data.draw(st.permutations(range(len(rows))))
    part = Table(whole.spool, whole.at[order[: len(rows) // 2 + 1]], whole.keys)
    _assert_traces(traces(part), [made[index] for index in order[: len(rows) // 2 + 1]])
    _assert_traces(traces(whole), made)
    _assert_traces(traces(part), [made[index] for index in order[: len(rows) // 2 + 1]])


def test_rows_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Table.of([TextRow(id=str(n), origin=ORIGIN, text=f"text number {n} of several") for n in range(6)])
    first = traces(rows).body
    monkeypatch.setattr(module, "trace_of_line", lambda line: pytest.fail("traced again"))
    assert _rows(traces(rows.where([True, False] * 3)).body) == _rows(first)[::2]
    kept = len(module._KEPT)
    del rows
    gc.collect()
    assert len(module._KEPT) < kept


def test_collection_is_what_it_was_before() -> None:
    with uncollected(), uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()
