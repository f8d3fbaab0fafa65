"""What every dialogue of some roles is as token ids, its contents left open: read off the template's outlines once (MISSION K1, K2).

What `mask.Masker` finds out of one dialogue by rendering it whole and cut short, holds for every dialogue of the same roles where the outlines say so: the prompt is a
beginning of the whole, the answer stands behind it, and one end token closes it. Where they do not say so there is no plan, and each dialogue is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

from planish.data.plain_dialogue import Talk
from planish.model.mask import Turns
from planish.model.outline import Outline, Place
from planish.model.template import Template
from planish.model.token_ids import BEFORE_WORD, TokenIds

_STRIPPED = frozenset({(), (("strip", ()),), (("lstrip", ()),), (("rstrip", ()),)})


class _Added(NamedTuple):
    """An added token."""

    id: int


class _Said(NamedTuple):
    """The text between two added tokens: fixed, or with one content in it."""

    before: str
    place: Place | None
    after: str


_Item = _Added | _Said


class _Span(NamedTuple):
    """An answer: the item that holds it, and those of its ids that belong to the prompt. The end token is the next item."""

    item: int
    head: tuple[int, ...]


class Open(NamedTuple):
    """Where a content stands in a plan, and its first ids where it is an answer: those of the prompt."""

    before: str
    place: Place
    after: str
    head: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A dialogue of some roles up to its last end token, as ids and open places; it holds for contents that answer as the outlines were told.

    Part `answers[k]` holds an answer and is followed by its end token; `heads[k]` of its ids belong to the prompt.
    """

    parts: tuple[tuple[int, ...] | Open, ...]
    answers: tuple[int, ...]
    heads: tuple[int, ...]
    outlines: tuple[tuple[int, Outline], ...]  # with the number of turns of each; those that ask something

    def holds(self, contents: Seq[str]) -> bool:
        """Whether the template goes this way."""
        return all(outline.agrees(contents[:turns]) for turns, outline in self.outlines)


class Planner:
    """Makes plans for one template and tokenizer, with the ids that end a turn and the one that begins a text; `added` are the added tokens."""

    def __init__(self, template: Template, tokens: TokenIds, ends: frozenset[int], bos: int | None) -> None:
        self._template, self._tokens, self._ends, self._bos = template, tokens, ends, bos
        self.added = {token: int(id) for token, id in template.tokenizer.get_added_vocab().items()}

    def made(self, talk: Talk, turns: Turns) -> Plan | None:
        """The plan of a dialogue's roles, as its contents let the template go; None where the outlines do not say enough."""
        roles, contents = talk
        answers = [place for place, role in enumerate(roles) if role == "assistant"]
        trained = answers if turns == "all" else answers[-1:]
        if not trained:
            return None
        last, asking, spans = trained[-1], list[tuple[int, Outline]](), list[_Span]()

        def laid(count: int, prompt: bool) -> list[_Item] | None:
            outline = self._template.outline(roles[:count], contents[:count], prompt)
            if outline is not None and outline.answers:
                asking.append((count, outline))
            return None if outline is None else self._items(outline)

        whole = laid(last + 1, False)
        if whole is None or (self._bos is not None and whole[:2] == [_Added(self._bos)] * 2):
            return None
        written = {item.place.content for item in whole if isinstance(item, _Said) and item.place is not None}
        if any(role != "assistant" and place not in written for place, role in enumerate(roles[:last])):
            return None
        for turn in trained:
            prompt, through = laid(turn, True), laid(turn + 1, False)
            span = None if prompt is None or through is None else self._span(turn, prompt, through, whole)
            if span is None:
                return None
            spans.append(span)
        return self._plan_of(whole[: spans[-1].item + 2], spans, asking)

    def _plan_of(self, items: list[_Item], spans: list[_Span], asking: list[tuple[int, Outline]]) -> Plan:
        """The plan with everything fixed as ids. What stands between two places is one part, but an end token is a part of its own."""
        heads, parts, answers = {span.item: span.head for span in spans}, list[tuple[int, ...] | Open](), list[int]()
        closed = True
        for number, item in enumerate(items):
            if isinstance(item, _Said) and item.place is not None:
                if number in heads:
                    answers.append(len(parts))
                parts.append(Open(item.before, item.place, item.after, heads.get(number, ())))
                closed = True
                continue
            ids = (item.id,) if isinstance(item, _Added) else tuple(self._tokens.of([item.before])[0])
            if closed or type(parts[-1]) is Open:
                parts.append(ids)
            else:
                parts[-1] = (*parts[-1], *ids)
            closed = number - 1 in heads
        return Plan(tuple(parts), tuple(answers), tuple(len(span.head) for span in spans), tuple(asking))

    def _items(self, outline: Outline) -> list[_Item] | None:
        """The outline cut at added tokens; None where two contents, or one that is changed, stand between two of them."""
        items, run = list[_Item](), list[str | Place]()
        for piece in (*outline.pieces, None):
            parts = self._tokens.at_added(piece) if isinstance(piece, str) else [piece]
            for part in parts:
                if part is None or (isinstance(part, str) and part in self.added):
                    said = self._said(run)
                    if said is None:
                        return None
                    items += [said] if said != _Said("", None, "") else []
                    items += [_Added(self.added[part])] if part is not None else []
                    run = []
                else:
                    run.append(part)
        return items

    def _said(self, run: Seq[str | Place]) -> _Said | None:
        places = [number for number, part in enumerate(run) if isinstance(part, Place)]
        if not places:
            return _Said("".join(map(str, run)), None, "")
        place = run[places[0]]
        assert isinstance(place, Place)
        before, after = ("".join(map(str, part)) for part in (run[: places[0]], run[places[0] + 1 :]))
        if len(places) > 1 or place.steps not in _STRIPPED or any(before.endswith(token[:size]) for token in self.added for size in range(1, len(token))):
            return None
        return _Said(before, place, after)

    def _span(self, turn: int, prompt: list[_Item], through: list[_Item], whole: list[_Item]) -> _Span | None:
        """Where the answer of a turn stands; None where the whole does not begin with the prompt, or no end token, or more than one, closes the answer."""
        head = ""
        if prompt and isinstance(prompt[-1], _Said):
            ending, prompt = prompt[-1], prompt[:-1]
            assert isinstance(ending, _Said)
            if ending.place is not None:
                return None
            head = ending.before
        at = len(prompt)
        if whole[:at] != prompt or len(whole) < at + 2 or through[: at + 2] != whole[: at + 2]:
            return None
        answer, closing = whole[at], whole[at + 1]
        if not isinstance(answer, _Said) or answer.place is None or answer.place.content != turn or not answer.before.startswith(head):
            return None
        if not isinstance(closing, _Added) or closing.id not in self._ends or BEFORE_WORD.search(head):
            return None
        if any(item.place is not None if isinstance(item, _Said) else item.id in self._ends for item in through[at + 2 :]):
            return None
        return _Span(at, tuple(self._tokens.of([head])[0]))
