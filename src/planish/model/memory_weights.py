"""Memory of weights and their state: frozen ones in their format or in 4 bits, trained ones with gradient, master copy and moments (MISSION T7)."""

from __future__ import annotations

from typing import NamedTuple

from planish.model.memory_estimate import Term
from planish.model.memory_setup import Account, Setup, Shape

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits a weight: its code, its part of an 8-bit scale per 64 weights, and of an fp32 scale per 256 of those (arXiv 2305.14314)."""
NF4_CODE_BITS = 4
EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)
"""Two 8-bit moments with an fp32 scale per 256 values (arXiv 2110.02861)."""


class State(NamedTuple):
    """Bytes a trained parameter: weight, gradient, master copy, moments."""

    weight: float
    gradient: float
    master: float
    moments: float


ACCOUNTS: dict[Account, State] = {
    "ours": State(4, 4, 0, 8),  # weights that are trained stay fp32 under autocast, so that there is no second copy: 16 B as well
    "mixed": State(2, 2, 4, 8),
    "no_master": State(2, 2, 0, 8),
    "bf16_moments": State(2, 2, 0, 4),
}


def nf4_bytes(parameters: float, *, constants: bool = True) -> float:
    """So many linear weights in NF4, with their doubly quantised scales or as bare codes."""
    return parameters * (NF4_BITS if constants else NF4_CODE_BITS) / 8


def state_bytes(parameters: float, account: Account = "mixed") -> float:
    """What trained parameters take with their gradients and optimizer: 16 B each in mixed precision (MISSION, correction a)."""
    return parameters * sum(ACCOUNTS[account])


def base(shape: Shape, setup: Setup) -> Term:
    """The frozen weights."""
    if setup.technique == "full":
        return Term("base", 0, "")
    frozen = shape.parameters
    if setup.technique == "qlora":
        other = 2 * (frozen - shape.linear)
        return Term("base", nf4_bytes(shape.linear) + other, f"{shape.linear:,} x {NF4_BITS:.3f}/8 B + {frozen - shape.linear:,} x 2 B")
    width = 2 if setup.precision == "bf16" else 4  # under fp16 the frozen base stays fp32
    return Term("base", width * frozen, f"{frozen:,} x {width} B")


def trained(setup: Setup) -> list[Term]:
    """The trained weights, and what training keeps beside them."""
    each = ACCOUNTS[setup.account]
    moments = EIGHT_BIT_MOMENTS if setup.optimizer == "adamw_8bit" else each.moments
    parts = {"weights": each.weight, "gradients": each.gradient, "master": each.master, "optimizer": moments}
    return [Term(name, setup.trainable * width, f"{setup.trainable:,} x {width:.3g} B") for name, width in parts.items()]
