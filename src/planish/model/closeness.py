"""How far a compressed model's predictions are from those of the model it was made from, on text that neither was chosen on (MISSION Z6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.evidence.intervals import Floats, percentile, resampled
from planish.evidence.statistic import ratio
from planish.model.backbone import backbone
from planish.model.layout import use_plain
from planish.model.lm_head import head_of
from planish.scores import Metric

ROWS = 256
"""Predictions whose logits are in memory at once."""
RESAMPLES = 2000
Logits = Callable[[Sequence[int]], Tensor]
"""A runtime of another kind: token ids -> (T, V) fp32."""


FROM_BOTH = ("kl", "top1_agreement", "perplexity", "source_perplexity")
"""What `closeness` measures."""


@torch.no_grad()
def closeness(
    source: nn.Module, other: nn.Module | Logits, sequences: Sequence[Sequence[int]], advance: Callable[[int], object] = lambda _: None
) -> dict[str, Metric]:
    """`kl`: mean KL(source || other) in nats a token; `top1_agreement`: how often both would say the same next; `perplexity` of the other and `source_perplexity`.

    Every token of every sequence is predicted from those before it; intervals are bootstrapped over sequences. Raises InputError without a sequence of two tokens.
    """
    rows = [ids for ids in sequences if len(ids) > 1]
    if not rows:
        raise InputError(Problem("closeness", "there is no text to compare on", "give validation rows"))
    sums = np.zeros((len(rows), 5))
    for place, ids in enumerate(rows):
        tokens = torch.tensor([list(ids)], device=next(source.parameters()).device)
        said = [_predictions(model, tokens[:, :-1]) for model in (source, other)]
        for first in range(0, len(ids) - 1, ROWS):
            sums[place] += _compared(said[0](first), said[1](first), tokens[0, first + 1 :])
        advance(1)
    count = sums[:, 4]
    found = {"kl": _metric("kl", sums[:, 0], count, higher=False), "top1_agreement": _metric("top1_agreement", sums[:, 1], count, higher=True)}
    for name, column in (("perplexity", 2), ("source_perplexity", 3)):
        nats = _metric(name, sums[:, column], count, higher=False)
        assert nats.low is not None
        assert nats.high is not None
        raised = {"value": float(np.exp(nats.value)), "low": float(np.exp(nats.low)), "high": float(np.exp(nats.high))}
        found[name] = nats.model_copy(update=raised)
    return found


def _predictions(model: nn.Module | Logits, tokens: Tensor) -> Callable[[int], Tensor]:
    """Of tokens (1, T): place -> (ROWS, V) logits from there on. A module's are formed for the rows asked for alone."""
    if not isinstance(model, nn.Module):
        whole = model(tokens[0].tolist()).to(tokens.device)
        return lambda first: whole[first : first + ROWS]
    use_plain(model)
    hidden, head = backbone(model)(input_ids=tokens, use_cache=False).last_hidden_state[0], head_of(model)
    return lambda first: head.logits(hidden[first : first + ROWS])


def _compared(source: Tensor, other: Tensor, target: Tensor) -> Floats:
    """Sums over rows: KL, agreements, nats of the target under the other and under the source, rows."""
    target = target[: len(source)]
    ours, theirs = source.float().log_softmax(-1), other.float().log_softmax(-1)
    kl = (ours.exp() * (ours - theirs)).sum(dtype=torch.float64)
    same = (ours.argmax(-1) == theirs.argmax(-1)).sum()
    nats = [-part.gather(1, target[:, None]).sum(dtype=torch.float64) for part in (theirs, ours)]
    return np.array([float(kl), float(same), float(nats[0]), float(nats[1]), len(source)])


def _metric(name: str, part: Floats, whole: Floats, *, higher: bool) -> Metric:
    share = ratio(part, whole)
    draws = resampled(share, len(part), resamples=RESAMPLES)
    (low, high), (lower, upper) = percentile(draws), percentile(draws, confidence=0.90)
    value = float(part.sum() / whole.sum())
    how = f"bootstrap {RESAMPLES} over {len(part)} sequences"
    return Metric(name=name, value=value, n=int(whole.sum()), low=low, high=high, lower=lower, upper=upper, method=how, higher_is_better=higher)
