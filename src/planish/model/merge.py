"""Adapters and bases put together, taken apart, combined and exchanged (MISSION A12): in fp32, on the base they were trained on, and never into 4 bits."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from planish.errors import InputError, Problem
from planish.model import adapter_folder, biases
from planish.model.adapter_folder import BASE, CONFIG, TENSORS, write_base
from planish.model.bundled import identity
from planish.model.load import load
from planish.model.lora_folder import LoraFolder
from planish.model.low_rank import tied_ends
from planish.model.quantised import dequantised, refuse_merge

Into = Literal["original", "dequantised"]
STAYS = {
    "PROMPT_TUNING": "virtual tokens are no weights of the base",
    "P_TUNING": "virtual tokens are no weights of the base",
    "PREFIX_TUNING": "learned keys are no weights of the base",
    "BOTTLENECK": "what stands behind a layer with a bend in it is no matrix",
    "HEAD": "a head of classes has no place among the weights of a language model",
}
"""Kinds that cannot be merged, and why."""


def merged(base: Path, adapter: Path, into: Into = "original") -> nn.Module:
    """The base's weights in fp32 with the adapter in them and no adapter left: W + (alpha / r) B A for LoRA. `dequantised` takes what an NF4 copy of the base stands for.

    Raises InputError for another base, a kind that cannot be merged, and an adapter on a head that is tied to the embeddings.
    """
    adapter_folder.check_base(adapter, base)
    refuse_kind(adapter)
    plain = load(base, "fp32") if into == "original" else dequantised(load(base, "fp32", four_bit=True))
    return merge_into(adapter_folder.put(plain, adapter), str(adapter))


def refuse_kind(adapter: Path) -> None:
    """Raises InputError for an adapter that stays beside its base."""
    kind = adapter_folder.read_config(adapter).get("peft_type")
    if kind in STAYS:
        raise InputError(Problem(str(adapter), f"{kind} cannot be merged: {STAYS[kind]}", "serve it beside the base, or train lora"))


@torch.no_grad()
def merge_into(model: Any, where: str) -> nn.Module:
    """A model's adapter merged into the weights that it hangs on. Raises InputError for a 4-bit base, tied heads, and added biases that the configuration cannot name."""
    refuse_merge(model, where)
    if hasattr(model, "peft_config"):
        _refuse_tied(model, where)
        plain: nn.Module = model.merge_and_unload()
        return plain
    own = getattr(model, "planish_adapter", None)
    if own is not None and own["peft_type"] in STAYS:
        raise InputError(Problem(where, f"{own['peft_type']} cannot be merged: {STAYS[own['peft_type']]}", "serve it beside the base, or train lora"))
    if own is not None and own.get("add_biases"):
        if not biases.can_be_merged(model, added=True):
            why = f"a {model.config.model_type} configuration cannot say that its matrices have biases"
            raise InputError(Problem(where, why, "serve it beside the base, or train lora"))
        biases.declare(model)
    if own is not None:
        del model.planish_adapter
    return model  # type: ignore[no-any-return]


def _refuse_tied(model: Any, where: str) -> None:
    if touched := tied_ends(model):
        why = f"the adapter sits on the {touched[0]}, whose weights the model uses twice: merging would change both"
        raise InputError(Problem(where, why, "serve it beside the base, or leave lm_head out of the targets"))


@torch.no_grad()
def attach_merged(model: Any) -> None:
    """Merge in place and keep the adapter, for speed while it alone is served; `unmerge` takes it out again. Raises InputError for a 4-bit base and for tied heads."""
    refuse_merge(model, "merge")
    _refuse_tied(model, "merge")
    model.merge_adapter()


@torch.no_grad()
def unmerge(model: Any) -> None:
    """Take a merged adapter out of the weights again: equal up to rounding."""
    model.unmerge_adapter()


@dataclass(frozen=True)
class Entry:
    """One adapter on disk. base: its base's hash. trained_on: "nf4" where the base was in 4 bits."""

    folder: Path
    kind: str
    base: str
    trained_on: str
    parameters: int
    bytes: int


