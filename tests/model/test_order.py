"""Rows that share a prefix meet in one step, every epoch still visits each row once, and a killed run goes on in the same order (MISSION T10, T11)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from planish.data.batches import prefix_classes
from planish.data.tree import Sequence
from planish.model.plan import batch_rows, make_plan

REST = {"micro_tokens": 4096, "learning_rate": 1e-3, "schedule": "constant", "weight_decay": 0.0, "clip": 1.0, "precision": "fp32", "seed": 7}


def _rows() -> list[Sequence]:
    """64 rows under 4 catalogues of 80 tokens, in turn."""
    return [Sequence((*range(1000 * (row % 4), 1000 * (row % 4) + 80), 5000 + row, 7), (*[0.0] * 81, 1.0)) for row in range(64)]


def test_t11_shared_order_brings_catalogues_together_and_visits_every_row_once() -> None:
    """4 catalogues x 16 rows in steps of 8: drawn at random a step holds rows of nearly every catalogue; in shared order most steps hold one or two."""
    rows = _rows()
    plan = make_plan(64, batch_size=8, epochs=3, max_steps=None, warmup=0.0, validations=0, checkpoints=0, order="shared", **REST)
    classes = prefix_classes(rows)
    assert len(set(classes.tolist())) == 4
    steps = [batch_rows(plan, step, classes) for step in range(plan.steps)]
    for epoch in range(3):
        assert sorted(row for step in steps[8 * epoch : 8 * epoch + 8] for row in step) == list(range(64))
    shared = np.mean([len({row % 4 for row in step}) for step in steps])
    drawn = np.mean([len({row % 4 for row in batch_rows(replace(plan, order="random"), step)}) for step in range(plan.steps)])
    assert shared <= 2.1 < 3.2 <= drawn
    assert Counter(map(tuple, steps)) == Counter(tuple(batch_rows(plan, step, classes)) for step in reversed(range(plan.steps)))
