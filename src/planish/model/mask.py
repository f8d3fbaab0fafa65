"""Which tokens of a conversation are trained: exact runs of token ids, found from what the template renders, never by looking for text (MISSION K2).

Where an answer begins is where the prompt ends that serving would send; where it ends is the end token that closes the turn. Both are taken from renderings of the same
conversation cut short, and compared id by id with the whole: training, evaluation and serving see the same tokens, or the row is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from planish.data.tree import Sequence
from planish.model.template import Refused, Rendering, Template
from planish.model.token_ids import TokenIds
from planish.rows import Message, RejectCode

Turns = Literal["all", "last"]


class Span(NamedTuple):
    """Tokens `start` to `stop` (not included) are scored with `weight`: the answer of turn `turn` (counted from 0) and the token that ends it."""

    start: int
    stop: int
    weight: float
    turn: int


@dataclass(frozen=True)
class Masked:
    """A conversation up to its last scored token: nothing after that is ever needed. Spans are in order and do not overlap."""

    ids: list[int]
    spans: tuple[Span, ...]

    @property
    def scored(self) -> int:
        """Number of trained tokens."""
        return sum(span.stop - span.start for span in self.spans)

    @property
    def weights(self) -> list[float]:
        """One weight per token, 0 where it is not trained."""
        weights = [0.0] * len(self.ids)
        for span in self.spans:
            weights[span.start : span.stop] = [span.weight] * (span.stop - span.start)
        return weights

    def sequence(self) -> Sequence:
        """What an objective takes."""
        return Sequence(tuple(self.ids), tuple(self.weights))


class Dialogue(NamedTuple):
    """What is masked: the turns, and the tools that were on offer."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Masker:
    """The template and the tokenizer, with the ids that end a turn and the one that begins a text."""

    template: Template
    tokens: TokenIds
    ends: frozenset[int]
    bos: int | None

    def masks(self, dialogues: Seq[Dialogue], turns: Turns = "all") -> list[Masked | Refused]:
        """Each dialogue with its trained runs, or why it cannot be trained on. `last` trains the last answer alone; a turn of weight 0 is never trained.

        All renderings of a batch are made together and all their texts are tokenised together.
        """
        trained = [_trained(dialogue.messages, turns) for dialogue in dialogues]
        wanted = list(_renderings(dialogues, trained))
        texts = dict(zip([key for key, _ in wanted], self.template.render([rendering for _, rendering in wanted]), strict=True))
        written = {text for text in texts.values() if isinstance(text, str)}
        ids = dict(zip(written, self.tokens.of(list(written)), strict=True))
        found: list[Masked | Refused] = []
        for row, dialogue in enumerate(dialogues):
            try:
                found.append(self._mask(dialogue, row, trained[row], texts, ids))
            except Refused as why:
                found.append(why)
        return found

    def _mask(self, dialogue: Dialogue, row: int, trained: list[int], texts: dict[_Key, str | Refused], ids: dict[str, list[int]]) -> Masked:
        if not trained:
            raise Refused(RejectCode.NO_SCORED_TOKENS, "no token of this row would be trained")
        last = trained[-1]
        full = _written(texts[row, last + 1, False])
        _check_all_there(dialogue, last, full)
        whole, spans = ids[full], list[Span]()
        if self.bos is not None and whole[:2] == [self.bos, self.bos]:
            raise Refused(RejectCode.DOUBLE_BOS, f"the conversation begins with two begin tokens: {full[:60]!r}")
        for turn in trained:
            prompt, through = _written(texts[row, turn, True]), _written(texts[row, turn + 1, False])
            _check_prefix(prompt, full, f"the prompt of turn {turn + 1}")
            begin = len(ids[prompt])
            if whole[:begin] != ids[prompt]:
                why = f"a token reaches over the end of the prompt of turn {turn + 1} into the answer: {prompt[-20:]!r} + {full[len(prompt) : len(prompt) + 20]!r}"
                raise Refused(RejectCode.NOT_A_PREFIX, why)
            kept = through[: _shared(through, full)]
            try:
                _check_answer(dialogue.messages[turn], turn, kept[len(prompt) :])
            except Refused:
                _check_prefix(through, full, f"turn {turn + 1} where it is the last")
                raise
            stop = self._stop(dialogue.messages[turn], begin, ids[through], whole)
            if stop is None:
                _check_prefix(through, full, f"turn {turn + 1} where it is the last")
                why = f"the template writes no end token after turn {turn + 1}, so the model would never learn to stop: {through[-40:]!r}"
                raise Refused(RejectCode.EOS_MISSING, why)
            weight = dialogue.messages[turn].weight
            spans.append(Span(begin, stop, 1.0 if weight is None else float(weight), turn))
        return Masked(whole[: spans[-1].stop], tuple(spans))

    def _stop(self, message: Message, begin: int, through: list[int], whole: list[int]) -> int | None:
        """Where the answer that begins at `begin` stops: behind the end token that closes it, the same in the dialogue up to here and in the whole one; None without one.

        Of several end tokens it is the first that has the whole answer before it: what a template writes behind it (Phi 3: the end of the text) is never generated.
        """
        limit = (
            len(through) if whole[: len(through)] == through else next(at for at, (one, other) in enumerate(zip(through, whole, strict=False)) if one != other)
        )
        ends = [at + 1 for at in range(begin, limit) if through[at] in self.ends]
        if len(ends) > 1:
            said = message.content.strip()
            ends = [stop for stop in ends if said in str(self.template.tokenizer.decode(through[begin:stop]))] or ends[-1:]
        return ends[0] if ends else None


