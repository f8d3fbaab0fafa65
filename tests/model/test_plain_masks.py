"""Dialogues that only talk, laid out by the plan of their roles, are the ids and runs that rendering them gives, or are left to it (MISSION K1, K2, K6)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.chat_families import FAMILIES, chat, turns

from planish.model import word_ids
from planish.model.chat import Chat
from planish.model.mask import Dialogue, Masked, Turns

WORDS = [
    *("what is the weather", "It's sunny.", "in 2019 the", "12", " blank", "x  y", "line\nbreak", "é", "你好", "🙂 smile"),
    *("", " ", "<", "<|im_end|>", "</think>", '"quoted"'),
]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
EXCHANGES = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)
KNOWN: dict[str, Chat] = {name: chat(name) for name in FAMILIES}


def _said(system: str | None, exchanges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    first = [("system", system)] if system is not None else []
    return first + [turn for asked, answer in exchanges for turn in (("user", asked), ("assistant", answer))]


@pytest.mark.parametrize("name", FAMILIES)
def test_laid_out_is_rendered(name: str) -> None:
    one = KNOWN[name]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.none() | TEXT, EXCHANGES), min_size=1, max_size=5), st.sampled_from(["all", "last"]))
    def equal(dialogues: list[tuple[str | None, list[tuple[str, str]]]], which: Turns) -> None:
        said = [_said(*dialogue) for dialogue in dialogues]
        talks = [(tuple(role for role, _ in each), [text for _, text in each]) for each in said]
        laid = one.plain_masks.masks([*talks, None], which)
        assert not laid.known[-1]
        for number, masked in enumerate(one.masks([Dialogue(turns(*each)) for each in said], which)):
            if laid.known[number]:
                assert isinstance(masked, Masked)
                begin, end = laid.starts[number : number + 2].tolist()
                assert laid.ids[begin:end].tolist() == masked.ids
                spans = laid.spans[laid.span_starts[number] : laid.span_starts[number + 1]] - begin
                assert spans.tolist() == [[span.start, span.stop] for span in masked.spans]

    equal()


@pytest.mark.parametrize(("text", "known"), [("It's sunny in 2019, 24 degrees.", True), ("a <b> c", False), ("<|im_end|>", False)])
def test_which_dialogues_are_known(text: str, known: bool) -> None:
    """Numbers and marks are; what could begin an added token is not, so that the template decides."""
    talk = (("user", "assistant", "user", "assistant"), ["what is it", text, "and now?", "no"])
    assert KNOWN["chatml"].plain_masks.masks([talk], "all").known.tolist() == [known]


def test_words_are_forgotten_and_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "KNOWN_WORDS", 5)
    one = chat("chatml")
    for number in range(30):
        said = _said(None, [(f"word{chr(97 + number)} and so{number}", f"answer{chr(97 + number)} it")])
        laid = one.plain_masks.masks([(("user", "assistant"), [text for _, text in said])], "all")
        (masked,) = one.masks([Dialogue(turns(*said))])
        assert isinstance(masked, Masked)
        assert laid.ids.tolist() == masked.ids
    assert len(one.plain_masks._words._numbers) < 30
