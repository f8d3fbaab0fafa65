"""A PEFT LoRA adapter folder as weight differences: read without building a model, one matrix at a time."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

from planish.errors import InputError, Problem
from planish.model.json_object import read_json
from planish.model.tensor_stream import opened

PAIR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")


class LoraFolder:
    """The low-rank pairs of `adapter_model.safetensors` under their base weights' names.

    Raises InputError, naming everything that cannot be merged: another adapter kind, DoRA, trained biases or modules saved whole.
    """

    def __init__(self, folder: Path) -> None:
        weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        absent = [Problem(str(path), "is missing", "give a PEFT adapter folder") for path in (config, weights) if not path.is_file()]
        if absent:
            raise InputError(*absent)
        self.config = read_json(config)
        self._file = opened(weights)
        self._pairs: dict[str, dict[str, str]] = {}
        problems = self._unsupported(str(config))
        for key in list[str](self._file.keys()):
            match = PAIR.fullmatch(key)
            if match is None:
                problems.append(Problem(f"{weights}: {key}", "is not a LoRA pair", "merge this adapter with PEFT first"))
            else:
                self._pairs.setdefault(match[1], {})[match[2]] = key
        problems += [Problem(f"{weights}: {module}", "has only half of its pair") for module, pair in self._pairs.items() if len(pair) < 2]
        if not problems:
            problems += [
                Problem(f"{weights}: {module}", "has a pair that is not of its rank", "save it again") for module in self._pairs if self._misshapen(module)
            ]
        if problems:
            raise InputError(*problems)

    def _unsupported(self, where: str) -> list[Problem]:
        found = []
        if self.config.get("peft_type") != "LORA":
            found.append(Problem(f"{where}: peft_type", f"is {self.config.get('peft_type')}", "only LORA can be merged here"))
        for key in ("use_dora", "layer_replication", "alora_invocation_tokens"):
            if self.config.get(key):
                found.append(Problem(f"{where}: {key}", "changes the merge", "merge this adapter with PEFT first"))
        if not found:
            for key, pattern, least in (("r", "rank_pattern", 1.0), ("lora_alpha", "alpha_pattern", -math.inf)):
                figures = [self.config.get(key), *dict(self.config.get(pattern) or {}).values()]
                if not all(type(figure) in (int, float) and math.isfinite(figure) and figure >= least for figure in figures):
                    found.append(Problem(f"{where}: {key}", f"{figures} are not all numbers that can be one", "save the adapter again"))
        return found

    def _misshapen(self, module: str) -> bool:
        low, high = (self._file.get_slice(self._pairs[module][side]).get_shape() for side in ("A", "B"))
        return not len(low) == len(high) == 2 or not low[0] == high[1] == self._pattern("rank_pattern", module, self.config["r"])

    @property
    def weights(self) -> list[str]:
        """Names of the base weights that this adapter changes."""
        return [f"{module}.weight" for module in self._pairs]

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) when rank-stabilised; per-module patterns win over the common figures."""
        rank = self._pattern("rank_pattern", module, self.config["r"])
        alpha = self._pattern("alpha_pattern", module, self.config["lora_alpha"])
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))

    def _pattern(self, key: str, module: str, default: float) -> float:
        # PEFT's rule: a pattern matches the whole path or its tail after a dot.
        for pattern, value in (self.config.get(key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        return default

    def pair(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) of one module in fp32."""
        low, high = (self._file.get_tensor(self._pairs[module][side]).float() for side in ("A", "B"))
        return low, high

    def add_to(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """`weight` (out, in) fp32 plus B @ A times the scaling; `weight` itself when the adapter leaves it alone."""
        if name.removesuffix(".weight") not in self._pairs:
            return weight
        low, high = self.pair(name.removesuffix(".weight"))
        delta: torch.Tensor = high @ low
        if self.config.get("fan_in_fan_out"):
            delta = delta.T
        if delta.shape != weight.shape:
            raise InputError(Problem(name, f"the adapter's matrix is {tuple(delta.shape)}, the base's {tuple(weight.shape)}", "use the base it was trained on"))
        return weight + delta * self.scaling(name.removesuffix(".weight"))
