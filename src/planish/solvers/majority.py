"""Always the most frequent training label: the floor that every later score is printed beside.

Beating it proves little; not beating it proves that nothing was learned (MISSION B1). Oracle: scikit-learn's DummyClassifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from planish.data.task import Task
from planish.errors import InputError, Problem
from planish.model.asker import Asker
from planish.rows import LabelRow, Sample


def solve(samples: Sequence[Sample], texts: Sequence[str], train: Sequence[LabelRow], task: Task, asker: Asker | None) -> list[str | None]:
    """One answer per sample: the label most frequent in `train`, the first in sorted order on a tie. Texts and asker are not used.

    Raises InputError where `train` is empty."""
    if not train:
        raise InputError(Problem("majority", "there are no labelled training rows", "without labels the trivial baselines are copy and empty"))
    counts = Counter(row.label for row in train)
    winner = min(counts, key=lambda label: (-counts[label], label))
    return [winner] * len(samples)
