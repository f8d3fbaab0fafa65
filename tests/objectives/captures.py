"""Captures made of given logits, and a student whose logits are given: what the tests of distillation share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from planish.data.capture_file import CAPTURE, MANIFEST, About, CapturedRow, append, write_line
from planish.data.capture_packed import pack
from planish.model.lm_head import Head
from planish.model.policy import Rows, Scored
from planish.model.teacher import Wanted, of_logits

ABOUT = About(teacher="t", tokenizer="k", template="m", gold="g", answers="rows", temperatures=(1.0, 2.0), k=50, mass=1.0)


def captured(folder: Path, logits: Tensor, target: list[int], about: About = ABOUT, seed: int = 0) -> str:
    """A capture of one row "r" whose trained tokens are `target` and whose teacher says `logits` (N, V)."""
    folder.mkdir(parents=True)
    said = of_logits(logits, Wanted(about.k, about.mass, about.temperatures, about.tail_samples), torch.Generator().manual_seed(seed))
    (folder / MANIFEST).write_text(about.model_dump_json(), encoding="utf-8")
    append(folder / CAPTURE, [write_line(CapturedRow("r", (7,), tuple(target), (True,) * len(target), said, "given"), about)])
    pack(folder, steps=4096)
    return str(folder)


def policy(logits: Tensor, target: list[int], place: float = 0.0, weight: list[float] | None = None) -> Scored:
    """One sequence whose scored rows have these logits (N, V): hidden states behind a head that is the identity."""
    rows = Rows(logits, Head(torch.eye(logits.size(1))), torch.tensor(target), "fp32")
    return Scored(None, torch.tensor(weight or [1.0] * len(target)), torch.zeros(len(target), dtype=torch.long), 1, rows, torch.tensor([[place]]))
