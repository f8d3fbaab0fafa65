"""The gold set as the judging stages see it: samples, the raw text of each, and the groups that intervals are clustered by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planish.data import dataset, gold
from planish.data.task import Task
from planish.events import EventType
from planish.rows import Sample
from planish.store import Store


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


def read_gold(store: Store, run_id: str, stage: str, folder: Path, *, blind: bool = False) -> Gold:
    """The sealed gold set of a dataset artifact, or its blind half; the reading is an event. Raises InputError when the seal is broken or nothing was kept blind."""
    data = dataset.read(folder)
    sealed = gold.read(data.blind_path if blind else data.gold_path)
    said = {"sha256": sealed.sha256, "rows": len(sealed.samples), "version": sealed.version, "blind": blind}
    store.event(run_id, EventType.GOLD_READ, stage, said)
    texts = tuple(data.task.text_of(sample.messages[-1].content) for sample in sealed.samples)
    groups = {sample.id: sample.group for sample in sealed.samples if sample.group is not None}
    return Gold(sealed.sha256, data.task, sealed.samples, texts, groups or None)
