"""The calibration pass: training text once through a model, and what every linear layer reads of it added up (MISSION Z1).

What texts share from their beginnings on, an instruction say, is computed once and counts as often as it is shared: the text goes through on prefix trees, as in training. With m_t
texts through token t, X X^T = sum of m_t x_t x_t^T, which is the product of the rows sqrt(m_t) x_t with themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Sequence, pack
from planish.errors import InputError, Problem, RunFailed
from planish.model.backbone import backbone, base_of
from planish.model.gram import Gram, Grams
from planish.model.layout import shares_prefixes, use_plain, use_tree
from planish.model.tree_forward import forward, padded_size

TREE_TOKENS = 2048


class _Routed(Exception):
    """A layer reads a choice of the tokens, as an expert does: how often each of them counts is not known there."""


class _Sums:
    """What has come through the layers so far. `times` (T,) says how often each token of the current pass counts; None: once each."""

    def __init__(self, layers: dict[nn.Module, str], *, matrices: bool) -> None:
        self.layers, self.matrices = layers, matrices
        self.times: Tensor | None = None
        self.inputs: dict[str, str] = {}
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.counts: dict[str, int] = {}
        self._latest: tuple[Any, str] = (None, "")  # the input seen last, and the layer that read it first

    def begin(self, times: Tensor | None) -> None:
        """Before each pass."""
        self.times, self._latest = times, (None, "")

    def seen(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """The hook of a layer. Raises RunFailed where layers share an input in one text and not in another."""
        given, name = arguments[0], self.layers[module]
        same, first = self._latest
        if given is same and self.inputs.get(name, first) == first:
            self.inputs[name] = first
            return
        if self.inputs.get(name, name) != name:
            raise RunFailed(Problem(name, f"shares its input with {self.inputs[name]} in one text and not in another", "this family cannot be calibrated"))
        self._latest, self.inputs[name] = (given, name), name
        self._add(name, given)

    def _add(self, name: str, given: Tensor) -> None:
        rows = given.reshape(-1, given.shape[-1]).float()
        width = rows.shape[-1]
        if name not in self.sums:
            self.sums[name] = (rows.new_zeros((width, width) if self.matrices else width), rows.new_zeros(width))
        if self.times is not None:
            if len(rows) != len(self.times):
                raise _Routed
            root = self.times.sqrt()
            rows = rows * root[:, None]
        products, absolute = self.sums[name]
        if self.matrices:
            products.addmm_(rows.T, rows)
        else:
            products.add_(rows.square().sum(0))
        absolute.add_(rows.abs().sum(0) if self.times is None else root @ rows.abs())
        self.counts[name] = self.counts.get(name, 0) + (len(rows) if self.times is None else int(self.times.sum()))


@torch.no_grad()
def collect(
    model: nn.Module,
    sequences: Iterable[Seq[int]],
    *,
    only: Callable[[str], bool] = lambda _: True,
    matrices: bool = True,
    advance: Callable[[int], object] = lambda _: None,
) -> Grams:
    """One pass over every sequence of token ids; nothing of the text is kept. The LM head is not among the layers.

    `only` chooses layers by module name (`model.layers.0.mlp.down_proj`); a layer of width D takes 4 D^2 bytes, or without `matrices` 4 D. A model that cannot follow a prefix tree
    or has experts reads each sequence by itself. `advance` is told of sequences. Raises InputError without any text, RunFailed where an input is not finite.
    """
    texts = [tuple(ids) for ids in sequences]
    if not texts:
        raise InputError(Problem("calibration", "there is no text to calibrate on", "give training rows"))
    names: dict[nn.Module, str] = {module: name for name, module in base_of(model).named_modules() if isinstance(module, nn.Linear)}
    layers: dict[nn.Module, str] = {module: names[module] for module in backbone(model).modules() if isinstance(module, nn.Linear) and only(names[module])}
    was = model.training
    model.eval()
    try:
        sums = _passes(model, texts, layers, matrices, advance)
    finally:
        model.train(was)
    broken = [name for name, (products, _) in sums.sums.items() if not math.isfinite(float(products.sum()))]
    if broken:
        raise RunFailed(*(Problem(name, "its inputs are not finite on the calibration text", "check the weights of the model") for name in broken[:20]))
    found = {name: Gram(products.cpu(), absolute.cpu() / sums.counts[name], sums.counts[name]) for name, (products, absolute) in sums.sums.items()}
    return Grams(sums.inputs, found, len(texts), sum(map(len, texts)))


def _passes(model: nn.Module, texts: Seq[tuple[int, ...]], layers: dict[nn.Module, str], matrices: bool, advance: Callable[[int], object]) -> _Sums:
    """On trees, or text by text where that gives other sums: the same figures, at the price of every token of every text."""
    if not shares_prefixes(model):
        return _watched(_alone, model, texts, _Sums(layers, matrices=matrices), advance)
    try:
        return _watched(_on_trees, model, texts, _Sums(layers, matrices=matrices), advance)
    except _Routed:  # the first tree shows it, and its sums are let go of
        return _watched(_alone, model, texts, _Sums(layers, matrices=matrices), advance)


def _watched(run: Callable[..., None], model: nn.Module, texts: Seq[tuple[int, ...]], sums: _Sums, advance: Callable[[int], object]) -> _Sums:
    hooks = [module.register_forward_pre_hook(sums.seen) for module in sums.layers]
    try:
        run(model, texts, sums, advance)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def _on_trees(model: nn.Module, texts: Seq[tuple[int, ...]], sums: _Sums, advance: Callable[[int], object]) -> None:
    use_tree(model)
    device = next(model.parameters()).device
    for members, tree in pack([[_read_whole(ids)] for ids in texts], TREE_TOKENS):
        times = np.bincount(tree.scored_at, minlength=padded_size(tree, device)).astype(np.float32)
        sums.begin(torch.from_numpy(times).to(device))
        forward(model, tree, device)
        advance(len(members))


def _read_whole(ids: tuple[int, ...]) -> Sequence:
    """A sequence of which every token is an input and counts: the last of a tree's sequence is only a target."""
    return Sequence((*ids, 0), (0.0, *[1.0] * len(ids)))


def _alone(model: nn.Module, texts: Seq[tuple[int, ...]], sums: _Sums, advance: Callable[[int], object]) -> None:
    use_plain(model)
    device = next(model.parameters()).device
    for ids in texts:
        sums.begin(None)
        backbone(model)(input_ids=torch.tensor([ids], device=device), use_cache=False)
        advance(1)


def tree_tokens(texts: Iterable[Seq[int]]) -> int:
    """Tokens that the layers see of these texts, shared ones once: what the pass costs."""
    return sum(len(tree.ids) for _, tree in pack([[_read_whole(tuple(ids))] for ids in texts], TREE_TOKENS))
