"""Perplexity and bits per byte from log-probabilities (MISSION T2)."""

from __future__ import annotations

import math
import random

import pytest

from planish.errors import InputError
from planish.evidence.paired import compare
from planish.rows import Message, Sample
from planish.scorers.perplexity import metrics, score
from planish.scores import EvalReport, Score


def _sample(target: str = "abcd", number: int = 0) -> Sample:
    return Sample(id=f"r{number}", messages=(Message(role="user", content="x"),), target=target)


def test_t2_named_example() -> None:
    """T2 Ex: p = .5, .25, .125: mean nll (1 + 2 + 3)/3 ln 2 = ln 4 = 1.3863, perplexity 4.0. Over 4 bytes: 6 bits / 4 = 1.5 bits per byte."""
    found = metrics([score(_sample(), [math.log(0.5), math.log(0.25), math.log(0.125)])], (), resamples=5)
    assert math.log(found["perplexity"].value) == pytest.approx(1.3863, abs=5e-5)
    assert (found["perplexity"].value, found["bits_per_byte"].value) == pytest.approx((4.0, 1.5))
    assert metrics([score(_sample(), [math.log(0.01)])], (), resamples=5)["perplexity"].value == pytest.approx(math.exp(4.605), rel=1e-3)


def test_t2_agrees_with_torch() -> None:
    """T2: 1,000 rows of random logits: exp of torch's cross_entropy over all tokens of the set, prompt positions ignored."""
    import torch

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1_000, 6, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (1_000, 6), generator=generator)
    labels[:, 0] = -100
    labels[torch.rand(1_000, generator=generator) < 0.3, 1:3] = -100
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).item()
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    scores = [score(_sample(number=n), [chosen[n, t].item() for t in range(6) if labels[n, t] != -100]) for n in range(1_000)]
    found = metrics(scores, (), resamples=20)
    assert found["perplexity"].value == pytest.approx(math.exp(loss), rel=1e-9)
    assert found["perplexity"].low < found["perplexity"].value < found["perplexity"].high  # type: ignore[operator]
    assert not found["perplexity"].higher_is_better


def _report(system: str, scores: list[Score]) -> EvalReport:
    return EvalReport(system=system, gold="g", metrics={f"perplexity.{name}": one for name, one in metrics(scores, (), resamples=20).items()}, scores=scores)


def test_t2_perplexity_across_tokenizers_is_refused() -> None:
    """T2 Bad: perplexity across different tokenizers is an error; bits per byte compares them."""
    draw = random.Random(0)
    fine = _report("fine", [score(_sample(number=n), [-draw.random() for _ in range(4)]) for n in range(30)])
    coarse = _report("coarse", [score(_sample(number=n), [-2 * draw.random() for _ in range(2)]) for n in range(30)])
    with pytest.raises(InputError, match="compare bits_per_byte"):
        compare(fine, coarse, "perplexity.perplexity", resamples=20)
    expected = fine.metrics["perplexity.bits_per_byte"].value - coarse.metrics["perplexity.bits_per_byte"].value
    assert compare(fine, coarse, "perplexity.bits_per_byte", resamples=20).difference == pytest.approx(expected)
    assert compare(fine, fine, "perplexity.perplexity", resamples=20).difference == 0


def test_refusals() -> None:
    for wrong in (None, [], [0.1], [float("nan")], [-math.inf]):
        with pytest.raises(InputError, match="r0: "):
            score(_sample(), wrong)
    with pytest.raises(InputError, match="not an answer"):
        score(_sample(), "abcd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="r0: its reference is empty"):
        metrics([score(_sample(""), [-1.0])], ())
