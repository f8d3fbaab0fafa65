"""The gold set as the judging stages see it: samples, the raw text of each, and the groups that intervals are clustered by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planish.data import dataset, gold
from planish.data.task import Task
from planish.rows import Sample


@dataclass(frozen=True)
class Gold:
    """`texts` are without the instruction, for solvers that prompt nobody. `groups` is None where rows have no group."""

    sha256: str
    task: Task
    samples: tuple[Sample, ...]
    texts: tuple[str, ...]
    groups: Mapping[str, str] | None

    @property
    def labels(self) -> tuple[str, ...]:
        """The declared labels, in their order."""
        return self.task.labels


def read_gold(folder: Path) -> Gold:
    """The sealed gold set of a dataset artifact. Raises InputError when the seal is broken."""
    data = dataset.read(folder)
    sealed = gold.read(data.gold_path)
    texts = tuple(data.task.text_of(sample.messages[-1].content) for sample in sealed.samples)
    groups = {sample.id: sample.group for sample in sealed.samples if sample.group is not None}
    return Gold(sealed.sha256, data.task, sealed.samples, texts, groups or None)
