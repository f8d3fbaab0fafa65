"""Scored answers made by hand, and preference rows: what the tests of the preference objectives share."""

from __future__ import annotations

import torch

from planish.data.tree import pack
from planish.model.example import Example
from planish.model.policy import Scored, score
from planish.rows import Message, Origin, PreferenceRow, UnpairedRow

ORIGIN = Origin(file="x", line=1, sha256="")


def answers(*log_probs: tuple[float, ...], given: list[tuple[float, ...]] | None = None) -> Scored:
    """One sequence for each tuple of token log-probabilities, all of weight 1, with the numbers given."""
    flat = torch.tensor([value for tokens in log_probs for value in tokens], requires_grad=True)
    at = torch.tensor([index for index, tokens in enumerate(log_probs) for _ in tokens])
    return Scored(flat, torch.ones(len(flat)), at, len(log_probs), given=None if given is None else torch.tensor(given))


def said(*turns: tuple[str, str]) -> tuple[Message, ...]:
    """Turns of role and text."""
    return tuple(Message(role=role, content=text) for role, text in turns)  # type: ignore[arg-type]


def pair(number: int, asked: str, better: str, worse: str) -> PreferenceRow:
    """A preference row of one question."""
    return PreferenceRow(id=str(number), origin=ORIGIN, prompt=said(("user", asked)), chosen=said(("assistant", better)), rejected=said(("assistant", worse)))


def single(number: int, asked: str, answer: str, good: bool) -> UnpairedRow:
    """A single answer with its mark."""
    return UnpairedRow(id=str(number), origin=ORIGIN, prompt=said(("user", asked)), completion=said(("assistant", answer)), label=good)


PAIRS = [pair(n, f"review {n}: the sound {'is ' * n}", f"good {'good ' * (n % 3)}", f"bad {'the ' * (n % 4)}phone") for n in range(8)]


def scored(model: torch.nn.Module, examples: list[Example]) -> Scored:
    """All examples in one tree, in their order."""
    ((members, tree),) = pack([example.sequences for example in examples], 10**6)
    assert sorted(members) == list(range(len(examples)))
    return score(model, tree, "fp32")
