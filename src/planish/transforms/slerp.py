"""SLERP: two models blended along the arc between them, tensor by tensor, so that the length of the weights does not shrink half-way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.tensor_stream import Pieces, of_whole

LINEAR = 0.9995
"""Above this |cosine| the arc is a line, and sin O would divide by next to nothing."""
EMPTY = 1e-8


def transform(base: Tensor | None, models: Sequence[Tensor], *, t: float = 0.5) -> Tensor:
    """[sin((1-t) O) a + sin(t O) b] / sin O, O the angle between the whole tensors; t 0 is the first model, 1 the second. The base takes no part.

    Raises InputError for any number of models but two, and for t outside [0, 1].
    """
    return next(stream(of_whole(base, list(models)), t=t)).reshape(models[0].shape)


def stream(pieces: Pieces, *, t: float = 0.5) -> Iterator[Tensor]:
    """The same, piece by piece: one passage for the angle, one for the blend."""
    if pieces.count != 2:
        raise InputError(Problem("models", f"slerp blends two models, not {pieces.count}", "use soup for more"))
    if not 0 <= t <= 1:
        raise InputError(Problem("t", f"{t} is outside 0 to 1", "0 is the first model, 1 the second"))
    dot = first = second = 0.0
    for piece in pieces:
        a, b = (model.double() for model in piece.models)
        dot, first, second = dot + float(a @ b), first + float(a @ a), second + float(b @ b)
    lengths = [length if (length := math.sqrt(square)) > EMPTY else 1.0 for square in (first, second)]
    cosine = max(-1.0, min(1.0, dot / (lengths[0] * lengths[1])))
    of_a, of_b = 1 - t, t
    if abs(cosine) <= LINEAR:
        angle = math.acos(cosine)
        of_a, of_b = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    for piece in pieces:
        yield (piece.models[0] * of_a).add_(piece.models[1], alpha=of_b)
