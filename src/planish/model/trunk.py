"""Nothing is computed for nobody: the frozen layers below the lowest trained one have no backward pass, and what they give is kept on disk (DESIGN, The training core 4).

The backward pass stops by itself below the lowest trained tensor, as long as nobody asks the embeddings for a gradient (`stop_backward` sees to it). The cost of a token is then
2N + 2fN instead of 4N, where f is the share of layers from the lowest trained one upward; with the trunk cached, 4fN.

How a loop turns the cache on:

    depth = frozen_depth(model)
    trunk = Trunk(model, folder / "trunk.bin", budget_bytes, precision) if depth else None     # trunk.reason says why nothing is kept, if so
    score(model, tree, precision, device, trunk=trunk)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planish.data.tree import Sequence, Tree, build
from planish.model.activation_cache import BLOCK, ActivationCache
from planish.model.backbone import backbone, base_of, layers
from planish.model.layer_states import kept_of
from planish.model.layout import layout_of
from planish.model.tree_forward import autocast, forward, padded_size


def frozen_depth(model: nn.Module) -> int:
    """How many layers from the first on stand below everything that is trained, embeddings included; 0 when there is no such layer."""
    stack = layers(model)
    heads = [base_of(model).get_output_embeddings(), getattr(base_of(model), "class_head", nn.Identity())]
    above = [*_after(model), *stack, *heads]
    ours = {id(parameter) for module in above for parameter in module.parameters()}
    below = {id(parameter) for module in _before(model) for parameter in module.parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad and (id(parameter) in below or id(parameter) not in ours):
            return 0
    trained = (index for index, layer in enumerate(stack) if any(parameter.requires_grad for parameter in layer.parameters()))
    return next(trained, len(stack))


def stop_backward(model: nn.Module) -> None:
    """Take back what PEFT or a checkpointing helper did to the embeddings: an output that asks for a gradient drags the backward pass through every frozen layer."""
    base = base_of(model)
    if hasattr(base, "_require_grads_hooks") or hasattr(base, "_require_grads_hook"):
        base.disable_input_require_grads()


class Trunk:
    """The frozen lower layers of a model with their outputs on disk; from the second epoch on they are read, not computed.

    A token's activation depends on its path alone, so blocks are kept per path and any micro-batch is put together from them; only paths with a missing block are computed.
    Stored in the trunk's own number format, so a cached epoch differs from an uncached one by the rounding of matrix products of other shapes, and by nothing where the shape is
    the same. `reason` says why nothing is kept: then `hidden_states` is the plain forward pass.
    """

    def __init__(self, model: nn.Module, path: Path, budget: int, precision: str, device: torch.device | str = "cpu") -> None:
        self.model, self.depth = model, frozen_depth(model)
        self.reason = self._unfit()
        self.cache: ActivationCache | None = None
        if not self.reason:
            stop_backward(model)
            probe = build([Sequence(tuple(range(1, 8)), (0.0,) * 7)])
            with autocast(precision, device):
                boundary, self._tuple = self._compute(probe, device)
            self.cache = ActivationCache(path, budget, boundary.size(1), boundary.dtype, f"{_fingerprint(model, self.depth)}|{precision}")
            with autocast(precision, device):
                self.reason = self._checked(probe, boundary, device)

    def hidden_states(self, tree: Tree, device: torch.device | str = "cpu") -> Tensor:
        """Last hidden states of every unique token: (T, H)."""
        if self.reason or self.cache is None:
            return forward(self.model, tree, device)
        return self._upper(tree, self._boundary(tree, self.cache, device), device)

    def close(self) -> None:
        """Let go of the file."""
        if self.cache is not None:
            self.cache.close()

    def _unfit(self) -> str:
        if not self.depth:
            return "the first layer or the embeddings are trained"
        if kept_of(self.model) is not None:
            return "the hidden states of its layers are looked at"
        if layout_of(self.model).kind == "rows":
            return f"rows are laid out plainly ({layout_of(self.model).reason})"
        parts = [*_before(self.model), *layers(self.model)[: self.depth]]
        rates = {float(rate) for part in parts for module in part.modules() for rate in (getattr(module, "p", 0), getattr(module, "attention_dropout", 0))}
        return "the frozen layers have dropout, so that they never give the same twice" if rates - {0.0} else ""

    def _checked(self, probe: Tree, boundary: Tensor, device: torch.device | str) -> str:
        """Some families carry more from layer to layer than one hidden state: then putting it back is not enough."""
        with torch.no_grad(), _evaluating(self.model):
            whole, put = forward(self.model, probe, device), self._upper(probe, boundary, device)
        off = float((whole - put).float().norm() / whole.float().norm())
        return (
            ""
            if off <= (1e-3 if boundary.dtype == torch.float32 else 5e-2)
            else f"the layers above need more of the trunk than its hidden state (off by {off:.1e})"
        )

    def _boundary(self, tree: Tree, cache: ActivationCache, device: torch.device | str) -> Tensor:
        """What the highest frozen layer gives for each token: (T, H), from the cache where it can."""
        result = torch.empty(len(tree.ids), cache.width, dtype=cache.dtype)
        known = np.zeros(len(tree.ids), bool)
        missing: dict[int, list[tuple[bytes, Any]]] = {}
        for leaf in tree.leaves:
            path = tree.path(leaf)
            for index, key in enumerate(cache.keys(tree.ids[path])):
                span = path[index * BLOCK : (index + 1) * BLOCK]
                if known[span].all():
                    continue
                block = cache.get(key)
                if block is None:
                    missing.setdefault(leaf, []).append((key, span))
                else:
                    result[torch.from_numpy(span)] = block
                    known[span] = True
        if missing:
            part, places = tree.restricted(list(missing))
            values, _ = self._compute(part, device)
            result[torch.from_numpy(places)] = values.to("cpu")
            for blocks in missing.values():
                for key, span in blocks:
                    cache.put(key, result[torch.from_numpy(span)])
        return result.to(device)

    def _compute(self, tree: Tree, device: torch.device | str) -> tuple[Tensor, int]:
        """Run the trunk alone. Gives its output (T, H), and how many entries a layer's tuple has, 0 for a bare tensor."""
        found: list[Any] = []

        def catch(module: nn.Module, inputs: Any, output: Any) -> None:
            found.append(output)
            raise _Enough

        hook = layers(self.model)[self.depth - 1].register_forward_hook(catch)
        try:
            with torch.no_grad():
                forward(self.model, tree, device)
        except _Enough:
            pass
        finally:
            hook.remove()
        (output,) = found
        hidden = output[0] if isinstance(output, tuple) else output
        return hidden[0, : len(tree.ids)], len(output) if isinstance(output, tuple) else 0

    def _upper(self, tree: Tree, boundary: Tensor, device: torch.device | str) -> Tensor:
        filled = torch.nn.functional.pad(boundary, (0, 0, 0, padded_size(tree, device) - len(boundary)))[None]
        output = (filled, *[None] * (self._tuple - 1)) if self._tuple else filled
        with _skipped(layers(self.model)[: self.depth], output):
            return forward(self.model, tree, device)


class _Enough(Exception):
    """The trunk has been computed; the layers above are not needed."""


@contextmanager
def _skipped(stack: Any, output: Any) -> Iterator[None]:
    """Let each of these layers give `output` at once, whatever comes in."""
    before = [layer.__dict__.get("forward") for layer in stack]
    for layer in stack:
        layer.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for layer, own in zip(stack, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _before(model: nn.Module) -> list[nn.Module]:
    """The backbone's parts that run before its layers: those registered before them."""
    return _around(model)[0]


def _after(model: nn.Module) -> list[nn.Module]:
    return _around(model)[1]


def _around(model: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    stack = layers(model)
    owner: nn.Module = next(module for module in backbone(model).modules() if any(child is stack for child in module.children()))
    children = list(owner.children())
    at = next(index for index, child in enumerate(children) if child is stack)
    return children[:at], children[at + 1 :]


def _fingerprint(model: nn.Module, depth: int) -> str:
    """sha256 over everything that the trunk's output depends on: its weights and the model's configuration."""
    digest = hashlib.sha256(f"{depth}|{base_of(model).config.to_json_string(use_diff=False)}".encode())
    for part in [*_before(model), *layers(model)[:depth]]:
        for name, tensor in part.state_dict().items():
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()
