"""llmcompressor's side of awq_closeness.py, run by a Python that has it: AWQ by its `oneshot` on rows of token ids; every tensor is written, weights as their
codes stand for, as fp32.

Arguments: checkpoint folder, JSON file of rows, file to write, `symmetric` or `zero points`. The scales are searched as it does by itself: 20 points, by activations and weights.
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
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

BITS, GROUP = 4, 64


def main(checkpoint: str, rows: str, target: str, kind: str) -> None:
    """Quantise, write, and say seconds of processor time and the version."""
    if not torch.cuda.is_available():
        torch.Tensor.pin_memory = lambda self, *_, **__: self  # it pins what it has cached for the way to a GPU, and fails where there is none
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    given = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in json.loads(Path(rows).read_text(encoding="utf-8"))]
    weights = QuantizationArgs(num_bits=BITS, type="int", symmetric=kind == "symmetric", strategy="group", group_size=GROUP)
    began = time.process_time()
    oneshot(
        model=model,
        dataset=Dataset.from_list(given),
        recipe=[AWQModifier(), QuantizationModifier(config_groups={"all": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"])],
        max_seq_length=max(len(row["input_ids"]) for row in given),
        num_calibration_samples=len(given),
        shuffle_calibration_samples=False,
    )
    seconds = time.process_time() - began
    found = {name: value.detach().float().contiguous() for name, value in model.named_parameters() if not name.endswith(("_scale", "_zero_point"))}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            with torch.no_grad():
                coded = fake_quantize(module.weight, module.weight_scale, getattr(module, "weight_zero_point", None), weights).float().contiguous()
            values = coded.reshape(len(coded), -1, GROUP)
            assert max(len(group.unique()) for group in values[0]) <= 2**BITS, f"{name} is not in codes of {BITS} bits"
            assert not torch.equal(coded, module.weight), f"{name} was not changed"
            found[f"{name}.weight"] = coded
    save_file(found, target)
    print(json.dumps({"seconds": seconds, "llmcompressor": version("llmcompressor")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
