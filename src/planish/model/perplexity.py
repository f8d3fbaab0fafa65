"""Perplexity and bits per byte of a text under a model (MISSION T2): ppl = exp(mean NLL per token), comparable only between models of one tokenizer; bits per byte always."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planish.errors import InputError, Problem


@dataclass(frozen=True)
class TextLoss:
    """What a model lost on a text. nll: sum of -ln p over `tokens` scored tokens, in nats; size: UTF-8 bytes of the scored text; tokenizer: the hash of the tokenizer."""

    nll: float
    tokens: int
    size: int
    tokenizer: str

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens)."""
        return math.exp(self.nll / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """nll / (bytes ln 2)."""
        return self.nll / self.size / math.log(2)


def perplexity_ratio(one: TextLoss, other: TextLoss) -> float:
    """Perplexity of `one` over that of `other`. Raises InputError when their tokenizers differ: a token then is not the same amount of text."""
    if one.tokenizer != other.tokenizer:
        why = f"was counted over tokens of {one.tokenizer}, the other over tokens of {other.tokenizer}"
        raise InputError(Problem("perplexity", why, "compare bits per byte"))
    return one.perplexity / other.perplexity
