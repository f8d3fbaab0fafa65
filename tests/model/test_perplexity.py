"""Perplexity and bits per byte by hand."""

from __future__ import annotations

import math

import pytest

from planish.errors import InputError
from planish.model.perplexity import TextLoss, perplexity_ratio


def test_t2_perplexity() -> None:
    """MISSION T2: p = .5, .25, .125: NLL = ln 2 + ln 4 + ln 8 = 6 ln 2; mean 2 ln 2 = ln 4 = 1.3863, ppl 4.0. Over 3 bytes that is 6 bits / 3 = 2 bits per byte."""
    loss = TextLoss(-sum(math.log(p) for p in (0.5, 0.25, 0.125)), 3, 3, "a")
    assert loss.nll / loss.tokens == pytest.approx(1.3863, abs=5e-5)
    assert loss.perplexity == pytest.approx(4.0)
    assert loss.bits_per_byte == pytest.approx(2.0)


def test_t2_different_tokenizers() -> None:
    """One text of 12 bytes at 12 bits: 3 tokens of one tokenizer give ppl 16, 6 of another give 4, though both know it equally well. Bits per byte say so; a ratio is refused."""
    coarse, fine = TextLoss(12 * math.log(2), 3, 12, "a"), TextLoss(12 * math.log(2), 6, 12, "b")
    assert (coarse.perplexity, fine.perplexity) == (pytest.approx(16), pytest.approx(4))
    assert coarse.bits_per_byte == fine.bits_per_byte == pytest.approx(1)
    with pytest.raises(InputError, match="bits per byte"):
        perplexity_ratio(coarse, fine)
    assert perplexity_ratio(coarse, TextLoss(9 * math.log(2), 3, 12, "a")) == pytest.approx(2)
