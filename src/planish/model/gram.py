"""Calibration: the Gram matrix of every linear layer's input, from one pass over training text, for everything that asks which inputs matter (MISSION Z1).

One pass serves the importance matrix of K-quants (its diagonal), GPTQ (2 G is its Hessian), AWQ (||dW X||^2 = tr(dW G dW^T), at the price of the width and not of the text), Wanda
(||x|| is the root of the diagonal) and the scores of structured pruning. Layers that read the very same input, as query, key and value do, share one matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from planish.errors import InputError, Problem, RunFailed
from planish.model.backbone import backbone, base_of
from planish.model.layout import use_plain
from planish.rows import content_hash
from planish.store.objects import refuse_full, write_folder

FEWEST = 128
"""Sequences. Below this a column that is rare in the text may look as if nothing ever came through it."""
TENSORS, INDEX = "grams.safetensors", "grams.json"


@dataclass(frozen=True)
class Gram:
    """The input of one or more linear layers over N tokens: matrix (D, D) = X X^T, its sum of x x^T; mean_abs (D,) = mean |x_j|; both fp32."""

    matrix: Tensor
    mean_abs: Tensor
    tokens: int

    @property
    def diagonal(self) -> Tensor:
        """(D,) the sum of squares of each input column: the importance of its weights."""
        return self.matrix.diagonal()

    @property
    def norms(self) -> Tensor:
        """(D,) ||x_j|| over all tokens."""
        return self.diagonal.clamp_min(0).sqrt()


@dataclass(frozen=True)
class Grams:
    """Every linear layer of a model, by its module name. `inputs` maps a layer to the layer under whose name `matrices` holds their common input."""

    inputs: dict[str, str]
    matrices: dict[str, Gram]
    sequences: int
    tokens: int

    def of(self, linear: str) -> Gram:
        """The Gram of a linear layer's input. Raises InputError for a layer that nothing came through."""
        if linear not in self.inputs:
            raise InputError(Problem(linear, "no calibration text came through this layer", "calibrate the model that is compressed"))
        return self.matrices[self.inputs[linear]]

    def sharing(self, linear: str) -> list[str]:
        """The layers that read the very input of this one, itself among them, in the order of the forward pass."""
        return [name for name, first in self.inputs.items() if first == self.inputs[linear]]

    @property
    def warning(self) -> str:
        """What must be said of so little text; empty where there is enough."""
        return f"calibrated on {self.sequences} sequences, fewer than {FEWEST}: rare inputs may look unused" if self.sequences < FEWEST else ""


@torch.no_grad()
def collect(
    model: nn.Module, sequences: Iterable[Seq[int]], *, only: Callable[[str], bool] = lambda _: True, advance: Callable[[int], object] = lambda _: None
) -> Grams:
    """One forward pass over every sequence of token ids, each by itself and without padding; nothing of the text is kept. The LM head is not among the layers.

    `only` chooses layers by module name (`model.layers.0.mlp.down_proj`); a layer of width D takes 4 D^2 bytes. Raises InputError without any text, RunFailed where an input is
    not finite.
    """
    names: dict[nn.Module, str] = {module: name for name, module in base_of(model).named_modules() if isinstance(module, nn.Linear)}
    inside = {module for module in backbone(model).modules() if isinstance(module, nn.Linear) and only(names[module])}
    inputs: dict[str, str] = {}
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, int] = {}
    latest: list[Any] = [None, ""]  # the input seen last, and the layer that read it first

    def seen(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        given, name = arguments[0], names[module]
        if given is latest[0] and inputs.get(name, latest[1]) == latest[1]:
            inputs[name] = latest[1]
            return
        if inputs.get(name, name) != name:
            raise RunFailed(Problem(name, f"shares its input with {inputs[name]} in one text and not in another", "this family cannot be calibrated"))
        latest[:] = [given, name]
        inputs[name] = name
        rows = given.reshape(-1, given.shape[-1]).float()
        if name not in sums:
            width = rows.shape[-1]
            sums[name] = (rows.new_zeros(width, width), rows.new_zeros(width))
        matrix, absolute = sums[name]
        matrix.addmm_(rows.T, rows)
        absolute.add_(rows.abs().sum(0))
        counts[name] = counts.get(name, 0) + len(rows)

    use_plain(model)
    hooks = [module.register_forward_pre_hook(seen) for module in inside]
    device = next(model.parameters()).device
    count = tokens = 0
    was = model.training
    model.eval()
    try:
        for ids in sequences:
            backbone(model)(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
            latest[:] = [None, ""]
            count, tokens = count + 1, tokens + len(ids)
            advance(1)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was)
    if not count:
        raise InputError(Problem("calibration", "there is no text to calibrate on", "give training rows"))
    broken = [name for name, (matrix, _) in sums.items() if not math.isfinite(float(matrix.sum()))]
    if broken:
        raise RunFailed(*(Problem(name, "its inputs are not finite on the calibration text", "check the weights of the model") for name in broken[:20]))
    matrices = {name: Gram(matrix.cpu(), absolute.cpu() / counts[name], counts[name]) for name, (matrix, absolute) in sums.items()}
    return Grams(inputs, matrices, count, tokens)


def key(model: str, sequences: Iterable[Seq[int]]) -> str:
    """The name of what is collected: by the hash of the model's weights and by every token of the text."""
    return content_hash({"gram": 1, "model": model, "sequences": [list(ids) for ids in sequences]})


def kept(root: Path, model: str, sequences: Seq[Seq[int]], make: Callable[[], Grams]) -> Grams:
    """The Grams of this model on this text, read from `root` where they were collected before, else made and kept there."""
    folder = root / key(model, sequences)
    if not (folder / INDEX).is_file():
        made = make()
        root.mkdir(parents=True, exist_ok=True)
        refuse_full(folder, sum(4 * (gram.matrix.numel() + gram.mean_abs.numel()) for gram in made.matrices.values()))
        write_folder(folder, lambda partial: save(made, partial))
    return load(folder)


def save(grams: Grams, folder: Path) -> None:
    """`grams.safetensors` and `grams.json` into an existing folder."""
    tensors = {f"{name}.{part}": getattr(gram, part).contiguous() for name, gram in grams.matrices.items() for part in ("matrix", "mean_abs")}
    save_file(tensors, folder / TENSORS)
    counts = {name: gram.tokens for name, gram in grams.matrices.items()}
    said = {"inputs": grams.inputs, "tokens_of": counts, "sequences": grams.sequences, "tokens": grams.tokens}
    (folder / INDEX).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Grams:
    """What `save` wrote."""
    said = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with safe_open(str(folder / TENSORS), framework="pt") as held:
        matrices = {name: Gram(held.get_tensor(f"{name}.matrix"), held.get_tensor(f"{name}.mean_abs"), count) for name, count in said["tokens_of"].items()}
    return Grams(said["inputs"], matrices, said["sequences"], said["tokens"])
