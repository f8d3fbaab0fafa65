"""What training takes in memory, term by term: formulas with their constants, and nothing allocated (MISSION T7). Every figure is an estimate and says so.

A trained parameter costs its weight, gradient, master copy and two moments, a frozen one its weight alone. An activation is what autograd keeps for the backward pass; how
much that is was counted on this project's own forward pass (see KEPT). Logits never exist whole: the head works in chunks of `planish.model.scored_head.CHUNK_BYTES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from planish.errors import InputError, Problem

Precision = Literal["fp32", "bf16", "fp16"]
Account = Literal["ours", "mixed", "no_master", "bf16_moments"]

GB = 1e9
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2}
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""4.127 bits a weight: its code, its part of an 8-bit scale per 64 weights, and of an fp32 scale per 256 of those (arXiv 2305.14314)."""
NF4_CODE_BITS = 4
CHUNK_BYTES = 2**27
"""Logits that exist at a time, as in `planish.model.scored_head`; written here so that nothing heavy is loaded to plan. A test holds the two equal."""
CHUNK_COPIES = {True: 2, False: 4}
"""Tensors of a chunk's size at the worst moment. Frozen head: logits and their slopes. Trained one: also the copy that its backward pass computes again, and its product."""
EIGHT_BIT_MOMENTS = 2 * (1 + 4 / 256)
"""Two 8-bit moments with an fp32 scale per 256 values (arXiv 2110.02861)."""
ASKED_COPIES = 8
"""The same of a frozen model that the loss asks, beside those: its logits, both log-probabilities, both probabilities and what the divergence makes of them. Counted with
the profiler on CPU: 7, with jsd 8."""
ASKED_LAYER = (4, 3)
"""Values that a frozen model holds a token while it reads, as (a, b) in a x H + b x FFN: one layer's, nothing is kept. Counted so on four random llamas; the fit is within 5 %."""
PROCESS = {"cpu": 0.55e9, "cuda": 0.6e9}
"""Resident before a model is loaded: the interpreter with torch, transformers and PEFT (measured: 0.55 GB here), or a CUDA context (typical)."""
FLUID = ("activations", "logits", "temporary", "asked")
"""Terms that are not weights and their state: what a probe corrects, and what the error bar is a share of."""
ERROR = 0.25
"""Upper error of what is not weights and their state, as a share of it: on a GPU, and on a CPU where a probe has run."""
HEAP = 1.2
"""The same on a CPU without a probe: the C library's heap keeps freed blocks between steps, so that a LoRA's second step was measured at up to 2.2 times what is in use."""
TEXTBOOK = 34
"""Bytes per token and hidden value that a layer keeps in 16 bits with flash attention, in arXiv 2205.05198's account (FFN 4 H, GELU, dropout); KEPT is what we keep."""


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

KEPT: dict[str, dict[int, tuple[float, float, float]]] = {
    "full": {4: (44, 0, 16), 2: (36, 0, 8)},
    "lora": {4: (37.2, 0, 16), 2: (28.8, 0, 8)},
    "dora": {4: (61.2, 16, 32), 2: (40.8, 8, 16)},
    "through": {4: (24.3, 8, 16), 2: (16.3, 4, 10)},
}
"""Bytes that a layer keeps a token, as (a, b, c) in a x H + b x KV width + c x FFN, by bytes a value. Counted with autograd's saved-tensor hooks on random llama layers
of six shapes (H 64 to 128), distinct storages without parameters; the fit is within 1.1 %. "through" is a frozen layer that a gradient only passes (counted with IA3)."""
KEPT_AS = {
    "qlora": "lora",
    "bottleneck": "lora",
    "ia3": "through",
    "bitfit": "through",
    "prefix": "through",
    "prompt": "through",
    "p_tuning": "through",
    "head": "full",
}


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

    `beside` counts those of a frozen model that the loss asks, `beside_hidden` and `beside_ffn` are its widths; `rollout_tokens` have their keys and values held at once.
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


@dataclass(frozen=True)
class Term:
    """One part of the total, in bytes, and how it comes about."""

    name: str
    bytes: float
    formula: str