def listed(root: Path) -> list[Entry]:
    """Every adapter folder below `root`, by path."""
    found = []
    for path in sorted(root.rglob(CONFIG)):
        folder = path.parent
        config = adapter_folder.read_config(folder)
        told = json.loads((folder / BASE).read_text(encoding="utf-8")) if (folder / BASE).is_file() else {}
        tensors = load_file(folder / TENSORS)
        values = sum(tensor.numel() for tensor in tensors.values())
        stored = (folder / TENSORS).stat().st_size
        found.append(Entry(folder, str(config.get("peft_type")), str(config.get("base_model_name_or_path")), told.get("trained_on", "unknown"), values, stored))
    return found


def swap(model: nn.Module, folder: Path, base: Path) -> None:
    """Put another adapter of the same kind, rank and targets in the place of the model's. Raises InputError, the model unchanged, where it is of another base or shape."""
    adapter_folder.check_base(folder, base)
    adapter_folder.load(model, folder)


def swap_seconds(base: Path, one: Path, other: Path) -> float:
    """How long it takes to put `other` in the place of `one` on a loaded base. Raises InputError where it cannot: another base, another kind, other shapes."""
    adapter_folder.check_base(one, base)
    model = adapter_folder.put(load(base, "fp32"), one)
    began = time.perf_counter()
    swap(model, other, base)
    return time.perf_counter() - began


def adopt(folder: Path, base: Path, out: Path) -> Path:
    """A copy of an adapter that was made elsewhere and names its base by no hash, bound to this base. Raises InputError where its tensors do not fit the base."""
    config = adapter_folder.read_config(folder)
    adapter_folder.put(load(base, "fp32"), folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": f"sha256:{identity(base)}"}, indent=2) + "\n", encoding="utf-8")
    (out / TENSORS).write_bytes((folder / TENSORS).read_bytes())
    write_base(out, base, "unknown")
    return out


def combine(folders: list[Path], weights: list[float], out: Path) -> Path:
    """One LoRA whose difference is the weighted sum of several: sum_i w_i s_i B_i A_i, exactly, as their matrices side by side; its rank is the sum of theirs.

    Raises InputError for adapters that are no plain LoRA, of different bases, or on different layers.
    """
    if len(folders) != len(weights) or not folders:
        raise InputError(Problem("combine", f"{len(folders)} adapters and {len(weights)} weights", "give one weight to each adapter"))
    parts = [LoraFolder(folder) for folder in folders]
    named = [part.config.get("base_model_name_or_path") for part in parts]
    problems = []
    for folder, base in zip(folders, named, strict=True):
        if base != named[0]:
            problems.append(Problem(str(folder), f"is of the base {base}, the first of {named[0]}", "combine adapters of one base"))
    for folder, part in zip(folders, parts, strict=True):
        apart = sorted(set(part.weights) ^ set(parts[0].weights))
        if apart:
            problems.append(
                Problem(str(folder), f"sits on other layers than the first: {apart[0]} and {len(apart) - 1} more", "combine adapters with the same targets")
            )
    if problems:
        raise InputError(*problems)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for weight in parts[0].weights:
        module = weight.removesuffix(".weight")
        pairs = [part.pair(module) for part in parts]
        tensors[f"{adapter_folder.PREFIX}{module}.lora_A.weight"] = torch.cat([low for low, _ in pairs], 0).contiguous()
        scaled = [high * (share * part.scaling(module)) for (_, high), share, part in zip(pairs, weights, parts, strict=True)]
        tensors[f"{adapter_folder.PREFIX}{module}.lora_B.weight"] = torch.cat(scaled, 1).contiguous()
        ranks[module] = sum(len(low) for low, _ in pairs)
    out.mkdir(parents=True, exist_ok=True)
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    odd = {module: rank for module, rank in ranks.items() if rank != usual}
    config = parts[0].config | {"r": usual, "lora_alpha": usual, "rank_pattern": odd, "alpha_pattern": odd, "use_rslora": False}  # scale 1: it is in B
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, out / TENSORS, metadata={"format": "pt"})
    if (folders[0] / BASE).is_file():
        (out / BASE).write_bytes((folders[0] / BASE).read_bytes())
    return out
