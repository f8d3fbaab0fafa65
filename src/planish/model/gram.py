"""What calibration finds: the Gram matrix of every linear layer's input, for everything that asks which inputs matter (MISSION Z1).

One pass serves the importance matrix of K-quants (its diagonal), GPTQ (2 G is its Hessian), AWQ (||dW X||^2 = tr(dW G dW^T), at the price of the width and not of the text), Wanda
(||x|| is the root of the diagonal) and the scores of structured pruning. Layers that read the very same input, as query, key and value do, share one matrix. Where only diagonals
are wanted only they are kept: the matrices of a llama of 8 billion parameters (H = 4096, 14336 channels, 32 layers) are 33 GB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from planish.errors import InputError, Problem
from planish.rows import content_hash
from planish.store.objects import refuse_full, write_folder

FEWEST = 128
"""Sequences. Below this a column that is rare in the text may look as if nothing ever came through it."""
TENSORS, INDEX = "grams.safetensors", "grams.json"


@dataclass(frozen=True)
class Gram:
    """The input of one or more linear layers over N tokens. products: (D, D) X X^T, the sum of x x^T, or (D,) its diagonal alone; mean_abs (D,) = mean |x_j|; all fp32."""

    products: Tensor
    mean_abs: Tensor
    tokens: int

    @property
    def matrix(self) -> Tensor:
        """(D, D) X X^T. Raises ValueError where only the diagonal was collected."""
        if self.products.ndim == 1:
            raise ValueError("only the diagonal of this Gram matrix was collected")
        return self.products

    @property
    def diagonal(self) -> Tensor:
        """(D,) the sum of squares of each input column: the importance of its weights."""
        return self.products if self.products.ndim == 1 else self.products.diagonal()

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


def key(model: str, sequences: Iterable[Seq[int]], *, matrices: bool = True) -> str:
    """The name of what is collected: by the hash of the model's weights and by every token of the text."""
    return content_hash({"gram": 2, "model": model, "sequences": [list(ids) for ids in sequences]} | ({} if matrices else {"only": "diagonals"}))


def kept(root: Path, model: str, sequences: Seq[Seq[int]], make: Callable[[], Grams], *, matrices: bool = True) -> Grams:
    """The Grams of this model on this text, read from `root` where they were collected before, else made and kept there. Matrices hold the diagonals too."""
    whole = root / key(model, sequences)
    folder = whole if matrices or (whole / INDEX).is_file() else root / key(model, sequences, matrices=False)
    if not (folder / INDEX).is_file():
        made = make()
        root.mkdir(parents=True, exist_ok=True)
        refuse_full(folder, sum(4 * (gram.products.numel() + gram.mean_abs.numel()) for gram in made.matrices.values()))
        write_folder(folder, lambda partial: save(made, partial))
    return load(folder)


def save(grams: Grams, folder: Path) -> None:
    """`grams.safetensors` and `grams.json` into an existing folder."""
    tensors = {f"{name}.{part}": getattr(gram, part).contiguous() for name, gram in grams.matrices.items() for part in ("products", "mean_abs")}
    save_file(tensors, folder / TENSORS)
    counts = {name: gram.tokens for name, gram in grams.matrices.items()}
    said = {"inputs": grams.inputs, "tokens_of": counts, "sequences": grams.sequences, "tokens": grams.tokens}
    (folder / INDEX).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Grams:
    """What `save` wrote."""
    said = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    with safe_open(str(folder / TENSORS), framework="pt") as held:
        matrices = {name: Gram(held.get_tensor(f"{name}.products"), held.get_tensor(f"{name}.mean_abs"), count) for name, count in said["tokens_of"].items()}
    return Grams(said["inputs"], matrices, said["sequences"], said["tokens"])
