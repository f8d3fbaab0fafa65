"""Preference rows as token sequences: a better and a worse continuation of one prompt, which the prefix tree computes once (MISSION P2, P3)."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch
from torch import Tensor

from planish.data.tree import Sequence
from planish.model.chat import Chat, Refused, Tools
from planish.model.example import Example
from planish.model.mask import Dialogue
from planish.model.relation import Relation, related
from planish.rows import Message, PreferenceRow, RejectCode

Reference = Callable[[Seq[Sequence]], list[float]]
"""Weighted log-probability of each sequence under the model that training starts from (planish.model.reference)."""


def pair(row: PreferenceRow, chat: Chat) -> Example:
    """The chosen sequence, then the rejected one; only the continuations are scored, also where the prompt holds earlier answers. Its share of the step is 1.

    Raises planish.model.chat.Refused, with `chosen_equals_rejected` where the template writes both alike.
    """
    chosen, rejected = continuations(row.prompt, (row.chosen, row.rejected), chat, row.tools)
    if chosen == rejected:
        raise Refused(RejectCode.CHOSEN_EQUALS_REJECTED, "both answers are the same tokens once the template has written them")
    return Example((chosen, rejected), 1.0)


def continuations(prompt: tuple[Message, ...], answers: Seq[tuple[Message, ...]], chat: Chat, tools: Tools = ()) -> list[Sequence]:
    """One sequence for each continuation of the prompt. Raises planish.model.chat.Refused."""
    read = tuple(turn.model_copy(update={"weight": 0.0}) if turn.role == "assistant" else turn for turn in prompt)
    found = []
    for masked in chat.masks([Dialogue((*read, *answer), tools) for answer in answers]):
        if isinstance(masked, Refused):
            raise masked
        found.append(masked.sequence())
    return found


def with_reference(examples: Seq[Example], reference: Reference) -> list[Example]:
    """The same examples, each sequence with its reference log-probability as the first number it was given."""
    values = iter(reference([sequence for example in examples for sequence in example.sequences]))
    return [Example(tuple(replace(sequence, given=(next(values), *sequence.given)) for sequence in example.sequences), example.share) for example in examples]


def sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values of all sequences (2N, ...) as those of the chosen and of the rejected ones: (N, ...) each."""
    return values[0::2], values[1::2]


def with_length(reward: Tensor, lengths: Tensor) -> dict[str, Relation]:
    """How the reward of the chosen and of the rejected answers (2N,) goes with their lengths (2N,)."""
    parts = zip(("chosen", "rejected"), sides(reward), sides(lengths), strict=True)
    return {f"{side}_length_correlation": related(paid, length) for side, paid, length in parts}


def summed(figures: dict[str, Tensor]) -> dict[str, float]:
    """The sum of each figure over the micro-batch, in one transfer from the device."""
    totals = torch.stack([figure.detach().float().sum() for figure in figures.values()]).tolist()
    return dict(zip(figures, totals, strict=True))
