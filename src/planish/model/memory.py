"""What training takes in memory, term by term: formulas with their constants, and nothing allocated (MISSION T7). Every figure is an estimate and says so.

A trained parameter costs its weight, gradient, master copy and two moments, a frozen one its weight alone. An activation is what autograd keeps for the backward pass; how
much that is was counted on this project's own forward pass (see `planish.model.memory_activations`). Logits never exist whole: the head works in chunks of
`planish.model.scored_head.CHUNK_BYTES`.
"""

from __future__ import annotations

from dataclasses import replace

from planish.model.memory_activations import activations, temporary
from planish.model.memory_estimate import Estimate, Term
from planish.model.memory_logits import logit_bytes, logits
from planish.model.memory_objective import asked, beside, keys_and_values
from planish.model.memory_setup import Setup, Shape
from planish.model.memory_weights import base, trained

PROCESS = {"cpu": 0.55e9, "cuda": 0.6e9}
"""Resident before a model is loaded: the interpreter with torch, transformers and PEFT (measured: 0.55 GB here), or a CUDA context (typical)."""
FLUID = ("activations", "logits", "temporary", "asked")
"""Terms that are not weights and their state: what a probe corrects, and what the error bar is a share of."""
ERROR = 0.25
"""Upper error of what is not weights and their state, as a share of it: on a GPU, and on a CPU where a probe has run."""
HEAP = 1.2
"""The same on a CPU without a probe: the C library's heap keeps freed blocks between steps, so that a LoRA's second step was measured at up to 2.2 times what is in use."""


def estimate(shape: Shape, setup: Setup, *, factor: float | None = None) -> Estimate:
    """Peak bytes of a training step, term by term. `factor` is what a probe on this machine measured over what was predicted, for activations, logits and temporaries."""
    fluid = [activations(shape, setup), logits(shape, setup), temporary(shape, setup), asked(shape, setup)]
    fluid = [replace(term, bytes=term.bytes * (factor or 1.0)) for term in fluid]
    error = HEAP if setup.device == "cpu" and factor is None else ERROR
    terms = [
        Term("process", PROCESS[setup.device], "the interpreter and its libraries" if setup.device == "cpu" else "the CUDA context"),
        base(shape, setup),
        beside(setup),
        *trained(setup),
        *fluid,
        keys_and_values(shape, setup),
    ]
    return Estimate(
        tuple(term for term in terms if term.bytes), error * sum(term.bytes for term in fluid), logit_bytes(setup.micro * setup.scored, shape.vocabulary)
    )
