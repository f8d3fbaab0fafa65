"""What merges of task vectors share: one weight a model, the differences from the base, the elected sign, and the top share found by counting instead of sorting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planish.errors import InputError, Problem
from planish.model.tensor_stream import Buffers, Piece, Pieces

SMALLEST = 1e-8
"""Sum of weights below which they are not to be divided by."""
Bits = NDArray[np.int32]


def per_model(key: str, given: float | Sequence[float] | None, count: int, default: float) -> list[float]:
    """One number a model from a number, a list or nothing. Raises InputError for a list of another length and for what is not finite."""
    values = [float(number) for number in given] if isinstance(given, Sequence) else [default if given is None else float(given)] * count
    problems = []
    if len(values) != count:
        problems.append(Problem(key, f"has {len(values)} numbers for {count} models", "give one for each model"))
    if not np.isfinite(values).all():
        problems.append(Problem(key, f"{values} are not all finite", "give finite numbers"))
    if problems:
        raise InputError(*problems)
    return values


def densities(given: float | Sequence[float], count: int) -> list[float]:
    """The share that is kept of each model. Raises InputError outside (0, 1]."""
    values = per_model("density", given, count, 1.0)
    if not all(0 < value <= 1 for value in values):
        raise InputError(Problem("density", f"{values}: a share that is kept lies above 0 and is 1 at most", "give for example 0.2"))
    return values


def deltas(piece: Piece, buffers: Buffers | None = None) -> tuple[Tensor, list[Tensor]]:
    """The base and each model less the base, in `buffers` where there are some. Raises InputError without a base."""
    if piece.base is None:
        raise InputError(Problem("base", "this method merges differences from a base, and none is given", "name the model that all were tuned from"))
    base = piece.base
    if buffers is None:
        return base, [model - base for model in piece.models]
    return base, [torch.sub(model, base, out=buffers.take(f"delta {at}", base.numel())) for at, model in enumerate(piece.models)]


def combine(vectors: Sequence[Tensor], weights: Sequence[float], *, elect: bool, normalize: bool, buffers: Buffers | None = None) -> Tensor:
    """sum w_i d_i; with `elect` over those alone that have the sign of the weighted sum (a sum of 0 elects +); with `normalize` divided by the weights that took part.

    The result lies in `buffers` where there are some. Raises InputError where weights that are not 0 sum to 0 and are to be divided by their sum.
    Source: TIES-Merging, arXiv 2306.01708, section 4; where no weight takes part the divisor is 1, as mergekit has it.
    """
    held, size = buffers or Buffers(), vectors[0].numel()
    total = held.take("total", size).zero_()
    for vector, weight in zip(vectors, weights, strict=True):
        total.add_(vector, alpha=weight)
    if not elect:
        part = sum(weights)
        if normalize and abs(part) < SMALLEST and any(weights):
            raise InputError(Problem("weight", f"{list(weights)} sum to 0", "give weights with a sum, or normalize: false"))
        return total.div_(part) if normalize and any(weights) else total
    # +1 or -1 for each weight; turned by it, every elected part is above 0: no comparison, which would take several times as long
    sign = torch.copysign(held.take("ones", size).fill_(1), total.add_(0.0), out=held.take("sign", size))
    total.zero_()
    parts, turned = held.take("parts", size).zero_(), held.take("turned", size)
    for vector, weight in zip(vectors, weights, strict=True):
        torch.mul(vector, sign, out=turned)
        turned = turned.clamp_min_(0) if weight > 0 else turned.clamp_max_(0)
        total.add_(turned, alpha=weight)
        if normalize:
            parts.add_(turned.sign_(), alpha=abs(weight))
    total.mul_(sign)
    if not normalize:
        return total
    taking = [weight for weight in weights if weight]
    # where nothing takes part the sum is 0, whatever it is divided by
    return total.div_(parts.clamp_min_(min(taking)) if taking and min(taking) > 0 else parts.masked_fill_(parts == 0, 1.0))


class TopShare:
    """Which values of one model's difference are among the largest: exactly k = max(1, int(density n)) of n, of equal magnitudes the first.

    The bits of an fp32 magnitude order like an integer, so that two countings (its upper 15 bits, then the lower 16 of the one bucket on the edge) find the k-th exactly:
    linear time, 768 KiB of counters, no sorting and no copy.
    """

    def __init__(self, size: int, density: float) -> None:
        self.all = density >= 1 or size == 0
        self._k = max(1, int(density * size))
        self._upper = np.zeros(32768, np.int64)
        self._lower = np.zeros(65536, np.int64)
        self._bucket = self._edge = self._left = 0

    def count_upper(self, delta: Tensor, buffers: Buffers) -> None:
        """First passage."""
        upper = buffers.take("upper", delta.numel(), torch.int64)
        upper.copy_(delta.view(torch.int16)[1::2]).bitwise_and_(0x7FFF)  # the upper halves lie second
        self._upper += np.bincount(upper.numpy(), minlength=32768)

    def count_lower(self, delta: Tensor, buffers: Buffers) -> None:
        """Second passage, over the same values."""
        bits = _magnitude(delta, buffers)
        low = self._bucket << 16
        inside = bits[(bits >= low) & (bits < low + 0x10000)]
        self._lower += np.bincount(inside & 0xFFFF, minlength=65536)

    def find_bucket(self) -> None:
        """Between the passages."""
        self._bucket, self._left = _kth(self._upper, self._k)

    def find_edge(self) -> None:
        """After the second. Where every value on the edge is kept, the edge moves below them and none needs to be looked for."""
        lower, self._left = _kth(self._lower, self._left)
        self._edge = (self._bucket << 16) | lower
        if self._left == self._lower[lower] and self._edge:
            self._edge, self._left = self._edge - 1, 0

    def trim(self, delta: Tensor, buffers: Buffers | None = None) -> Tensor:
        """`delta` with zeros for what is not kept, in `buffers` where there are some. Third passage, in the same order."""
        edge = float(np.array(self._edge, np.int32).view(np.float32))
        kept: Tensor = torch.ops.aten.hardshrink.out(delta, edge, out=(buffers or Buffers()).take("kept", delta.numel()))
        if self._left:
            equal = np.flatnonzero(_magnitude(delta, Buffers()) == self._edge)[: self._left]
            kept[equal] = delta[equal]
            self._left -= len(equal)
        return kept


def top_shares(pieces: Pieces, density: Sequence[float]) -> list[TopShare]:
    """The edge of every model, found in two passages over the pieces; none where everything is kept."""
    found = [TopShare(pieces.size, share) for share in density]
    if all(one.all for one in found):
        return found
    buffers = Buffers()
    for count, find in ((TopShare.count_upper, TopShare.find_bucket), (TopShare.count_lower, TopShare.find_edge)):
        for piece in pieces:
            for one, delta in zip(found, deltas(piece, buffers)[1], strict=True):
                if not one.all:
                    count(one, delta, buffers)
        for one in found:
            find(one)
    return found


def _magnitude(delta: Tensor, buffers: Buffers) -> Bits:
    bits: Bits = torch.bitwise_and(delta.view(torch.int32), 0x7FFFFFFF, out=buffers.take("bits", delta.numel(), torch.int32)).numpy()
    return bits


def _kth(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bucket in which the k-th largest lies, and how many of that bucket are among the k."""
    from_above = np.cumsum(counts[::-1])
    i = int(np.searchsorted(from_above, k))
    return len(counts) - 1 - i, k - (int(from_above[i - 1]) if i else 0)