_Key = tuple[int, int, bool]
"""Row, number of turns rendered, and whether the answer's header is asked for."""


def _trained(messages: tuple[Message, ...], turns: Turns) -> list[int]:
    """Places of the turns to train."""
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return [place for place in (answers if turns == "all" else answers[-1:]) if messages[place].weight != 0]


def _renderings(dialogues: Seq[Dialogue], trained: Seq[list[int]]) -> Iterator[tuple[_Key, Rendering]]:
    """Every rendering that is needed, once: up to the last trained turn, and for each trained turn its prompt and the dialogue through it."""
    for prompt in (False, True):
        for row, (dialogue, places) in enumerate(zip(dialogues, trained, strict=True)):
            for place in places:
                turns = place if prompt else place + 1
                yield (row, turns, prompt), Rendering(dialogue.messages[:turns], dialogue.tools, prompt)


def _written(text: str | Refused) -> str:
    if isinstance(text, Refused):
        raise text
    return text


def _shared(one: str | list[int], other: str | list[int]) -> int:
    """How long the beginning is that both have."""
    if other[: len(one)] == one:
        return len(one)
    return next((at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs), min(len(one), len(other)))


def _check_prefix(part: str, full: str, what: str) -> None:
    if not full.startswith(part):
        at = _shared(part, full)
        one, other = (repr(text[max(0, at - 20) : at + 40]) for text in (part, full))
        raise Refused(RejectCode.NOT_A_PREFIX, f"the template renders {what} as {one}, but in the whole conversation as {other}")


def _check_all_there(dialogue: Dialogue, last: int, full: str) -> None:
    """Raise Refused where the template leaves out what a system, user or tool turn says, or the tools on offer."""
    for place, message in enumerate(dialogue.messages[:last]):
        if message.role != "assistant" and not _holds(full, message.content):
            why = f"the template leaves out turn {place + 1} ({message.role}: {message.content.strip()[:40]!r}); it renders {full[:60]!r}"
            raise Refused(RejectCode.UNKNOWN_ROLE, why)
    for tool in dialogue.tools:
        name = str((tool.get("function") or tool).get("name", ""))
        if name not in full:
            raise Refused(RejectCode.UNKNOWN_ROLE, f"the template leaves out the tool {name}, so the model would never be told of it")


def _check_answer(message: Message, turn: int, span: str) -> None:
    """Raise Refused where the template drops a part of a trained answer: its thoughts, its text or a call."""
    for part in message.content.split("</think>"):
        if not _holds(span, part.partition("<think>")[2] or part):
            raise Refused(RejectCode.NOT_A_PREFIX, f"the template leaves out {part.strip()[:40]!r} of answer {turn + 1}; it renders {span[:60]!r}")
    for call in message.tool_calls:
        if call.name not in span:
            raise Refused(RejectCode.UNKNOWN_ROLE, f"the template leaves out the call of {call.name} in turn {turn + 1}")


def _holds(text: str, said: str) -> bool:
    """Whether `said` stands in the rendering, as it is or as JSON text (results of tools are often written so)."""
    said = said.strip()
    return said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text
