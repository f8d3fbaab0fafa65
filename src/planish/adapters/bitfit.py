"""BitFit: only the biases that a model has are trained; most small language models have none, and lora or ia3 are then the way (arXiv 2106.10199)."""

from __future__ import annotations

from torch import nn

from planish.model.biases import train_biases
from planish.model.described import describe

LEARNING_RATE = 1e-3
MERGES = True


def attach(model: nn.Module, *, add_biases: bool = False) -> nn.Module:
    """Freeze everything but the biases. `add_biases` gives the layers' matrices biases of zeros where they have none; they merge in a llama, whose configuration can say so.

    At step 0 the output is the base's, bit for bit. Raises InputError, with the count 0, where there is no bias.
    """
    train_biases(model, add_biases)
    describe(model, {"peft_type": "BITFIT", "add_biases": add_biases})
    return model
