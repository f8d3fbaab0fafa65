"""Zero-shot prompt: the untuned model is asked as it will be asked in production."""

from __future__ import annotations

from collections.abc import Sequence

from planish.data.task import Task
from planish.model.asker import Asker
from planish.rows import LabelRow, Sample


def solve(samples: Sequence[Sample], texts: Sequence[str], train: Sequence[LabelRow], task: Task, asker: Asker | None) -> list[str | None]:
    """One label per sample, chosen by constrained decoding among the task's labels."""
    assert asker is not None
    return list(asker.choose([sample.messages for sample in samples], task.labels))
