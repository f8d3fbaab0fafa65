"""Soup: the weighted mean of models of one base, uniform unless weights are given (arXiv 2203.05482); also known as linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.task_vectors import per_model
from planish.model.tensor_stream import Pieces, of_whole


def transform(base: Tensor | None, models: Sequence[Tensor], *, weight: float | list[float] | None = None, normalize: bool = True) -> Tensor:
    """sum w_i theta_i / sum w_i of tensors of one shape, fp32; the base takes no part. Without `normalize` the plain sum.

    Raises InputError where the weights are not one a model, or sum to 0 and are to be normalised.
    """
    return next(stream(of_whole(base, list(models)), weight=weight, normalize=normalize)).reshape(models[0].shape)


def stream(pieces: Pieces, *, weight: float | list[float] | None = None, normalize: bool = True) -> Iterator[Tensor]:
    """The same, piece by piece."""
    weights = per_model("weight", weight, pieces.count, 1.0)
    total = sum(weights)
    if normalize and total == 0:
        raise InputError(Problem("weight", f"{weights} sum to 0", "give weights with a sum, or normalize: false"))
    shares = [share / total for share in weights] if normalize else weights
    for piece in pieces:
        out = piece.models[0] * shares[0]
        for model, share in zip(piece.models[1:], shares[1:], strict=True):
            out.add_(model, alpha=share)
        yield out


def greedy(count: int, score: Callable[[Sequence[int]], float]) -> list[int]:
    """Which of `count` models make the soup: in order of their own validation score, each kept only if the soup's score improves.

    `score` merges the models of these indices and scores the soup on validation rows, never on the gold set. Source: arXiv 2203.05482, recipe 1.
    """
    alone = [score([index]) for index in range(count)]
    order = sorted(range(count), key=lambda index: -alone[index])
    kept, best = order[:1], alone[order[0]]
    for index in order[1:]:
        if (reached := score([*kept, index])) > best:
            kept, best = [*kept, index], reached
    return kept
