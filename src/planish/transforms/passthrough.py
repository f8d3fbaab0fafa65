"""Passthrough: the tensors of one model as they are, for stacking or leaving out layers of one or several models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.tensor_stream import Pieces, of_whole


def transform(base: Tensor | None, models: Sequence[Tensor], *, scale: float = 1.0) -> Tensor:
    """The one model's tensor times `scale`, fp32. Raises InputError for any other number of models."""
    return next(stream(of_whole(base, list(models)), scale=scale)).reshape(models[0].shape)


def stream(pieces: Pieces, *, scale: float = 1.0) -> Iterator[Tensor]:
    """The same, piece by piece."""
    if pieces.count != 1:
        raise InputError(Problem("models", f"passthrough takes each layer from one model, not from {pieces.count}", "give every slice one source"))
    for piece in pieces:
        yield piece.models[0] if scale == 1 else piece.models[0] * scale
