"""A Llama-shaped checkpoint folder as llama.cpp's tensors: names, shapes and values, streamed from memory-mapped safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from planish.errors import InputError, Problem
from planish.model.lora_folder import LoraFolder

ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
"""transformers' families, and llama.cpp's architecture that computes them. SmolLM is a Llama."""
PAIRED = ("llama",)
"""Architectures whose rotary rows llama.cpp wants in pairs; the others turn halves, as transformers does."""
ROTARY = ("default", "linear", "llama3")
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q",
    "self_attn.v_proj": "attn_v",
}
NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
"""What the layers of Qwen3 have besides."""
ROPE_FREQS = "rope_freqs.weight"


class LlamaWeights:
    """The tensors of a checkpoint, with an optional LoRA folder merged as they are read.

    `shapes` maps llama.cpp's tensor names to (rows, columns) or (values,), in the order in which `stream` yields them.
    Raises InputError with every problem found: architecture, activation, rotary scaling, missing or unknown tensors, an adapter for another base.
    """

    def __init__(self, checkpoint: Path, adapter: Path | None = None) -> None:
        self.config = read_config(checkpoint)
        self.architecture = ARCHITECTURES[self.config["architectures"][0]]
        self._inside = INSIDE | (NORMS if self.architecture == "qwen3" else {})
        self.layers: int = self.config["num_hidden_layers"]
        self.heads: int = self.config["num_attention_heads"]
        self.kv_heads: int = self.config.get("num_key_value_heads") or self.heads
        self.head_width: int = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.rope = rotary(self.config)
        self.tied = bool(self.config.get("tie_word_embeddings"))
        self._files: list[Any] = [safe_open(str(path), framework="pt") for path in weight_files(checkpoint)]
        self._source: dict[str, tuple[str, Any]] = {}  # llama.cpp's name -> (the checkpoint's name, its open file)
        self._adapter = LoraFolder(adapter) if adapter is not None else None
        problems = self._map()
        if self._adapter is not None:
            known = {name for name, _ in self._source.values()}
            problems += [Problem(f"{adapter}: {name}", "is not a weight of this checkpoint") for name in self._adapter.weights if name not in known]
        if problems:
            raise InputError(*problems)
        self.shapes: dict[str, tuple[int, ...]] = {}
        if self.rope.get("rope_type") == "llama3":
            self.shapes[ROPE_FREQS] = (self.head_width // 2,)
        for name, (key, file) in self._source.items():
            self.shapes[name] = tuple(file.get_slice(key).get_shape())
        rows = self.shapes["token_embd.weight"][0]
        if rows != self.config["vocab_size"]:
            raise InputError(Problem(str(checkpoint), f"the embedding has {rows} rows, config.json says vocab_size {self.config['vocab_size']}"))

    def _map(self) -> list[Problem]:
        problems, found = [], {key: file for file in self._files for key in file.keys()}  # noqa: SIM118 (not a dict)
        for key in sorted(found, key=natural):
            if self.tied and key == "lm_head.weight":
                continue  # transformers ignores it too: the embedding is the output matrix
            name = gguf_name(key, self._inside)
            if name is None:
                if not key.endswith("rotary_emb.inv_freq"):
                    problems.append(Problem(key, "is no tensor of this family", "export the base architecture, without added modules"))
            else:
                self._source[name] = (key, found[key])
        for name in self._expected():
            if name not in self._source:
                problems.append(Problem(name, "is missing from the checkpoint", "save the whole model"))
        return problems

    def _expected(self) -> list[str]:
        names = ["token_embd.weight", "output_norm.weight"] + ([] if self.tied else ["output.weight"])
        return names + [f"blk.{layer}.{part}.weight" for layer in range(self.layers) for part in self._inside.values()]

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, values) fp32, in the order of `shapes`; the adapter is merged and the rotary rows are in llama.cpp's order."""
        for name in self.shapes:
            if name == ROPE_FREQS:
                yield name, llama3_factors(self.rope, self.head_width)
                continue
            key, file = self._source[name]
            values = file.get_tensor(key).float()
            if self._adapter is not None:
                values = self._adapter.add_to(key, values)
            part = key.rsplit(".", 2)[-2]
            if part in ("q_proj", "k_proj") and self.architecture in PAIRED:
                values = interleave(values, self.heads if part == "q_proj" else self.kv_heads)
            yield name, values.contiguous()

    def source_name(self, name: str) -> str:
        """The checkpoint's name of one of llama.cpp's tensors."""
        return self._source[name][0]

    def restored(self, key: str, values: torch.Tensor) -> torch.Tensor:
        """Values of llama.cpp's tensor in the order of the checkpoint's tensor `key`: the reverse of what `stream` does to the rotary rows."""
        part = key.rsplit(".", 2)[-2]
        if part not in ("q_proj", "k_proj") or self.architecture not in PAIRED:
            return values
        heads = self.heads if part == "q_proj" else self.kv_heads
        return values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def natural(key: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in key.split(".")]


