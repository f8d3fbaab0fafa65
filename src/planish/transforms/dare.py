"""DARE: differences dropped at random and the rest scaled up to the same mean, then added, or elected by sign as TIES does (arXiv 2311.03099)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from planish.model.task_vectors import combine, deltas, densities, per_model
from planish.model.tensor_stream import Pieces, of_whole


def transform(
    base: Tensor | None,
    models: Sequence[Tensor],
    *,
    weight: float | list[float] | None = None,
    density: float | list[float] = 0.5,
    lambda_: float = 1.0,
    ties: bool = False,
    normalize: bool = False,
    seed: int = 0,
) -> Tensor:
    """base + lambda sum w_i mask_i (theta_i - base) / density, fp32; a value is dropped with probability p = 1 - density. With `ties` signs are elected first.

    Raises InputError without a base, where weights or densities are not one a model, and for a density outside (0, 1].
    """
    pieces = of_whole(base, list(models))
    return next(stream(pieces, weight=weight, density=density, lambda_=lambda_, ties=ties, normalize=normalize, seed=seed)).reshape(models[0].shape)


def stream(
    pieces: Pieces,
    *,
    weight: float | list[float] | None = None,
    density: float | list[float] = 0.5,
    lambda_: float = 1.0,
    ties: bool = False,
    normalize: bool = False,
    seed: int = 0,
) -> Iterator[Tensor]:
    """The same, piece by piece; the drawn values do not depend on the size of the pieces."""
    weights, shares = per_model("weight", weight, pieces.count, 1.0), densities(density, pieces.count)
    draws = [generator(seed, pieces.name, index) for index in range(pieces.count)]
    for piece in pieces:
        base, vectors = deltas(piece)
        kept = [vector if share == 1 else drop(vector, share, draw) for vector, share, draw in zip(vectors, shares, draws, strict=True)]
        yield base.add(combine(kept, weights, elect=ties, normalize=normalize), alpha=lambda_)


def generator(seed: int, name: str, index: int) -> torch.Generator:
    """The random numbers of one tensor of one model: nothing else moves them."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def drop(vector: Tensor, density: float, draw: torch.Generator) -> Tensor:
    """Each value kept with probability `density` and divided by it, else 0."""
    keep = torch.rand(vector.shape, generator=draw) < density
    return (vector / density).mul_(keep)
