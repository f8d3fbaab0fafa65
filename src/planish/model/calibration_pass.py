"""The one calibration pass of a compression: run when the first exporter asks for it, shared by all, kept by content for the next time (MISSION Z1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.model import bundled, gram
from planish.model.gram import Grams
from planish.model.gram_pass import collect
from planish.model.load import load
from planish.model.lora_folder import LoraFolder
from planish.progress import Progress, Silent
from planish.store.objects import file_hash


@dataclass(frozen=True)
class Calibration:
    """The model to be compressed, token ids of training text, and the folder in which passes are kept. A pass loads the model in fp32, with the LoRA folder merged.

    `matrices`: whether one of its users reads `grams`, so that those who read `diagonals` can be served by the same pass.
    """

    checkpoint: Path
    adapter: Path | None
    sequences: Sequence[Sequence[int]]
    root: Path
    matrices: bool = True
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def grams(self) -> Grams:
        """Every Gram matrix. Raises InputError without text."""
        return self._pass(matrices=True)

    @cached_property
    def diagonals(self) -> Grams:
        """The diagonals at least. Raises InputError without text."""
        return self.grams if self.matrices else self._pass(matrices=False)

    def _pass(self, *, matrices: bool) -> Grams:
        model = bundled.identity(self.checkpoint)
        if self.adapter is not None:
            model += file_hash(self.adapter / "adapter_model.safetensors")

        def make() -> Grams:
            with self.progress.bar("calibration", len(self.sequences)) as advance:
                return collect(self.model(), self.sequences, matrices=matrices, advance=advance)

        return gram.kept(self.root, model, self.sequences, make, matrices=matrices)

    def model(self) -> nn.Module:
        """The model itself, in fp32."""
        model = load(self.checkpoint, "fp32")
        if self.adapter is not None:
            lora, weights = LoraFolder(self.adapter), dict(model.named_parameters())
            with torch.no_grad():
                for name in lora.weights:
                    weights[name].copy_(lora.add_to(name, weights[name]))
        return model


def required(calibration: Calibration | None, exporter: str) -> Grams:
    """The Grams. Raises InputError where nobody gave text to calibrate on."""
    if calibration is None:
        raise InputError(Problem(exporter, "needs text to calibrate on", "export it in a run, whose training rows are that text"))
    return calibration.grams
