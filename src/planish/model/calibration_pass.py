"""The one calibration pass of a compression: run when the first exporter asks for it, shared by all, kept by content for the next time (MISSION Z1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from planish.errors import InputError, Problem
from planish.model import bundled, gram
from planish.model.gram import Grams
from planish.model.load import load
from planish.model.lora_folder import LoraFolder
from planish.store.objects import file_hash


@dataclass(frozen=True)
class Calibration:
    """The model to be compressed, token ids of training text, and the folder in which passes are kept. `grams` loads the model in fp32, with the LoRA folder merged."""

    checkpoint: Path
    adapter: Path | None
    sequences: Sequence[Sequence[int]]
    root: Path
    advance: Callable[[int], object] = lambda _: None

    @cached_property
    def grams(self) -> Grams:
        """The pass. Raises InputError without text."""
        model = bundled.identity(self.checkpoint)
        if self.adapter is not None:
            model += file_hash(self.adapter / "adapter_model.safetensors")
        return gram.kept(self.root, model, self.sequences, self._collect)

    def _collect(self) -> Grams:
        return gram.collect(self.model(), self.sequences, advance=self.advance)

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
