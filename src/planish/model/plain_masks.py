"""Ids and trained runs of dialogues that only talk, by the plan of their roles: no rendering, and no word is looked at twice (MISSION K1, K2, K6).

What depends on the texts is asked of each dialogue: none may hold a character that begins an added token, and no token may reach over the end of a prompt. A dialogue that
this cannot vouch for is left to `mask.Masker`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planish.model.dialogue_plan import Open, Plan, Planner, Talk
from planish.model.mask import Turns
from planish.model.template import Template
from planish.model.token_ids import BEFORE_WORD, TokenIds
from planish.model.word_ids import Uncut, WordIds


class Laid(NamedTuple):
    """The ids of _N dialogues one after another (_T,): number n has those from `starts[n]` to `starts[n + 1]`, none where it is not for this to say (`known`, _N).

    Its trained runs are `spans` (_P, 2), places in `ids`, from `span_starts[n]` to `span_starts[n + 1]`.
    """

    known: NDArray[np.bool_]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    spans: NDArray[np.int64]
    span_starts: NDArray[np.int64]


class PlainMasks:
    """By one template and tokenizer, with the ids that end a turn and the one that begins a text."""

    def __init__(self, template: Template, tokens: TokenIds, ends: frozenset[int], bos: int | None) -> None:
        self._planner = Planner(template, tokens, ends, bos)
        added = self._planner.added
        self._able = tokens.in_parts and (ends | {bos} - {None}) <= set(added.values())
        self._risky = re.compile("[" + re.escape("".join(sorted({token[0] for token in added} | {"<"}))) + "]")
        self._plans: dict[tuple[tuple[str, ...], Turns], Plan | None] = {}
        self._words = WordIds(tokens)

    def masks(self, talks: Seq[Talk | None], turns: Turns) -> Laid:
        """The ids and runs of many dialogues."""
        self._words.make_room()
        known, sizes = np.zeros(len(talks), bool), np.zeros((len(talks), 2), np.int64)  # of each dialogue its words and its runs
        words, places = array("q"), array("q")  # the words of all dialogues, and where the parts of each begin among them
        answers, heads = array("q"), array("q")  # the parts that hold answers, and how many of their ids belong to the prompt
        for index, talk in enumerate(talks if self._able else ()):
            plan = self._plan(talk, turns) if talk is not None else None
            if talk is None or plan is None or any(map(self._risky.search, talk[1])) or (plan.outlines and not plan.holds(talk[1])):
                continue
            before, first = len(words), len(places)
            if self._lay(plan, talk[1], words, places):
                known[index], sizes[index] = True, (len(words) - before, len(plan.answers))
                answers.extend([first + part for part in plan.answers])
                heads.extend(plan.heads)
            else:
                del words[before:], places[first:]
        ids, edges = self._words.ids(words)
        at, parts = np.array(places, np.int64), np.array(answers, np.int64)
        at = np.append(at, len(words))
        spans = np.stack([edges[at[parts]] + np.array(heads, np.int64), edges[at[parts + 2]]], axis=1)
        begins = np.zeros((len(talks) + 1, 2), np.int64)
        np.cumsum(sizes, axis=0, out=begins[1:])
        return Laid(known, ids, edges[begins[:, 0]], spans, begins[:, 1])

    def _lay(self, plan: Plan, contents: Seq[str], words: array[int], places: array[int]) -> bool:
        """Add the words of a dialogue; False where a token may reach over the end of a prompt."""
        for part in plan.parts:
            places.append(len(words))
            if not isinstance(part, Open):
                words.append(self._words.fixed[part])
                continue
            before, place, after, head = part
            said = place.text(contents) if place.steps else contents[place.content]
            begin, *rest = f"{before}{said}{after}".split(" ")
            at = len(words)
            words.append(self._words.begins[begin])
            try:
                words.extend(map(self._words.behind.__getitem__, rest))
            except Uncut:
                del words[at:]
                begin, *rest = BEFORE_WORD.split(f"{before}{said}{after}")
                words.append(self._words.begins[begin])
                words.extend(map(self._words.behind.__getitem__, rest))
            if head and self._words.head(words[at], len(head)) != head:
                return False
        return True

    def _plan(self, talk: Talk, turns: Turns) -> Plan | None:
        key = (talk[0], turns)
        if key not in self._plans:
            if len(self._plans) > 1024:
                self._plans.clear()
            self._plans[key] = self._planner.made(talk, turns)
        return self._plans[key]
