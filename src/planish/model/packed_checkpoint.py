"""A checkpoint folder with its linear layers in codes: written unit by unit from the original, which is never held whole, and read back as the plain weights that it stands for."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from planish.errors import InputError, Problem, RunFailed
from planish.model.cut_folder import CARRIED
from planish.model.json_object import read_json
from planish.model.merge_sources import Adapted, Checkpoint, Parent
from planish.model.packed import Form, Layout, LayoutName, form_of, pack, quantization_config, shapes, unpack
from planish.model.rtn import Coded, group_for
from planish.model.safetensors_header import BYTES, weight_files
from planish.model.tensor_stream import opened, write_tensors
from planish.progress import Advance, Progress, Silent
from planish.store.objects import write_folder

Made = Mapping[str, Coded | Tensor]
"""The tensors of a unit by their original names: in codes, or changed and plain."""


class Written(NamedTuple):
    """`changed` is ||W' - W|| / ||W|| over all weights in codes; `bytes` are those of the files, `bits` those of all tensors, a weight; `types` counts tensors."""

    bytes: int
    changed: float
    bits: float
    types: dict[str, int]


def open_source(checkpoint: Path, adapter: Path | None) -> Parent:
    """The weights to be quantised, the LoRA folder merged in fp32 as they are read."""
    base = Checkpoint(checkpoint)
    return base if adapter is None else Adapted(adapter, base)


def matrix(source: Parent, name: str) -> Tensor:
    """A whole tensor in fp32. Raises InputError for one that is not finite."""
    entry = source.entries[name]
    values = source.read(name, 0, entry.size).reshape(entry.shape)
    if not bool(torch.isfinite(values).all()):
        raise InputError(Problem(f"{source.folder}: {name}", "holds NaN or infinite weights", "fetch or train this model again"))
    return values


def linear_weights(source: Parent) -> list[str]:
    """The matrices inside the layers, which are what is put in codes; embeddings and the LM head stay. In the order of the layers."""
    return sorted((name for name, entry in source.entries.items() if ".layers." in name and name.endswith(".weight") and len(entry.shape) == 2), key=_natural)


def refuse_shapes(given: Mapping[str, tuple[int, ...]], layout: LayoutName, bits: int, group: int) -> None:
    """Raises InputError for matrices inside the layers that no group of columns divides, and for those that do not fill the words of a layout."""
    inside = {name: shape for name, shape in given.items() if ".layers." in name and name.endswith(".weight") and len(shape) == 2}
    form = Form(layout, bits, group_for((shape[1] for shape in inside.values()), group), symmetric=True)
    for name, (rows, columns) in inside.items():
        shapes(name.removesuffix(".weight"), rows, columns, form)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def write(
    target: Path,
    checkpoint: Path,
    source: Parent,
    units: Sequence[Sequence[str]],
    coded: Sequence[str],
    make: Callable[[dict[str, Tensor]], Made],
    form: Form,
    progress: Progress | None = None,
) -> Written:
    """Write the folder `target`, whole or not at all, of `source`, whose tokenizer is in `checkpoint`. Each of `units` is a few tensors that `make` is given together; other
    tensors are copied. `coded` are those it gives in codes.

    Raises InputError where a layout cannot hold a shape, RunFailed where nothing changed: a compressor that did nothing is an error.
    """
    layout, owner, quantised = _layout(source, units, coded, form)
    sums = [0.0, 0.0]
    held: dict[str, Tensor] = {}
    at: list[int] = [-1]

    def values(name: str, advance: Advance) -> Iterator[Tensor]:
        if name not in owner:
            yield matrix(source, name).reshape(-1)
            return
        if at[0] != owner[name]:
            at[0] = owner[name]
            held.clear()
            held.update(_packed({one: matrix(source, one) for one in units[owner[name]]}, make, form, sums))
            advance(1)
        yield held[name].reshape(-1)

    size: list[int] = []

    def fill(folder: Path) -> None:
        with (progress or Silent()).bar(f"writing {target.name}", len(units)) as advance:
            write_tensors(folder, layout, lambda name: values(name, advance))
            size.append(sum(path.stat().st_size for path in folder.glob("*.safetensors")))  # of the files, headers and all, as every other format is counted
        if sums[0] == 0:
            raise RunFailed(Problem(target.name, "no weight was changed: the compressor did nothing", "give the original weights"))
        kept = sorted({name.removesuffix(".weight") for name in linear_weights(source)} - {name.removesuffix(".weight") for name in quantised})
        config = {**source.config, "quantization_config": quantization_config(form, [*kept, "lm_head"])}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in CARRIED:
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)

    write_folder(target, fill)
    data = sum(BYTES[dtype] * math.prod(shape) for dtype, shape in layout.values())
    weights = sum(entry.size for entry in source.entries.values())
    plain = Counter(layout[name][0] for name in source.entries if name in layout)
    types = {f"int{form.bits} group {form.group}": len(quantised), **dict(plain.most_common())}
    return Written(size[0], (sums[0] / sums[1]) ** 0.5, 8 * data / weights, types)


