"""TIES: each difference trimmed to its largest values, one sign elected a weight, the mean of those that agree added to the base (arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from planish.model.task_vectors import combine, deltas, densities, per_model, top_shares
from planish.model.tensor_stream import Buffers, Pieces, of_whole


def transform(
    base: Tensor | None,
    models: Sequence[Tensor],
    *,
    weight: float | list[float] | None = None,
    density: float | list[float] = 0.2,
    lambda_: float = 1.0,
    normalize: bool = True,
) -> Tensor:
    """base + lambda mean of the trimmed differences that have the elected sign, fp32. The top `density` is by |difference|, per tensor and exact.

    Raises InputError without a base, where weights or densities are not one a model, and for a density outside (0, 1].
    """
    return next(stream(of_whole(base, list(models)), weight=weight, density=density, lambda_=lambda_, normalize=normalize)).reshape(models[0].shape)


def stream(
    pieces: Pieces, *, weight: float | list[float] | None = None, density: float | list[float] = 0.2, lambda_: float = 1.0, normalize: bool = True
) -> Iterator[Tensor]:
    """The same, piece by piece: two passages to count magnitudes, one to merge."""
    weights = per_model("weight", weight, pieces.count, 1.0)
    shares = top_shares(pieces, densities(density, pieces.count))
    buffers, kept = Buffers(), [Buffers() for _ in shares]
    for piece in pieces:
        base, vectors = deltas(piece, buffers)
        trimmed = [vector if share.all else share.trim(vector, own) for vector, share, own in zip(vectors, shares, kept, strict=True)]
        yield base.add(combine(trimmed, weights, elect=True, normalize=normalize, buffers=buffers), alpha=lambda_)
