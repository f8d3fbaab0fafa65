"""A smaller copy of a model with whole layers left out: a student to be distilled from it, of its tokenizer, template and width.

The first and the last layers stay, as the middle ones are most alike (Gromov et al. 2024, arXiv 2403.17887); what is left answers badly until it is trained.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from planish.errors import InputError, Problem
from planish.model.weight_names import shapes
from planish.store.objects import write_folder

_LAYER = re.compile(r"^(model\.layers\.)(\d+)(\..+)$")
MOST = 1 / 3
"""Share of the layers beyond which a model does not come back (MISSION Z9)."""


class Dropped(NamedTuple):
    """The layers that are left, by their old numbers, and the parameters counted from the files."""

    kept: list[int]
    before: int
    parameters: int


def build(source: Path, out: Path, *, drop: int = 3, beyond_a_third: bool = False) -> Dropped:
    """Write the copy to `out`, whole or not at all. `beyond_a_third` allows more layers to go than a model is known to recover from.

    Raises InputError for a folder that is there, a model whose layers are not `model.layers.N`, or too many layers.
    """
    from safetensors import safe_open

    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layers = int(config.get("num_hidden_layers", 0))
    found = shapes(source)
    numbers = {int(match[2]) for name in found if (match := _LAYER.match(name))}
    problems = []
    if out.exists():
        problems.append(Problem(str(out), "exists already", "give a new folder"))
    if not layers or numbers != set(range(layers)):
        problems.append(Problem(f"model: {source}", "has no layers model.layers.N that can be left out", "use a model of the llama kind"))
    elif not 1 <= drop < layers:
        problems.append(Problem("drop", f"{drop} of {layers} layers", f"give 1 to {layers - 1}"))
    elif drop > MOST * layers and not beyond_a_third:
        why = f"{drop} of {layers} layers are more than a third, which no training brought back"
        problems.append(Problem("drop", why, f"leave out at most {int(MOST * layers)}, or set beyond_a_third"))
    if problems:
        raise InputError(*problems)
    kept = kept_layers(layers, drop)
    new = {old: place for place, old in enumerate(kept)}
    names = {name: renamed for name in found if (renamed := _renamed(name, new)) is not None}
    for key, value in list(config.items()):
        if isinstance(value, list) and len(value) == layers:  # what is said of each layer, as `layer_types`
            config[key] = [value[old] for old in kept]
    config["num_hidden_layers"] = len(kept)

    def fill(partial: Path) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Any] = {}
        for path in sorted(source.glob("*.safetensors")):
            with safe_open(str(path), framework="pt") as stream:
                tensors |= {names[name]: stream.get_tensor(name) for name in stream.keys() if name in names}  # noqa: SIM118 (no mapping)
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for path in sorted(source.iterdir()):
            if (
                path.is_file()
                and path.name not in ("config.json", "bundled.json", "model.safetensors.index.json")
                and path.suffix in (".json", ".jinja", ".txt", ".model")
            ):
                shutil.copyfile(path, partial / path.name)

    write_folder(out, fill)
    return Dropped(kept, _count(found), _count(shapes(out)))


def kept_layers(layers: int, drop: int) -> list[int]:
    """Those that stay: the dropped ones are spread over the middle, never the first or the last while others are left."""
    inner = list(range(1, layers - 1)) if drop <= layers - 2 else list(range(1, layers))
    gone = {inner[(2 * place + 1) * len(inner) // (2 * drop)] for place in range(drop)}
    return [layer for layer in range(layers) if layer not in gone]


def _renamed(name: str, new: dict[int, int]) -> str | None:
    match = _LAYER.match(name)
    if match is None:
        return name
    return f"{match[1]}{new[int(match[2])]}{match[3]}" if int(match[2]) in new else None


def _count(found: dict[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in found.values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total
