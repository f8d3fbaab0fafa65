"""What the memory model is asked: the sizes of a dense decoder, what of it is trained, in what format and how many tokens at a time (MISSION T7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
Account = Literal["ours", "mixed", "no_master", "bf16_moments"]
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a value."""


@dataclass(frozen=True)
class Shape:
    """A dense decoder: sizes that the formulas need. `linear` counts the weights of the layers' matrices; `lora_unit` sums (in + out) over them."""

    hidden: int
    layers: int
    kv_width: int
    ffn: int
    vocabulary: int
    parameters: int
    linear: int
    lora_unit: int


@dataclass(frozen=True)
class Setup:
    """What is to be trained and how. A micro-batch holds `micro` rows of `length` tokens, of which `scored` a row are trained; `trainable` counts trained parameters.

    `beside` counts those of a frozen model that the loss asks, `beside_hidden` and `beside_ffn` are its widths; `compared` pairs of layers have their hidden states compared
    (None: one for each of the student's); `rollout_tokens` have their keys and values held at once.
    """

    technique: str
    trainable: int
    micro: int
    length: int
    scored: int
    accumulation: int = 1
    precision: Precision = "fp32"
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    checkpointed: bool = False
    chunked: bool = True
    trained_layers: int | None = None
    rank: int | None = None
    rollout_tokens: int = 0
    beside: int = 0
    beside_hidden: int = 0
    beside_ffn: int = 0
    compared: int | None = 0
    account: Account = "ours"
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.micro * self.length

    @property
    def rows(self) -> int:
        """Rows of a whole step, which no lever but the user's own changes."""
        return self.micro * self.accumulation
