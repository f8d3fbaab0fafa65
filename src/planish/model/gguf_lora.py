"""A PEFT LoRA folder as a GGUF adapter, that llama.cpp lays over the base's file: a pair of matrices for each weight it changes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
import torch

from planish.errors import InputError, Problem, RunFailed
from planish.model.llama_weights import LlamaWeights
from planish.model.lora_folder import LoraFolder
from planish.store.objects import written_aside


def adapter_beside(model: Path) -> Path:
    """Where the adapter of a base's file lies: `model-Q8_0.gguf` and `model-Q8_0.adapter.gguf`."""
    return model.with_suffix(".adapter.gguf")


def write_adapter(path: Path, checkpoint: Path, adapter: Path) -> int:
    """Write `path` whole or not at all, in F32; gives the weights that it changes. Base and adapter are checked as for a merge.

    llama.cpp multiplies by alpha / rank with one alpha for all. Where modules differ, or ranks are rank-stabilised, each B is scaled instead and alpha is 0, which means 1.
    Raises InputError for an adapter that is no plain LoRA on this checkpoint, RunFailed for values that are not finite.
    """
    weights, lora = checked(checkpoint, adapter)
    pairs = {module: lora.pair(module) for module in (name.removesuffix(".weight") for name in lora.weights)}
    alphas = {module: lora.scaling(module) * len(low) for module, (low, _) in pairs.items()}
    same = len({round(alpha, 9) for alpha in alphas.values()}) == 1 and all(alphas.values())
    with written_aside(path) as aside, closing(gguf.GGUFWriter(aside, weights.family.architecture)) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_name(adapter.resolve().name)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, next(iter(alphas.values())) if same else 0.0)
        for module, (low, high) in pairs.items():
            turned = weights.rows(module.rpartition(".")[2], high if same else high * lora.scaling(module))
            name = weights.file_name(f"{module}.weight")
            for side, values in (("a", low), ("b", turned)):
                data = values.contiguous().numpy()
                if not np.isfinite(data).all():
                    raise RunFailed(Problem(f"{adapter}: {module}", "holds values that are not finite", "train the adapter again"))
                writer.add_tensor(f"{name}.lora_{side}", data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return len(pairs)


def checked(checkpoint: Path, adapter: Path) -> tuple[LlamaWeights, LoraFolder]:
    """Base and adapter, opened. Raises InputError, with all of them, for pairs that do not fit the base's weights or that llama.cpp has no place for."""
    weights, lora = LlamaWeights(checkpoint, adapter), LoraFolder(adapter)
    problems = []
    for name in lora.weights:
        low, high = lora.pair(name.removesuffix(".weight"))
        shape, wanted = (high.shape[0], low.shape[1]), weights.shapes[weights.file_name(name)]
        if lora.config.get("fan_in_fan_out"):
            problems.append(Problem(f"{adapter}: {name}", "is stored the other way round (fan_in_fan_out)", "merge it: lora: merged"))
        elif shape != wanted:
            problems.append(Problem(f"{adapter}: {name}", f"changes {shape}, the base has {wanted}", "give the base it was trained on"))
    if problems:
        raise InputError(*problems)
    return weights, lora


def differences(path: Path, weights: LlamaWeights) -> dict[str, torch.Tensor]:
    """What the GGUF adapter `path` adds to each weight, by the checkpoint's name and in its order of rows."""
    reader = gguf.GGUFReader(path)
    alpha = float(reader.fields[gguf.Keys.Adapter.LORA_ALPHA].contents())
    held = {tensor.name: torch.from_numpy(np.array(tensor.data, dtype=np.float32)) for tensor in reader.tensors}
    found = {}
    for name in (name.removesuffix(".lora_a") for name in held if name.endswith(".lora_a")):
        key, low = weights.source_name(name), held[f"{name}.lora_a"]
        found[key] = weights.restored(key, held[f"{name}.lora_b"]) @ low * (alpha / len(low) if alpha else 1.0)
    return found