def _layout(source: Parent, units: Sequence[Sequence[str]], coded: Sequence[str], form: Form) -> tuple[Layout, dict[str, int], set[str]]:
    """The tensors of the file, which unit makes each, and the weights in codes. Plain tensors first, then unit by unit."""
    quantised, inside = set(coded), {name for unit in units for name in unit}
    layout: Layout = {name: (entry.dtype, entry.shape) for name, entry in source.entries.items() if name not in inside}
    owner: dict[str, int] = {}
    for index, unit in enumerate(units):
        for name in unit:
            entry = source.entries[name]
            more: Layout = {name: (entry.dtype, entry.shape)}
            if name in quantised:
                more = shapes(name.removesuffix(".weight"), entry.shape[0], entry.shape[1], form)
            layout |= more
            owner |= dict.fromkeys(more, index)
    return layout, owner, quantised


def _packed(given: dict[str, Tensor], make: Callable[[dict[str, Tensor]], Made], form: Form, sums: list[float]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, made in make(given).items():
        if isinstance(made, Coded):
            sums[0] += float((made.values() - given[name]).square().sum(dtype=torch.float64))
            sums[1] += float(given[name].square().sum(dtype=torch.float64))
            found |= pack(name.removesuffix(".weight"), made, form)
        else:
            found[name] = made
    return found


def plain_folder(packed: Path, target: Path) -> Path:
    """Write to `target` the plain checkpoint that a packed folder stands for, in fp32, from the words of its file: what any runtime without the packed kernels computes with."""
    config = read_json(packed / "config.json")
    form = form_of(config, str(packed / "config.json"))
    handles: list[Any] = [opened(path, whole=True) for path in weight_files(packed)]
    files = {name: file for file in handles for name in file.keys()}  # noqa: SIM118 (not a dict)

    def read(name: str) -> Tensor:
        tensor: Tensor = files[name].get_tensor(name)
        return tensor

    marker = ".weight_packed" if form.layout == "compressed-tensors" else ".qweight"
    layers = {name.removesuffix(marker): _shape(name, read, form) for name in files if name.endswith(marker)}
    coded = {f"{layer}.{part}" for layer, (rows, columns) in layers.items() for part in _parts(rows, columns, form)}
    layout: Layout = {name: ("F32", tuple(read(name).shape)) for name in files if name not in coded}
    layout |= {f"{layer}.weight": ("F32", shape) for layer, shape in layers.items()}

    def values(name: str) -> Iterator[Tensor]:
        layer = name.removesuffix(".weight")
        yield (unpack(layer, read, *layers[layer], form) if layer in layers else read(name).float()).reshape(-1)

    def fill(folder: Path) -> None:
        write_tensors(folder, layout, values)
        told = {key: value for key, value in config.items() if key != "quantization_config"}
        (folder / "config.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for name in CARRIED:
            if (packed / name).is_file():
                shutil.copyfile(packed / name, folder / name)

    return write_folder(target, fill)


def _parts(rows: int, columns: int, form: Form) -> list[str]:
    return [name.removeprefix("x.") for name in shapes("x", rows, columns, form)]


def _shape(name: str, read: Callable[[str], Tensor], form: Form) -> tuple[int, int]:
    """(rows, columns) of the weight that the packed tensor `name` belongs to."""
    stem = name.rpartition(".")[0]
    if form.layout == "compressed-tensors":
        rows, columns = read(f"{stem}.weight_shape").tolist()
        return int(rows), int(columns)
    groups, rows = read(f"{stem}.scales").shape
    return int(rows), int(groups) * form.group
