"""A checkpoint folder as llama.cpp's tensors: names, shapes and values, streamed from memory-mapped safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from planish.errors import InputError, Problem
from planish.model.gguf_config import context, query_factor, read_config, rope_tensors, rotary
from planish.model.gguf_families import FAMILIES, OUTSIDE
from planish.model.llama_shapes import wrong_shapes
from planish.model.lora_folder import LoraFolder
from planish.model.tensor_stream import FLOATING, TensorFolder, refuse_second_head

SHOWN = 8
"""Wrong shapes that are named."""


class LlamaWeights:
    """The tensors of a checkpoint, with an optional LoRA folder merged as they are read.

    `shapes` maps llama.cpp's tensor names to (rows, columns) or (values,), in the order in which `stream` yields them; `made` are those that no tensor of the checkpoint
    is the source of. `context` is the length for which llama.cpp computes what transformers does.
    Raises InputError with every problem found: architecture, activation, rotary scaling, missing or unknown tensors, an adapter for another base.
    """

    def __init__(self, checkpoint: Path, adapter: Path | None = None) -> None:
        self.config = read_config(checkpoint)
        self.family = FAMILIES[self.config["architectures"][0]]
        self.layers: int = self.config["num_hidden_layers"]
        self.heads: int = self.config["num_attention_heads"]
        self.kv_heads: int = self.config.get("num_key_value_heads") or self.heads
        self.head_width: int = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.rope = rotary(self.config)
        self.rotary_width = int(self.head_width * (self.rope.get("partial_rotary_factor") or self.config.get("partial_rotary_factor") or 1.0))
        self.context = context(self.config, self.family)
        self.query_factor = query_factor(self.config, self.family, self.head_width)
        self.made = rope_tensors(self.config, self.rotary_width)
        self.tied = bool(self.config.get("tie_word_embeddings"))
        self._tensors = TensorFolder(checkpoint)
        if self.tied:
            refuse_second_head(self._tensors)
        self._source: dict[str, str] = {}  # llama.cpp's name -> the checkpoint's
        self._adapter = LoraFolder(adapter) if adapter is not None else None
        problems = self._map()
        if self._adapter is not None:
            known = {*self._source.values()}
            problems += [Problem(f"{adapter}: {name}", "is not a weight of this checkpoint") for name in self._adapter.weights if name not in known]
        if problems:
            raise InputError(*problems)
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(values.shape) for name, values in self.made.items()}
        for name, key in self._source.items():
            self.shapes[name] = self._tensors.entries[key].shape
        wrong = wrong_shapes(self.shapes, self.config, heads=self.heads, kv_heads=self.kv_heads, head_width=self.head_width)
        if wrong:
            raise InputError(*wrong[:SHOWN])

    def _map(self) -> list[Problem]:
        problems = []
        for key, entry in sorted(self._tensors.entries.items(), key=lambda one: natural(one[0])):
            if self.tied and key == "lm_head.weight":
                continue  # the embedding once more
            name = gguf_name(key, self.family.inside)
            if name is None or (key.endswith(".bias") and not self.family.biases):
                if not key.endswith("rotary_emb.inv_freq"):
                    problems.append(Problem(key, "is no tensor of this family", "export the base architecture, without added modules"))
            elif entry.dtype not in FLOATING:
                problems.append(Problem(key, f"is {entry.dtype}, no floating weights", "save the model in fp32 or 16 bits"))
            else:
                self._source[name] = key
        for name in self._expected():
            if name not in self._source:
                problems.append(Problem(name, "is missing from the checkpoint", "save the whole model"))
        return problems

    def _expected(self) -> list[str]:
        names = ["token_embd.weight", "output_norm.weight"] + ([] if self.tied else ["output.weight"])
        return names + [f"blk.{layer}.{part}.weight" for layer in range(self.layers) for part in self.family.inside.values()]

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, values) fp32, in the order of `shapes`; the adapter is merged, and the values are as llama.cpp's graph of this family wants them."""
        for name in self.shapes:
            if name in self.made:
                yield name, self.made[name]
                continue
            key = self._source[name]
            values = self._tensors.read(key).reshape(self.shapes[name])
            if self._adapter is not None:
                values = self._adapter.add_to(key, values)
            part = key.rsplit(".", 2)[-2]
            if self.family.shifted and part.endswith("norm"):
                values = values + 1
            yield name, self.rows(part, values).contiguous()

    def rows(self, part: str, values: torch.Tensor) -> torch.Tensor:
        """Rows of the module `part` (q_proj) in llama.cpp's rotary order and query scale: of its weight, or of the B of a LoRA on it."""
        if part == self.family.scaled:
            values = values * self.query_factor
        return interleave(values, self._heads(part)) if self._turned(part) else values

    def source_name(self, name: str) -> str:
        """The checkpoint's name of one of llama.cpp's tensors."""
        return self._source[name]

    def file_name(self, key: str) -> str:
        """llama.cpp's name of one of the checkpoint's tensors."""
        return next(name for name, source in self._source.items() if source == key)

    def restored(self, key: str, values: torch.Tensor) -> torch.Tensor:
        """Values of llama.cpp's tensor as those of the checkpoint's tensor `key`: the reverse of what `stream` does."""
        part = key.rsplit(".", 2)[-2]
        if self._turned(part):
            heads = self._heads(part)
            values = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if part == self.family.scaled:
            values = values / self.query_factor
        return values - 1 if self.family.shifted and part.endswith("norm") else values

    def _turned(self, part: str) -> bool:
        return self.family.paired and part in ("q_proj", "k_proj")

    def _heads(self, part: str) -> int:
        return self.heads if part == "q_proj" else self.kv_heads


def natural(key: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in key.split(".")]


def gguf_name(key: str, inside: Mapping[str, str]) -> str | None:
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
