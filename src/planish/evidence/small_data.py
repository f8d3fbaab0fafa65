"""Settings of a training run on few rows: as many epochs as a step budget asks for, a batch that leaves steps to take, each with where it comes from."""

from __future__ import annotations

import math
from typing import NamedTuple

from planish.errors import InputError, Problem

STEP_BUDGET = 200
"""Steps that an adapter on few rows is given: fewer leave it under-fitted, and the best validation loss is kept whatever comes after."""
LEAST_STEPS, MOST_EPOCHS = 50, 5
"""Outside of these a run is warned about (MISSION T5)."""
EPOCH_STEPS = LEAST_STEPS // MOST_EPOCHS
"""Steps an epoch has at least, so that the most epochs make the least steps."""
BATCHES = (16, 8, 4, 2, 1)
WARMUP = 0.03
WARMUP_STEPS = 5
RATES: dict[str, tuple[float, str]] = {
    "lora": (2e-4, "MISSION T3: ten times what full fine-tuning takes"),
    "dora": (2e-4, "MISSION T3: as LoRA"),
    "full": (2e-5, "MISSION T3"),
    "head": (1e-3, "MISSION T3: only the head moves"),
    "dpo": (5e-6, "MISSION T3: preference losses move far on little"),
    "kto": (5e-6, "MISSION T3: as DPO"),
    "orpo": (8e-6, "arXiv 2403.07691"),
    "cpt": (1e-4, "MISSION C1, with LoRA"),
}


class Settings(NamedTuple):
    """`steps` follow from the others; `why` has a line for each setting."""

    epochs: int
    batch_size: int
    steps: int
    warmup: float
    learning_rate: float
    why: tuple[str, ...]


def settings(rows: int, technique: str) -> Settings:
    """For `rows` training rows. `technique` is the objective where it has a rate of its own, else the adapter.

    Ex: 350 rows, batch 16: 22 steps an epoch; 200 steps would be 10 epochs, capped at 5: 110 steps, warm-up 5 / 110 = 4.5 %. 60 rows: batch 16 and 8 leave 4 and 8 steps an
    epoch, fewer than 10; batch 4 leaves 15, 5 epochs are 75 steps, warm-up 5 / 75 = 6.7 %. Raises InputError without rows and for a technique without a known rate.
    """
    if rows < 1 or technique not in RATES:
        problems = [Problem("rows", f"{rows} rows train nothing", "add rows")] if rows < 1 else []
        problems += [Problem("technique", f'no learning rate of "{technique}" is known', f"known: {', '.join(RATES)}")] if technique not in RATES else []
        raise InputError(*problems)
    batch = next((size for size in BATCHES if math.ceil(rows / size) >= EPOCH_STEPS), 1)
    per_epoch = math.ceil(rows / batch)
    epochs = max(1, min(MOST_EPOCHS, math.ceil(STEP_BUDGET / per_epoch)))
    steps = epochs * per_epoch
    warmup = round(min(0.1, max(WARMUP, WARMUP_STEPS / steps)), 3)
    rate, source = RATES[technique]
    why = (
        f"epochs {epochs}: about {STEP_BUDGET} steps, and no more than {MOST_EPOCHS} times over the rows (MISSION T5); validation keeps the best",
        f"batch_size {batch}: {per_epoch} steps an epoch, at least {EPOCH_STEPS} where the rows allow it (MISSION T6)",
        f"warmup {warmup:g}: 3 %, at least {WARMUP_STEPS} steps, at most a tenth (MISSION T3)",
        f"learning_rate {rate:g}: {source}; planish train --find-lr measures one",
    )
    return Settings(epochs, batch, steps, warmup, rate, why)