@dataclass(frozen=True)
class Estimate:
    """Terms and their sum. `high` is the upper end of the error bar; `naive_logits` is what a head that makes every logit at once would hold instead of ours."""

    terms: tuple[Term, ...]
    error: float
    naive_logits: float
    label: Literal["estimated"] = "estimated"

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(term.bytes for term in self.terms)

    @property
    def high(self) -> float:
        """The upper end of the error bar: what must fit."""
        return self.total + self.error

    @property
    def dominant(self) -> Term:
        """The largest term."""
        return max(self.terms, key=lambda term: term.bytes)

    def bytes(self, name: str) -> float:
        """A term by name; 0 for one that is not there."""
        return sum(term.bytes for term in self.terms if term.name == name)


def estimate(shape: Shape, setup: Setup, *, factor: float | None = None) -> Estimate:
    """Peak bytes of a training step, term by term. `factor` is what a probe on this machine measured over what was predicted, for activations, logits and temporaries."""
    fluid = [_activations(shape, setup), _logits(shape, setup), _temporary(shape, setup), _asked(shape, setup)]
    fluid = [replace(term, bytes=term.bytes * (factor or 1.0)) for term in fluid]
    error = HEAP if setup.device == "cpu" and factor is None else ERROR
    kv = setup.rollout_tokens * kv_bytes(shape, WIDTH[setup.precision])
    terms = [
        Term("process", PROCESS[setup.device], "the interpreter and its libraries" if setup.device == "cpu" else "the CUDA context"),
        _base(shape, setup),
        _beside(setup),
        *_trained(setup),
        *fluid,
        Term("kv", kv, f"{setup.rollout_tokens} rollout tokens x 2 x {shape.layers} layers x {shape.kv_width} x {WIDTH[setup.precision]} B"),
    ]
    return Estimate(
        tuple(term for term in terms if term.bytes), error * sum(term.bytes for term in fluid), logit_bytes(setup.micro * setup.scored, shape.vocabulary)
    )


def nf4_bytes(parameters: float, *, constants: bool = True) -> float:
    """So many linear weights in NF4, with their doubly quantised scales or as bare codes."""
    return parameters * (NF4_BITS if constants else NF4_CODE_BITS) / 8


def logit_bytes(rows: int, vocabulary: int) -> float:
    """Every logit of so many scored tokens at once, in fp32: tokens x V x 4."""
    return float(rows * vocabulary * 4)


def kv_bytes(shape: Shape, width: int) -> int:
    """Keys and values that a rollout keeps a token."""
    return 2 * shape.layers * shape.kv_width * width


def alone(setup: Setup) -> Setup:
    """The setup without what its objective brings: the frozen model and the rollout."""
    return replace(setup, beside=0, beside_hidden=0, beside_ffn=0, rollout_tokens=0)


def textbook_activations(tokens: int, hidden: int, layers: int, *, checkpointed: bool = False) -> float:
    """The figure in circulation, for 16 bits: 34 B x tokens x H a layer, or its input alone (2 B) when it is computed again."""
    return float((2 if checkpointed else TEXTBOOK) * tokens * hidden * layers)


def state_bytes(parameters: float, account: Account = "mixed") -> float:
    """What trained parameters take with their gradients and optimizer: 16 B each in mixed precision (MISSION, correction a)."""
    return parameters * sum(ACCOUNTS[account])


def kept_bytes(shape: Shape, setup: Setup) -> float:
    """What one layer keeps a token for its backward pass."""
    a, b, c = KEPT[KEPT_AS.get(setup.technique, setup.technique)][WIDTH[setup.precision]]
    return a * shape.hidden + b * shape.kv_width + c * shape.ffn


def describe(terms: Sequence[Term]) -> dict[str, dict[str, float | str]]:
    """Terms as JSON."""
    return {term.name: {"bytes": term.bytes, "formula": term.formula} for term in terms}


def check_technique(technique: str) -> None:
    """Raises InputError for a technique whose activations nobody has counted."""
    if technique not in KEPT and technique not in KEPT_AS:
        raise InputError(
            Problem(f"train.adapter: {technique}", "what it keeps for its backward pass is not known", "planish plan RECIPE --measure runs two steps")
        )


