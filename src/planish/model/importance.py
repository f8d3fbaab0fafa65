"""What a weight, a head, a channel or a layer is worth: magnitude, gradient, curvature, activation, block influence, and what its loss costs in truth (MISSION Z8).

Scores rank units of one kind; they do not predict the damage. Sources: optimal brain damage (LeCun 1989) and surgeon (Hassibi 1993), first-order Taylor (arXiv 1906.10771),
block influence (arXiv 2403.03853).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model.backbone import backbone
from planish.model.backbone import layers as layers_of
from planish.model.cut_folder import Source, selected
from planish.model.gram import Grams
from planish.model.layout import use_plain
from planish.model.tensor_stream import PIECE
from planish.model.units import LAYER, PART, Units

Scores = dict[str, Tensor]
"""Kind -> scores: layers (L,), heads (L, groups), channels (L, channels); fp64, higher matters more."""
DAMPING = 0.01
"""Of the mean diagonal, added to a Gram matrix before it is inverted: text of fewer tokens than columns leaves it singular."""


def magnitude(weight: Tensor) -> Tensor:
    """|w|."""
    return weight.abs()


def gradient(weight: Tensor, grad: Tensor) -> Tensor:
    """g w, signed; a unit's score is the size of the sum: |sum g w|."""
    return grad * weight


def hessian(weight: Tensor, curvature: Tensor) -> Tensor:
    """h w^2 / 2, h the diagonal of the Hessian (optimal brain damage)."""
    return curvature * weight.square() / 2


def surgeon(weight: Tensor, inverse: Tensor) -> Tensor:
    """w^2 / (2 [H^-1]_ii): the loss of removing a weight when the others make up for it (optimal brain surgeon). `inverse` is the diagonal of H^-1, by column."""
    return weight.square() / (2 * inverse)


class _Sums:
    """Per-weight scores added up over the units that the weights belong to."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.heads = torch.zeros(units.layers, units.groups, dtype=torch.float64)
        self.channels = torch.zeros(units.layers, units.channels, dtype=torch.float64)

    def add(self, name: str, values: Tensor, first_row: int = 0) -> None:
        """(R, C) scores of the rows from `first_row` on of a weight; weights of no unit are passed over."""
        match = LAYER.match(name)
        part = PART.match(match[2]) if match else None
        if match is None or part is None or part[2] != "weight":
            return
        head, outward = part[1].startswith("self_attn"), part[1] in ("self_attn.o_proj", "mlp.down_proj")
        each = 1 if not head else self.units.width * (self.units.queries if part[1] in ("self_attn.q_proj", "self_attn.o_proj") else 1)
        sums = values.double().sum(0 if outward else 1)
        at = (torch.arange(len(sums)) + (0 if outward else first_row)) // each
        (self.heads if head else self.channels)[int(match[1])].index_add_(0, at, sums.cpu())

    def scores(self) -> Scores:
        """Signed sums made sizes; a layer's is that of all its units."""
        return {"heads": self.heads.abs(), "channels": self.channels.abs(), "layers": (self.heads.sum(1) + self.channels.sum(1)).abs()}


