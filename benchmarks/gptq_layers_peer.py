"""llmcompressor's side of gptq_layers.py, run by a Python that has it: GPTQ by its `oneshot` on rows of token ids; the weights that its codes stand for are written as fp32.

Arguments: checkpoint folder, JSON file of rows, file to write, act order (`static`, its own choice, or `none`), inputs that a layer is calibrated on (`quantised`, its own choice:
what the quantised layers before it give, or `original`).
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

BITS, GROUP = 4, 64


def main(checkpoint: str, rows: str, target: str, order: str, inputs: str) -> None:
    """Quantise, write, and say seconds of processor time and the version."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = {name: module.weight.detach().clone() for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    given = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.loads(Path(rows).read_text(encoding="utf-8"))]
    weights = QuantizationArgs(num_bits=BITS, type="int", symmetric=True, strategy="group", group_size=GROUP, actorder=None if order == "none" else order)
    recipe = GPTQModifier(
        config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)},
        ignore=["lm_head"],
        dampening_frac=0.01,
        actorder=None if order == "none" else order,
    )
    began = time.process_time()
    oneshot(
        model=model,
        dataset=Dataset.from_list(given),
        recipe=recipe,
        max_seq_length=max(len(row["input_ids"]) for row in given),
        num_calibration_samples=len(given),
        shuffle_calibration_samples=False,
        propagate_error=inputs == "quantised",
    )
    seconds = time.process_time() - began
    found = {
        name: module.weight.detach().float().contiguous() for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert len(found) == len(before) - 1
    for name, weight in found.items():
        assert not torch.equal(weight, before[name]), f"{name} was not changed"  # it reports success where nothing was done
        values = weight.reshape(len(weight), -1, GROUP)
        assert max(len(group.unique()) for group in values[0]) <= 2**BITS, f"{name} is not in codes of {BITS} bits"
    save_file(found, target)
    print(json.dumps({"seconds": seconds, "llmcompressor": version("llmcompressor")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