def _base(shape: Shape, setup: Setup) -> Term:
    """The frozen weights."""
    if setup.technique == "full":
        return Term("base", 0, "")
    frozen = shape.parameters
    if setup.technique == "qlora":
        other = 2 * (frozen - shape.linear)
        return Term("base", nf4_bytes(shape.linear) + other, f"{shape.linear:,} x {NF4_BITS:.3f}/8 B + {frozen - shape.linear:,} x 2 B")
    width = 2 if setup.precision == "bf16" else 4  # under fp16 the frozen base stays fp32
    return Term("base", width * frozen, f"{frozen:,} x {width} B")


def _beside(setup: Setup) -> Term:
    """Frozen models beside the trained one, in its format."""
    width = 2 if setup.precision == "bf16" else 4
    return Term("beside", width * setup.beside, f"{setup.beside:,} x {width} B")


def _trained(setup: Setup) -> list[Term]:
    each = ACCOUNTS[setup.account]
    moments = EIGHT_BIT_MOMENTS if setup.optimizer == "adamw_8bit" else each.moments
    parts = {"weights": each.weight, "gradients": each.gradient, "master": each.master, "optimizer": moments}
    return [Term(name, setup.trainable * width, f"{setup.trainable:,} x {width:.3g} B") for name, width in parts.items()]


def _activations(shape: Shape, setup: Setup) -> Term:
    depth = shape.layers if setup.trained_layers is None else setup.trained_layers
    width = 4 if setup.technique == "full" else WIDTH[setup.precision]  # a checkpoint is the residual stream, fp32 where the embedding is
    layer = width * shape.hidden if setup.checkpointed else kept_bytes(shape, setup)
    return Term("activations", setup.tokens * depth * layer, f"{setup.tokens:,} tokens x {depth} layers x {layer:,.0f} B")


def _logits(shape: Shape, setup: Setup) -> Term:
    rows = setup.micro * setup.scored
    if not setup.chunked:
        return Term("logits", logit_bytes(setup.tokens, shape.vocabulary), f"{setup.tokens:,} tokens x {shape.vocabulary:,} x 4 B")
    chunk = _chunk(shape, rows)
    copies = CHUNK_COPIES[setup.technique != "full"]
    total = copies * logit_bytes(chunk, shape.vocabulary) + rows * shape.hidden * 4
    return Term("logits", total, f"{copies} x {chunk:,} rows x {shape.vocabulary:,} x 4 B + {rows:,} x {shape.hidden} x 4 B")


def _asked(shape: Shape, setup: Setup) -> Term:
    """What the frozen model holds while it reads the micro-batch, its last hidden states of the scored rows, and its part of a chunk of logits."""
    rows, width = setup.micro * setup.scored, WIDTH[setup.precision]
    layer = ASKED_LAYER[0] * setup.beside_hidden + ASKED_LAYER[1] * setup.beside_ffn
    if not layer:
        return Term("asked", 0, "")
    chunk = _chunk(shape, rows)
    total = setup.tokens * layer * width + rows * setup.beside_hidden * width + ASKED_COPIES * logit_bytes(chunk, shape.vocabulary)
    formula = f"{setup.tokens:,} tokens x {layer:,} x {width} B + {rows:,} rows x {setup.beside_hidden} x {width} B"
    return Term("asked", total, f"{formula} + {ASKED_COPIES} x {chunk:,} rows x {shape.vocabulary:,} x 4 B")


def _chunk(shape: Shape, rows: int) -> int:
    """Rows whose logits exist at a time."""
    return min(rows, max(32, CHUNK_BYTES // (4 * shape.vocabulary) // 32 * 32))


def _temporary(shape: Shape, setup: Setup) -> Term:
    """What exists while one layer is worked on: its own activations' gradients, weights cast for autocast, a matrix out of 4 bits."""
    if not setup.tokens or setup.trained_layers == 0:
        return Term("temporary", 0, "")
    layer = setup.tokens * kept_bytes(shape, setup)
    casts = 2 * shape.linear if setup.technique == "full" and setup.precision != "fp32" else 0
    opened = WIDTH[setup.precision] * shape.hidden * shape.ffn if setup.technique == "qlora" else 0
    return Term(
        "temporary",
        layer + casts + opened,
        "one layer's activations again" + (", the weights cast to 16 bits" if casts else "") + (", one matrix" if opened else ""),
    )
