"""Low-rank adapters on a model, by PEFT: which layers, which ranks, which start; everything that cannot be is said at once (MISSION A2 to A4)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from planish.errors import InputError, Problem, did_you_mean
from planish.model import residual_start
from planish.model.described import learn_faster, warn
from planish.model.targets import chosen, numbers, size, transposed

Start = Literal["default", "pissa", "loftq"]
USUAL_SCALE = (0.25, 8.0)
"""alpha / r outside of this is worth a word."""


@dataclass(frozen=True)
class LowRank:
    """alpha None is twice the rank, each layer's own. `ranks` gives layers another rank, by name or by a pattern over the end of their names."""

    r: int
    alpha: int | None = None
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    layers: str | list[int] | None = None
    ranks: dict[str, int] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    start: Start = "default"
    rate_ratio: float | None = None

    @property
    def scale(self) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) when rank-stabilised (arXiv 2312.03732)."""
        alpha = 2 * self.r if self.alpha is None else self.alpha
        return float(alpha / (self.r**0.5 if self.rslora else self.r))


def attach(model: nn.Module, options: LowRank) -> Any:
    """Freeze the model and put adapters on its layers. Raises InputError with everything that is wrong with `options` for this model."""
    from peft import LoraConfig

    which = numbers(model, options.layers)
    modules = chosen(model, options.targets, which)
    problems = _problems(modules, options)
    if problems:
        raise InputError(*problems)
    config = said_by_us(
        LoraConfig,
        r=options.r,
        lora_alpha=2 * options.r if options.alpha is None else options.alpha,
        lora_dropout=options.dropout,
        target_modules=options.targets if which is None else sorted(modules),
        rank_pattern=dict(options.ranks),
        alpha_pattern={name: 2 * rank for name, rank in options.ranks.items()} if options.alpha is None else {},
        fan_in_fan_out=transposed(modules),
        use_rslora=options.rslora,
        use_dora=options.dora,
        init_lora_weights="pissa" if options.start == "pissa" else True,
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = wrapped(model, config)
    if options.start == "pissa":
        residual_start.remember(adapted)
    if options.start == "loftq":
        residual_start.from_quantisation_error(adapted)
    if options.rate_ratio is not None:
        learn_faster(adapted, "_B", options.rate_ratio)  # lora_B, and lora_embedding_B
    _say(adapted, options)
    return adapted


def wrapped(model: nn.Module, config: Any) -> Any:
    """The model under PEFT's adapter of this configuration. Raises InputError where PEFT has no such adapter for a layer (DoRA on fused experts)."""
    from peft import get_peft_model

    try:
        return said_by_us(get_peft_model, model, config)
    except ValueError as refused:
        raise InputError(Problem("adapter", f"does not go on this model: {refused}", "name other targets, or use lora")) from None