def gguf_name(key: str, inside: dict[str, str]) -> str | None:
    """llama.cpp's name of a transformers tensor, `inside` those of a layer; None when it has none."""
    stem, _, suffix = key.rpartition(".")
    if suffix not in ("weight", "bias"):
        return None
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{suffix}"
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        if part in inside and layer.isdecimal():
            return f"blk.{layer}.{inside[part]}.{suffix}"
    return None


def interleave(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix (or bias) from transformers' rotary order (halves) to llama.cpp's (pairs)."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def read_config(checkpoint: Path) -> dict[str, Any]:
    """config.json, refused with every reason for which the weights cannot be one of llama.cpp's architectures that are known here."""
    path = checkpoint / "config.json"
    if not path.is_file():
        raise InputError(Problem(str(path), "is missing", "give a checkpoint folder in the Hugging Face layout"))
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise InputError(Problem(f"{path}: architectures", f"{architecture} cannot be exported to GGUF", "supported: " + ", ".join(ARCHITECTURES)))
    problems = []
    if config.get("hidden_act", "silu") != "silu":
        problems.append(Problem(f"{path}: hidden_act", f"is {config['hidden_act']}; llama.cpp computes silu"))
    if config.get("quantization_config"):
        problems.append(Problem(f"{path}: quantization_config", "the weights are quantised already", "export the 16-bit checkpoint"))
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        problems.append(Problem(f"{path}: sliding_window", "llama.cpp attends to everything here", "set it to null if the model was trained so"))
    if (kind := rotary(config).get("rope_type")) not in ROTARY:
        problems.append(Problem(f"{path}: rope_parameters", f"rope_type {kind} cannot be exported", "supported: " + ", ".join(ROTARY)))
    if problems:
        raise InputError(*problems)
    return config


def rotary(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` (transformers 5), or the same from `rope_theta` and `rope_scaling` (transformers 4)."""
    found: dict[str, Any] = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    found.setdefault("rope_type", found.get("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    return found


def llama3_factors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """(width / 2,) what llama.cpp divides each rotary frequency by, for Llama 3.1's scaling."""
    factor, low, high = rope.get("factor", 8.0), rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)
    trained = rope.get("original_max_position_embeddings", 8192)
    factors = []
    for frequency in (1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width))).tolist():
        length = 2 * math.pi / frequency
        if length < trained / high:
            factors.append(1.0)
        elif length > trained / low:
            factors.append(factor)
        else:
            smooth = (trained / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors, dtype=torch.float32)


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of the checkpoint: one, or those that its index names."""
    index = checkpoint / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    paths = [checkpoint / name for name in names]
    absent = [Problem(str(path), "is missing", "give a checkpoint with safetensors weights") for path in paths if not path.is_file()]
    if absent:
        raise InputError(*absent)
    return paths
