"""Ids and trained runs of dialogues that only talk, by the plan of their roles: no rendering, and no word is looked at twice (MISSION K1, K2, K6).

What depends on the texts is asked of each dialogue: none may hold a character that begins an added token, and no token may reach over the end of a prompt. A dialogue that
this cannot vouch for is left to `mask.Masker`.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.data.plain_dialogue import Talk
from planish.model.dialogue_plan import Open, Plan, Planner
from planish.model.mask import Turns
from planish.model.outline import Place
from planish.model.template import Template
from planish.model.token_ids import TokenIds
from planish.model.word_ids import PART, WordIds, fixed, part


class Laid(NamedTuple):
    """The ids of _N dialogues one after another (_T,): number n has those from `starts[n]` to `starts[n + 1]`, none where it is not for this to say (`known`, _N).

    Its trained runs are `spans` (_P, 2), places in `ids`, from `span_starts[n]` to `span_starts[n + 1]`.
    """

    known: NDArray[np.bool_]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    spans: NDArray[np.int64]
    span_starts: NDArray[np.int64]


class _Open(NamedTuple):
    """A plan whose parts are written as `word_ids` reads them, contents left open; `heads` are what the ids of each answer begin with."""

    plan: Plan
    pieces: tuple[str | Place, ...]
    heads: tuple[str, ...]

    @staticmethod
    def of(plan: Plan) -> _Open | None:
        """None where the template itself writes what begins a part."""
        pieces, heads = list[str | Place](), list[str]()
        for number, one in enumerate(plan.parts):
            blank = " " if number else ""
            if not isinstance(one, Open):
                pieces.append(blank + fixed(one))
            elif PART in one.before + one.after:
                return None
            else:
                pieces += (blank + part(one.before), one.place, one.after)
                heads += [fixed(one.head)] if number in plan.answers else []
        return _Open(plan, tuple(pieces), tuple(heads))

    def filled(self, contents: Seq[str]) -> str:
        """The parts of a dialogue."""
        return "".join([piece if isinstance(piece, str) else piece.text(contents) if piece.steps else contents[piece.content] for piece in self.pieces])


class PlainMasks:
    """By one template and tokenizer, with the ids that end a turn and the one that begins a text."""

    def __init__(self, template: Template, tokens: TokenIds, ends: frozenset[int], bos: int | None) -> None:
        self._planner = Planner(template, tokens, ends, bos)
        added = self._planner.added
        self._able = tokens.in_parts and (ends | {bos} - {None}) <= set(added.values())
        self._risky = sorted({token[0] for token in added} | {"<", PART})
        self._opens: dict[tuple[tuple[str, ...], Turns], _Open | None] = {}
        self._words = WordIds(tokens)

    def masks(self, talks: Seq[Talk | None], turns: Turns) -> Laid:
        """The ids and runs of many dialogues."""
        self._words.make_room()
        laid, texts = list[int](), list[str]()  # the dialogues that a plan fits, and the parts of each
        begins, runs = [0], list[int]()  # where the parts of each begin, and at last end; how many runs it has
        answers, heads, sizes = list[int](), list[str](), list[int]()  # the parts that hold answers, their heads, and how many ids these have
        for index, talk in enumerate(talks if self._able else ()):
            opened = self._open(talk, turns) if talk is not None else None
            if talk is None or opened is None or self._is_risky(talk[1]) or (opened.plan.outlines and not opened.plan.holds(talk[1])):
                continue
            laid.append(index)
            texts.append(opened.filled(talk[1]))
            answers += [begins[-1] + place for place in opened.plan.answers]
            heads += opened.heads
            sizes += opened.plan.heads
            runs.append(len(opened.heads))
            begins.append(begins[-1] + len(opened.plan.parts))
        words = self._words.numbers(texts)
        at, held = self._words.parts(words), np.array(answers, np.int64)
        over = ~self._words.begins_with(words[at[held]], self._words.numbers(heads))
        if over.any():  # a token of an answer reaches over the end of its prompt
            left_out = {laid[place] for place in np.repeat(np.arange(len(laid)), runs)[over].tolist()}
            return self.masks([None if index in left_out else talk for index, talk in enumerate(talks)], turns)
        ids, edges = self._words.ids(words)
        known, starts = np.zeros(len(talks), bool), np.zeros((len(talks) + 1, 2), np.int64)
        known[laid] = True
        starts[1:][known] = np.stack([np.diff(edges[at[begins]]), np.array(runs, np.int64)], axis=1)
        np.cumsum(starts, axis=0, out=starts)
        spans = np.stack([edges[at[held]] + np.array(sizes, np.int64), edges[at[held + 2]]], axis=1)
        return Laid(known, ids, starts[:, 0], spans, starts[:, 1])

    def _is_risky(self, contents: Seq[str]) -> bool:
        """Whether some content holds a character that begins an added token, or a part."""
        said = "".join(contents)
        return any([mark in said for mark in self._risky])

    def _open(self, talk: Talk, turns: Turns) -> _Open | None:
        key = (talk[0], turns)
        if key not in self._opens:
            if len(self._opens) > 1024:
                self._opens.clear()
            plan = self._planner.made(talk, turns)
            self._opens[key] = _Open.of(plan) if plan is not None else None
        return self._opens[key]
