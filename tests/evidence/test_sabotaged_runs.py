"""Six real runs of the tiny model, five of them sabotaged, as MISSION T9 asks: the doctor names each by its curve."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from planish.adapters import full
from planish.data.tree import Sequence
from planish.diagnose import of
from planish.evidence.curve_doctor import Curve, diagnose
from planish.model import loop
from planish.model.example import Example
from planish.model.load import load
from planish.model.plan import make_plan
from planish.objectives import sft

RATE, LABELS = 1e-3, 3


def rows(count: int, seed: int, *, shuffled: bool = False, masked: bool = False) -> list[Example]:
    """A word of nine decides the label, one of three; three more words say nothing. The label is the one trained token; its weight is 0 where `masked`."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        word = int(torch.randint(0, 9, (1,), generator=draw))
        label = int(torch.randint(0, LABELS, (1,), generator=draw)) if shuffled else word % LABELS
        noise = torch.randint(100, 400, (3,), generator=draw).tolist()
        found.append(Example((Sequence((5, *noise, 20 + word, 40 + label), (*[0.0] * 5, 0.0 if masked else 1.0)),), 1.0))
    return found


def run(tiny: Path, folder: Path, *, rate: float = RATE, count: int = 192, steps: int = 120, **how: Any) -> Curve:
    """Train every weight and read what training wrote. The loss of one who knows the labels' shares is ln 3."""
    torch.manual_seed(0)
    model = full.attach(load(tiny, "fp32", trained=True))
    plan = make_plan(
        count,
        batch_size=min(16, count),
        epochs=None,
        max_steps=steps,
        warmup=0.03,
        validations=10,
        checkpoints=0,
        micro_tokens=512,
        learning_rate=rate,
        schedule="cosine",
        weight_decay=0.01,
        clip=1.0,
        precision="fp32",
        seed=42,
    )
    loop.train(model, rows(count, 1, **how), sft.loss, plan, folder, meaning={}, validation=rows(96, 2, **how))
    (folder / "report.json").write_text(json.dumps({"adapter": {"name": "full"}, "plan": asdict(plan)}), encoding="utf-8")
    return replace(of(str(folder), folder)[0].curve, chance=math.log(LABELS), usual_rate=RATE)


@pytest.mark.parametrize(
    ("sabotage", "states"),
    [
        ({}, {"healthy"}),
        ({"rate": 1000 * RATE}, {"lr_too_high", "diverging"}),
        ({"rate": RATE / 1e4}, {"lr_too_low"}),
        ({"shuffled": True}, {"noisy_labels"}),
        ({"masked": True}, {"zero_trained_tokens"}),
        ({"count": 12, "steps": 240}, {"overfit", "memorised"}),
    ],
    ids=["healthy", "rate x 1000", "rate / 10,000", "labels shuffled", "mask of nothing", "12 rows, 240 epochs"],
)
def test_t9_six_real_runs(tiny: Path, tmp_path: Path, sabotage: dict[str, Any], states: set[str]) -> None:
    """The gravest state is what was done to the run."""
    curve = run(tiny, tmp_path, **sabotage)
    assert diagnose(curve)[0].state in states, (diagnose(curve), curve.loss[::10], curve.validation)
