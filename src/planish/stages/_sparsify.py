"""Weights set to zero inside their matrices: written, counted, and held against the clock, because zeros in a dense file save neither bytes nor time (MISSION Z7)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from planish.errors import InputError, Problem, RunFailed
from planish.model.bundled import identity
from planish.model.cut_folder import Source, selected, write_values
from planish.model.safetensors_header import BYTES
from planish.model.tensor_stream import FLOATING, PIECE
from planish.model.units import LAYER, PART
from planish.progress import Progress, Silent
from planish.rows import Noun, canonical_json
from planish.shelf import call
from planish.stages._prune import REPORT, refuse_place
from planish.store.objects import write_folder

TECHNIQUES = ("magnitude", "wanda", "nm_sparsity")
NOTE = (
    "zeros in dense tensors save neither memory nor time: the file is as large and every product as long as before. 2:4 is faster only on sparse tensor units "
    "of a GPU (1.1x inference in torchao's figures); a bit mask would store it smaller, and no runtime here computes from one. "
    "To shrink, prune heads, channels or layers, or quantise."
)
REPEATS = 7


class SparseReport(Noun):
    """What was zeroed. `zeros` are shares of the weights of the matrices before and after; `moved` the length of the change over that of the weights.

    `bytes` is the file's, dense as before; `mask_bytes` what the matrices would take as kept values and one bit a weight. `speed_dense` and `speed_rows` are how many
    times faster a product with the widest matrix became here, measured, as dense zeros and in torch's compressed rows.
    """

    parent: str
    parent_identity: str
    technique: str
    options: dict[str, Any]
    weights: int
    zeros_before: float
    zeros: float
    moved: float
    bytes: int
    mask_bytes: int
    speed_dense: float
    speed_rows: float
    note: str = NOTE
    seconds: float


def prunable(name: str) -> bool:
    """Whether a tensor is the weight of a linear layer of a decoder layer; embeddings, norms and the head are left alone."""
    match = LAYER.match(name)
    part = PART.match(match[2]) if match else None
    return part is not None and part[2] == "weight"


def sparsify(
    source: Source, technique: str, options: Mapping[str, Any], out: Path, *, norms: Callable[[str], Tensor] | None = None, progress: Progress | None = None
) -> SparseReport:
    """Write the checkpoint with the technique on every linear weight of its layers to the new folder `out`. `norms(layer)` gives ||x_j|| of calibration by module name.

    Raises InputError for an `out` that exists, options that do not fit a weight's shape, and weights that are not finite; RunFailed where not one weight became zero.
    """
    refuse_place(source.folder, out)
    wide = [name for name in source.entries if prunable(name) and options.get("m") and source.entries[name].shape[1] % options["m"]]
    if wide:
        why = f"{len(wide)} matrices have a width not divisible by {options['m']}, as {source.entries[wide[0]].shape[1]}"
        raise InputError(Problem(wide[0], why, "choose an m that divides it, or magnitude"))
    began, shown = time.perf_counter(), progress or Silent()
    change = {"weights": 0, "before": 0, "zeros": 0, "difference": 0.0, "length": 0.0, "mask": 0}
    widest = max((name for name in source.entries if prunable(name)), key=lambda name: source.entries[name].size)
    sample: list[Tensor] = []
    reports: list[SparseReport] = []

    def values(name: str) -> Iterator[Tensor]:
        if not prunable(name):
            yield from selected(source, name, None, None)
            return
        entry = source.entries[name]
        whole = torch.cat(list(selected(source, name, None, None))).view(entry.shape)
        made = call("transforms", technique, "transform", dict(options))(whole, None if norms is None else norms(name.removesuffix(".weight")))
        stored = made.to(FLOATING[entry.dtype])
        kept = int(torch.count_nonzero(stored))
        change["weights"] += whole.numel()
        change["before"] += whole.numel() - int(torch.count_nonzero(whole))
        change["zeros"] += whole.numel() - kept
        change["difference"] += float(torch.linalg.vector_norm(whole - made)) ** 2
        change["length"] += float(torch.linalg.vector_norm(whole)) ** 2
        change["mask"] += kept * BYTES[entry.dtype] + math.ceil(whole.numel() / 8)
        if name == widest:
            sample[:] = [whole, made]
        flat = stored.reshape(-1)
        yield from (flat[start : start + PIECE] for start in range(0, len(flat), PIECE))

    def fill(partial: Path) -> None:
        with shown.bar(f"zero weights ({technique})", len(source.entries)) as advance:
            written = write_values(source, values, partial, advance)
        if change["zeros"] == change["before"]:
            raise RunFailed(Problem(technique, f"not one of {change['weights']} weights became zero", "raise the sparsity"))
        dense, rows = speed(sample[0], sample[1])
        reports.append(
            SparseReport(
                parent=source.folder.resolve().name,
                parent_identity=identity(source.folder),
                technique=technique,
                options=dict(options),
                weights=int(change["weights"]),
                zeros_before=change["before"] / change["weights"],
                zeros=change["zeros"] / change["weights"],
                moved=math.sqrt(change["difference"] / change["length"]),
                bytes=written,
                mask_bytes=int(change["mask"]),
                speed_dense=dense,
                speed_rows=rows,
                seconds=time.perf_counter() - began,
            )
        )
        (partial / REPORT).write_text(canonical_json(reports[0].model_dump(mode="json")) + "\n", encoding="utf-8")

    write_folder(out, fill, replace=False)
    return reports[0]


def speed(before: Tensor, after: Tensor, tokens: int = 32) -> tuple[float, float]:
    """Median time of a product with `before` over that with `after`, as a dense matrix and in compressed rows (CSR); interleaved, on this machine."""
    from warnings import catch_warnings, simplefilter

    given = torch.randn(tokens, before.shape[1], generator=torch.Generator().manual_seed(0))
    with catch_warnings():
        simplefilter("ignore")  # torch calls compressed rows a beta
        rows = after.to_sparse_csr()
    columns = given.T.contiguous()
    products: tuple[Callable[[], Tensor], ...] = (
        lambda: nn.functional.linear(given, before),
        lambda: nn.functional.linear(given, after),
        lambda: rows @ columns,
    )
    taken: list[list[float]] = [[], [], []]
    for _ in range(REPEATS):
        for product, times in zip(products, taken, strict=True):
            began = time.perf_counter()
            product()
            times.append(time.perf_counter() - began)
    first, dense, compressed = (statistics.median(times) for times in taken)
    return first / dense, first / compressed