def said_by_us(call: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """A call of PEFT without the warnings that we give, or have no need to give, ourselves: of tied heads (which are not merged), of PiSSA's own way of saving, and of patterns
    that name no layer (ours are checked; those that PEFT adds for fused experts it looks for in the wrong place), and of PEFT's asking transformers by an old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return call(*inputs, **named)


def _problems(modules: dict[str, nn.Module], options: LowRank) -> list[Problem]:
    found = _out_of_range(options)
    for pattern in options.ranks:
        if not any(_named(pattern, name) for name in modules):
            fix = did_you_mean(pattern, {name.rpartition(".")[2] for name in modules})
            found.append(Problem(f"adapter.ranks.{pattern}", "names no layer that has an adapter", fix))
    wide: dict[tuple[str, int, int], str] = {}
    for name, module in modules.items():
        rank, smaller = _rank(name, options), min(_sides(module))
        if rank > smaller:
            wide.setdefault((name.rpartition(".")[2], rank, smaller), name)
    for (_, rank, smaller), name in wide.items():
        found.append(
            Problem("adapter.r", f"rank {rank} is larger than the smaller side of {name}, {smaller}", f"give at most {smaller}, or train the layer whole")
        )
    return found + _unfit_base(modules, options)


def _out_of_range(options: LowRank) -> list[Problem]:
    ranks = {"adapter.r": options.r} | {f"adapter.ranks.{pattern}": rank for pattern, rank in options.ranks.items()}
    found = [Problem(where, f"is {rank}", "give a rank of at least 1") for where, rank in ranks.items() if rank < 1]
    if not 0 <= options.dropout < 1:
        found.append(Problem("adapter.dropout", f"is {options.dropout}", "give a share from 0 up to below 1"))
    if options.rate_ratio is not None and options.rate_ratio <= 0:
        found.append(Problem("adapter.learning_rate_ratio", f"is {options.rate_ratio}", "give more than 0; LoRA+ takes 16"))
    return found


def _unfit_base(modules: dict[str, nn.Module], options: LowRank) -> list[Problem]:
    found = []
    four_bit = any("4bit" in type(module).__name__ for module in modules.values())
    if options.start == "pissa" and four_bit:
        found.append(Problem("adapter.init", "pissa takes the largest directions out of the base, and this base is in 4 bits", "use loftq"))
    if options.start == "loftq" and not four_bit:
        found.append(
            Problem("adapter.init", "loftq starts from the error of a 4-bit base, and this base has none", "use default or pissa, or load the base in 4 bits")
        )
    if options.dora and not four_bit:
        zero = [name for name, module in modules.items() if isinstance(module, nn.Linear) and bool((module.weight.norm(dim=1) == 0).any())]
        found += [
            Problem(f"adapter.targets: {name}", "has a row of zeros, whose direction dora cannot keep", "leave the layer out, or use lora") for name in zero[:8]
        ]
    return found


def _sides(module: nn.Module) -> tuple[int, int]:
    return (module.num_embeddings, module.embedding_dim) if isinstance(module, nn.Embedding) else size(module)


def _rank(name: str, options: LowRank) -> int:
    return next((rank for pattern, rank in options.ranks.items() if _named(pattern, name)), options.r)


def _named(pattern: str, name: str) -> bool:
    """PEFT's own rule: a pattern stands for the whole name or for its end behind a dot."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def _say(model: Any, options: LowRank) -> None:
    plain = (2 * options.r if options.alpha is None else options.alpha) / options.r
    if not USUAL_SCALE[0] <= plain <= USUAL_SCALE[1]:
        warn(model, f"alpha / r is {plain:g}, outside {USUAL_SCALE[0]:g} to {USUAL_SCALE[1]:g}: the adapter will learn as if at another learning rate")
    if tied_ends(model):
        warn(model, f"the adapter sits on the {tied_ends(model)[0]}, whose weights the model uses twice: it works beside the base and cannot be merged")
    if options.dropout:
        warn(model, "dropout is drawn once per shared prefix, not once per row")


def tied_ends(model: Any) -> list[str]:
    """Which of the LM head and the embeddings has an adapter, where they are one tensor."""
    base = model.get_base_model()
    ends = {"LM head": base.get_output_embeddings(), "embeddings": base.get_input_embeddings()}
    touched = [name for name, module in ends.items() if hasattr(module, "base_layer")]
    return touched if getattr(base.config, "tie_word_embeddings", False) else []


def low_rank_layers(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers by the name of the base's layer that each stands for."""
    return {name.removeprefix("base_model.model."): module for name, module in model.named_modules() if hasattr(module, "lora_A") and len(module.lora_A)}


def delta(layer: Any, adapter: str = "default") -> torch.Tensor:
    """scale B A of one layer in fp32: (out, in)."""
    low, high = layer.lora_A[adapter].weight.detach().float(), layer.lora_B[adapter].weight.detach().float()
    product: torch.Tensor = high @ low
    return product * float(layer.scaling[adapter])
