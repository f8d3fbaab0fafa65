"""Task arithmetic: the base plus weighted differences of its tuned models; a negative weight unlearns (arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from planish.model.task_vectors import combine, deltas, per_model
from planish.model.tensor_stream import Buffers, Pieces, of_whole


def transform(
    base: Tensor | None, models: Sequence[Tensor], *, weight: float | list[float] | None = None, lambda_: float = 1.0, normalize: bool = False
) -> Tensor:
    """base + lambda sum w_i (theta_i - base), fp32; with `normalize` divided by the sum of the weights.

    Raises InputError without a base and where the weights are not one a model.
    """
    return next(stream(of_whole(base, list(models)), weight=weight, lambda_=lambda_, normalize=normalize)).reshape(models[0].shape)


def stream(pieces: Pieces, *, weight: float | list[float] | None = None, lambda_: float = 1.0, normalize: bool = False) -> Iterator[Tensor]:
    """The same, piece by piece."""
    weights = per_model("weight", weight, pieces.count, 1.0)
    buffers = Buffers()
    for piece in pieces:
        base, vectors = deltas(piece, buffers)
        yield base.add(combine(vectors, weights, elect=False, normalize=normalize, buffers=buffers), alpha=lambda_)
