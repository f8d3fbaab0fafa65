"""What an objective gives the loop, and what the loop asks of it: sequences in, a summed loss out. The loop knows no technique."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from planish.data.tree import Sequence
from planish.model.relation import Relation


@dataclass(frozen=True)
class Example:
    """One row as an objective sees it: the sequences that must meet in one micro-batch, and `share`, its part of the step's divisor.

    `share` is known before the forward pass, so that a step split over micro-batches or ranks is divided by the same number as an unsplit one (MISSION T6).
    """

    sequences: tuple[Sequence, ...]
    share: float

    @property
    def tokens(self) -> int:
        """Input tokens without any sharing."""
        return sum(len(sequence.ids) - 1 for sequence in self.sequences)


@dataclass(frozen=True)
class Loss:
    """`total` is a sum over a micro-batch, not a mean; `metrics` are sums too, divided by the same share, or by the sum of their own `counts` where they have one.

    Of each of the `relations` the curve has Pearson's r over all rows of the step under its name, and their number under NAME_n; neither where it is not defined.
    """

    total: Tensor
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    relations: dict[str, Relation] = field(default_factory=dict)