def by_magnitude(source: Source) -> Scores:
    """Sum of |w| over each unit's weights, streamed from the files."""
    sums = _Sums(source.units)
    for name, entry in source.entries.items():
        match = LAYER.match(name)
        if match is None or PART.match(match[2]) is None or len(entry.shape) != 2:
            continue
        width = entry.shape[1]
        step = max(1, PIECE // width)
        for place, values in enumerate(selected(source, name, None, None)):
            sums.add(name, magnitude(values.view(-1, width)), place * step)
    return sums.scores()


def losses(model: Any, sequences: Seq[Seq[int]]) -> Iterator[tuple[Tensor, int]]:
    """Sum of -ln p over the predicted tokens of each sequence, and their number. Raises InputError where no sequence has two tokens."""
    use_plain(model)
    device = next(model.parameters()).device
    told = [ids for ids in sequences if len(ids) > 1]
    if not told:
        raise InputError(Problem("importance", "there is no text of two tokens to score units on", "give training rows"))
    for ids in told:
        tokens = torch.tensor([list(ids)], device=device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        yield nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"), len(ids) - 1


def by_gradient(model: nn.Module, units: Units, sequences: Seq[Seq[int]], advance: Callable[[int], object] = lambda _: None) -> dict[str, Scores]:
    """`gradient`: |sum g w| with g of the mean loss; `hessian`: sum h w^2/2 with h the mean squared gradient of a token's loss, by sequence (empirical Fisher).

    Takes gradients and squares of every unit's weights: three times the weights in fp32.
    """
    weights = {name: value for name, value in model.named_parameters() if (match := LAYER.match(name)) and PART.match(match[2]) and value.ndim == 2}
    trained = {name: value.requires_grad for name, value in model.named_parameters()}
    for name, value in model.named_parameters():
        value.requires_grad_(name in weights)
    total: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    tokens = 0
    try:
        with torch.enable_grad():
            for loss, count in losses(model, sequences):
                grads = torch.autograd.grad(loss, list(weights.values()))
                tokens += count
                for name, grad in zip(weights, grads, strict=True):
                    total[name] = grad.float() + total.get(name, 0.0)
                    squares[name] = grad.float().square() / count + squares.get(name, 0.0)
                advance(1)
    finally:
        for name, value in model.named_parameters():
            value.requires_grad_(trained[name])
    first, second = _Sums(units), _Sums(units)
    for name, value in weights.items():
        weight = value.detach().float()
        first.add(name, gradient(weight, total[name] / tokens))
        second.add(name, hessian(weight, squares[name] / tokens))
    return {"gradient": first.scores(), "hessian": second.scores()}


def by_inputs(model: nn.Module, units: Units, grams: Grams) -> dict[str, Scores]:
    """`activation`: root mean square of what a unit gives, times the length of the column that reads it; `obs`: w^2/(2 Hinv_ii) with H the mean x x^T of that input.

    `grams` must hold the inputs of every o_proj and down_proj.
    """
    active, obs = _Sums(units), _Sums(units)
    for name, value in model.named_parameters():
        if not name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")):
            continue
        weight, gram = value.detach().float().cpu(), grams.of(name.removesuffix(".weight"))
        mean = gram.matrix.double() / gram.tokens
        active.add(name, weight.double().square() * mean.diagonal())
        damped = mean + DAMPING * mean.diagonal().mean().clamp_min(1e-12) * torch.eye(len(mean), dtype=torch.float64)
        obs.add(name, surgeon(weight.double(), torch.cholesky_inverse(torch.linalg.cholesky(damped)).diagonal()))
    return {"activation": {kind: scores.sqrt() for kind, scores in active.scores().items()}, "obs": obs.scores()}


@torch.no_grad()
def by_influence(model: nn.Module, sequences: Seq[Seq[int]]) -> Scores:
    """Block influence of layers only: 1 - mean cosine between a layer's input and output, token by token. A layer that turns nothing is worth nothing."""
    stack = layers_of(model)
    sums = torch.zeros(len(stack), dtype=torch.float64)

    def seen(at: int) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            sums[at] += torch.nn.functional.cosine_similarity(given[0].double(), _hidden(made).double(), dim=-1).sum().cpu()

        return hook

    hooks = [layer.register_forward_hook(seen(at)) for at, layer in enumerate(stack)]
    tokens, device = 0, next(model.parameters()).device
    use_plain(model)
    try:
        for ids in sequences:
            backbone(model)(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
            tokens += len(ids)
    finally:
        for one in hooks:
            one.remove()
    if not tokens:
        raise InputError(Problem("importance", "there is no text to score layers on", "give training rows"))
    return {"layers": 1 - sums / tokens}


@torch.no_grad()
def by_ablation(model: nn.Module, units: Units, sequences: Seq[Seq[int]], kinds: Seq[str], advance: Callable[[int], object] = lambda _: None) -> Scores:
    """How much the mean loss rises (nats a token) without each unit, one pass of all text a unit: the truth the other scores stand in for."""

    def mean() -> float:
        told = list(losses(model, sequences))
        return sum(float(loss) for loss, _ in told) / sum(count for _, count in told)

    whole, found = mean(), {}
    for kind in kinds:
        count = {"layers": 1, "heads": units.groups, "channels": units.channels}[kind]
        rises = torch.zeros(units.layers, count, dtype=torch.float64)
        for layer in range(units.layers):
            for unit in range(count):
                with without(model, units, kind, layer, unit):
                    rises[layer, unit] = mean() - whole
                advance(1)
        found[kind] = rises[:, 0] if kind == "layers" else rises
    return found


@contextmanager
def without(model: nn.Module, units: Units, kind: str, layer: int, unit: int = 0) -> Iterator[None]:
    """The model with one unit silenced: a layer passes its input on; a group of heads or a channel gives zeros."""
    block: Any = layers_of(model)[layer]
    each = units.queries * units.width

    def silenced(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        part = slice(unit * each, (unit + 1) * each) if kind == "heads" else slice(unit, unit + 1)
        quiet = given[0].clone()
        quiet[..., part] = 0
        return (quiet, *given[1:])

    def passed(_: nn.Module, given: tuple[Any, ...], made: Any) -> Any:
        return (given[0], *made[1:]) if isinstance(made, tuple) else given[0]

    reader = block.self_attn.o_proj if kind == "heads" else block.mlp.down_proj
    hook = block.register_forward_hook(passed) if kind == "layers" else reader.register_forward_pre_hook(silenced)
    try:
        yield
    finally:
        hook.remove()


def _hidden(made: Any) -> Tensor:
    found: Tensor = made[0] if isinstance(made, tuple) else made
    return found
